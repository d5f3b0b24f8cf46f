"""The part of a full trace that follows packets: from the TUN into a ring, out of one to the TUN."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from ntbnet.devices.effects import Effect
from ntbnet.devices.queue import Queue
from ntbnet.devices.tx_ring import TxRing
from ntbnet.edge.packets import Packets
from ntbnet.edge.trace_later import Later
from ntbnet.trace_records import AMOUNT_MAX, DATA_BYTES, Flag, Handler, Kind, Result, frame_flow
from ntbnet.trace_stored import Stored

_SLICE, _TUN_READ, _TUN_WRITE = int(Kind.SLICE), int(Kind.TUN_READ), int(Kind.TUN_WRITE)
_RING_FILL, _FRAME = int(Kind.RING_FILL), int(Stored.FRAME)
_BURST, _SINGLE = int(Stored.BURST), int(Stored.SINGLE)
_SENT, _IN_PLACE, _DROPPED = int(Flag.SENT), int(Flag.SENT | Flag.DIRECT), int(Result.DROPPED)
_POLL, _TIMER = int(Handler.POLL), int(Handler.TIMER)
_U32 = 0xFFFFFFFF
MOST_DELIVERED = 4096
"""Frames whose packets are yet to be written to the TUN; of more, the oldest are forgotten."""


Transmit = Callable[[int, int], Sequence[Effect]]
Step = Callable[[int], Sequence[Effect]]


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

    __slots__ = ("base", "epoch", "flow", "frame_bytes", "most", "number", "tx")

    def __init__(self, queue: Queue) -> None:
        self.number, self.tx = queue.number, queue.tx
        self.base, self.frame_bytes = queue.address, queue.tx.geometry.max_frame
        self.most = queue.tx.geometry.max_entry - 1
        self.epoch = self.flow = -1
        """Link epoch, and flow of its first frame."""


class PacketTracer:
    """Follows the packets of one service.

    Args:
        later: has records written.
        clock: monotonic ns.
        device: of the service; only a FramesDevice has packets.
        node: 0 (rc) or 1 (ep).
        packet_at: first byte of the IP packet in what the TUN gives.

    Attributes:
        delivered: queue and ``ver`` of frames whose packets are yet to be written to the TUN.
    """

    def __init__(
        self, later: Later, clock: Callable[[], int], device: object, node: int, packet_at: int
    ) -> None:
        self._later, self._clock = later, clock
        self._device = device if isinstance(device, FramesDevice) else None
        self._node, self._packet_at, self._head_end = node, packet_at, packet_at + DATA_BYTES
        self.delivered: deque[tuple[int, int]] = deque(maxlen=MOST_DELIVERED)
        self._fills: dict[int, int] = {}
        self._flows: dict[int, int] = {}
        """Queue -> flow of the first frame for this node in that epoch."""
        self._flows_epoch = -1

    # out

    def around_burst(self, transmit: Transmit, end_burst: Step, packets: Packets) -> tuple[Transmit, Step]:
        """Packets that came from the node's stack, on their way into rings; and their end, where the peer is
        told of frames, or not since it looks by itself.

        Args:
            transmit: the device's.
            end_burst: the device's.
            packets: whose ``buffer`` has the packet.
        """
        device, packet_at, head_end = self._device, self._packet_at, self._head_end
        clock, add, dropped, framed, told = (
            self._clock,
            self._later.add,
            self._packet_dropped,
            self._packet_framed(),
            self._burst_told,
        )
        assert device is not None, "only such devices get packets"
        bare_transmit, bare_end = transmit, end_burst
        queues: Sequence[Queue] = ()
        rings: tuple[_Ring, ...] = ()
        only: TxRing | None = None
        many = begun_ns = 0
        newest: list[Any] = []

        def note_transmit(length: int, now_ns: int) -> Sequence[Effect]:
            nonlocal queues, rings, only, many, begun_ns, newest
            read_ns = clock()
            # before the call: the buffer may be the peer's ring
            head = packets.buffer[packet_at : min(head_end, length)].tobytes()
            found, epoch = device.queues, device.epoch
            if found is not queues:
                queues, rings = found, tuple(map(_Ring, found))
                only = rings[0].tx if len(rings) == 1 else None
            if only is not None:
                ring, ver = rings[0], only.tx_pkts
                effects = bare_transmit(length, now_ns)
                is_sent = only.tx_pkts == ver + 1
            else:
                before = [ring.tx.tx_pkts for ring in rings]
                effects, is_sent = bare_transmit(length, now_ns), False
                for ring, ver in zip(rings, before, strict=True):
                    is_sent = ring.tx.tx_pkts == ver + 1
                    if is_sent:
                        break
            if not is_sent:
                add((dropped, (read_ns, epoch, length - packet_at, head)))
                return effects
            many += 1
            if many == 1:
                begun_ns = read_ns
            newest = [ring, ver, epoch, read_ns, clock(), length, head, ring.tx.newest(), 0, 0]
            add((framed, newest))
            return effects

        def note_end(now_ns: int) -> Sequence[Effect]:
            nonlocal many
            if not many:
                return bare_end(now_ns)
            before = saved()
            effects = bare_end(now_ns)
            result = 0 if saved() == before else _DROPPED
            if many == 1:
                newest[8], newest[9] = result, clock()
            else:
                add((told, (*newest[:3], result, many, begun_ns, clock())))
            many = 0
            return effects

        def saved() -> int:
            """How often a peer that looks by itself was not told."""
            return only.rings_saved if only is not None else sum(ring.tx.rings_saved for ring in rings)

        return note_transmit, note_end

    def _packet_dropped(self, read_ns: int, epoch: int, size: int, head: bytes) -> None:
        note = self._later.notes.note_frame
        note(read_ns, _TUN_READ, 0, _DROPPED, epoch, 0, 0, 0, max(0, size), 0, 0, 0, 0, head)

    def _packet_framed(self) -> Callable[..., None]:
        note_frame, packet_at, flow_of = self._later.notes.note_frame, self._packet_at, self._flow

        def note(
            ring: _Ring,
            ver: int,
            epoch: int,
            read_ns: int,
            end_ns: int,
            length: int,
            head: bytes,
            newest: tuple[int, int, bool],
            result: int,
            told_ns: int,
        ) -> None:
            """One that the peer was told of by itself at ``told_ns``; 0: with others, or not yet."""
            index, free, is_in_place = newest
            flow = ring.flow | ver & _U32 if ring.epoch == epoch else flow_of(ring, ver, epoch)
            note_frame(
                end_ns,
                _SINGLE if told_ns else _FRAME,
                _IN_PLACE if is_in_place else _SENT,
                result,
                epoch,
                flow,
                ring.base + index * ring.frame_bytes,
                told_ns - end_ns if told_ns else 0,
                length - packet_at,
                ring.number,
                index,
                ring.most - free,
                min(end_ns - read_ns, AMOUNT_MAX),
                head,
            )

        return note

    def _burst_told(
        self, ring: _Ring, ver: int, epoch: int, result: int, many: int, began_ns: int, end_ns: int
    ) -> None:
        flow, took = self._flow(ring, ver, epoch), min(end_ns - began_ns, AMOUNT_MAX)
        self._later.notes.note_frame(
            end_ns, _BURST, 0, result, epoch, flow, 0, 0, 0, ring.number, 0, many, took, b""
        )

    def _flow(self, ring: _Ring, ver: int, epoch: int) -> int:
        if ring.epoch != epoch:
            ring.epoch, ring.flow = epoch, frame_flow(self._node, ring.number, epoch, 0)
        return ring.flow | ver & _U32

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
        later, clock = self._later, self._clock

        def step(now_ns: int) -> Sequence[Effect]:
            begin = clock()
            effects = bare(now_ns)
            if effects:
                end = clock()
                took = min(end - begin, AMOUNT_MAX)
                fields = (_SLICE, 0, 0, 0, 0, 0, 0, 0, 0, 0, handler, took, 0, b"", end)
                later.add((later.notes.note, fields))
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
                self._later.note(
                    _RING_FILL, 0, 0, 0, self._device.epoch, 0, 0, 0, most, queue.number, 0, fill
                )

    # in

    def around_write(self, bare: Callable[[memoryview, bytes], bool]) -> Callable[[memoryview, bytes], bool]:
        """A packet for the node's stack."""
        delivered, clock, add, written = self.delivered, self._clock, self._later.add, self._packet_written
        device = self._device

        def write(packet: memoryview, offload_header: bytes) -> bool:
            is_taken = bare(packet, offload_header)
            written_ns = clock()
            # the frame is given back only behind this: it can be looked at when the stack has its packet
            head = packet[:DATA_BYTES].tobytes()
            if delivered and device is not None:
                queue, ver = delivered.popleft()
                add((written, (queue, ver, device.epoch, written_ns, len(packet), head, is_taken)))
            else:
                add((written, (0, -1, 0, written_ns, len(packet), head, is_taken)))
            return is_taken

        return write

    def _packet_written(
        self, queue: int, ver: int, epoch: int, written_ns: int, size: int, head: bytes, is_taken: bool
    ) -> None:
        """The packet of a frame; ``ver`` below 0: of none that is known."""
        flow = 0
        if ver >= 0:
            if epoch != self._flows_epoch:
                self._flows.clear()
                self._flows_epoch = epoch
            first = self._flows.get(queue)
            if first is None:
                first = self._flows[queue] = frame_flow(1 - self._node, queue, epoch, 0)
            flow = first | ver & _U32
        self._later.notes.note_frame(
            written_ns,
            _TUN_WRITE,
            0,
            0 if is_taken else _DROPPED,
            epoch,
            flow,
            0,
            0,
            size,
            queue,
            0,
            0,
            0,
            head,
        )
