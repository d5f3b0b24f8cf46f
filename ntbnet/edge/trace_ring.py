"""The writer of a trace ring: a file that is mapped, so that it survives its process, however that ends.

Every record is one ``Struct.pack_into``, which clears the slot and fills it from front to back, and so stores
the record's number last: a record whose writer was killed half way has none. All memory is allocated before
the file has its name.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

from ntbnet.edge.clock import monotonic_ns, wall_ns
from ntbnet.errors import SetupError
from ntbnet.trace_records import (
    HEADER_BYTES,
    RECORD,
    RECORD_BYTES,
    SEEN_AT,
    SERVICES,
    Level,
    Record,
    RingHeader,
    pack_header,
    pack_record,
)

KEPT = {Level.COARSE: 4, Level.FULL: 2}
"""Rings of one service that are kept: those of its last processes."""
_FRAME = struct.Struct("<QBBxBIQQQIHHII64sQ")
"""RECORD without its source, which becomes 0."""
_LIKE = struct.Struct("<Q40sI68sQ")
"""RECORD with the fields of a Pattern as they lie: ``_HEAD`` and ``_REST``."""
_HEAD, _REST = slice(8, 48), slice(52, 120)
_NO_TAG = bytes(4)
SUFFIXES = {Level.COARSE: "coarse", Level.FULL: "full"}


class Note(Protocol):
    """Writes one record; the fields are those of ``trace_records.Record``, in its order."""

    def __call__(
        self,
        kind: int,
        flags: int = 0,
        source: int = 0,
        result: int = 0,
        epoch: int = 0,
        flow: int = 0,
        address: int = 0,
        translated: int = 0,
        length: int = 0,
        queue: int = 0,
        slot: int = 0,
        amount: int = 0,
        tag: int = 0,
        data: bytes = b"",
        mono_ns: int = 0,
    ) -> None:
        """Write it now; ``mono_ns`` 0 is the present."""


Pattern = tuple[bytes, bytes]
"""What records have in common that differ in ``mono_ns`` and ``amount`` only, as their bytes: those from
``kind`` to ``slot``, and those of ``tag`` and ``data``, whose end may be missing."""


def pattern(record: Record) -> Pattern | None:
    """Of records that are as this one but for ``mono_ns``, ``amount`` and ``number``.

    Returns:
        None when there cannot be any, since a field has no room for its value.
    """
    try:
        packed = pack_record(record)
    except struct.error:
        return None
    return packed[_HEAD], packed[_REST]


def with_data(like: Pattern | None, data: bytes) -> Pattern | None:
    """The same with other data, of at most 64 bytes, and without a tag."""
    return None if like is None else (like[0], _NO_TAG + data)


class Notes(NamedTuple):
    """What writes the records of one ring.

    A full trace has some of the same shape for each packet and wake, and others wait for who writes them:
    ``note_like`` and ``note_frame`` take what these differ in; ``note_like`` costs half of ``note``.
    """

    note: Note
    """Any record."""
    note_like: Callable[[int, Pattern | None, int], None]
    """One of a pattern: mono_ns, pattern, amount. None: a record that cannot be."""
    note_frame: Callable[[int, int, int, int, int, int, int, int, int, int, int, int, int, bytes], None]
    """A packet or frame: mono_ns, kind, flags, result, epoch, flow, address, translated, length, queue, slot,
    amount, tag, data."""


def writer(view: memoryview, capacity: int, clock: Callable[[], int] = monotonic_ns) -> Notes:
    """What writes records into ``view``, a whole ring with its header in place.

    A value that its field has no room for makes no record: its slot stays empty, and readers count it.
    """
    pack, pack_like, pack_frame = RECORD.pack_into, _LIKE.pack_into, _FRAME.pack_into
    number, at, end = 0, HEADER_BYTES, HEADER_BYTES + capacity * RECORD_BYTES

    # suppress() would cost every record a tenth of its time

    def note(
        kind: int,
        flags: int = 0,
        source: int = 0,
        result: int = 0,
        epoch: int = 0,
        flow: int = 0,
        address: int = 0,
        translated: int = 0,
        length: int = 0,
        queue: int = 0,
        slot: int = 0,
        amount: int = 0,
        tag: int = 0,
        data: bytes = b"",
        mono_ns: int = 0,
    ) -> None:
        nonlocal number, at
        number += 1
        try:  # noqa: SIM105
            pack(
                view,
                at,
                mono_ns or clock(),
                kind,
                flags,
                source,
                result,
                epoch,
                flow,
                address,
                translated,
                length,
                queue,
                slot,
                amount,
                tag,
                data,
                number,
            )
        except struct.error:
            pass
        at += RECORD_BYTES
        if at == end:
            at = HEADER_BYTES

    def note_like(mono_ns: int, like: Pattern | None, amount: int) -> None:
        nonlocal number, at
        number += 1
        if like is not None:
            head, rest = like
            try:  # noqa: SIM105
                pack_like(view, at, mono_ns, head, amount, rest, number)
            except struct.error:
                pass
        at += RECORD_BYTES
        if at == end:
            at = HEADER_BYTES

    def note_frame(
        mono_ns: int,
        kind: int,
        flags: int,
        result: int,
        epoch: int,
        flow: int,
        address: int,
        translated: int,
        length: int,
        queue: int,
        slot: int,
        amount: int,
        tag: int,
        data: bytes,
    ) -> None:
        nonlocal number, at
        number += 1
        try:  # noqa: SIM105
            pack_frame(
                view,
                at,
                mono_ns,
                kind,
                flags,
                result,
                epoch,
                flow,
                address,
                translated,
                length,
                queue,
                slot,
                amount,
                tag,
                data,
                number,
            )
        except struct.error:
            pass
        at += RECORD_BYTES
        if at == end:
            at = HEADER_BYTES

    return Notes(note, note_like, note_frame)


class TraceRing:
    """The ring of this process at one level.

    Args:
        folder: where rings are (``RunDir.trace_folder``).
        service: label of the service.
        incarnation: start number of this process.
        level: COARSE or FULL.
        capacity: records, 1 or more.
        run_id: of the run.

    Attributes:
        notes: what writes its records.
        note: the same as ``notes.note``.

    Raises:
        SetupError: there is no room for it, or it may not be made. Nothing is left behind.
    """

    def __init__(
        self, folder: Path, service: str, incarnation: int, level: Level, capacity: int, run_id: str
    ) -> None:
        header = RingHeader(
            level,
            SERVICES.index(service),
            capacity,
            os.getpid(),
            incarnation,
            monotonic_ns(),
            wall_ns(),
            run_id[:16],
        )
        path = folder / f"{service}.{incarnation}.{SUFFIXES[level]}"
        self.path, self.capacity = path, capacity
        _keep_the_last(folder, service, level)
        aside = path.with_name(f".{path.name}")
        try:
            aside.unlink(missing_ok=True)
            fd = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(fd, 0, header.size_bytes)
                # A full trace has all pages at once, and the service stands still for as long as they are
                # cleared: else every 32nd record would wait for one.
                populate = mmap.MAP_POPULATE if level is Level.FULL else 0
                self._map = mmap.mmap(fd, header.size_bytes, flags=mmap.MAP_SHARED | populate)
                self._map[:HEADER_BYTES] = pack_header(header)
                aside.rename(path)
            finally:
                os.close(fd)
        except OSError as error:
            aside.unlink(missing_ok=True)
            raise SetupError(f"no trace ring: {path}: {header.size_bytes} bytes: {error.strerror}") from None
        self.notes = writer(memoryview(self._map), capacity)
        self.note = self.notes.note

    def close(self) -> None:
        """Say in the header that it ends in order; its memory stays mapped as long as ``note`` lives."""
        self._map[SEEN_AT : SEEN_AT + 8] = monotonic_ns().to_bytes(8, "little")


def _keep_the_last(folder: Path, service: str, level: Level) -> None:
    """Remove the oldest rings of the service, so that with a new one there are ``KEPT[level]``."""
    found = []
    for path in folder.glob(f"{service}.*.{SUFFIXES[level]}"):
        number = path.name.split(".")[1]
        if number.isdecimal():
            found.append((int(number), path))
    for _, path in sorted(found)[: max(0, len(found) - KEPT[level] + 1)]:
        path.unlink(missing_ok=True)
