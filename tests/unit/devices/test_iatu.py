from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntbnet.address import BusAddr, CpuAddr
from ntbnet.devices.bar import BarKind, BarSet, BarSpec
from ntbnet.devices.iatu import Iatu
from ntbnet.errors import KernelError
from ntbnet.regs.file import RegisterFile
from ntbnet.regs.iatu import window_block

ALIGN = 0x1000
LIMIT_4G = 0xFFFFFFFF


def iatu(inbound: int = 4, outbound: int = 4) -> Iatu:
    return Iatu(inbound, outbound, ALIGN, LIMIT_4G)


def map_in(unit: Iatu, base: int, target: int, size: int) -> int:
    return unit.program_address_match(BusAddr(base), CpuAddr(target), size)


def map_out(unit: Iatu, base: int, target: int, size: int) -> int:
    return unit.program_outbound(CpuAddr(base), BusAddr(target), size)


def map_bar(unit: Iatu, bar: int, target: int, size: int, bar_size: int) -> int:
    return unit.program_bar_match(bar, CpuAddr(target), size, bar_size)


@pytest.mark.covers("EDMA 19")
def test_window_works_while_it_is_enabled() -> None:
    unit = iatu()
    assert unit.translate_inbound(0, 0, 0x8000_0000, 4) is None

    index = map_in(unit, 0x8000_0000, 0x4800_0000, 0x1000)
    assert unit.translate_inbound(0, 0, 0x8000_0000, 4) == 0x4800_0000

    unit.disable_inbound(index)
    assert unit.translate_inbound(0, 0, 0x8000_0000, 4) is None


@pytest.mark.covers("EDMA 19")
def test_enabled_window_has_bit_31_of_ctrl2() -> None:
    unit = iatu()
    index = map_bar(unit, 2, 0x4810_0000, 0x100000, 0x100000)

    window = unit.inbound[index]

    assert window is not None
    assert window.registers()["REGION_CTRL2"] == 0xC0000200
    assert set(window.registers()) == {"LOWER_TARGET", "UPPER_TARGET", "REGION_CTRL1", "REGION_CTRL2"}


def test_registers_of_a_window_fit_the_register_table() -> None:
    unit = Iatu(1, 1, ALIGN, 0x1FFFFFFFF)
    map_out(unit, 0x8000_0000, 0x12_3456_7000, 0x1_0000_0000)
    window = unit.outbound[0]
    assert window is not None
    file = RegisterFile(window_block(ALIGN, 0x1FFFFFFFF))

    for name, value in window.registers().items():
        file.write(file.block.offset(name), value.to_bytes(4, "little"))

    assert file.get("LIMIT") == 0x7FFFFFFF
    assert file.get("UPPER_LIMIT") == 1
    assert file.get("LOWER_TARGET") == 0x3456_7000
    assert file.get("UPPER_TARGET") == 0x12
    assert file.get_field("REGION_CTRL1", "INCREASE_REGION_SIZE") == 1
    assert file.get("REGION_CTRL2") == 0x80000000


@pytest.mark.covers("EDMA 20")
@pytest.mark.parametrize(
    ("base", "target", "size"), [(0x800, 0, 0x1000), (0x1000, 0x10, 0x1000), (0x1000, 0, 0)]
)
def test_unaligned_or_empty_window_is_refused_and_nothing_is_programmed(
    base: int, target: int, size: int
) -> None:
    unit = iatu()
    before = unit.snapshot()

    for program in (map_in, map_out):
        with pytest.raises(KernelError) as caught:
            program(unit, base, target, size)
        assert caught.value.errno == errno.EINVAL

    assert unit.snapshot() == before


@pytest.mark.covers("EDMA 21")
def test_window_over_the_region_limit_is_refused() -> None:
    for program in (map_in, map_out):
        with pytest.raises(KernelError) as caught:
            program(iatu(), 0xFFFF_F000, 0, 0x2000)
        assert caught.value.errno == errno.EINVAL
        assert program(iatu(), 0xFFFF_F000, 0, 0x1000) == 0


def test_window_behind_the_last_address_is_refused() -> None:
    unit = Iatu(1, 1, ALIGN, (1 << 64) - 1)

    with pytest.raises(KernelError):
        map_in(unit, (1 << 64) - 0x1000, 0, 0x1001)
    with pytest.raises(KernelError):
        map_in(unit, 0, (1 << 64) - 0x1000, 0x1001)


@pytest.mark.covers("EDMA 22")
def test_bar_match_target_must_be_aligned_to_the_bar() -> None:
    with pytest.raises(KernelError) as caught:
        map_bar(iatu(), 2, 0x4800_1000, 0x1000, 0x100000)
    assert caught.value.errno == errno.EINVAL

    older_kernel = Iatu(1, 1, ALIGN, LIMIT_4G, bar_target_aligned_to_bar=False)
    assert map_bar(older_kernel, 2, 0x4800_1000, 0x1000, 0x100000) == 0


