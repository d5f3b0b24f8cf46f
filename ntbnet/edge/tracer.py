"""A full trace of one service: stands around the functions that all passes through, and writes records.

As a stopwatch does, and while a trace runs only: a driver that is not traced calls them directly. What no
message shows is told by ``devices.trace_points``. Every record is stamped when it is noted, and written up to
10 ms later, with others: who waits for this process does not wait for its trace then, and many records at
once cost less. So a process that is killed takes the records of its last 10 ms along, not those of the flight
recorder.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from ntbnet.devices.effects import Effect
from ntbnet.devices.memory import Buffer
from ntbnet.devices.path import Path
from ntbnet.devices.queue import Queue
from ntbnet.devices.trace_points import NONE
from ntbnet.edge.clock import monotonic_ns
from ntbnet.edge.trace_ring import Note
from ntbnet.topology import NODE_OF
from ntbnet.trace_records import (
    DATA_BYTES,
    MESSAGE_FLOW,
    SERVICES,
    Block,
    Flag,
    Handler,
    Kind,
    Result,
    frame_flow,
)
from ntbnet.wire import Irq, IrqSource, MemWrite, Message, fields_of
from ntbnet.wire import Kind as Wire

SendFunction = Callable[[str, bytes, "bytes | memoryview"], bool]
_SLICE = int(Kind.SLICE)
_TUN_READ, _RING_WRITE, _TRIGGER = int(Kind.TUN_READ), int(Kind.RING_WRITE), int(Kind.TRIGGER)
_TUN_WRITE, _RING_FILL = int(Kind.TUN_WRITE), int(Kind.RING_FILL)
_MEM_WRITE, _MEM_READ, _COMPLETION = int(Kind.MEM_WRITE), int(Kind.MEM_READ), int(Kind.COMPLETION)
_MSI, _LINE, _IRQ, _OTHER = int(Kind.MSI), int(Kind.LINE), int(Kind.IRQ), int(Kind.OTHER)
_REG_READ, _REG_WRITE = int(Kind.REG_READ), int(Kind.REG_WRITE)
_SENT, _DIRECT, _TRANSLATED = int(Flag.SENT), int(Flag.DIRECT), int(Flag.TRANSLATED)
_OUTBOUND, _WAKE = int(Flag.OUTBOUND), int(Flag.WAKE)
_UR, _DROPPED = int(Result.UR), int(Result.DROPPED)
_EDMA_LINE = int(IrqSource.EDMA_LINE)
_MESSAGE, _WOKEN, _TIMER = int(Handler.MESSAGE), int(Handler.WAKE), int(Handler.TIMER)
_TUN, _POLL = int(Handler.TUN), int(Handler.POLL)
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
MOST_RINGS = 64
MOST_KEPT = 256
"""Records that are kept at the end of an occasion; of more all are written."""
KEPT_S = 0.01
ALL_FIELDS = 15
"""Arguments of ``Note``: with them all a record has its time."""
_NAMES = {int(kind): kind.name.lower().encode() for kind in (Wire.CALL, Wire.REPLY, Wire.NOTICE)}
_READS = {int(Wire.MEM_READ), int(Wire.CFG_READ)}


@runtime_checkable
class FramesDevice(Protocol):
    """A device that sends packets as frames of rings."""

    @property
    def epoch(self) -> int:
        """Link epoch, 0 for none."""

    @property
    def queues(self) -> Sequence[Queue]:
        """The queues that carry packets, none without a network device."""

    def bar_of(self, addr: int) -> tuple[int, int] | None:
        """BAR that an address of this host's CPU lies in, and the offset; None: in none."""


class _Ring:
    """What is noted of one queue's sending ring, looked up once."""

    __slots__ = ("base", "frame_bytes", "most", "number", "queue")

    def __init__(self, queue: Queue) -> None:
        self.queue, self.number = queue, queue.number
        self.base, self.frame_bytes = queue.address, queue.tx.geometry.max_frame
        self.most = queue.tx.geometry.max_entry - 1


