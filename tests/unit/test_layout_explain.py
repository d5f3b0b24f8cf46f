"""The walk of one address: its target, or the rule that missed."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntbnet.address import Span
from ntbnet.config import Config, load_text
from ntbnet.errors import ConfigError
from ntbnet.layout import InboundWindow, layout_of
from ntbnet.layout_explain import Explanation, Walk, parse_address
from ntbnet.profile import SHIPPED
from tests.unit.test_layout_rules import FOUR_QUEUES, FOUR_WINDOWS

FOUR = f"[ntb]{FOUR_WINDOWS}{FOUR_QUEUES}"


def config_of(profile: str = "r-car-s4", text: str = "") -> Config:
    return load_text(text, "x", profile=profile)


def explain(address: str, profile: str = "r-car-s4", text: str = "", size: int = 1) -> Explanation:
    return Walk(config_of(profile, text)).explain(address, size)


@pytest.mark.covers("EDMA 78")
@pytest.mark.parametrize(
    ("profile", "address", "target"),
    [
        ("r-car-s4", "BAR2+0xF00A0", "edma.RD_INT_STATUS"),
        ("r-car-s4", "0x301F00A0", "edma.RD_INT_STATUS"),
        ("r-car-s4", "bar2+0xf00ac", "edma.RD_INT_CLEAR"),
        ("r-car-s4", "BAR2+0xF00A1", "edma.RD_INT_STATUS+1"),
        ("r-car-s4", "BAR2", "mw1+0x0"),
        ("r-car-s4", "BAR2+4660", "mw1+0x1234"),
        ("r-car-s4", "BAR2+0xEFFFF", "mw1+0xeffff"),
        ("r-car-s4", "BAR0", "ctrl.command"),
        ("r-car-s4", "BAR0+0x5C", "ctrl.db_data[3]"),
        ("r-car-s4", "BAR0+0x158", "spad bank A[2]"),
        ("r-car-s4", "BAR0+0x358", "spad bank B[2]"),
        ("r-car-s4", "BAR4+0x14", "doorbell slot 5"),
        ("r-car-s4", "BAR0+0x550", "unused memory of BAR0+0x550"),
        ("r-car-s4-db-in-bar0", "BAR4+0xA0", "edma.RD_INT_STATUS"),
        ("r-car-s4-db-in-bar0", "BAR0+0x564", "doorbell slot 5"),
        ("generic", "BAR2+0xE0040", "msi+0x40"),
        ("generic", "BAR1+0x14", "doorbell slot 5"),
        ("rk3588", "BAR4+0xA0", "edma.RD_INT_STATUS"),
    ],
)
def test_address_reaches_its_target(profile: str, address: str, target: str) -> None:
    assert explain(address, profile).target == target


def test_steps_name_stage_address_and_rule() -> None:
    explanation = explain("BAR2+0xF00A0")

    assert [step.stage for step in explanation.steps] == ["bar", "iatu", "mw", "target"]
    bar, iatu, mw, target = explanation.steps
    assert bar.rule == "bus address 0x00000000301f00a0: the host would assign [0x30100000, 0x30200000)"
    assert iatu.rule == "inbound window 2: address match, offsets 0xf0000 to 0xf7fff (mw2)"
    assert mw.address == "mw2+0xa0"
    assert target.address == "0x00000000e65d50a0"


def test_wired_window_is_reached_without_an_inbound_window() -> None:
    steps = explain("BAR4+0xA0", "rk3588").steps

    assert steps[1].rule == "wired: the hardware connects BAR4 [0x0, 0x1fff], no inbound window"
    assert steps[-1].address == "0x0000000a403800a0"


@pytest.mark.covers("EDMA 26", "EDMA 79")
@pytest.mark.parametrize(
    ("profile", "address", "size", "stage", "says"),
    [
        ("r-car-s4", "BAR2+0xF8000", 1, "iatu", "window 2 (mw2) is 0xf0000 to 0xf7fff"),
        ("r-car-s4", "BAR2+0xEFFFE", 4, "iatu", "4 bytes leave window 3 (mw1), whose last offset is 0xeffff"),
        ("r-car-s4", "BAR2+0x100000", 1, "bar", "BAR2 has 0x100000 bytes"),
        ("r-car-s4", "BAR1+0", 1, "bar", "BAR1 (upper) is not in use"),
        ("r-car-s4", "BAR5", 1, "bar", "BAR5 (reserved) is not in use"),
        ("r-car-s4", "0x2FFFFFFF", 1, "bar", "no BAR claims it"),
        ("r-car-s4", "0x301FFFFE", 4, "bar", "4 bytes leave BAR2"),
        ("r-car-s4", "BAR2+0xF1200", 1, "target", "not in the edma registers [0xe65d5000, 0xe65d6200)"),
        ("r-car-s4", "BAR0+0x14E", 4, "target", "4 bytes leave ctrl"),
        ("r-car-s4-db-in-bar0", "BAR2+0xF0000", 1, "iatu", "window 2 (mw1) is 0x0 to 0xeffff"),
        ("generic", "BAR2+0xE1000", 1, "target", "not in the msi registers"),
        ("rk3588", "BAR4+0x2000", 1, "iatu", "is 0x0 to 0x1fff"),
    ],
)
def test_miss_names_the_stage_and_the_rule(
    profile: str, address: str, size: int, stage: str, says: str
) -> None:
    explanation = explain(address, profile, size=size)

    assert explanation.target is None
    last = explanation.steps[-1]
    assert last.stage == stage
    assert last.rule.startswith("misses: ")
    assert says in last.rule


@pytest.mark.parametrize(
    "text",
    [
        "",
        "BAR6+0",
        "BAR2+",
        "BAR2-1",
        "BAR2+0xg",
        "-1",
        "0x",
        "mw1+0",
        "0x10000000000000000",
        "BAR2 +1",
        "1e3",
    ],
)
def test_address_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="must be a bus address"):
        parse_address(text)


# a running bridge


def running(windows: list[InboundWindow], base: int = 0x30100000) -> Walk:
    return Walk(config_of(), {2: Span(base, 0x100000)}, windows)


@pytest.mark.covers("EDMA 32")
def test_address_match_is_stale_after_the_host_moved_the_bar() -> None:
    window = InboundWindow(2, "map", 2, 0x30100000, 0x301EFFFF, "mw1", 0x49000000)

    moved = running([window], base=0x31000000).explain("BAR2+0x1234")
    still = running([window]).explain("BAR2+0x1234")

    assert moved.target is None
    assert "stale: it matches bus addresses 0x30100000 to 0x301effff" in moved.steps[-1].rule
    assert still.target == "mw1+0x1234"
    assert still.steps[-1].address == "0x0000000049001234"


@pytest.mark.covers("EDMA 32")
def test_bar_match_follows_the_bar() -> None:
    window = InboundWindow(2, "bar", 2, 0, 0xEFFFF, "mw1", 0x49000000)

    assert running([window], base=0x31000000).explain("BAR2+0x1234").target == "mw1+0x1234"


@pytest.mark.covers("EDMA 27")
def test_lowest_index_of_two_matching_windows_decides() -> None:
    first = InboundWindow(1, "map", 2, 0x30100000, 0x301EFFFF, "mw1", 0x49000000)
    second = InboundWindow(4, "map", 2, 0x30100000, 0x30100FFF, "mw1", 0x4A000000)

    steps = running([second, first]).explain("BAR2+0x10").steps

    assert steps[1].rule.startswith("inbound window 1:")


def test_bar_that_the_host_gave_no_address_misses() -> None:
    assert "assigned BAR0 no address" in running([]).explain("BAR0").steps[-1].rule


def test_bar_without_a_programmed_window_misses() -> None:
    assert "none is programmed in this BAR" in running([]).explain("BAR2").steps[-1].rule


# every address


@pytest.mark.parametrize("profile", SHIPPED)
@given(data=st.data())
def test_every_address_of_a_layout_is_mapped_or_said_to_miss(profile: str, data: st.DataObject) -> None:
    config = config_of(profile)
    layout = layout_of(config)
    bar = data.draw(st.sampled_from(layout.bars))
    offset = data.draw(st.integers(0, bar.size - 1))

    by_offset = Walk(config).explain(f"BAR{bar.number}+{offset}")
    by_bus = Walk(config).explain(f"{bar.span.base + offset:#x}")

    assert by_offset.target == by_bus.target
    matching = [
        window
        for window in layout.windows
        if window.bar == bar.number and window.base <= offset <= window.limit
    ]
    assert len(matching) <= 1
    if by_offset.target is None:
        assert by_offset.steps[-1].rule.startswith("misses: ")
    else:
        assert matching


def test_each_window_of_four_in_one_bar_is_reached_at_its_own_offsets() -> None:
    walk = Walk(config_of(text=FOUR))
    starts = [0, 0x40000, 0x80000, 0xC0000]

    assert [walk.explain(f"BAR2+{start:#x}").target for start in starts] == [
        f"mw{n}+0x0" for n in range(1, 5)
    ]
    ends = [walk.explain(f"BAR2+{start + 0x3FFFF:#x}").target for start in starts]
    assert ends == [f"mw{n}+0x3ffff" for n in range(1, 5)]
    assert all(one != other for one, other in itertools.pairwise(ends))
