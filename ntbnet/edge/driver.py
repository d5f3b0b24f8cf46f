"""The one loop of a service: receive, let the device handle, perform its effects, arm the timer.

A device is any object with the methods of ``Device``. This module owns everything a device may
not touch: sockets, clocks, the TUN, the log.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

import msgpack

from ntbnet.address import hex_address
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
from ntbnet.devices.memory import are_stores_watched, store_elsewhere
from ntbnet.devices.path import Path
from ntbnet.edge.bus import ZmqBus
from ntbnet.edge.clock import Timer, monotonic_ns
from ntbnet.edge.packets import PacketDevice, Packets
from ntbnet.edge.pending import PendingInterrupts
from ntbnet.edge.stopwatch import Stopwatch
from ntbnet.edge.trace_source import TraceSource
from ntbnet.edge.tun import Tun
from ntbnet.edge.wake import RECORD_BYTES as WAKE_BYTES
from ntbnet.edge.wake import Wakes
from ntbnet.errors import KernelError
from ntbnet.log import FLOW, Logger
from ntbnet.trace_records import message_flow
from ntbnet.wire import Irq, MemWrite, Message, route_of

if TYPE_CHECKING:
    from ntbnet.edge.curve import Guard
    from ntbnet.edge.fault_source import FaultSource
    from ntbnet.edge.faulty import FaultLayer
    from ntbnet.edge.tracer import Tracer


BEAT_NS = 250_000_000
"""Least time between two beats of the flight recorder."""


class Device(Protocol):
    """What every composed device offers the driver."""

    def handle(self, src: str, message: Message, now_ns: int) -> Sequence[Effect]:
        """A checked message from the neighbour ``src``."""

    def on_path(self, peer: str, up: bool, session: int, reason: str, now_ns: int) -> Sequence[Effect]:
        """The path to ``peer`` came up in ``session``, or went down (session 0)."""

    def next_deadline(self) -> int | None:
        """Monotonic ns of the next thing to do unasked, or None."""

    def on_deadline(self, now_ns: int) -> Sequence[Effect]:
        """Do what is due at ``now_ns``."""

    def snapshot(self) -> dict[str, Any]:
        """State and counters for ``status``."""


@runtime_checkable
class LeavingDevice(Device, Protocol):
    """A device that tells its neighbours before it ends."""

    def shutdown(self, now_ns: int) -> Sequence[Effect]:
        """Begin to leave; goes on with every message and deadline."""

    def is_shut_down(self) -> bool:
        """True once there is nothing left to wait for."""


@runtime_checkable
class SignalledDevice(Device, Protocol):
    """A device whose CPU some writes interrupt: message-signalled interrupts."""

    def is_interrupt(self, src: str, message: Message) -> bool:
        """True for such a write of the neighbour ``src``."""


@runtime_checkable
class CommandedDevice(Device, Protocol):
    """A device that people give commands to, at the questions' socket."""

    def command(self, words: Sequence[str], now_ns: int) -> Sequence[Effect]:
        """Begin to do what the words say. KernelError when it cannot, or does not know them."""


@runtime_checkable
class CountingDevice(Device, Protocol):
    """A device with a network interface."""

    def packet_counts(self) -> tuple[int, int]:
        """Packets sent to the other node and received from it, since the interface was made."""


