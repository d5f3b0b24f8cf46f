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
from typing import Protocol, TypeVar, runtime_checkable

from ntbnet.address import Span
from ntbnet.devices.effects import Effect
from ntbnet.devices.trace_points import NONE
from ntbnet.edge.packet_tracer import FramesDevice
from ntbnet.edge.pending import PendingInterrupts
from ntbnet.edge.trace_later import Later
from ntbnet.edge.trace_ring import Pattern, pattern, with_data
from ntbnet.edge.wake import decode
from ntbnet.trace_records import AMOUNT_MAX, SERVICES, Flag, Handler, Kind, Record, Result
from ntbnet.trace_stored import StoredFlag
from ntbnet.wire import Irq, IrqSource, MemWrite, Message

K = TypeVar("K")
V = TypeVar("V")
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
_REPEATED, _OPEN, _WAITS, _REFUSED = 1, 2, 4, 8
"""What may be odd about a wake that came: a fault repeats it, its handler has not ended, it waits for the end
of the step, its store was refused."""
MOST_STORES = 4096
"""Stores to registers whose wakes are yet to come; of more, the oldest are forgotten."""
MOST_PATTERNS = 256
"""Wakes of which it is remembered how they are noted, of each way; with more, all are forgotten."""
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

        self._came = [dict[int, tuple[Pattern | None, int, Irq | MemWrite]]() for _ in range(_REFUSED * 2)]
        """Of wakes that came, by what is odd and by ``id``, with the sender. Equal ones from the FIFO are the
        same message, which is kept here, so that no other one gets its ``id``."""
        self._left: dict[tuple[str, int, int, int], Pattern | None] = {}
        """Of interrupts that go out, by receiver, source, bits and epoch."""
        self._stored: dict[tuple[str, int | None, int, int], tuple[Pattern | None, int]] = {}
        """Of stores that go out, with the offset in the BAR, by receiver, address of the CPU, address there,
        epoch. A link epoch's BARs stay what they are as long as it lasts."""

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
        odd = _REPEATED if is_again else 0
        clock, number, occasion, add = self._clock, self._number, self._occasion, self._later.add
        came, merge, flags = self._wake_came(), self.merge, (0 if is_again else _WAKE)
        counters = Counter[str]() if self._registers is None else self._registers.counters

        def take(src: str, message: Irq | MemWrite) -> None:
            now_ns = clock()
            occasion.src = source = number[src]
            arguments = [source, message, now_ns, 0, odd | _OPEN]
            add((came, arguments))
            if isinstance(message, Irq):
                merged = pending.merged
                effects = handle(src, message, now_ns)
                if effects:
                    perform(effects, now_ns)
                if pending.merged != merged:
                    arguments[4] = odd | _OPEN | _WAITS
                    merge(src, message, flags, 0)
                    return
                arguments[4] = odd
            else:
                stale = counters.get(_STALE, 0)
                effects = handle(src, message, now_ns)
                if effects:
                    perform(effects, now_ns)
                arguments[4] = odd if counters.get(_STALE, 0) == stale else odd | _REFUSED
            arguments[3] = clock()

        return take

    def _wake_came(self) -> Callable[[int, Irq | MemWrite, int, int, int], None]:
        came, note_like = self._came, self._later.notes.note_like

        def note(source: int, message: Irq | MemWrite, came_ns: int, ended_ns: int, odd: int) -> None:
            """One that was handled until ``ended_ns``, 0 for never."""
            took = min(ended_ns - came_ns, AMOUNT_MAX) if ended_ns else 0
            known = came[odd].get(id(message))
            if known is None or known[1] != source:
                known = learn(source, message, odd)
            note_like(came_ns, known[0], took)

        def learn(
            source: int, message: Irq | MemWrite, odd: int
        ) -> tuple[Pattern | None, int, Irq | MemWrite]:
            known = pattern(self._record_of(message, source, odd)), source, message
            return _remember(came[odd], id(message), known)

        return note

    def _record_of(self, message: Irq | MemWrite, source: int, odd: int) -> Record:
        flags = (0 if odd & _REPEATED else _WAKE) | (0 if odd & _OPEN else _HANDLED)
        if isinstance(message, Irq):
            return Record(
                0,
                _kind_of(message),
                flags,
                source,
                _MERGED if odd & _WAITS else 0,
                message.epoch,
                address=message.bits,
                slot=message.source,
            )
        register = message.addr - self._registers_at
        if not odd & (_OPEN | _REFUSED) and 0 <= register < self._registers_bytes:
            flags |= _REGISTER
        else:
            register = 0
        return Record(
            0,
            _MEM_WRITE,
            flags,
            source,
            epoch=message.epoch,
            address=message.addr,
            translated=register,
            length=4,
            data=bytes(message.data),
        )

    def note_lost(self, src: str, message: Irq | MemWrite) -> None:
        """A wake that was sent, and that a fault keeps from its handler."""
        self._note_dropped(_WAKE, src, message)

    def _note_dropped(self, flags: int, other: str, message: Irq | MemWrite) -> None:
        note, number, epoch = self._later.note, self._number[other], message.epoch
        if isinstance(message, Irq):
            note(_kind_of(message), flags, number, _DROPPED, epoch, 0, message.bits, 0, 0, 0, message.source)
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
        interrupt_left, store_left = self._interrupt_left(), self._store_left()

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

    def _interrupt_left(self) -> Callable[[str, Irq, int], None]:
        left, note_like = self._left, self._later.notes.note_like

        def note(dst: str, message: Irq, left_ns: int) -> None:
            key = dst, message.source, message.bits, message.epoch
            note_like(left_ns, left.get(key) or learn(key, message), 0)

        def learn(key: tuple[str, int, int, int], message: Irq) -> Pattern | None:
            dst, what, bits, epoch = key
            kind, number = _kind_of(message), self._number[dst]
            like = pattern(Record(0, kind, _SENT_WAKE, number, epoch=epoch, address=bits, slot=what))
            return _remember(left, key, like)

        return note

    def _store_left(self) -> Callable[[str, MemWrite, int | None, int], None]:
        stored, note_like = self._stored, self._later.notes.note_like

        def note(dst: str, message: MemWrite, addr: int | None, left_ns: int) -> None:
            """A store of this host's CPU at ``addr``, or of a service."""
            key = dst, addr, message.addr, message.epoch
            like, offset = stored.get(key) or learn(key)
            note_like(left_ns, with_data(like, bytes(message.data)), offset)

        def learn(key: tuple[str, int | None, int, int]) -> tuple[Pattern | None, int]:
            dst, addr, at, epoch = key
            record = Record(0, _MEM_WRITE, _SENT_WAKE, self._number[dst], epoch=epoch, address=at, length=4)
            offset = 0
            if addr is not None:
                bar, offset = (None if self._frames is None else self._frames.bar_of(addr)) or (NONE, 0)
                record = record._replace(flags=_SENT_STORE, address=addr, translated=at, queue=bar, slot=NONE)
            return _remember(stored, key, (pattern(record), offset))

        return note

    def note_unsent(self, dst: str, record: bytes) -> None:
        """A wake that went out goes no further; see ``Wakes.on_lost``."""
        self._note_dropped(_SENT_WAKE, dst, decode(record)[1])


def _remember(known: dict[K, V], key: K, value: V) -> V:
    """``value``, from now on; of MOST_PATTERNS others all are forgotten."""
    if len(known) >= MOST_PATTERNS:
        known.clear()
    known[key] = value
    return value


def _kind_of(message: Irq) -> int:
    return _LINE if message.source is _EDMA_LINE else _IRQ
