"""BARs, ranges, inbound windows and suggestions of whole layouts."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntbnet.config import Config, check_text, load_text
from ntbnet.layout import Layout, assumed_spans, inbound_windows_needed, layout_of
from ntbnet.layout_suggest import suggest
from ntbnet.profile import SHIPPED, Profile, load_profile, shipped
from tests.unit.test_layout_rules import FOUR_QUEUES, FOUR_WINDOWS

DRAM = 32 << 20


def config_of(profile: str, text: str = "") -> Config:
    return load_text(text, "x", profile=profile)


def profile_of(name: str) -> Profile:
    return load_profile(shipped(name), name)


def rows(layout: Layout, bar: int) -> list[tuple[str, int, int]]:
    found = layout.bar(bar)
    assert found is not None
    return [(part.name, part.offset, part.size) for part in found.ranges]


@pytest.mark.covers("EDMA 78", "NTB 33")
def test_r_car_s4_is_the_layout_of_the_cover_letter() -> None:
    layout = layout_of(config_of("r-car-s4"))

    assert rows(layout, 2) == [("mw1", 0, 0xF0000), ("mw2", 0xF0000, 0x8000)]
    assert rows(layout, 4) == [("doorbells", 0, 64)]
    assert rows(layout, 0) == [("ctrl", 0, 336), ("spads", 336, 1024)]
    assert {bar.number: bar.size for bar in layout.bars} == {0: 0x100000, 2: 0x100000, 4: 256}


@pytest.mark.covers("EDMA 79")
def test_nothing_lies_behind_the_interrupt_window_of_the_cover_letter() -> None:
    bar = layout_of(config_of("r-car-s4")).bar(2)

    assert bar is not None
    assert [(hole.base, hole.size) for hole in bar.holes] == [(0xF8000, 0x8000)]


def test_layout_of_the_review_needs_no_offset_and_no_third_bar() -> None:
    config = config_of("r-car-s4-db-in-bar0")

    assert [(window.bar, window.offset, window.mode) for window in config.windows] == [
        (2, 0, "bar"),
        (4, 0, "bar"),
    ]
    assert (config.db_region.bar, config.db_region.offset, config.db_region.size) == (0, 336 + 1024, 64)


def test_eDMA_window_of_rk3588_takes_no_inbound_window() -> None:
    config = config_of("rk3588")

    assert config.windows[1].mode == "wired"
    assert layout_of(config).inbound_used == inbound_windows_needed(config) == 3


@pytest.mark.parametrize(
    ("profile", "text", "needed"),
    [
        ("r-car-s4", "", 4),
        ("r-car-s4-db-in-bar0", "", 3),
        ("generic", "", 4),
        ("generic", "ntb.mw2 = 0x10000", 5),
        ("r-car-s4", f"[ntb]{FOUR_WINDOWS}{FOUR_QUEUES}", 6),
    ],
    ids=["two-at-offsets", "bar-match", "submaps", "submaps-with-padding", "four"],
)
def test_inbound_windows_are_counted(profile: str, text: str, needed: int) -> None:
    config = config_of(profile, text)

    assert inbound_windows_needed(config) == layout_of(config).inbound_used == needed


@pytest.mark.covers("NTB 34")
def test_bar_of_a_small_window_has_4_kib() -> None:
    small = '[ntb]\nnum_mws = 2\nmw2 = 0x400\nmw2_bar = 3\nmw2_offset = 0\ninbound = "bar"\n'
    config = config_of("generic", small)

    assert config.bar_sizes[3] == 0x1000


@pytest.mark.parametrize("profile", SHIPPED)
def test_classic_window_fills_its_bar(profile: str) -> None:
    config = config_of(profile, 'ntb.num_mws = 1\nntb.ctrl_layout = "classic"')

    assert config.windows[0].size == config.bar_sizes[2] == 0x100000


@pytest.mark.parametrize("profile", SHIPPED)
def test_assumed_bus_addresses_are_aligned_and_apart(profile: str) -> None:
    config = config_of(profile)
    spans = list(assumed_spans(config).values())

    assert all(span.base % span.size == 0 for span in spans)
    assert all(config.profile.rc.mmio.contains(span.base, span.size) for span in spans)
    assert not any(one.overlaps(other) for one, other in itertools.combinations(spans, 2))


@pytest.mark.parametrize("profile", SHIPPED)
def test_parts_and_holes_of_each_bar_are_all_of_it_once(profile: str) -> None:
    for bar in layout_of(config_of(profile)).bars:
        spans = sorted([part.span for part in bar.ranges] + bar.holes, key=lambda span: span.base)
        assert spans[0].base == 0
        assert spans[-1].end == bar.size
        assert all(one.end == other.base for one, other in itertools.pairwise(spans))


@pytest.mark.parametrize("profile", SHIPPED)
def test_no_two_inbound_windows_of_a_layout_match_one_offset(profile: str) -> None:
    windows = layout_of(config_of(profile)).windows

    for one, other in itertools.combinations(windows, 2):
        assert one.bar != other.bar or one.limit < other.base or other.limit < one.base


# suggestions


def test_suggestion_for_the_cover_letters_sizes_is_the_cover_letters_layout() -> None:
    profile = profile_of("r-car-s4")

    found = suggest(profile, [0xF0000, 0x8000], "edma", DRAM)

    assert found.ntb == profile.ntb
    assert (found.mtu, found.notes, found.tried) == (None, (), 1)


def test_suggestion_changes_the_mode_when_the_profiles_own_cannot() -> None:
    found = suggest(profile_of("r-car-s4-db-in-bar0"), [0xF0000, 0x8000], "edma", DRAM)

    assert found.ntb is not None
    assert (found.ntb.inbound, found.ntb.mw2_bar, found.ntb.mw2_offset) == ("map", 2, 0xF0000)


def test_suggestion_rounds_up_to_the_alignment_and_says_so() -> None:
    found = suggest(profile_of("rk3588"), [0xF0000, 0x8000], "edma", DRAM)

    assert found.ntb is not None
    assert found.ntb.mw2 == 0x10000
    assert found.notes == ("rounded up to the alignment of 0x10000: mw2 from 0x8000 to 0x10000",)


def test_suggestion_uses_the_wired_window_when_it_is_long_enough() -> None:
    found = suggest(profile_of("rk3588"), [0x100000, 0x1000], "edma", DRAM)

    assert found.ntb is not None
    assert (found.ntb.inbound, found.ntb.mw2_bar) == ("bar", 4)


def test_suggestion_puts_the_window_where_the_hardware_wires_it() -> None:
    text = (
        shipped("rk3588")
        .replace("subrange_mapping = true ", "subrange_mapping = false ")
        .replace("offset = 0\n", "offset = 0x1000\n")
        .replace("mw2_bar = 4 ", "mw2_offset = 0x1000\nmw2_bar = 4 ")
    )
    board = load_profile(text, "board")

    found = suggest(board, [0x100000, 0x1000], "edma", DRAM)

    assert check_text("", "x", profile="p.toml", read_profile=lambda _: text).violations == ()
    assert found.ntb is not None
    assert (found.ntb.mw2_bar, found.ntb.mw2, found.ntb.mw2_offset) == (4, 0x1000, 0x1000)


def test_suggestion_rounds_up_every_size_but_that_of_a_wired_window() -> None:
    submaps_only = shipped("rk3588")
    for kept in (1, 3, 5):
        start = submaps_only.index("[[endpoint.bars]]", submaps_only.index("# BARs 0 to 5")) + 1
        for _ in range(kept):
            start = submaps_only.index("[[endpoint.bars]]", start) + 1
        submaps_only = submaps_only[:start] + submaps_only[start:].replace('"resizable"', '"disabled"', 1)

    found = suggest(load_profile(submaps_only, "board"), [0xF8000, 0x1000, 0x40000], "edma", DRAM)

    assert found.ntb is not None
    assert (found.ntb.inbound, found.ntb.mw1, found.ntb.mw2, found.ntb.mw2_bar) == (
        "submap",
        0x100000,
        0x1000,
        4,
    )
    assert found.notes == ("rounded up to the alignment of 0x10000: mw1 from 0xf8000 to 0x100000",)


def test_suggestion_lowers_the_mtu_of_a_small_window() -> None:
    found = suggest(profile_of("r-car-s4"), [0x8000], "none", DRAM)

    frame = (0x8000 - 4) // 6 & ~3  # six of them: five that must be free, and one that is never used
    assert found.mtu == frame - 26


@pytest.mark.parametrize(
    ("profile", "sizes", "says"),
    [
        ("r-car-s4", [0x400000, 0x400000], "outbound aperture of profile r-car-s4"),
        ("rk3588", [0x4000000], "behind the host's window of profile rk3588"),
        ("generic", [0x1000000], "(-ENOMEM)"),
        ("generic", [0x400] * 5, "5 windows: a control block describes 1 to 4"),
        ("generic", [], "0 windows"),
        ("generic", [0], "mw1 = 0: must be"),
        ("generic", [6], "a multiple of 4"),
    ],
)
def test_suggestion_says_why_there_is_no_layout(profile: str, sizes: list[int], says: str) -> None:
    found = suggest(profile_of(profile), sizes, "none", DRAM)

    assert found.ntb is None
    assert says in found.reason


@settings(deadline=None)  # the search looks at thousands of arrangements when there is none
@given(
    profile=st.sampled_from(SHIPPED),
    sizes=st.lists(st.sampled_from([0x3000, 0x8000, 0x40000, 0x100000]), min_size=1, max_size=2),
    target=st.sampled_from(["none", "edma", "msi"]),
)
def test_every_suggestion_is_a_layout(profile: str, sizes: list[int], target: str) -> None:
    found = suggest(profile_of(profile), sizes, target, DRAM)

    if found.ntb is None:
        assert found.reason
        return
    names = [f"mw{n}{part}" for n in range(1, len(sizes) + 1) for part in ("", "_offset", "_bar")]
    numbers = "".join(
        f"{name} = {getattr(found.ntb, name)}\n" for name in ("num_mws", "ctrl_bar", "db_bar", *names)
    )
    texts = f'inbound = "{found.ntb.inbound}"\nmw2_target = "{target}"\n'
    mtu = ""
    if found.mtu:
        mtu = f"[transport]\ntransport_mtu = {found.mtu + 26}\n[netdev]\nmtu = {found.mtu}\n"
    config = config_of(profile, f"[ntb]\n{numbers}{texts}{mtu}")
    assert [window.size >= size for window, size in zip(config.windows, sizes, strict=True)] == [True] * len(
        sizes
    )
