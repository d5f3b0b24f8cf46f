"""What ``bench micro`` and the pumps are made of, in one process."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from ntbnet.app import bench_budgets, bench_head, bench_micro_report, bench_report, ring_rate
from ntbnet.app.bench_parts import Stores, p50s, ring_complaint
from ntbnet.app.bench_samples import Samples
from ntbnet.app.interrupt_pingpong import ACKNOWLEDGE, INTERRUPT, LABELS, Pinger, Trips
from ntbnet.app.pump import BATCH, LOOK_AGAIN, MEMORY_BYTES, SINGLES, SLOTS, Burst, SharedRing
from ntbnet.devices.effects import Send, Wake
from ntbnet.devices.memory import Window
from ntbnet.edge.wake import is_allowed
from ntbnet.wire import Irq, IrqSource

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def tun() -> Iterator[Pair]:
    """What stands for a TUN: whole packets, never blocking; and its other end."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    for end in ends:
        end.setblocking(False)
    yield ends
    for end in ends:
        end.close()


def packets(near: socket.socket) -> list[bytes]:
    found = []
    while True:
        try:
            found.append(near.recv(1 << 16))
        except BlockingIOError:
            return found


def test_pump_carries_packets_of_any_length_in_order(tun: Pair) -> None:
    far, near = tun
    memory = memoryview(bytearray(MEMORY_BYTES // 2))
    sender, receiver = SharedRing(memory), SharedRing(memory)
    for length in (1, 64, 1500, 65510, 1):
        far.send(bytes([length & 0xFF]) * length)
        assert sender.fill(near.fileno())
        receiver.empty(near.fileno())
        assert packets(far) == [bytes([length & 0xFF]) * length]
    assert not sender.fill(near.fileno())


def test_a_full_pump_takes_nothing_until_it_is_emptied(tun: Pair) -> None:
    far, near = tun
    memory = memoryview(bytearray(MEMORY_BYTES // 2))
    sender, receiver = SharedRing(memory), SharedRing(memory)
    for number in range(SLOTS):
        far.send(b"%d" % number)
        sender.fill(near.fileno())
    far.send(b"waits")

    assert sender.is_full
    assert not sender.fill(near.fileno())

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as nobody:
        receiver.empty(nobody.fileno())  # each is refused, and so lost
    assert sender.fill(near.fileno())
    receiver.empty(near.fileno())
    assert packets(far) == [b"waits"]
    assert BATCH <= SLOTS


def test_a_pump_looks_for_no_second_packet_after_bursts_of_one_but_now_and_then() -> None:
    burst, asked = Burst(), []
    for _ in range(2 * LOOK_AGAIN + 1):
        asked.append(burst.most())
        burst.took(1)

    assert asked[: SINGLES + 1] == [BATCH] * SINGLES + [1]
    assert [number for number, most in enumerate(asked) if most == BATCH] == [
        *range(SINGLES),
        LOOK_AGAIN,
        2 * LOOK_AGAIN,
    ]
    burst.took(2)
    assert burst.most() == BATCH


def test_a_pump_that_takes_single_packets_loses_none_and_keeps_their_order(tun: Pair) -> None:
    far, near = tun
    memory = memoryview(bytearray(MEMORY_BYTES // 2))
    sender, receiver = SharedRing(memory), SharedRing(memory)
    for number in range(SINGLES + 1):
        far.send(b"%d" % number)
        assert sender.fill(near.fileno())
    for number in range(3):
        far.send(b"burst %d" % number)

    while sender.fill(near.fileno()):
        pass
    receiver.empty(near.fileno())

    assert packets(far) == [b"%d" % number for number in range(SINGLES + 1)] + [
        b"burst %d" % number for number in range(3)
    ]


def test_stores_and_copies_have_a_bandwidth_in_pairs() -> None:
    stores, copies = Stores().measure(1 << 20, 3)

    assert len(stores) == len(copies) == 3
    assert min(stores + copies) > 0.01


def test_ring_stores_as_the_cpu_of_a_host_and_nowhere_else() -> None:
    memory = bytearray(ring_rate.WINDOW_BYTES)
    port = ring_rate.Port(Window(memoryview(memory), 0, "peer"))

    port.peer_mw_write(0, 64, b"frame")

    assert memory[64:69] == b"frame"
    assert sum(memory) == sum(b"frame")


@pytest.mark.parametrize("frames", [1, 1000])
def test_every_frame_crosses_the_ring(frames: int) -> None:
    memory = memoryview(bytearray(ring_rate.MEMORY_BYTES))
    data, space = (os.eventfd(0) for _ in range(2))
    taken: list[dict[str, int]] = []
    ready = threading.Event()
    receiver = threading.Thread(
        target=lambda: taken.append(ring_rate.receive(memory, frames, data, space, ready.set)), daemon=True
    )
    receiver.start()
    assert ready.wait(20)
    sent = ring_rate.send(memory, frames, data, space)
    receiver.join(20)
    assert not receiver.is_alive()
    os.close(data)
    os.close(space)

    (received,) = taken
    assert sent["frames"] == received["frames"] == frames
    assert sent["bytes"] == received["bytes"] == frames * ring_rate.PAYLOAD_BYTES
    assert sent["time_ns"] < received["time_ns"]


def test_ring_run_counts_only_when_everything_arrived() -> None:
    whole = {"sent": 10, "received": 10, "bytes_sent": 640, "bytes_received": 640}

    assert ring_complaint(whole, 10) is None
    assert "11 frames to send" in (ring_complaint(whole, 11) or "")
    assert "9 received" in (ring_complaint({**whole, "received": 9}, 10) or "")
    assert "639 received" in (ring_complaint({**whole, "bytes_received": 639}, 10) or "")


def test_the_ends_are_services_that_may_wake_each_other() -> None:
    assert is_allowed(LABELS["ask"], LABELS["answer"], INTERRUPT)
    assert is_allowed(LABELS["answer"], LABELS["ask"], ACKNOWLEDGE)


@pytest.mark.parametrize("ring", [Send, Wake])
def test_who_asks_asks_again_until_all_is_answered(ring: type[Send | Wake]) -> None:
    ended: list[bool] = []
    trips = Trips(2, lambda: ended.append(True))
    interrupt = Irq(IrqSource.EDMA_LINE, 1)
    asking, answering = Pinger(trips, ring("peer-ep", interrupt)), Pinger(None, ring("epc", interrupt))

    assert asking.on_path("peer-ep", True, 1, "", 0) == (ring("peer-ep", interrupt),)
    assert answering.on_path("epc", True, 1, "", 0) == ()
    assert answering.handle("epc", interrupt, 0) == (ring("epc", interrupt),)
    assert asking.handle("peer-ep", interrupt, 0) == (ring("peer-ep", interrupt),)
    assert not ended
    assert asking.handle("peer-ep", interrupt, 0) == ()
    assert ended
    assert len(trips.times_ns) == 2
    assert min(trips.times_ns) > 0


def result(*, is_valid: bool = True) -> dict[str, Any]:
    one = Samples.of([1.0, 2.0]).as_json()
    about = {"cores": 2, "cpu": "test", "kernel": "6.1", "python": "3.11", "loadavg": [0.1, 0.2, 0.3]}
    keys = ("store_gbyte_s", "memcpy_gbyte_s", "ratio")
    found = {
        "machine": {**about, "tcp_congestion": "bbr"},
        "ping_pong": {"veth": {"rounds": {"p50_us": one, "avg_us": one, "ratio_to_veth": one}}},
        "stores": [{"bytes": 65536, "ratio": 0.8, "rounds": dict.fromkeys(keys, one)}],
        "interrupts": [
            {"fabric": fabric, "ratio": 3.1, "rounds": {"p50_us": one, "eventfd_p50_us": one}}
            for fabric in ("local", "message")
        ],
        "ring": {
            "payload_bytes": 64,
            "batch": 64,
            "frames_per_s": Samples.of([200_000.0]).as_json(),
            "valid": is_valid,
        },
    }
    found["budgets"] = bench_budgets.as_json(bench_budgets.micro_rows(found))
    return found


def test_parts_are_judged_by_their_budgets_and_shown() -> None:
    shown_on, found = StringIO(), result()

    bench_micro_report.show(found, Console(file=shown_on, width=200))

    assert [row["within"] for row in found["budgets"]] == [True, False, False, True]
    shown = shown_on.getvalue()
    for text in ("64 KiB, memcpy", "interrupt message, p50", "frames of 64 B, batches of 64", "MISSED"):
        assert text in shown


@pytest.mark.parametrize(
    ("variables", "build"),
    [
        ({"CONFIG_ARGS": "'--enable-shared' '--enable-optimizations'", "prefix": "/usr/local"}, "optimised"),
        ({"PY_CORE_CFLAGS": "-O2 -fprofile-use", "prefix": "/usr"}, "optimised"),
        ({"CONFIG_ARGS": "'--prefix=/usr'", "prefix": "/usr"}, "distribution"),
        (
            {"CONFIG_ARGS": "'--enable-shared'", "PGO_PROF_USE_FLAG": "-fprofile-use", "prefix": "/opt"},
            "plain",
        ),
        ({}, "plain"),
    ],
)
def test_build_of_the_interpreter_is_known_and_a_slow_one_told(variables: dict[str, str], build: str) -> None:
    shown_on = StringIO()
    found = bench_head.python_build(variables)
    about = {**result()["machine"], "python_build": found}
    bench_report.show_machine(about, Console(file=shown_on, width=200))

    assert found == build
    assert ("--enable-optimizations" in shown_on.getvalue()) == (build == "plain")


def test_a_ring_run_that_does_not_count_is_not_judged() -> None:
    shown_on, found = StringIO(), result(is_valid=False)

    bench_micro_report.show(found, Console(file=shown_on, width=200))

    assert [row["within"] for row in found["budgets"]] == [True, False, False, None]
    assert "not judged: INVALID" in shown_on.getvalue()


def test_median_of_each_round() -> None:
    assert p50s([[3.0, 1.0, 2.0], [9.0]]) == [2.0, 9.0]
