"""What the bench reads from programs and makes of it."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import time
from pathlib import Path
from typing import Any

import pytest

from ntbnet.app import bench_cost, bench_lab
from ntbnet.app.bench_budgets import Row, recovery_rows, startup_rows
from ntbnet.app.bench_lab import Direction
from ntbnet.app.bench_recovery import recovery_ns
from ntbnet.app.bench_samples import Samples
from ntbnet.app.bench_sockperf import sockperf_result
from ntbnet.app.bench_traffic import Load, Ring, iperf3_result, poll_period_ms, ring_counters, tcp_bounds
from ntbnet.config import load_text
from ntbnet.errors import SetupError

MS = 1_000_000
OUTAGE_NS = 48 * MS

SOCKPERF = """\
sockperf: [Total Run] RunTime=1.000 sec; Warm up time=400 msec; SentMessages=85; ReceivedMessages=84
sockperf: [Valid Duration] RunTime=0.550 sec; SentMessages=46; ReceivedMessages=46
sockperf: \x1b[2;35m====> avg-latency=6000.861 (std-dev=135.098)\x1b[0m
sockperf: # dropped messages = 1; # duplicated messages = 2; # out-of-order messages = 3
sockperf: \x1b[2;35mTotal 3 observations\x1b[0m; each percentile contains 0.03 observations
sockperf: ---> <MAX> observation = 6663.702
sockperf: ---> percentile 99.000 = 6340.393
sockperf: ---> percentile 50.000 = 5998.802
sockperf: ---> <MIN> observation = 5546.603
"""
FULL_LOG = """\
packet, txTime(sec), rxTime(sec), latency(usec)
0, 2.419484793, 2.431662090, 6088.648
1, 2.431662680, 2.443414222, 5875.771
"""


def test_samples_keep_the_raw_values_and_summarise_them() -> None:
    assert Samples.of([3.00049, 1.0, 2.0]).as_json() == {
        "n": 3,
        "min": 1.0,
        "median": 2.0,
        "max": 3.0,
        "samples": [3.0, 1.0, 2.0],
    }


def test_no_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="no sample"):
        Samples.of([])


def test_sockperf_is_read_with_percentiles_and_raw_latencies() -> None:
    result = sockperf_result(SOCKPERF, FULL_LOG)
    assert result["average_us"] == 6000.861
    assert list(result["percentiles_us"].items()) == [("50.000", 5998.802), ("99.000", 6340.393)]
    assert (result["min_us"], result["max_us"]) == (5546.603, 6663.702)
    assert result["dropped_duplicated_reordered"] == [1, 2, 3]
    assert result["sent"] == 85
    assert result["samples_us"] == [6088.648, 5875.771]


@pytest.mark.parametrize(("output", "log"), [("", FULL_LOG), (SOCKPERF, ""), ("sockperf: ERROR", "")])
def test_sockperf_that_measured_nothing_is_an_error(output: str, log: str) -> None:
    with pytest.raises(SetupError, match="sockperf measured nothing"):
        sockperf_result(output, log)


def test_iperf3_counts_what_the_receiver_got() -> None:
    end = {
        "sum_sent": {"bits_per_second": 9e9, "retransmits": 4, "bytes": 43_760_000},
        "sum_received": {"bits_per_second": 3.5e8, "bytes": 43_750_000, "seconds": 1.0},
        "sender_tcp_congestion": "cubic",
    }
    body = {"end": end, "intervals": [{"sum": {"bits_per_second": 4e8}}]}
    assert iperf3_result(json.dumps(body)) == {
        "gbit_s": 0.35,
        "bytes": 43_750_000,
        "bytes_sent": 43_760_000,
        "seconds": 1.0,
        "retransmits": 4,
        "congestion": "cubic",
        "intervals_gbit_s": [0.4],
    }


def test_iperf3_over_udp_counts_datagrams_that_arrived() -> None:
    end = {
        "sum_sent": {"bits_per_second": 9e9, "bytes": 1_400_000, "packets": 1000, "lost_packets": 0},
        "sum_received": {
            "bits_per_second": 1e9,
            "bytes": 1_120_000,
            "seconds": 1.0,
            "packets": 990,
            "lost_packets": 190,
        },
    }
    result = iperf3_result(json.dumps({"end": end, "intervals": []}))
    assert (result["packets_sent"], result["packets"], result["retransmits"]) == (1000, 800, None)


@pytest.mark.parametrize(
    "output", ["", "[]", '{"error": "unable to connect"}', '{"end": {}, "intervals": []}']
)
def test_iperf3_without_a_transfer_is_an_error(output: str) -> None:
    with pytest.raises(SetupError, match="iperf3"):
        iperf3_result(output)


TCP, UDP = Load("tcp", 1, 1500), Load("udp", 4, 1500)


def transfer(**changed: int) -> dict[str, int | None]:
    return {"bytes": 5_000_000, "bytes_sent": 5_000_000, "retransmits": 2, **changed}


@pytest.mark.parametrize("crossed", [5_000_000, 5_000_000 + 3500 * 128 + 2 * 1500 + (256 << 10)])
def test_ring_bears_out_a_transfer_when_both_ends_agree_and_it_held_its_bytes(crossed: int) -> None:
    assert Ring(3500, 3500, crossed, 3500, 3500).complaint(TCP, transfer()) is None


@pytest.mark.parametrize(
    ("ring", "reason"),
    [
        (Ring(3500, 3499, 5_100_000, 3500, 3499), "3500 frames sent, 3499 received"),
        (Ring(0, 0, 0, 0, 0), "0 frames sent, 0 received"),
        (Ring(3500, 3500, 5_100_000, 3501, 3500), "3501 packets left their node, 3500 entered the other one"),
        (Ring(3500, 3500, 5_100_000, 3499, 3500), "for 3500 frames"),
        (Ring(3500, 3500, 5_100_000, 3500, 3499), "3500 packets left their node, 3499 entered the other one"),
        (Ring(3500, 3500, 4_999_999, 3500, 3500), "fewer than the 5000000 delivered"),
        (
            Ring(3500, 3500, 5_000_000 + 3500 * 128 + 2 * 1500 + (256 << 10) + 1, 3500, 3500),
            "more than 5000000 sent",
        ),
    ],
)
def test_ring_that_does_not_fit_a_transfer_says_why(ring: Ring, reason: str) -> None:
    assert reason in (ring.complaint(TCP, transfer()) or "")


@pytest.mark.parametrize(("frames", "fits"), [(799, False), (800, True), (1256, True), (1257, False)])
def test_datagrams_are_counted_one_by_one(frames: int, fits: bool) -> None:
    result = transfer(bytes=1_177_600, bytes_sent=1_472_000, packets=800, packets_sent=1000)

    ring = Ring(frames, frames, 1_500_000, frames, frames)
    assert (ring.complaint(UDP, result) is None) is fits


def test_datagrams_fill_a_packet_of_the_mtu() -> None:
    assert UDP.options == ["-P", "4", "-u", "-b", "0", "-l", "1472"]
    assert TCP.options == ["-P", "1"]


def test_ring_counters_are_those_of_all_queues() -> None:
    way = Direction("ep->rc", "a", "b", "192.0.2.1")
    ends = {"tx_pkts": 1, "rx_pkts": 2, "rx_bytes": 3}
    queue = {"rc": {"tx_pkts": 0, "rx_pkts": 20, "rx_bytes": 30}, "ep": ends}
    assert ring_counters({"link": {"queues": [queue, queue]}}, way, 5, 6) == Ring(2, 40, 60, 5, 6)
    broken: tuple[list[Any], list[Any]] = ([], [{"rc": {}, "ep": {}}])
    for queues in broken:
        with pytest.raises(SetupError):
            ring_counters({"link": {"queues": queues}}, way, 0, 0)


def test_bounds_without_a_watched_ring_are_those_of_the_kernel() -> None:
    config = load_text('[netdev]\npoll = "never"', "test")
    assert poll_period_ms(config) == 12.0
    assert tcp_bounds(config, 14) == {"rc->ep": 0.3931, "rc->ep_whole_ring": 0.5678, "ep->rc": 0.5896}


@pytest.mark.parametrize("poll", ["adaptive", "always"])
def test_a_watched_ring_is_not_bound_by_the_transmit_timer(poll: str) -> None:
    config = load_text(f'[netdev]\npoll = "{poll}"', "test")
    assert tcp_bounds(config, 14) == {"rc->ep": 0.3931, "rc->ep_whole_ring": 0.5678}


def test_recovery_is_the_end_of_the_last_outage() -> None:
    times = [(1, 10), (11, 100), (101, 109), (120, 400), (401, 405)]
    replies = [(sent * MS, received * MS) for sent, received in times]
    assert recovery_ns(replies, 0, OUTAGE_NS) == 400 * MS


def test_recovery_without_an_outage_is_the_first_reply() -> None:
    replies = [(sent * MS, (sent + 9) * MS) for sent in range(1, 100, 5)]
    assert recovery_ns(replies, 0, OUTAGE_NS) == 10 * MS


def test_a_probe_on_its_way_at_the_kill_is_no_recovery() -> None:
    replies = [(99 * MS, 103 * MS), (300 * MS, 312 * MS)]
    assert recovery_ns(replies, 100 * MS, OUTAGE_NS) == 212 * MS
    assert recovery_ns(replies[:1], 100 * MS, OUTAGE_NS) is None


def test_rows_judge_by_their_kind_of_budget() -> None:
    assert Row.at_most("x", 2.0, "s", 2.0).within
    assert not Row.at_most("x", 2.1, "s", 2.0).within
    assert Row.at_least("x", 0.12, "", 0.12).within
    assert not Row.at_least("x", 0.06, "", 0.12).within
    assert Row.at_least("x", 0.06, "", 0.12).ratio == 0.5
    assert [Row.near("x", value, "us", 100.0, 0.05).within for value in (94, 96, 104, 106)] == [
        False,
        True,
        True,
        False,
    ]


def test_start_and_recovery_have_a_budget_and_a_wish_each() -> None:
    started = startup_rows(
        {
            "imports_ms": {"x": {"median": 100.0}},
            "private_bytes": {"epc": 1 << 20},
            "idle_percent": {"total": {"median": 1.0}},
            "startup_s": {"median": 1.1},
        }
    )
    recovered = recovery_rows({"all_ms": {"median": 51.0, "max": 200.0}})

    judged = [(row.budget, row.is_wish, row.within) for row in (*started[:2], *recovered[:2])]
    assert judged == [
        *(("<= 2", False, True), ("<= 1", True, False)),
        *(("<= 250", False, True), ("<= 50", True, False)),
    ]


def test_private_bytes_leave_the_named_mapping_out(tmp_path: Path) -> None:
    size = 4 << 20
    path = tmp_path / "dram"
    path.write_bytes(bytes(size))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY) as mapping:
        mapping[:] = b"x" * size
        everything = bench_cost.private_bytes(os.getpid(), "/no such file")
        without = bench_cost.private_bytes(os.getpid(), str(path))
    assert without > 0
    assert everything - without > size // 2


def test_memory_leaves_the_dram_of_both_nodes_out(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []

    def note(pid: int, *shared_files: str) -> int:
        asked.append(shared_files)
        return pid

    monkeypatch.setattr(bench_cost, "private_bytes", note)

    assert bench_cost.memory("b", {"peer-rc": 7, "epc": 8}) == {"peer-rc": 7, "epc": 8}
    assert asked == [("/dev/shm/ntbnet.b.ep.dram", "/dev/shm/ntbnet.b.rc.dram")] * 2


def test_run_time_of_every_thread_is_seen_and_grows() -> None:
    before = bench_cost.run_times_ns(os.getpid())
    end_s = time.thread_time() + 0.005
    while time.thread_time() < end_s:
        pass
    after = bench_cost.run_times_ns(os.getpid())
    assert after[os.getpid()] - before[os.getpid()] >= 4 * MS


def test_idle_cost_is_run_time_over_wall_time() -> None:
    def burn(seconds: float) -> None:
        end_s = time.thread_time() + 0.01
        while time.thread_time() < end_s:
            pass

    cost = bench_cost.idle_cost({"busy": os.getpid()}, 2, 0.01, burn)
    assert len(cost["total"].values) == 2
    assert cost["busy"].values == cost["total"].values
    assert 5 < cost["busy"].median <= 120


def test_a_service_that_ended_is_named() -> None:
    services = [{"name": "epc", "pid": None}, {"name": "edma", "pid": 7}]
    with pytest.raises(SetupError, match="epc ended"):
        bench_cost.service_pids({"services": services})


def test_missing_programs_are_named_with_their_packages(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for program in ("ip", "ping"):
        (tmp_path / program).symlink_to("/bin/true")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SetupError) as refusal:
        bench_lab.require_programs()
    assert str(refusal.value) == "iperf3, sockperf not installed; apt-get install iperf3 sockperf"


def test_a_program_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_lab, "inside", contextlib.nullcontext)
    before_s = time.monotonic()
    with pytest.raises(SetupError, match="sleep in here took longer"):
        bench_lab.run_program("here", ["sleep", "30"], 0.01)
    assert time.monotonic() - before_s < 10
