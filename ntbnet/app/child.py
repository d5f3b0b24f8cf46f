"""One service process as its supervisor sees it: started, ready, silent, ended.

Every child holds one end of a socket pair: on it the child says READY, then shows that it lives;
its end tells the child that the supervisor ended.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ntbnet.app.forks import Forked, ForkServer, ended
from ntbnet.edge.lifeline import READY

SILENT_S = {"up": 2.0, "starting": 5.0}
"""Silence after which a service in that state counts as hung; it shows life every half second."""


@dataclass(slots=True, eq=False)
class Child:
    """One service process and its history."""

    name: str
    on_ready: Callable[[], None]
    process: Forked | None = None
    lifeline: socket.socket | None = None
    started_s: float = 0.0
    alive_s: float = 0.0
    restarts: int = 0
    failures: int = 0
    state: str = "down"
    """``starting``, ``up``, ``waiting`` (for its next start) or ``down``."""
    ready: asyncio.Event = field(default_factory=asyncio.Event)

    async def start(self, forks: ForkServer, words: Sequence[str], stdout: Path, stderr: Path) -> None:
        """Start the process; its predecessor, if any, has ended.

        Args:
            forks: where it comes from.
            words: module and arguments; the option that names the socket is added.
            stdout: file to append to.
            stderr: file to append to.

        Raises:
            OSError: a file cannot be opened or the process not made. Nothing was started then.
        """
        self.close()
        ours, theirs = socket.socketpair()
        try:
            with theirs, stdout.open("ab") as out, stderr.open("ab") as err:
                self.process = await forks.fork(words, out.fileno(), err.fileno(), theirs.fileno())
        except BaseException:
            ours.close()
            raise
        ours.setblocking(False)
        self.lifeline = ours
        self.state = "starting"
        self.ready = asyncio.Event()
        self.started_s = self.alive_s = time.monotonic()
        asyncio.get_running_loop().add_reader(ours.fileno(), self._on_lifeline, ours)

    @property
    def is_running(self) -> bool:
        """True while there is a process, ready or not."""
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        """Id of the process, which was started once."""
        assert self.process is not None
        return self.process.pid

    def is_hung(self, now_s: float) -> bool:
        """True when the process shows no life for longer than its state allows."""
        return self.is_running and now_s - self.alive_s > SILENT_S.get(self.state, float("inf"))

    def kill(self) -> None:
        """SIGKILL, if it runs; whoever waits in ``ended`` learns of it."""
        if self.process is not None:
            self.process.kill()

    def terminate(self) -> None:
        """SIGTERM, which a stopped process takes too."""
        if self.process is not None:
            self.process.terminate()
            self.process.send_signal(signal.SIGCONT)

    async def ended(self) -> int:
        """Wait status of the process, noticed through its pidfd."""
        assert self.process is not None
        return await ended(self.process)

    def close(self) -> None:
        """Give our end of the socket pair up: a child that lives ends."""
        if self.lifeline is not None:
            asyncio.get_running_loop().remove_reader(self.lifeline.fileno())
            self.lifeline.close()
            self.lifeline = None

    def _on_lifeline(self, lifeline: socket.socket) -> None:
        try:
            data = lifeline.recv(64)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        self.alive_s = time.monotonic()
        if data.startswith(READY):
            self.state = "up"
            self.ready.set()
            self.on_ready()
