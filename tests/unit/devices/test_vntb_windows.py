from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest

from ntbnet.devices.inbound import Submap
from ntbnet.devices.vntb_windows import PADDING_BASE
from ntbnet.errors import KernelError
from ntbnet.regs.ntb_ctrl import RFC1, Command
from tests.unit.devices.kit import EP_DRAM
from tests.unit.devices.test_vntb import Function

MEMORY = EP_DRAM + 0x500000
FOUR = """
[ntb]
num_mws = 4
mw1 = 0x40000
mw2 = 0x40000
mw3 = 0x40000
mw4 = 0x8000
mw2_offset = 0x40000
mw3_offset = 0x80000
mw4_offset = 0xC0000
mw1_bar = 2
mw2_bar = 2
mw3_bar = 2
mw4_bar = 2
mw2_target = "none"
[transport]
transport_mtu = 0x4000
[netdev]
mtu = 1500
"""


def refused(action: Callable[[], object]) -> int:
    with pytest.raises(KernelError) as failure:
        action()
    return failure.value.errno


def calls(function: Function, name: str) -> list[tuple[Any, ...]]:
    return [call[1:] for call in function.controller.calls if call[0] == name]


def submaps(inbound_windows: str = "") -> Function:
    return Function(FOUR.replace("[ntb]", '[ntb]\ninbound = "submap"' + inbound_windows))


@pytest.mark.covers("NTB 33", "EDMA 78")
def test_cover_letters_windows_share_one_bar_of_1_mib() -> None:
    function = Function("")

    assert ("map_inbound", 2, 0x100000, 0, 0, 0) in function.bound
    assert [call[1] for call in function.bound if call[0] == "allocate_outbound"] == [0xF0000, 0x8000]
    assert [function.get("mw_offset", i) for i in range(4)] == [0, 0xF0000, 0, 0]
    assert [function.get("mw_size", i) for i in range(4)] == [0xF0000, 0x8000, 0, 0]
    assert function.get("num_mws") == 2


@pytest.mark.covers("NTB 34")
def test_bar_of_small_windows_has_4_kib_or_what_the_hardware_can_do() -> None:
    text = '[ntb]\ninbound = "bar"\nnum_mws = 1\nmw1 = 0xc00\nmw2 = 0\nmw2_offset = 0\nmw2_target = "none"\n'
    text += "[transport]\ntransport_mtu = 1400\n[netdev]\nmtu = 1280\ntx_stop = 1\n"
    function = Function(text, profile="generic")

    assert ("set_bar", 2, 0x1000, None) in function.bound


def test_a_bar_is_sized_once_for_all_its_windows() -> None:
    function = Function(FOUR)

    assert [call for call in function.bound if call[0] == "map_inbound"] == [
        ("map_inbound", 2, 0x100000, 0, 0, 0)
    ]
    assert len(function.vntb.windows.outbound) == 4


def test_doorbells_in_the_config_bar_are_found_through_db_offset() -> None:
    function = Function("", profile="r-car-s4-db-in-bar0")
    region = function.config.db_region

    assert (region.bar, region.offset) == (0, 336 + 8 * 128)
    assert [function.get("db_offset", slot) for slot in range(17)] == [1360] * 16 + [0]
    assert [call for call in function.bound if call[0] == "set_bar" and call[1] == 4] == [
        ("set_bar", 4, 0x100, None)
    ]
    function.vntb.ctrl.store_u32("test", region.offset + 4 * 2, 3)
    assert len(function.vntb.doorbells.load(0, 64)) == 64
    assert function.vntb.doorbells.load_u32(8) == 3


def test_reset_clears_doorbells_in_the_config_bar_and_publishes_them_again() -> None:
    function = Function("", profile="r-car-s4-db-in-bar0")
    function.vntb.doorbells.store_u32("test", 8, 3)
    function.put("db_offset", 0, 2)
    function.vntb.reset("link down")

    assert function.vntb.doorbells.load(0, 64) == bytes(64)
    assert function.get("db_offset", 2) == 1360


def test_interrupt_window_is_left_to_the_endpoints_client() -> None:
    function = Function("")
    function.command(Command.LINK_UP)

    assert function.controller.calls == []
    assert function.get("link_status") == 1


@pytest.mark.parametrize(
    ("profile", "call"),
    [
        ("r-car-s4-db-in-bar0", ("set_bar", 4, 0x100, 0xE65D_5000)),
        (
            "generic",
            (
                "set_bar",
                2,
                0x100000,
                [Submap(PADDING_BASE, 0xE0000), Submap(0x0802_0000, 0x20000, 0x20000)],
            ),
        ),
    ],
)
def test_interrupt_window_by_whole_bar_and_by_submap(profile: str, call: tuple[Any, ...]) -> None:
    function = Function("", profile=profile)
    window, page = function.config.windows[1], 0x0802_0000 if profile == "generic" else 0xE65D_5000
    function.vntb.mw_set_trans(1, page, window.size, window.offset)

    assert call in function.controller.calls


def test_wired_window_needs_nothing_and_cannot_be_moved() -> None:
    function = Function("", profile="rk3588")
    function.command(Command.LINK_UP)

    assert [call for call in function.bound if call[0] == "set_bar" and call[1] == 4] == []
    assert function.controller.calls == []
    assert refused(lambda: function.vntb.mw_set_trans(1, 0xA_4038_0000, 0x1000, 0)) == errno.EINVAL


