from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntbnet.devices.bar import BarConfig, BarKind, BarSet, BarSpec
from ntbnet.errors import KernelError

ALL_ONES = 0xFFFFFFFF
MIB = 1 << 20

R_CAR_S4 = (
    BarSpec(BarKind.RESIZABLE, only_64bit=True),
    BarSpec(BarKind.UPPER),
    BarSpec(BarKind.RESIZABLE, only_64bit=True),
    BarSpec(BarKind.UPPER),
    BarSpec(BarKind.FIXED, 256),
    BarSpec(BarKind.RESERVED),
)
FREE = (BarSpec(BarKind.PROGRAMMABLE),) * 6


def assigned(specs: tuple[BarSpec, ...], bar: int, size: int, base: int, *, bits64: bool = False) -> BarSet:
    bars = BarSet(specs)
    bars.set_bar(bar, size, bits64)
    bars.write_register(bar, base & ALL_ONES)
    if bits64:
        bars.write_register(bar + 1, base >> 32)
    bars.memory_enabled = True
    return bars


def refuses(bars: BarSet, bar: int, size: int, *, bits64: bool = False) -> None:
    before = bars.snapshot()
    with pytest.raises(KernelError) as caught:
        bars.set_bar(bar, size, bits64)
    assert caught.value.errno == errno.EINVAL
    assert bars.snapshot() == before


@pytest.mark.covers("EDMA 1")
@pytest.mark.parametrize("size", [0, 1, 8, 0x1001, 3 * MIB, -4096])
def test_size_that_is_no_power_of_two_from_16_is_refused(size: int) -> None:
    refuses(BarSet(FREE), 0, size)


@pytest.mark.covers("EDMA 2")
def test_fixed_bar_takes_its_own_size_only() -> None:
    bars = BarSet(R_CAR_S4)

    refuses(bars, 4, 512)
    bars.set_bar(4, 256, bits64=False)

    assert bars.config(4) == BarConfig(256, bits64=False)


