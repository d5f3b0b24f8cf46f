"""The packet ring of one queue in a memory window: its geometry (ends: ``tx_ring``, ``rx_ring``).

A ring lies in the receiver's memory.  The sender stores payload, then ``ver`` and ``len``, then
``flags`` with the done bit; the receiver clears ``flags`` and stores the index of the frame it
consumed into the last word of the *sender's* own ring (``rx_info``).  One frame is always
unused.  A frame copied by DMA becomes visible later, and those behind it then: in order, always.

Between two ntbnet ends that agreed on it, bit 31 of ``rx_info`` (``POLLING``) says that the receiver looks at
its ring by itself, so that it need not be rung: as NAPI masks a device's interrupts, and as a virtio ring's
``VIRTQ_AVAIL_F_NO_INTERRUPT`` does.  Both sides order their store before their load: the sender stores the
frame, then loads the bit; the receiver clears the bit, then looks at the ring once more.  So one of them sees
the other's store, and no frame is left lying.  This holds for stores in place only: a sender whose
frames are messages rings always, and a receiver clears the bit in place, or goes on polling.

Differences from the kernel, all on purpose: a frame whose ``len`` is impossible is consumed and
the next one still has the right ``ver`` (the kernel's queue wedges there); ``rx_info`` is
checked before use and starts from the sending ring's own frame count.

Source: Linux drivers/ntb/ntb_transport.c (ntb_transport_setup_qp_mw, ntb_process_tx,
ntb_process_rxc, ntb_complete_rxc).
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct

from ntbnet.regs.transport import HEADER_BYTES, RX_INFO_BYTES

U32_MAX = 0xFFFFFFFF
WORD = Struct("<I")
POLLING = 1 << 31
"""In ``rx_info``: the receiver looks by itself. No ring has that many frames."""
VER_AT, LEN_AT, FLAGS_AT = -12, -8, -4
"""Where the words of a frame header are, from the end of the frame (``regs.transport.FRAME_HEADER``)."""


@dataclass(frozen=True, slots=True)
class RingGeometry:
    """Where the ring of one queue lies in its memory window; sizes and offsets in bytes.

    Attributes:
        widx: memory window.
        offset: first byte of the queue's part of the window.
        size: length of that part.
        max_frame: length of a frame, header included.
        max_entry: frames in the ring; at most one less is in use.
    """

    widx: int
    offset: int
    size: int
    max_frame: int
    max_entry: int

    @property
    def rx_info_offset(self) -> int:
        """Offset in the window of the word the receiver of the opposite ring writes."""
        return self.offset + self.size - RX_INFO_BYTES

    @property
    def max_payload(self) -> int:
        """Longest payload of a frame."""
        return self.max_frame - HEADER_BYTES

    def frame_offset(self, index: int) -> int:
        """Offset in the window of the payload of frame ``index`` (0..max_entry-1)."""
        return self.offset + index * self.max_frame

    def frame_end(self, index: int) -> int:
        """Offset in the window of the first byte behind frame ``index``; the header ends there."""
        return self.offset + (index + 1) * self.max_frame


def ring_geometry(
    queue: int, queue_count: int, mw_count: int, mw_size: int, transport_mtu: int, max_mw_size: int = 0
) -> RingGeometry:
    """Geometry of the ring of ``queue``, as both sides compute it without talking.

    Args:
        queue: 0..queue_count-1.
        queue_count: queues of the transport, 1..32.
        mw_count: memory windows of the transport, 1 or more.
        mw_size: bytes of the queue's window; only the low 32 bits count, as in the kernel.
        transport_mtu: largest frame, bytes, header included.
        max_mw_size: cap on ``mw_size``; 0 means none.

    Raises:
        ValueError: a count is 0, the queue does not exist, or a frame has no room for a payload.

    Source: Linux ntb_transport.c, ntb_transport_init_queue and ntb_transport_setup_qp_mw.
    """
    if mw_count < 1 or not 0 <= queue < queue_count:
        raise ValueError(f"queue {queue} of {queue_count} on {mw_count} windows")
    widx = queue % mw_count
    sharing = queue_count // mw_count + (1 if widx < queue_count % mw_count else 0)
    capped = min(mw_size, max_mw_size) if max_mw_size else mw_size
    size = (capped & U32_MAX) // sharing
    max_frame = min(transport_mtu, (size - RX_INFO_BYTES) // 2)
    if max_frame <= HEADER_BYTES:
        raise ValueError(f"window of {mw_size:#x} bytes shared by {sharing} queues holds no frame")
    max_entry = (size - RX_INFO_BYTES) // max_frame
    return RingGeometry(widx, size * (queue // mw_count), size, max_frame, max_entry)
