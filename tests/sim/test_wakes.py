"""Fabric ``local``: wakes that are lost, doubled or late, and stores that have to wait for a flush."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from ntbnet.devices.slow_look import CONFIRM_NS
from tests.sim.process import MS, SECOND
from tests.sim.world import POLLED, SMALL, WakeFault, World, packet_of

pytestmark = pytest.mark.fabric("local")

LINE = ("edma", "peer-ep")
"""An interrupt line of the eDMA; told once until it is acknowledged."""
RINGS = [("peer-rc", "edma"), ("peer-ep", "edma"), ("peer-ep", "peer-rc")]
"""The other wakes of that backend: the test interrupt, what acknowledges the line, and the host's MSI."""


def every(number: int, fate: Sequence[int]) -> WakeFault:
    """Of each ``number`` wakes one arrives as often as ``fate`` has entries, each that many ns late."""
    seen = 0

    def fault(record: bytes) -> list[tuple[bytes, int]]:
        nonlocal seen
        seen += 1
        return [(record, late_ns) for late_ns in (fate if seen % number == 0 else (0,))]

    return fault


@pytest.mark.parametrize(
    ("link", "fate"),
    [
        *((link, ()) for link in RINGS),
        *((link, fate) for link in (*RINGS, LINE) for fate in ((0, 0), (3 * MS,), (0, 20 * MS))),
    ],
    ids=lambda one: "-".join(map(str, one)) or "lost",
)
def test_traffic_goes_on_when_wakes_are_lost_doubled_or_late(
    link: tuple[str, str], fate: tuple[int, ...]
) -> None:
    """In the same link epoch, and whole: what a wake was to tell of is told by the next one."""
    world = World(seed=3).bring_up()
    world.wake_faults[link] = every(7, fate)
    world.start_traffic()
    world.run_for(SECOND)
    world.wake_faults.clear()
    world.stop_traffic()
    for node in ("rc", "ep"):
        world.send(node, packet_of(world.random, 1_000_000, 64))
    world.run_for(50 * MS)

    assert world.check_history() == world.sent + 2
    assert world.epoch == 1
    world.exchange(3)


def test_a_packet_whose_interrupt_is_lost_comes_with_the_next_one() -> None:
    """As with an MSI that a platform loses: nobody looks into the ring before the slow look does."""
    world = World(seed=5).bring_up()
    world.exchange(1)
    world.wake_faults["peer-ep", "peer-rc"] = every(1, ())
    world.send("ep", packet_of(world.random, 2, 64))
    world.run_for(CONFIRM_NS)
    assert len(world.delivered["rc"]) == 1

    world.wake_faults.clear()
    world.send("ep", packet_of(world.random, 3, 64))
    world.run_for(10 * MS)
    assert len(world.delivered["rc"]) == 3


def test_a_packet_whose_interrupt_is_lost_is_found_by_the_slow_look() -> None:
    world = World(seed=5).bring_up()
    world.exchange(1)
    world.wake_faults["peer-ep", "peer-rc"] = every(1, ())
    world.send("ep", packet_of(world.random, 2, 64))
    world.run_for(world.config.timing.heartbeat_ms * MS + CONFIRM_NS + MS)

    assert len(world.delivered["rc"]) == 2


def test_a_lost_wake_of_an_engines_line_is_made_good_by_its_next_process() -> None:
    """Without an acknowledgement it tells nothing more; a new process rings every line once."""
    world = World(seed=5).bring_up()
    world.exchange(1)
    world.wake_faults[LINE] = every(1, ())
    world.send("rc", packet_of(world.random, 2, 64))
    world.run_for(10 * MS)
    world.wake_faults.clear()
    world.restart("edma")
    world.run_for(SECOND)

    assert len(world.delivered["ep"]) == 2
    world.exchange(3)
    assert world.epoch == 1


@pytest.mark.parametrize("text", [SMALL, SMALL + POLLED], ids=["interrupts", "polled"])
@pytest.mark.parametrize("packets", [5, 100])
def test_stores_that_wait_for_a_flush_arrive_in_order(packets: int, text: str) -> None:
    """The host wrote a scratchpad, and the answer behind which stores are direct again is long in coming."""
    world = World(seed=8, text=text).bring_up()
    world.exchange(3)
    peer = world.processes["peer-rc"]
    device: Any = peer.device
    device._tasks.spawn("scribble", device._device.peer_spad_write(0, 60, 1))
    peer.perform(device._outbox.take())
    world.settle(lambda: not device.snapshot()["stores"]["direct"], SECOND)
    world.hold_back("epc", "peer-rc", 300 * MS)
    before = world.watch.stores
    sent = [packet_of(world.random, number, 64) for number in range(packets)]
    for packet in sent:
        world.send("rc", packet)
    assert world.watch.stores == before
    assert not peer.device.snapshot()["stores"]["direct"]

    world.settle(lambda: len(world.delivered["ep"]) == 3 + packets, 10 * SECOND)
    assert world.delivered["ep"][3:] == sent
    assert world.epoch == 1
    world.exchange(3)
    assert peer.device.snapshot()["stores"]["direct"]


def test_a_late_ring_of_a_doorbell_is_one_too_many_and_takes_none_away() -> None:
    """The words stay where they are in every link epoch; the watch judges what is stored to them."""
    late = 0
    for number in range(40, 48):
        world = World(seed=number, text=SMALL + POLLED).bring_up()
        world.start_traffic(every_ns=2 * MS)
        world.stop_in_store("rc", number, 2 * SECOND)
        world.run_for(2500 * MS)
        world.settle(world.is_up, 5 * SECOND)
        world.stop_traffic()
        world.check_history()
        world.exchange(3)
        assert world.watch.rings > 20
        late += world.watch.late_rings

    assert late > 0
