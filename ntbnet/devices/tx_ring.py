"""The sending end of a packet ring (see ``ring``).

With DMA (``tx_dma``) a frame's header follows when its payload has been copied, and a frame behind one
whose payload is still on its way waits with its header, so that frames become visible in order.

Source: Linux drivers/ntb/ntb_transport.c (ntb_process_tx, ntb_async_tx, ntb_tx_copy_callback,
ntb_transport_tx_free_entry).
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable
from functools import partial
from struct import Struct

from ntbnet.devices.memory import Buffer, Window
from ntbnet.devices.ntb import NtbDevice
from ntbnet.devices.ring import FLAGS_AT, U32_MAX, VER_AT, WORD, RingGeometry
from ntbnet.devices.tx_dma import TxDma
from ntbnet.regs.transport import FLAG_DESC_DONE

_VER_LEN = Struct("<II")


class _Frame:
    """A frame that was sent and is not visible yet."""

    __slots__ = ("flags", "index", "is_copied", "length", "on_sent", "ring", "ver")

    def __init__(self, ring: TxRing, length: int, flags: int, on_sent: Callable[[int], None] | None) -> None:
        self.ring, self.length, self.flags, self.on_sent = ring, length, flags, on_sent
        self.index, self.ver = ring.index, ring.tx_pkts & U32_MAX
        self.is_copied = False

    def copied(self) -> None:
        """Its payload is there."""
        self.is_copied = True
        self.ring.advance()

    def copy(self, payload: memoryview) -> None:
        """The engine failed; the CPU copies."""
        self.ring.store_payload(self.index, payload, self.length)


class TxRing:
    """The sending end: frames go through the outbound window, ``rx_info`` comes from own memory.

    Args:
        ntb: the device whose outbound window and doorbell are used.
        geometry: ring in the outbound window.
        db_bits: doorbell bits of the queue.
        on_impossible: told an ``rx_info`` that no frame has, or none that was sent.

    Attributes:
        dma: copies long payloads; None: the CPU copies all.
        trigger: tells the peer of a frame, behind the frame's stores; the doorbell, or an interrupt.
    """

    __slots__ = (
        "_db_bits",
        "_ends",
        "_in_flight",
        "_info",
        "_info_offset",
        "_ntb",
        "_on_impossible",
        "_starts",
        "_ver_len",
        "dma",
        "entries",
        "geometry",
        "impossible",
        "index",
        "trigger",
        "tx_async",
        "tx_bytes",
        "tx_err_no_buf",
        "tx_memcpy",
        "tx_pkts",
        "tx_ring_full",
    )

    def __init__(
        self, ntb: NtbDevice, geometry: RingGeometry, db_bits: int, on_impossible: Callable[[int], None]
    ) -> None:
        self._ntb = ntb
        self._db_bits = db_bits
        self.ring_doorbells()
        self._on_impossible = on_impossible
        self._starts = tuple(geometry.frame_offset(k) for k in range(geometry.max_entry))
        self._ends = tuple(geometry.frame_end(k) for k in range(geometry.max_entry))
        self._ver_len = bytearray(_VER_LEN.size)
        self._info: Window | None = None
        self._info_offset = 0
        self.geometry = geometry
        self.entries = geometry.max_entry
        self.impossible = 0
        self.dma: TxDma | None = None
        self._in_flight: deque[_Frame] = deque()
        self.reset()

    def reset(self) -> None:
        """Index and counters 0; when attached, every frame but one is free. What is in flight is dropped."""
        dropped = self._drop_in_flight()
        self.index = 0
        self.tx_bytes = self.tx_pkts = self.tx_ring_full = 0
        self.tx_err_no_buf = self.tx_memcpy = self.tx_async = 0
        if self._info is not None:
            self._info.store_u32("ring.rx_info_reset", self._info_offset, self.geometry.max_entry - 1)
        for frame in dropped:
            if frame.length and frame.on_sent is not None:
                frame.on_sent(-errno.ENOLINK)

    def _drop_in_flight(self) -> deque[_Frame]:
        dropped, self._in_flight = self._in_flight, deque()
        if dropped and self.dma is not None:
            self.dma.cancel()
        self.entries += len(dropped)
        return dropped

    @property
    def in_flight(self) -> int:
        """Frames that were sent and are not visible yet."""
        return len(self._in_flight)

    def ring_doorbells(self) -> None:
        """Tell the peer of frames by doorbell from now on."""
        self.trigger: Callable[[], None] = partial(self._ntb.peer_db_set, self._db_bits)

    def attach(self, window: Window, offset: int) -> None:
        """Take ``rx_info`` from ``window`` at ``offset`` from now on, and initialise it."""
        self._info, self._info_offset = window, offset
        self.reset()

    def detach(self) -> None:
        """Forget own memory: it is about to be freed."""
        self._info = None

    @property
    def rx_info(self) -> int:
        """Index of the last frame the peer consumed, as it wrote it; read once, not yet checked."""
        if self._info is None:
            return self.geometry.max_entry - 1
        return self._info.load_u32(self._info_offset)

    def _tail(self) -> int:
        tail, entries = self.rx_info, self.geometry.max_entry
        # Fewer frames were sent than would be on the way: the word is left over from another session.
        if tail < entries and (self.tx_pkts >= entries or (self.index - tail - 1) % entries <= self.tx_pkts):
            return tail
        self.impossible += 1
        self._on_impossible(tail)
        return self.index

    def free_entries(self) -> int:
        """Frames that can be sent now, 0..max_entry-1."""
        tail = self._tail()
        return tail - self.index if tail >= self.index else self.geometry.max_entry + tail - self.index

    def send(self, payload: Buffer, length: int, flags: int, on_sent: Callable[[int], None] | None) -> int:
        """Put one frame into the ring and tell the peer.

        Args:
            payload: its first ``length`` bytes are sent; free for reuse after the call.
            length: 0..max_payload; the caller has checked it.
            flags: further flags beside the done bit.
            on_sent: called with the length of a frame that has any, before the index moves on.

        Returns:
            0, -EBUSY without a free entry, -EAGAIN when the ring is full.
        """
        if not self.entries:
            self.tx_err_no_buf += 1
            return -errno.EBUSY
        if self._tail() == self.index:
            self.tx_ring_full += 1
            return -errno.EAGAIN
        index = self.index
        self.entries -= 1
        if self._in_flight or (self.dma is not None and length >= self.dma.copy_bytes):
            self._send_behind(payload, length, flags, on_sent)
            return 0
        if length:
            self.store_payload(index, payload, length)
        self._publish(index, self.tx_pkts & U32_MAX, length, flags)
        if length and on_sent is not None:
            on_sent(length)
        self.index = (index + 1) % self.geometry.max_entry
        self.tx_pkts += 1
        self.tx_memcpy += 1
        return 0

    def store_payload(self, index: int, payload: Buffer, length: int) -> None:
        """Store the payload of frame ``index`` with the CPU."""
        whole = length == len(payload)
        data = payload if whole else memoryview(payload)[:length]
        self._ntb.peer_mw_write(self.geometry.widx, self._starts[index], data, "ring.payload")

    def _publish(self, index: int, ver: int, length: int, flags: int) -> None:
        """Make a frame visible, and tell the peer."""
        write, widx, end = self._ntb.peer_mw_write, self.geometry.widx, self._ends[index]
        _VER_LEN.pack_into(self._ver_len, 0, ver, length)
        write(widx, end + VER_AT, self._ver_len, "ring.header")
        write(widx, end + FLAGS_AT, WORD.pack(flags | FLAG_DESC_DONE), "ring.flags")
        self.trigger()
        self.tx_bytes += length
        self.entries += 1

    def _send_behind(
        self, payload: Buffer, length: int, flags: int, on_sent: Callable[[int], None] | None
    ) -> None:
        """Send a frame by DMA, or one that must not overtake such a frame."""
        frame, dma = _Frame(self, length, flags, on_sent), self.dma
        self._in_flight.append(frame)
        self.index = (frame.index + 1) % self.geometry.max_entry
        self.tx_pkts += 1
        by_engine = dma is not None and length >= dma.copy_bytes
        if dma is not None and by_engine and dma.submit(self._starts[frame.index], payload, length, frame):
            self.tx_async += 1
            return
        if length:
            self.store_payload(frame.index, payload, length)
        self.tx_memcpy += 1
        frame.copied()

    def advance(self) -> None:
        """Make visible what is complete, up to the first frame that is not."""
        while self._in_flight and self._in_flight[0].is_copied:
            frame = self._in_flight.popleft()
            self._publish(frame.index, frame.ver, frame.length, frame.flags)
            if frame.length and frame.on_sent is not None:
                frame.on_sent(frame.length)
