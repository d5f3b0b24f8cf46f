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
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import stat
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from select import PIPE_BUF
from struct import Struct

from ntbnet.errors import SetupError, WireError
from ntbnet.wire import LABELS, SERVICE_BY_LABEL, Irq, IrqSource, Kind, MemWrite, Service

VERSION = 1
RECORD = Struct("<BBBBIQQ")
RECORD_BYTES = RECORD.size
READ_BATCH = 128
"""Records taken at a time."""
MAX_WAITING = 4096
"""Records kept for a process that does not read; later ones are dropped, and counted."""
RETRY_S = 0.001
"""How long a full FIFO is left alone."""

_SERVICES = {int(service) for service in Service}
_SOURCES = {int(source): source for source in IrqSource}
WakeHandler = Callable[[str, "Irq | MemWrite"], None]


def encode(src: int, message: Irq | MemWrite) -> bytes:
    """The record of ``message``; a MemWrite has 4 bytes of data."""
    if isinstance(message, Irq):
        return RECORD.pack(VERSION, src, Kind.IRQ, message.source, message.epoch, 0, message.bits)
    value = int.from_bytes(message.data, "little")
    return RECORD.pack(VERSION, src, Kind.MEM_WRITE, 0, message.epoch, message.addr, value)


def decode(record: bytes) -> tuple[str, Irq | MemWrite]:
    """Sender and message of one record.

    Raises:
        WireError: names the field that is wrong.
    """
    version, src, kind, source, epoch, address, value = RECORD.unpack(record)
    if version != VERSION:
        raise WireError(f"wake version: {version}, this build speaks {VERSION}")
    if src not in _SERVICES:
        raise WireError(f"wake src: {src}")
    label = LABELS[Service(src)]
    if kind == Kind.IRQ:
        if source not in _SOURCES or address:
            raise WireError(f"wake source: {source}, address {address:#x}")
        return label, Irq(_SOURCES[source], value, epoch)
    if kind != Kind.MEM_WRITE or source or address & 3 or value >> 32:
        raise WireError(f"wake kind: {kind}, source {source}, address {address:#x}, value {value:#x}")
    return label, MemWrite(address, value.to_bytes(4, "little"), epoch)


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
        on_wake: called with (sender, message) for each record, in order.
        on_batch: called after each time records were taken.
    """

    def __init__(
        self, me: str, path_of: Callable[[str], Path], on_wake: WakeHandler, on_batch: Callable[[], None]
    ) -> None:
        self._src = int(SERVICE_BY_LABEL[me])
        self._path_of = path_of
        self.on_wake = on_wake
        self._on_batch = on_batch
        self._fd = open_fifo(path_of(me))
        self._out: dict[str, int] = {}
        self._queued: dict[tuple[str, bytes, int], None] = {}
        self._waiting: dict[str, deque[bytes]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self.counters: Counter[str] = Counter()
        # what an earlier process left unread was told anew when its paths came up
        _empty(self._fd)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Watch the FIFO from now on."""
        self._loop = loop
        loop.add_reader(self._fd, self._drain)

    def _drain(self) -> None:
        data = _read(self._fd)
        if len(data) % RECORD_BYTES:
            # somebody wrote no whole record: where the next one begins is anybody's guess
            self.counters["wakes_refused"] += 1
            _empty(self._fd)
            data = b""
        for at in range(0, len(data), RECORD_BYTES):
            try:
                src, message = decode(data[at : at + RECORD_BYTES])
            except WireError:
                self.counters["wakes_refused"] += 1
                continue
            self.on_wake(src, message)
        self._on_batch()

    def send(self, dst: str, message: Irq | MemWrite) -> None:
        """Wake ``dst`` with the next ``flush``; an interrupt that is queued already is not queued again."""
        number = 0 if isinstance(message, Irq) else len(self._queued) + 1
        self._queued[dst, encode(self._src, message), number] = None

    def flush(self) -> None:
        """Write everything that was sent."""
        if not self._queued:
            return
        queued, self._queued = self._queued, {}
        batches: dict[str, bytes] = {}
        for dst, record, _ in queued:
            batches[dst] = batches.get(dst, b"") + record
            if len(batches[dst]) > PIPE_BUF - RECORD_BYTES:
                self._send(dst, batches.pop(dst))
        for dst, records in batches.items():
            self._send(dst, records)

    def _send(self, dst: str, records: bytes) -> None:
        if self._waiting.get(dst) or not self._write(dst, records):
            for at in range(0, len(records), RECORD_BYTES):
                self._keep(dst, records[at : at + RECORD_BYTES])

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
        waiting = self._waiting.setdefault(dst, deque())
        if len(waiting) >= MAX_WAITING:
            self.counters["wakes_dropped"] += 1
            return
        waiting.append(record)
        if len(waiting) == 1 and self._loop is not None:
            self._loop.call_later(RETRY_S, self._retry, dst)

    def _retry(self, dst: str) -> None:
        waiting = self._waiting[dst]
        while waiting and self._fd >= 0 and self._write(dst, waiting[0]):
            waiting.popleft()
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


def _empty(fd: int) -> None:
    """Take what is there: at most as much as a pipe holds, so that no writer can keep us here."""
    for _ in range(1 + fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ) // (READ_BATCH * RECORD_BYTES)):
        if not _read(fd):
            return


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, READ_BATCH * RECORD_BYTES)
    except BlockingIOError:
        return b""
