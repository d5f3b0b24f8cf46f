"""The part of a full trace that follows packets: from the TUN into a ring, out of one to the TUN."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Protocol, runtime_checkable

from ntbnet.devices.effects import Effect
from ntbnet.devices.queue import Queue
from ntbnet.edge.trace_kept import Kept
from ntbnet.trace_records import AMOUNT_MAX, DATA_BYTES, Flag, Handler, Kind, Result, frame_flow

_SLICE = int(Kind.SLICE)
_TUN_READ, _RING_WRITE, _TRIGGER = int(Kind.TUN_READ), int(Kind.RING_WRITE), int(Kind.TRIGGER)
_TUN_WRITE, _RING_FILL = int(Kind.TUN_WRITE), int(Kind.RING_FILL)
_SENT, _DIRECT, _DROPPED = int(Flag.SENT), int(Flag.DIRECT), int(Result.DROPPED)
_TUN, _POLL, _TIMER = int(Handler.TUN), int(Handler.POLL), int(Handler.TIMER)
_FRAMES_OF = attrgetter("tx.tx_pkts")
MOST_RINGS = 64
MOST_DELIVERED = 4096
"""Frames whose packets are yet to be written to the TUN; of more, the oldest are forgotten."""


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

    __slots__ = ("base", "frame_bytes", "most", "number")

    def __init__(self, queue: Queue) -> None:
        self.number = queue.number
        self.base, self.frame_bytes = queue.address, queue.tx.geometry.max_frame
        self.most = queue.tx.geometry.max_entry - 1


class PacketTracer:
    """Follows the packets of one service.

    Args:
        kept: takes the records.
        device: of the service; only a FramesDevice has packets.
        node: 0 (rc) or 1 (ep).
        packet_at: first byte of the IP packet in what the TUN gives.
    """

    def __init__(self, kept: Kept, device: object, node: int, packet_at: int) -> None:
        self._kept, self._clock, self._pending = kept, kept.clock, kept.pending
        self._write = kept.write
        self._device = device if isinstance(device, FramesDevice) else None
        self._node, self._packet_at = node, packet_at
        self._rings: dict[Queue, _Ring] = {}
        self._buffer = memoryview(b"")
        self._read_ns = self._burst_ns = 0
        self._unrung = self._rings_saved = 0
        self._last_frame = 0
        """Flow of the newest frame that was written down."""
        self._delivered: deque[tuple[int, int, int]] = deque(maxlen=MOST_DELIVERED)
        """Queue, epoch and ``ver`` of frames whose packets are yet to be written to the TUN."""
        self._fills: dict[int, int] = {}

    # out

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
        append, clock, device, packet_at = self._pending.append, self._clock, self._device, self._packet_at
        write_sent, write_dropped = self._write_sent, self._write_dropped
        assert device is not None, "only such devices get packets"

        def transmit(length: int, now_ns: int) -> Sequence[Effect]:
            # before the call: the buffer may be the peer's ring
            head = bytes(self._buffer[packet_at : min(length, packet_at + DATA_BYTES)])
            epoch, queues = device.epoch, device.queues
            before = [*map(_FRAMES_OF, queues)]
            effects = bare(length, now_ns)
            for queue, ver in zip(queues, before, strict=True):
                tx = queue.tx
                if tx.tx_pkts == ver + 1:
                    frame = (queue, ver, tx.last_frame, tx.known_free, tx.is_lent)
                    append((write_sent, clock(), (self._read_ns, epoch, length, head, frame)))
                    self._unrung += 1
                    break
            else:
                append((write_dropped, self._read_ns, (epoch, length, head)))
            return effects

        return transmit

    def _write_dropped(self, read_ns: int, epoch: int, length: int, head: bytes) -> None:
        size = max(0, length - self._packet_at)
        self._write(_TUN_READ, 0, 0, _DROPPED, epoch, 0, 0, 0, size, 0, 0, 0, 0, head, read_ns)

    def _write_sent(
        self,
        mono_ns: int,
        read_ns: int,
        epoch: int,
        length: int,
        head: bytes,
        frame: tuple[Queue, int, int, int, bool],
    ) -> None:
        queue, ver, index, free, is_lent = frame
        ring = self._rings.get(queue)
        if ring is None:
            if len(self._rings) >= MOST_RINGS:
                self._rings.clear()  # those of earlier network devices are among them
            ring = self._rings[queue] = _Ring(queue)
        number, size, write = ring.number, length - self._packet_at, self._write
        self._last_frame = flow = frame_flow(self._node, number, epoch, ver)
        write(_TUN_READ, 0, 0, 0, epoch, flow, 0, 0, size, number, 0, 0, 0, head, read_ns)
        flags, at = _SENT | _DIRECT if is_lent else _SENT, ring.base + index * ring.frame_bytes
        fill = ring.most - free
        write(_RING_WRITE, flags, 0, 0, epoch, flow, at, 0, size, number, index, fill, 0, b"", mono_ns)

    def around_end_burst(self, bare: Callable[[int], Sequence[Effect]]) -> Callable[[int], Sequence[Effect]]:
        """The peer is told of frames, or not since it looks by itself."""
        append, clock, device, write = self._pending.append, self._clock, self._device, self._write_trigger
        assert device is not None, "only such devices get packets"

        def end_burst(now_ns: int) -> Sequence[Effect]:
            effects = bare(now_ns)
            if self._unrung:
                many, self._unrung, saved = self._unrung, 0, 0
                for queue in device.queues:
                    saved += queue.tx.rings_saved
                append((write, clock(), (saved != self._rings_saved, device.epoch, many)))
                self._rings_saved = saved
            return effects

        return end_burst

    def _write_trigger(self, mono_ns: int, is_saved: bool, epoch: int, many: int) -> None:
        flow, result = self._last_frame, _DROPPED if is_saved else 0
        queue = flow >> 49 & 31
        self._write(_TRIGGER, 0, 0, result, epoch, flow, 0, 0, 0, queue, 0, many, 0, b"", mono_ns)

    def end_burst_slice(self) -> None:
        """The occasion is over: if packets were read in it, that is a slice."""
        begin = self._burst_ns
        if begin:
            self._burst_ns = 0
            self._pending.append((self._write_burst, self._clock(), (begin,)))

    def _write_burst(self, end: int, begin: int) -> None:
        took = min(end - begin, AMOUNT_MAX)
        self._write(_SLICE, 0, 0, 0, 0, self._last_frame, 0, 0, 0, 0, _TUN, took, 0, b"", end)

    # looks

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
        note, clock = self._kept.note, self._clock

        def step(now_ns: int) -> Sequence[Effect]:
            begin = clock()
            effects = bare(now_ns)
            if effects:
                end = clock()
                took = min(end - begin, AMOUNT_MAX)
                note(_SLICE, 0, 0, 0, 0, 0, 0, 0, 0, 0, handler, took, 0, b"", end)
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
                self._kept.note(_RING_FILL, 0, 0, 0, self._device.epoch, 0, 0, 0, most, queue.number, 0, fill)

    # in

    def frame_delivered(self, queue: int, ver: int) -> None:
        """See Watcher."""
        self._delivered.append((queue, self._device.epoch if self._device is not None else 0, ver))

    def around_write(self, bare: Callable[[memoryview, bytes], bool]) -> Callable[[memoryview, bytes], bool]:
        """A packet for the node's stack."""
        append, clock, delivered, write_taken = (
            self._pending.append,
            self._clock,
            self._delivered,
            self._write_taken,
        )

        def write(packet: memoryview, offload_header: bytes) -> bool:
            is_taken = bare(packet, offload_header)
            # the frame is given back only behind this: it can be looked at when the stack has its packet
            frame = delivered.popleft() if delivered else None
            append((write_taken, clock(), (frame, len(packet), bytes(packet[:DATA_BYTES]), is_taken)))
            return is_taken

        return write

    def _write_taken(
        self, mono_ns: int, frame: tuple[int, int, int] | None, length: int, head: bytes, is_taken: bool
    ) -> None:
        queue, epoch, ver = frame or (0, 0, 0)
        flow = frame_flow(1 - self._node, queue, epoch, ver) if frame else 0
        result = 0 if is_taken else _DROPPED
        self._write(_TUN_WRITE, 0, 0, result, epoch, flow, 0, 0, length, queue, 0, 0, 0, head, mono_ns)
