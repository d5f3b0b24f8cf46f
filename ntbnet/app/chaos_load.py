"""The traffic of a chaos run: a small process with sockets in both nodes, which writes down what it does.

It is started as ``python -m ntbnet.app.chaos_load SPEC FILE`` (SPEC is JSON, see ``LoadSpec``). Both ways at
once go numbered datagrams with a checksum over all of them, in several flows, and one TCP stream. Told
``stop`` (or ``hurry``) on its standard input, it sends no more, waits for what is still on its way, and
ends. When its standard input ends instead, whoever started it is gone: it ends at once.

A datagram is magic, way, flow, length, sequence number, time of sending, checksum (XXH3-64 over all but
itself), payload. The payload is a part of a pool of seeded random bytes, another part each time.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import selectors
import socket
import struct
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from xxhash import xxh3_64, xxh3_64_intdigest

from ntbnet.app.chaos_history import Kind, pack
from ntbnet.edge.netns import inside

HEAD = struct.Struct("<4sBBHIQQ")
DIGEST = struct.Struct("<Q")
MAGIC = b"ntbc"
POOL_BYTES = 131_101
"""A prime: a stream that is shifted by any amount below shows."""
UDP_PORT = 20_000
TCP_PORT = 19_999
TCP_BLOCK_BYTES = 1 << 16
SEND_BUFFER_BYTES = 1 << 17
"""An outage is not to be followed by all that gathered in it."""
PROGRESS_NS = 20_000_000
"""Between two records of a TCP stream's progress."""
DRAIN_NS = 300_000_000
"""Nothing is on its way any more when nothing came for that long."""
PATIENCE_NS = 60_000_000_000
HURRY_NS = 2_000_000_000
"""For the end of the TCP streams; when nobody believes in it."""
RTO_MAX_MS = 1000
_TCP_RTO_MAX_MS = 44
"""Longest wait before a segment is sent again. Source: Linux 6.15 and later, uapi/linux/tcp.h."""
_SO_RCVBUFFORCE = 33
"""Receive buffer beyond the system's limit. Source: Linux asm-generic/socket.h."""
_SO_TIMESTAMPNS = 35
"""Also the type of what it adds to a datagram: when the node's stack got it, in wall time (socket(7))."""
_TIMESPEC = struct.Struct("=qq")
_NOTES_BYTES = socket.CMSG_SPACE(_TIMESPEC.size)
_RECEIVE_BUFFER_BYTES = 1 << 25


@dataclass(frozen=True, slots=True)
class LoadSpec:
    """What to send. Lists have the part of rc first, then that of ep."""

    namespaces: list[str]
    addresses: list[str]
    """IPv4."""
    seed: int
    flows: int
    interval_ms: int
    min_bytes: int
    max_bytes: int
    tcp_kib_s: int
    reader_pause_ms: int

    def as_json(self) -> str:
        """The SPEC of the command line."""
        return json.dumps(asdict(self))


def datagram(pool: bytes, way: int, flow: int, size: int, sequence: int, now_ns: int) -> bytes:
    """One datagram of ``size`` bytes, 48 or more."""
    head = HEAD.pack(MAGIC, way, 0, flow, size, sequence, now_ns)
    length = size - HEAD.size - DIGEST.size
    start = sequence * 7919 % (len(pool) - length)
    payload = pool[start : start + length]
    return head + DIGEST.pack(xxh3_64_intdigest(head + payload)) + payload


def examine(data: bytes, way: int, flow: int) -> tuple[int, int] | None:
    """Sequence number and time of sending of a whole datagram of that way and flow; None for any other."""
    if len(data) < HEAD.size + DIGEST.size:
        return None
    magic, its_way, _, its_flow, size, sequence, sent_ns = HEAD.unpack_from(data)
    if magic != MAGIC or (its_way, its_flow) != (way, flow) or size != len(data):
        return None
    payload_at = HEAD.size + DIGEST.size
    digest = xxh3_64_intdigest(data[: HEAD.size] + data[payload_at:])
    return (sequence, sent_ns) if DIGEST.unpack_from(data, HEAD.size)[0] == digest else None


def came(notes: Sequence[tuple[int, int, bytes]], since_ns: int) -> int:
    """When a datagram came to the node's stack, monotonic ns; this program may have had to wait for a CPU.

    Args:
        notes: ancillary data of the datagram, just read.
        since_ns: it did not come before: then the socket was empty, or another one came.

    Returns:
        From ``since_ns`` to now, whatever the wall clock was set to meanwhile.
    """
    wall_ns = time.time_ns()
    now_ns = time.monotonic_ns()  # behind the wall clock: a pause between them makes it late, never early
    age_ns = 0
    for level, kind, note in notes:
        if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS) and len(note) == _TIMESPEC.size:
            seconds, ns = _TIMESPEC.unpack(note)
            age_ns = wall_ns - (seconds * 10**9 + ns)
    return min(max(now_ns - age_ns, since_ns), now_ns)


