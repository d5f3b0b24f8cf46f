"""How far the reading of trace rings got, on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from ntbnet.edge.trace_rings import RingFile, merged
from ntbnet.trace_records import Entry

if TYPE_CHECKING:
    from rich.progress import Progress

SHOWN_EVERY = 4096
"""Records between two steps of the bar; rings with fewer are read at once."""


class ReadingBar:
    """A bar on stderr while rings are read; nothing where that is no terminal, or there is little to read.

    Args:
        rings: what is read.
    """

    def __init__(self, rings: Iterable[RingFile]) -> None:
        self._total = sum(ring.last - ring.first + 1 for ring in rings)
        self._bar: Progress | None = None

    def around(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """The same entries; the bar goes away with the last one, or with ``stop``."""
        if self._total <= SHOWN_EVERY or not sys.stderr.isatty():
            yield from entries
            return
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True), transient=True) as bar:
            self._bar = bar
            task = bar.add_task("records", total=self._total)
            for number, entry in enumerate(entries, 1):
                if number % SHOWN_EVERY == 0:
                    bar.update(task, completed=number)
                yield entry

    def stop(self) -> None:
        """Before something else is written to the terminal."""
        if self._bar is not None:
            self._bar.stop()


def read_with_bar(rings: Sequence[RingFile]) -> Iterator[Entry]:
    """All records of ``rings``, as ``merged``, with a bar."""
    return ReadingBar(rings).around(merged(rings))
