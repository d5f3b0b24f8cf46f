"""Interrupts that come again in a step."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from ntbnet.devices.effects import Deliver, Effect
from ntbnet.edge.pending import MAX_WAITING, PendingInterrupts
from ntbnet.wire import Irq, IrqSource, MemWrite, Message

DONE = (Deliver(memoryview(b"done")),)
FRAME_IRQS = 16384
"""As many as one legal frame of 1 MiB holds."""


class Cpu:
    """Handles, and notes what."""

    def __init__(self) -> None:
        self.handled: list[tuple[str, Message]] = []
        self.interrupts = PendingInterrupts(self._handle)

    def _handle(self, src: str, message: Message, now_ns: int) -> Sequence[Effect]:
        self.handled.append((src, message))
        return DONE

    def interrupt(self, message: Message, src: str = "epc", times: int = 1) -> list[bool]:
        """True for each that was handled at once."""
        return [self.interrupts.handle(src, message, 1) == DONE for _ in range(times)]


def irq(bits: int, epoch: int = 1) -> Irq:
    return Irq(IrqSource.MSI_VECTOR, bits, epoch)


def test_equal_interrupts_in_a_row_cost_two_runs_of_the_handler() -> None:
    cpu = Cpu()

    assert cpu.interrupt(irq(1), times=4) == [True, False, False, False]
    assert cpu.interrupts.end_step() == [("epc", irq(1))]
    assert cpu.interrupts.end_step() == ()
    assert cpu.interrupts.collapsed == {"epc": 2}
    assert cpu.interrupt(irq(1)) == [True]


@pytest.mark.parametrize(
    ("other", "src"),
    [
        (irq(2), "epc"),
        (irq(1, epoch=2), "epc"),
        (irq(1), "rc-host"),
        (Irq(IrqSource.EDMA_LINE, 1, 1), "epc"),
        (MemWrite(0, b"", 1), "epc"),
    ],
)
def test_what_comes_in_between_is_not_overtaken(other: Message, src: str) -> None:
    cpu = Cpu()

    assert cpu.interrupt(irq(1)) + cpu.interrupt(other, src) + cpu.interrupt(irq(1)) == [True] * 3
    assert cpu.interrupts.end_step() == ()


def test_writes_are_never_merged() -> None:
    cpu = Cpu()

    assert cpu.interrupt(MemWrite(0xFEE0_0000, bytes(4), 1), times=3) == [True] * 3
    assert not cpu.interrupts.collapsed


def test_sender_that_makes_up_interrupts_has_each_handled_and_few_remembered() -> None:
    cpu = Cpu()
    for bits in range(FRAME_IRQS // 2):
        cpu.interrupt(irq(bits), times=2)

    waiting = cpu.interrupts.end_step()

    assert [one for _, one in waiting] == [irq(bits) for bits in range(MAX_WAITING)]
    assert len(cpu.handled) + len(waiting) == FRAME_IRQS
    assert not cpu.interrupts.collapsed


def test_what_a_sender_raised_goes_with_it() -> None:
    cpu = Cpu()
    cpu.interrupt(irq(1), times=2)
    cpu.interrupt(irq(1), "rc-host", times=2)
    cpu.interrupts.forget("epc")

    assert cpu.interrupts.end_step() == [("rc-host", irq(1))]
    assert cpu.interrupt(irq(1)) == [True]