def test_window_moved_inside_its_part_of_the_bar_gives_the_old_place_back() -> None:
    function = Function(FOUR)
    function.vntb.mw_set_trans(1, MEMORY, 0x8000, 0x40000)
    function.vntb.mw_set_trans(1, MEMORY, 0x8000, 0x50000)

    assert function.controller.calls == [
        ("map_inbound", 2, 0x100000, 0x40000, MEMORY, 0x8000),
        ("unmap_inbound", 2, 0x40000, 0x8000),
        ("map_inbound", 2, 0x100000, 0x50000, MEMORY, 0x8000),
    ]


@pytest.mark.covers("EDMA 81", "HAZARD 11.f")
@pytest.mark.parametrize(
    ("widx", "size", "offset"),
    [(1, 0x1000, 0), (1, 0x40001, 0x40000), (1, 0x1000, 0x7F001), (0, 0x1000, 0x40000), (4, 0x1000, 0)],
)
def test_translation_outside_the_windows_own_part_is_refused(widx: int, size: int, offset: int) -> None:
    function = Function(FOUR)

    assert refused(lambda: function.vntb.mw_set_trans(widx, MEMORY, size, offset)) == errno.EINVAL
    assert function.controller.calls == []


def test_clearing_a_window_leaves_its_neighbours() -> None:
    function = Function(FOUR)
    function.vntb.mw_set_trans(0, MEMORY, 0x40000, 0)
    function.vntb.mw_set_trans(2, MEMORY, 0x40000, 0x80000)
    function.vntb.mw_clear_trans(0)
    function.vntb.mw_clear_trans(0)

    assert calls(function, "unmap_inbound") == [(2, 0, 0x40000)]
    assert calls(function, "unmap_bar") == []


def test_submap_array_holds_the_open_windows_and_padding() -> None:
    function = submaps()
    function.vntb.mw_set_trans(1, MEMORY, 0x40000, 0x40000)
    function.vntb.mw_set_trans(3, MEMORY + 0x80000, 0x7800, 0xC0000)

    assert calls(function, "set_bar")[-1] == (
        2,
        0x100000,
        [
            Submap(PADDING_BASE, 0x40000),
            Submap(MEMORY, 0x40000, 0x40000),
            Submap(PADDING_BASE + 0x80000, 0x40000),
            Submap(MEMORY + 0x80000, 0x8000, 0x7800),
            Submap(PADDING_BASE + 0xC8000, 0x38000),
        ],
    )


def test_last_open_submap_leaves_the_bar_without_translation() -> None:
    function = submaps()
    function.vntb.mw_set_trans(0, MEMORY, 0x40000, 0)
    function.vntb.mw_set_trans(1, MEMORY, 0x40000, 0x40000)
    function.controller.calls.clear()
    function.vntb.mw_clear_trans(0)
    function.vntb.mw_clear_trans(1)

    assert [call[0] for call in function.controller.calls] == ["set_bar", "unmap_bar"]


def test_refused_translation_leaves_the_window_as_it_was() -> None:
    function = submaps()
    function.vntb.mw_set_trans(0, MEMORY, 0x40000, 0)
    function.controller.refuse = "set_bar"
    assert refused(lambda: function.vntb.mw_set_trans(1, MEMORY, 0x40000, 0x40000)) == errno.EINVAL
    function.controller.refuse = ""
    function.controller.calls.clear()
    function.vntb.mw_clear_trans(1)

    assert function.controller.calls == []


def test_reset_closes_every_bar_that_holds_windows() -> None:
    function = Function("", profile="r-car-s4-db-in-bar0")
    function.command(Command.LINK_UP)
    function.controller.calls.clear()
    function.vntb.reset("link down")

    assert calls(function, "unmap_bar") == [(2,), (4,)]


def test_each_window_has_its_own_outbound_region() -> None:
    function = Function(FOUR)
    function.put("addr", 0x8000_0000)
    function.put("size", 0x8000)
    function.command(Command.CONFIGURE_MW, 3)

    region = function.vntb.windows.outbound[3]
    assert function.controller.calls[-2:] == [
        ("unmap_addr", region),
        ("map_addr", region, 0x8000_0000, 0x8000),
    ]
    function.put("size", 0x8001)
    function.command(Command.CONFIGURE_MW, 3)
    assert function.get("command_status") == 2


@pytest.mark.covers("HAZARD 10.29")
def test_function_offers_msix_where_the_controller_has_it_and_raises_what_the_host_enabled() -> None:
    function = Function("", profile="rk3588")
    (_, count, bar, offset), *_ = [call for call in function.bound if call[0] == "set_msix"]
    assert (count, bar) == (16, 0)
    assert offset >= RFC1.size + 8 * 128
    assert function.vntb.ctrl.load_u32(offset + 12) == 1

    function.vntb.peer_db_set(1)
    function.controller.msix = 16
    function.vntb.peer_db_set(1)
    assert [kind.value for kind, _ in calls(function, "raise_irq")] == ["msi", "msix"]


def test_reset_masks_every_msix_vector_again() -> None:
    function = Function("", profile="rk3588")
    offset = next(call[3] for call in function.bound if call[0] == "set_msix")
    function.vntb.ctrl.store("test", offset, bytes(16 * 16))
    function.vntb.reset("link down")

    assert [function.vntb.ctrl.load_u32(offset + 16 * n + 12) for n in range(16)] == [1] * 16


def test_attach_tells_where_windows_begin_and_what_may_be_lent() -> None:
    function = Function("")
    attach = function.vntb.attach_client(1)

    assert attach["mw_sizes"] == [0xF0000, 0x8000]
    assert attach["mw_offsets"] == [0, 0xF0000]
    assert attach["mw_bars"] == [2, 2]
    assert attach["mw_align"] == 0x1000
    assert Function("", profile="rk3588").vntb.attach_client(1)["mw_align"] == 0x100000
    assert attach["resources"] == []
