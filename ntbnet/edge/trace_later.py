"""What a full trace has to write down, until the step that it happened in has ended.

Other processes wait for what a step sends. So nothing is made of what happens until that is sent: only the
time and what changes are taken at once, and records are stored behind it, in the order in which they began.
The driver has that done at the end of a step, of a long one now and then, and before it dies of a fault.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ntbnet.edge.trace_ring import Notes

MOST_TASKS = 4096
"""More do not wait for the end of a step: one frame of a neighbour may have thousands of messages."""
Task = tuple[Callable[..., object], Sequence[Any]]
"""What writes a record, and its arguments; those of something that lasts are completed when it ends."""
_REST: tuple[int | bytes, ...] = (*(0,) * 13, b"")
"""The fields of a record from its kind to its data, as they are unless told."""


class Later:
    """The records of one step.

    Args:
        notes: writes records.
        clock: monotonic ns.

    Attributes:
        notes: the same.
        add: takes a Task.
    """

    __slots__ = ("_clock", "_tasks", "add", "notes")

    def __init__(self, notes: Notes, clock: Callable[[], int]) -> None:
        self.notes, self._clock = notes, clock
        self._tasks: list[Task] = []
        self.add = self._tasks.append

    def note(self, *fields: int | bytes) -> None:
        """A record of now; fields as those of ``Notes.note``, from the first on."""
        self.add((self.notes.note, (*fields, *_REST[len(fields) :], self._clock())))

    def settle(self) -> None:
        """Write them all; no handler may be open."""
        tasks = self._tasks
        try:
            for write, arguments in tasks:
                write(*arguments)
        finally:
            tasks.clear()

    def settle_many(self) -> None:
        """The same in the middle of a long step, once there are many of them."""
        if len(self._tasks) >= MOST_TASKS:
            self.settle()
