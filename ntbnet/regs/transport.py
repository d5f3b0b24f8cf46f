"""What ntb_transport puts in scratchpads and in ring frames: protocol version 4.

Frame k of a ring of ``frame_bytes`` lies at ``k * frame_bytes``: payload from its start, the
header in its last 12 bytes.  With a frame size that is no multiple of 4 the header is unaligned.

Source: Linux ntb_transport.c (enum of scratchpads, struct ntb_payload_header).
"""

from __future__ import annotations

from ntbnet.regs.spec import RW, Field, Register, RegisterBlock

VERSION = 4
"""Content of the VERSION scratchpad of a side that has published everything else."""

SPAD_VERSION = 0
SPAD_QP_LINKS = 1
SPAD_NUM_QPS = 2
SPAD_NUM_MWS = 3
SPAD_FIRST_MW = 4
"""Scratchpads below hold one value each; from here on two for each memory window."""
MIN_SPADS = 6
"""Fewer than this and the transport does not start: no window could be announced."""
MAX_QPS = 32
"""Queues that the one QP_LINKS word can signal."""

INVALID_DESCRIPTOR = 0xFFFFFFFF
"""Interrupt offset or data that means: no interrupt, use the doorbell."""

HEADER_BYTES = 12
FLAG_DESC_DONE = 1 << 0
"""The frame is complete; written last by the sender, cleared by the receiver."""
FLAG_LINK_DOWN = 1 << 1
"""The sender's queue goes down; the frame has no payload."""

FRAME_HEADER = RegisterBlock(
    name="ntb_frame_header",
    size=HEADER_BYTES,
    source="Linux ntb_transport.c, struct ntb_payload_header, at the end of the frame",
    registers=(
        Register(0x0, "ver", RW),
        Register(0x4, "len", RW),
        Register(0x8, "flags", (Field("DESC_DONE", 0, 1, RW), Field("LINK_DOWN", 1, 1, RW))),
    ),
)

RX_INFO_BYTES = 4
"""Last word of a queue's part of a window: index of the last frame its receiver consumed."""

COUNTERS = (
    "rx_bytes",
    "rx_pkts",
    "rx_ring_empty",
    "rx_err_no_buf",
    "rx_err_oflow",
    "rx_err_ver",
    "rx_memcpy",
    "rx_async",
    "tx_bytes",
    "tx_pkts",
    "tx_ring_full",
    "tx_err_no_buf",
    "tx_memcpy",
    "tx_async",
)
"""The counters of a queue, in the order they are reset; rx_pkts and tx_pkts are sequence numbers too."""


def mw_size_high(widx: int) -> int:
    """Scratchpad with the upper 32 bits of the size of window ``widx``."""
    return SPAD_FIRST_MW + 2 * _index(widx)


def mw_size_low(widx: int) -> int:
    """Scratchpad with the lower 32 bits of the size of window ``widx``."""
    return SPAD_FIRST_MW + 2 * _index(widx) + 1


def intr_offset(mw_count: int, qp: int) -> int:
    """Scratchpad with the interrupt offset of queue ``qp``; in the author's own bank, not the peer's."""
    return SPAD_FIRST_MW + 2 * _index(mw_count) + 2 * _index(qp)


def intr_data(mw_count: int, qp: int) -> int:
    """Scratchpad with the interrupt data of queue ``qp``; in the author's own bank, not the peer's."""
    return intr_offset(mw_count, qp) + 1


def max_mws(spad_count: int) -> int:
    """Windows that ``spad_count`` scratchpads can announce.

    Raises:
        ValueError: there are fewer scratchpads than MIN_SPADS.
    """
    if spad_count < MIN_SPADS:
        raise ValueError(f"{spad_count} scratchpads: the transport needs {MIN_SPADS} or more")
    return (spad_count - SPAD_FIRST_MW) // 2


def _index(value: int) -> int:
    if value < 0:
        raise ValueError(f"index {value} is negative")
    return value
