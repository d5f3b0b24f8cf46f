from __future__ import annotations

import pytest

from ntbnet.regs.file import RegisterFile
from ntbnet.regs.iatu import inbound_offset, outbound_offset, window_block


@pytest.mark.covers("EDMA 18")
def test_inbound_windows_lie_between_outbound_ones() -> None:
    assert [outbound_offset(n) for n in (0, 1, 15)] == [0x000, 0x200, 0x1E00]
    assert [inbound_offset(n) for n in (0, 1, 15)] == [0x100, 0x300, 0x1F00]
    with pytest.raises(ValueError, match=r"allowed 0\.\.255"):
        inbound_offset(256)


def test_window_offsets() -> None:
    assert {r.name: r.offset for r in window_block().registers} == {
        "REGION_CTRL1": 0x00,
        "REGION_CTRL2": 0x04,
        "LOWER_BASE": 0x08,
        "UPPER_BASE": 0x0C,
        "LIMIT": 0x10,
        "LOWER_TARGET": 0x14,
        "UPPER_TARGET": 0x18,
        "UPPER_LIMIT": 0x20,
    }


def test_control_bits() -> None:
    block = window_block()
    ctrl1, ctrl2 = block.register("REGION_CTRL1"), block.register("REGION_CTRL2")

    assert ctrl2.field("ENABLE").mask == 0x80000000
    assert ctrl2.field("BAR_MATCH").mask == 0x40000000
    assert ctrl2.field("BAR_NUM").mask == 0x700
    assert ctrl1.field("INCREASE_REGION_SIZE").mask == 0x2000
    assert ctrl1.field("TYPE").mask == 0x1F


@pytest.mark.covers("EDMA 17")
@pytest.mark.parametrize(("align", "probed"), [(0x1000, 0xFFF), (0x10000, 0xFFFF)])
def test_zero_written_to_limit_reads_the_smallest_window(align: int, probed: int) -> None:
    file = RegisterFile(window_block(align))

    file.write(0x10, bytes(4))

    assert file.get("LIMIT") == probed


@pytest.mark.covers("EDMA 15")
def test_target_keeps_the_pattern_that_drivers_count_windows_with() -> None:
    file = RegisterFile(window_block(0x10000))

    file.write(0x14, (0x11110000).to_bytes(4, "little"))

    assert file.read(0x14, 4) == (0x11110000).to_bytes(4, "little")


@pytest.mark.parametrize(
    ("limit", "probed"), [(0xFFFFFFFF, 0), (0x1FFFFFFFF, 1), ((1 << 64) - 1, 0xFFFFFFFF)]
)
def test_ones_written_to_upper_limit_read_the_largest_window(limit: int, probed: int) -> None:
    file = RegisterFile(window_block(0x1000, limit))

    file.write(0x20, b"\xff" * 4)

    assert file.get("UPPER_LIMIT") == probed


@pytest.mark.parametrize(("align", "limit"), [(0x800, 0xFFFFFFFF), (0x3000, 0xFFFFFFFF), (0x1000, 0xFFFF)])
def test_geometry_no_controller_has_is_refused(align: int, limit: int) -> None:
    with pytest.raises(ValueError, match="allowed"):
        window_block(align, limit)
