"""A driver under a full trace: the wakes it sends and takes, as readers of its rings follow them."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path as FilePath
from typing import cast

import pytest

from ntbnet.devices.effects import Wake
from ntbnet.edge.driver import Driver
from ntbnet.edge.trace_ring import TraceRing
from ntbnet.edge.trace_rings import read_rings
from ntbnet.edge.tracer import Tracer
from ntbnet.edge.wake import open_fifo
from ntbnet.trace_records import Entry, Flag, Handler, Kind, Level, Result
from ntbnet.wire import Irq, IrqSource
from tests.contract.test_driver import Story, StoryDevice, StoryTun, driver_of

FIRST, OTHER = (Irq(IrqSource.EDMA_LINE, bits, 7) for bits in (1, 2))


class FramesDevice(StoryDevice):
    """One that has packets, none of which ever come."""

    epoch = 7
    queues = ()

    def bar_of(self, addr: int) -> tuple[int, int] | None:
        return None


class Ends:
    """The eDMA's driver and peer-ep's, traced, with the FIFO between them; taken from when asked to."""

    def __init__(self, folder: FilePath) -> None:
        self.rings, self._tuns = folder / "rings", list[StoryTun]()
        self.rings.mkdir()
        self._fifo = open_fifo(folder / "wake.edma")
        self.edma, self.ep = (self._driver(folder, label) for label in ("edma", "peer-ep"))
        self.device = cast("StoryDevice", self.ep.device)

    def _driver(self, folder: FilePath, label: str) -> Driver:
        story, place = Story(), folder / label
        place.mkdir()
        tun = StoryTun(story)
        self._tuns.append(tun)
        driver = driver_of(
            story,
            place,
            tun,
            FramesDevice(story),
            service=label,
            wake_path=lambda name: folder / f"wake.{name}",
        )
        ring = TraceRing(self.rings, label, 1, Level.FULL, 16384, "run")
        driver.trace(Tracer(label, ring.notes, driver.device, 0))
        return driver

    def send(self, *lines: Irq) -> None:
        """At occasions of their own, as a burst of rings makes them: the FIFO has each."""
        for line in lines:
            self.edma.perform([Wake("peer-ep", line)])

    def take(self) -> None:
        assert self.ep._wakes is not None
        self.ep._wakes._drain()

    def entries(self) -> list[Entry]:
        return list(read_rings(self.rings))

    def close(self) -> None:
        for driver in (self.edma, self.ep):
            driver.trace(None)
            driver.close()
        for tun in self._tuns:
            tun.nothing.close()
            tun.other_end.close()
        os.close(self._fifo)


@pytest.fixture
def ends(tmp_path: FilePath) -> Iterator[Ends]:
    ends = Ends(tmp_path)
    yield ends
    ends.close()


def test_equal_wakes_taken_at_once_are_each_followed(ends: Ends) -> None:
    ends.send(FIRST, FIRST, FIRST)
    ends.take()
    ends.send(FIRST)
    ends.take()

    entries = ends.entries()
    sent = [one.record.flow for one in entries if one.record.flags == Flag.SENT | Flag.WAKE]
    came = [one.record for one in entries if one.record.kind == Kind.LINE and one.record.flags == Flag.WAKE]
    slices = [one.record for one in entries if one.record.kind == Kind.SLICE]

    assert ends.device.received == [FIRST] * 3
    assert len(set(sent)) == 4
    assert [record.flow for record in came] == sent
    assert [record.result for record in came] == [Result.OK, Result.MERGED, Result.MERGED, Result.OK]
    assert [(record.slot, record.flow) for record in slices] == [
        (Handler.WAKE, sent[0]),
        (Handler.AGAIN, sent[1]),
        (Handler.WAKE, sent[3]),
    ]


def test_wakes_that_a_full_fifo_merged_are_not_taken_for_others(ends: Ends) -> None:
    """Its reader stood still; what did not fit waits with the sender, one for all equal ones."""
    ends.send(*[FIRST, OTHER] * 3000)
    for _ in range(100):
        ends.take()
    assert ends.edma._wakes is not None
    ends.edma._wakes._retry("peer-ep")
    ends.take()
    ends.send(FIRST)
    ends.take()

    entries = ends.entries()
    lines = [one.record for one in entries if one.record.kind == Kind.LINE]
    lost = [one for one in lines if one.flags & Flag.SENT and one.result == Result.DROPPED]
    came = [one for one in lines if not one.flags & Flag.SENT]
    sent = {one.flow: one for one in lines if one.flags & Flag.SENT and one.result == Result.OK}
    assert len(lost) > 100
    assert len(came) + len(lost) == 6001
    assert [record.address for record in came] == [sent[record.flow].address for record in came]
    assert came[-1].flow == max(sent)


def test_no_wake_of_a_long_run_is_taken_for_another(ends: Ends) -> None:
    chance = random.Random(7)
    for _ in range(200):
        ends.send(*chance.choices((FIRST, OTHER), k=chance.randrange(1, 6)))
        ends.take()

    entries = ends.entries()
    sent = [one.record for one in entries if one.record.flags == Flag.SENT | Flag.WAKE]
    came = [one.record for one in entries if one.record.kind == Kind.LINE and one.record.flags == Flag.WAKE]

    assert [(record.flow, record.address) for record in came] == [(one.flow, one.address) for one in sent]
    assert len({record.flow for record in sent}) == len(sent) > 500
