"""The receiving end of a packet ring (see ``ring``).

``rx_info`` is published behind each frame, as the kernel does, or behind several (``batch``).

Source: Linux drivers/ntb/ntb_transport.c (ntb_process_rxc, ntb_complete_rxc).
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable
from enum import Enum, auto

from ntbnet.devices.memory import Window
from ntbnet.devices.ntb import NtbDevice
from ntbnet.devices.ring import FLAGS_AT, LEN_AT, POLLING, U32_MAX, VER_AT, WORD, RingGeometry
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

    Attributes:
        batch: frames behind which ``rx_info`` is published; behind the last of a run in any case.
        is_polled: somebody looks at the ring by himself; what is published says so to the sender.
    """

    __slots__ = (
        "_ends",
        "_generation",
        "_lent",
        "_ntb",
        "_on_impossible",
        "_pending",
        "_rx_info_offset",
        "_rx_info_widx",
        "_starts",
        "_window",
        "alloc_entries",
        "batch",
        "geometry",
        "index",
        "is_polled",
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
        self._lent: Window | None = None
        self.batch = 1
        self.alloc_entries = RX_ENTRIES
        self.geometry: RingGeometry | None = None
        self.reset()

    def reset(self) -> None:
        """Index and counters 0; posted buffers stay."""
        self._generation += 1
        self.index = 0
        self.is_polled = False
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

    def run(self, deliver: Deliver, budget: int = U32_MAX) -> RxStop:
        """Handle up to max_entry frames, or ``budget``, each one: ``flags`` cleared, handed over.

        ``rx_info`` is written behind every ``batch`` of them, and behind the last one. The payload view is
        valid until ``rx_info`` reaches the peer, that is for the effects queued before it.
        """
        window, generation, unpublished = self._window, self._generation, 0
        if window is None:
            return RxStop.EMPTY
        load, ends, stop = window.load_u32, self._ends, RxStop.BUDGET
        for _ in range(min(len(ends), budget)):
            index = self.index
            end = ends[index]
            flags = load(end + FLAGS_AT)
            if not flags & FLAG_DESC_DONE:
                self.rx_ring_empty += 1
                stop = RxStop.EMPTY
                break
            if flags & FLAG_LINK_DOWN:
                window.store_u32("ring.flags_cleared", end + FLAGS_AT, 0)
                stop = RxStop.PEER_DOWN
                break
            if load(end + VER_AT) != self.rx_pkts & U32_MAX:
                self.rx_err_ver += 1
                stop = RxStop.STUCK
                break
            if not self._pending:
                self.rx_err_no_buf += 1
                stop = RxStop.NO_BUFFER
                break
            buffer_length = self._pending.popleft()
            length = load(end + LEN_AT)
            self.rx_pkts += 1
            self.index = index + 1 if index + 1 < len(ends) else 0
            window.store_u32("ring.flags_cleared", end + FLAGS_AT, 0)
            start = self._starts[index]
            impossible = length > end - HEADER_BYTES - start
            if impossible or length > buffer_length:
                self.rx_err_oflow += 1
                self._on_impossible(length, impossible)
                deliver(None, -errno.EIO)
            else:
                self.rx_bytes += length
                self.rx_memcpy += 1
                deliver(window.view(start, length), length)
            if generation != self._generation:
                return RxStop.RESET
            unpublished += 1
            if unpublished >= self.batch:
                self._publish()
                unpublished = 0
        if unpublished:
            self._publish()
        return stop

    def _publish(self) -> None:
        word = WORD.pack(self._rx_info())
        self._ntb.peer_mw_write(self._rx_info_widx, self._rx_info_offset, word, "ring.rx_info")

    def _rx_info(self) -> int:
        """Index of the frame that was consumed last, and whether somebody polls."""
        last = (self.index or len(self._ends)) - 1
        return last | POLLING if self.is_polled else last

    def begin_polling(self) -> bool:
        """Somebody looks at the ring by himself from now on: the sender need not ring. Ends with a reset.

        Returns:
            False when the sender cannot be told in place now, and so could not be told of the end either.
        """
        is_lent = self._lent is not None and not self._lent.revoked
        if not is_lent and not self._ntb.peer_mw_is_direct(
            self._rx_info_widx, self._rx_info_offset + WORD.size
        ):
            return False
        self.is_polled = True
        self._publish()
        return True

    def end_polling(self) -> bool:
        """The sender is to ring again, behind whatever it sends from now on: look at the ring once more.

        To be called with no store outstanding.

        Returns:
            False when the sender cannot be told in place now: polling has to go on.
        """
        lent = self._borrow()
        if lent is None:
            return False
        self.is_polled = False
        lent.store_u32("ring.rx_info", self._rx_info_offset, self._rx_info())
        self._ntb.fence()
        return True

    def _borrow(self) -> Window | None:
        lent = self._lent
        if lent is None or lent.revoked:
            lent = self._ntb.peer_mw_lend(self._rx_info_widx, self._rx_info_offset + WORD.size)
            self._lent = lent
        return lent
