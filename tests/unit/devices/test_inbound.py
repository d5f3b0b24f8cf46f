from __future__ import annotations

import errno
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntbnet.devices.inbound import Submap
from ntbnet.errors import KernelError
from tests.unit.devices.epc_board import Board
from tests.unit.devices.kit import EP_DRAM, logged

PAGE, MIB = 0x1000, 1 << 20
BAR2, ELSEWHERE = 0x3010_0000, 0x3770_0000
TARGET = EP_DRAM + 4 * MIB


def refused(action: Callable[[], object]) -> int:
    with pytest.raises(KernelError) as failure:
        action()
    return failure.value.errno


def placed(**changes: object) -> Board:
    board = Board(**changes)  # type: ignore[arg-type]  # fields of the hardware, by name
    board.epc.map_inbound(2, MIB)
    board.place(2, BAR2)
    return board


def map_range(board: Board, offset: int, size: int = PAGE, target: int = TARGET) -> None:
    board.epc.map_inbound(2, MIB, offset, target, size)


@pytest.mark.covers("NTB 80", "EDMA 79")
def test_range_translates_its_bytes_and_no_others() -> None:
    board = placed()
    map_range(board, 0xF0000, 0x8000)

    assert board.hits(BAR2 + 0xF0000) == TARGET
    assert board.hits(BAR2 + 0xF7FFC) == TARGET + 0x7FFC
    assert board.hits(BAR2 + 0xEFFFC) is None
    assert board.hits(BAR2 + 0xF8000) is None
    assert board.hits(BAR2 + 0xF7FFE) is None


@pytest.mark.covers("EDMA 47")
def test_range_or_submaps_of_a_bar_without_an_address_are_refused() -> None:
    board = Board()
    board.epc.map_inbound(2, MIB)

    assert refused(lambda: map_range(board, 0)) == errno.EINVAL
    assert refused(lambda: board.epc.set_bar(2, MIB, submaps=[Submap(TARGET, MIB)])) == errno.EINVAL
    assert board.inbound_in_use == 0


@pytest.mark.covers("NTB 81", "HAZARD 11.c")
def test_range_asked_for_again_keeps_its_window() -> None:
    board = placed()
    for round_ in range(40):
        map_range(board, 0, PAGE, TARGET + PAGE * round_)

    assert board.inbound_in_use == 1
    assert board.hits(BAR2) == TARGET + PAGE * 39


@pytest.mark.parametrize(
    ("offset", "size"),
    [(MIB, PAGE), (MIB - PAGE, 2 * PAGE), (-PAGE, PAGE), (0, 0), (0x100, PAGE), (PAGE, PAGE)],
    ids=["behind", "across-the-end", "negative", "empty", "unaligned", "overlap"],
)
def test_impossible_range_is_refused_and_changes_nothing(offset: int, size: int) -> None:
    board = placed()
    map_range(board, 0, 2 * PAGE)
    before = board.epc.windows()

    assert refused(lambda: map_range(board, offset, size)) == errno.EINVAL
    assert board.epc.windows() == before


def test_range_may_grow_in_its_window_but_not_over_another() -> None:
    board = placed()
    map_range(board, 0, PAGE)
    map_range(board, 4 * PAGE, PAGE)
    map_range(board, 0, 4 * PAGE)

    assert board.hits(BAR2 + 4 * PAGE - 4) == TARGET + 4 * PAGE - 4
    assert refused(lambda: map_range(board, 0, 5 * PAGE)) == errno.EINVAL


def test_range_in_a_bar_translated_as_a_whole_is_refused() -> None:
    board = Board()
    board.epc.set_bar(2, MIB, TARGET)
    board.place(2, BAR2)

    assert refused(lambda: map_range(board, 0)) == errno.EINVAL


