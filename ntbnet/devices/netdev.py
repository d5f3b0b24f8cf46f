"""The kernel's ``ntb_netdev``: one IP interface over one transport queue, or over several.

With several queues, packets of one flow stay on one queue (``flow``), and the carrier is up while any
queue is, as in mainline of mid-2026. Two deviations: the node's TUN has one queue of its own, so a full
ring stops all; a flow whose queue is down uses another one.

The node's interface is a TUN, which carries bare IP packets; the queue carries Ethernet frames,
as between kernels.  The 14-byte header is put on and taken off here.  ARP does not exist on a
TUN: both MAC addresses are given.

A ring with fewer than 6 frames never transmits, and one with fewer than 11 is woken by the
timer alone: so it is in Linux 6.1 (HAZARD 10.32).  Since copies of the CPU complete inside
``tx_enqueue``, a stopped queue is in practice always woken by the timer, unless DMA copies.

Source: Linux drivers/net/ntb_netdev.c.
"""

from __future__ import annotations

import errno

from ntbnet.devices.effects import Deliver, Outbox, SetCarrier, StopQueue
from ntbnet.devices.flow import flow_hash
from ntbnet.devices.memory import Buffer
from ntbnet.devices.queue import Queue
from ntbnet.devices.task import DelayedWork, Task, Tasks
from ntbnet.devices.tick import Tick
from ntbnet.devices.transport import Transport
from ntbnet.errors import KernelError

ETH_HEADER_BYTES = 14
MAC_BYTES = 6
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
_ETHERTYPES = {4: b"\x08\x00", 6: b"\x86\xdd"}
"""Ethertype by IP version, in network byte order."""
_GROUP_BIT = 0x01


class _Subqueue:
    """One queue of the interface: the transport's client of it."""

    def __init__(self, netdev: Netdev, transport: Transport) -> None:
        self._netdev = netdev
        queue = transport.create_queue(self)
        if queue is None:
            raise KernelError(errno.EIO, "the transport has no free queue")
        self.queue: Queue = queue

    def rx(self, frame: memoryview | None, length: int) -> None:
        """A frame came: give its packet to the node, and post its buffer again."""
        self._netdev.receive(frame, length)
        self._netdev.post(self.queue)

    def tx(self, length: int) -> None:
        """A frame left, or could not."""
        self._netdev.sent(length)

    def event(self, up: bool) -> None:
        """The queue's link came up, or is down."""
        self._netdev.queue_changed()


class Netdev:
    """Network interface of a node.

    Args:
        transport: probed transport; its lowest free queues are taken.
        outbox: takes Deliver, SetCarrier and StopQueue effects.
        tasks: runs the transmit timer.
        tick: timer tick of this side's kernel.
        mtu: longest IP packet, bytes, 0..max_mtu.
        local_mac: 6 bytes; frames for other addresses are dropped.
        peer_mac: 6 bytes; destination of every frame sent.
        tx_stop: free ring entries below which sending stops, 1 or more.
        poll: how a full ring is watched for room: ``adaptive``, ``never`` (on kernel ticks) or ``always``.
        queues: queues to use, 1 or more; as many as the transport has free when those are fewer.

    Attributes:
        queue: the first queue.
        queues: all of them.
        tx_buffer: Ethernet frame being sent, header in place: put the packet at
            ``ETH_HEADER_BYTES`` and call ``xmit_in_place``. It is never replaced.
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
    ) -> None:
        if len(local_mac) != MAC_BYTES or len(peer_mac) != MAC_BYTES:
            raise ValueError(f"MAC addresses {local_mac.hex()}, {peer_mac.hex()}: not {MAC_BYTES} bytes")
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
        self._local_mac = local_mac
        self._expected = {local_mac + peer_mac + ethertype: v for v, ethertype in _ETHERTYPES.items()}
        self._timer = DelayedWork(tasks, "netdev-tx-timer", self._on_timer)
        self.tx_buffer = bytearray(max(self.max_mtu, 1) + ETH_HEADER_BYTES)
        self.tx_buffer[:ETH_HEADER_BYTES] = peer_mac + local_mac + _ETHERTYPES[4]
        self._tx_payload = memoryview(self.tx_buffer)[ETH_HEADER_BYTES:]
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
        return min(queue.max_size for queue in self.queues) - ETH_HEADER_BYTES

    # the interface's life

    def open(self) -> None:
        """Post the receive buffers and ask for the queues' links. Without effect when open."""
        if self.is_open:
            return
        self.is_open = True
        for queue in self.queues:
            for _ in range(RX_BUFFERS):
                if queue.rx_enqueue(self.mtu + ETH_HEADER_BYTES):
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
                    queue.rx_enqueue(mtu + ETH_HEADER_BYTES)
        self._set_carrier(False)
        self.mtu = mtu
        for queue in self.queues:
            self._transport.link_up(queue)

    # transmission

    def xmit(self, packet: Buffer) -> bool:
        """Send one IP packet; it is copied into ``tx_buffer`` first. See ``xmit_in_place``."""
        length = len(packet)
        if length <= len(self._tx_payload):
            self._tx_payload[:length] = packet
        return self.xmit_in_place(length)

    def xmit_in_place(self, length: int) -> bool:
        """Send the IP packet of ``length`` bytes that lies in ``tx_buffer`` behind the header.

        Returns:
            True when it was sent or dropped (counted); False when the interface is busy: keep
            the packet and try again after StopQueue(False).
        """
        queue = self._queue_for(length)
        if queue.link_is_up and (self.stopped or self._no_room(queue)):
            return False
        ethertype = _ETHERTYPES.get(self.tx_buffer[ETH_HEADER_BYTES] >> 4)
        if ethertype is None or not 0 < length <= self.mtu:
            self.tx_dropped += 1
            return True
        self.tx_buffer[12:ETH_HEADER_BYTES] = ethertype
        result = queue.tx_enqueue(self.tx_buffer, ETH_HEADER_BYTES + length)
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
        return up[flow_hash(self._tx_payload[:length]) % len(up)]

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
        if frame is None or length <= ETH_HEADER_BYTES:
            self.rx_errors += 1
            self.rx_length_errors += 1
        else:
            self.rx_packets += 1
            self.rx_bytes += length
            packet = frame[ETH_HEADER_BYTES:]
            if self._is_for_us(bytes(frame[:ETH_HEADER_BYTES]), packet[0] >> 4):
                self._outbox.add(Deliver(packet))
            else:
                self.rx_dropped += 1

    def post(self, queue: Queue) -> None:
        """Give ``queue`` a receive buffer for the one it used."""
        if queue.rx_enqueue(self.mtu + ETH_HEADER_BYTES):
            self.rx_errors += 1
            self.rx_fifo_errors += 1

    def _is_for_us(self, header: bytes, version: int) -> bool:
        if self._expected.get(header) == version:
            return True
        is_group = header[0] & _GROUP_BIT
        if not is_group and header[:MAC_BYTES] != self._local_mac:
            return False
        return header[12:] == _ETHERTYPES.get(version)

    def snapshot(self) -> dict[str, int]:
        """Every counter by its name in ``COUNTERS``."""
        return {name: getattr(self, name) for name in COUNTERS}
