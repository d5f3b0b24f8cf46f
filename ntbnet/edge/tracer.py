"""A full trace of one service: stands around the functions that all passes through, and writes records.

As a stopwatch does, and while a trace runs only: a driver that is not traced calls them directly. What no
message shows is told by ``devices.trace_points``.

Other processes wait for this one, so each thing that happens is one record, stored at once; what its handler
makes of it is added to it when that ends (``trace_stored``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from ntbnet.devices.effects import Effect
from ntbnet.devices.memory import Buffer
from ntbnet.devices.trace_points import NONE
from ntbnet.edge.clock import monotonic_ns
from ntbnet.edge.packet_tracer import FramesDevice, PacketTracer
from ntbnet.edge.trace_ring import Amend, Note
from ntbnet.topology import NODE_OF
from ntbnet.trace_records import (
    DATA_BYTES,
    SERVICES,
    Block,
    Flag,
    Kind,
    Result,
    message_flow,
)
from ntbnet.trace_stored import StoredFlag
from ntbnet.wire import Irq, IrqSource, MemWrite, Message, fields_of, route_of
from ntbnet.wire import Kind as Wire

SendFunction = Callable[[str, bytes, "bytes | memoryview"], bool]
WakeFunction = Callable[[str, "Irq | MemWrite"], bool]
_MEM_WRITE, _MEM_READ, _COMPLETION = int(Kind.MEM_WRITE), int(Kind.MEM_READ), int(Kind.COMPLETION)
_MSI, _LINE, _IRQ, _OTHER = int(Kind.MSI), int(Kind.LINE), int(Kind.IRQ), int(Kind.OTHER)
_REG_READ, _REG_WRITE = int(Kind.REG_READ), int(Kind.REG_WRITE)
_SENT, _DIRECT, _TRANSLATED = int(Flag.SENT), int(Flag.DIRECT), int(Flag.TRANSLATED)
_OUTBOUND, _WAKE = int(Flag.OUTBOUND), int(Flag.WAKE)
_HANDLED, _REGISTER = int(StoredFlag.HANDLED), int(StoredFlag.REGISTER)
_SENT_WAKE = _SENT | _WAKE
_SENT_STORE = _SENT | _WAKE | _DIRECT | _TRANSLATED
_UR = int(Result.UR)
_EDMA = int(Block.EDMA)
_EDMA_LINE = int(IrqSource.EDMA_LINE)
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
"""Stores to registers whose wakes are yet to come; of more, the oldest are forgotten."""
NO_REGISTER = -1
_NAMES = {int(kind): kind.name.lower().encode() for kind in (Wire.CALL, Wire.REPLY, Wire.NOTICE)}
_READS = {int(Wire.MEM_READ), int(Wire.CFG_READ)}


class Tracer:
    """Writes the records of one service. It is the Watcher of its device models.

    Args:
        service: label of the service.
        note: writes a record.
        amend: completes one.
        device: of the driver that is traced; frames are told apart when it is a FramesDevice.
        packet_at: first byte of the IP packet in what the TUN gives.
        clock: monotonic ns.

    Attributes:
        packets: stands around what packets pass through.
    """

    def __init__(
        self,
        service: str,
        note: Note,
        amend: Amend,
        device: object,
        packet_at: int,
        clock: Callable[[], int] = monotonic_ns,
    ) -> None:
        self._note: Callable[..., int] = note
        self._amend, self._clock = amend, clock
        self._node = 0 if NODE_OF[service] == "rc" else 1
        self.packets = PacketTracer(note, clock, device, self._node, packet_at)
        self.frame_delivered = self.packets.frame_delivered
        self._number = {label: SERVICES.index(label) for label in SERVICES if label}
        self._device = device if isinstance(device, FramesDevice) else None
        self._src = 0
        """Whose message or wake is handled."""
        self._flow = 0
        self._header: bytes = b""
        """Of the message that is handled, with its payload; empty while none is."""
        self._payload: bytes | memoryview = b""
        self._in_wake = False
        self._open = self._begin_ns = 0
        """Number of the record of what is handled, 0 for none; and since when it is."""
        self._stored_in = NO_REGISTER
        """The register that it was stored in."""
        self._stores: deque[tuple[int, int]] = deque(maxlen=MOST_STORES)
        """Stores to another service's registers, which are wakes: address of the CPU, and there."""

    # messages

    def around_on_message(
        self, bare: Callable[[str, bytes, bytes | memoryview], None]
    ) -> Callable[[str, bytes, bytes | memoryview], None]:
        """A message of a path: its handler, with all that it led to, is a slice."""

        def on_message(label: str, header: bytes, payload: bytes | memoryview) -> None:
            self._header, self._payload = header, payload
            try:
                bare(label, header, payload)
            finally:
                self._header = self._payload = b""
                if self._open:
                    self._complete(0)

        return on_message

    def around_handle(
        self, bare: Callable[[str, Message, int], Sequence[Effect]]
    ) -> Callable[[str, Message, int], Sequence[Effect]]:
        """A message that was taken, or a wake; an interrupt that comes again as a fault has no flow."""
        number, note_wake = self._number, self._note_wake

        def handle(src: str, message: Message, now_ns: int) -> Sequence[Effect]:
            source = self._src = number[src]
            if self._in_wake:
                self._open, self._begin_ns = note_wake(_WAKE, source, message, now_ns), now_ns
            elif self._header:
                self._flow = message_flow(*route_of(self._header))
                head = bytes(self._payload[:DATA_BYTES])
                self._begin_ns = now_ns
                self._open = self._note_message(now_ns, 0, source, self._header, head, self._flow)
            else:
                note_wake(0, source, message, now_ns)
            return bare(src, message, now_ns)

        return handle

    def around_on_wake(
        self, bare: Callable[[str, Irq | MemWrite], None]
    ) -> Callable[[str, Irq | MemWrite], None]:
        """A wake: as a message. Its flow is found by the reader."""

        def on_wake(src: str, message: Irq | MemWrite) -> None:
            self._in_wake = True
            try:
                bare(src, message)
            finally:
                self._in_wake = False
                if self._open:
                    self._complete(_WAKE)

        return on_wake

    def _complete(self, flags: int) -> None:
        """The handler of the newest arrival has ended."""
        register, took = self._stored_in, self._clock() - self._begin_ns
        if register < 0:
            self._amend(self._open, flags | _HANDLED, 0, took)
        else:
            self._amend(self._open, flags | _HANDLED | _REGISTER, register, took)
            self._stored_in = NO_REGISTER
        self._open = self._flow = 0

    def around_send(self, bare: SendFunction) -> SendFunction:
        """A message of the device that goes out."""
        clock, number, note = self._clock, self._number, self._note_message

        def send(dst: str, header: bytes, payload: bytes | memoryview) -> bool:
            flow = message_flow(*route_of(header))
            note(clock(), _SENT, number[dst], header, bytes(payload[:DATA_BYTES]), flow)
            return bare(dst, header, payload)

        return send

    def around_wake(self, bare: WakeFunction) -> WakeFunction:
        """A wake that goes out; an interrupt that one before it stands for does not."""
        number, stores, note_wake = self._number, self._stores, self._note_wake

        def wake(dst: str, message: Irq | MemWrite) -> bool:
            if not bare(dst, message):
                return False
            if stores and isinstance(message, MemWrite):
                self._note_store(number[dst], message)
            else:
                note_wake(_SENT_WAKE, number[dst], message, 0)
            return True

        return wake

    def _note_message(
        self, mono_ns: int, flags: int, other: int, header: bytes, head: bytes, flow: int
    ) -> int:
        """A message of a path."""
        wire_kind, _, epoch, tag, _, address, length, arg = fields_of(header)
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
        return self._note(
            kind, flags, other, result, epoch, flow, address, 0, length, 0, slot, 0, tag, data, mono_ns
        )

    def _note_store(self, other: int, message: MemWrite) -> None:
        """A store to another service's registers, which left as a wake."""
        at, epoch, data, stores = message.addr, message.epoch, bytes(message.data), self._stores
        while stores:
            addr, local = stores.popleft()
            if local == at:
                bar, offset = self._place_of(addr)
                fields = (epoch, 0, addr, at, 4, bar, NONE, offset, 0, data)
                self._note(_MEM_WRITE, _SENT_STORE, other, 0, *fields)
                return
        self._note(_MEM_WRITE, _SENT_WAKE, other, 0, epoch, 0, at, 0, 4, 0, 0, 0, 0, data)

    def _note_wake(self, flags: int, other: int, message: Message, mono_ns: int) -> int:
        if isinstance(message, Irq):
            source, bits = message.source, message.bits
            kind = _LINE if source == _EDMA_LINE else _IRQ
            epoch = message.epoch
            return self._note(kind, flags, other, 0, epoch, 0, bits, 0, 0, 0, source, 0, 0, b"", mono_ns)
        if isinstance(message, MemWrite):
            data, epoch, at = bytes(message.data), message.epoch, message.addr
            return self._note(_MEM_WRITE, flags, other, 0, epoch, 0, at, 0, 4, 0, 0, 0, 0, data, mono_ns)
        return 0

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

    def stored_directly(self, addr: int, translated: int, data: Buffer, epoch: int) -> None:
        """See Watcher."""
        bar, offset = self._place_of(addr)
        flags = _SENT | _DIRECT | _TRANSLATED | (_OUTBOUND if self._node else 0)
        head = bytes(data[:DATA_BYTES])
        self._note(_MEM_WRITE, flags, 0, 0, epoch, 0, addr, translated, len(data), bar, NONE, offset, 0, head)

    def stored_by_wake(self, addr: int, translated: int) -> None:
        """See Watcher."""
        self._stores.append((addr, translated))

    def _place_of(self, addr: int) -> tuple[int, int]:
        """BAR and offset."""
        place = None if self._device is None else self._device.bar_of(addr)
        return place or (NONE, 0)

    def register_written(self, offset: int, data: Buffer, epoch: int) -> None:
        """See Watcher."""
        if self._open and self._stored_in < 0:
            self._stored_in = offset
        else:
            self._note_register(_REG_WRITE, offset, data, epoch)

    def register_read(self, offset: int, data: Buffer, epoch: int) -> None:
        """See Watcher."""
        self._note_register(_REG_READ, offset, data, epoch)

    def _note_register(self, kind: int, offset: int, data: Buffer, epoch: int) -> None:
        head = bytes(data[:DATA_BYTES])
        self._note(kind, 0, self._src, 0, epoch, self._flow, offset, 0, len(data), 0, _EDMA, 0, 0, head)

    def msi(self, addr: int, data: int, vector: int, *, sent: bool) -> None:
        """See Watcher."""
        result = _UR if vector == NONE and not sent else 0
        word = (data & 0xFFFFFFFF).to_bytes(4, "little")
        flags = _SENT if sent else 0
        self._note(_MSI, flags, self._src, result, 0, self._flow, addr, 0, 4, 0, vector, 0, 0, word)
