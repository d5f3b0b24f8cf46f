"""A supervised service's end of the lifeline: the socket pair that tells it and its supervisor of each other.

The service says READY once, then shows that it lives; the end of the socket is the end of the supervisor.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import Callable

from ntbnet.edge.log_rotation import take_log

READY = b"READY\n"
ALIVE = b"."
ALIVE_INTERVAL_S = 0.5
"""How often a supervised service shows that its loop runs."""


def announce(
    loop: asyncio.AbstractEventLoop, notify_fd: int, request_stop: Callable[[str], None]
) -> socket.socket | None:
    """Tell the supervisor that we are ready, and end when it ends."""
    if notify_fd < 0:
        return None
    lifeline = socket.socket(fileno=notify_fd)
    lifeline.setblocking(False)

    def on_readable() -> None:
        try:
            data = take_log(lifeline, sys.stdout.fileno())
        except ConnectionError:
            data = b""
        if not data:
            request_stop("supervisor is gone")

    def show_life() -> None:
        if lifeline.fileno() >= 0:
            with contextlib.suppress(OSError):
                lifeline.send(ALIVE)
            loop.call_later(ALIVE_INTERVAL_S, show_life)

    loop.add_reader(lifeline.fileno(), on_readable)
    lifeline.send(READY)
    loop.call_later(ALIVE_INTERVAL_S, show_life)
    return lifeline
