"""CURVE on the sockets between two machines: who may connect, and why somebody could not.

libzmq encrypts and authenticates each connection (CurveZMQ, ZeroMQ RFC 26) and asks in this process, by
ZAP (RFC 27) on ``inproc://zeromq.zap.01``, whether the public key of whoever connects is allowed: each
socket here is one neighbour's, so it has to be the key of that neighbour's machine, not just a known one. The
answer comes from the event loop: neither a thread nor ``zmq.auth``'s asyncio is needed for one REP socket.

Whoever is refused says nothing in a log of ours, so both ends' socket monitors are read too: a plaintext or
damaged greeting at the end that listens, a refusal at the end that connects.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
from collections import Counter
from collections.abc import Collection
from typing import Any

import zmq
from zmq.utils import z85
from zmq.utils.monitor import recv_monitor_message

from ntbnet.edge.keys import KeyRing
from ntbnet.log import Logger

ZAP_ENDPOINT = "inproc://zeromq.zap.01"
ZAP_VERSION = b"1.0"
KEY_BYTES = 32
MAX_LOGGED = 64
"""Refusals that one process logs, each once; all are counted."""
HANDSHAKE_MS = 3000
"""Time that a connection has to prove who it is."""
CONNECT_MS = 1000
"""Time that one attempt to connect has: a cut cable answers nothing."""
RECONNECT_MS = (50, 500)
"""Least and most time between two attempts."""
REFUSED_RETRY_S = 1.0
"""Time before whoever was refused tries again: libzmq itself gives up for good then."""
_SILENCES = 2
"""A connection over which nothing comes for that many times the liveness is given up."""

_FAILURES = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)
_PLAINTEXT = "plaintext, or another mechanism than CURVE"
_WRONG_KEY = "greeting not made for this machine's key"
_PROTOCOL_ERRORS = {
    int(zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH): _PLAINTEXT,
    int(zmq.PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC): _WRONG_KEY,
    int(zmq.PROTOCOL_ERROR_ZMTP_KEY_EXCHANGE): _WRONG_KEY,
}


class Guard:
    """Keys on the sockets of one process that cross to the other machine.

    Args:
        ring: the machine's keys.
        labels: neighbours on the other machine.
        silence_ms: what the paths' ends take for a sign that the other one is gone, ms.
        log: where refusals go.
    """

    def __init__(self, ring: KeyRing, labels: Collection[str], silence_ms: int, log: Logger) -> None:
        self._ring = ring
        self.labels = frozenset(labels)
        self._timeout_ms = _SILENCES * silence_ms
        self._log = log
        self._peer = z85.decode(ring.peer)
        self._names = {z85.decode(key): name for name, key in ring.allowed.items()}
        self._zap: zmq.Socket[bytes] | None = None
        self._monitors: list[tuple[zmq.Socket[bytes], str, bool]] = []
        self._calling: dict[str, tuple[zmq.Socket[bytes], str]] = {}
        self._watched: list[zmq.Socket[bytes]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._logged: set[tuple[str, ...]] = set()
        self.counters: Counter[str] = Counter()
        self._reasons: dict[str, str] = {}

    def open(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        """Answer for keys in this context; comes before the first socket that listens."""
        self._zap = context.socket(zmq.REP)
        self._zap.setsockopt(zmq.LINGER, 0)
        self._zap.bind(ZAP_ENDPOINT)

    def listen(self, socket: zmq.Socket[bytes], label: str, endpoint: str) -> None:
        """Bind a socket that only allowed keys get in by."""
        socket.curve_server = True
        socket.setsockopt_string(zmq.ZAP_DOMAIN, label)
        self._prepare(socket, label, endpoint, listens=True)
        socket.bind(endpoint)

    def connect(self, socket: zmq.Socket[bytes], label: str, endpoint: str) -> None:
        """Connect a socket to the machine that has the peer's key, and to no other."""
        socket.curve_serverkey = self._ring.peer.encode()
        self._prepare(socket, label, endpoint, listens=False)
        socket.setsockopt(zmq.CONNECT_TIMEOUT, CONNECT_MS)
        socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS[0])
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_MS[1])
        self._calling[label] = socket, endpoint
        socket.connect(endpoint)

    def _prepare(self, socket: zmq.Socket[bytes], label: str, endpoint: str, *, listens: bool) -> None:
        socket.curve_publickey = self._ring.own.public.encode()
        socket.curve_secretkey = self._ring.own.secret.encode()
        socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
        socket.setsockopt(zmq.HEARTBEAT_IVL, max(self._timeout_ms // 4, 100))
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, self._timeout_ms)
        socket.setsockopt(zmq.TCP_MAXRT, self._timeout_ms)
        socket.setsockopt(zmq.IPV6, int(not _is_ipv4(endpoint)))
        monitor = socket.get_monitor_socket(_FAILURES | zmq.EVENT_HANDSHAKE_SUCCEEDED)
        self._watched.append(socket)
        self._monitors.append((monitor, label, listens))

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Answer and listen from now on."""
        assert self._zap is not None
        self._loop = loop
        loop.add_reader(self._zap.fileno(), self._answer)
        loop.call_soon(self._answer)
        for monitor in self._monitors:
            loop.add_reader(monitor[0].fileno(), self._on_event, *monitor)
            loop.call_soon(self._on_event, *monitor)

    def _answer(self) -> None:
        zap = self._zap
        while zap is not None and not zap.closed and int(zap.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            try:
                request = zap.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            zap.send_multipart(self._judge(request), zmq.NOBLOCK)

    def _judge(self, request: list[bytes]) -> list[bytes]:
        """The ZAP reply to a request: version, id, domain, address, identity, mechanism, key."""
        number = request[1] if len(request) > 1 else b""
        if len(request) != 7 or request[0] != ZAP_VERSION or request[5] != b"CURVE":
            return [ZAP_VERSION, number, b"400", b"no CURVE key", b"", b""]
        peer = request[2].decode(errors="replace")
        if peer not in self.labels or len(request[6]) != KEY_BYTES:
            return [ZAP_VERSION, number, b"400", b"no CURVE key", b"", b""]
        name = self._names.get(request[6])
        if name is not None and request[6] == self._peer:
            return [ZAP_VERSION, number, b"200", b"allowed", name.encode(), b""]
        cause = "no allowed key" if name is None else f"key of {name}, which is not the peer of this bridge"
        self.counters["keys_refused"] += 1
        key = z85.encode(request[6]).decode()
        if self._is_news("key", key):
            address = request[3].decode(errors="replace")
            self._log.emit("security.key_refused", peer=peer, address=address, key=key, cause=cause)
        what = "is not allowed" if name is None else f"is that of {name}, not of this bridge's peer"
        self._reasons[f"{peer} to here"] = f"key {key} {what}"
        return [ZAP_VERSION, number, b"400", b"key is not allowed", b"", b""]

    def _on_event(self, monitor: zmq.Socket[bytes], label: str, listens: bool) -> None:
        direction = f"{label} to here" if listens else f"here to {label}"
        while not monitor.closed and int(monitor.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            try:
                event = recv_monitor_message(monitor, zmq.NOBLOCK)
            except zmq.Again:
                return
            if event["event"] == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._reasons.pop(direction, None)
                continue
            cause = _cause(event["event"], event["value"], listens=listens)
            if cause is None:
                continue
            self.counters["handshakes_failed"] += 1
            self._reasons[direction] = cause
            if not listens and event["event"] != zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
                assert self._loop is not None
                self._loop.call_later(REFUSED_RETRY_S, self._call_again, label)
            if self._is_news("handshake", direction, cause):
                address = event["endpoint"].decode(errors="replace")
                self._log.emit("security.handshake_failed", direction=direction, address=address, cause=cause)

    def _call_again(self, label: str) -> None:
        socket, endpoint = self._calling[label]
        if socket.closed:
            return
        with contextlib.suppress(zmq.ZMQError):  # nothing is left of the refused connection
            socket.disconnect(endpoint)
        socket.connect(endpoint)

    def _is_news(self, *what: str) -> bool:
        if what in self._logged or len(self._logged) >= MAX_LOGGED:
            return False
        self._logged.add(what)
        return True

    def snapshot(self) -> dict[str, Any]:
        """For ``status``: counts, and why the other machine could not connect last."""
        return {
            **dict.fromkeys(("keys_refused", "handshakes_failed"), 0),
            **self.counters,
            "reasons": dict(self._reasons),
        }

    def close(self) -> None:
        """Stop; the guarded sockets are their owner's to close."""
        for socket in self._watched:
            if not socket.closed:
                socket.disable_monitor()
        for own in (self._zap, *(monitor for monitor, _, _ in self._monitors)):
            if own is not None and not own.closed:
                if self._loop is not None:
                    self._loop.remove_reader(own.fileno())
                own.close(linger=0)


def _cause(event: int, value: int, *, listens: bool) -> str | None:
    """What a failed handshake means, in words; None for what another event tells better."""
    if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
        return None if listens else "the other machine does not allow this machine's key"
    if event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
        return _PROTOCOL_ERRORS.get(value, f"greeting against the protocol ({value:#x})")
    if listens:
        return (
            f"ended in the handshake ({errno.errorcode.get(value, value)}): plaintext or a wrong key, perhaps"
        )
    return "the other machine ended the handshake: it is not the one whose key is given, or speaks no CURVE"


def _is_ipv4(endpoint: str) -> bool:
    try:
        ipaddress.IPv4Address(endpoint.removeprefix("tcp://").rpartition(":")[0])
    except ValueError:
        return False
    return True
