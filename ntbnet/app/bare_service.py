"""A service with nothing in it but a path, a driver and a silent device: to measure and test those."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path as FilePath
from typing import Any

from ntbnet.devices.effects import Effect
from ntbnet.devices.path import Path
from ntbnet.edge.driver import Driver
from ntbnet.log import Logger
from ntbnet.wire import Message


class BareDevice:
    """See ``Device``; does nothing whatever comes."""

    def handle(self, src: str, message: Message, now_ns: int) -> Sequence[Effect]:
        """See ``Device``."""
        return ()

    def on_path(self, peer: str, up: bool, session: int, reason: str, now_ns: int) -> Sequence[Effect]:
        """See ``Device``."""
        return ()

    def next_deadline(self) -> int | None:
        """See ``Device``."""
        return None

    def on_deadline(self, now_ns: int) -> Sequence[Effect]:
        """See ``Device``."""
        return ()

    def snapshot(self) -> dict[str, Any]:
        """See ``Device``."""
        return {}


def bare_driver(
    device: BareDevice,
    path: Path,
    endpoints: tuple[str, str],
    wake_path: Callable[[str], FilePath] | None = None,
) -> Driver:
    """The driver of ``device``, which logs errors only.

    Args:
        device: takes what comes.
        path: to the one neighbour.
        endpoints: ZeroMQ endpoints to receive from, and to send to, the neighbour.
        wake_path: service label -> path of its FIFO; None without wakes.
    """
    me, sockets = path.me, {path.peer: endpoints}
    context: Mapping[str, Any] = {"run_id": "bare", "node": "rc", "service": me, "epoch": 1}
    log = Logger(sys.stderr, "error", dict(context))
    if wake_path is None:
        return Driver(device, {path.peer: path}, sockets, log)
    return Driver(device, {path.peer: path}, sockets, log, service=me, wake_path=wake_path)
