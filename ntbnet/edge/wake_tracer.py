"""A full trace of the wakes of one service: what stands in the driver's place, or around it, while one runs.

Both ends of a FIFO see the same wakes in the same order, and readers count them (``trace_wakes``). So each
wake that was taken is noted, also one that waits for the end of the step with those equal to it, and one that
a fault keeps from its handler.

Another process waits for what a step sends: these functions take what is gone later, and the rest waits
(``trace_later``).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from ntbnet.address import Span
from ntbnet.devices.effects import Effect
from ntbnet.devices.trace_points import NONE
from ntbnet.edge.packet_tracer import FramesDevice
from ntbnet.edge.pending import PendingInterrupts
from ntbnet.edge.trace_later import Later
from ntbnet.edge.wake import decode
from ntbnet.trace_records import AMOUNT_MAX, SERVICES, Flag, Handler, Kind, Result
from ntbnet.trace_stored import StoredFlag
from ntbnet.wire import Irq, IrqSource, MemWrite, Message

WakeFunction = Callable[[str, "Irq | MemWrite"], bool]
TakeWake = Callable[[str, "Irq | MemWrite"], None]
Handle = Callable[[str, Message, int], Sequence[Effect]]
Perform = Callable[[Sequence[Effect], int], None]
_MEM_WRITE, _LINE, _IRQ, _SLICE = int(Kind.MEM_WRITE), int(Kind.LINE), int(Kind.IRQ), int(Kind.SLICE)
_SENT, _WAKE = int(Flag.SENT), int(Flag.WAKE)
_SENT_WAKE = _SENT | _WAKE
_SENT_STORE = _SENT | _WAKE | int(Flag.DIRECT | Flag.TRANSLATED)
_HANDLED, _REGISTER = int(StoredFlag.HANDLED), int(StoredFlag.REGISTER)
_MERGED, _DROPPED = int(Result.MERGED), int(Result.DROPPED)
_AGAIN = int(Handler.AGAIN)
_EDMA_LINE = IrqSource.EDMA_LINE
_STALE = "stale_epoch"
MOST_STORES = 4096
"""Stores to registers whose wakes are yet to come; of more, the oldest are forgotten."""
MOST_PLACES = 64
"""Addresses whose place is remembered."""
MOST_MERGED = 256
"""Interrupts that wait for the end of the step and whose flows are known; of more, they are not."""


@runtime_checkable
class RegistersDevice(Protocol):
    """A device whose registers others store to."""

    counters: Counter[str]

    @property
    def register_span(self) -> Span:
        """Where they are."""


class Occasion:
    """What is handled now.

    Attributes:
        src: whose message or wake it is.
        flow: of that message, 0 without one.
    """

    __slots__ = ("flow", "src")

    def __init__(self) -> None:
        self.src = self.flow = 0


class WakeTracer:
    """Follows the wakes of one service.

    Args:
        later: has records written.
        clock: monotonic ns.
        device: of the service; of a store to a RegistersDevice it is also noted in which register.
        occasion: told whose wake is handled.
    """

    def __init__(self, later: Later, clock: Callable[[], int], device: object, occasion: Occasion) -> None:
        self._later, self._clock, self._occasion = later, clock, occasion
        self._frames = device if isinstance(device, FramesDevice) else None
        self._number = {label: SERVICES.index(label) for label in SERVICES if label}
        self._registers = device if isinstance(device, RegistersDevice) else None
        self._registers_at = 0 if self._registers is None else self._registers.register_span.base
        self._registers_bytes = 0 if self._registers is None else self._registers.register_span.size
        self._merged: dict[tuple[str, int, int], tuple[int, int]] = {}
        """Interrupts that wait for the end of the step: flags and flow of the first of each."""
        self.stores: deque[tuple[int, int]] = deque(maxlen=MOST_STORES)
        """Stores to another service's registers, which are wakes: address of the CPU, and there."""

        self._places: dict[int, tuple[int, int]] = {}
        """Address -> BAR and offset."""
        self._places_epoch = -1

    # in

    def taker(
        self, pending: PendingInterrupts, handle: Handle, perform: Perform, *, is_again: bool = False
    ) -> TakeWake:
        """What takes a wake as ``Driver`` does, and notes it; its flow is found by the reader.

        Args:
            pending: interrupts that wait for the end of the step.
            handle: the device's.
            perform: performs effects.
            is_again: of wakes that nobody sent; they have no flow.
        """
        flags = 0 if is_again else _WAKE
        clock, number, occasion, add = self._clock, self._number, self._occasion, self._later.add
        interrupt_came, store_came = self._interrupt_came, self._store_came
        counters = Counter[str]() if self._registers is None else self._registers.counters

        def take(src: str, message: Irq | MemWrite) -> None:
            now_ns = clock()
            occasion.src = number[src]
            arguments: list[Any] = [flags, occasion.src, message, now_ns, 0, False]
            if isinstance(message, Irq):
                merged = pending.merged
                add((interrupt_came, arguments))
                effects = handle(src, message, now_ns)
                if effects:
                    perform(effects, now_ns)
                if pending.merged != merged:
                    arguments[5] = True
                    self.merge(src, message, flags, 0)
                arguments[4] = clock()
                return
            stale = counters.get(_STALE, 0)
            add((store_came, arguments))
            effects = handle(src, message, now_ns)
            if effects:
                perform(effects, now_ns)
            arguments[5] = counters.get(_STALE, 0) == stale
            arguments[4] = clock()

        return take

    def _interrupt_came(
        self, flags: int, source: int, message: Irq, came_ns: int, ended_ns: int, is_merged: bool
    ) -> None:
        """One that was handled until ``ended_ns``, 0 for never, or that waits."""
        what, epoch, bits = message.source, message.epoch, message.bits
        kind = _LINE if what is _EDMA_LINE else _IRQ
        notes = self._later.notes
        if is_merged:
            notes.note(kind, flags, source, _MERGED, epoch, address=bits, slot=what, mono_ns=came_ns)
            return
        took = 0
        if ended_ns:
            flags, took = flags | _HANDLED, min(ended_ns - came_ns, AMOUNT_MAX)
        notes.note_access(came_ns, kind, flags, source, epoch, bits, 0, 0, 0, what, took, b"")

    def _store_came(
        self, flags: int, source: int, message: MemWrite, came_ns: int, ended_ns: int, is_taken: bool
    ) -> None:
        """One that was handled until ``ended_ns``, 0 for never; it went into a register if it was taken."""
        at, register, took = message.addr, message.addr - self._registers_at, 0
        if is_taken and 0 <= register < self._registers_bytes:
            flags |= _REGISTER
        else:
            register = 0
        if ended_ns:
            flags, took = flags | _HANDLED, min(ended_ns - came_ns, AMOUNT_MAX)
        self._later.notes.note_access(
            came_ns,
            _MEM_WRITE,
            flags,
            source,
            message.epoch,
            at,
            register,
            4,
            0,
            0,
            took,
            bytes(message.data),
        )

    def note_lost(self, src: str, message: Irq | MemWrite) -> None:
        """A wake that was sent, and that a fault keeps from its handler."""
        self._note_dropped(_WAKE, src, message)

    def _note_dropped(self, flags: int, other: str, message: Irq | MemWrite) -> None:
        note, number, epoch = self._later.note, self._number[other], message.epoch
        if isinstance(message, Irq):
            kind, what = (_LINE if message.source is _EDMA_LINE else _IRQ), message.source
            note(kind, flags, number, _DROPPED, epoch, 0, message.bits, 0, 0, 0, what)
        else:
            data = bytes(message.data)
            note(_MEM_WRITE, flags, number, _DROPPED, epoch, 0, message.addr, 0, 4, 0, 0, 0, 0, data)

    def merge(self, src: str, message: Irq, flags: int, flow: int) -> None:
        """An interrupt, noted with these flags and that flow, has to wait."""
        if len(self._merged) < MOST_MERGED:
            self._merged.setdefault((src, message.source, message.bits), (flags, flow))

    def around_interrupt(self, bare: TakeWake, pending: PendingInterrupts) -> TakeWake:
        """An interrupt that waited, or one that a fault repeats, which may have to wait."""
        clock, number, merged, occasion = self._clock, self._number, self._merged, self._occasion
        later = self._later

        def interrupt(src: str, message: Irq | MemWrite) -> None:
            began, source = clock(), number[src]
            what, bits = (message.source, message.bits) if isinstance(message, Irq) else (0, message.addr)
            flags, flow = merged.get((src, what, bits), (0, 0))
            occasion.src, occasion.flow, before = source, flow, pending.merged
            bare(src, message)
            occasion.flow, now_ns = 0, clock()
            if pending.merged != before:
                return
            merged.pop((src, what, bits), None)
            took = min(now_ns - began, AMOUNT_MAX)
            fields = (_SLICE, flags, source, 0, 0, flow, bits, 0, 0, 0, _AGAIN, took, what, b"", now_ns)
            later.add((later.notes.note, fields))

        return interrupt

    # out

    def around_wake(self, bare: WakeFunction) -> WakeFunction:
        """A wake that goes out; an interrupt that one before it stands for does not."""
        clock, add, stores = self._clock, self._later.add, self.stores
        interrupt_left, store_left = self._interrupt_left, self._store_left

        def wake(dst: str, message: Irq | MemWrite) -> bool:
            if not bare(dst, message):
                return False
            if isinstance(message, Irq):
                add((interrupt_left, (dst, message, clock())))
                return True
            addr = None
            while stores:
                addr, local = stores.popleft()
                if local == message.addr:
                    break
                addr = None
            add((store_left, (dst, message, addr, clock())))
            return True

        return wake

    def _interrupt_left(self, dst: str, message: Irq, left_ns: int) -> None:
        what, number = message.source, self._number[dst]
        kind = _LINE if what is _EDMA_LINE else _IRQ
        self._later.notes.note_access(
            left_ns, kind, _SENT_WAKE, number, message.epoch, message.bits, 0, 0, 0, what, 0, b""
        )

    def _store_left(self, dst: str, message: MemWrite, addr: int | None, left_ns: int) -> None:
        """A store of this host's CPU at ``addr``, or of a service.

        What BARs the host has is asked now; a link epoch's stay what they are as long as it lasts.
        """
        at, epoch, number, data = message.addr, message.epoch, self._number[dst], bytes(message.data)
        note = self._later.notes.note_access
        if addr is None:
            note(left_ns, _MEM_WRITE, _SENT_WAKE, number, epoch, at, 0, 4, 0, 0, 0, data)
            return
        bar, offset = self._place_of(addr, epoch)
        note(left_ns, _MEM_WRITE, _SENT_STORE, number, epoch, addr, at, 4, bar, NONE, offset, data)

    def note_unsent(self, dst: str, record: bytes) -> None:
        """A wake that went out goes no further; see ``Wakes.on_lost``."""
        self._note_dropped(_SENT_WAKE, dst, decode(record)[1])

    def _place_of(self, addr: int, epoch: int) -> tuple[int, int]:
        """BAR and offset, which do not change in a link epoch."""
        if epoch != self._places_epoch or len(self._places) >= MOST_PLACES:
            self._places.clear()
            self._places_epoch = epoch
        place = self._places.get(addr)
        if place is None:
            found = None if self._frames is None else self._frames.bar_of(addr)
            place = self._places[addr] = found or (NONE, 0)
        return place
