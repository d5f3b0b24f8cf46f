"""Interrupts that come again while the CPU is busy with them.

As an interrupt controller latches a line or a vector once until it is taken: an interrupt equal to the one
before it, with nothing in between, waits for the end of the step, and is handled once more there, however
often it came. So a storm of interrupts costs two runs of the handler in each step, and packets and messages
have their turns.
"""

from __future__ import annotations

from ntbnet.wire import Irq, MemWrite

Interrupt = tuple[str, "Irq | MemWrite"]
"""Sender, and what it sent."""


class PendingInterrupts:
    """Those of one step of the driver.

    Attributes:
        waiting: to be handled at the end of the step, in the order in which they first came again.
        collapsed: interrupts that were handled together with another one, so far.
    """

    __slots__ = ("_last", "collapsed", "waiting")

    def __init__(self) -> None:
        self._last: Interrupt | None = None
        self.waiting: list[Interrupt] = []
        self.collapsed = 0

    def is_pending(self, src: str, message: Irq | MemWrite) -> bool:
        """True for an interrupt that now waits; False for one that is to be handled at once."""
        last = self._last
        if last is None or last != (src, message):
            self._last = src, message
            return False
        if last in self.waiting:
            self.collapsed += 1
        else:
            self.waiting.append(last)
        return True

    def pass_by(self) -> None:
        """Something else was handled, or the step ended: the next interrupt is handled at once."""
        self._last = None

    def take(self) -> list[Interrupt]:
        """The end of the step: what waited."""
        waiting, self.waiting = self.waiting, []
        return waiting
