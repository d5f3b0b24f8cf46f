"""Interrupts at a driver's CPU: what waits, where it is handled, and the timer behind it."""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path as FilePath
from typing import Any

import pytest

from ntbnet.devices.effects import Effect, Send, Wake
from ntbnet.devices.memory import unwatch_stores, watch_stores
from ntbnet.devices.path import TAIL_NS
from ntbnet.edge.clock import monotonic_ns
from ntbnet.edge.fault_files import AGAIN_AT, HANDLED_AT, WORDS
from ntbnet.edge.faulty import TURN, FaultLayer
from ntbnet.edge.wake import encode, open_fifo
from ntbnet.faults import plan_from
from ntbnet.log import Logger
from ntbnet.wire import Irq, IrqSource, MemWrite, Message, Service
from tests.contract.test_driver import PACKET, Story, StoryDevice, StoryTun, driver_of

FIRST, OTHER, LAST = (Irq(IrqSource.EDMA_LINE, bits, 0) for bits in (1, 2, 4))


class InterruptedDevice(StoryDevice):
    """Tells the story of the bits it is told.

    Attributes:
        answers: what it does about an interrupt, by bits.
        due_after: its deadline comes with that many lines in the story; 0: never.
        is_due: set by that deadline.
        awaited: with that many lines in the story ``story.heard`` is set.
    """

    def __init__(self, story: Story) -> None:
        super().__init__(story)
        self.answers: dict[int, Sequence[Effect]] = {}
        self.due_after = self.awaited = 0
        self.is_due = asyncio.Event()

    def handle(self, src: str, message: Message, now_ns: int) -> Sequence[Effect]:
        assert isinstance(message, Irq)
        self.story.lines.append(str(message.bits))
        if len(self.story.lines) >= self.awaited:
            self.story.heard.set()
        return self.answers.get(message.bits, ())

    def next_deadline(self) -> int | None:
        return 1 if self.due_after and len(self.story.lines) >= self.due_after else None

    def on_deadline(self, now_ns: int) -> Sequence[Effect]:
        self.due_after = 0
        self.is_due.set()
        return ()


class Rig:
    """A driver of ``peer-ep`` that is interrupted."""

    def __init__(self, folder: FilePath) -> None:
        self.story = Story()
        self.tun = StoryTun(self.story)
        self.device = InterruptedDevice(self.story)
        self.driver = driver_of(
            self.story,
            folder,
            self.tun,
            self.device,
            service="peer-ep",
            wake_path=lambda name: folder / f"wake.{name}",
        )
        self.fifo = open_fifo(folder / "wake.peer-ep")
        self.driver.start(asyncio.get_running_loop(), f"ipc://{folder}/ask", dict)

    async def interrupt(self, *interrupts: Irq, lines: int) -> None:
        """All of them in one step, and wait for a story of that many lines."""
        self.device.awaited, self.story.heard = lines, asyncio.Event()
        os.write(self.fifo, b"".join(encode(Service.EDMA, one) for one in interrupts))
        async with asyncio.timeout(5):
            await self.story.heard.wait()

    def close(self) -> None:
        self.driver.close()
        os.close(self.fifo)
        self.tun.nothing.close()
        self.tun.other_end.close()


@pytest.fixture
async def rig(tmp_path: FilePath) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path)
    yield rig
    rig.close()


async def test_interrupts_that_come_again_in_a_step_are_handled_once_more_behind_it(rig: Rig) -> None:
    """Those of a storm collapse, each line's for itself; what comes in between is not overtaken."""
    await rig.interrupt(*[FIRST] * 5, *[OTHER] * 2, FIRST, lines=5)
    await rig.interrupt(FIRST, lines=6)

    assert rig.story.lines == ["1", "2", "1", "1", "2", "1"]
    assert rig.driver.snapshot()["wakes"] == {"interrupts_collapsed_from_edma": 3}


async def test_waiting_interrupt_is_not_handled_amid_the_effects_of_another(rig: Rig) -> None:
    """Also while stores are watched, when a wake goes out at once."""
    rig.device.answers[OTHER.bits] = (Wake("peer-rc", Irq(IrqSource.MSI_VECTOR, 2, 1), "test.store"), PACKET)
    watch_stores(lambda _: None, lambda _: None)
    try:
        await rig.interrupt(FIRST, FIRST, OTHER, lines=4)
    finally:
        unwatch_stores()

    assert rig.story.lines == ["1", "2", "packet", "1"]


def inject(rig: Rig, kind: str, **keys: Any) -> memoryview:
    """Have interrupts mistreated; the layer's counts."""
    counts = memoryview(bytearray(8 * WORDS)).cast("Q")
    plan = plan_from({"seed": 1, "faults": [{"kind": kind, "dst": "peer-ep", "limit": 1, **keys}]}, "test")
    rig.driver.inject(FaultLayer("peer-ep", plan, counts, Logger(io.StringIO(), "info", {})))
    return counts


async def test_storm_is_counted_as_it_comes_and_as_it_is_handled(rig: Rig) -> None:
    counts = inject(rig, "interrupt-storm", at=[0], burst=3 * TURN)

    await rig.interrupt(FIRST, lines=1 + 3 * 2)
    rig.driver.inject(None)

    assert counts[AGAIN_AT] == 3 * TURN
    assert counts[HANDLED_AT] == 3 * 2 == len(rig.story.lines) - 1
    assert rig.driver.snapshot()["wakes"] == {"interrupts_collapsed_from_edma": 3 * (TURN - 2)}


async def test_faults_count_interrupts_that_collapse(rig: Rig) -> None:
    """Which interrupt a plan hits does not depend on how many of them come in one step."""
    inject(rig, "lost-interrupt", at=[2])

    await rig.interrupt(FIRST, FIRST, FIRST, OTHER, lines=3)

    assert rig.story.lines == ["1", "2", "1"]
    assert rig.driver.snapshot()["wakes"] == {}


@pytest.mark.parametrize(
    ("kind", "keys", "runs"),
    [("interrupt-storm", {"burst": 2}, 3), ("stuck-doorbell", {"delay_us": 1_000_000}, 2)],
)
async def test_deadline_that_an_injected_interrupt_leads_to_is_met(
    rig: Rig, kind: str, keys: dict[str, Any], runs: int
) -> None:
    """Nothing else happens that would arm the timer."""
    rig.device.due_after = runs
    inject(rig, kind, at=[0], **keys)
    await rig.interrupt(FIRST, lines=runs)
    rig.driver.inject(None)

    async with asyncio.timeout(5):
        await rig.device.is_due.wait()


async def test_timer_is_armed_for_the_beat_behind_a_message(rig: Rig) -> None:
    """The path's heartbeat is eighteen minutes."""
    assert rig.driver._timer.armed_ns > monotonic_ns() + TAIL_NS

    rig.driver.perform([Send("rc-host", MemWrite(0, b"data"))])

    assert monotonic_ns() - TAIL_NS < rig.driver._timer.armed_ns <= monotonic_ns() + TAIL_NS