class _Flow:
    """Datagrams of one way on one pair of ports."""

    def __init__(self, load: Load, way: int, number: int) -> None:
        spec = load.spec
        self._load, self._way, self._number = load, way, number
        self._random = random.Random(f"{spec.seed}:{way}:{number}")
        self._sequence = 0
        port = UDP_PORT + number
        self.receiver = _open(spec.namespaces[1 - way], socket.SOCK_DGRAM)
        self.receiver.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER_BYTES)
        self.receiver.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self.receiver.bind((spec.addresses[1 - way], port))
        self._came_ns = time.monotonic_ns()
        """When the last one came that was read, or nothing was there."""
        self._sender = _open(spec.namespaces[way], socket.SOCK_DGRAM)
        self._sender.bind((spec.addresses[way], port + 1000))
        self._sender.connect((spec.addresses[1 - way], port))
        for end in (self.receiver, self._sender):
            end.setblocking(False)

    def send(self) -> None:
        load, spec = self._load, self._load.spec
        size = self._random.randint(spec.min_bytes, spec.max_bytes)
        now_ns = time.monotonic_ns()
        try:
            self._sender.send(datagram(load.pool, self._way, self._number, size, self._sequence, now_ns))
        except OSError:
            # without a carrier, or with a full queue: it was tried, but never sent
            load.note(Kind.REFUSED, self._way, self._number, size, self._sequence, now_ns)
            return
        load.note(Kind.SENT, self._way, self._number, size, self._sequence, now_ns)
        self._sequence += 1

    def receive(self) -> None:
        while True:
            looked_ns = time.monotonic_ns()
            try:
                data, notes, _, _ = self.receiver.recvmsg(1 << 16, _NOTES_BYTES)
            except OSError:
                self._came_ns = looked_ns
                return
            self._load.came_ns = time.monotonic_ns()
            self._came_ns = came(notes, self._came_ns)
            found = examine(data, self._way, self._number)
            if found is None:
                self._load.note(Kind.DAMAGED, self._way, self._number, len(data), 0, self._came_ns)
                continue
            sequence, sent_ns = found
            self._came_ns = max(self._came_ns, sent_ns)
            self._load.note(
                Kind.RECEIVED, self._way, self._number, len(data), sequence, self._came_ns, sent_ns
            )


class _Stream:
    """The TCP stream of one way: sent at an even rate, digests at both ends."""

    def __init__(self, load: Load, way: int) -> None:
        spec = load.spec
        self._load, self._way = load, way
        self._pool = memoryview(load.pool * 2)
        listener = _open(spec.namespaces[1 - way], socket.SOCK_STREAM)
        self._sender = _open(spec.namespaces[way], socket.SOCK_STREAM)
        with listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((spec.addresses[1 - way], TCP_PORT))
            listener.listen(1)
            with contextlib.suppress(OSError):  # an older kernel waits longer after a long outage
                self._sender.setsockopt(socket.IPPROTO_TCP, _TCP_RTO_MAX_MS, RTO_MAX_MS)
            # short waits would make the kernel give up the sooner: it counts attempts unless told a time
            self._sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, PATIENCE_NS // 10**6)
            self._sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
            self._sender.settimeout(10)
            listener.settimeout(10)
            self._sender.connect(listener.getsockname())
            self.receiver, _ = listener.accept()
        for end in (self.receiver, self._sender):
            end.setblocking(False)
        self._sent_digest, self._got_digest = xxh3_64(), xxh3_64()
        self._sent = self._got = 0
        self._told_ns = 0
        self._started_ns = time.monotonic_ns()
        self._is_shut = False
        self.ended = False

    def send(self, now_ns: int) -> None:
        """As much as the rate allows by now."""
        due = (now_ns - self._started_ns) * self._load.spec.tcp_kib_s * 1024 // 10**9
        while not self.ended and self._sent < due:
            start = self._sent % POOL_BYTES
            length = min(due - self._sent, TCP_BLOCK_BYTES)
            try:
                taken = self._sender.send(self._pool[start : start + length])
            except BlockingIOError:
                # the rate is an upper bound: what did not fit is not made up for in a burst
                self._started_ns = now_ns - self._sent * 10**9 // (self._load.spec.tcp_kib_s * 1024)
                return
            except OSError as problem:
                self._break(problem)
                return
            self._sent_digest.update(self._pool[start : start + taken])
            self._sent += taken

    def shut(self) -> None:
        """Nothing more will be sent."""
        if self._is_shut or self.ended:
            return
        self._is_shut = True
        digest = self._sent_digest.intdigest()
        self._load.note(Kind.TCP_SENT_END, self._way, 0, 0, self._sent, time.monotonic_ns(), digest)
        try:
            self._sender.shutdown(socket.SHUT_WR)
        except OSError as problem:
            self._break(problem)

    def receive(self) -> None:
        if self.ended:
            return
        try:
            block = self.receiver.recv(TCP_BLOCK_BYTES)
        except BlockingIOError:
            return
        except OSError as problem:
            self._break(problem)
            return
        now_ns = self._load.came_ns = time.monotonic_ns()
        self._got += len(block)
        if not block:
            digest = self._got_digest.intdigest()
            self._load.note(Kind.TCP_RECEIVED_END, self._way, 0, 0, self._got, now_ns, digest)
            self._end()
            return
        self._got_digest.update(block)
        if now_ns - self._told_ns >= PROGRESS_NS:
            self._told_ns = now_ns
            self._load.note(Kind.TCP_SENT, self._way, 0, 0, self._sent, now_ns)
            self._load.note(Kind.TCP_RECEIVED, self._way, 0, 0, self._got, now_ns)

    def _break(self, problem: OSError) -> None:
        number = problem.errno or errno.EIO
        self._load.note(Kind.TCP_BROKEN, self._way, 0, number, self._sent, time.monotonic_ns())
        self._end()

    def _end(self) -> None:
        self.ended = True
        self._load.forget(self.receiver)