@pytest.mark.covers("EDMA 147")
def test_doorbell_page_fits_a_256_byte_bar_and_not_a_1_mib_one() -> None:
    unit = iatu()

    with pytest.raises(KernelError):
        map_bar(unit, 2, 0xE65D_5000, 0x1000, 0x100000)
    map_bar(unit, 4, 0xE65D_5000, 0x100, 0x100)

    assert unit.translate_inbound(4, 0xA0, 0x3020_00A0, 4) == 0xE65D_50A0


@pytest.mark.covers("EDMA 23")
def test_exhausted_inbound_windows_are_enospc_or_einval() -> None:
    unit = iatu(inbound=2)
    map_in(unit, 0x1000, 0, 0x1000)
    map_in(unit, 0x1000, 0, 0x1000)

    with pytest.raises(KernelError) as address_match:
        map_in(unit, 0x1000, 0, 0x1000)
    with pytest.raises(KernelError) as bar_match:
        map_bar(unit, 0, 0, 0x1000, 0x1000)

    assert address_match.value.errno == errno.ENOSPC
    assert bar_match.value.errno == errno.EINVAL


@pytest.mark.covers("EDMA 24")
def test_exhausted_outbound_windows_are_einval() -> None:
    unit = iatu(outbound=1)
    map_out(unit, 0x1000, 0, 0x1000)

    with pytest.raises(KernelError) as caught:
        map_out(unit, 0x2000, 0, 0x1000)

    assert caught.value.errno == errno.EINVAL


def test_first_free_index_is_used_again() -> None:
    unit = iatu()
    assert [map_out(unit, base, 0, 0x1000) for base in (0x1000, 0x2000, 0x3000)] == [0, 1, 2]

    assert unit.unmap_outbound(CpuAddr(0x2000))

    assert map_out(unit, 0x4000, 0, 0x1000) == 1


@pytest.mark.covers("EDMA 25")
def test_unmapping_an_unknown_address_changes_nothing() -> None:
    unit = iatu()
    map_out(unit, 0x1000, 0x8000_0000, 0x2000)
    before = unit.snapshot()

    assert not unit.unmap_outbound(CpuAddr(0x2000))

    assert unit.snapshot() == before


@pytest.mark.covers("EDMA 26")
@given(pages=st.integers(1, 64), slack=st.integers(0, 0xFFF))
def test_limit_hits_and_limit_plus_one_misses(pages: int, slack: int) -> None:
    size = pages * 0x1000 - slack
    unit = iatu()
    map_in(unit, 0x8000_0000, 0x4800_0000, size)
    map_out(unit, 0xFE00_0000, 0x8000_0000, size)
    last = size - 1

    assert unit.translate_inbound(0, last, 0x8000_0000 + last, 1) == 0x4800_0000 + last
    assert unit.translate_inbound(0, size, 0x8000_0000 + size, 1) is None
    assert unit.translate_outbound(0xFE00_0000 + last, 1) == 0x8000_0000 + last
    assert unit.translate_outbound(0xFE00_0000 + size, 1) is None
    assert (unit.inbound_misses, unit.outbound_misses) == (1, 1)


def test_access_that_leaves_its_window_misses() -> None:
    unit = iatu()
    map_in(unit, 0x8000_0000, 0x4800_0000, 0x1000)
    map_out(unit, 0xFE00_0000, 0x8000_0000, 0x1000)

    assert unit.translate_inbound(0, 0xFFC, 0x8000_0FFC, 8) is None
    assert unit.translate_inbound(0, 0xFFC, 0x8000_0FFC, 4) == 0x4800_0FFC
    assert unit.translate_outbound(0xFE00_0FFC, 8) is None
    assert unit.translate_outbound(0xFDFF_FFFC, 8) is None


@pytest.mark.covers("EDMA 27")
def test_lowest_index_wins_where_windows_overlap() -> None:
    unit = iatu()
    map_in(unit, 0x8000_1000, 0x4801_0000, 0x1000)
    map_in(unit, 0x8000_0000, 0x4802_0000, 0x4000)
    map_bar(unit, 0, 0x4803_0000, 0x8000, 0x8000)

    assert unit.translate_inbound(0, 0x1004, 0x8000_1004, 4) == 0x4801_0004
    assert unit.translate_inbound(0, 0x2004, 0x8000_2004, 4) == 0x4802_2004
    assert unit.translate_inbound(0, 0x5004, 0x8000_5004, 4) == 0x4803_5004


@pytest.mark.covers("EDMA 28")
def test_bar_hit_without_a_window_is_a_counted_miss() -> None:
    unit = iatu()
    map_bar(unit, 0, 0x4800_0000, 0x1000, 0x1000)

    assert unit.translate_inbound(2, 0, 0x9000_0000, 4) is None
    assert unit.inbound_misses == 1


def test_bar_match_misses_behind_the_bytes_that_are_there() -> None:
    """Hardware would run on into whatever lies behind the buffer."""
    unit = iatu()
    map_bar(unit, 2, 0x4810_0000, 0xF0000, 0x100000)

    assert unit.translate_inbound(2, 0xEFFFC, 0x7_000E_FFFC, 4) == 0x481E_FFFC
    assert unit.translate_inbound(2, 0xF0000, 0x7_000F_0000, 4) is None
    assert unit.translate_inbound(2, 0xEFFFE, 0x7_000E_FFFE, 4) is None


