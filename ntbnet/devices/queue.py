"""One queue of the transport: its two rings, its client and its link state.

Source: Linux drivers/ntb/ntb_transport.c (struct ntb_transport_qp, ntb_transport_tx_enqueue,
ntb_transport_rxc_db, debugfs_read).
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from ntbnet.devices.ring import U32_MAX
from ntbnet.devices.rx_ring import RxRing, RxStop
from ntbnet.devices.tx_ring import TxRing
from ntbnet.regs.transport import FLAG_LINK_DOWN

if TYPE_CHECKING:
    from ntbnet.devices.memory import Buffer, Window
    from ntbnet.devices.ntb import NtbDevice
    from ntbnet.devices.ring import RingGeometry
    from ntbnet.devices.task import DelayedWork


class QueueClient(Protocol):
    """The handlers of a queue's owner; they must not block."""

    def rx(self, frame: memoryview | None, length: int) -> None:
        """A frame came: its payload in own DRAM and its length, or None and a negative errno."""

    def tx(self, length: int) -> None:
        """A frame of ``length`` bytes left; runs inside ``tx_enqueue`` when the CPU copied it.

        A negative errno: it was in flight when the queue went down, and is lost.
        """

    def event(self, up: bool) -> None:
        """The queue's link came up, or is down."""


class QueueOwner(Protocol):
    """What a queue tells its transport."""

    def queue_refused(self, queue: Queue, cause: str, value: int) -> None:
        """The peer wrote a value that cannot be; it was not used."""

    def queue_stuck(self, queue: Queue, reason: str) -> None:
        """The queue cannot go on by itself."""

    def queue_peer_down(self, queue: Queue) -> None:
        """A link-down frame came."""


