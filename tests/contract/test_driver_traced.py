"""A driver under a full trace: the wakes it sends and takes, as readers of its rings follow them."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path as FilePath
from typing import cast

import pytest

from ntbnet.devices.effects import Effect, Wake
from ntbnet.devices.memory import unwatch_stores, watch_stores
from ntbnet.edge.driver import Driver
from ntbnet.edge.fault_source import FaultSource
from ntbnet.edge.trace_ring import TraceRing
from ntbnet.edge.trace_rings import read_rings
from ntbnet.edge.tracer import Tracer
from ntbnet.edge.wake import open_fifo
from ntbnet.log import Logger
from ntbnet.trace_records import SERVICES, Entry, Flag, Handler, Kind, Level, Result
from ntbnet.wire import Irq, IrqSource, Message
from tests.contract.test_driver import Story, StoryDevice, StoryTun, driver_of

FIRST, OTHER = (Irq(IrqSource.EDMA_LINE, bits, 7) for bits in (1, 2))


class FramesDevice(StoryDevice):
    """One that has packets, none of which ever come."""

    epoch = 7
    queues = ()

    def __init__(self, story: Story) -> None:
        super().__init__(story)
        self.answers: Sequence[Effect] = ()
        self.on_handle: Callable[[], None] = lambda: None

    def handle(self, src: str, message: Message, now_ns: int) -> Sequence[Effect]:
        super().handle(src, message, now_ns)
        self.on_handle()
        return self.answers

    def bar_of(self, addr: int) -> tuple[int, int] | None:
        return None


class Ends:
    """The eDMA's driver and peer-ep's, traced, with the FIFO between them; taken from when asked to."""

    def __init__(self, folder: FilePath) -> None:
        self.rings, self._tuns = folder / "rings", list[StoryTun]()
        self.rings.mkdir()
        self._fifo = open_fifo(folder / "wake.edma")
        self.faults = FaultSource(folder / "faults", "peer-ep", Logger(sys.stderr, "error", {}))
        self.edma, self.ep = (self._driver(folder, label) for label in ("edma", "peer-ep"))
        self._living = [self.edma, self.ep]
        self.device = cast("FramesDevice", self.ep.device)

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
            faults=self.faults,
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

    def end(self, driver: Driver) -> None:
        self._living.remove(driver)
        driver.close()

    def close(self) -> None:
        for driver in [*self._living]:
            driver.trace(None)
            self.end(driver)
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


def kinds(ends: Ends) -> list[tuple[str, Kind]]:
    return [(SERVICES[one.ring.service], Kind(one.record.kind)) for one in ends.entries()]


def test_records_are_stored_behind_what_a_step_sends(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    wakes, stored = ends.edma._wakes, list[int]()
    assert wakes is not None
    bare = wakes.flush

    def flush() -> None:
        bare()
        stored.append(len(ends.entries()))

    monkeypatch.setattr(wakes, "flush", flush)

    ends.send(FIRST)

    assert stored == [0]
    assert kinds(ends) == [("edma", Kind.LINE)]


def test_what_is_sent_within_a_handler_leaves_its_record_open(ends: Ends) -> None:
    """A store that a crash point watches is sent at once."""
    ends.device.answers = [Wake("peer-rc", OTHER, "ring.flags")]
    watch_stores(lambda _what: None, lambda _what: None)
    try:
        ends.send(FIRST)
        ends.take()
    finally:
        unwatch_stores()

    assert kinds(ends) == [
        ("edma", Kind.LINE),
        ("peer-ep", Kind.LINE),
        ("peer-ep", Kind.LINE),
        ("peer-ep", Kind.SLICE),
    ]


def test_a_death_at_a_crash_point_leaves_the_record_of_what_led_to_it(ends: Ends) -> None:
    seen: list[list[tuple[str, Kind]]] = []

    def die() -> None:
        ends.faults.before_death()
        seen.append(kinds(ends))

    ends.device.on_handle = die
    ends.send(FIRST)
    ends.take()

    assert seen == [[("edma", Kind.LINE), ("peer-ep", Kind.LINE)]]


def test_what_is_still_open_is_stored_when_the_driver_ends(ends: Ends) -> None:
    ends.edma._perform([Wake("peer-ep", FIRST)], 0)
    assert kinds(ends) == []

    ends.end(ends.edma)

    assert kinds(ends) == [("edma", Kind.LINE)]