class Load:
    """All of the traffic, in one loop.

    Args:
        spec: what to send.
        write: takes records, in order.
    """

    def __init__(self, spec: LoadSpec, write: Callable[[bytes], object]) -> None:
        self.spec = spec
        self.pool = random.Random(spec.seed).randbytes(POOL_BYTES)
        self.came_ns = 0
        self._write = write
        self._records: list[bytes] = []
        self._selector = selectors.DefaultSelector()
        self._streams = [_Stream(self, way) for way in (0, 1)] if spec.tcp_kib_s else []
        pairs = [(_Flow(self, 0, number), _Flow(self, 1, number)) for number in range(spec.flows)]
        self._pairs = pairs
        self._receivers = [one for pair in pairs for one in pair] + self._streams
        if not spec.reader_pause_ms:
            for one in self._receivers:
                self._selector.register(one.receiver, selectors.EVENT_READ, one.receive)

    def note(
        self, kind: Kind, way: int, flow: int, size: int, sequence: int, time_ns: int, extra: int = 0
    ) -> None:
        """Write a record down, at the end of this turn of the loop."""
        self._records.append(pack(kind, way, flow, size, sequence, time_ns, extra))

    def forget(self, receiver: socket.socket) -> None:
        """Nothing more comes there."""
        if receiver in self._selector.get_map():
            self._selector.unregister(receiver)

    def run(self, control: int) -> bool:
        """Send and receive until told to stop.

        Args:
            control: file descriptor that says ``stop``.

        Returns:
            False when ``control`` ended without a word.
        """
        self._selector.register(control, selectors.EVENT_READ, None)
        step_ns = self.spec.interval_ms * 1_000_000 // len(self._pairs)
        read_ns = self.spec.reader_pause_ms * 1_000_000
        turn, next_ns, next_read_ns, stopped_ns = 0, time.monotonic_ns(), 0, 0
        patience_ns = PATIENCE_NS
        while True:
            now_ns = time.monotonic_ns()
            if stopped_ns:
                if self._is_over(now_ns, stopped_ns, patience_ns):
                    self.note(Kind.END, 0, 0, 0, 0, now_ns)
                    self._flush()
                    return True
            elif now_ns >= next_ns:
                next_ns = max(next_ns + step_ns, now_ns)
                for flow in self._pairs[turn % len(self._pairs)]:
                    flow.send()
                turn += 1
                for stream in self._streams:
                    stream.send(now_ns)
            if read_ns and (stopped_ns or now_ns >= next_read_ns):
                next_read_ns = now_ns + read_ns
                for one in self._receivers:
                    one.receive()
            self._flush()
            due_ns = now_ns + 10_000_000 if stopped_ns else next_ns
            for key, _ in self._selector.select(max(due_ns - time.monotonic_ns(), 0) / 1e9):
                if key.data is not None:
                    key.data()
                elif word := os.read(control, 64):
                    patience_ns = HURRY_NS if word.startswith(b"hurry") else PATIENCE_NS
                    stopped_ns = time.monotonic_ns()
                    for stream in self._streams:
                        stream.shut()
                    self._selector.unregister(control)
                else:
                    return False

    def _is_over(self, now_ns: int, stopped_ns: int, patience_ns: int) -> bool:
        if now_ns - stopped_ns > patience_ns:
            return True
        quiet_ns = now_ns - max(self.came_ns, stopped_ns)
        return quiet_ns >= DRAIN_NS and all(stream.ended for stream in self._streams)

    def _flush(self) -> None:
        if self._records:
            self._write(b"".join(self._records))
            self._records.clear()


def _open(namespace: str, kind: int) -> socket.socket:
    with inside(namespace):
        return socket.socket(socket.AF_INET, kind)


def main() -> int:
    """Exit codes: 0 told to stop, 1 something failed (a traceback says what), 3 left alone."""
    spec = LoadSpec(**json.loads(sys.argv[1]))
    with Path(sys.argv[2]).open("ab", buffering=0) as file:
        return 0 if Load(spec, file.write).run(sys.stdin.fileno()) else 3


if __name__ == "__main__":
    sys.exit(main())
