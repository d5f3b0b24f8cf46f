"""Reading trace rings: of processes that run, that ended, that were killed, and of a bridge that is gone.

A ring is read with ``pread`` and never mapped: nobody who shortens the file can hurt its reader. A record is
taken when two readings of it agree, so that what its writer is just storing is not taken half; what is
being overwritten counts as lost. Nothing in a file is believed that its place does not bear out.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ntbnet.errors import WireError
from ntbnet.trace_records import (
    HEADER_BYTES,
    RECORD_BYTES,
    SEEN_AT,
    SERVICES,
    Entry,
    Level,
    Record,
    RingHeader,
    decode_header,
    decode_record,
    number_of,
    pack_header,
)
from ntbnet.trace_stored import expanded
from ntbnet.trace_wakes import with_wake_flows

CHUNK = 512
"""Records read at a time."""
TRIES = 3
"""How often a record that changes under the reading is read again."""


@dataclass(slots=True)
class RingFile:
    """One ring as found in a folder.

    Attributes:
        path: of the file.
        header: its header.
        last: number of the newest record, 0 without any.
        first: number of the oldest record that may still be there.
        torn: records between them that ``records`` did not find whole, as counted by its last run.
    """

    path: Path
    header: RingHeader
    first: int = 1
    last: int = 0
    torn: int = 0

    @property
    def overwritten(self) -> int:
        """Records that newer ones have replaced."""
        return self.first - 1

    def catch_up(self) -> bool:
        """Find out what the newest record is by now, from what it was; False: this ring is gone.

        It costs as much as there is to catch up with, not as much as the ring is long.
        """
        try:
            with _opened(self.path) as fd:
                if os.pread(fd, HEADER_BYTES, 0)[:SEEN_AT] != pack_header(self.header)[:SEEN_AT]:
                    return False
                for _ in range(0, 2 * self.header.capacity + CHUNK, CHUNK):  # the writer may be as fast
                    newest = self._newest_of_next(fd)
                    if newest == self.last:
                        break
                    self.last = newest
        except OSError:
            return False
        self.first = max(1, self.last - self.header.capacity + 1)
        return True

    def _newest_of_next(self, fd: int) -> int:
        """The newest record in the slots behind ``last``'s; ``last`` when they hold older ones.

        As many slots behind the ring's end as before it: one that its writer left empty hides none.
        """
        capacity = self.header.capacity
        slot, many = self.last % capacity, min(CHUNK, capacity)
        to_end = min(many, capacity - slot)
        found = _newest_in(fd, capacity, slot, to_end), _newest_in(fd, capacity, 0, many - to_end)
        return max(self.last, *found)

    def records(self) -> Iterator[Record]:
        """What every whole record stands for, oldest first. Ends early when the file is gone or shortened."""
        return expanded(self._stored())

    def _stored(self) -> Iterator[Record]:
        self.torn = 0
        header, number = self.header, self.first
        with contextlib.suppress(OSError), _opened(self.path) as fd:
            while number <= self.last:
                slot = (number - 1) % header.capacity
                many = min(CHUNK, header.capacity - slot, self.last - number + 1)
                offset = HEADER_BYTES + slot * RECORD_BYTES
                data = _read_twice(fd, many, offset)
                for place in range(many):
                    at = place * RECORD_BYTES
                    if at + RECORD_BYTES <= len(data) and number_of(data, at) == number + place:
                        yield decode_record(data, at)
                    else:
                        self.torn += 1
                number += many


def find_rings(folder: Path, level: Level | None = None) -> tuple[list[RingFile], list[str]]:
    """The rings in ``folder``, oldest process first, and what is wrong with files that look like one.

    Args:
        folder: ``RunDir.trace_folder``; one that is not there has no rings.
        level: only rings of this level.
    """
    rings, complaints = [], []
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix in (".coarse", ".full"))
    except OSError:
        return [], []
    for path in paths:
        try:
            ring = open_ring(path)
        except (OSError, WireError) as problem:
            complaints.append(f"{path.name}: {problem}")
            continue
        if level is None or ring.header.level == level:
            rings.append(ring)
    rings.sort(key=lambda ring: (ring.header.service, ring.header.incarnation, ring.header.level))
    return rings, complaints


def read_rings(folder: Path, level: Level | None = None) -> Iterator[Entry]:
    """All records of all rings in ``folder``, merged by time; wakes carry flows. See ``find_rings``."""
    rings, _ = find_rings(folder, level)
    return merged(rings)


def merged(rings: Iterable[RingFile]) -> Iterator[Entry]:
    """The records of ``rings``, merged by time; wakes carry flows."""
    streams = [_entries(ring) for ring in rings]
    return with_wake_flows(heapq.merge(*streams, key=lambda entry: entry.record.mono_ns))


def _entries(ring: RingFile) -> Iterator[Entry]:
    for record in ring.records():
        yield Entry(ring.header, record)


def open_ring(path: Path) -> RingFile:
    """The ring in that file.

    Raises:
        OSError: it cannot be read, or is no plain file.
        WireError: it is no ring of this name.
    """
    with _opened(path) as fd:
        header = decode_header(os.pread(fd, HEADER_BYTES, 0))
        if path.name.split(".")[0] != SERVICES[header.service]:
            raise WireError(f"trace ring: of {SERVICES[header.service]}")
        if os.fstat(fd).st_size != header.size_bytes:
            raise WireError(f"trace ring: {os.fstat(fd).st_size} bytes, expected {header.size_bytes}")
        last = _newest(fd, header.capacity)
    return RingFile(path, header, max(1, last - header.capacity + 1), last)


def _newest(fd: int, capacity: int) -> int:
    """The highest record number whose slot is the right one.

    Slots are filled in order, so the first one's lap goes on up to the newest record; a search among them
    would do, but not for a file that somebody has damaged.
    """
    slots = range(0, capacity, CHUNK)
    return max(_newest_in(fd, capacity, slot, min(CHUNK, capacity - slot)) for slot in slots)


def _newest_in(fd: int, capacity: int, first: int, many: int) -> int:
    """The same, in so many slots from ``first``; 0 for none."""
    newest = 0
    data = os.pread(fd, many * RECORD_BYTES, HEADER_BYTES + first * RECORD_BYTES)
    for place in range(len(data) // RECORD_BYTES):
        number = number_of(data, place * RECORD_BYTES)
        if number > newest and (number - 1) % capacity == first + place:
            newest = number
    return newest


def _read_twice(fd: int, many: int, offset: int) -> bytes:
    """``many`` records, as two readings in a row agree on; where they do not, the number is 0."""
    size = many * RECORD_BYTES
    before = data = os.pread(fd, size, offset)
    for _ in range(TRIES):
        again = os.pread(fd, size, offset)
        if again == data:
            return data
        before, data = data, again
    whole = bytearray(data)
    for at in range(0, min(len(before), len(data)), RECORD_BYTES):
        if before[at : at + RECORD_BYTES] != data[at : at + RECORD_BYTES]:
            whole[at : at + RECORD_BYTES] = bytes(len(data[at : at + RECORD_BYTES]))
    return bytes(whole)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    """A descriptor of a plain file; OSError for anything else."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(0, "no plain file")
        yield fd
    finally:
        os.close(fd)
