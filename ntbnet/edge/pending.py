"""Interrupts that come again while the CPU is busy with them.

As an interrupt controller latches a line or a vector once until it is taken: an interrupt equal to the one
before it, with nothing in between, waits for the end of the step, and is handled once more there, however
often it came. So a storm of interrupts costs two runs of the handler in each step, and packets and messages
have their turns. An MSI that comes as a message is a write, and no write may be merged with another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ntbnet.wire import Irq, IrqSource, Message

if TYPE_CHECKING:
    from ntbnet.devices.effects import Effect

MAX_WAITING = 64
"""Interrupts that wait at a time: as many as there are lines and vectors. More come from a sender that makes
them up, and each of those is handled at once: nobody makes a step remember more."""

Handle = Callable[[str, Message, int], "Sequence[Effect]"]
Interrupt = tuple[str, Irq]
"""Sender, and what it sent."""
_Key = tuple[str, IrqSource, int, int]


class PendingInterrupts:
    """Those of one step of the driver.

    Args:
        handle: the device's.

    Attributes:
        collapsed: interrupts that were handled together with another one, so far, by sender.
        merged: how often the device was not told at once, so far.
    """

    __slots__ = ("_handle", "_last", "_waiting", "collapsed", "merged")

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        self._last: _Key | None = None
        self._waiting: dict[_Key, Interrupt] = {}
        """In the order in which they first came again."""
        self.collapsed: Counter[str] = Counter()
        self.merged = 0

    def handle(self, src: str, message: Message, now_ns: int) -> Sequence[Effect]:
        """What the device does about a message; nothing yet about an interrupt that waits now."""
        if not isinstance(message, Irq):
            self._last = None
            return self._handle(src, message, now_ns)
        key = src, message.source, message.bits, message.epoch
        if key != self._last:
            self._last = key
        elif key in self._waiting:
            self.collapsed[src] += 1
            self.merged += 1
            return ()
        elif len(self._waiting) < MAX_WAITING:
            self._waiting[key] = src, message
            self.merged += 1
            return ()
        return self._handle(src, message, now_ns)

    def forget(self, src: str) -> None:
        """A neighbour is gone, and with it what it raised and nobody has taken yet."""
        self._last = None
        self._waiting = {key: one for key, one in self._waiting.items() if key[0] != src}

    def end_step(self) -> Sequence[Interrupt]:
        """What waited, for the device itself to handle; the next interrupt is handled at once."""
        self._last = None
        if not self._waiting:
            return ()
        waiting, self._waiting = self._waiting, {}
        return list(waiting.values())
