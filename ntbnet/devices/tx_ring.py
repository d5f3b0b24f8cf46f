"""The sending end of a packet ring (see ``ring``).

Source: Linux drivers/ntb/ntb_transport.c (ntb_process_tx, ntb_async_tx, ntb_tx_copy_callback,
ntb_transport_tx_free_entry).
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from functools import partial
from struct import Struct

from ntbnet.devices.memory import Buffer, Window
from ntbnet.devices.ntb import NtbDevice
from ntbnet.devices.ring import FLAGS_AT, U32_MAX, VER_AT, WORD, RingGeometry
from ntbnet.regs.transport import FLAG_DESC_DONE

_VER_LEN = Struct("<II")


class TxRing:
    """The sending end: frames go through the outbound window, ``rx_info`` comes from own memory.

    Args:
        ntb: the device whose outbound window and doorbell are used.
        geometry: ring in the outbound window.
        db_bits: doorbell bits of the queue.
        on_impossible: told an ``rx_info`` that no frame has, or none that was sent.

    Attributes:
        trigger: tells the peer of a frame, behind the frame's stores; the doorbell, or an interrupt.
    """

    __slots__ = (
        "_db_bits",
        "_ends",
        "_info",
        "_info_offset",
        "_ntb",
        "_on_impossible",
        "_starts",
        "_ver_len",
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
        self.reset()

    def reset(self) -> None:
        """Index and counters 0; when attached, every frame but one is free."""
        self.index = 0
        self.tx_bytes = self.tx_pkts = self.tx_ring_full = 0
        self.tx_err_no_buf = self.tx_memcpy = self.tx_async = 0
        if self._info is not None:
            self._info.store_u32("tx.rx_info", self._info_offset, self.geometry.max_entry - 1)

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
        write, widx, end = self._ntb.peer_mw_write, self.geometry.widx, self._ends[index]
        if length:
            whole = length == len(payload)
            write(widx, self._starts[index], payload if whole else memoryview(payload)[:length])
        _VER_LEN.pack_into(self._ver_len, 0, self.tx_pkts & U32_MAX, length)
        write(widx, end + VER_AT, self._ver_len)
        write(widx, end + FLAGS_AT, WORD.pack(flags | FLAG_DESC_DONE))
        self.trigger()
        self.tx_bytes += length
        self.entries += 1
        if length and on_sent is not None:
            on_sent(length)
        self.index = (index + 1) % self.geometry.max_entry
        self.tx_pkts += 1
        self.tx_memcpy += 1
        return 0
