from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest

from ntbnet.devices.epc_features import EpcHeader
from ntbnet.devices.inbound import Submap
from ntbnet.errors import KernelError
from tests.unit.devices.epc_board import REBAR_CAP, Board
from tests.unit.devices.kit import EP_DRAM, logged

MIB = 1 << 20
BAR2 = 0x3010_0000
TARGET = EP_DRAM + 4 * MIB


def refused(action: Callable[[], object]) -> int:
    with pytest.raises(KernelError) as failure:
        action()
    return failure.value.errno


def rebar(board: Board, number: int) -> tuple[int, int, int]:
    """(offered sizes, BAR index, size in use) of the n-th resizable BAR."""
    control = board.read(REBAR_CAP + 8 + 8 * number)
    return board.read(REBAR_CAP + 4 + 8 * number), control & 7, control >> 8 & 0x3F


def test_header_shows_what_the_function_wrote() -> None:
    board = Board()
    board.epc.write_header(EpcHeader(0x1912, 0x30, 0x0500, 0x1111, 0x2222, 7))

    assert board.read(0x00) == 0x0030_1912
    assert board.read(0x08) == 0x0500_0007
    assert board.read(0x2C) == 0x2222_1111


def test_features_are_those_of_the_platform() -> None:
    features = Board("rk3588").epc.get_features()

    assert (features.map_inbound, features.subrange_mapping, features.msix_capable) == (False, True, True)
    assert (features.linkup_notifier, features.intx_capable, features.align) == (False, False, 0x10000)
    assert features.bars[4].kind.value == "reserved"


@pytest.mark.covers("EDMA 8", "EDMA 9")
def test_resizable_bar_offers_the_one_size_it_was_given_or_1_mib() -> None:
    board = Board()
    assert board.read(REBAR_CAP) & 0xFFFF == 0x15
    assert board.read(REBAR_CAP + 8) >> 5 & 7 == 2
    assert [rebar(board, n) for n in range(2)] == [(1 << 4, 0, 0), (1 << 4, 2, 0)]

    board.epc.set_bar(2, 8 * MIB)
    assert rebar(board, 1) == (1 << 7, 2, 3)

    board.epc.clear_bar(2)
    assert rebar(board, 1) == (1 << 4, 2, 0)


@pytest.mark.covers("EDMA 8")
def test_resizable_bar_of_1_mib_offers_capability_bit_4() -> None:
    board = Board()
    board.epc.set_bar(2, MIB)

    assert rebar(board, 1)[0] == 1 << 4


@pytest.mark.covers("EDMA 13")
def test_link_down_offers_the_configured_size_again() -> None:
    board = Board()
    board.epc.set_bar(2, 4 * MIB)
    board.write(REBAR_CAP + 4 + 8, 0xFFFFFFFF)
    board.epc.hot_reset()

    assert rebar(board, 1) == (1 << 6, 2, 2)


@pytest.mark.covers("EDMA 7", "EDMA 12")
def test_set_bar_again_moves_the_target_and_keeps_the_hosts_address() -> None:
    board = Board()
    board.epc.set_bar(2, MIB, TARGET)
    board.place(2, BAR2)
    board.epc.set_bar(2, MIB, TARGET + MIB)

    assert board.hits(BAR2 + 8) == TARGET + MIB + 8
    assert board.inbound_in_use == 1


@pytest.mark.covers("EDMA 10")
def test_cleared_bar_reads_0_and_hits_nothing() -> None:
    board = Board()
    board.epc.set_bar(2, MIB, TARGET)
    board.place(2, BAR2)
    board.epc.clear_bar(2)

    assert board.read(0x18) == 0
    assert board.hits(BAR2) is None
    assert board.epc.bars.unclaimed == 1
    assert board.inbound_in_use == 0


def test_clearing_a_bar_with_ranges_only_leaks_no_window() -> None:
    board = Board()
    board.epc.map_inbound(2, MIB)
    board.place(2, BAR2)
    board.epc.map_inbound(2, MIB, 0, TARGET, 0x1000)
    board.epc.map_inbound(2, MIB, 0x8000, TARGET, 0x1000)
    board.epc.clear_bar(2)

    assert board.inbound_in_use == 0
    assert board.epc.inbound.ranges == []


@pytest.mark.covers("EDMA 6", "EDMA 145")
def test_reserved_bar_cannot_be_touched_and_its_wired_window_works() -> None:
    board = Board("rk3588")
    assert refused(lambda: board.epc.set_bar(4, MIB, TARGET)) == errno.EINVAL
    board.epc.clear_bar(4)
    board.place(4, 0xF020_0000)

    assert board.hits(0xF020_00A0) == board.hardware.edma_base + 0xA0
    assert board.hits(0xF020_1FFC) == board.hardware.edma_base + 0x1FFC
    assert board.hits(0xF020_2000) is None
    assert board.inbound_in_use == 0
    assert [row["mode"] for row in board.windows_of(4)] == ["wired"]


@pytest.mark.covers("EDMA 36")
def test_map_inbound_of_a_controller_without_it_is_eopnotsupp() -> None:
    board = Board("rk3588")

    assert refused(lambda: board.epc.map_inbound(2, MIB)) == errno.EOPNOTSUPP
    board.epc.unmap_inbound(2, 0, MIB)
    assert board.epc.bars.config(2) is None


