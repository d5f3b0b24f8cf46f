"""Records of a full trace between the moment they are stamped and the one they are written.

Who waits for this process does not wait for its trace: an occasion only keeps what it will not know any
longer, and what is made of it is made behind the occasion, for many records at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ntbnet.edge.trace_ring import Note

Writing = tuple[Callable[..., None], int, tuple[Any, ...]]
"""What writes it, when it was (monotonic ns, its first argument), and the other arguments."""
MOST_KEPT = 256
"""Writings that are kept at the end of an occasion; of more all are written."""
KEPT_S = 0.01
ALL_FIELDS = 15
"""Arguments of ``Note``: with them all a record has its time."""


class Kept:
    """What is to be written.

    Args:
        write: writes a record.
        later: calls a function after so many seconds.
        clock: monotonic ns.

    Attributes:
        pending: oldest first; always the same list, appended to by whoever has something to tell.
        note: keeps a record of fields that are known already; as ``Note``, by position.
        write, clock: as given.
    """

    def __init__(
        self,
        write: Note,
        later: Callable[[float, Callable[[], None]], object],
        clock: Callable[[], int],
    ) -> None:
        pending: list[Writing] = []
        append, write_plain = pending.append, self._write_plain

        def note(*fields: Any) -> None:
            append((write_plain, clock(), fields))

        self.pending = pending
        self.note: Callable[..., None] = note
        self.write: Callable[..., None] = write
        self.clock = clock
        self._later, self._is_armed = later, False

    def end_occasion(self) -> None:
        """Write all when there is much, else soon."""
        if len(self.pending) >= MOST_KEPT:
            self.write_out()
        elif not self._is_armed:
            self._is_armed = True
            self._later(KEPT_S, self.write_out)

    def write_out(self) -> None:
        """Write what was kept."""
        self._is_armed = False
        kept = self.pending.copy()
        self.pending.clear()  # before: whatever comes of one of them, none is written twice
        for write, mono_ns, what in kept:
            write(mono_ns, *what)

    def _write_plain(self, mono_ns: int, *fields: Any) -> None:
        if len(fields) == ALL_FIELDS:
            self.write(*fields)
        else:
            self.write(*fields, mono_ns=mono_ns)
