"""A full trace of the wakes of one service: what stands in the driver's place, or around it, while one runs.

Both ends of a FIFO see the same wakes in the same order, and readers count them (``trace_wakes``). So each
wake that was taken is noted, also one that waits for the end of the step with those equal to it, and one that
a fault keeps from its handler.

These functions run for each wake while another process waits for this one: they do by themselves what is a
call of a method elsewhere.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from ntbnet.address import Span
from ntbnet.devices.effects import Effect
from ntbnet.devices.trace_points import NONE
from ntbnet.edge.packet_tracer import FramesDevice
from ntbnet.edge.pending import PendingInterrupts
from ntbnet.edge.trace_ring import Notes
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
        notes: writes records.
        clock: monotonic ns.
        device: of the service; of a store to a RegistersDevice it is also noted in which register.
        occasion: told whose wake is handled.
    """

    def __init__(self, notes: Notes, clock: Callable[[], int], device: object, occasion: Occasion) -> None:
        self._notes, self._clock, self._occasion = notes, clock, occasion
        self._frames = device if isinstance(device, FramesDevice) else None
        self._number = {label: SERVICES.index(label) for label in SERVICES if label}
        self._registers = device if isinstance(device, RegistersDevice) else None
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
        handled, stored = flags | _HANDLED, flags | _HANDLED | _REGISTER
        clock, number, occasion, merge = self._clock, self._number, self._occasion, self.merge
        note, amend = self._notes.note_access, self._notes.amend
        base, size, counters = 0, 0, Counter[str]()
        if self._registers is not None:
            counters = self._registers.counters
            base, size = self._registers.register_span.base, self._registers.register_span.size

        def take(src: str, message: Irq | MemWrite) -> None:
            source = number[src]
            if isinstance(message, Irq):
                now_ns, what, merged = clock(), message.source, pending.merged
                kind = _LINE if what is _EDMA_LINE else _IRQ
                which = note(now_ns, kind, flags, source, message.epoch, message.bits, 0, 0, 0, what, 0, b"")
                occasion.src = source
                effects = handle(src, message, now_ns)
                if effects:
                    perform(effects, now_ns)
                if pending.merged == merged:
                    amend(which, handled, 0, clock() - now_ns)
                else:
                    merge(which, src, message, flags, 0)
                return
            now_ns, at, stale = clock(), message.addr, counters.get(_STALE, 0)
            data = bytes(message.data)
            which = note(now_ns, _MEM_WRITE, flags, source, message.epoch, at, 0, 4, 0, 0, 0, data)
            occasion.src = source
            effects = handle(src, message, now_ns)
            if effects:
                perform(effects, now_ns)
            if 0 <= at - base < size and counters.get(_STALE, 0) == stale:
                amend(which, stored, at - base, clock() - now_ns)
            else:
                amend(which, handled, 0, clock() - now_ns)

        return take

    def note_lost(self, src: str, message: Irq | MemWrite) -> None:
        """A wake that was sent, and that a fault keeps from its handler."""
        self._note_dropped(_WAKE, src, message)

    def _note_dropped(self, flags: int, other: str, message: Irq | MemWrite) -> None:
        note, number, epoch = self._notes.note, self._number[other], message.epoch
        if isinstance(message, Irq):
            kind, what = (_LINE if message.source is _EDMA_LINE else _IRQ), message.source
            note(kind, flags, number, _DROPPED, epoch, address=message.bits, slot=what)
        else:
            at, data = message.addr, bytes(message.data)
            note(_MEM_WRITE, flags, number, _DROPPED, epoch, 0, at, 0, 4, data=data)

    def merge(self, which: int, src: str, message: Irq, flags: int, flow: int) -> None:
        """The interrupt of record ``which``, noted with these flags and that flow, has to wait."""
        self._notes.amend_result(which, _MERGED)
        if len(self._merged) < MOST_MERGED:
            self._merged.setdefault((src, message.source, message.bits), (flags, flow))

    def around_interrupt(self, bare: TakeWake, pending: PendingInterrupts) -> TakeWake:
        """An interrupt that waited, or one that a fault repeats, which may have to wait."""
        clock, number, merged, occasion = self._clock, self._number, self._merged, self._occasion
        note = self._notes.note

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
            note(_SLICE, flags, source, 0, 0, flow, bits, 0, 0, 0, _AGAIN, took, what, b"", now_ns)

        return interrupt

    # out

    def around_wake(self, bare: WakeFunction) -> WakeFunction:
        """A wake that goes out; an interrupt that one before it stands for does not."""
        number, stores, note, clock = self._number, self.stores, self._notes.note_access, self._clock

        def wake(dst: str, message: Irq | MemWrite) -> bool:
            if not bare(dst, message):
                return False
            if isinstance(message, Irq):
                what = message.source
                kind = _LINE if what is _EDMA_LINE else _IRQ
                note(
                    clock(), kind, _SENT_WAKE, number[dst], message.epoch, message.bits, 0, 0, 0, what, 0, b""
                )
                return True
            at, epoch, data = message.addr, message.epoch, bytes(message.data)
            fields = (_SENT_WAKE, number[dst], epoch, at, 0, 4, 0, 0, 0, data)
            while stores:
                addr, local = stores.popleft()
                if local == at:
                    bar, offset = self._place_of(addr, epoch)
                    fields = (_SENT_STORE, number[dst], epoch, addr, at, 4, bar, NONE, offset, data)
                    break
            note(clock(), _MEM_WRITE, *fields)
            return True

        return wake

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
