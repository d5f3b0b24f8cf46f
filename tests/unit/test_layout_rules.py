"""Every rule of a layout: what breaks it, which key is named, and what is left when none is broken."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntbnet.config import Checked, check_text, load_text, warnings
from ntbnet.errors import ConfigError
from ntbnet.layout_plan import CONTROL_BLOCK_BYTES
from ntbnet.profile import SHIPPED, shipped
from ntbnet.regs.ntb_ctrl import LAYOUTS

FOUR_WINDOWS = """
num_mws = 4
mw2_target = "none"
mw1 = 0x40000
mw2 = 0x40000
mw2_offset = 0x40000
mw3 = 0x40000
mw3_offset = 0x80000
mw3_bar = 2
mw4 = 0x40000
mw4_offset = 0xC0000
mw4_bar = 2
"""
FOUR_QUEUES = "[transport]\nmax_num_clients = 4\ntransport_mtu = 16384\n[netdev]\nmtu = 16358\n"


def checked(ntb: str, profile: str = "r-car-s4", more: str = "") -> Checked:
    return check_text(f"[ntb]\n{ntb}\n{more}", "x", profile=profile)


def keys_of(result: Checked) -> list[str]:
    return [violation.key for violation in result.violations]


BROKEN = {
    "overlap": ("r-car-s4", "mw2_offset = 0xE0000", "ntb.mw2_offset", "overlaps mw1 [0x0, 0xf0000)"),
    "overlap-by-growth": ("r-car-s4", "mw1 = 0xF1000", "ntb.mw2_offset", "must not overlap"),
    "offset-misaligned": ("r-car-s4", "mw2_offset = 0xF0800", "ntb.mw2_offset", "a multiple of 0x1000"),
    "size-misaligned": ("r-car-s4", "mw1 = 0xEF004", "ntb.mw1", "a multiple of 0x1000"),
    "misaligned-for-64k": (
        "rk3588",
        'inbound = "submap"\nmw1 = 0xF1000',
        "ntb.mw1",
        "a multiple of 0x10000",
    ),
    "beyond-fixed-bar": ("r-car-s4", "mw2_bar = -1\ndb_bar = 0", "ntb.mw2_bar", "fixed at 256 bytes"),
    "beyond-small-bar": ("r-car-s4-db-in-bar0", "mw2 = 0x104", "ntb.mw2_bar", "fixed at 256 bytes"),
    "ctrl-on-fixed-bar": ("r-car-s4", "ctrl_bar = 4\ndb_bar = 0", "ntb.ctrl_bar", "at least 1360 bytes"),
    "upper-half": ("r-car-s4", "mw1_bar = 3", "ntb.mw1_bar", "is upper: must be one of 0, 2, 4, or -1"),
    "reserved-bar": ("r-car-s4", "mw2_bar = 5", "ntb.mw2_bar", "is reserved"),
    "data-on-wired-bar": ("rk3588", "mw1_bar = 4", "ntb.mw1_bar", "is reserved"),
    "wired-elsewhere": (
        "rk3588",
        "mw2_offset = 0x1000",
        "ntb.mw2_offset",
        "wired to the edma registers there",
    ),
    "wired-too-long": ("rk3588", "mw2 = 0x3000", "ntb.mw2", "must be at most 0x2000 bytes"),
    "window-on-ctrl": ("r-car-s4", "mw1_bar = 0", "ntb.mw1_bar", "must differ from ntb.ctrl_bar"),
    "window-on-doorbells": ("r-car-s4", "db_bar = 2", "ntb.mw1_bar", "must differ from ntb.db_bar"),
    "no-bar-left": ("r-car-s4", "num_mws = 3\nmw3 = 0x1000\nmw3_bar = -1", "ntb.mw3_bar", "is left for it"),
    "beyond-32-bits": ("generic", "mw2_offset = 0xFFFF0000", "ntb.mw2_offset", "0x100000000 or below"),
    "offset-beyond-32-bits": ("r-car-s4", "mw2_offset = 0x100000000", "ntb.mw2_offset", "0..0xffffffff"),
    "too-many-windows": ("r-car-s4", "num_mws = 5", "ntb.num_mws", "an integer 1..4 windows"),
    "size-without-window": ("r-car-s4", "num_mws = 1\nmw2 = 0x8000", "ntb.mw2", "num_mws is 1 (-EINVAL)"),
    "offset-without-window": (
        "r-car-s4",
        "num_mws = 1\nmw2_offset = 0xF0000",
        "ntb.mw2_offset",
        "num_mws is 1 (-EINVAL)",
    ),
    "window-without-size": ("r-car-s4", "num_mws = 3\nmw3_bar = 2", "ntb.mw3", "must be given"),
    "shared-by-bar-match": ("r-car-s4", 'inbound = "bar"', "ntb.mw2_offset", 'must be 0: inbound = "bar"'),
    "two-by-bar-match": (
        "generic",
        'inbound = "bar"\nmw2_offset = 0',
        "ntb.mw2_bar",
        "BAR2 holds mw1 already",
    ),
    "no-map-inbound": ("rk3588", 'inbound = "map"', "ntb.inbound", "has no map_inbound (-EOPNOTSUPP)"),
    "target-not-aligned-to-bar": (
        "rk3588",
        "mw2_bar = 3",
        "ntb.mw2_bar",
        "BAR match needs a target aligned to them: edma is at 0xa40380000",
    ),
    "no-msi-page": ("r-car-s4", 'mw2_target = "msi"', "ntb.mw2_target", "has no ep_msi_page"),
    "short-of-the-register": ("r-car-s4-db-in-bar0", "mw2 = 0xA0", "ntb.mw2", "at least 0xa4 bytes"),
    "classic-with-offset": (
        "r-car-s4",
        'ctrl_layout = "classic"',
        "ntb.mw2_offset",
        "a classic block has no field for it",
    ),
    "outbound-aperture": ("r-car-s4", "num_mws = 1\nmw1 = 0x300000", "ntb.mw1", "outbound aperture"),
    "host-window": ("rk3588", "mw1 = 0x800000", "ntb.mw1", "behind the host's window"),
    "window-below-a-frame": ("r-car-s4", "mw1 = 0", "ntb.mw1", "must be given"),
    "size-no-multiple-of-4": ("r-car-s4-db-in-bar0", "mw2 = 0xFE", "ntb.mw2", "a multiple of 4"),
}
"""Profile, keys, the key that is complained about first, and what the rule says."""


@pytest.mark.covers("EDMA 80", "EDMA 81", "EDMA 82", "NTB 15", "NTB 23", "HAZARD 11.f")
@pytest.mark.parametrize(("profile", "ntb", "key", "says"), BROKEN.values(), ids=BROKEN)
def test_broken_layout_is_refused_with_key_and_rule(profile: str, ntb: str, key: str, says: str) -> None:
    result = checked(ntb, profile)

    assert result.config is None
    first = result.violations[0]
    assert (first.key, says in first.rule) == (key, True), str(first)


@pytest.mark.parametrize(("profile", "ntb", "key", "says"), BROKEN.values(), ids=BROKEN)
def test_start_refuses_a_broken_layout_with_its_first_violation_in_one_line(
    profile: str, ntb: str, key: str, says: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_text(f"[ntb]\n{ntb}", "file.toml", profile=profile)

    message = str(caught.value)
    assert message.startswith(f"file.toml: {key} = ")
    assert says in message
    assert "\n" not in message


def test_data_windows_take_at_most_a_quarter_of_the_smaller_nodes_memory() -> None:
    small = "[node.ep]\ndram_bytes = 0x800000\n"

    (violation,) = checked("num_mws = 1\nmw1 = 0x201000", "generic", small).violations

    assert violation.key == "ntb.mw1"
    assert "must be at most 0x200000, a quarter of the smaller node's DRAM" in violation.rule
    assert checked("num_mws = 1\nmw1 = 0x200000", "generic", small).config is not None


def test_all_violations_are_listed_not_only_the_first() -> None:
    result = checked("mw1 = 0xF0004\nmw2_offset = 0xE0800\nctrl_bar = 5\nnum_mws = 2")

    assert keys_of(result) == ["ntb.ctrl_bar", "ntb.mw1", "ntb.mw2_offset", "ntb.mw2_offset"]


def test_value_outside_its_range_does_not_hide_other_violations() -> None:
    result = checked("db_count = 33\nmw2_offset = 0xE0000\nspad_count = 5")

    assert keys_of(result) == ["ntb.spad_count", "ntb.db_count", "ntb.mw2_offset"]


ALL_AT_ONCE = {
    "arrangement-and-traffic": (
        "mw2_offset = 0xE0000",
        "[netdev]\nqueues = 4\n",
        [("ntb.mw2_offset", "overlaps"), ("netdev.queues", "must be 1..1")],
    ),
    "arrangement-and-reach": (
        'inbound = "bar"\nmw2_offset = 0\nmw2 = 0x80\nmw2_bar = 5',
        "",
        [("ntb.mw2_bar", "is reserved"), ("ntb.mw2", "to reach the edma register")],
    ),
    "arrangement-and-aperture": (
        "mw1 = 0x300000\nmw2_offset = 0x1000",
        "",
        [("ntb.mw2_offset", "overlaps"), ("ntb.mw1", "outbound aperture")],
    ),
    "resource-and-traffic": (
        "num_mws = 1\nmw1 = 0x300000",
        "[transport]\ntransport_mtu = 2048\n",
        [("ntb.mw1", "outbound aperture"), ("netdev.mtu", "must be 1280..2022")],
    ),
    "broken-size-has-no-frames": (
        "mw1 = 0x1004\ndb_bar = 5",
        "[netdev]\nqueues = 2\n",
        [("ntb.db_bar", "reserved"), ("ntb.mw1", "a multiple of"), ("netdev.queues", "must be 1..1")],
    ),
    "broken-doorbells-and-mtu": (
        "db_count = 33",
        "[transport]\ntransport_mtu = 2048\n",
        [("ntb.db_count", "4..32"), ("netdev.mtu", "must be 1280..2022")],
    ),
    "each-small-window": (
        'num_mws = 2\nmw1 = 0x1000\nmw2 = 0x1000\nmw2_offset = 0x1000\nmw2_target = "none"',
        "[transport]\nmax_num_clients = 8\n[netdev]\nqueues = 9\n",
        [("ntb.mw1", "a frame has 510"), ("ntb.mw2", "a frame has 510"), ("netdev.queues", "must be 1..8")],
    ),
    "doorbell-bar-is-fixed-too": (
        "mw2_bar = 4\nmw2_offset = 0",
        "",
        [("ntb.mw2_bar", "must differ from ntb.db_bar"), ("ntb.mw2_bar", "fixed at 256 bytes")],
    ),
}
"""Keys of [ntb], other sections, and every complaint in its order."""


@pytest.mark.parametrize(("ntb", "more", "says"), ALL_AT_ONCE.values(), ids=ALL_AT_ONCE)
def test_violations_of_every_kind_are_listed_at_once(
    ntb: str, more: str, says: list[tuple[str, str]]
) -> None:
    violations = checked(ntb, more=more).violations

    assert [one.key for one in violations] == [key for key, _ in says]
    assert all(rule in one.rule for one, (_, rule) in zip(violations, says, strict=True)), violations


def test_inbound_windows_are_counted_although_windows_overlap() -> None:
    text = shipped("r-car-s4").replace("inbound_windows = 16 ", "inbound_windows = 3 ")
    for inbound in ("map", "submap"):
        ntb = f'[ntb]\ninbound = "{inbound}"\nmw2_offset = 0xE0000\n'
        result = check_text(f'bridge.profile = "p.toml"\n{ntb}', "x", lambda _: text)
        assert keys_of(result) == ["ntb.mw2_offset", "ntb.num_mws"]
        assert "needs 4 inbound windows" in result.violations[1].rule


def test_wired_window_at_the_wrong_place_may_be_too_long_too() -> None:
    assert keys_of(checked("mw2 = 0x3000\nmw2_offset = 0x1000", "rk3588")) == ["ntb.mw2_offset", "ntb.mw2"]


def test_violation_keeps_the_value_that_was_written() -> None:
    (violation,) = checked("num_mws = 5\nmw3 = 0x1000\nmw4 = 0x1000").violations[:1]

    assert violation.as_json() == {
        "key": "ntb.num_mws",
        "value": 5,
        "rule": "must be an integer 1..4 windows",
    }


@pytest.mark.parametrize(("db_count", "queues"), [(4, 2), (5, 3), (8, 8)])
def test_doorbell_slots_below_what_the_queues_need_are_refused(db_count: int, queues: int) -> None:
    more = f"[transport]\nmax_num_clients = {queues}\ntransport_mtu = 2048\n[netdev]\nmtu = 1500\n"

    result = checked(f"db_count = {db_count}", more=more)

    assert keys_of(result) == ["ntb.db_count"]
    assert f"must be at least {queues + 4} slots" in result.violations[0].rule
    assert checked(f"db_count = {queues + 4}", more=more).config is not None


@pytest.mark.parametrize(("queues", "accepted"), [(1, True), (4, True), (5, False)])
def test_network_device_uses_no_more_queues_than_the_transport_has(queues: int, accepted: bool) -> None:
    result = checked(FOUR_WINDOWS, more=f"{FOUR_QUEUES}queues = {queues}\n")

    assert (result.config is not None) == accepted
    assert keys_of(result) == ([] if accepted else ["netdev.queues"])


def test_four_windows_in_one_bar_with_four_queues_are_a_layout() -> None:
    config = checked(FOUR_WINDOWS, more=FOUR_QUEUES).config

    assert config is not None
    assert config.bar_sizes[2] == 0x100000
    assert [window.offset for window in config.data_windows] == [0, 0x40000, 0x80000, 0xC0000]
    assert warnings(config) == []


@pytest.mark.covers("HAZARD 10.32")
def test_ring_that_never_transmits_is_warned_about_in_each_window_in_use() -> None:
    def found(queues: int, transport_mtu: int = 65536) -> list[str]:
        settings = (
            f"max_num_clients = 4\ntransport_mtu = {transport_mtu}\n[netdev]\nmtu = 1500\nqueues = {queues}"
        )
        config = checked(FOUR_WINDOWS, more=f"[transport]\n{settings}\n").config
        assert config is not None
        return [one for one in warnings(config) if "nothing is ever sent" in one]

    why = (
        "nothing is ever sent, a ring of 3 frames of 65536 bytes never has the 5 free entries "
        "of netdev.tx_stop"
    )
    # mw1 to mw3 have a neighbour behind them, so no size of theirs would do
    stop = f"netdev.tx_stop = 5: {why}; 1..2, or a smaller transport.transport_mtu, avoids that"
    last = f"ntb.mw4 = 0x40000: {why}; 0x61000..0x200000 bytes avoid that"
    assert found(1) == [stop]
    assert found(4) == [stop, last]
    assert found(4, 43691) != []
    assert found(4, 43690) == []


@pytest.mark.covers("NTB 31", "HAZARD 10.27")
def test_last_window_gets_a_bar_and_the_kernels_bug_is_warned_about() -> None:
    config = checked("mw1_bar = 2\nmw2_bar = -1\nmw2_offset = 0\nmw2 = 0x10000", "generic").config

    assert config is not None
    assert config.bars.mws == (2, 3)
    assert "ntb.mw2_bar = -1: the kernel never assigns the last" in warnings(config)[0]


def test_windows_without_scratchpads_to_announce_them_are_warned_about() -> None:
    config = checked(FOUR_WINDOWS + "spad_count = 8", more=FOUR_QUEUES.replace("= 4\n", "= 2\n")).config

    assert config is not None
    assert "ntb.spad_count = 8: 2 of the windows stay unused; 12 scratchpads announce all" in warnings(config)


def test_interrupt_window_that_is_not_the_last_is_warned_about() -> None:
    config = checked(FOUR_WINDOWS.replace('"none"', '"edma"'), more=FOUR_QUEUES).config

    assert config is not None
    assert "the kernel's transport takes the last window, mw4" in warnings(config)[0]


@pytest.mark.covers("NTB 27")
def test_six_free_32_bit_bars_are_taken_in_order() -> None:
    ntb = 'ctrl_bar = -1\ndb_bar = -1\ninbound = "bar"\nnum_mws = 4\nmw2_target = "none"\nmw2_offset = 0\n'
    windows = "".join(f"mw{n} = 0x40000\nmw{n}_bar = -1\n" for n in range(1, 5))

    config = checked(ntb + windows, "generic", FOUR_QUEUES).config

    assert config is not None
    assert (config.bars.ctrl, config.bars.db, config.bars.mws) == (0, 1, (2, 3, 4, 5))


@pytest.mark.covers("NTB 28", "NTB 29")
def test_three_usable_bars_leave_none_for_a_second_window() -> None:
    ntb = "ctrl_bar = -1\ndb_bar = -1\nmw1_bar = -1\nmw2_bar = -1\nmw2_offset = 0"
    result = checked(ntb)

    assert ("ntb.mw2_bar", "no BAR of profile r-car-s4 is left for it") in [
        (violation.key, violation.rule) for violation in result.violations
    ]


@pytest.mark.covers("NTB 30")
def test_doorbells_land_on_bar4_when_the_windows_take_bar2() -> None:
    config = checked("ctrl_bar = -1\ndb_bar = -1").config

    assert config is not None
    assert (config.bars.ctrl, config.bars.db) == (0, 4)


@pytest.mark.covers("NTB 14")
@pytest.mark.parametrize("num_mws", [0, 5])
def test_number_of_windows_is_1_to_4(num_mws: int) -> None:
    assert keys_of(checked(f"num_mws = {num_mws}"))[0] == "ntb.num_mws"


def test_control_block_sizes_are_those_of_the_register_tables() -> None:
    assert {name: block.size for name, block in LAYOUTS.items()} == CONTROL_BLOCK_BYTES


@pytest.mark.parametrize("needed", range(3, 8))
def test_layout_runs_exactly_when_there_are_enough_inbound_windows(needed: int) -> None:
    text = shipped("r-car-s4").replace("inbound_windows = 16 ", f"inbound_windows = {needed} ")
    result = check_text(f'bridge.profile = "p.toml"\n[ntb]{FOUR_WINDOWS}{FOUR_QUEUES}', "x", lambda _: text)

    # two BARs, four windows
    assert keys_of(result) == ([] if needed >= 6 else ["ntb.num_mws"])


def test_region_limit_bounds_a_window() -> None:
    text = shipped("r-car-s4").replace("region_limit = 0xFFFFFFFF", "region_limit = 0x7FFFF")
    result = check_text('bridge.profile = "p.toml"', "x", lambda _: text)

    assert keys_of(result) == ["ntb.mw1"]
    assert "crosses a multiple of the region limit 0x80000" in result.violations[0].rule


PAGE = 0x1000


@given(
    windows=st.lists(
        st.tuples(st.integers(0, 40), st.integers(1, 20), st.sampled_from([0, 0, 0, 0x800])),
        min_size=1,
        max_size=4,
    ),
    inbound=st.sampled_from(["map", "submap"]),
    slack=st.sampled_from([0, 0, 0, 4]),
)
def test_layouts_in_one_bar_are_accepted_exactly_when_pages_are_used_once(
    windows: list[tuple[int, int, int]], inbound: str, slack: int
) -> None:
    """A second witness of alignment and overlap, which counts pages instead of comparing spans."""
    lines = [f'inbound = "{inbound}"', f"num_mws = {len(windows)}", 'mw2_target = "none"']
    used: list[int] = []
    is_aligned = not slack
    for number, (page, pages, cut) in enumerate(windows, 1):
        size = pages * PAGE + slack
        lines += [f"mw{number} = {size}", f"mw{number}_offset = {page * PAGE + cut}", f"mw{number}_bar = 2"]
        used += range(page, page + pages)
        is_aligned = is_aligned and not cut
    small = "[transport]\ntransport_mtu = 1306\n[netdev]\nmtu = 1280\ntx_stop = 1\n"

    result = checked("\n".join(lines), more=small)

    assert (result.config is not None) == (is_aligned and len(set(used)) == len(used))


@given(data=st.data(), profile=st.sampled_from(SHIPPED), wild=st.booleans())
def test_whatever_the_keys_say_the_answer_is_a_layout_or_violations(
    data: st.DataObject, profile: str, wild: bool
) -> None:
    """``wild`` values break rules of single keys too, which leaves out what depends on them."""

    def number(low: int, high: int) -> int:
        return data.draw(st.integers(low - wild, high + wild))

    sizes = [0, 0x100, 0x8000, 0x10000, 0x40000, 0x100000]
    wild_sizes = [*sizes, 2, 0xF0004, 0x40000000, 0x40000004, 0xFFFFFFFF, 0x100000000]
    size = st.sampled_from(wild_sizes if wild else sizes)
    lines = [
        f"num_mws = {number(1, 4)}",
        f'inbound = "{data.draw(st.sampled_from(["map", "submap", "bar"]))}"',
        f'mw2_target = "{data.draw(st.sampled_from(["none", "edma", "msi"]))}"',
        f'ctrl_layout = "{data.draw(st.sampled_from(["rfc1", "classic"]))}"',
        f"ctrl_bar = {number(-1, 5)}",
        f"db_bar = {number(-1, 5)}",
        f"db_count = {number(4, 32)}",
        f"spad_count = {number(6, 16)}",
        *(["foo = 1"] if wild and data.draw(st.booleans()) else []),
    ]
    for n in range(1, 5):
        lines += [f"mw{n}_bar = {number(-1, 5)}", f"mw{n} = {data.draw(size)}"]
        lines.append(f"mw{n}_offset = {data.draw(size)}")
    more = f"[transport]\nmax_num_clients = {number(0, 8)}\n[netdev]\nmtu = 1280\nqueues = {number(1, 4)}\n"

    result = checked("\n".join(lines), profile, more)

    assert (result.config is None) == bool(result.violations)
    if result.config is not None:
        for window in result.config.windows:
            assert window.offset + window.size <= result.config.bar_sizes[window.bar]
