"""A UDP ping-pong of our own, for machines without sockperf and wherever single trips are looked at.

By the same definition: one message of 14 bytes in flight, latency is half of a round trip, the first
moments are not counted.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from struct import Struct

from ntbnet.app.process_end import process_end
from ntbnet.app.stop_request import check
from ntbnet.edge.netns import inside
from ntbnet.errors import SetupError

MESSAGE_BYTES = 14
REPLY_TIMEOUT_S = 0.5
"""A message without an answer after that long is dropped."""
MAX_DROPPED = 8
"""Dropped messages after which nothing is to be expected any more."""

_MESSAGE = Struct(f"<Q{MESSAGE_BYTES - 8}x")
_TIMEVAL = Struct("@ll")


@dataclass(slots=True)
class Trips:
    """What a ping-pong measured.

    Attributes:
        spans: (sent, received) of each counted trip, monotonic ns, in order.
        sent: all messages, also those of trips that are not counted.
    """

    spans: list[tuple[int, int]] = field(default_factory=list)
    sent: int = 0
    dropped: int = 0
    duplicated: int = 0
    out_of_order: int = 0

    def latencies_us(self) -> list[float]:
        """Half of each counted round trip, microseconds."""
        return [(received - sent) / 2000 for sent, received in self.spans]


def udp_inside(namespace: str) -> socket.socket:
    """A UDP socket that lives in a network namespace."""
    with inside(namespace):
        return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


def ping_pong(
    namespaces: tuple[str, str],
    address: str,
    *,
    seconds: float,
    warm_up_s: float = 0.4,
    most: int | None = None,
    reply_timeout_s: float = REPLY_TIMEOUT_S,
    open_socket: Callable[[str], socket.socket] = udp_inside,
    serve: Callable[[socket.socket], AbstractContextManager[None]] | None = None,
) -> Trips:
    """Send to an echo server in the other namespace, one message at a time.

    Args:
        namespaces: of the sender and of the echo server.
        address: IPv4 address of the server.
        seconds: how long, without warming up.
        warm_up_s: how long trips are not counted at first.
        most: counted trips after which it ends early.
        reply_timeout_s: after which a message is dropped.
        open_socket: makes a UDP socket in a namespace.
        serve: echoes on a bound socket while it is entered; None: ``echo_process``.

    Raises:
        SetupError: nothing, or next to nothing, comes back.
    """
    with open_socket(namespaces[1]) as server, open_socket(namespaces[0]) as client:
        server.bind((address, 0))
        client.connect(server.getsockname())
        # not settimeout: that polls before each call, which is part of what is measured
        seconds_part, rest = divmod(reply_timeout_s, 1)
        timeout = _TIMEVAL.pack(int(seconds_part), int(rest * 1_000_000))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)
        with (serve or echo_process)(server):
            return _exchange(client, seconds, warm_up_s, most)


@contextlib.contextmanager
def echo_process(server: socket.socket) -> Iterator[None]:
    """A process sends back what comes to ``server``, a bound socket.

    Raises:
        SetupError: it does not start.
    """
    fd = server.fileno()
    with process_end("ntbnet.app.echo", (str(fd),), (fd,)):
        yield


def _exchange(client: socket.socket, seconds: float, warm_up_s: float, most: int | None) -> Trips:
    trips, late = Trips(), set[int]()
    counted_ns = time.monotonic_ns() + int(warm_up_s * 1e9)
    end_ns = counted_ns + int(seconds * 1e9)
    while time.monotonic_ns() < end_ns and (most is None or len(trips.spans) < most):
        check()
        number = trips.sent
        trips.sent += 1
        sent_ns = time.monotonic_ns()
        client.send(_MESSAGE.pack(number))
        received_ns = _await_reply(client, number, trips, late)
        if received_ns is None:
            late.add(number)
            trips.dropped += 1
            if trips.dropped >= MAX_DROPPED:
                break
        elif sent_ns >= counted_ns:
            trips.spans.append((sent_ns, received_ns))
    if not trips.spans:
        raise SetupError(
            f"ping-pong: {trips.sent} messages sent, {trips.dropped} got no answer, none counted"
        )
    return trips


def _await_reply(client: socket.socket, number: int, trips: Trips, late: set[int]) -> int | None:
    """When the reply to message ``number`` came; None when it does not. Others are counted."""
    while True:
        try:
            reply = client.recv(64)
        except BlockingIOError:
            return None
        received_ns = time.monotonic_ns()
        answered = _MESSAGE.unpack(reply)[0] if len(reply) == MESSAGE_BYTES else number + 1
        if answered == number:
            return received_ns
        if answered in late:
            # not dropped after all, but overtaken
            late.remove(answered)
            trips.dropped -= 1
            trips.out_of_order += 1
        elif answered < number:
            trips.duplicated += 1