@pytest.mark.covers("EDMA 23")
def test_too_many_ranges_are_enospc() -> None:
    board = placed(inbound_windows=3)
    for number in range(3):
        map_range(board, number * PAGE)

    assert refused(lambda: map_range(board, 3 * PAGE)) == errno.ENOSPC
    assert board.inbound_in_use == 3


def test_only_exactly_that_range_is_unmapped() -> None:
    board = placed()
    map_range(board, 0, 2 * PAGE)
    map_range(board, 0xF0000, PAGE)
    board.epc.unmap_inbound(2, 0, PAGE)
    board.epc.unmap_inbound(0, 0, 2 * PAGE)
    assert board.inbound_in_use == 2
    board.epc.unmap_inbound(2, 0, 2 * PAGE)

    assert board.hits(BAR2) is None
    assert board.hits(BAR2 + 0xF0000) == TARGET


@pytest.mark.covers("EDMA 32", "EDMA 33")
def test_moved_bar_makes_ranges_stale_until_they_are_programmed_again() -> None:
    board = placed()
    board.epc.set_bar(0, MIB, EP_DRAM)
    map_range(board, 0xF0000)
    board.place(0, 0x3000_0000)
    board.effects()
    board.place(2, ELSEWHERE)
    board.place(0, 0x3900_0000)

    assert board.hits(ELSEWHERE + 0xF0000) is None
    assert board.hits(0x3900_0000) == EP_DRAM
    told = logged(board.effects(), "iatu.region_stale")
    assert [(keys["bar"], keys["base"], keys["address"]) for keys in told] == [
        (2, f"0x{BAR2 + 0xF0000:016x}", f"0x{ELSEWHERE + 0xF0000:016x}")
    ]
    assert board.epc.inbound.went_stale == 1
    assert [(row["mode"], row["stale"]) for row in board.windows_of(2)] == [("map", True)]
    assert [(row["mode"], row["stale"]) for row in board.windows_of(0)] == [("bar", False)]

    map_range(board, 0xF0000)
    assert board.hits(ELSEWHERE + 0xF0000) == TARGET
    assert [row["stale"] for row in board.windows_of(2)] == [False]
    assert len(board.windows_of(2)) == 1


def test_stale_range_can_be_unmapped() -> None:
    """Mainline's way: by BAR and offset, whatever the address was (the series leaves the window there)."""
    board = placed()
    map_range(board, 0)
    board.place(2, ELSEWHERE)
    board.epc.unmap_inbound(2, 0, PAGE)

    assert board.inbound_in_use == 0


def test_bar_that_is_moved_back_is_stale_no_more() -> None:
    board = placed()
    map_range(board, 0)
    board.place(2, ELSEWHERE)
    board.place(2, BAR2)

    assert board.hits(BAR2) == TARGET
    assert [row["stale"] for row in board.windows_of(2)] == [False]
    assert board.epc.inbound.went_stale == 1


def test_sizing_a_bar_with_decode_off_makes_nothing_stale() -> None:
    board = placed()
    map_range(board, 0)
    board.write(0x04, 0, 2)
    board.write(0x18, 0xFFFFFFFF)
    board.write(0x18, BAR2)
    board.write(0x04, 6, 2)

    assert board.epc.inbound.went_stale == 0


# submaps


def submap(board: Board, *pieces: Submap) -> None:
    board.epc.set_bar(2, MIB, submaps=pieces)


@pytest.mark.covers("EDMA 50")
def test_order_of_submaps_is_the_layout() -> None:
    board = placed()
    submap(board, Submap(TARGET, 0x40000), Submap(TARGET - PAGE, PAGE), Submap(EP_DRAM, MIB - 0x41000))

    assert board.hits(BAR2 + 0x3FFFC) == TARGET + 0x3FFFC
    assert board.hits(BAR2 + 0x40000) == TARGET - PAGE
    assert board.hits(BAR2 + 0x41000) == EP_DRAM
    assert {row["mode"] for row in board.windows_of(2)} == {"submap"}


