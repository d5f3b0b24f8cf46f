"""What was found in a log and no later line changes, in a file without a name: there may be a lot of it.

Each is a row of JSON; memory has 24 bytes of it.
"""

from __future__ import annotations

import json
import tempfile
import weakref
from array import array
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, overload

from ntbnet.errors import SetupError

IN_MEMORY_BYTES = 1 << 20
"""So much stays in memory; more goes to the folder for temporary files."""
_LEAST, _MOST = -(1 << 63), (1 << 63) - 1

T = TypeVar("T")


class Settled(Sequence[T]):
    """Things that are added in any order, and read in that of their keys.

    Args:
        pack: the fields of one, which JSON can hold.
        unpack: makes one from them.
    """

    def __init__(self, pack: Callable[[T], Sequence[Any]], unpack: Callable[..., T]) -> None:
        self._pack, self._unpack = pack, unpack
        self._file = tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES)  # noqa: SIM115 - closed when self goes
        weakref.finalize(self, self._file.close)
        self._ends = array("q", [0])
        self._keys, self._places = array("q"), array("q")
        """In order; places are numbers of rows."""

    def add(self, key: int, one: T) -> None:
        """Keep one for good; cheap when its key is among the highest.

        Args:
            key: what order is by; beyond 64 bits it counts as the least or most of these.
            one: it.

        Raises:
            SetupError: there is no room for it.
        """
        row = json.dumps(self._pack(one)).encode()
        try:
            self._file.seek(self._ends[-1])
            self._file.write(row)
        except OSError as problem:
            folder = tempfile.gettempdir()
            raise SetupError(f"no room for what was found, in {folder}: {problem.strerror}") from None
        key = min(max(key, _LEAST), _MOST)
        at = bisect_right(self._keys, key)
        self._keys.insert(at, key)
        self._places.insert(at, len(self._places))
        self._ends.append(self._ends[-1] + len(row))

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            return [self._row(place) for place in self._places[index]]
        return self._row(self._places[index])

    def _row(self, place: int) -> T:
        begin, end = self._ends[place : place + 2]
        self._file.seek(begin)
        return self._unpack(*json.loads(self._file.read(end - begin)))
