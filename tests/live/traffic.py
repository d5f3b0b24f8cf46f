"""Traffic between the two nodes whose every byte is checked: sockets of this process in their namespaces."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from ntbnet.edge.netns import inside
from tests.live.bridge import LiveBridge, until

BLOCK_BYTES = 1 << 18
_SO_RCVBUFFORCE = 33
"""Receive buffer beyond the system's limit. Source: Linux asm-generic/socket.h."""
_TCP_RTO_MAX_MS = 44
"""Longest wait before a segment is sent again. Source: Linux 6.15 and later, uapi/linux/tcp.h."""
RTO_MAX_MS = 1000
PATIENCE_S = 130
"""Older kernels wait up to 120 s when segment after segment fell into an outage."""
_ECHO = struct.Struct("!BBHHHd")


def open_socket(bridge: LiveBridge, node: str, kind: int, protocol: int = 0) -> socket.socket:
    """An IPv4 socket that lives in a node; it stays there when this thread does not."""
    with inside(bridge.netns(node)):
        return socket.socket(socket.AF_INET, kind, protocol)


def other(node: str) -> str:
    """The node at the other end."""
    return "ep" if node == "rc" else "rc"


def is_served(bridge: LiveBridge, node: str, protocol: str, port: int) -> bool:
    """True when a program in the node waits for ``tcp`` connections or ``udp`` datagrams on a port.

    Source: Linux proc(5), /proc/net/tcp; states TCP_LISTEN and, of a UDP socket without a peer, TCP_CLOSE.
    """
    state = {"tcp": "0A", "udp": "07"}[protocol]
    with inside(bridge.netns(node)):
        tables = [Path(f"/proc/thread-self/net/{name}").read_text() for name in (protocol, f"{protocol}6")]
    rows = [line.split() for table in tables for line in table.splitlines()[1:]]
    return any(row[1].endswith(f":{port:04X}") and row[3] == state for row in rows)


def free_ports(number: int) -> int:
    """First of that many TCP ports in a row that nobody has now; other test workers look elsewhere."""
    first = 21000 + int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 5 * 2200
    for base in range(first, first + 2200 - number, number):
        sockets = []
        try:
            for port in range(base, base + number):
                one = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
                sockets.append(one)
                one.bind(("127.0.0.1", port))
        except OSError:
            continue
        else:
            return base
        finally:
            for one in sockets:
                one.close()
    raise AssertionError("no free TCP ports")


class TcpTransfer:
    """Seeded random bytes sent from a node to the other one over TCP, in two threads.

    Args:
        size: bytes in all; None: it goes on until ``finish`` or ``abort``, see ``transfers``.
    """

    def __init__(self, bridge: LiveBridge, source: str, size: int | None, seed: int) -> None:
        self.source = source
        self.sent = 0
        self.received = 0
        self._size = size
        self._random = random.Random(seed)
        self._listener = open_socket(bridge, other(source), socket.SOCK_STREAM)
        self._listener.bind((bridge.address(other(source)), 0))
        self._listener.listen(1)
        self._sender = open_socket(bridge, source, socket.SOCK_STREAM)
        with contextlib.suppress(OSError):  # an older kernel: see PATIENCE_S
            self._sender.setsockopt(socket.IPPROTO_TCP, _TCP_RTO_MAX_MS, RTO_MAX_MS)
        # short waits would make the kernel give up the sooner: it counts attempts unless told a time
        self._sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, PATIENCE_S * 1000)
        self._ends = [self._listener, self._sender]
        self._pool = ThreadPoolExecutor(2, thread_name_prefix=f"tcp-{source}")
        self._stop = threading.Event()
        self.started_s = time.monotonic()
        self._got: Future[str] = self._pool.submit(self._receive)
        self._sent: Future[str] = self._pool.submit(self._send)

    def _send(self) -> str:
        digest = hashlib.sha256()
        with self._sender as sender:
            sender.settimeout(PATIENCE_S)
            sender.connect(self._listener.getsockname())
            while length := self._next_length():
                block = self._random.randbytes(length)
                digest.update(block)
                sender.sendall(block)
                self.sent += length
        return digest.hexdigest()

    def _next_length(self) -> int:
        """Bytes of the next block; 0 at the end."""
        if self._size is None:
            return 0 if self._stop.is_set() else BLOCK_BYTES
        return min(BLOCK_BYTES, self._size - self.sent)

    def _receive(self) -> str:
        digest = hashlib.sha256()
        with self._listener as listener:
            listener.settimeout(PATIENCE_S)
            receiver, _ = listener.accept()
        with receiver:
            self._ends.append(receiver)
            receiver.settimeout(PATIENCE_S)
            while block := receiver.recv(BLOCK_BYTES):
                digest.update(block)
                self.received += len(block)
        return digest.hexdigest()

    def goes_on(self, size: int = 8 << 20, timeout_s: float = 20) -> None:
        """Wait until ``size`` more bytes have come.

        Raises:
            AssertionError: they do not in time.
            OSError: the connection has ended.
        """
        goal = self.received + size

        def has_come() -> bool:
            for end in (self._sent, self._got):
                if end.done():
                    end.result()
            return self.received >= goal

        until(has_come, timeout_s, f"{size} more bytes from {self.source}")

    def abort(self) -> None:
        """End it wherever it is; nothing happens to one that is finished."""
        self._stop.set()
        for end in self._ends:
            with contextlib.suppress(OSError):  # closed, or not connected yet
                end.shutdown(socket.SHUT_RDWR)
        self._pool.shutdown(wait=False)

    def finish(self, timeout_s: float) -> float:
        """Have one without a size end, wait for the end and compare; seconds the whole took.

        Raises:
            AssertionError: a byte was lost, added or changed.
        """
        self._stop.set()
        sent, got = self._sent.result(timeout_s), self._got.result(timeout_s)
        self._pool.shutdown()
        assert self.received == self.sent
        assert got == sent, f"TCP from {self.source}: digests differ"
        return time.monotonic() - self.started_s