class Queue:
    """A transport queue.

    Args:
        number: 0..31; the doorbell bit is the same.
        ntb: the device it works on.
        geometry: its ring in the outbound window.
        address: CPU address of that ring.
        owner: the transport.

    Attributes:
        number, address: as above.
        client: its owner; None while the queue is free.
        client_ready: the client asked for the link.
        link_is_up: both sides announced the queue; frames can be sent.
        active: frames are received.
        interrupts: rings that came as an interrupt of a backend.
        on_received: told how many frames an interrupt found; not of doorbells that somebody polls, since who
            looks by himself would get past that poll.
        found: frames that a slow look found, their interrupts being lost.
        settling: rounds the queue still waits for the peer to notice that it was closed.
        link_work: announces the queue until the peer does.
        close_work: tells the peer that the queue goes down.
    """

    link_work: DelayedWork
    close_work: DelayedWork

    def __init__(
        self, number: int, ntb: NtbDevice, geometry: RingGeometry, address: int, owner: QueueOwner
    ) -> None:
        self.number = number
        self.bit = 1 << number
        self._ntb = ntb
        self.address = address
        self._owner = owner
        self.tx = TxRing(ntb, geometry, self.bit, self._on_impossible_rx_info)
        self.rx = RxRing(ntb, geometry, self._on_impossible_length)
        self.client: QueueClient | None = None
        self.client_ready = False
        self.link_is_up = False
        self.active = False
        self.settling = 0
        self.interrupts = 0
        self.on_received: Callable[[int], None] | None = None
        self.found = 0
        self._overlooked = -1
        self._running = False
        self._on_sent: Callable[[int], None] | None = None

    @property
    def max_size(self) -> int:
        """Longest frame a client may send, bytes."""
        return self.tx.geometry.max_payload

    # ownership and link state, driven by the transport

    def take(self, client: QueueClient) -> None:
        """Give the queue to ``client``."""
        self.client, self._on_sent = client, client.tx

    def release(self) -> None:
        """Take it back: no handler runs any more, posted buffers are dropped."""
        self.client, self._on_sent, self.on_received = None, None, None
        self.client_ready = False
        while self.rx.take_pending() is not None:
            pass

    def attach(self, window: Window, geometry: RingGeometry) -> None:
        """Receive in ``window``; the word the peer writes lies there too."""
        self.rx.attach(window, geometry)
        self.tx.attach(window, geometry.rx_info_offset)

    def detach(self) -> None:
        """The receive memory is about to go."""
        self.tx.detach()
        self.rx.detach()
        self.reset()

    def reset(self) -> None:
        """Link down, indices and counters 0 (Linux ntb_qp_link_down_reset)."""
        self.link_is_up = self.active = False
        self.tx.reset()
        self.rx.reset()

    def renew(self) -> None:
        """Make the own side ready for a new session: forget frames sent in the last one."""
        self.reset()
        self.rx.clear_headers()

    def start(self) -> None:
        """Both sides are ready: frames may flow."""
        self.tx.reset()
        self.link_is_up = self.active = True

    # sending

    def tx_enqueue(self, payload: Buffer, length: int, *, more: bool = False) -> int:
        """Send the first ``length`` bytes of ``payload`` as one frame.

        With ``more`` the peer is told of it with a later frame, or by ``tx.ring``.

        Returns:
            0, or a negative errno: EINVAL (length 0), ENOLINK (queue down), EMSGSIZE, EBUSY (no
            free entry), EAGAIN (ring full).
        """
        if length <= 0:
            return -errno.EINVAL
        if not self.link_is_up:
            return -errno.ENOLINK
        if length > self.tx.geometry.max_payload:
            return -errno.EMSGSIZE
        return self.tx.send(payload, length, 0, self._on_sent, more=more)

    def tx_link_down(self) -> int:
        """Send the link-down frame; 0, -EBUSY (also while frames are in flight) or -EAGAIN."""
        if self.tx.in_flight:
            return -errno.EBUSY
        return self.tx.send(b"", 0, FLAG_LINK_DOWN, None)

    def tx_free_entry(self) -> int:
        """Frames that fit into the ring now; of a queue that is down, those of an empty ring."""
        return self.tx.free_entries()

    # receiving

    def rx_enqueue(self, length: int) -> int:
        """Post a buffer of ``length`` bytes: 0 or -ENOMEM. Frames that waited for one are received."""
        result = self.rx.post(length)
        if not result and self.active and not self._running:
            self.run_rx()
        return result

    def rx_remove(self) -> int | None:
        """Take back one posted buffer: its length; None when there is none or the client is ready."""
        return None if self.client_ready else self.rx.take_pending()

    def on_interrupt(self) -> None:
        """The peer rang through this side's interrupt backend, for this queue or for another one."""
        self.interrupts += 1
        if self.active:
            self._run_interrupted()

    def on_doorbell(self) -> None:
        """The queue's doorbell bit may be set."""
        if self._ntb.polls_doorbells:
            self.run_rx()
        else:
            self._run_interrupted()

    def _run_interrupted(self) -> None:
        before = self.rx.rx_pkts
        self.run_rx()
        if self.on_received is not None:
            self.on_received(max(0, self.rx.rx_pkts - before))

    def look(self) -> bool:
        """True when a frame waits for an interrupt."""
        self._overlooked = self.rx.rx_pkts if self.active and self.rx.waits() else -1
        return self._overlooked >= 0

    def take_overlooked(self) -> None:
        """Receive, if the frame that ``look`` saw still waits: its interrupt is lost."""
        if self.active and self.rx.rx_pkts == self._overlooked and self.rx.waits():
            self.found += 1
            self.run_rx()

    def run_rx(self) -> None:
        """Receive until the ring is empty and the doorbell bit is clear (the kernel's tasklet)."""
        if self._running:
            return
        self._running = True
        try:
            while True:
                stop = self._run(U32_MAX)
                if stop is not RxStop.BUDGET:
                    if not self._ntb.db_read() & self.bit:
                        break
                    self._ntb.db_clear(self.bit)
                if not self.active:
                    break
        finally:
            self._running = False

    def poll(self, budget: int) -> int:
        """Receive up to ``budget`` frames unasked; how many there were."""
        if self._running:
            return 0
        self._running, before = True, self.rx.rx_pkts
        try:
            self._run(budget)
        finally:
            self._running = False
        return max(0, self.rx.rx_pkts - before)

    def _run(self, budget: int) -> RxStop:
        stop = self.rx.run(self._deliver, budget)
        if stop is RxStop.PEER_DOWN:
            self._owner.queue_peer_down(self)
        elif stop is RxStop.STUCK:
            self._owner.queue_stuck(self, "rx_err_ver")
        return stop

    def _deliver(self, frame: memoryview | None, length: int) -> None:
        if self.client is not None and self.client_ready:
            self.client.rx(frame, length)

    def _on_impossible_rx_info(self, value: int) -> None:
        self._owner.queue_refused(self, "rx_info", value)
        self._owner.queue_stuck(self, "rx_info")

    def _on_impossible_length(self, value: int, beyond_frame: bool) -> None:
        self._owner.queue_refused(self, "frame_len" if beyond_frame else "frame_oversize", value)

    # what people see

    def snapshot(self) -> dict[str, int | str]:
        """Statistics in debugfs order; then the link, impossible ``rx_info`` values, and who uses it."""
        tx, rx = self.tx, self.rx
        return {
            "rx_bytes": rx.rx_bytes,
            "rx_pkts": rx.rx_pkts,
            "rx_memcpy": rx.rx_memcpy,
            "rx_async": rx.rx_async,
            "rx_ring_empty": rx.rx_ring_empty,
            "rx_err_no_buf": rx.rx_err_no_buf,
            "rx_err_oflow": rx.rx_err_oflow,
            "rx_err_ver": rx.rx_err_ver,
            "rx_buff": f"0x{rx.address:016x}",
            "rx_index": rx.index,
            "rx_max_entry": rx.geometry.max_entry if rx.geometry else 0,
            "rx_alloc_entry": rx.alloc_entries,
            "tx_bytes": tx.tx_bytes,
            "tx_pkts": tx.tx_pkts,
            "tx_memcpy": tx.tx_memcpy,
            "tx_async": tx.tx_async,
            "tx_ring_full": tx.tx_ring_full,
            "tx_err_no_buf": tx.tx_err_no_buf,
            "tx_mw": f"0x{self.address:016x}",
            "tx_index": tx.index,
            "rx_info": tx.rx_info,
            "tx_max_entry": tx.geometry.max_entry,
            "free_tx": tx.free_entries(),
            "link": "up" if self.link_is_up else "down",
            "rx_info_impossible": tx.impossible,
            "interrupts": self.interrupts,
            "rings_saved": tx.rings_saved,
            "polled": self.rx.is_polled,
            "found": self.found,
            "tx_in_flight": tx.in_flight,
            "dma_errors": tx.dma.errors if tx.dma else 0,
            "has_client": self.client is not None,
        }
