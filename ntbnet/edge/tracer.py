"""A full trace of one service: stands around the functions that all passes through, and writes records.

As a stopwatch does, and while a trace runs only: a driver that is not traced calls them directly. What no
message shows is told by ``devices.trace_points``. Every record is stamped when it is noted, and written up to
10 ms later, with others (``trace_kept``). So a process that is killed takes the records of its last 10 ms
along, not those of the flight recorder.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from ntbnet.devices.effects import Effect
from ntbnet.devices.memory import Buffer
from ntbnet.devices.trace_points import NONE
from ntbnet.edge.clock import monotonic_ns
from ntbnet.edge.packet_tracer import FramesDevice, PacketTracer
from ntbnet.edge.trace_kept import Kept
from ntbnet.edge.trace_ring import Note
from ntbnet.topology import NODE_OF
from ntbnet.trace_records import (
    AMOUNT_MAX,
    DATA_BYTES,
    SERVICES,
    Block,
    Flag,
    Handler,
    Kind,
    Result,
    message_flow,
)
from ntbnet.wire import Irq, IrqSource, MemWrite, Message, fields_of, route_of
from ntbnet.wire import Kind as Wire

SendFunction = Callable[[str, bytes, "bytes | memoryview"], bool]
_SLICE = int(Kind.SLICE)
_MEM_WRITE, _MEM_READ, _COMPLETION = int(Kind.MEM_WRITE), int(Kind.MEM_READ), int(Kind.COMPLETION)
_MSI, _LINE, _IRQ, _OTHER = int(Kind.MSI), int(Kind.LINE), int(Kind.IRQ), int(Kind.OTHER)
_REG_READ, _REG_WRITE = int(Kind.REG_READ), int(Kind.REG_WRITE)
_SENT, _DIRECT, _TRANSLATED = int(Flag.SENT), int(Flag.DIRECT), int(Flag.TRANSLATED)
_OUTBOUND, _WAKE = int(Flag.OUTBOUND), int(Flag.WAKE)
_UR = int(Result.UR)
_EDMA = int(Block.EDMA)
_EDMA_LINE = int(IrqSource.EDMA_LINE)
_MESSAGE, _WOKEN = int(Handler.MESSAGE), int(Handler.WAKE)
_KINDS = {
    int(Wire.MEM_WRITE): _MEM_WRITE,
    int(Wire.MEM_READ): _MEM_READ,
    int(Wire.COMPLETION): _COMPLETION,
    int(Wire.CFG_READ): int(Kind.CFG_READ),
    int(Wire.CFG_WRITE): int(Kind.CFG_WRITE),
    int(Wire.IRQ): _IRQ,
    int(Wire.CALL): _OTHER,
    int(Wire.REPLY): _OTHER,
    int(Wire.NOTICE): _OTHER,
}
MOST_STORES = 4096
"""Stores to registers whose wakes are yet to be written down; of more, the oldest are forgotten."""
_NAMES = {int(kind): kind.name.lower().encode() for kind in (Wire.CALL, Wire.REPLY, Wire.NOTICE)}
_READS = {int(Wire.MEM_READ), int(Wire.CFG_READ)}


class Tracer:
    """Writes the records of one service. It is the Watcher of its device models.

    Args:
        service: label of the service.
        note: writes a record.
        device: of the driver that is traced; frames are told apart when it is a FramesDevice.
        packet_at: first byte of the IP packet in what the TUN gives.
        later: calls a function after so many seconds.
        clock: monotonic ns.

    Attributes:
        packets: stands around what packets pass through.
        write_out: writes the records that were kept.
    """

    def __init__(
        self,
        service: str,
        note: Note,
        device: object,
        packet_at: int,
        later: Callable[[float, Callable[[], None]], object],
        clock: Callable[[], int] = monotonic_ns,
    ) -> None:
        kept = self._kept = Kept(note, later, clock)
        self._node = 0 if NODE_OF[service] == "rc" else 1
        self.packets = PacketTracer(kept, device, self._node, packet_at)
        self.frame_delivered = self.packets.frame_delivered
        self.write_out = kept.write_out
        self._write, self._note, self._pending, self._clock = kept.write, kept.note, kept.pending, clock
        self._number = {label: SERVICES.index(label) for label in SERVICES if label}
        self._device = device if isinstance(device, FramesDevice) else None
        self._src = 0
        """Whose message or wake is handled."""
        self._flow = 0
        self._header: bytes = b""
        """Of the message that is handled, with its payload; empty while none is."""
        self._payload: bytes | memoryview = b""
        self._in_wake = False
        self._stores: deque[tuple[int, int]] = deque(maxlen=MOST_STORES)
        """Stores to another service's registers, which are wakes: address there, and of the CPU."""
        self._told: set[tuple[str, int, int]] = set()
        """Interrupts that wait for the flush: an equal one is not told again."""

    # messages

    def around_on_message(
        self, bare: Callable[[str, bytes, bytes | memoryview], None]
    ) -> Callable[[str, bytes, bytes | memoryview], None]:
        """A message of a path: its handler, with all that it led to, is a slice."""
        note, clock = self._note, self._clock

        def on_message(label: str, header: bytes, payload: bytes | memoryview) -> None:
            self._header, self._payload, self._flow = header, payload, 0
            begin = clock()
            try:
                bare(label, header, payload)
            finally:
                self._header = self._payload = b""
            if self._flow:
                end = clock()
                took = min(end - begin, AMOUNT_MAX)
                note(_SLICE, 0, self._src, 0, 0, self._flow, 0, 0, 0, 0, _MESSAGE, took, 0, b"", end)
                self._flow = 0

        return on_message

    def around_handle(
        self, bare: Callable[[str, Message, int], Sequence[Effect]]
    ) -> Callable[[str, Message, int], Sequence[Effect]]:
        """A message that was taken, or a wake; an interrupt that comes again as a fault has no flow."""
        append, clock = self._pending.append, self._clock
        write_wake, write_message = self._write_wake, self._write_message

        def handle(src: str, message: Message, now_ns: int) -> Sequence[Effect]:
            self._src = self._number[src]
            if self._in_wake:
                append((write_wake, clock(), (_WAKE, src, message)))
            elif self._header:
                self._flow = message_flow(*route_of(self._header))
                head = bytes(self._payload[:DATA_BYTES])
                append((write_message, clock(), (0, self._src, self._header, head)))
            else:
                append((write_wake, clock(), (0, src, message)))
            return bare(src, message, now_ns)

        return handle

    def around_on_wake(
        self, bare: Callable[[str, Irq | MemWrite], None]
    ) -> Callable[[str, Irq | MemWrite], None]:
        """A wake: as a message. Its flow is found by the reader."""
        append, clock, write_slice = self._pending.append, self._clock, self._write_wake_slice

        def on_wake(src: str, message: Irq | MemWrite) -> None:
            self._in_wake = True
            self._flow = 0
            begin = clock()
            try:
                bare(src, message)
            finally:
                self._in_wake = False
            append((write_slice, clock(), (begin, src)))

        return on_wake

    def _write_wake_slice(self, end: int, begin: int, src: str) -> None:
        source, took = self._number[src], min(end - begin, AMOUNT_MAX)
        self._write(_SLICE, _WAKE, source, 0, 0, 0, 0, 0, 0, 0, _WOKEN, took, 0, b"", end)

    def around_send(self, bare: SendFunction) -> SendFunction:
        """A message of the device that goes out."""
        append, clock, number, write = self._pending.append, self._clock, self._number, self._write_message

        def send(dst: str, header: bytes, payload: bytes | memoryview) -> bool:
            append((write, clock(), (_SENT, number[dst], header, bytes(payload[:DATA_BYTES]))))
            return bare(dst, header, payload)

        return send

    def around_wake(
        self, bare: Callable[[str, Irq | MemWrite], None]
    ) -> Callable[[str, Irq | MemWrite], None]:
        """A wake that goes out."""
        append, clock, write_wake = self._pending.append, self._clock, self._write_sent_wake

        def wake(dst: str, message: Irq | MemWrite) -> None:
            append((write_wake, clock(), (dst, message)))
            bare(dst, message)

        return wake

    def around_flush(self, bare: Callable[[], None]) -> Callable[[], None]:
        """The end of an occasion; of a burst of packets it is the end of a slice."""
        pending, end_burst_slice, end_occasion = (
            self._pending,
            self.packets.end_burst_slice,
            self._kept.end_occasion,
        )
        flushed: tuple[Callable[..., None], int, tuple[Any, ...]] = (self._forget_told, 0, ())

        def flush() -> None:
            bare()
            if pending:
                pending.append(flushed)
                end_burst_slice()
                end_occasion()

        return flush

    def _write_message(self, mono_ns: int, flags: int, other: int, header: bytes, head: bytes) -> None:
        """A message of a path."""
        wire_kind, _, epoch, tag, _, address, length, arg = fields_of(header)
        flow = message_flow(*route_of(header))
        kind, slot, result, data = _KINDS.get(wire_kind, _OTHER), 0, 0, b""
        if kind == _IRQ:
            kind, slot = (_LINE if arg == _EDMA_LINE else _IRQ), arg & NONE
        elif kind == _OTHER:
            data = _NAMES.get(wire_kind, b"")
        elif kind == _COMPLETION:
            result = arg & 0xFF
        if wire_kind in _READS:
            length = arg
        elif length and kind != _OTHER:
            data = head
        self._write(
            kind, flags, other, result, epoch, flow, address, 0, length, 0, slot, 0, tag, data, mono_ns
        )

    def _forget_told(self, _mono_ns: int) -> None:
        self._told.clear()

    def _write_sent_wake(self, mono_ns: int, dst: str, message: Irq | MemWrite) -> None:
        if isinstance(message, Irq):
            key = (dst, int(message.source), message.bits)
            if key in self._told:
                return
            self._told.add(key)
        else:
            while self._stores:
                local, addr = self._stores.popleft()
                if local == message.addr:
                    self._write_store_by_wake(mono_ns, dst, message, addr)
                    return
        self._write_wake(mono_ns, _SENT | _WAKE, dst, message)

    def _write_store_by_wake(self, mono_ns: int, dst: str, message: MemWrite, addr: int) -> None:
        bar, offset = self._place_of(addr)
        flags, other, data = _SENT | _WAKE | _DIRECT | _TRANSLATED, self._number[dst], bytes(message.data)
        at, epoch = message.addr, message.epoch
        self._write(_MEM_WRITE, flags, other, 0, epoch, 0, addr, at, 4, bar, NONE, offset, 0, data, mono_ns)

    def _write_wake(self, mono_ns: int, flags: int, label: str, message: Message) -> None:
        other = self._number[label]
        if isinstance(message, Irq):
            source = int(message.source)
            kind = _LINE if source == _EDMA_LINE else _IRQ
            self._write(kind, flags, other, 0, message.epoch, 0, message.bits, slot=source, mono_ns=mono_ns)
        elif isinstance(message, MemWrite):
            data, epoch, addr = bytes(message.data), message.epoch, message.addr
            self._write(_MEM_WRITE, flags, other, 0, epoch, 0, addr, length=4, data=data, mono_ns=mono_ns)

    # what the device models tell

    def translated(
        self,
        addr: int,
        translated: int | None,
        length: int,
        data: Buffer | None,
        *,
        outbound: bool,
        window: int,
        bar: int,
        bar_offset: int,
        epoch: int,
        tag: int,
    ) -> None:
        """See Watcher."""
        self._note(
            _MEM_READ if data is None else _MEM_WRITE,
            _TRANSLATED | _OUTBOUND if outbound else _TRANSLATED,
            self._src,
            _UR if translated is None else 0,
            epoch,
            self._flow,
            addr,
            translated or 0,
            length,
            bar,
            window,
            bar_offset,
            tag,
            b"" if data is None else bytes(data[: min(length, DATA_BYTES)]),
        )

    def stored_directly(self, addr: int, translated: int, data: Buffer, epoch: int, owner: str) -> None:
        """See Watcher."""
        if owner:
            self._stores.append((translated, addr))
            return
        bar, offset = self._place_of(addr)
        flags = _SENT | _DIRECT | _TRANSLATED | (_OUTBOUND if self._node else 0)
        head = bytes(data[:DATA_BYTES])
        self._note(_MEM_WRITE, flags, 0, 0, epoch, 0, addr, translated, len(data), bar, NONE, offset, 0, head)

    def _place_of(self, addr: int) -> tuple[int, int]:
        """BAR and offset."""
        place = None if self._device is None else self._device.bar_of(addr)
        return place or (NONE, 0)

    def register(self, offset: int, data: Buffer, epoch: int, *, is_write: bool) -> None:
        """See Watcher."""
        kind = _REG_WRITE if is_write else _REG_READ
        head = bytes(data[:DATA_BYTES])
        self._note(kind, 0, self._src, 0, epoch, self._flow, offset, 0, len(data), 0, _EDMA, 0, 0, head)

    def msi(self, addr: int, data: int, vector: int, *, sent: bool) -> None:
        """See Watcher."""
        result = _UR if vector == NONE and not sent else 0
        word = (data & 0xFFFFFFFF).to_bytes(4, "little")
        flags = _SENT if sent else 0
        self._note(_MSI, flags, self._src, result, 0, self._flow, addr, 0, 4, 0, vector, 0, 0, word)
