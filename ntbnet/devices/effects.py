"""Everything a device may ask of the world; the driver in ``edge/`` performs it.

A device model takes (message, now_ns) and returns effects: it neither sends, logs nor
sleeps, so the same model runs in a process, in a unit test and in virtual time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from ntbnet.wire import Message


@dataclass(slots=True)
class Send:
    """Hand ``message`` to the path towards service ``dst``. Posted: no answer is implied."""

    dst: str
    message: Message


@dataclass(slots=True)
class Log:
    """One structured event; ``event`` is a row of ``log.EVENTS``, which fixes level and keys."""

    event: str
    keys: Mapping[str, Any]


@dataclass(slots=True)
class Deliver:
    """Give one IP packet (no link-layer header) to the node's network stack."""

    packet: memoryview
    offload_header: bytes = b""
    """What the node's interface wants in front of it: 10 bytes with offloads, none without."""


@dataclass(slots=True)
class SetCarrier:
    """Carrier of the node's interface: the state of its queue link."""

    up: bool


@dataclass(slots=True)
class StopQueue:
    """Take packets from the node's network stack no more (True), or again (False)."""

    stopped: bool


@dataclass(slots=True)
class Restart:
    """Bring the path to ``dst`` down and up again: a new session, nothing of the old one applied."""

    dst: str
    reason: str


Effect: TypeAlias = Send | Log | Deliver | SetCarrier | StopQueue | Restart


class Outbox:
    """Collects the effects of one step in order; shared by the parts of one composed device."""

    __slots__ = ("effects",)

    def __init__(self) -> None:
        self.effects: list[Effect] = []

    def send(self, dst: str, message: Message) -> None:
        """Queue ``message`` for ``dst`` behind everything queued before it."""
        self.effects.append(Send(dst, message))

    def log(self, event: str, **keys: Any) -> None:
        """Queue one structured event."""
        self.effects.append(Log(event, keys))

    def add(self, effect: Effect) -> None:
        """Queue any other effect."""
        self.effects.append(effect)

    def take(self) -> list[Effect]:
        """Everything queued since the last call, oldest first."""
        if not self.effects:
            return []
        effects, self.effects = self.effects, []
        return effects
