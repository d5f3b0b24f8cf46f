from __future__ import annotations

import pytest

from ntbnet.address import BusAddr, CpuAddr
from ntbnet.devices.atu_block import AtuBlock, AtuFeatures, discover
from ntbnet.devices.iatu import Iatu

LIMIT_4G, LIMIT_8G = 0xFFFFFFFF, 0x1_FFFF_FFFF
INBOUND_0, STRIDE = 0x100, 0x200
CTRL2, LOWER_BASE, UPPER_BASE, LIMIT, LOWER_TARGET = 0x04, 0x08, 0x0C, 0x10, 0x14
ENABLE = 1 << 31


def block(inbound: int = 16, outbound: int = 16, align: int = 0x1000, limit: int = LIMIT_4G) -> AtuBlock:
    return AtuBlock(Iatu(inbound, outbound, align, limit))


@pytest.mark.covers("EDMA 14")
def test_viewport_register_reads_all_ones_on_an_unrolled_controller() -> None:
    assert block().viewport() == 0xFFFFFFFF


@pytest.mark.covers("EDMA 15", "EDMA 16", "EDMA 17")
@pytest.mark.parametrize(
    ("inbound", "outbound", "align", "limit", "block_bytes", "expected"),
    [
        (16, 16, 0x1000, LIMIT_4G, 0x2000, AtuFeatures(16, 16, 0x1000, LIMIT_4G)),
        (16, 16, 0x10000, LIMIT_8G, 0x2000, AtuFeatures(16, 16, 0x10000, LIMIT_8G)),
        (3, 9, 0x2000, LIMIT_4G, 0x2000, AtuFeatures(9, 3, 0x2000, LIMIT_4G)),
        (32, 32, 0x1000, LIMIT_4G, 0x2000, AtuFeatures(16, 16, 0x1000, LIMIT_4G)),
        (16, 16, 0x1000, LIMIT_4G, 0x1000, AtuFeatures(8, 8, 0x1000, LIMIT_4G)),
    ],
    ids=["r-car", "rk3588", "uneven", "more-than-the-block", "no-size-given"],
)
def test_software_discovers_what_the_hardware_has(
    inbound: int, outbound: int, align: int, limit: int, block_bytes: int, expected: AtuFeatures
) -> None:
    atu = block(inbound, outbound, align, limit)

    assert discover(atu.read, atu.write, block_bytes) == expected


def test_controller_without_windows_is_refused() -> None:
    with pytest.raises(ValueError, match="no iATU window"):
        discover(lambda _: 0, lambda _offset, _value: None)


@pytest.mark.covers("EDMA 17")
@pytest.mark.parametrize(("align", "least"), [(0x1000, 0xFFF), (0x10000, 0xFFFF)])
def test_limit_reads_the_least_region_when_0_is_written(align: int, least: int) -> None:
    atu = block(align=align)
    atu.write(LIMIT, 0)

    assert atu.read(LIMIT) == least


@pytest.mark.covers("EDMA 18", "EDMA 19")
def test_window_written_register_by_register_works_while_it_is_enabled() -> None:
    iatu = Iatu(16, 16, 0x1000, LIMIT_4G)
    atu, at = AtuBlock(iatu), 3 * STRIDE + INBOUND_0
    for offset, value in ((LOWER_BASE, 0x3000_0000), (LIMIT, 0x3000_1FFF), (LOWER_TARGET, 0x4800_0000)):
        atu.write(at + offset, value)
    assert iatu.find_inbound(0, 0, 0x3000_1FFC, 4) is None

    atu.write(at + CTRL2, ENABLE)
    assert iatu.find_inbound(0, 0, 0x3000_1FFC, 4) == 0x4800_1FFC
    assert iatu.find_inbound(0, 0, 0x3000_2000, 4) is None

    atu.write(at + CTRL2, 0)
    assert iatu.find_inbound(0, 0, 0x3000_1FFC, 4) is None


def test_bar_match_window_written_by_registers_follows_the_bar() -> None:
    iatu = Iatu(16, 16, 0x1000, LIMIT_4G)
    atu = AtuBlock(iatu)
    atu.write(INBOUND_0 + LOWER_TARGET, 0x4800_0000)
    atu.write(INBOUND_0 + CTRL2, ENABLE | 1 << 30 | 2 << 8)

    assert iatu.find_inbound(2, 0x1234, 0x7000_1234, 4) == 0x4800_1234
    assert iatu.find_inbound(0, 0x1234, 0x7000_1234, 4) is None


@pytest.mark.covers("EDMA 18")
def test_windows_programmed_through_the_api_read_back() -> None:
    iatu = Iatu(16, 16, 0x1000, LIMIT_8G)
    atu = AtuBlock(iatu)
    iatu.program_address_match(BusAddr(0x3_0000_0000), CpuAddr(0x4800_0000), 0x800)
    iatu.program_outbound(CpuAddr(0xFE10_0000), BusAddr(0x8000_0000), 0x1000)

    assert atu.read(INBOUND_0 + UPPER_BASE) == 3
    assert atu.read(INBOUND_0 + LIMIT) == 0xFFF
    assert atu.read(LOWER_BASE) == 0xFE10_0000
    assert atu.read(LOWER_TARGET) == 0x8000_0000
    assert atu.read(CTRL2) & ENABLE
    assert atu.read(STRIDE + CTRL2) == 0
    assert (atu.read(-4), atu.read(2), atu.read(16 * STRIDE)) == (0, 0, 0)
