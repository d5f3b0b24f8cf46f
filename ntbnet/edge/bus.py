"""ZeroMQ sockets of one process: a PUSH and a PULL for each neighbour, and a REP for questions.

Each ordered pair of processes has its own socket, so everything between them is one FIFO. The
sockets' file descriptors are watched by the event loop and drained until EAGAIN; the descriptor
is edge-triggered, so a drain that stops early is scheduled again.

What a process has to say to one neighbour at one occasion (the stores of a packet, and the interrupt
behind them) goes out as one frame of ZeroMQ: each frame costs more than the bytes in it.

HWM is large enough for a whole ring in flight; LINGER 0 and IMMEDIATE 1 so that nothing is kept
for a process that is gone. A message that ZeroMQ will not take waits here (receiving goes on);
a backlog beyond ``MAX_BACKLOG`` or ``MAX_BACKLOG_BYTES`` is reported, and the owner takes the
path down. A frame longer than any that is allowed ends the connection it comes by, unread; was
it our neighbour's, then what he sent with it is lost, which is Surprise Down of the path.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

import zmq

from ntbnet.wire import HEADER_BYTES, MAX_PAYLOAD_BYTES, split

if TYPE_CHECKING:
    from ntbnet.edge.curve import Guard

HIGH_WATER_MARK = 4096
MAX_FRAME_BYTES = HEADER_BYTES + MAX_PAYLOAD_BYTES
"""Longest frame: one message of the greatest length, or several shorter ones."""
MAX_BACKLOG = 16384
"""Frames kept for a slow neighbour before its path is declared down."""
MAX_BACKLOG_BYTES = 64 << 20
"""Bytes kept for a slow neighbour before its path is declared down."""
MAX_QUESTION_BYTES = 256
"""Longest frame of a question; also of what a mere sender is sent: ZeroMQ's own greeting."""
LINGER_MS = 20
"""How long ``close`` waits, at most, for the kernel to take a last message."""
DRAIN_BATCH = 128
"""Messages taken from one neighbour before others get their turn."""
DRAIN_S = 0.02
"""Time after which they get it anyway: what messages lead to may take long, and a loop that does not turn
is one of a process that hangs."""
RECONNECT_MS, RECONNECT_MAX_MS = 2, 20
"""Wait before a lost neighbour's socket is looked for again, which recovery waits for; it doubles."""

_NOBLOCK, _POLLIN, _POLLOUT = int(zmq.NOBLOCK), int(zmq.POLLIN), int(zmq.POLLOUT)
"""Plain numbers: an operator of an enum class is Python code, and runs for each message."""

Handler = Callable[[str, bytes, bytes | memoryview], None]


