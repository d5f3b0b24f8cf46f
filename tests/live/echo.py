"""ICMP echo from a node, whose replies are all waited for.

``ping`` sends by the clock, and after its last request waits twice as long as the slowest reply took, or one
interval: on a busy machine a reply that comes later than that looks lost. Here a request is lost only when
nothing comes for much longer than a service may be silent.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from typing import Self

from ntbnet.edge.netns import inside

PATIENCE_S = 3.0
"""For each reply; a service that is silent for two seconds is replaced."""
_HEADER = struct.Struct("!BBHHH")
_FAMILIES = {
    4: (socket.AF_INET, socket.IPPROTO_ICMP, 8, 0),
    6: (socket.AF_INET6, socket.IPPROTO_ICMPV6, 128, 129),
}
"""Address family, protocol, and types of request and reply. Source: RFC 792, RFC 4443."""


class Echo:
    """Requests from a namespace to an address, numbered from 1; use as a context manager.

    Args:
        netns: name of the network namespace.
        address: IPv4 or IPv6.
    """

    def __init__(self, netns: str, address: str) -> None:
        self._address = address
        self._family, protocol, self._request, self._reply = _FAMILIES[6 if ":" in address else 4]
        with inside(netns):
            self._socket = socket.socket(self._family, socket.SOCK_RAW, protocol)
        self._identity = id(self) >> 4 & 0xFFFF
        self.sent: int = 0
        self.unanswered: set[int] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self) -> None:
        """The next request."""
        self.sent += 1
        self.unanswered.add(self.sent)
        packet = _HEADER.pack(self._request, 0, 0, self._identity, self.sent)
        # the kernel fills in that of ICMPv6, which covers addresses
        checksum = 0 if self._family is socket.AF_INET6 else _checksum(packet)
        # without a carrier: a request like any other that gets no answer
        with contextlib.suppress(OSError):
            self._socket.sendto(packet[:2] + checksum.to_bytes(2, "big") + packet[4:], (self._address, 0))

    def receive(self, timeout_s: float) -> bool:
        """Wait until no request is unanswered; False when the time is over before."""
        deadline_s = time.monotonic() + timeout_s
        while self.unanswered:
            left_s = max(deadline_s - time.monotonic(), 0)
            if not select.select([self._socket], [], [], left_s)[0]:
                return False
            packet = self._socket.recv(2048)
            if self._family is socket.AF_INET:
                packet = packet[(packet[0] & 0xF) * 4 :]
            kind, code, _, identity, number = _HEADER.unpack_from(packet)
            if (kind, code, identity) == (self._reply, 0, self._identity):
                self.unanswered.discard(number)
        return True


def echo(netns: str, address: str, count: int = 1, patience_s: float = PATIENCE_S) -> bool:
    """True when each of ``count`` requests is answered, the next one being sent then.

    Args:
        netns: name of the network namespace.
        address: IPv4 or IPv6.
        count: 1..65535.
        patience_s: how long each reply is waited for.
    """
    with Echo(netns, address) as one:
        for _ in range(count):
            one.send()
            if not one.receive(patience_s):
                return False
    return True


@contextlib.contextmanager
def echoes(netns: str, address: str, interval_s: float) -> Iterator[Echo]:
    """Requests by the clock while the block runs; behind it, each has to be answered."""
    is_over = threading.Event()

    def send() -> None:
        while not is_over.wait(interval_s):
            one.send()
            one.receive(0)

    with Echo(netns, address) as one:
        thread = threading.Thread(target=send)
        thread.start()
        try:
            yield one
        finally:
            is_over.set()
            thread.join()
        assert one.receive(PATIENCE_S), f"{sorted(one.unanswered)} of {one.sent} were not answered"


def _checksum(packet: bytes) -> int:
    words: int = sum(struct.unpack(f"!{len(packet) // 2}H", packet))
    return ~(words + (words >> 16)) & 0xFFFF