@pytest.mark.covers("EDMA 37")
def test_map_inbound_without_a_target_creates_the_bar_and_takes_no_window() -> None:
    board = Board()
    board.epc.map_inbound(2, MIB)

    assert board.epc.bars.config(2) is not None
    assert board.inbound_in_use == 0


@pytest.mark.covers("EDMA 42")
def test_submaps_of_a_bar_never_set_up_are_refused() -> None:
    board = Board()

    assert refused(lambda: board.epc.set_bar(2, MIB, submaps=[Submap(TARGET, MIB)])) == errno.EINVAL
    assert board.epc.bars.config(2) is None


@pytest.mark.covers("EDMA 43")
def test_submaps_without_an_entry_are_refused() -> None:
    board = Board()
    board.epc.set_bar(2, MIB)
    board.place(2, BAR2)

    assert refused(lambda: board.epc.set_bar(2, MIB, submaps=[])) == errno.EINVAL


@pytest.mark.covers("EDMA 44")
@pytest.mark.parametrize("missing", ["dynamic_inbound_mapping", "subrange_mapping"])
def test_submaps_need_both_mapping_features(missing: str) -> None:
    changes: dict[str, Any] = {missing: False}
    board = Board(**changes)
    board.epc.set_bar(2, MIB)
    board.place(2, BAR2)

    assert refused(lambda: board.epc.set_bar(2, MIB, submaps=[Submap(TARGET, MIB)])) == errno.EINVAL


@pytest.mark.covers("EDMA 29")
def test_passthrough_forwards_what_no_window_matched_and_still_counts_it() -> None:
    strict, forwarding = Board(), Board(passthrough=True)
    for board in (strict, forwarding):
        board.epc.set_bar(2, MIB)
        board.place(2, BAR2)

    assert strict.hits(BAR2 + 0x40) is None
    assert forwarding.hits(BAR2 + 0x40) == BAR2 + 0x40
    assert forwarding.hits(BAR2 - 4) is None
    assert (strict.epc.iatu.inbound_misses, forwarding.epc.iatu.inbound_misses) == (1, 1)


@pytest.mark.covers("EDMA 51", "EDMA 52")
def test_auxiliary_resources_are_the_edma_and_its_doorbell() -> None:
    board = Board()
    control, doorbell = board.epc.get_aux_resources()

    assert (control.kind, control.address, control.size, control.bar) == (
        "dma-control",
        0xE65D_5000,
        0x1200,
        None,
    )
    assert (doorbell.address, doorbell.size, doorbell.data) == (0xE65D_50A0, 4, 0)
    assert len(board.epc.get_aux_resources(2)) == 2
    assert refused(lambda: board.epc.get_aux_resources(1)) == errno.ENOSPC


def test_wired_resources_say_where_they_are() -> None:
    control, doorbell = Board("rk3588").epc.get_aux_resources()

    assert (control.bar, control.bar_offset, control.size) == (4, 0, 0x2000)
    assert (doorbell.bar, doorbell.bar_offset) == (4, 0xA0)


def test_fundamental_reset_leaves_nothing_set_up() -> None:
    board = Board()
    board.epc.write_header(EpcHeader(0x1912, 0x30, 0x0500))
    board.epc.set_msi(16)
    board.epc.set_bar(0, MIB, TARGET)
    board.epc.map_inbound(2, MIB)
    board.place(2, BAR2)
    board.epc.map_inbound(2, MIB, 0, TARGET, 0x1000)
    board.epc.fundamental_reset()

    assert board.read(0x00) == 0xFFFF_FFFF
    assert [board.read(0x10 + 4 * bar) for bar in range(6)] == [0] * 6
    assert board.epc.windows() == []
    assert board.epc.inbound.ranges == []
    assert board.epc.allocate_outbound(4096) == 0xFE00_1000
    assert refused(lambda: board.epc.map_inbound(2, MIB, 0, TARGET, 0x1000)) == errno.EINVAL


@pytest.mark.covers("EDMA 164")
def test_hot_reset_keeps_sizes_and_windows_and_forgets_addresses() -> None:
    board = Board()
    board.epc.set_bar(0, MIB, TARGET)
    board.place(0, 0x3000_0000)
    board.epc.hot_reset()
    assert board.hits(0x3000_0000) is None
    board.place(0, 0x3800_0000)

    assert board.hits(0x3800_0010) == TARGET + 0x10


def test_outbound_windows_are_shown_beside_the_inbound_ones() -> None:
    board = Board()
    local = board.epc.allocate_outbound(0x8000)
    board.epc.map_addr(local, 0x8000_0000, 0x8000)
    rows = board.epc.windows()
    enabled = logged(board.effects(), "iatu.region_enabled")
    board.epc.unmap_addr(local)
    board.epc.unmap_addr(0xFE3F_0000)

    assert [(row["direction"], row["bar"], row["base"], row["size"]) for row in rows] == [
        ("outbound", None, f"0x{local:016x}", 0x8000)
    ]
    assert len(enabled) == 1
    assert board.epc.windows() == []
