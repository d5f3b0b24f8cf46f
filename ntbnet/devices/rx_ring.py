"""The receiving end of a packet ring (see ``ring``).

Source: Linux drivers/ntb/ntb_transport.c (ntb_process_rxc, ntb_complete_rxc).
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable
from enum import Enum, auto

from ntbnet.devices.memory import Window
from ntbnet.devices.ntb import NtbDevice
from ntbnet.devices.ring import FLAGS_AT, LEN_AT, U32_MAX, VER_AT, WORD, RingGeometry
from ntbnet.regs.transport import FLAG_DESC_DONE, FLAG_LINK_DOWN, HEADER_BYTES

RX_ENTRIES = 100
"""Receive entries of a new queue: buffers a client may have posted at once."""

Deliver = Callable[["memoryview | None", int], None]
"""Takes a frame: a read-only view of its payload and its length, or None and a negative errno."""


class RxStop(Enum):
    """Why a run over the receiving end stopped."""

    EMPTY = auto()
    """The next frame is not done."""
    BUDGET = auto()
    """As many frames as the ring has were handled: run again."""
    NO_BUFFER = auto()
    """The client has posted no buffer; the frame stays."""
    PEER_DOWN = auto()
    """A link-down frame came; it is cleared but not counted as consumed."""
    STUCK = auto()
    """The frame's ``ver`` is wrong: nothing after it can be trusted until a reset."""
    RESET = auto()
    """The client reset the ring while it took a frame."""


class RxRing:
    """The receiving end: frames lie in own memory, ``rx_info`` goes through the outbound window.

    Args:
        ntb: the device whose outbound window is used.
        tx_geometry: the opposite ring: says where in the outbound window ``rx_info`` is.
        on_impossible: told the ``len`` of a frame that was refused, and the limit it broke:
            True for the frame itself, False for the client's buffer.
    """

    __slots__ = (
        "_ends",
        "_generation",
        "_ntb",
        "_on_impossible",
        "_pending",
        "_rx_info_offset",
        "_rx_info_widx",
        "_starts",
        "_window",
        "alloc_entries",
        "geometry",
        "index",
        "rx_async",
        "rx_bytes",
        "rx_err_no_buf",
        "rx_err_oflow",
        "rx_err_ver",
        "rx_memcpy",
        "rx_pkts",
        "rx_ring_empty",
    )

    def __init__(
        self, ntb: NtbDevice, tx_geometry: RingGeometry, on_impossible: Callable[[int, bool], None]
    ) -> None:
        self._ntb = ntb
        self._rx_info_widx = tx_geometry.widx
        self._rx_info_offset = tx_geometry.rx_info_offset
        self._on_impossible = on_impossible
        self._window: Window | None = None
        self._starts: tuple[int, ...] = ()
        self._ends: tuple[int, ...] = ()
        self._generation = 0
        self._pending: deque[int] = deque()
        self.alloc_entries = RX_ENTRIES
        self.geometry: RingGeometry | None = None
        self.reset()

    def reset(self) -> None:
        """Index and counters 0; posted buffers stay."""
        self._generation += 1
        self.index = 0
        self.rx_bytes = self.rx_pkts = self.rx_ring_empty = self.rx_err_no_buf = 0
        self.rx_err_oflow = self.rx_err_ver = self.rx_memcpy = self.rx_async = 0

    def attach(self, window: Window, geometry: RingGeometry) -> None:
        """Receive in ``window``, at ``geometry``, with every frame header zero."""
        self._window, self.geometry = window, geometry
        self._starts = tuple(geometry.frame_offset(k) for k in range(geometry.max_entry))
        self._ends = tuple(geometry.frame_end(k) for k in range(geometry.max_entry))
        self.alloc_entries = max(self.alloc_entries, geometry.max_entry)
        self.clear_headers()
        self.reset()

    def detach(self) -> None:
        """Forget own memory: it is about to be freed."""
        self._window, self.geometry = None, None
        self.reset()

    def clear_headers(self) -> None:
        """Zero every frame header: what was sent before counts no more."""
        if self._window is not None:
            for end in self._ends:
                self._window.zero("ring.headers_cleared", end - HEADER_BYTES, HEADER_BYTES)

    def drop_ended_session(self) -> bool:
        """Clear the headers when a link-down frame is among them: what came before it is over.

        For a ring that is not active: its sender came up, sent and closed before we came up.
        """
        window = self._window
        if window is None or not any(window.load_u32(end + FLAGS_AT) & FLAG_LINK_DOWN for end in self._ends):
            return False
        self.clear_headers()
        return True

    def waits(self) -> bool:
        """True when a frame is there to be taken, or a link-down frame."""
        return self._window is not None and self._window.load_u32(self._ends[self.index] + FLAGS_AT) != 0

    @property
    def address(self) -> int:
        """CPU address of the ring in own memory, 0 without."""
        if self._window is None or self.geometry is None:
            return 0
        return self._window.span.base + self.geometry.offset

    @property
    def pending(self) -> int:
        """Buffers posted and not used yet."""
        return len(self._pending)

    def post(self, length: int) -> int:
        """Post one buffer of ``length`` bytes. Returns 0, or -ENOMEM without a free entry."""
        if len(self._pending) >= self.alloc_entries:
            return -errno.ENOMEM
        self._pending.append(length)
        return 0

    def take_pending(self) -> int | None:
        """Take one posted buffer back; its length, or None when there is none."""
        return self._pending.popleft() if self._pending else None

    def run(self, deliver: Deliver) -> RxStop:
        """Handle up to max_entry frames, each one: ``flags`` cleared, handed over, ``rx_info`` written.

        The payload view is valid until ``rx_info`` reaches the peer, that is for the effects
        queued before it.
        """
        window, generation = self._window, self._generation
        if window is None:
            return RxStop.EMPTY
        for _ in range(len(self._ends)):
            index = self.index
            end = self._ends[index]
            flags = window.load_u32(end + FLAGS_AT)
            if not flags & FLAG_DESC_DONE:
                self.rx_ring_empty += 1
                return RxStop.EMPTY
            if flags & FLAG_LINK_DOWN:
                window.store_u32("ring.flags_cleared", end + FLAGS_AT, 0)
                return RxStop.PEER_DOWN
            if window.load_u32(end + VER_AT) != self.rx_pkts & U32_MAX:
                self.rx_err_ver += 1
                return RxStop.STUCK
            if not self._pending:
                self.rx_err_no_buf += 1
                return RxStop.NO_BUFFER
            buffer_length = self._pending.popleft()
            length = window.load_u32(end + LEN_AT)
            self.rx_pkts += 1
            self.index = (index + 1) % len(self._ends)
            window.store_u32("ring.flags_cleared", end + FLAGS_AT, 0)
            impossible = length > end - HEADER_BYTES - self._starts[index]
            if impossible or length > buffer_length:
                self.rx_err_oflow += 1
                self._on_impossible(length, impossible)
                deliver(None, -errno.EIO)
            else:
                self.rx_bytes += length
                self.rx_memcpy += 1
                deliver(window.view(self._starts[index], length), length)
            if generation != self._generation:
                return RxStop.RESET
            self._ntb.peer_mw_write(
                self._rx_info_widx, self._rx_info_offset, WORD.pack(index), "ring.rx_info"
            )
        return RxStop.BUDGET
