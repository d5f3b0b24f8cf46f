"""Two processes' ends joined by a fabric: the in-memory one of the simulations, and real ZeroMQ.

Both offer the same few methods, so that the same checks run on both: a fake is trusted only
because it passes what the real thing passes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path as FilePath
from typing import Protocol

import uvloop

from ntbnet.app.bare_service import BareDevice, bare_driver
from ntbnet.devices.effects import Effect, Send
from ntbnet.devices.path import Path
from ntbnet.edge.driver import Driver
from ntbnet.wire import MemWrite, Message

ENDS = ("rc-host", "epc")
HEARTBEAT_NS = 20_000_000
LIVENESS_NS = 1_000_000_000
TIMEOUT_S = 10.0
MAX_STEPS = 20_000


class Recorder(BareDevice):
    """A device that notes what reaches it."""

    def __init__(self, peer: str) -> None:
        self.peer = peer
        self.received: list[Message] = []
        self.ups = 0
        self.downs = 0
        self.reasons: list[str] = []
        self.is_up = False

    def handle(self, src: str, message: Message, now_ns: int) -> Sequence[Effect]:
        self.received.append(message)
        return ()

    def on_path(self, peer: str, up: bool, session: int, reason: str, now_ns: int) -> Sequence[Effect]:
        self.is_up = up
        self.ups += up
        self.downs += not up
        self.reasons.append(reason)
        return ()


class Fabric(Protocol):
    """What the checks use."""

    ends: dict[str, Recorder]

    def start(self, end: str) -> None:
        """Start (or start again, as a new process) one end."""

    def kill(self, end: str) -> None:
        """End one end without a word."""

    def stop(self, end: str) -> None:
        """End one end as its service does when told to."""

    def send(self, end: str, messages: Sequence[Message]) -> None:
        """Hand messages to one end's path."""

    def until(self, condition: Callable[[], bool]) -> None:
        """Let time pass until the condition holds; AssertionError when it never does."""


class Numbers:
    """Persisted counters, shared by both ends as the run folder is."""

    def __init__(self) -> None:
        self.session = 0
        self.incarnations = dict.fromkeys(ENDS, 0)

    def next_session(self) -> int:
        self.session += 1
        return self.session

    def path(self, end: str) -> Path:
        self.incarnations[end] += 1
        return Path(
            end,
            ENDS[1 - ENDS.index(end)],
            initiator=end == ENDS[0],
            incarnation=self.incarnations[end],
            allocate_session=self.next_session,
            heartbeat_ns=HEARTBEAT_NS,
            liveness_ns=LIVENESS_NS,
            identity={"bridge": "contract"},
        )


class MemoryFabric:
    """Path ends joined by lists, in virtual time."""

    def __init__(self) -> None:
        self._numbers = Numbers()
        self._paths: dict[str, Path] = {}
        self._queues: dict[str, list[tuple[bytes, bytes | memoryview]]] = {end: [] for end in ENDS}
        self._now_ns = 1
        self.ends: dict[str, Recorder] = {}

    def start(self, end: str) -> None:
        self._paths[end] = self._numbers.path(end)
        self.ends[end] = Recorder(self._paths[end].peer)

    def kill(self, end: str) -> None:
        del self._paths[end]
        self._queues[end].clear()

    def stop(self, end: str) -> None:
        path = self._paths[end]
        path.surprise_down("stopped", self._now_ns)
        self._queues[path.peer].extend(path.outgoing)
        self.kill(end)

    def send(self, end: str, messages: Sequence[Message]) -> None:
        path = self._paths[end]
        for message in messages:
            frames = path.send(message, self._now_ns)
            if frames is not None:
                self._queues[path.peer].append((frames[0], bytes(frames[1])))

    def until(self, condition: Callable[[], bool]) -> None:
        for _ in range(MAX_STEPS):
            if condition():
                return
            self._step()
        raise AssertionError("never happened")

    def _step(self) -> None:
        for end, path in list(self._paths.items()):
            queue, self._queues[end] = self._queues[end], []
            for header, payload in queue:
                message = path.receive(header, payload, self._now_ns)
                if message is not None:
                    self.ends[end].handle(path.peer, message, self._now_ns)
            if path.next_deadline() <= self._now_ns:
                path.on_deadline(self._now_ns)
            for up, reason in path.changes:
                self.ends[end].on_path(path.peer, up, path.session, reason, self._now_ns)
            path.changes.clear()
            if path.peer in self._paths:
                self._queues[path.peer].extend(path.outgoing)
            path.outgoing.clear()
        if not any(self._queues.values()) and self._paths:
            self._now_ns = max(self._now_ns + 1, min(path.next_deadline() for path in self._paths.values()))


class ZmqFabric:
    """The real driver and real sockets, both ends in one event loop.

    Args:
        endpoint: (sender, receiver) -> ZeroMQ endpoint.
    """

    def __init__(self, endpoint: Callable[[str, str], str]) -> None:
        self._endpoint = endpoint
        self._numbers = Numbers()
        self._paths: dict[str, Path] = {}
        self._drivers: dict[str, Driver] = {}
        self._loop = uvloop.new_event_loop()
        self.ends: dict[str, Recorder] = {}

    def start(self, end: str) -> None:
        path = self._numbers.path(end)
        device = Recorder(path.peer)
        driver = bare_driver(device, path, (self._endpoint(path.peer, end), self._endpoint(end, path.peer)))
        driver.start(self._loop, f"inproc://ask-{end}", dict)
        self._paths[end], self._drivers[end], self.ends[end] = path, driver, device

    def kill(self, end: str) -> None:
        # a path that is not up says no farewell
        self._paths[end].surprise_down("killed", 0)
        self.stop(end)

    def stop(self, end: str) -> None:
        self._drivers.pop(end).close()
        del self._paths[end]

    def send(self, end: str, messages: Sequence[Message]) -> None:
        peer = self._paths[end].peer
        self._drivers[end].perform([Send(peer, message) for message in messages])

    def until(self, condition: Callable[[], bool]) -> None:
        self._loop.run_until_complete(self._wait(condition))

    @staticmethod
    async def _wait(condition: Callable[[], bool]) -> None:
        # the drivers run as callbacks of this loop: giving it a turn is all there is to await
        try:
            async with asyncio.timeout(TIMEOUT_S):
                while not condition():  # noqa: ASYNC110  # the condition is about callbacks, not about a task
                    await asyncio.sleep(0.001)
        except TimeoutError:
            raise AssertionError("never happened") from None

    def close(self) -> None:
        for end in list(self._drivers):
            with contextlib.suppress(KeyError):
                self.kill(end)
        self._loop.close()


def ipc_endpoint(folder: FilePath) -> Callable[[str, str], str]:
    """Sockets in ``folder``."""
    return lambda src, dst: f"ipc://{folder}/{src}.{dst}.sock"


def writes(count: int, first: int = 0, size: int = 16) -> list[Message]:
    """Numbered writes of ``size`` bytes."""
    return [MemWrite(first + n, bytes([n & 0xFF]) * size, 1) for n in range(count)]
