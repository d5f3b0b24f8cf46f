"""The kernel's ``ntb_netdev``: one IP interface over one transport queue, or over several.

With several queues, packets of one flow stay on one queue (``flow``), and the carrier is up while any
queue is, as in mainline of mid-2026. Two deviations: the node's TUN has one queue of its own, so a full
ring stops all; a flow whose queue is down uses another one.

The node's interface is a TUN, which carries IP packets; the queue carries frames in one of two formats
(``framing``): Ethernet as between kernels, or with offloads. ARP does not exist on a TUN: both MAC
addresses are given. With offloads the node hands over packets of several segments, longer than the MTU,
and every receive buffer is as long as a frame may be.

A ring with fewer than 6 frames never transmits, and one with fewer than 11 is woken by the
timer alone: so it is in Linux 6.1 (HAZARD 10.32).  Since copies of the CPU complete inside
``tx_enqueue``, a stopped queue is in practice always woken by the timer, unless DMA copies.

Source: Linux drivers/net/ntb_netdev.c.
"""

from __future__ import annotations

import errno

from ntbnet.devices.complaints import Once
from ntbnet.devices.effects import Deliver, Outbox, SetCarrier, StopQueue
from ntbnet.devices.flow import flow_hash
from ntbnet.devices.framing import HEAD_BYTES, EthernetFraming, Framing, OffloadFraming
from ntbnet.devices.memory import Buffer
from ntbnet.devices.queue import Queue
from ntbnet.devices.task import DelayedWork, Task, Tasks
from ntbnet.devices.tick import Tick
from ntbnet.devices.transport import Transport
from ntbnet.errors import KernelError

RX_BUFFERS = 100
TX_STOP = 5
"""Free frames below which the node's packets are no longer taken."""
TX_START = 10
"""Free frames from which a completed transmission takes them again."""
TX_TIME_NS = 1_000
"""Delay of the kernel's transmit timer: in effect the next timer tick."""
POLL_NS = 50_000
"""Delay of ours, at first: about the time that a frame of the largest size takes."""

COUNTERS = (
    "rx_packets",
    "rx_bytes",
    "rx_errors",
    "rx_dropped",
    "rx_length_errors",
    "rx_fifo_errors",
    "tx_packets",
    "tx_bytes",
    "tx_dropped",
    "tx_errors",
    "tx_aborted_errors",
)


class _Subqueue:
    """One queue of the interface: the transport's client of it."""

    def __init__(self, netdev: Netdev, transport: Transport) -> None:
        self._netdev = netdev
        queue = transport.create_queue(self)
        if queue is None:
            raise KernelError(errno.EIO, "the transport has no free queue")
        self.queue: Queue = queue
        self._is_new = True
        """Nothing was received since the link came up."""

    def rx(self, frame: memoryview | None, length: int) -> None:
        """A frame came: give its packet to the node, and post its buffer again."""
        if self._is_new:
            self._is_new = False
            self._netdev.crossed(self.queue)
        self._netdev.receive(frame, length)
        self._netdev.post(self.queue)

    def tx(self, length: int) -> None:
        """A frame left, or could not."""
        self._netdev.sent(length)

    def event(self, up: bool) -> None:
        """The queue's link came up, or is down."""
        self._is_new = True
        self._netdev.queue_changed()


