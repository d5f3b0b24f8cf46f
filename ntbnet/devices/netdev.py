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
from ntbnet.devices.rx_poll import BATCH_SHARE, RxPoll
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
    "tx_stops",
)
"""Those of the kernel's interface; and how often a full ring stopped what the node sends."""


class Subqueue:
    """One queue of the interface: the transport's client of it."""

    def __init__(self, netdev: Netdev, transport: Transport) -> None:
        self._netdev = netdev
        queue = transport.create_queue(self)
        if queue is None:
            raise KernelError(errno.EIO, "the transport has no free queue")
        self.queue: Queue = queue
        self.is_new = True
        """Nothing was received since the link came up, or since ``tell_first``."""

    def rx(self, frame: memoryview | None, length: int) -> None:
        """A frame came: give its packet to the node, and post its buffer again."""
        if self.is_new:
            self.is_new = False
            self._netdev.crossed(self.queue)
        self._netdev.receive(frame, length)
        self._netdev.post(self.queue)

    def tx(self, length: int) -> None:
        """A frame left, or could not."""
        self._netdev.sent(length)

    def event(self, up: bool) -> None:
        """The queue's link came up, or is down."""
        self.is_new = True
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
        poll: how a full ring is watched for room: ``adaptive``, ``never`` (on kernel ticks) or ``always``;
            and, with ``is_local``, whether the rings of this side are polled (``rx_poll``).
        queues: queues to use, 1 or more; as many as the transport has free when those are fewer.
        offloads: frames carry offload headers; both ends must agree.
        is_local: the peer's memory can be stored to in place; both ends must agree on that and on whether
            ``poll`` is ``never``.

    Attributes:
        queue: the first queue.
        queues: all of them.
        tx_buffer: the frame being sent; it is never replaced.
        tx_room: its part for what the TUN gives, a packet with its offload header if any. One byte longer
            than may be sent, so that too long shows.
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
        is_local: bool = False,
    ) -> None:
        framing: Framing = OffloadFraming() if offloads else EthernetFraming(local_mac, peer_mac)
        free = sum(queue.client is None for queue in transport.queues)
        taken = [Subqueue(self, transport) for _ in range(max(1, min(queues, free)))]
        self._subqueues = tuple(taken)
        self.queues = tuple(subqueue.queue for subqueue in taken)
        self.queue = self.queues[0]
        self._up: tuple[Queue, ...] = ()
        self._spread: tuple[Queue, ...] = ()
        """Queues that flows are spread over: those that are up, once what was sent elsewhere has arrived."""
        self._tx_stop = tx_stop
        self._poll = poll
        self._poll_ns = POLL_NS
        self._room = 0
        self._transport = transport
        self._outbox = outbox
        self._tasks = tasks
        self._tick = tick
        self._framing = framing
        self._fronts, self._at = framing.fronts, framing.tun_header_at
        self._packet_at = HEAD_BYTES - self._at
        """Where the packet begins in what the TUN gives."""
        self._offloads = offloads
        self._refusals = Once()
        self._timer = DelayedWork(tasks, "netdev-tx-timer", self._on_timer)
        self.max_mtu = min(queue.max_size for queue in self.queues) - HEAD_BYTES
        """Longest IP packet every queue can carry; the default MTU of the kernel's driver."""
        self.tx_buffer = bytearray(HEAD_BYTES + max(self.max_mtu, 0) + 1)
        self.tx_room = memoryview(self.tx_buffer)[self._at :]
        self._room_of: Queue | None = None
        """Whose memory the next packet is read into; None for ``tx_room``."""
        self._next_queue = self.queue
        """Where the next packet belongs if it is of the last one's flow."""
        self._given: memoryview = self.tx_room
        self.rx_poll = RxPoll(poll if is_local else "never", self.queues, outbox, tasks)
        self.is_open = False
        self.carrier = False
        self.stopped = False
        self.rx_packets = self.rx_bytes = self.rx_errors = 0
        self.rx_dropped = self.rx_length_errors = self.rx_fifo_errors = 0
        self.tx_packets = self.tx_bytes = self.tx_dropped = 0
        self.tx_errors = self.tx_aborted_errors = self.tx_stops = 0
        self.mtu = self._longest_given = self._buffer_bytes = 0
        try:
            self.set_mtu(mtu)
        except KernelError:
            for queue in self.queues:
                transport.free_queue(queue)
            raise

    # the interface's life

    def open(self) -> None:
        """Post the receive buffers and ask for the queues' links. Without effect when open."""
        if self.is_open:
            return
        self.is_open = True
        for queue in self.queues:
            for _ in range(RX_BUFFERS):
                if queue.rx_enqueue(self._buffer_bytes):
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
        grows, was_open = mtu > self.mtu, self.is_open
        self.mtu = mtu
        longest = self.max_mtu if self._offloads else mtu
        self._longest_given = longest + self._packet_at
        self._buffer_bytes = longest + HEAD_BYTES
        if not was_open:
            return
        for queue in self.queues:
            self._transport.link_down(queue)
            if grows:
                count = 0
                while queue.rx_remove() is not None:
                    count += 1
                for _ in range(count):
                    queue.rx_enqueue(self._buffer_bytes)
        self._set_carrier(False)
        for queue in self.queues:
            self._transport.link_up(queue)

    # transmission

    def xmit(self, packet: Buffer, offload_header: bytes = b"") -> bool:
        """Send one IP packet, and tell the peer. See ``room`` and ``xmit_in_place``.

        Args:
            packet: the packet.
            offload_header: its 10 bytes, with offloads.
        """
        given = offload_header + packet
        room = self.room()
        length = min(len(room), len(given))
        room[:length] = given[:length]
        is_done = self.xmit_in_place(len(given))
        self.end_burst()
        return is_done

    def room(self) -> memoryview:
        """Where to put what the TUN gives next, at once; then ``xmit_in_place``.

        It is the ring itself, in the peer's memory, where that can be stored to in place.
        """
        queue = self._next_queue
        found = None
        if queue.link_is_up and not self.stopped:
            found = queue.tx.room(self._tx_stop, self._at)
        self._room_of, self._given = (None, self.tx_room) if found is None else (queue, found)
        return self._given

    def xmit_in_place(self, length: int) -> bool:
        """Send the packet that lies in the last ``room``; ``end_burst`` tells the peer of it.

        Args:
            length: bytes that the TUN gave: the packet, and its offload header if any.

        Returns:
            True when it was sent or dropped (counted); False when the interface is busy: keep
            the packet and try again after StopQueue(False).
        """
        given, start = self._given, self._packet_at
        in_place, self._room_of = self._room_of, None
        queue = self._next_queue = self._queue_for(given, length)
        has_link = queue.link_is_up
        if has_link and (self.stopped or self._no_room(queue)):
            return False
        front = self._fronts.get(given[start] >> 4) if start < length <= self._longest_given else None
        if front is None:
            self.tx_dropped += 1
            return True
        frame_length = self._at + length
        if in_place is queue:
            queue.tx.send_in_place(front, frame_length)
            self.sent(frame_length)
        else:
            self.tx_buffer[: self._at] = front
            if in_place is not None:
                self.tx_room[:length] = given[:length]
            result = queue.tx_enqueue(self.tx_buffer, frame_length, more=True)
            if result in {-errno.EAGAIN, -errno.EBUSY}:
                self._stop(True)
                self._arm_timer()
                return False
            if result:
                self.tx_dropped += 1
                return True
        self._no_room(queue)
        return True

    def end_burst(self) -> None:
        """No packet follows at once: tell the peer of those that were sent, and look what it has sent."""
        self._room_of, self._given = None, self.tx_room  # a ring's memory is not kept beyond a step
        for queue in self.queues:
            queue.tx.ring()
        if self.rx_poll.is_on:
            self.rx_poll.look()

    def _queue_for(self, given: memoryview, length: int) -> Queue:
        """The queue of the packet's flow, among those that are in use."""
        spread = self._spread
        if len(spread) < 2:
            return spread[0] if spread else self.queue
        return spread[flow_hash(given[self._packet_at : max(length, self._packet_at)]) % len(spread)]

    def _no_room(self, queue: Queue) -> bool:
        if queue.tx.has_room(self._tx_stop):
            return False
        self._stop(True)
        self._arm_timer()
        return True

    def _stop(self, stopped: bool) -> None:
        if stopped != self.stopped:
            self.stopped = stopped
            self.tx_stops += stopped
            self._poll_ns = POLL_NS
            self._outbox.add(StopQueue(stopped))

    def _arm_timer(self) -> None:
        delay_ns = self._tick.delay(self._tasks.now_ns, TX_TIME_NS)
        self._timer.schedule(delay_ns if self._poll == "never" else min(delay_ns, self._poll_ns))

    def _on_timer(self) -> Task[None]:
        room = [queue.tx_free_entry() for queue in self._up]
        if any(free < self._tx_stop for free in room) or not self._flows_moved():
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
        if (
            self.stopped
            and all(queue.tx_free_entry() >= TX_START for queue in self._up)
            and self._flows_moved()
        ):
            self._stop(False)

    def _flows_moved(self) -> bool:
        """Spread flows over all queues that are up; False while frames are on their way in one they leave."""
        if self._spread is self._up:
            return True
        if any(queue.link_is_up and not queue.tx.is_empty() for queue in self._spread):
            return False
        self._spread = self._up
        return True

    def queue_changed(self) -> None:
        """The carrier follows the queues' links; queues that are down block nobody."""
        self._up = tuple(queue for queue in self.queues if queue.link_is_up)
        for queue in self._up:
            # a quarter of the ring is given back at a time: the sender never waits for the last of a burst
            if queue.tx.heeds_polling and queue.rx.geometry is not None:
                queue.rx.batch = max(1, queue.rx.geometry.max_entry // BATCH_SHARE)
        self._next_queue = self._up[0] if self._up else self.queue
        if not self._up:
            self._spread = ()
            self._timer.cancel()
            self._stop(False)
        elif not self._flows_moved():
            self._spread = tuple(queue for queue in self._spread if queue.link_is_up)
            self._stop(True)
            self._arm_timer()
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
            self._outbox.effects.append(Deliver(packet, head[self._at :]))
            return
        self.rx_dropped += 1
        if self._refusals.is_first(cause):
            self._outbox.log("netdev.frame_refused", cause=cause, head=head.hex(), size_bytes=length)

    def tell_first(self) -> None:
        """Packets may have been held up: tell of the next frame on each queue, as after a link-up."""
        for subqueue in self._subqueues:
            subqueue.is_new = True

    def crossed(self, queue: Queue) -> None:
        """The first frame since the queue's link came up: where an outage ends."""
        self._outbox.log("netdev.packet_crossed", queue=queue.number)

    def post(self, queue: Queue) -> None:
        """Give ``queue`` a receive buffer for the one it used."""
        if queue.rx_enqueue(self._buffer_bytes):
            self.rx_errors += 1
            self.rx_fifo_errors += 1

    def snapshot(self) -> dict[str, int]:
        """Every counter by its name in ``COUNTERS``."""
        return {name: getattr(self, name) for name in COUNTERS}