@contextlib.contextmanager
def transfers(bridge: LiveBridge, *sources: str, seed: int) -> Iterator[tuple[TcpTransfer, ...]]:
    """Transfers, one from each source, that go on from before the block until behind it, and lose no byte."""
    running = tuple(TcpTransfer(bridge, source, None, seed) for source in sources)
    try:
        for transfer in running:
            transfer.goes_on()
        yield running
        for transfer in running:
            transfer.goes_on()
        for transfer in running:
            transfer.finish(60)
    finally:
        for transfer in running:
            transfer.abort()


class Pinger:
    """ICMP echo from a node, by ourselves: tells to the millisecond when the first reply comes."""

    INTERVAL_S = 0.01

    def __init__(self, bridge: LiveBridge, source: str = "rc") -> None:
        self._socket = open_socket(bridge, source, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        self._target = (bridge.address(other(source)), 0)
        self._identity = os.getpid() & 0xFFFF
        self._number = 0

    def first_reply_s(self, since_s: float, timeout_s: float) -> float:
        """Seconds from ``since_s`` (monotonic) to the first reply to a request sent after now.

        Raises:
            AssertionError: none in time.
        """
        first = self._number + 1
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            self._send()
            until_s = time.monotonic() + self.INTERVAL_S
            while (left_s := until_s - time.monotonic()) > 0:
                if not select.select([self._socket], [], [], left_s)[0]:
                    break
                if self._reply() >= first:
                    return time.monotonic() - since_s
        raise AssertionError(f"no ping reply within {timeout_s} s")

    def _send(self) -> None:
        self._number = (self._number + 1) & 0xFFFF
        stamp = time.monotonic()
        body = _ECHO.pack(8, 0, 0, self._identity, self._number, stamp)
        words = sum(struct.unpack(f"!{len(body) // 2}H", body))
        words = (words & 0xFFFF) + (words >> 16)
        body = _ECHO.pack(8, 0, ~(words + (words >> 16)) & 0xFFFF, self._identity, self._number, stamp)
        try:
            self._socket.sendto(body, self._target)
        except OSError:
            return  # the interface is down for a moment: a request like any other that gets no answer

    def _reply(self) -> int:
        """Number of our request that a packet answers; -1 when it is something else."""
        packet = self._socket.recv(2048)
        icmp = packet[(packet[0] & 0xF) * 4 :]
        if len(icmp) < _ECHO.size:
            return -1
        kind, _, _, identity, number, _ = _ECHO.unpack_from(icmp)
        return number if kind == 0 and identity == self._identity else -1

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def udp_round_trip(bridge: LiveBridge, source: str, payload: bytes, timeout_s: float = 5.0) -> bytes:
    """Send one datagram across; what arrived there."""
    with (
        open_socket(bridge, other(source), socket.SOCK_DGRAM) as receiver,
        open_socket(bridge, source, socket.SOCK_DGRAM) as sender,
    ):
        receiver.bind((bridge.address(other(source)), 0))
        receiver.settimeout(timeout_s)
        sender.sendto(payload, receiver.getsockname())
        return receiver.recv(65536)


def summary(name: str, values: list[float], say: Callable[[str], object]) -> None:
    """Tell least, median and most of some times."""
    ordered = sorted(values)
    least, middle, most = ordered[0], ordered[len(ordered) // 2], ordered[-1]
    say(f"{name}: {len(ordered)} times, min {least:.3f} s, median {middle:.3f} s, max {most:.3f} s")
