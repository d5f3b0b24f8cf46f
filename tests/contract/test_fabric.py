"""What every fabric between two processes keeps: order, wholeness, sessions, nothing stale."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ntbnet.wire import MAX_PAYLOAD_BYTES, Irq, IrqSource, MemWrite, Message
from tests.contract.fabrics import Fabric, MemoryFabric, ZmqFabric, ipc_endpoint, writes
from tests.live.traffic import free_ports

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(params=["memory", "ipc", "tcp"])
def fabric(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fabric]:
    if request.param == "memory":
        yield MemoryFabric()
        return
    if request.param == "ipc":
        real = ZmqFabric(ipc_endpoint(tmp_path))
    else:
        first = free_ports(2)
        ports = {"epc": first, "rc-host": first + 1}
        real = ZmqFabric(lambda _src, dst: f"tcp://127.0.0.1:{ports[dst]}")
    try:
        yield real
    finally:
        real.close()


def both_up(fabric: Fabric) -> bool:
    return all(end.is_up for end in fabric.ends.values())


def bring_up(fabric: Fabric, order: tuple[str, str] = ("rc-host", "epc")) -> None:
    for end in order:
        fabric.start(end)
    fabric.until(lambda: both_up(fabric))


def wait_for(fabric: Fabric, received: list[Message], count: int) -> None:
    fabric.until(lambda: len(received) >= count)


def numbers(messages: list[Message]) -> list[int]:
    return [message.addr for message in messages if isinstance(message, MemWrite)]


@pytest.mark.parametrize("order", [("rc-host", "epc"), ("epc", "rc-host")])
def test_a_session_begins_whichever_end_starts_first(fabric: Fabric, order: tuple[str, str]) -> None:
    bring_up(fabric, order)

    assert all(end.ups == 1 and end.downs == 0 for end in fabric.ends.values())


@pytest.mark.covers("EDMA 62", "EDMA 159")
def test_messages_arrive_whole_and_in_order_both_ways(fabric: Fabric) -> None:
    bring_up(fabric)

    for sender, receiver in (("rc-host", "epc"), ("epc", "rc-host")):
        sent = [*writes(500), Irq(IrqSource.MSI_VECTOR, 3, 1)]
        fabric.send(sender, sent)
        received = fabric.ends[receiver].received
        wait_for(fabric, received, len(sent))
        assert received == sent


def test_the_longest_payload_crosses(fabric: Fabric) -> None:
    bring_up(fabric)
    longest = MemWrite(0x1000, bytes(range(256)) * (MAX_PAYLOAD_BYTES // 256), 1)

    fabric.send("rc-host", [longest])
    fabric.until(lambda: bool(fabric.ends["epc"].received))

    assert fabric.ends["epc"].received == [longest]


def test_a_longer_payload_is_surprise_down_and_a_new_session(fabric: Fabric) -> None:
    bring_up(fabric)

    fabric.send("rc-host", [MemWrite(0x1000, bytes(MAX_PAYLOAD_BYTES + 1), 1), *writes(1)])
    fabric.until(lambda: all(end.ups == 2 for end in fabric.ends.values()))
    fabric.send("rc-host", writes(1, first=7))
    fabric.until(lambda: bool(fabric.ends["epc"].received))

    assert numbers(fabric.ends["epc"].received) == [7]


def test_a_stopped_end_says_so(fabric: Fabric) -> None:
    """Nobody has to wait for its silence, and what it sent before it stopped still arrives."""
    bring_up(fabric)

    fabric.send("epc", writes(20, size=65536))
    fabric.stop("epc")
    fabric.until(lambda: not fabric.ends["rc-host"].is_up)

    assert fabric.ends["rc-host"].reasons[-1] == "closed by peer"
    assert numbers(fabric.ends["rc-host"].received) == list(range(20))


def test_a_killed_end_is_noticed_by_its_silence(fabric: Fabric) -> None:
    bring_up(fabric)

    fabric.kill("epc")
    fabric.until(lambda: not fabric.ends["rc-host"].is_up)

    assert fabric.ends["rc-host"].downs == 1
    assert fabric.ends["rc-host"].reasons[-1].startswith("peer silent")


def test_a_restarted_end_gets_a_new_session_and_nothing_of_the_old_one(fabric: Fabric) -> None:
    bring_up(fabric)
    fabric.send("rc-host", writes(50))
    fabric.until(lambda: len(fabric.ends["epc"].received) == 50)

    fabric.kill("epc")
    fabric.send("rc-host", writes(50, first=1000))
    fabric.start("epc")
    fabric.until(lambda: fabric.ends["rc-host"].ups == 2 and fabric.ends["epc"].is_up)
    fabric.send("rc-host", writes(50, first=2000))
    fabric.until(lambda: len(fabric.ends["epc"].received) >= 50)

    assert numbers(fabric.ends["epc"].received) == list(range(2000, 2050))


@pytest.mark.covers("EDMA 165")
def test_messages_for_an_end_that_is_not_there_are_not_kept(fabric: Fabric) -> None:
    fabric.start("rc-host")
    fabric.send("rc-host", writes(10))
    fabric.start("epc")
    fabric.until(lambda: both_up(fabric))

    fabric.send("rc-host", writes(1, first=500))
    fabric.until(lambda: bool(fabric.ends["epc"].received))

    assert numbers(fabric.ends["epc"].received) == [500]


@pytest.mark.covers("EDMA 160", "EDMA 161")
def test_both_ends_may_send_more_than_a_queue_holds_at_once(fabric: Fabric) -> None:
    bring_up(fabric)
    many = 6000

    for end in ("rc-host", "epc"):
        fabric.send(end, writes(many, size=8))
    fabric.until(lambda: all(len(end.received) == many for end in fabric.ends.values()))

    for recorder in fabric.ends.values():
        assert numbers(recorder.received) == list(range(many))
        assert recorder.downs == 0