def test_bar_match_is_reprogrammed_in_place() -> None:
    unit = iatu(inbound=2)
    map_in(unit, 0x1000, 0, 0x1000)

    first = map_bar(unit, 2, 0x4810_0000, 0x1000, 0x1000)
    second = map_bar(unit, 2, 0x4820_0000, 0x800, 0x1000)

    assert (first, second) == (1, 1)
    assert unit.translate_inbound(2, 0x10, 0x9000_0010, 4) == 0x4820_0010
    assert unit.translate_inbound(2, 0x800, 0x9000_0800, 4) is None


def test_refused_reprogramming_keeps_the_old_translation() -> None:
    unit = iatu()
    map_bar(unit, 2, 0x4810_0000, 0x1000, 0x1000)

    with pytest.raises(KernelError):
        map_bar(unit, 2, 0x4820_0800, 0x1000, 0x1000)
    with pytest.raises(KernelError):
        map_bar(unit, 2, 0x4820_0000, 0x1001, 0x1000)

    assert unit.translate_inbound(2, 0, 0x9000_0000, 4) == 0x4810_0000


def test_disabled_bar_misses_and_frees_its_window() -> None:
    unit = iatu(inbound=1)
    map_bar(unit, 2, 0x4810_0000, 0x1000, 0x1000)

    unit.disable_bar(2)
    unit.disable_bar(4)

    assert unit.bar_match_index(2) is None
    assert unit.translate_inbound(2, 0, 0x9000_0000, 4) is None
    assert map_bar(unit, 4, 0x4820_0000, 0x100, 0x100) == 0


@pytest.mark.covers("EDMA 32", "EDMA 33")
def test_moved_bar_still_hits_by_bar_and_misses_by_address_until_reprogrammed() -> None:
    bars = BarSet((BarSpec(BarKind.PROGRAMMABLE),) * 6)
    bars.set_bar(0, 0x1000, bits64=False)
    bars.set_bar(2, 0x1000, bits64=False)
    bars.memory_enabled = True
    bars.write_register(0, 0x8000_0000)
    bars.write_register(2, 0x8000_1000)
    unit = iatu()
    map_bar(unit, 0, 0x4800_0000, 0x1000, 0x1000)
    stale = map_in(unit, 0x8000_1000, 0x4810_0000, 0x1000)

    def access(addr: int) -> int | None:
        claim = bars.decode(addr, 4)
        return None if claim is None else unit.translate_inbound(*claim, addr, 4)

    assert (access(0x8000_0010), access(0x8000_1010)) == (0x4800_0010, 0x4810_0010)

    bars.write_register(0, 0x9000_0000)
    bars.write_register(2, 0x9000_1000)
    assert (access(0x9000_0010), access(0x9000_1010)) == (0x4800_0010, None)

    unit.disable_inbound(stale)
    map_in(unit, 0x9000_1000, 0x4810_0000, 0x1000)
    assert access(0x9000_1010) == 0x4810_0010


def test_reset_disables_every_window() -> None:
    unit = iatu()
    map_in(unit, 0x8000_0000, 0, 0x1000)
    map_out(unit, 0xFE00_0000, 0, 0x1000)

    unit.reset()

    assert unit.translate_inbound(0, 0, 0x8000_0000, 1) is None
    assert unit.translate_outbound(0xFE00_0000, 1) is None


def test_impossible_accesses_are_the_callers_bug() -> None:
    unit = iatu()

    with pytest.raises(ValueError, match="0 bytes"):
        unit.translate_inbound(0, 0, 0, 0)
    with pytest.raises(ValueError, match="BAR offset -1"):
        unit.translate_inbound(0, -1, 0, 4)
    with pytest.raises(ValueError, match="0 bytes"):
        unit.translate_outbound(0, 0)


@pytest.mark.parametrize(
    "arguments",
    [(0, 1, ALIGN, LIMIT_4G), (1, 257, ALIGN, LIMIT_4G), (1, 1, 0x1800, LIMIT_4G), (1, 1, ALIGN, 0x1000)],
)
def test_geometry_no_controller_has_is_refused(arguments: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"allowed|no power|not all ones"):
        Iatu(*arguments)


@given(
    local_page=st.integers(0, 0xFFFFF),
    bus_page=st.integers(1, 0xFFFFFFF),
    target_page=st.integers(0, 0xFFFFF),
    size=st.integers(1, 0x10000),
    data=st.data(),
)
def test_outbound_then_inbound_reaches_the_same_byte(
    local_page: int, bus_page: int, target_page: int, size: int, data: st.DataObject
) -> None:
    unit = Iatu(1, 1, ALIGN, (1 << 64) - 1)
    local, bus, target = local_page * ALIGN, bus_page * ALIGN, target_page * ALIGN
    map_out(unit, local, bus, size)
    map_in(unit, bus, target, size)
    offset = data.draw(st.integers(0, size - 1))
    length = data.draw(st.integers(1, size - offset))

    sent = unit.translate_outbound(local + offset, length)
    assert sent == bus + offset
    assert unit.translate_inbound(0, sent - bus, sent, length) == target + offset