class Tracer:
    """Writes the records of one service. It is the Watcher of its device models.

    Args:
        service: label of the service.
        note: writes a record.
        device: of the driver that is traced; frames are told apart when it is a FramesDevice.
        paths: by label of the neighbour.
        packet_at: first byte of the IP packet in what the TUN gives.
        later: calls a function after so many seconds.
        clock: monotonic ns.
    """

    def __init__(
        self,
        service: str,
        note: Note,
        device: object,
        paths: dict[str, Path],
        packet_at: int,
        later: Callable[[float, Callable[[], None]], object],
        clock: Callable[[], int] = monotonic_ns,
    ) -> None:
        pending: list[tuple[tuple[Any, ...], int]] = []
        append = pending.append

        def keep(*fields: Any) -> None:
            append((fields, clock()))

        self._write: Callable[..., None] = note
        self._pending = pending
        self._later, self._is_armed = later, False
        self.note: Callable[..., None] = keep
        """Keeps a record for a moment: others wait for what this process does next."""
        self._clock = clock
        self._number = {label: SERVICES.index(label) for label in SERVICES if label}
        self._me = SERVICES.index(service)
        self._node = 0 if NODE_OF[service] == "rc" else 1
        self._device = device if isinstance(device, FramesDevice) else None
        self._paths = paths
        self._packet = slice(packet_at, packet_at + DATA_BYTES)
        self._packet_at = packet_at
        self._src = 0
        """Whose message or wake is handled."""
        self._flow = 0
        self._header: bytes = b""
        self._payload: bytes | memoryview = b""
        self._in_wake = False
        self._stores: deque[tuple[int, int, int, int]] = deque()
        """Stores to another service's registers that are wakes: address there, of the CPU, BAR and offset."""
        self._told: set[tuple[str, int, int]] = set()
        """Interrupts that wait for the flush: an equal one is not told again."""
        self._rings: dict[Queue, _Ring] = {}
        self._buffer = memoryview(b"")
        self._read_ns = 0
        self._burst_ns = 0
        self._unrung = self._last_frame = self._rings_saved = 0
        self._frames: deque[tuple[int, int]] = deque()
        """Flow and queue of frames whose packets are yet to be written to the TUN."""
        self._fills: dict[int, int] = {}

    def write_out(self) -> None:
        """Write the records that were kept."""
        self._is_armed = False
        for fields, mono_ns in self._pending:
            if len(fields) == ALL_FIELDS:
                self._write(*fields)
            else:
                self._write(*fields, mono_ns=mono_ns)
        self._pending.clear()

    # messages

    def around_on_message(
        self, bare: Callable[[str, bytes, bytes | memoryview], None]
    ) -> Callable[[str, bytes, bytes | memoryview], None]:
        """A message of a path: its handler, with all that it led to, is a slice."""
        note, clock = self.note, self._clock

        def on_message(label: str, header: bytes, payload: bytes | memoryview) -> None:
            self._header, self._payload, self._flow = header, payload, 0
            begin = clock()
            bare(label, header, payload)
            if self._flow:
                end = clock()
                note(_SLICE, 0, self._src, 0, 0, self._flow, 0, 0, 0, 0, _MESSAGE, end - begin, 0, b"", end)
                self._flow = 0

        return on_message

    def around_handle(
        self, bare: Callable[[str, Message, int], Sequence[Effect]]
    ) -> Callable[[str, Message, int], Sequence[Effect]]:
        """A message that was taken."""

        def handle(src: str, message: Message, now_ns: int) -> Sequence[Effect]:
            self._src = self._number[src]
            if self._in_wake:
                self._note_wake(0, self._src, message)
            else:
                self._flow = self._note_message(0, self._src, self._header, self._payload)
            return bare(src, message, now_ns)

        return handle

    def around_on_wake(
        self, bare: Callable[[str, Irq | MemWrite], None]
    ) -> Callable[[str, Irq | MemWrite], None]:
        """A wake: as a message. Its flow is found by the reader."""
        note, clock = self.note, self._clock

        def on_wake(src: str, message: Irq | MemWrite) -> None:
            self._in_wake = True
            self._flow = 0
            begin = clock()
            try:
                bare(src, message)
            finally:
                self._in_wake = False
            end = clock()
            source = self._number[src]
            note(_SLICE, _WAKE, source, 0, 0, 0, 0, 0, 0, 0, _WOKEN, end - begin, 0, b"", end)

        return on_wake

    def around_send(self, bare: SendFunction) -> SendFunction:
        """A message of the device that goes out."""

        def send(dst: str, header: bytes, payload: bytes | memoryview) -> bool:
            self._note_message(_SENT, self._number[dst], header, payload)
            return bare(dst, header, payload)

        return send

    def around_wake(
        self, bare: Callable[[str, Irq | MemWrite], None]
    ) -> Callable[[str, Irq | MemWrite], None]:
        """A wake that goes out."""
        told = self._told

        def wake(dst: str, message: Irq | MemWrite) -> None:
            if isinstance(message, Irq):
                key = (dst, message.source, message.bits)
                if key not in told:
                    told.add(key)
                    self._note_wake(_SENT | _WAKE, self._number[dst], message)
            else:
                self._note_store_by_wake(self._number[dst], message)
            bare(dst, message)

        return wake

    def around_flush(self, bare: Callable[[], None]) -> Callable[[], None]:
        """The end of an occasion; of a burst of packets it is the end of a slice."""
        note, clock = self.note, self._clock

        def flush() -> None:
            bare()
            self._told.clear()
            begin = self._burst_ns
            if begin:
                self._burst_ns, end = 0, clock()
                flow = self._last_frame
                note(_SLICE, 0, 0, 0, 0, flow, 0, 0, 0, 0, _TUN, end - begin, 0, b"", end)
            if len(self._pending) >= MOST_KEPT:
                self.write_out()
            elif self._pending and not self._is_armed:
                self._is_armed = True
                self._later(KEPT_S, self.write_out)

        return flush

    def _note_message(self, flags: int, other: int, header: bytes, payload: bytes | memoryview) -> int:
        """Note a message of a path; its flow."""
        wire_kind, session, epoch, tag, sequence, address, length, arg = fields_of(header)
        src, dst = (self._me, other) if flags else (other, self._me)
        flow = MESSAGE_FLOW << 60 | src << 57 | dst << 54 | (session & 0x3FFFFF) << 32 | sequence & 0xFFFFFFFF
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
            data = bytes(payload[:DATA_BYTES])
        self.note(kind, flags, other, result, epoch, flow, address, 0, length, 0, slot, 0, tag, data)
        return flow

    def _note_wake(self, flags: int, other: int, message: Message) -> None:
        flags |= _WAKE
        if isinstance(message, Irq):
            source = int(message.source)
            kind = _LINE if source == _EDMA_LINE else _IRQ
            self.note(kind, flags, other, 0, message.epoch, 0, message.bits, 0, 0, 0, source)
        elif isinstance(message, MemWrite):
            data = bytes(message.data)
            self.note(_MEM_WRITE, flags, other, 0, message.epoch, 0, message.addr, 0, 4, 0, 0, 0, 0, data)

    def _note_store_by_wake(self, dst: int, message: MemWrite) -> None:
        while self._stores:
            local, addr, bar, offset = self._stores.popleft()
            if local == message.addr:
                flags = _SENT | _WAKE | _DIRECT | _TRANSLATED
                data = bytes(message.data)
                self.note(
                    _MEM_WRITE, flags, dst, 0, message.epoch, 0, addr, local, 4, bar, NONE, offset, 0, data
                )
                return
        self._note_wake(_SENT | _WAKE, dst, message)

    # packets

    def around_read(self, bare: Callable[[memoryview], int]) -> Callable[[memoryview], int]:
        """A packet of the node's stack; noted with its frame, see ``around_transmit``."""
        clock = self._clock

        def read(buffer: memoryview) -> int:
            length = bare(buffer)
            if length:
                self._read_ns, self._buffer = clock(), buffer
                if not self._burst_ns:
                    self._burst_ns = self._read_ns
            return length

        return read

    def around_transmit(
        self, bare: Callable[[int, int], Sequence[Effect]]
    ) -> Callable[[int, int], Sequence[Effect]]:
        """A packet on its way into a ring."""
        note, device, packet_at = self.note, self._device, self._packet_at
        assert device is not None, "only such devices get packets"

        def transmit(length: int, now_ns: int) -> Sequence[Effect]:
            # before the call: the buffer may be the peer's ring
            head = bytes(self._buffer[packet_at : min(length, packet_at + DATA_BYTES)])
            read_ns, epoch, queues = self._read_ns, device.epoch, device.queues
            before = [queue.tx.tx_pkts for queue in queues]
            effects = bare(length, now_ns)
            for queue, ver in zip(queues, before, strict=True):
                if queue.tx.tx_pkts == ver + 1:
                    self._note_sent(queue, ver, epoch, length - packet_at, head, read_ns)
                    break
            else:
                size = max(0, length - packet_at)
                note(_TUN_READ, 0, 0, _DROPPED, epoch, 0, 0, 0, size, 0, 0, 0, 0, head, read_ns)
            return effects

        return transmit

    def _note_sent(self, queue: Queue, ver: int, epoch: int, length: int, head: bytes, read_ns: int) -> None:
        ring = self._rings.get(queue)
        if ring is None:
            if len(self._rings) >= MOST_RINGS:
                self._rings.clear()  # those of earlier network devices are among them
            ring = self._rings[queue] = _Ring(queue)
        number, note = ring.number, self.note
        flow = frame_flow(self._node, number, epoch, ver)
        note(_TUN_READ, 0, 0, 0, epoch, flow, 0, 0, length, number, 0, 0, 0, head, read_ns)
        frame = queue.tx.last_frame
        flags = _DIRECT | _SENT if queue.tx.is_lent else _SENT
        at = ring.base + frame * ring.frame_bytes
        note(
            _RING_WRITE,
            flags,
            0,
            0,
            epoch,
            flow,
            at,
            0,
            length,
            number,
            frame,
            ring.most - queue.tx.known_free,
        )
        self._last_frame = flow
        self._unrung += 1

    def around_end_burst(self, bare: Callable[[int], Sequence[Effect]]) -> Callable[[int], Sequence[Effect]]:
        """The peer is told of frames, or not since it looks by itself."""
        device = self._device
        assert device is not None, "only such devices get packets"

        def end_burst(now_ns: int) -> Sequence[Effect]:
            effects = bare(now_ns)
            if self._unrung:
                saved, many, self._unrung = (
                    sum(queue.tx.rings_saved for queue in device.queues),
                    self._unrung,
                    0,
                )
                result = _DROPPED if saved != self._rings_saved else 0
                self._rings_saved, flow = saved, self._last_frame
                self.note(_TRIGGER, 0, 0, result, device.epoch, flow, 0, 0, 0, flow >> 49 & 31, 0, many)
            return effects

        return end_burst

    def around_poll(self, bare: Callable[[int], Sequence[Effect]]) -> Callable[[int], Sequence[Effect]]:
        """A look that was asked for; one that found nothing is not worth a record."""
        return self._around_step(bare, _POLL)

    def around_deadline(self, bare: Callable[[int], Sequence[Effect]]) -> Callable[[int], Sequence[Effect]]:
        """What was due; the rings' fill is noted then, when it is another than before."""
        step = self._around_step(bare, _TIMER)

        def on_deadline(now_ns: int) -> Sequence[Effect]:
            effects = step(now_ns)
            self._note_fills()
            return effects

        return on_deadline

    def _around_step(
        self, bare: Callable[[int], Sequence[Effect]], handler: int
    ) -> Callable[[int], Sequence[Effect]]:
        note, clock = self.note, self._clock

        def step(now_ns: int) -> Sequence[Effect]:
            begin = clock()
            effects = bare(now_ns)
            if effects:
                end = clock()
                note(_SLICE, 0, 0, 0, 0, 0, 0, 0, 0, 0, handler, end - begin, 0, b"", end)
            return effects

        return step

    def _note_fills(self) -> None:
        if self._device is None:
            return
        for queue in self._device.queues:
            if not queue.link_is_up:
                continue
            most = queue.tx.geometry.max_entry - 1
            fill = most - queue.tx_free_entry()
            if self._fills.get(queue.number) != fill:
                self._fills[queue.number] = fill
                self.note(_RING_FILL, 0, 0, 0, self._device.epoch, 0, 0, 0, most, queue.number, 0, fill)

    def around_write(self, bare: Callable[[memoryview, bytes], bool]) -> Callable[[memoryview, bytes], bool]:
        """A packet for the node's stack."""
        note, frames = self.note, self._frames

        def write(packet: memoryview, offload_header: bytes) -> bool:
            head, length = bytes(packet[:DATA_BYTES]), len(packet)
            is_taken = bare(packet, offload_header)
            flow, queue = frames.popleft() if frames else (0, 0)
            epoch = flow >> 32 & 0x1FFFF
            note(
                _TUN_WRITE, 0, 0, 0 if is_taken else _DROPPED, epoch, flow, 0, 0, length, queue, 0, 0, 0, head
            )
            return is_taken

        return write

    # what the device models tell

    def frame_delivered(self, queue: int, ver: int) -> None:
        """See Watcher."""
        epoch = self._device.epoch if self._device is not None else 0
        self._frames.append((frame_flow(1 - self._node, queue, epoch, ver), queue))

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
        self.note(
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
        bar, offset = NONE, 0
        if self._device is not None:
            bar, offset = self._device.bar_of(addr) or (NONE, 0)
        if owner:
            self._stores.append((translated, addr, bar, offset))
            return
        flags = _SENT | _DIRECT | _TRANSLATED | (_OUTBOUND if self._node else 0)
        head = bytes(data[:DATA_BYTES])
        self.note(_MEM_WRITE, flags, 0, 0, epoch, 0, addr, translated, len(data), bar, NONE, offset, 0, head)

    def register(self, offset: int, data: Buffer, epoch: int, *, is_write: bool) -> None:
        """See Watcher."""
        kind = _REG_WRITE if is_write else _REG_READ
        head, block = bytes(data[:DATA_BYTES]), int(Block.EDMA)
        self.note(kind, 0, self._src, 0, epoch, self._flow, offset, 0, len(data), 0, block, 0, 0, head)

    def msi(self, addr: int, data: int, vector: int, *, sent: bool) -> None:
        """See Watcher."""
        result = _UR if vector == NONE and not sent else 0
        word = (data & 0xFFFFFFFF).to_bytes(4, "little")
        flags = _SENT if sent else 0
        self.note(_MSI, flags, self._src, result, 0, self._flow, addr, 0, 4, 0, vector, 0, 0, word)
