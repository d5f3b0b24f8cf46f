"""The sending end of a packet ring (see ``ring``).

The peer is told of frames by ``ring``, once for all that were sent since it was last told.  What the fabric
lends of the peer's memory is stored to in place, and ``room`` hands out the next frame's payload there, for
whoever has a packet to copy.

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
from ntbnet.devices.ring import FLAGS_AT, POLLING, U32_MAX, VER_AT, WORD, RingGeometry
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
        self.ring.ring()

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
        trigger: tells the peer of frames, behind their stores; the doorbell, or an interrupt.
        heeds_polling: the peer may say that it need not be told.
        rings: how often the peer was told, since the start.
        rings_saved: how often it was not told, as it looks by itself.
    """

    __slots__ = (
        "_db_bits",
        "_ends",
        "_free",
        "_in_flight",
        "_info",
        "_info_offset",
        "_is_in_place",
        "_is_unrung",
        "_lent",
        "_ntb",
        "_on_impossible",
        "_starts",
        "_ver_len",
        "dma",
        "entries",
        "geometry",
        "heeds_polling",
        "impossible",
        "index",
        "rings",
        "rings_saved",
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
        self._lent: Window | None = None
        """The outbound window, while it can be stored to in place."""
        self._info: Window | None = None
        self._info_offset = 0
        self.geometry = geometry
        self.entries = geometry.max_entry
        self.impossible = 0
        self.heeds_polling = False
        self.rings = self.rings_saved = 0
        self.dma: TxDma | None = None
        self._in_flight: deque[_Frame] = deque()
        self.reset()

    def reset(self) -> None:
        """Index and counters 0; when attached, every frame but one is free. What is in flight is dropped."""
        dropped = self._drop_in_flight()
        self.index = self._free = 0
        self._is_unrung, self._is_in_place = False, True
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

    def newest(self) -> tuple[int, int, bool]:
        """Of the frame that was sent last: its index, how many can be sent behind it by what ``rx_info`` last
        said (there may be more by now), and whether frames are stored in place.
        """
        index, lent = (self.index or self.geometry.max_entry) - 1, self._lent
        return index, self._free, lent is not None and not lent.revoked

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
        word = self._info.load_u32(self._info_offset)
        return word & ~POLLING if self.heeds_polling else word

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
        tail, index = self._tail(), self.index
        self._free = tail - index if tail >= index else self.geometry.max_entry + tail - index
        return self._free

    def is_empty(self) -> bool:
        """True when the peer has taken every frame out."""
        return not self._in_flight and self.free_entries() == self.geometry.max_entry - 1

    def has_room(self, frames: int) -> bool:
        """True when so many can be sent; ``rx_info`` is read when what it last said is not enough."""
        return self._free >= frames or self.free_entries() >= frames

    def room(self, frames: int, skip: int) -> memoryview | None:
        """Where the payload of the next frame belongs in the peer's memory, but for its first ``skip`` bytes.

        One byte longer than a payload may be. To be filled at once, and sent by ``send_in_place``.

        Returns:
            None when fewer than ``frames`` can be sent, DMA has the payloads, or nothing is lent now.
        """
        if self.dma is not None or self._in_flight or not self.has_room(frames):
            return None
        lent, start = self._borrow(), self._starts[self.index]
        if lent is None:
            return None
        return lent.room("ring.payload_lent", start + skip, self.geometry.max_payload - skip + 1)

    def send_in_place(self, front: bytes, length: int) -> None:
        """Send the frame whose payload lies where ``room`` said, without telling the peer yet.

        Args:
            front: the first bytes of the payload, those that were skipped.
            length: of the payload with them, 1..max_payload.
        """
        lent = self._lent
        assert lent is not None, "room was handed out before"
        index = self.index
        end = self._ends[index]
        lent.store("ring.payload", self._starts[index], front)
        _VER_LEN.pack_into(self._ver_len, 0, self.tx_pkts & U32_MAX, length)
        lent.store("ring.header", end + VER_AT, self._ver_len)
        lent.store_u32("ring.flags", end + FLAGS_AT, FLAG_DESC_DONE)
        self._is_unrung = True
        self.tx_bytes += length
        self._sent()

    def _borrow(self) -> Window | None:
        lent = self._lent
        if lent is None or lent.revoked:
            geometry = self.geometry
            self._lent = lent = self._ntb.peer_mw_lend(geometry.widx, geometry.rx_info_offset)
        return lent

    def _store(self, what: str, offset: int, data: Buffer) -> None:
        lent = self._lent
        if lent is not None and not lent.revoked:
            lent.store(what, offset, data)
        else:
            self._is_in_place = False
            self._ntb.peer_mw_write(self.geometry.widx, offset, data, what)

    def ring(self) -> None:
        """Tell the peer of what was sent since it was last told, unless it looks by itself."""
        if not self._is_unrung:
            return
        is_in_place = self._is_in_place
        self._is_unrung, self._is_in_place, self._free = False, True, 0
        if self.heeds_polling and is_in_place and self._info is not None:
            self._ntb.fence()
            if self._info.load_u32(self._info_offset) & POLLING:
                self.rings_saved += 1
                return
        self.ring_anyway()

    def ring_anyway(self) -> None:
        """Tell the peer to look, whatever it was told."""
        self.rings += 1
        self.trigger()

    def send(
        self,
        payload: Buffer,
        length: int,
        flags: int,
        on_sent: Callable[[int], None] | None,
        *,
        more: bool = False,
    ) -> int:
        """Put one frame into the ring and tell the peer.

        Args:
            payload: its first ``length`` bytes are sent; free for reuse after the call.
            length: 0..max_payload; the caller has checked it.
            flags: further flags beside the done bit.
            on_sent: called with the length of a frame that has any, before the index moves on.
            more: further frames follow at once, or ``ring``: the peer is told then.

        Returns:
            0, -EBUSY without a free entry, -EAGAIN when the ring is full.
        """
        if not self.entries:
            self.tx_err_no_buf += 1
            return -errno.EBUSY
        if not self.has_room(1):
            self.tx_ring_full += 1
            return -errno.EAGAIN
        index = self.index
        self.entries -= 1
        if self._in_flight or (self.dma is not None and length >= self.dma.copy_bytes):
            self._send_behind(payload, length, flags, on_sent)
        else:
            if length:
                self.store_payload(index, payload, length)
            self._publish(index, self.tx_pkts & U32_MAX, length, flags)
            if length and on_sent is not None:
                on_sent(length)
            self._sent()
        if not more:
            self.ring()
        return 0

    def _sent(self) -> None:
        self.index += 1
        if self.index == self.geometry.max_entry:
            self.index = 0
        self._free -= 1
        self.tx_pkts += 1
        self.tx_memcpy += 1

    def store_payload(self, index: int, payload: Buffer, length: int) -> None:
        """Store the payload of frame ``index`` with the CPU, in place wherever its header will be."""
        self._borrow()
        self._store("ring.payload", self._starts[index], memoryview(payload)[:length])

    def _publish(self, index: int, ver: int, length: int, flags: int) -> None:
        """Make a frame visible; the peer is yet to be told."""
        end = self._ends[index]
        _VER_LEN.pack_into(self._ver_len, 0, ver, length)
        self._store("ring.header", end + VER_AT, self._ver_len)
        self._store("ring.flags", end + FLAGS_AT, WORD.pack(flags | FLAG_DESC_DONE))
        self._is_unrung = True
        self.tx_bytes += length
        self.entries += 1

    def _send_behind(
        self, payload: Buffer, length: int, flags: int, on_sent: Callable[[int], None] | None
    ) -> None:
        """Send a frame by DMA, or one that must not overtake such a frame."""
        frame, dma = _Frame(self, length, flags, on_sent), self.dma
        self._in_flight.append(frame)
        self.index = (frame.index + 1) % self.geometry.max_entry
        self._free -= 1
        self.tx_pkts += 1
        by_engine = dma is not None and length >= dma.copy_bytes
        if dma is not None and by_engine and dma.submit(self._starts[frame.index], payload, length, frame):
            self.tx_async += 1
            return
        if length:
            self.store_payload(frame.index, payload, length)
        self.tx_memcpy += 1
        frame.is_copied = True
        self.advance()

    def advance(self) -> None:
        """Make visible what is complete, up to the first frame that is not."""
        self._borrow()
        while self._in_flight and self._in_flight[0].is_copied:
            frame = self._in_flight.popleft()
            self._publish(frame.index, frame.ver, frame.length, frame.flags)
            if frame.length and frame.on_sent is not None:
                frame.on_sent(frame.length)
