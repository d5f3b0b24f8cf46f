"""One running service of a simulated bridge: a device model and its paths, as the edge would drive them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from ntbnet.devices.effects import (
    Deliver,
    Effect,
    Log,
    Poll,
    Restart,
    Send,
    SetCarrier,
    StopQueue,
    Store,
    Wake,
)
from ntbnet.devices.memory import store_elsewhere
from ntbnet.devices.path import Path
from ntbnet.devices.peer import Peer
from ntbnet.edge.pending import Handle, PendingInterrupts
from ntbnet.edge.wake import decode as decode_wake
from ntbnet.topology import NODE_OF, neighbours, session_counter
from ntbnet.wire import Message

if TYPE_CHECKING:
    from tests.sim.world import World

US, MS, SECOND = 1_000, 1_000_000, 1_000_000_000

WAKE = "wake"

Frame = tuple[bytes, bytes]


class Device(Protocol):
    """What the models have in common."""

    def handle(self, src: str, message: Message, now_ns: int) -> Sequence[Effect]: ...

    def on_path(self, peer: str, up: bool, session: int, reason: str, now_ns: int) -> Sequence[Effect]: ...

    def next_deadline(self) -> int | None: ...

    def on_deadline(self, now_ns: int) -> Sequence[Effect]: ...

    def snapshot(self) -> dict[str, Any]: ...


class Process:
    """One running service."""

    def __init__(self, world: World, name: str, incarnation: int, device: Device) -> None:
        self.world = world
        self.name = name
        self.device = device
        self.interrupts = PendingInterrupts(self._tell)
        self.handle: Handle = self.interrupts.handle
        """Faults stand around it while there are any."""
        self.armed_ns: int | None = None
        self.polls = 0
        self.stopped = False
        self.is_paused = self.is_pumping = self.is_settling = False
        self.inbox: list[tuple[str, Frame]] = []
        self.suspended: list[Callable[[], None]] = []
        """What the step that was stopped in a store does when the process goes on."""
        self.waiting: deque[bytes] = deque()
        self.unsettled: deque[Path] = deque()
        timing = world.config.timing
        self.paths = {}
        for peer, initiator in neighbours(name).items():
            counter = session_counter(*((name, peer) if initiator else (peer, name)))
            self.paths[peer] = Path(
                name,
                peer,
                initiator=initiator,
                incarnation=incarnation,
                allocate_session=partial(world.next_session, counter),
                heartbeat_ns=timing.heartbeat_ms * MS,
                liveness_ns=timing.liveness_ms * MS,
                identity={"bridge": "sim"},
            )

    def receive(self, peer: str, frame: Frame) -> None:
        if self.is_paused:
            self.inbox.append((peer, frame))
            return
        now, path = self.world.now_ns, self.paths[peer]
        message = path.receive(*frame, now)
        if message is not None:
            self.perform(self.handle(peer, message, now))
        self.settle(path)
        self.end_step()

    def receive_wake(self, record: bytes) -> None:
        if self.is_paused:
            self.inbox.append((WAKE, (record, b"")))
            return
        src, message = decode_wake(record)
        self.perform(self.handle(src, message, self.world.now_ns))
        self.end_step()

    def settle(self, path: Path) -> None:
        outgoing, path.outgoing = path.outgoing, []
        changes, path.changes = path.changes, []
        if any(not up for up, _ in changes):
            self.interrupts.forget(path.peer)
        for header, payload in outgoing:
            self.world.carry(self.name, path.peer, (header, bytes(payload)))
        for up, reason in changes:
            session = path.session if up else 0
            self.world.note(self.name, "path.changed", peer=path.peer, up=up, session=session, reason=reason)
            if not reason.startswith("refused"):
                self.perform(self.device.on_path(path.peer, up, session, reason, self.world.now_ns))

    def perform(self, effects: Sequence[Effect]) -> None:
        if self.is_paused:
            self.suspended.append(partial(self.perform, effects))
            return
        now = self.world.now_ns
        for effect in effects:
            if isinstance(effect, Send):
                frames = self.paths[effect.dst].send(effect.message, now)
                if frames is not None:
                    self.world.carry(self.name, effect.dst, (frames[0], bytes(frames[1])))
            elif isinstance(effect, Store):
                effect.memory.store(effect.what, effect.offset, effect.data)
            elif isinstance(effect, Wake):
                store_elsewhere(effect.what, self.world.wake, self.name, effect.dst, effect.message)
            elif isinstance(effect, Deliver):
                self.world.delivered[NODE_OF[self.name]].append(bytes(effect.packet))
            elif isinstance(effect, Log):
                self.world.note(self.name, effect.event, **effect.keys)
            elif isinstance(effect, SetCarrier):
                self.world.carrier[NODE_OF[self.name]] = effect.up
            elif isinstance(effect, StopQueue):
                self.stopped = effect.stopped
            elif isinstance(effect, Poll):
                self.polls += 1
                self.poll_every(effect.period_ns, self.polls)
            elif isinstance(effect, Restart):
                path = self.paths[effect.dst]
                path.surprise_down(effect.reason, now)
                self.unsettled.append(path)
        if not self.is_settling:
            self.is_settling = True
            while self.unsettled:
                self.settle(self.unsettled.popleft())
            self.is_settling = False
        self.pump()

    def pump(self) -> None:
        device = self.device
        if self.is_pumping or not isinstance(device, Peer):
            return
        self.is_pumping, sent = True, False
        while self.waiting and not (self.stopped or self.is_paused):
            packet = self.world.offload_header + self.waiting.popleft()
            device.receive_buffer()[: len(packet)] = packet
            self.perform(device.transmit(len(packet), self.world.now_ns))
            sent = True
        if sent:
            self.perform(device.end_burst(self.world.now_ns))
        self.is_pumping = False

    def poll_every(self, period_ns: int, number: int) -> None:
        """Poll until the next Poll effect; a process that is stopped misses its looks."""
        device = self.device
        if not period_ns or not isinstance(device, Peer):
            return

        def look() -> None:
            if self.polls != number or self.world.processes.get(self.name) is not self:
                return
            if not self.is_paused:
                self.poll()
            if self.polls == number:
                self.world.at(self.world.now_ns + period_ns, look)

        self.world.at(self.world.now_ns + period_ns, look)

    def poll(self) -> None:
        """What the model does when it is to look by itself."""
        assert isinstance(self.device, Peer)
        self.perform(self.device.poll(self.world.now_ns))
        self.end_step()

    def on_timer(self) -> None:
        now = self.world.now_ns
        for path in self.paths.values():
            if path.next_deadline() <= now:
                path.on_deadline(now)
            self.settle(path)
        due = self.device.next_deadline()
        if due is not None and due <= now:
            self.perform(self.device.on_deadline(now))
        self.end_step()

    def _tell(self, src: str, message: Message, now_ns: int) -> Sequence[Effect]:
        """Tell the device, which a test may have replaced."""
        return self.device.handle(src, message, now_ns)

    def end_step(self) -> None:
        for src, message in self.interrupts.end_step():
            self.perform(self.device.handle(src, message, self.world.now_ns))
        self.arm()

    def arm(self) -> None:
        deadline = min(path.next_deadline() for path in self.paths.values())
        due = self.device.next_deadline()
        if due is not None:
            deadline = min(deadline, due)
        deadline = max(deadline, self.world.now_ns)
        if self.armed_ns is None or deadline < self.armed_ns:
            self.armed_ns = deadline
            self.world.at(deadline, lambda: self.fire(deadline))

    def fire(self, deadline: int) -> None:
        if self.armed_ns == deadline and self.world.processes.get(self.name) is self:
            self.armed_ns = None
            if not self.is_paused:
                self.on_timer()

    def catch_up(self) -> None:
        """What the model did behind a store that is done only now: it looked at its rings, and rang."""
        transport = self.device._transport if isinstance(self.device, Peer) else None
        for queue in () if transport is None else transport.queues:
            if queue.active:
                queue.run_rx()
                queue.tx.ring_anyway()
        if isinstance(self.device, Peer):
            self.perform(self.device.end_burst(self.world.now_ns))

    def resume(self) -> None:
        if self.world.processes.get(self.name) is not self:
            return
        self.is_paused = False
        suspended, self.suspended = self.suspended, []
        self.is_pumping = True  # nothing new before what was begun
        for go_on in suspended:
            go_on()
        self.is_pumping = False
        self.catch_up()
        inbox, self.inbox = self.inbox, []
        for peer, frame in inbox:
            if peer == WAKE:
                self.receive_wake(frame[0])
            else:
                self.receive(peer, frame)
        self.armed_ns = None
        self.on_timer()
