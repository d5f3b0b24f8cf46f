"""What a full trace has to write down, a millisecond later.

Other processes wait for what a step sends, and for the CPU. So of what happens only the time and what changes
are taken at once; records are made of it and stored when a millisecond has passed, in the order in which they
began. That is what a killed process loses of a full trace; the coarse level has no part in this.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ntbnet.edge.trace_ring import Notes

Task = tuple[Callable[..., object], Sequence[Any]]
"""What writes a record, and its arguments; those of something that lasts are completed when it ends."""
SETTLE_S = 0.001
"""After what is the first to wait; the least that a timer of the event loop can do."""
MOST_TASKS = 256
"""More of them do not wait."""
CallLater = Callable[[float, Callable[[], None]], object]
_REST: tuple[int | bytes, ...] = (*(0,) * 13, b"")
"""The fields of a record from its kind to its data, as they are unless told."""


class Later:
    """The records of one process, until they are stored.

    Args:
        notes: writes records.
        clock: monotonic ns.

    Attributes:
        notes: the same.
        add: takes a Task.
    """

    __slots__ = ("_clock", "_is_due", "_tasks", "add", "notes")

    def __init__(self, notes: Notes, clock: Callable[[], int]) -> None:
        self.notes, self._clock = notes, clock
        self._tasks: list[Task] = []
        self._is_due = False
        self.add = self._tasks.append

    def note(self, *fields: int | bytes) -> None:
        """A record of now; fields as those of ``Notes.note``, from the first on."""
        self.add((self.notes.note, (*fields, *_REST[len(fields) :], self._clock())))

    def settle(self) -> None:
        """Write them all."""
        tasks, self._is_due = self._tasks, False
        if tasks:
            for write, arguments in tasks:
                write(*arguments)
            tasks.clear()

    def around_flush(self, bare: Callable[[], None], call_later: CallLater | None) -> Callable[[], None]:
        """What sends all that a step has led to.

        Args:
            bare: does so.
            call_later: calls after some seconds; without it nothing waits.
        """
        tasks = self._tasks

        def flush() -> None:
            bare()
            if call_later is None or len(tasks) >= MOST_TASKS:
                self.settle()
            elif tasks and not self._is_due:
                self._is_due = True
                call_later(SETTLE_S, self.settle)

        return flush