class Netdev:
    """Network interface of a node.

    Args:
        transport: probed transport; its lowest free queues are taken.
        outbox: takes Deliver, SetCarrier and StopQueue effects.
        tasks: runs the transmit timer.
        tick: timer tick of this side's kernel.
        mtu: longest IP packet, bytes, 0..max_mtu; of one segment, with offloads.
        local_mac: 6 bytes; frames for other addresses are dropped. Unused with offloads.
        peer_mac: 6 bytes; destination of every frame sent. Unused with offloads.
        tx_stop: free ring entries below which sending stops, 1 or more.
        poll: how a full ring is watched for room: ``adaptive``, ``never`` (on kernel ticks) or ``always``.
        queues: queues to use, 1 or more; as many as the transport has free when those are fewer.
        offloads: frames carry offload headers; both ends must agree.

    Attributes:
        queue: the first queue.
        queues: all of them.
        tx_buffer: the frame being sent; it is never replaced.
        tx_room: its part for what the TUN gives, a packet with its offload header if any: put it there
            and call ``xmit_in_place``. One byte longer than may be sent, so that too long shows.
        carrier: the link of any queue, while the interface is open.
        stopped: ``xmit`` would answer busy; the StopQueue effect tells when it changes.

    Raises:
        KernelError: EIO without a free queue, EINVAL for an MTU the queue cannot carry.
        ValueError: a MAC address is not 6 bytes long.
    """

    def __init__(
        self,
        transport: Transport,
        outbox: Outbox,
        tasks: Tasks,
        tick: Tick,
        *,
        mtu: int,
        local_mac: bytes,
        peer_mac: bytes,
        tx_stop: int = TX_STOP,
        poll: str = "never",
        queues: int = 1,
        offloads: bool = False,
    ) -> None:
        framing: Framing = OffloadFraming() if offloads else EthernetFraming(local_mac, peer_mac)
        free = sum(queue.client is None for queue in transport.queues)
        taken = [_Subqueue(self, transport) for _ in range(max(1, min(queues, free)))]
        self.queues = tuple(subqueue.queue for subqueue in taken)
        self.queue = self.queues[0]
        self._up: tuple[Queue, ...] = ()
        self._tx_stop = tx_stop
        self._poll = poll
        self._poll_ns = POLL_NS
        self._room = 0
        self._transport = transport
        self._outbox = outbox
        self._tasks = tasks
        self._tick = tick
        self._framing = framing
        self._offloads = offloads
        self._refusals = Once()
        self._timer = DelayedWork(tasks, "netdev-tx-timer", self._on_timer)
        self.tx_buffer = bytearray(framing.template) + bytes(max(self.max_mtu, 0) + 1)
        self.tx_room = memoryview(self.tx_buffer)[framing.tun_header_at :]
        self._tx_packet = memoryview(self.tx_buffer)[HEAD_BYTES:]
        self.is_open = False
        self.carrier = False
        self.stopped = False
        self.rx_packets = self.rx_bytes = self.rx_errors = 0
        self.rx_dropped = self.rx_length_errors = self.rx_fifo_errors = 0
        self.tx_packets = self.tx_bytes = self.tx_dropped = 0
        self.tx_errors = self.tx_aborted_errors = 0
        self.mtu = 0
        try:
            self.set_mtu(mtu)
        except KernelError:
            for queue in self.queues:
                transport.free_queue(queue)
            raise

    @property
    def max_mtu(self) -> int:
        """Longest IP packet every queue can carry; the default MTU of the kernel's driver."""
        return min(queue.max_size for queue in self.queues) - HEAD_BYTES

    def _longest(self, mtu: int) -> int:
        """Longest packet that crosses at that MTU; with offloads the MTU bounds one segment only."""
        return self.max_mtu if self._offloads else mtu

    # the interface's life

    def open(self) -> None:
        """Post the receive buffers and ask for the queues' links. Without effect when open."""
        if self.is_open:
            return
        self.is_open = True
        for queue in self.queues:
            for _ in range(RX_BUFFERS):
                if queue.rx_enqueue(self._longest(self.mtu) + HEAD_BYTES):
                    break
        self.carrier = False
        self._outbox.add(SetCarrier(False))
        for queue in self.queues:
            self._transport.link_up(queue)
        self._stop(False)

    def close(self) -> None:
        """Take the queues' links down and drop the posted buffers. Without effect when closed."""
        if not self.is_open:
            return
        self.is_open = False
        for queue in self.queues:
            self._transport.link_down(queue)
            while queue.rx_remove() is not None:
                pass
        self._timer.cancel()
        self._set_carrier(False)

    def remove(self) -> None:
        """Close, and give the queues back."""
        self.close()
        for queue in self.queues:
            self._transport.free_queue(queue)

    def set_mtu(self, mtu: int) -> None:
        """Change the MTU; an open interface loses its link for a moment.

        Raises:
            KernelError: EINVAL when ``mtu`` is negative or above ``max_mtu``.
        """
        if not 0 <= mtu <= self.max_mtu:
            raise KernelError(errno.EINVAL, f"MTU {mtu} outside 0..{self.max_mtu}")
        if not self.is_open:
            self.mtu = mtu
            return
        for queue in self.queues:
            self._transport.link_down(queue)
            if mtu > self.mtu:
                count = 0
                while queue.rx_remove() is not None:
                    count += 1
                for _ in range(count):
                    queue.rx_enqueue(self._longest(mtu) + HEAD_BYTES)
        self._set_carrier(False)
        self.mtu = mtu
        for queue in self.queues:
            self._transport.link_up(queue)

    # transmission

    def xmit(self, packet: Buffer, offload_header: bytes = b"") -> bool:
        """Send one IP packet; it is copied into ``tx_buffer`` first. See ``xmit_in_place``.

        Args:
            packet: the packet.
            offload_header: its 10 bytes, with offloads.
        """
        given = offload_header + packet
        room = self.tx_room[: len(given)]
        room[:] = given[: len(room)]
        return self.xmit_in_place(len(given))

    def xmit_in_place(self, length: int) -> bool:
        """Send the packet that lies in ``tx_room``.

        Args:
            length: bytes that the TUN gave: the packet, and its offload header if any.

        Returns:
            True when it was sent or dropped (counted); False when the interface is busy: keep
            the packet and try again after StopQueue(False).
        """
        frame_length = self._framing.tun_header_at + length
        length = frame_length - HEAD_BYTES
        queue = self._queue_for(length)
        if queue.link_is_up and (self.stopped or self._no_room(queue)):
            return False
        if not 0 < length <= self._longest(self.mtu) or not self._framing.seal(self.tx_buffer):
            self.tx_dropped += 1
            return True
        result = queue.tx_enqueue(self.tx_buffer, frame_length)
        if not result:
            self._no_room(queue)
        elif result in {-errno.EAGAIN, -errno.EBUSY}:
            self._stop(True)
            self._arm_timer()
            return False
        else:
            self.tx_dropped += 1
        return True

    def _queue_for(self, length: int) -> Queue:
        """The queue of the packet's flow, among those that are up."""
        up = self._up
        if len(up) < 2:
            return up[0] if up else self.queue
        return up[flow_hash(self._tx_packet[: max(length, 0)]) % len(up)]

    def _no_room(self, queue: Queue) -> bool:
        if queue.tx_free_entry() >= self._tx_stop:
            return False
        self._stop(True)
        self._arm_timer()
        return True

    def _stop(self, stopped: bool) -> None:
        if stopped != self.stopped:
            self.stopped = stopped
            self._poll_ns = POLL_NS
            self._outbox.add(StopQueue(stopped))

    def _arm_timer(self) -> None:
        delay_ns = self._tick.delay(self._tasks.now_ns, TX_TIME_NS)
        self._timer.schedule(delay_ns if self._poll == "never" else min(delay_ns, self._poll_ns))

    def _on_timer(self) -> Task[None]:
        room = [queue.tx_free_entry() for queue in self._up]
        if any(free < self._tx_stop for free in room):
            if self._poll == "adaptive":
                progressed, self._room = sum(room) != self._room, sum(room)
                self._poll_ns = POLL_NS if progressed else 2 * self._poll_ns
            self._arm_timer()
        else:
            self._stop(False)
        yield from ()

    # what the queues tell

    def sent(self, length: int) -> None:
        """A frame left, or could not (``length`` below 1)."""
        if length > 0:
            self.tx_packets += 1
            self.tx_bytes += length
        else:
            self.tx_errors += 1
            self.tx_aborted_errors += 1
        if self.stopped and all(queue.tx_free_entry() >= TX_START for queue in self._up):
            self._stop(False)

    def queue_changed(self) -> None:
        """The carrier follows the queues' links; queues that are down block nobody."""
        self._up = tuple(queue for queue in self.queues if queue.link_is_up)
        if not self._up:
            self._timer.cancel()
            self._stop(False)
        self._set_carrier(bool(self._up) and self.is_open)

    def _set_carrier(self, up: bool) -> None:
        if up != self.carrier:
            self.carrier = up
            self._outbox.add(SetCarrier(up))

    def receive(self, frame: memoryview | None, length: int) -> None:
        """A frame came, or one could not be received: give its packet to the node."""
        if frame is None or length <= HEAD_BYTES:
            self.rx_errors += 1
            self.rx_length_errors += 1
            return
        self.rx_packets += 1
        self.rx_bytes += length
        head, packet = bytes(frame[:HEAD_BYTES]), frame[HEAD_BYTES:]
        cause = self._framing.refusal(head, packet)
        if cause is None:
            self._outbox.add(Deliver(packet, head[self._framing.tun_header_at :]))
            return
        self.rx_dropped += 1
        if self._refusals.is_first(cause):
            self._outbox.log("netdev.frame_refused", cause=cause, head=head.hex(), size_bytes=length)

    def crossed(self, queue: Queue) -> None:
        """The first frame since the queue's link came up: where an outage ends."""
        self._outbox.log("netdev.packet_crossed", queue=queue.number)

    def post(self, queue: Queue) -> None:
        """Give ``queue`` a receive buffer for the one it used."""
        if queue.rx_enqueue(self._longest(self.mtu) + HEAD_BYTES):
            self.rx_errors += 1
            self.rx_fifo_errors += 1

    def snapshot(self) -> dict[str, int]:
        """Every counter by its name in ``COUNTERS``."""
        return {name: getattr(self, name) for name in COUNTERS}
