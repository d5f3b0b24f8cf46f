"""One iATU window in the unroll layout (DesignWare 4.80a and later), and where windows lie.

The viewport layout of older controllers is left out.  Read-only low bits of LIMIT tell the
smallest window, the width of UPPER_LIMIT tells the largest: that is how drivers probe both.
"""

from __future__ import annotations

from functools import cache

from ntbnet.regs.spec import RO, RW, Field, Register, RegisterBlock

WINDOW_BYTES = 0x100
WINDOW_STRIDE = 0x200
MAX_WINDOWS = 256
"""Windows for each direction that the layout has room for."""


def outbound_offset(index: int) -> int:
    """First byte of outbound window ``index``, from the start of the ATU block.

    Raises:
        ValueError: index is outside 0..255.
    """
    if not 0 <= index < MAX_WINDOWS:
        raise ValueError(f"window {index}: allowed 0..{MAX_WINDOWS - 1}")
    return index * WINDOW_STRIDE


def inbound_offset(index: int) -> int:
    """First byte of inbound window ``index``, from the start of the ATU block.

    Raises:
        ValueError: index is outside 0..255.
    """
    return outbound_offset(index) + WINDOW_BYTES


@cache
def window_block(region_align: int = 0x1000, region_limit: int = 0xFFFFFFFF) -> RegisterBlock:
    """The registers of one window.

    Args:
        region_align: smallest window in bytes, 4 KiB..64 KiB, a power of two.
        region_limit: largest distance of the first and last address of a window, the low 32
            bits all ones.

    Raises:
        ValueError: an argument is outside its range.
    """
    if not 0x1000 <= region_align <= 0x10000 or region_align & (region_align - 1):
        raise ValueError(f"region_align {region_align:#x}: allowed 0x1000..0x10000, a power of two")
    if region_limit & (region_limit + 1) or not 32 <= region_limit.bit_length() <= 64:
        raise ValueError(f"region_limit {region_limit:#x}: allowed 32 to 64 ones")
    low = region_align.bit_length() - 1
    high = region_limit.bit_length() - 32
    addr = (Field("ZERO", 0, low, RO), Field("ADDR", low, 32 - low, RW))
    return RegisterBlock(
        name="iatu_window",
        size=WINDOW_BYTES,
        source="Linux pcie-designware.h, unroll layout (DWC 4.80a and later)",
        registers=(
            Register(
                0x00,
                "REGION_CTRL1",
                (
                    Field("TYPE", 0, 5, RW),
                    Field("TD", 8, 1, RW),
                    Field("INCREASE_REGION_SIZE", 13, 1, RW),
                    Field("FUNC_NUM", 20, 5, RW),
                ),
            ),
            Register(
                0x04,
                "REGION_CTRL2",
                (
                    Field("BAR_NUM", 8, 3, RW),
                    Field("FUNC_NUM_MATCH", 19, 1, RW),
                    Field("INHIBIT_PAYLOAD", 22, 1, RW),
                    Field("BAR_MATCH", 30, 1, RW),
                    Field("ENABLE", 31, 1, RW),
                ),
            ),
            Register(0x08, "LOWER_BASE", addr),
            Register(0x0C, "UPPER_BASE", RW),
            Register(
                0x10,
                "LIMIT",
                (Field("MIN", 0, low, RO, reset=region_align - 1), Field("ADDR", low, 32 - low, RW)),
            ),
            Register(0x14, "LOWER_TARGET", addr),
            Register(0x18, "UPPER_TARGET", RW),
            Register(0x20, "UPPER_LIMIT", (Field("ADDR", 0, high, RW),) if high else RO),
        ),
    )