class ZmqBus:
    """Whole messages to and from the neighbours of one process.

    Args:
        neighbours: label -> (endpoint to bind for what comes from it, endpoint to connect to).
        on_message: called with (label, header, payload) for each message, in order.
        on_batch: called after each drain with the label.
        guard: keys of the sockets to neighbours on another machine; without it none is there.
    """

    def __init__(
        self,
        neighbours: dict[str, tuple[str, str]],
        on_message: Handler,
        on_batch: Callable[[str], None],
        guard: Guard | None = None,
    ) -> None:
        self.on_message = on_message
        """May be replaced while it runs."""
        self._on_batch = on_batch
        self._context = zmq.Context(io_threads=1)
        self._in: dict[str, zmq.Socket[bytes]] = {}
        self._out: dict[str, zmq.Socket[bytes]] = {}
        self._group: dict[str, bytearray] = {}
        self._backlog: dict[str, deque[bytearray]] = {}
        self._backlog_bytes: dict[str, int] = {}
        self._sockets: list[zmq.Socket[bytes]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._guard = guard
        try:
            if guard is not None:
                guard.open(self._context)
            for label, (bind, connect) in neighbours.items():
                self._in[label] = self._socket(zmq.PULL, MAX_FRAME_BYTES)
                self._out[label] = self._socket(zmq.PUSH, MAX_QUESTION_BYTES)
                if guard is not None and label in guard.labels:
                    guard.listen(self._in[label], label, bind)
                    guard.connect(self._out[label], label, connect)
                else:
                    self._in[label].bind(bind)
                    self._out[label].connect(connect)
                self._backlog[label] = deque()
                self._backlog_bytes[label] = 0
        except zmq.ZMQError:
            self.close()
            raise

    def _socket(self, kind: int, max_frame_bytes: int) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        socket.set_hwm(HIGH_WATER_MARK)
        socket.setsockopt(zmq.MAXMSGSIZE, max_frame_bytes)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.IMMEDIATE, 1)
        socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_MAX_MS)
        self._sockets.append(socket)
        return socket

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Watch the sockets from now on."""
        self._loop = loop
        if self._guard is not None:
            self._guard.start(loop)
        for label, socket in self._in.items():
            loop.add_reader(socket.fileno(), self._drain, label)
            loop.call_soon(self._drain, label)
        for label, socket in self._out.items():
            loop.add_reader(socket.fileno(), self._flush, label)

    def serve(self, endpoint: str, answer: Callable[[bytes], bytes]) -> None:
        """Answer questions (status and the like) on a REP socket at ``endpoint``."""
        assert self._loop is not None
        socket = self._socket(zmq.REP, MAX_QUESTION_BYTES)
        socket.bind(endpoint)
        self._loop.add_reader(socket.fileno(), self._answer, socket, answer)
        self._loop.call_soon(self._answer, socket, answer)

    @staticmethod
    def _answer(socket: zmq.Socket[bytes], answer: Callable[[bytes], bytes]) -> None:
        while not socket.closed and _events(socket) & _POLLIN:
            try:
                question = socket.recv_multipart(_NOBLOCK)
            except zmq.Again:
                return  # who connected does not speak ZeroMQ: readable, yet nothing to read
            socket.send(answer(question[0]), _NOBLOCK)

    def _drain(self, label: str) -> None:
        socket = self._in[label]
        if socket.closed:
            return
        until_s = time.monotonic() + DRAIN_S
        for _ in range(DRAIN_BATCH):
            try:
                frame = socket.recv(_NOBLOCK)
            except zmq.Again:
                break
            for header, payload in split(frame):
                self.on_message(label, header, payload)
            if self._group:
                self.flush()
            # cheaper than to be refused the next message, and it arms the edge-triggered descriptor as well
            if not _events(socket) & _POLLIN:
                break
            if time.monotonic() > until_s:
                self._drain_later(label)
                break
        else:
            self._drain_later(label)
        self._on_batch(label)

    def _drain_later(self, label: str) -> None:
        assert self._loop is not None
        self._loop.call_soon(self._drain, label)

    def send(self, label: str, header: bytes, payload: bytes | memoryview) -> bool:
        """Send one message with the next ``flush``, behind earlier ones; False when the backlog is full."""
        group = self._group.get(label)
        if group is not None and len(group) + len(header) + len(payload) > MAX_FRAME_BYTES:
            self._send_group(label, self._group.pop(label))
            group = None
        if group is None:
            group = self._group[label] = bytearray()
        group += header
        group += payload
        backlog = self._backlog[label]
        return not backlog or (len(backlog) < MAX_BACKLOG and self._backlog_bytes[label] < MAX_BACKLOG_BYTES)

    def flush(self) -> None:
        """Hand everything that was sent to ZeroMQ, or keep it until that takes it."""
        while self._group:
            self._send_group(*self._group.popitem())

    def _send_group(self, label: str, frame: bytearray) -> None:
        backlog = self._backlog[label]
        if backlog or not self._push(self._out[label], frame):
            backlog.append(frame)
            self._backlog_bytes[label] += len(frame)
            self._flush(label)

    def send_now(self, label: str, header: bytes, payload: bytes | memoryview) -> bool:
        """Send a message of the path itself, or drop it when nobody is connected."""
        if label in self._group:
            self._send_group(label, self._group.pop(label))
        return not self._backlog[label] and self._push(self._out[label], header + bytes(payload))

    def forget(self, label: str) -> None:
        """Drop what waits for a neighbour: its session ended."""
        self._group.pop(label, None)
        self._backlog[label].clear()
        self._backlog_bytes[label] = 0

    @staticmethod
    def _push(socket: zmq.Socket[bytes], frame: bytes | bytearray) -> bool:
        try:
            socket.send(frame, _NOBLOCK)
        except zmq.Again:
            return False
        return True

    def _flush(self, label: str) -> None:
        socket, backlog = self._out[label], self._backlog[label]
        if socket.closed:
            return
        # reading EVENTS re-arms the edge-triggered descriptor
        while _events(socket) & _POLLOUT and backlog:
            if not self._push(socket, backlog[0]):
                return
            self._backlog_bytes[label] -= len(backlog.popleft())

    def backlog(self, label: str) -> int:
        """Frames waiting here for ``label``."""
        return len(self._backlog[label])

    def close(self, last_words: Collection[str] = ()) -> None:
        """Close every socket; only what was sent to the labels in ``last_words`` may linger."""
        for label in last_words:
            self._out[label].setsockopt(zmq.LINGER, LINGER_MS)
        if self._guard is not None:
            self._guard.close()
        for socket in self._sockets:
            if self._loop is not None and not socket.closed:
                self._loop.remove_reader(socket.fileno())
            socket.close()
        self._context.term()


def _events(socket: zmq.Socket[bytes]) -> int:
    events: int = socket.getsockopt(zmq.EVENTS)  # type: ignore[assignment]
    return events