class Driver:
    """Runs one device on an event loop.

    Args:
        device: the service's model.
        paths: one for each neighbour, by its label.
        neighbours: socket endpoints by label, as ``ZmqBus`` takes them.
        log: where ``Log`` effects and path changes go.
        tun: the node's interface, for a PacketDevice.
        service: label of the service; needed for wakes.
        wake_path: service label -> its FIFO, in fabric ``local``; without it nobody is woken.
        faults: says what to inject; None: never anything.
        guard: keys of the sockets to neighbours on another machine.
        traces: the flight recorder, and traces; None: neither.
    """

    def __init__(
        self,
        device: Device,
        paths: dict[str, Path],
        neighbours: dict[str, tuple[str, str]],
        log: Logger,
        tun: Tun | None = None,
        clock: Callable[[], int] = monotonic_ns,
        *,
        service: str = "",
        wake_path: Callable[[str], FilePath] | None = None,
        faults: FaultSource | None = None,
        guard: Guard | None = None,
        traces: TraceSource | None = None,
    ) -> None:
        self._fault_source = faults
        if faults is not None:
            faults.before_death = self._write_down_now
        self._traces = traces
        self._tracer: Tracer | None = None
        self._beat_ns = 0
        """When the flight recorder is told next how much happened."""
        self._faults: FaultLayer | None = None
        self._device = device
        self._paths = paths
        self._log = log
        self._tun = tun
        self._clock = clock
        self._timer = Timer()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._unsettled: deque[Path] = deque()
        self._paths_moved = True
        """A path's next deadline may have come nearer."""
        self._left: asyncio.Event | None = None
        self._logged_refusals: set[tuple[str, str]] = set()
        self.tun_write_drops = 0
        self._interrupts = PendingInterrupts(device.handle)
        self.failure: BaseException | None = None
        self._wakes = None if wake_path is None else Wakes(service, wake_path, self._on_wake, self._end_step)
        self._guard = guard
        self._bus = ZmqBus(neighbours, self._on_message, self._on_batch, guard)
        self._stopwatch: Stopwatch | None = None
        self._packets: Packets | None = None
        if tun is not None:
            # only packet devices get a TUN
            self._packets = Packets(cast("PacketDevice", device), tun, clock, self._perform, self._end_step)
        self._call_directly()

    def _call_directly(self) -> None:
        """All passes through these; faults, stopwatch and tracer stand around them while there are any."""
        self._bus.on_message = self._on_message
        self._handle: Callable[[str, Message, int], Sequence[Effect]] = self._interrupts.handle
        self._on_deadline: Callable[[int], Sequence[Effect]] = self._device.on_deadline
        self._send: Callable[[str, bytes, bytes | memoryview], bool] = self._bus.send
        self._send_now: Callable[[str, bytes, bytes | memoryview], bool] = self._bus.send_now
        self._forget: Callable[[str], None] = self._bus.forget
        self._flush: Callable[[], None] = self._hand_over
        self._write_down: Callable[[], None] = _nothing
        if self._tun is not None and self._packets is not None:
            self._packets.call_directly()
            self._write_tun: Callable[[memoryview, bytes], bool] = self._tun.write
        self._act: Callable[[str, Message, int, bytes], None] = self._handle_message
        self._run_interrupt: Callable[[str, Irq | MemWrite], None] = self._handle_interrupt
        self._repeat_interrupt: Callable[[str, Irq | MemWrite], None] = self._handle_again
        self._again: Callable[[str, Irq | MemWrite], None] = self._on_wake
        """Takes wakes that faults repeat."""
        if self._wakes is not None:
            self._wakes.on_wake = self._on_wake
            self._wakes.on_lost = lambda _dst, _record: None
            self._wake: Callable[[str, Irq | MemWrite], bool] = self._wakes.send

    def _connect(self) -> None:
        self._call_directly()
        if self._faults is not None:
            self._handle = self._faults.around_handle(self._handle)
        if self._stopwatch is not None:
            self._handle = self._stopwatch.around("in", self._handle)
        if self._tracer is not None:
            self._trace_what_comes(self._tracer)
        if self._faults is not None:
            self._call_faulty(self._faults)
        if self._stopwatch is not None:
            self._time_everything(self._stopwatch)
        if self._tracer is not None:
            self._trace_what_goes(self._tracer)

    def inject(self, faults: FaultLayer | None) -> None:
        """Have everything pass through ``faults`` from now on, or through nothing."""
        assert self._loop is not None, "only a driver that was started injects"
        self._faults = faults
        if faults is not None:
            device = self._device
            signalled = (device.is_interrupt,) if isinstance(device, SignalledDevice) else ()
            faults.attach(self._clock, self._loop, self._end_step, self._interrupt, self._paths, *signalled)
        self._connect()

    def _call_faulty(self, faults: FaultLayer) -> None:
        self._send, self._send_now = faults.around_sends(self._send, self._send_now)
        self._forget = faults.around_forget(self._forget)
        if self._packets is not None:
            self._packets.read = faults.around_read(self._packets.read)
            self._write_tun = faults.around_write(self._write_tun)
        if self._wakes is not None:
            self._wakes.on_wake = faults.around_on_wake(self._wakes.on_wake, self._again, self._note_lost)
            self._wake = faults.around_wake(self._wake)

    def _time_everything(self, stopwatch: Stopwatch) -> None:
        self._bus.on_message = stopwatch.around("arrived", self._on_message)
        self._send = stopwatch.around("out", self._send)
        self._flush = stopwatch.around_flush(self._flush)
        if self._packets is not None:
            self._packets.read = stopwatch.around_read(self._packets.read)
            self._write_tun = stopwatch.around_write(self._write_tun)
        if self._wakes is not None:
            self._wakes.on_wake = stopwatch.around("arrived", self._wakes.on_wake)
            self._wake = stopwatch.around("wake", self._wake)

    def trace(self, tracer: Tracer | None) -> None:
        """Have everything that passes noted by ``tracer`` from now on, or by nobody."""
        if (tracer is None) != (self._tracer is None):
            from ntbnet.devices.trace_points import unwatch, watch

            unwatch() if tracer is None else watch(tracer)
        if self._tracer is not None:
            self._tracer.later.settle()
        self._tracer = tracer
        self._connect()

    def _trace_what_comes(self, tracer: Tracer) -> None:
        """Inside of the faults: what is noted is what was handled."""
        wakes, interrupts = tracer.wakes, self._interrupts
        self._act = tracer.around_act(self._act, interrupts)
        self._run_interrupt = wakes.around_interrupt(self._run_interrupt, interrupts)
        self._repeat_interrupt = wakes.around_interrupt(self._repeat_interrupt, interrupts)
        if self._wakes is not None:
            way = interrupts, self._handle, self._perform
            self._wakes.on_wake = wakes.taker(*way)
            self._again = wakes.taker(*way, is_again=True)

    def _trace_what_goes(self, tracer: Tracer) -> None:
        """Outside of them."""
        self._send = tracer.around_send(self._send)
        self._write_down = tracer.later.settle
        self._on_deadline = tracer.packets.around_deadline(self._on_deadline)
        packets = self._packets
        if packets is not None:
            around = packets.transmit, packets.end_burst, packets
            packets.transmit, packets.end_burst = tracer.packets.around_burst(*around)
            packets.poll = tracer.packets.around_poll(packets.poll)
            self._write_tun = tracer.packets.around_write(self._write_tun)
        if self._wakes is not None:
            self._wake = tracer.wakes.around_wake(self._wake)
            self._wakes.on_lost = tracer.wakes.note_unsent

    def _note_lost(self, src: str, message: Irq | MemWrite) -> None:
        """A fault loses a wake."""
        if self._tracer is not None:
            self._tracer.wakes.note_lost(src, message)

    @property
    def device(self) -> Device:
        """The device that runs."""
        return self._device

    def on_packets(self, tell: Callable[[], None]) -> None:
        """Have ``tell`` called at each burst of packets of the node's stack."""
        if self._packets is not None:
            self._packets.on_packets = tell

    def start(
        self, loop: asyncio.AbstractEventLoop, question_endpoint: str, status: Callable[[], dict[str, Any]]
    ) -> None:
        """Begin: greet the neighbours, answer questions at ``question_endpoint``."""
        self._loop = loop
        self._bus.start(loop)
        if self._wakes is not None:
            self._wakes.start(loop)
        self._bus.serve(question_endpoint, lambda question: self._answer(question, status))
        loop.add_reader(self._timer.fd, self._on_timer)
        if self._packets is not None:
            self._packets.start(loop)
        self._on_timer()
        if self._fault_source is not None:
            self._fault_source.look_first(self)
        if self._traces is not None:
            self._traces.look_first(self)

    async def leave(self, patience_s: float) -> None:
        """Let the device end in order, for at most ``patience_s`` seconds."""
        device = self._device
        if not isinstance(device, LeavingDevice):
            return
        self._left = asyncio.Event()
        self.perform(device.shutdown(self._clock()))
        try:
            async with asyncio.timeout(patience_s):
                await self._left.wait()
        except TimeoutError:
            return

    def close(self) -> None:
        """Tell the neighbours, stop watching, close sockets and timer; the TUN stays its owner's."""
        if self._loop is not None:
            self._loop.remove_reader(self._timer.fd)
            if self._packets is not None:
                self._packets.close()
        if self._faults is not None:
            self._faults.end()
        self._flush()
        if self._wakes is not None:
            self._wakes.close()
        self._bus.close(last_words=self._take_leave())
        self._timer.close()
        self._write_down()

    def _take_leave(self) -> list[str]:
        """Send CLOSE on every path that is up; to whom."""
        told = []
        for label, path in self._paths.items():
            if not path.is_up:
                continue
            path.outgoing.clear()
            path.surprise_down("stopped", self._clock())
            self._forget(label)
            for header, payload in path.outgoing:
                self._send_now(label, header, payload)
            told.append(label)
        return told

    # messages

    def _on_message(self, label: str, header: bytes, payload: bytes | memoryview) -> None:
        path = self._paths[label]
        now_ns = self._clock()
        message = path.receive(header, payload, now_ns)
        if message is None:
            self._paths_moved = True
            if path.outgoing or path.changes:
                self._unsettled.append(path)
        else:
            self._act(label, message, now_ns, header)
        if self._unsettled:
            self._settle_all(now_ns)

    def _handle_message(self, label: str, message: Message, now_ns: int, header: bytes) -> None:
        effects = self._handle(label, message, now_ns)
        if effects:
            self._apply(effects, now_ns, header)

    def _on_batch(self, label: str) -> None:
        path = self._paths[label]
        if path.refused:
            self._log_refusals(path)
        self._end_step()

    def _on_wake(self, src: str, message: Irq | MemWrite) -> None:
        now_ns = self._clock()
        effects = self._handle(src, message, now_ns)
        if effects:
            self._perform(effects, now_ns)

    def _interrupt(self, src: str, message: Irq | MemWrite) -> bool:
        """An interrupt at this CPU, past the faults: the fault layer has it come again.

        Returns:
            False for one that is handled together with another one.
        """
        before = self._interrupts.collapsed[src]
        self._repeat_interrupt(src, message)
        return self._interrupts.collapsed[src] == before

    def _handle_again(self, src: str, message: Irq | MemWrite) -> None:
        now_ns = self._clock()
        self._perform(self._interrupts.handle(src, message, now_ns), now_ns)

    def _handle_interrupt(self, src: str, message: Irq | MemWrite) -> None:
        now_ns = self._clock()
        self._perform(self._device.handle(src, message, now_ns), now_ns)

    def _end_step(self) -> None:
        for src, message in self._interrupts.end_step():
            self._run_interrupt(src, message)
        self._flush()
        self._write_down()
        self._arm()

    def _write_down_now(self) -> None:
        self._write_down()

    def _hand_over(self) -> None:
        """Hand over what was sent: wakes last, behind the messages and stores of the same occasion."""
        self._bus.flush()
        if self._wakes is not None:
            self._wakes.flush()

    def _log_refusals(self, path: Path) -> None:
        for cause, count in path.refused.items():
            key = (path.peer, cause)
            if key not in self._logged_refusals:
                self._logged_refusals.add(key)
                self._log.emit("path.refused", peer=path.peer, cause=cause, count=count)

    def _settle_all(self, now_ns: int) -> None:
        while self._unsettled:
            self._settle(self._unsettled.popleft(), now_ns)

    def _settle(self, path: Path, now_ns: int) -> None:
        """Send what the path itself has to say; tell log and device of its ups and downs."""
        self._paths_moved = True
        outgoing, path.outgoing = path.outgoing, []
        changes, path.changes = path.changes, []
        if any(not up for up, _ in changes):
            self._forget(path.peer)
            self._interrupts.forget(path.peer)
        for header, payload in outgoing:
            self._send_now(path.peer, header, payload)
        for up, reason in changes:
            if up and not path.is_up:
                continue  # lost again by what an earlier change led to; that loss is told next
            session = path.session if up else 0
            self._log.emit("path.changed", peer=path.peer, up=up, session=session, reason=reason)
            if self._traces is not None:
                self._traces.path_changed(path.peer, up=up, session=session, reason=reason)
            if reason.startswith("refused"):
                continue
            self._apply(self._device.on_path(path.peer, up, session, reason, now_ns), now_ns)

    # effects

    def perform(self, effects: Sequence[Effect]) -> None:
        """Perform effects that nobody's message or deadline asked for."""
        self._perform(effects, self._clock())
        self._end_step()

    def _perform(self, effects: Sequence[Effect], now_ns: int) -> None:
        """Perform effects, and then those of the path changes they led to."""
        self._apply(effects, now_ns)
        if self._unsettled:
            self._settle_all(now_ns)

    def _apply(self, effects: Sequence[Effect], now_ns: int, header: bytes = b"") -> None:
        """Perform effects in order; a path that changes by them waits in ``_unsettled``.

        Args:
            effects: of the device.
            now_ns: of the occasion.
            header: of the message that they are the answer to.
        """
        for effect in effects:
            if isinstance(effect, Send):
                path = self._paths[effect.dst]
                frames = path.send(effect.message, now_ns)
                if path.is_sooner:
                    path.is_sooner, self._paths_moved = False, True
                if frames is not None and not self._send(effect.dst, *frames):
                    path.surprise_down("neighbour takes no more messages", now_ns)
                    self._unsettled.append(path)
            elif isinstance(effect, Wake):  # of no device in fabric message
                if effect.what and are_stores_watched():
                    store_elsewhere(effect.what, self._wake_at_once, effect)
                else:
                    self._wake(effect.dst, effect.message)
            elif isinstance(effect, Store):
                effect.memory.store(effect.what, effect.offset, effect.data)
            elif isinstance(effect, Deliver):
                if self._tun is not None and not self._write_tun(effect.packet, effect.offload_header):
                    self.tun_write_drops += 1
            elif isinstance(effect, Log):
                about = {FLOW: hex_address(message_flow(*route_of(header)))} if header else {}
                self._log.emit(effect.event, **effect.keys, **about)
            elif isinstance(effect, SetCarrier):
                if self._tun is not None:
                    self._tun.set_carrier(up=effect.up)
                    self._log.emit("netdev.carrier_changed", up=effect.up)
            elif isinstance(effect, StopQueue):
                if self._packets is not None:
                    self._packets.stop(effect.stopped)
            elif isinstance(effect, Poll):
                if self._packets is not None:
                    self._packets.poll_every(effect.period_ns)
            elif isinstance(effect, Restart):
                path = self._paths[effect.dst]
                path.surprise_down(effect.reason, now_ns)
                self._unsettled.append(path)

    def _wake_at_once(self, effect: Wake) -> None:
        """So that what is behind the store finds it done."""
        self._wake(effect.dst, effect.message)
        self._flush()

    # time

    def _on_timer(self) -> None:
        self._timer.expired()
        now_ns = self._clock()
        for path in self._paths.values():
            if path.next_deadline() <= now_ns:
                path.on_deadline(now_ns)
            if path.outgoing or path.changes:
                self._unsettled.append(path)
        self._settle_all(now_ns)
        self._paths_moved = True
        due = self._device.next_deadline()
        if due is not None and due <= now_ns:
            self._perform(self._on_deadline(now_ns), now_ns)
        if now_ns >= self._beat_ns and self._traces is not None:
            self._beat_ns = now_ns + BEAT_NS
            self._beat(self._traces)
        self._end_step()

    def _beat(self, traces: TraceSource) -> None:
        """Tell the flight recorder how much happened."""
        received = sum(path.received for path in self._paths.values())
        sent = sum(path.sent for path in self._paths.values())
        packets = self._device.packet_counts() if isinstance(self._device, CountingDevice) else (0, 0)
        traces.beat(
            received, sent, 0 if self._wakes is None else self._wakes.taken_bytes // WAKE_BYTES, packets
        )

    def _arm(self) -> None:
        """Let the timer fire no later than the next deadline; too early does no harm.

        The deadline of a path that only carries messages seldom comes nearer, so it is not asked for.
        """
        if self._left is not None and isinstance(self._device, LeavingDevice) and self._device.is_shut_down():
            self._left.set()
        deadline = self._device.next_deadline()
        if self._paths_moved:
            self._paths_moved = False
            of_paths = min(path.next_deadline() for path in self._paths.values())
            deadline = of_paths if deadline is None else min(deadline, of_paths)
        armed = self._timer.armed_ns
        if deadline is not None and (not armed or deadline < armed):
            self._timer.arm(deadline)

    # questions

    def _answer(self, question: bytes, status: Callable[[], dict[str, Any]]) -> bytes:
        word, _, number = question.partition(b" ")
        if question == b"status":
            answer: dict[str, Any] = status()
        elif word == b"stopwatch" and number.isdigit():
            answer = self._start_or_stop_watch(int(number))
        elif question == b"trace look" and self._traces is not None:
            answer = self._traces.look(self)
        elif question == b"trace" and self._traces is not None:
            answer = self._traces.report()
        elif question == b"faults look" and self._fault_source is not None:
            answer = self._fault_source.look(self)
        elif question == b"faults" and self._fault_source is not None:
            answer = self._fault_source.report()
        elif isinstance(self._device, CommandedDevice):
            answer = self._command(self._device, question.decode("ascii", "replace").split())
        else:
            answer = {"error": "unknown question"}
        packed: bytes = msgpack.packb(answer)
        return packed

    def _command(self, device: CommandedDevice, words: list[str]) -> dict[str, Any]:
        try:
            self.perform(device.command(words, self._clock()))
        except KernelError as failure:
            return {"error": str(failure)}
        return {"ok": True}

    def _start_or_stop_watch(self, points: int) -> dict[str, Any]:
        """Start anew, to keep that many points; 0 stops, and answers with what was kept."""
        stopwatch = self._stopwatch
        self._stopwatch = Stopwatch(self._clock, points) if points else None
        self._connect()
        if points:
            return {"ok": True}
        return {"error": "no stopwatch runs"} if stopwatch is None else stopwatch.as_body()

    def snapshot(self) -> dict[str, Any]:
        """State of the device and of every path."""
        return {
            **self._device.snapshot(),
            "paths": [path.snapshot() for path in self._paths.values()],
            "tun_write_drops": self.tun_write_drops,
            "wakes": self._count_wakes(),
            "security": {} if self._guard is None else self._guard.snapshot(),
        }

    def _count_wakes(self) -> dict[str, int]:
        """Wakes refused, dropped or merged; interrupts, by sender, that were handled with others."""
        counters = {} if self._wakes is None else dict(self._wakes.counters)
        collapsed = self._interrupts.collapsed.items()
        return counters | {f"interrupts_collapsed_from_{src}": count for src, count in collapsed if count}


def _nothing() -> None:
    """What is to be written down without a trace."""