@pytest.mark.covers("EDMA 3")
def test_resizable_bar_takes_1_mib_to_128_tib() -> None:
    refuses(BarSet(R_CAR_S4), 0, MIB // 2)
    refuses(BarSet(R_CAR_S4), 0, 1 << 48)
    for size in (MIB, 1 << 47):
        bars = BarSet(R_CAR_S4)
        bars.set_bar(0, size, bits64=True)
        assert bars.config(0) == BarConfig(size, bits64=True)


@pytest.mark.covers("EDMA 4")
@pytest.mark.parametrize("bar", [1, 3, 5])
def test_odd_bar_cannot_be_64_bit(bar: int) -> None:
    refuses(BarSet(FREE), bar, 4096, bits64=True)


@pytest.mark.covers("EDMA 5")
def test_four_gib_needs_a_64_bit_bar() -> None:
    bars = BarSet(FREE)

    refuses(bars, 0, 1 << 32)
    bars.set_bar(2, 1 << 31, bits64=False)
    bars.set_bar(0, 1 << 32, bits64=True)

    assert bars.config(0) == BarConfig(1 << 32, bits64=True)


@pytest.mark.covers("EDMA 6")
def test_reserved_bar_is_refused_and_its_wired_window_still_decodes() -> None:
    specs = (*FREE[:4], BarSpec(BarKind.RESERVED, 0x2000), FREE[5])
    bars = BarSet(specs)
    bars.write_register(4, 0x9000_0000)
    bars.memory_enabled = True

    refuses(bars, 4, 0x2000)
    bars.clear_bar(4)

    assert bars.decode(0x9000_1000, 4) == (4, 0x1000)


@pytest.mark.parametrize(("specs", "bar"), [(R_CAR_S4, 1), (R_CAR_S4, 5), (FREE, 6), (FREE, -1)])
def test_slot_that_is_not_ours_is_refused(specs: tuple[BarSpec, ...], bar: int) -> None:
    refuses(BarSet(specs), bar, 4096)


def test_64_bit_bar_owns_two_slots() -> None:
    bars = BarSet(FREE)
    bars.set_bar(0, 4096, bits64=True)
    bars.set_bar(3, 4096, bits64=False)

    refuses(bars, 1, 4096)
    refuses(bars, 2, 4096, bits64=True)


def test_bar_wired_as_64_bit_is_64_bit_without_the_flag() -> None:
    bars = BarSet(R_CAR_S4)

    bars.set_bar(2, MIB, bits64=False)

    assert bars.config(2) == BarConfig(MIB, bits64=True)
    assert bars.read_register(2) == 0x4


@pytest.mark.covers("EDMA 7")
def test_sizing_a_32_bit_bar() -> None:
    bars = BarSet(FREE)
    bars.set_bar(0, 0x2000, bits64=False, prefetchable=True)

    bars.write_register(0, ALL_ONES)

    assert bars.read_register(0) == 0xFFFFE008


@pytest.mark.covers("EDMA 7")
@given(exponent=st.integers(4, 47), slot=st.sampled_from([0, 2, 4]))
def test_sizing_a_64_bit_bar_gives_its_size(exponent: int, slot: int) -> None:
    size = 1 << exponent
    bars = BarSet(FREE)
    bars.set_bar(slot, size, bits64=True)

    bars.write_register(slot, ALL_ONES)
    bars.write_register(slot + 1, ALL_ONES)

    low, high = bars.read_register(slot), bars.read_register(slot + 1)
    assert low & 0xF == 0x4
    assert -((high << 32 | low & ~0xF) - (1 << 64)) == size


def test_sizing_a_bar_that_is_not_set_up_gives_zero() -> None:
    bars = BarSet(FREE)

    bars.write_register(3, ALL_ONES)

    assert bars.read_register(3) == 0


@pytest.mark.covers("EDMA 10")
def test_cleared_bar_reads_zero_and_claims_nothing() -> None:
    bars = assigned(FREE, 0, 4096, 0x12_3456_7000, bits64=True)

    bars.clear_bar(0)
    bars.write_register(0, ALL_ONES)
    bars.write_register(1, ALL_ONES)

    assert (bars.read_register(0), bars.read_register(1)) == (0, 0)
    assert bars.decode(0x12_3456_7000, 4) is None
    assert bars.unclaimed == 1


def test_clearing_a_bar_that_is_not_set_up_does_nothing() -> None:
    bars = BarSet(FREE)
    before = bars.snapshot()

    bars.clear_bar(3)

    assert bars.snapshot() == before


@pytest.mark.covers("EDMA 11")
def test_second_set_bar_with_other_size_or_flags_is_refused() -> None:
    bars = assigned(FREE, 0, 4096, 0x8000_0000)

    refuses(bars, 0, 8192)
    refuses(bars, 0, 4096, bits64=True)
    with pytest.raises(KernelError):
        bars.set_bar(0, 4096, bits64=False, prefetchable=True)

    assert bars.decode(0x8000_0000, 4) == (0, 0)


@pytest.mark.covers("EDMA 12")
def test_second_set_bar_alike_keeps_the_hosts_address() -> None:
    bars = assigned(FREE, 0, 4096, 0x8000_0000)

    bars.set_bar(0, 4096, bits64=False)

    assert bars.address(0) == 0x8000_0000


def test_decode_gives_bar_and_offset_of_64_bit_addresses() -> None:
    bars = assigned(R_CAR_S4, 2, MIB, 0x7_0000_0000, bits64=True)

    assert bars.decode(0x7_0000_0000, 1) == (2, 0)
    assert bars.decode(0x7_000F_FFFC, 4) == (2, 0xFFFFC)


@pytest.mark.parametrize(
    ("addr", "length"), [(0x7FFF_FFFF, 1), (0x7FFF_FFFF, 2), (0x8000_0FFF, 2), (0x8000_1000, 1)]
)
def test_access_not_wholly_inside_a_bar_is_unclaimed(addr: int, length: int) -> None:
    bars = assigned(FREE, 0, 4096, 0x8000_0000)

    assert bars.decode(addr, length) is None
    assert bars.unclaimed == 1


@pytest.mark.covers("EDMA 30")
def test_memory_decode_off_claims_nothing() -> None:
    bars = assigned(FREE, 0, 4096, 0x8000_0000)

    bars.memory_enabled = False
    assert bars.decode(0x8000_0000, 4) is None

    bars.memory_enabled = True
    assert bars.decode(0x8000_0000, 4) == (0, 0)


def test_unassigned_bar_claims_nothing() -> None:
    bars = assigned(FREE, 0, 4096, 0)

    assert bars.address(0) is None
    assert bars.decode(0, 4) is None


@pytest.mark.covers("EDMA 164")
def test_hot_reset_forgets_the_hosts_writes_and_keeps_the_sizes() -> None:
    bars = assigned(R_CAR_S4, 2, MIB, 0x7_0000_0000, bits64=True)

    bars.hot_reset()

    assert bars.address(2) is None
    assert not bars.memory_enabled
    assert bars.decode(0x7_0000_0000, 4) is None
    assert bars.config(2) == BarConfig(MIB, bits64=True)


def test_moved_bar_claims_its_new_place_only() -> None:
    bars = assigned(FREE, 0, 4096, 0x8000_0000)

    bars.write_register(0, 0x9000_0000)

    assert bars.decode(0x8000_0000, 4) is None
    assert bars.decode(0x9000_0004, 4) == (0, 4)


def test_profile_that_no_controller_has_is_refused() -> None:
    with pytest.raises(ValueError, match="has 6"):
        BarSet(FREE[:5])
    with pytest.raises(ValueError, match="BAR5 cannot be 64-bit"):
        BarSet((*FREE[:5], BarSpec(BarKind.PROGRAMMABLE, only_64bit=True)))
    with pytest.raises(ValueError, match="needs its size"):
        BarSpec(BarKind.FIXED)
    with pytest.raises(ValueError, match="powers of two"):
        BarSpec(BarKind.FIXED, 300)


@given(
    exponent=st.integers(4, 30),
    address=st.integers(0, (1 << 64) - 1),
    probe=st.integers(0, (1 << 64) - 1),
    length=st.integers(1, 4096),
)
def test_decode_agrees_with_the_registers(exponent: int, address: int, probe: int, length: int) -> None:
    size = 1 << exponent
    bars = assigned(FREE, 2, size, address, bits64=True)
    base = (bars.read_register(3) << 32 | bars.read_register(2)) & ~0xF

    for addr in (probe, base, base + size - length, base + size - length + 1):
        inside = base != 0 and base <= addr and addr + length <= base + size
        assert bars.decode(addr, length) == ((2, addr - base) if inside else None)
