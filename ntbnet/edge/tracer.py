"""A full trace of one service: stands around the functions that all passes through, and writes records.

As a stopwatch does, and while a trace runs only: a driver that is not traced calls them directly. What no
message shows is told by ``devices.trace_points``; wakes and packets have modules of their own.

Other processes wait for this one, so records are stored behind what a step sends (``trace_later``), and what
happens at one go is one record (``trace_stored``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ntbnet.devices.memory import Buffer
from ntbnet.devices.trace_points import NONE
from ntbnet.edge.clock import monotonic_ns
from ntbnet.edge.packet_tracer import FramesDevice, PacketTracer
from ntbnet.edge.pending import PendingInterrupts
from ntbnet.edge.trace_later import Later
from ntbnet.edge.trace_ring import Notes
from ntbnet.edge.wake_tracer import Occasion, RegistersDevice, WakeTracer
from ntbnet.topology import NODE_OF
from ntbnet.trace_records import (
    AMOUNT_MAX,
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
Act = Callable[[str, Message, int, bytes], None]
_MEM_WRITE, _MEM_READ, _COMPLETION = int(Kind.MEM_WRITE), int(Kind.MEM_READ), int(Kind.COMPLETION)
_MSI, _LINE, _IRQ, _OTHER = int(Kind.MSI), int(Kind.LINE), int(Kind.IRQ), int(Kind.OTHER)
_REG_READ = int(Kind.REG_READ)
_SENT, _DIRECT, _TRANSLATED = int(Flag.SENT), int(Flag.DIRECT), int(Flag.TRANSLATED)
_OUTBOUND = int(Flag.OUTBOUND)
_HANDLED, _REGISTER = int(StoredFlag.HANDLED), int(StoredFlag.REGISTER)
_UR, _MERGED = int(Result.UR), int(Result.MERGED)
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
NO_REGISTER = -1
_NAMES = {int(kind): kind.name.lower().encode() for kind in (Wire.CALL, Wire.REPLY, Wire.NOTICE)}
_READS = {int(Wire.MEM_READ), int(Wire.CFG_READ)}


class Tracer:
    """Writes the records of one service. It is the Watcher of its device models.

    Args:
        service: label of the service.
        notes: writes records.
        device: of the driver that is traced; frames are told apart when it is a FramesDevice.
        packet_at: first byte of the IP packet in what the TUN gives.
        clock: monotonic ns.

    Attributes:
        later: has the records of a step written behind it.
        packets: stands around what packets pass through.
        wakes: stands in the place of what takes wakes, and around what sends them.
        delivered: see Watcher.
        stores: see Watcher.
    """

    def __init__(
        self,
        service: str,
        notes: Notes,
        device: object,
        packet_at: int,
        clock: Callable[[], int] = monotonic_ns,
    ) -> None:
        self.later = Later(notes, clock)
        self._clock = clock
        self._node = 0 if NODE_OF[service] == "rc" else 1
        self._number = {label: SERVICES.index(label) for label in SERVICES if label}
        self._frames = device if isinstance(device, FramesDevice) else None
        self._registers = device if isinstance(device, RegistersDevice) else None
        self._occasion = Occasion()
        self.packets = PacketTracer(self.later, clock, device, self._node, packet_at)
        self.wakes = WakeTracer(self.later, clock, device, self._occasion)
        self.delivered, self.stores = self.packets.delivered, self.wakes.stores

    # messages

    def around_act(self, bare: Act, pending: PendingInterrupts) -> Act:
        """A message that was taken: its handler, with all that it led to, is a slice.

        Args:
            bare: has it handled.
            pending: interrupts that wait for the end of the step.
        """
        clock, number, occasion, registers = self._clock, self._number, self._occasion, self._registers
        add, came, settle_many = self.later.add, self._note_message, self.later.settle_many

        def act(label: str, message: Message, now_ns: int, header: bytes) -> None:
            occasion.src = number[label]
            occasion.flow = flow = message_flow(*route_of(header))
            arguments: list[Any] = [now_ns, 0, occasion.src, header, _head_of(message), flow, 0, 0, 0]
            add((came, arguments))
            register, stale = NO_REGISTER, 0
            if registers is not None and isinstance(message, MemWrite):
                span, stale = registers.register_span, registers.counters["stale_epoch"]
                if span.contains(message.addr, len(message.data)):
                    register = message.addr - span.base
            merged = pending.merged
            bare(label, message, now_ns, header)
            took, occasion.flow = min(clock() - now_ns, AMOUNT_MAX), 0
            if pending.merged != merged and isinstance(message, Irq):
                self.wakes.merge(label, message, 0, flow)
                arguments[6:] = _MERGED, 0, 0
            elif registers is None or register < 0 or registers.counters["stale_epoch"] != stale:
                arguments[1], arguments[8] = _HANDLED, took
            else:
                arguments[1], arguments[7:] = _HANDLED | _REGISTER, (register, took)
            settle_many()

        return act

    def around_send(self, bare: SendFunction) -> SendFunction:
        """A message of the device that goes out."""
        clock, number, add, left = self._clock, self._number, self.later.add, self._note_message

        def send(dst: str, header: bytes, payload: bytes | memoryview) -> bool:
            flow, head = message_flow(*route_of(header)), bytes(payload[:DATA_BYTES])
            add((left, (clock(), _SENT, number[dst], header, head, flow, 0, 0, 0)))
            return bare(dst, header, payload)

        return send

    def _note_message(
        self,
        mono_ns: int,
        flags: int,
        other: int,
        header: bytes,
        head: bytes,
        flow: int,
        result: int,
        register: int,
        took: int,
    ) -> None:
        """A message of a path; one that came with the register it went to and how long that took."""
        wire_kind, _, epoch, tag, _, address, length, arg = fields_of(header)
        kind, slot, data = _KINDS.get(wire_kind, _OTHER), 0, b""
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
        fields = (epoch, flow, address, register, length, 0, slot, took, tag, data, mono_ns)
        self.later.notes.note(kind, flags, other, result, *fields)

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
        self.later.note(
            _MEM_READ if data is None else _MEM_WRITE,
            _TRANSLATED | _OUTBOUND if outbound else _TRANSLATED,
            self._occasion.src,
            _UR if translated is None else 0,
            epoch,
            self._occasion.flow,
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
        self.later.note(
            _MEM_WRITE, flags, 0, 0, epoch, 0, addr, translated, len(data), bar, NONE, offset, 0, head
        )

    def _place_of(self, addr: int) -> tuple[int, int]:
        """BAR and offset."""
        place = None if self._frames is None else self._frames.bar_of(addr)
        return place or (NONE, 0)

    def register_read(self, offset: int, data: Buffer, epoch: int) -> None:
        """See Watcher."""
        head, occasion = bytes(data[:DATA_BYTES]), self._occasion
        fields = (epoch, occasion.flow, offset, 0, len(data), 0, _EDMA, 0, 0, head)
        self.later.note(_REG_READ, 0, occasion.src, 0, *fields)

    def msi(self, addr: int, data: int, vector: int, *, sent: bool) -> None:
        """See Watcher."""
        result = _UR if vector == NONE and not sent else 0
        word = (data & 0xFFFFFFFF).to_bytes(4, "little")
        flags = _SENT if sent else 0
        self.later.note(
            _MSI, flags, self._occasion.src, result, 0, self._occasion.flow, addr, 0, 4, 0, vector, 0, 0, word
        )


def _head_of(message: Message) -> bytes:
    """First bytes of what it carries."""
    data = getattr(message, "data", b"")
    return bytes(data[:DATA_BYTES])