@pytest.mark.covers("EDMA 49")
def test_second_submap_array_replaces_the_first() -> None:
    board = placed()
    submap(board, *(Submap(TARGET, MIB // 4) for _ in range(4)))
    submap(board, Submap(EP_DRAM, MIB // 2), Submap(TARGET, MIB // 2))

    assert board.inbound_in_use == 2
    assert board.hits(BAR2) == EP_DRAM


@pytest.mark.covers("EDMA 45", "EDMA 46")
@pytest.mark.parametrize(
    "pieces",
    [
        [Submap(TARGET, MIB - PAGE)],
        [Submap(TARGET, MIB), Submap(TARGET, PAGE)],
        [Submap(TARGET, 0), Submap(TARGET, MIB)],
        [Submap(TARGET, 0x800), Submap(TARGET, MIB - 0x800)],
        [Submap(TARGET + 4, MIB)],
        [Submap(TARGET, MIB, MIB + 1)],
    ],
    ids=["short", "long", "empty", "unaligned-size", "unaligned-target", "backed-beyond"],
)
def test_impossible_submaps_are_refused_and_leave_what_was_there(pieces: list[Submap]) -> None:
    board = placed()
    submap(board, Submap(TARGET, MIB))

    assert refused(lambda: submap(board, *pieces)) == errno.EINVAL
    assert board.hits(BAR2 + MIB - 4) == TARGET + MIB - 4


@pytest.mark.covers("EDMA 48")
def test_submaps_that_find_no_window_leave_none() -> None:
    board = placed(inbound_windows=3)
    submap(board, Submap(TARGET, MIB))
    pieces = [Submap(TARGET, MIB // 4) for _ in range(4)]

    assert refused(lambda: submap(board, *pieces)) == errno.ENOSPC
    assert board.inbound_in_use == 0


# properties

layouts = st.lists(st.tuples(st.integers(0, 255), st.integers(1, 64)), min_size=1, max_size=12)
"""Page number and pages of each range somebody asks for, in a BAR of 256 pages."""


def program(board: Board, wanted: list[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """Ask for every range; (offset, size, target) of those accepted."""
    accepted: dict[int, tuple[int, int]] = {}
    for number, (page, pages) in enumerate(wanted):
        target = TARGET + number * 0x40000
        try:
            map_range(board, page * PAGE, pages * PAGE, target)
        except KernelError:
            continue
        accepted[page * PAGE] = (pages * PAGE, target)
    return [(offset, size, target) for offset, (size, target) in sorted(accepted.items())]


@given(layouts)
def test_no_two_ranges_translate_one_address(wanted: list[tuple[int, int]]) -> None:
    board = placed()
    ranges = program(board, wanted)

    for (offset, size, _), (following, _, _) in pairwise(ranges):
        assert offset + size <= following
    assert board.inbound_in_use == len(ranges)


@given(layouts)
def test_every_address_of_a_bar_is_translated_by_its_range_or_reported_unmapped(
    wanted: list[tuple[int, int]],
) -> None:
    board = placed()
    ranges = program(board, wanted)
    for offset in range(0, MIB, PAGE):
        expected = [target + offset - at for at, size, target in ranges if at <= offset < at + size]
        misses = board.epc.iatu.inbound_misses
        assert board.hits(BAR2 + offset) == (expected[0] if expected else None)
        assert board.epc.iatu.inbound_misses == misses + (not expected)


@given(layouts, st.integers(0, 0x3FFFF))
def test_translating_back_gives_the_bus_address(wanted: list[tuple[int, int]], inside: int) -> None:
    """Inbound, then outbound through the mirrored window, is identity."""
    board = placed()
    for offset, size, target in program(board, wanted):
        bus = BAR2 + offset + inside % size
        local = board.hits(bus, 1)
        assert local is not None
        board.epc.map_addr(target, BAR2 + offset, size)
        assert board.epc.iatu.find_outbound(local, 1) == bus
        board.epc.unmap_addr(target)
