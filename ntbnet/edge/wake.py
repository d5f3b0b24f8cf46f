"""Fabric ``local``: wakes between processes, each through the named FIFO of the process that is woken.

As ``ioeventfd`` and ``irqfd`` do for virtual machines, an interrupt or a 32-bit store to a register goes
straight to the process that owns the line or the register. A FIFO lies in the run folder, so that it reaches
a restarted process as well; it is opened for reading and writing, so that neither end ever finds it
closed. Writes of less than PIPE_BUF bytes are atomic, whoever else writes.

One record, 24 bytes, little-endian:

======  ====  =======  ==========================================
offset  size  field    content
======  ====  =======  ==========================================
0       1     version  ``VERSION``
1       1     src      ``wire.Service`` that sends
2       1     kind     ``wire.Kind`` MEM_WRITE or IRQ
3       1     source   ``wire.IrqSource``; 0 for MEM_WRITE
4       4     epoch    link epoch
8       8     address  of a store; 0 for IRQ
16      8     value    32 bits that are stored; interrupt bits
======  ====  =======  ==========================================

Who may wake whom, and what for, is ``topology.WAKES``; everything else is refused and counted. The same few
records come again and again, so each is checked and decoded once, and looked up from then on.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import stat
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from select import PIPE_BUF
from struct import Struct

from ntbnet.errors import SetupError, WireError
from ntbnet.topology import STORE, WAKES
from ntbnet.wire import LABELS, SERVICE_BY_LABEL, Irq, IrqSource, Kind, MemWrite

VERSION = 1
RECORD = Struct("<BBBBIQQ")
RECORD_BYTES = RECORD.size
READ_BYTES = 128 * RECORD_BYTES
"""Taken at a time."""
RECORDS_PER_WRITE = PIPE_BUF // RECORD_BYTES
MAX_KNOWN = 256
"""Records that are kept decoded; with more of them all are forgotten."""
MAX_WAITING = 4096
"""Records kept for a process that does not read; of more the oldest are dropped, and counted."""
RETRY_S = 0.001
"""How long a full FIFO is left alone."""

_LABELS = {int(service): label for service, label in LABELS.items()}
_SOURCES = {int(source): source for source in IrqSource}
_IRQ, _MEM_WRITE = int(Kind.IRQ), int(Kind.MEM_WRITE)
_SERVICES = {label: int(service) for label, service in SERVICE_BY_LABEL.items()}
_KIND_AT = 2
Known = tuple[str, "Irq | MemWrite"]
WakeHandler = Callable[[str, "Irq | MemWrite"], None]


def encode(src: int, message: Irq | MemWrite) -> bytes:
    """The record of ``message``; a MemWrite has 4 bytes of data."""
    if isinstance(message, Irq):
        return RECORD.pack(VERSION, src, _IRQ, message.source, message.epoch, 0, message.bits)
    value = int.from_bytes(message.data, "little")
    return RECORD.pack(VERSION, src, _MEM_WRITE, 0, message.epoch, message.addr, value)


def decode(record: bytes) -> Known:
    """Sender and message of one record.

    Raises:
        WireError: names the field that is wrong.
    """
    version, src, kind, source, epoch, address, value = RECORD.unpack(record)
    if version != VERSION:
        raise WireError(f"wake version: {version}, this build speaks {VERSION}")
    if src not in _LABELS:
        raise WireError(f"wake src: {src}")
    if kind == _IRQ:
        if source not in _SOURCES or address:
            raise WireError(f"wake source: {source}, address {address:#x}")
        return _LABELS[src], Irq(_SOURCES[source], value, epoch)
    if kind != _MEM_WRITE or source or address & 3 or value >> 32:
        raise WireError(f"wake kind: {kind}, source {source}, address {address:#x}, value {value:#x}")
    return _LABELS[src], MemWrite(address, value.to_bytes(4, "little"), epoch)


def is_allowed(src: str, dst: str, message: Irq | MemWrite) -> bool:
    """True when ``src`` may wake ``dst`` with ``message``."""
    what = message.source.name.lower() if isinstance(message, Irq) else STORE
    return what in WAKES.get((src, dst), ())


def open_fifo(path: Path) -> int:
    """Descriptor of the FIFO at ``path``, made when absent, mode 0600; reads and writes do not block.

    Raises:
        SetupError: something else is there, it is somebody else's, or it cannot be made.
    """
    try:
        with contextlib.suppress(FileExistsError):
            os.mkfifo(path, 0o600)
        fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as problem:
        raise SetupError(f"cannot open FIFO {path}: {problem.strerror}") from None
    found = os.fstat(fd)
    if not stat.S_ISFIFO(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        os.close(fd)
        raise SetupError(f"{path} is no FIFO of this user's with mode 0600; remove it")
    return fd


class Wakes:
    """The FIFO of one process, and those of the others as far as it wakes them.

    Args:
        me: label of the service.
        path_of: service label -> path of its FIFO.
        on_wake: called with (sender, message) for each record, in order. An equal record may be given as the
            same message again, so nobody may change it.
        on_batch: called after each time records were taken.

    Attributes:
        on_lost: called with receiver and record of a wake that ``send`` took and that goes no further: an
            equal one stands for it, or there are too many.
    """

    def __init__(
        self, me: str, path_of: Callable[[str], Path], on_wake: WakeHandler, on_batch: Callable[[], None]
    ) -> None:
        self._me = me
        self._src = _SERVICES[me]
        self._path_of = path_of
        self.on_wake = on_wake
        self._on_batch = on_batch
        self._fd = open_fifo(path_of(me))
        self._out: dict[str, int] = {}
        self._queued: dict[str, list[bytes]] = {}
        self._waiting: dict[str, list[bytes]] = {}
        self._known: dict[bytes, Known] = {}
        self._rest = b""
        """Begin of a record whose end was not taken yet."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self.on_lost: Callable[[str, bytes], None] = _nothing
        self.counters: Counter[str] = Counter()
        self.taken_bytes = 0
        # what an earlier process left unread was told anew when its paths came up
        _empty(self._fd)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Watch the FIFO from now on."""
        self._loop = loop
        loop.add_reader(self._fd, self._drain)

    def _drain(self) -> None:
        taken = _read(self._fd)
        self.taken_bytes += len(taken)
        data = self._rest + taken if self._rest else taken
        known, at, end, is_junk = self._known, 0, len(data), False
        while end - at >= RECORD_BYTES:
            record = data[at : at + RECORD_BYTES]
            found = known.get(record) or self._learn(record)
            if found is not None:
                self.on_wake(*found)
                at += RECORD_BYTES
            elif not is_junk:
                self.counters["wakes_refused"] += 1
                at += 1
            else:
                at += 1
            is_junk = found is None
        self._rest = data[at:]
        if self._rest and len(taken) < READ_BYTES:
            # records are written whole: what has no end by now never gets one
            self.counters["wakes_refused"] += not is_junk
            self._rest = b""
        self._on_batch()

    def _learn(self, record: bytes) -> Known | None:
        """Decode a record that is not known yet; None when it is none, or one its sender may not send.

        What follows is looked for byte by byte then: somebody may have written no whole record.
        """
        try:
            src, message = decode(record)
        except WireError:
            return None
        if not is_allowed(src, self._me, message):
            return None
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        self._known[record] = src, message
        return src, message

    def send(self, dst: str, message: Irq | MemWrite) -> bool:
        """Wake ``dst`` with the next ``flush``; False: it is an interrupt that is queued already."""
        record = encode(self._src, message)
        queued = self._queued.get(dst)
        if queued is None:
            self._queued[dst] = [record]
            return True
        return self._add(queued, record)

    def flush(self) -> None:
        """Write everything that was sent."""
        if not self._queued:
            return
        queued, self._queued = self._queued, {}
        for dst, records in queued.items():
            for at in range(0, len(records), RECORDS_PER_WRITE):
                self._send(dst, records[at : at + RECORDS_PER_WRITE])

    def _send(self, dst: str, records: Sequence[bytes]) -> None:
        if self._waiting.get(dst) or not self._write(dst, b"".join(records)):
            for record in records:
                self._keep(dst, record)

    def _write(self, dst: str, records: bytes) -> bool:
        fd = self._out.get(dst)
        if fd is None:
            fd = self._out[dst] = open_fifo(self._path_of(dst))
        try:
            os.write(fd, records)
        except BlockingIOError:
            return False
        return True

    def _keep(self, dst: str, record: bytes) -> None:
        """Keep a record until the FIFO has room; an interrupt that waits already is news enough."""
        waiting = self._waiting.setdefault(dst, [])
        if not waiting and self._loop is not None:
            self._loop.call_later(RETRY_S, self._retry, dst)
        if not self._add(waiting, record):
            self.on_lost(dst, record)
        elif len(waiting) > MAX_WAITING:
            # of a reader that stands still the newest interrupt matters most
            self.counters["wakes_dropped"] += 1
            self.on_lost(dst, waiting.pop(0))

    def _add(self, records: list[bytes], record: bytes) -> bool:
        """Add a record behind the others; of equal interrupts the first stays, stores are never merged."""
        if record[_KIND_AT] != _IRQ or record not in records:
            records.append(record)
            return True
        self.counters["wakes_merged"] += 1
        return False

    def _retry(self, dst: str) -> None:
        waiting = self._waiting[dst]
        while waiting and self._fd >= 0 and self._write(dst, b"".join(waiting[:RECORDS_PER_WRITE])):
            del waiting[:RECORDS_PER_WRITE]
        if waiting and self._fd >= 0 and self._loop is not None:
            self._loop.call_later(RETRY_S, self._retry, dst)

    def close(self) -> None:
        """Stop watching; the FIFOs stay for others."""
        if self._fd < 0:
            return
        if self._loop is not None:
            self._loop.remove_reader(self._fd)
        for fd in (self._fd, *self._out.values()):
            os.close(fd)
        self._fd = -1
        self._out.clear()


def _nothing(_dst: str, _record: bytes) -> None:
    """While nobody asks."""


def _empty(fd: int) -> None:
    """Take what is there: at most as much as a pipe holds, so that no writer can keep us here."""
    for _ in range(1 + fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ) // READ_BYTES):
        if not _read(fd):
            return


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, READ_BYTES)
    except BlockingIOError:
        return b""
