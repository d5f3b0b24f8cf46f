"""Everything a device may ask of the world; the driver in ``edge/`` performs it.

A device model takes (message, now_ns) and returns effects: it neither sends, logs nor
sleeps, so the same model runs in a process, in a unit test and in virtual time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from ntbnet.devices.memory import Window
from ntbnet.wire import Irq, MemWrite, Message


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
class Poll:
    """Call ``poll`` of the device every ``period_ns`` from now on; 0: no more."""

    period_ns: int


@dataclass(slots=True)
class Restart:
    """Bring the path to ``dst`` down and up again: a new session, nothing of the old one applied."""

    dst: str
    reason: str


@dataclass(slots=True)
class Wake:
    """Tell service ``dst`` of an Irq, or of a 32-bit MemWrite to its registers, past every path.

    Fabric ``local`` only. Equal interrupts of one step may collapse; direct stores made before are seen
    first.
    """

    dst: str
    message: Irq | MemWrite
    what: str = ""
    """Name of the store (see ``crash_points``); empty for what is none."""


@dataclass(slots=True)
class Store:
    """Store ``data`` at ``offset`` of ``memory``: a direct store that stays behind earlier effects."""

    memory: Window
    offset: int
    data: bytes
    what: str = "direct"
    """Name of the store (see ``crash_points``)."""


Effect: TypeAlias = Send | Wake | Store | Log | Deliver | SetCarrier | StopQueue | Poll | Restart


class Outbox:
    """Collects the effects of one step in order; shared by the parts of one composed device."""

    __slots__ = ("effects", "wakes")

    def __init__(self, *, wakes: bool = False) -> None:
        """Start empty; ``wakes``: ``signal`` goes past the paths (fabric ``local``)."""
        self.effects: list[Effect] = []
        self.wakes = wakes

    def send(self, dst: str, message: Message) -> None:
        """Queue ``message`` for ``dst`` behind everything queued before it."""
        self.effects.append(Send(dst, message))

    def signal(self, dst: str, message: Irq | MemWrite) -> None:
        """Queue an interrupt, or a 32-bit store to registers, that need not stay behind earlier messages."""
        self.effects.append(self.signal_of(dst, message))

    def signal_of(self, dst: str, message: Irq | MemWrite) -> Effect:
        """What ``signal`` queues; for signals that are always the same, to be queued with ``add``."""
        return Wake(dst, message) if self.wakes else Send(dst, message)

    def wake(self, dst: str, message: Irq | MemWrite, what: str = "") -> None:
        """Queue a wake of ``dst``; ``what`` names a store."""
        self.effects.append(Wake(dst, message, what))

    def log(self, event: str, **keys: Any) -> None:
        """Queue one structured event."""
        self.effects.append(Log(event, keys))

    def add(self, effect: Effect) -> None:
        """Queue any other effect."""
        self.effects.append(effect)

    def drop_stores(self) -> None:
        """Forget direct stores that are not done yet: the host leaves the link epoch they belong to."""
        self.effects = [effect for effect in self.effects if not isinstance(effect, Store)]

    def take(self) -> list[Effect]:
        """Everything queued since the last call, oldest first."""
        if not self.effects:
            return []
        effects, self.effects = self.effects, []
        return effects
