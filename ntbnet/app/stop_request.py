"""How a command that measures or breaks things is stopped: SIGTERM, SIGINT and SIGHUP are requests.

A handler that raises does so between any two instructions: within a ``finally``, within a finaliser, which
swallows it, within a library that is half-way through making something. (A ZeroMQ socket that was cut off
like that kept its context from ending, and the command with it, for good.) So a request is only noted, and
met where the command says that it waits: ``check``, ``pause``, ``readable`` and ``finish`` raise, once, and
every ``finally`` on the way out runs whole. What waits elsewhere must be short.

The main thread meets requests; in another one, and where nobody called ``hear``, these functions only wait.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Protocol

from ntbnet.edge.stop_signals import StopSignals

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
LOOK_S = 0.2
"""Between two looks at a request while a program's output is awaited."""


class HasDescriptor(Protocol):
    """What ``select`` takes."""

    def fileno(self) -> int: ...


class _Request:
    """Noted, and met."""

    def __init__(self) -> None:
        self.wake: int | None = None
        """An eventfd that is readable from the request on; None before ``hear``."""
        self.name: str | None = None
        """Of the signal; None without a request, and once it was met."""

    @property
    def wakes(self) -> list[int]:
        """What is readable from a request on, for who may meet it."""
        if self.wake is None or threading.current_thread() is not threading.main_thread():
            return []
        return [self.wake]

    def note(self, name: str) -> None:
        self.name = name
        assert self.wake is not None
        os.eventfd_write(self.wake, 1)


_request = _Request()


def hear() -> None:
    """From here on, to the end of the process, the signals are requests."""
    if _request.wake is None:
        _request.wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        StopSignals(STOP_SIGNALS).listen(_request.note)


def check() -> None:
    """Meet a request.

    Raises:
        SystemExit: with 128 and the signal's number.
    """
    name = _request.name
    if name is None or not _request.wakes:
        return
    _request.name = None
    os.eventfd_read(_request.wakes[0])  # the way out may wait too
    sys.exit(128 + signal.Signals[name])


def pause(seconds: float) -> None:
    """Wait that long, or until a request. Raises: as ``check``."""
    readable((), seconds)


def readable(files: Sequence[HasDescriptor], timeout_s: float | None) -> list[HasDescriptor]:
    """Those of ``files`` that can be read, once there is one or the time is over.

    Args:
        files: sockets, pipes and the like.
        timeout_s: seconds; None: however long it takes.

    Raises:
        as ``check``.
    """
    check()
    watched: list[int | HasDescriptor] = [*files, *_request.wakes]
    found, _, _ = select.select(watched, [], [], timeout_s)
    check()
    return [one for one in files if one in found]


def finish(process: subprocess.Popen[str], timeout_s: float, said: str | None = None) -> tuple[str, str]:
    """What a child process writes to its end, as ``communicate``.

    Args:
        process: its streams are pipes, or nobody's.
        timeout_s: seconds.
        said: to its stdin.

    Raises:
        subprocess.TimeoutExpired: it takes longer.
        as ``check``; the process still runs then.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        check()
        left_s = deadline - time.monotonic()
        try:
            return process.communicate(said, timeout=min(LOOK_S, max(left_s, 0)))
        except subprocess.TimeoutExpired:
            if left_s <= LOOK_S:
                raise
            said = None  # communicate goes on with what it was given first
