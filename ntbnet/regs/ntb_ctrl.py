"""The NTB control block at the start of the config BAR: one table for the RC side and the EP side.

The block is plain memory of the endpoint, so the bus may write all of it; who *should* write
what is the protocol's business.  Two incompatible layouts exist and nothing in the block tells
them apart: ``classic`` (mainline) and ``rfc1`` (October 2025 series, offsets and sizes of
windows in the middle, everything behind them moved).
"""

from __future__ import annotations

from enum import IntEnum

from ntbnet.regs.spec import RW, Register, RegisterBlock

MAX_MWS = 4
"""Memory windows a control block can describe."""
MAX_DOORBELLS = 32
"""Entries of db_data and db_offset, the two slots that carry no doorbell bit included."""

LINK_UP = 1 << 0
"""Bit of link_status."""
LINK_ABSENT = 0xFFFF
"""link_status of a device that is gone; its bit 0 is set, so this is to be tested first."""
MSIX_FLAG = 1 << 16
"""Bit of the CONFIGURE_DOORBELL argument: the RC uses MSI-X."""
VECTOR_COUNT_MASK = 0xFFFF
"""Bits of the CONFIGURE_DOORBELL argument: vectors the RC got, the link vector included."""

LINK_SLOT = 0
"""Interrupt slot of the link event."""
UNUSED_SLOT = 1
"""Interrupt slot nobody rings; kept for compatibility."""
FIRST_DB_SLOT = 2
"""Interrupt slot of doorbell bit 0."""
DB_ENTRY_SIZE = 4
"""db_entry_size of polled doorbells: one 32-bit word for each slot."""


class Command(IntEnum):
    """Values of ``command``, RC to EP."""

    NONE = 0
    CONFIGURE_DOORBELL = 1
    TEARDOWN_DOORBELL = 2
    CONFIGURE_MW = 3
    TEARDOWN_MW = 4
    LINK_UP = 5
    LINK_DOWN = 6


class CommandStatus(IntEnum):
    """Values of ``command_status``; the RC writes PENDING back after reading an answer."""

    PENDING = 0
    OK = 1
    ERROR = 2


def slot_of_db_bit(db_bit: int) -> int:
    """Interrupt slot (entry of db_data and db_offset, RC vector index) of a doorbell bit.

    Raises:
        ValueError: the bit is outside 0..29.
    """
    if not 0 <= db_bit < MAX_DOORBELLS - FIRST_DB_SLOT:
        raise ValueError(f"doorbell bit {db_bit}: allowed 0..{MAX_DOORBELLS - FIRST_DB_SLOT - 1}")
    return db_bit + FIRST_DB_SLOT


def db_bit_of_slot(slot: int) -> int | None:
    """Doorbell bit of an interrupt slot; None for the link slot and the unused one.

    Raises:
        ValueError: the slot is outside 0..31.
    """
    if not 0 <= slot < MAX_DOORBELLS:
        raise ValueError(f"doorbell slot {slot}: allowed 0..{MAX_DOORBELLS - 1}")
    return slot - FIRST_DB_SLOT if slot >= FIRST_DB_SLOT else None


_HEAD = (
    Register(0x00, "command", RW),
    Register(0x04, "argument", RW),
    Register(0x08, "command_status", RW, width_bytes=2),
    Register(0x0A, "link_status", RW, width_bytes=2),
    Register(0x0C, "topology", RW),
    Register(0x10, "addr", RW, width_bytes=8),
    Register(0x18, "size", RW, width_bytes=8),
    Register(0x20, "num_mws", RW),
)

CLASSIC = RegisterBlock(
    name="ntb_ctrl_classic",
    size=308,
    source="Linux 6.1 pci-epf-vntb.c, struct epf_ntb_ctrl; ntb_hw_epf.c reads offset 0x24 as MW1 offset",
    registers=(
        *_HEAD,
        Register(0x24, "mw1_offset", RW),
        Register(0x28, "spad_offset", RW),
        Register(0x2C, "spad_count", RW),
        Register(0x30, "db_entry_size", RW),
        Register(0x34, "db_data", RW, count=MAX_DOORBELLS),
        Register(0xB4, "db_offset", RW, count=MAX_DOORBELLS),
    ),
)

RFC1 = RegisterBlock(
    name="ntb_ctrl_rfc1",
    size=336,
    source="RFC of 2025-10-23, NTB/PCI: Add DW eDMA intr fallback and BAR MW offsets, pci-epf-vntb.c",
    registers=(
        *_HEAD,
        Register(0x24, "mw_offset", RW, count=MAX_MWS),
        Register(0x34, "mw_size", RW, count=MAX_MWS),
        Register(0x44, "spad_offset", RW),
        Register(0x48, "spad_count", RW),
        Register(0x4C, "db_entry_size", RW),
        Register(0x50, "db_data", RW, count=MAX_DOORBELLS),
        Register(0xD0, "db_offset", RW, count=MAX_DOORBELLS),
    ),
)

LAYOUTS = {"rfc1": RFC1, "classic": CLASSIC}
"""Control-block layouts by the name the configuration uses."""
