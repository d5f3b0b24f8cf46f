"""Places of addresses agree with what ``ntbnet explain`` says of them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntbnet.address import Span
from ntbnet.config import Config, load_text
from ntbnet.edge.config_file import read_profile
from ntbnet.layout import layout_of
from ntbnet.layout_explain import Walk
from ntbnet.trace_places import NO_BAR, NOWHERE, Places, RegBlock, Region, register_name

PROFILES = sorted(path.stem for path in Path("ntbnet/profiles").glob("*.toml"))


@cache
def config_of(profile: str) -> Config:
    return load_text(f'[bridge]\nprofile = "{profile}"\n', "test", read_profile)


@pytest.mark.parametrize("profile", PROFILES)
@given(data=st.data())
def test_registers_have_the_names_that_explain_gives(profile: str, data: st.DataObject) -> None:
    config = config_of(profile)
    bar = data.draw(st.sampled_from(layout_of(config).bars))
    part = data.draw(st.sampled_from(bar.ranges))
    offset = part.offset + data.draw(st.integers(0, min(part.size, 0x1400) - 1))

    place = Places(config).of_bus(bar.span.base + offset)

    target = Walk(config).explain(f"BAR{bar.number}+{offset:#x}").target
    assert (place.bar, place.bar_offset) == (bar.number, offset)
    name = register_name(place.block, place.offset)
    if target is not None and "." in target:
        assert target.split(".")[1].split("+")[0] == name
    elif name and place.block is RegBlock.EDMA:
        # of a channel that this profile's engine lacks
        assert target == f"edma+{place.offset:#x}"


def test_an_address_in_no_bar_has_no_place() -> None:
    places = Places(config_of("r-car-s4"))

    assert places.of_bus(0) is NOWHERE
    assert places.of_local(0) is NOWHERE


def test_where_the_host_put_the_bars_counts() -> None:
    places = Places(config_of("r-car-s4"), {2: Span(0x7000_0000, 1 << 20)})

    assert places.of_bus(0x700F_00A0).region is Region.MW2
    assert places.of_bus(0x301F_00A0) is NOWHERE


def test_a_bar_that_moved_is_found_where_it_is_from_then_on() -> None:
    places = Places(config_of("r-car-s4"))
    assert places.of_bus(0x700F_0000) is NOWHERE

    places.in_bar(2, 0x10, 0x7000_0010)

    assert places.of_bus(0x700F_0000).region is Region.MW2


@given(bar=st.integers(0, 5), offset=st.integers(0, (1 << 32) - 1), address=st.integers(0, (1 << 64) - 1))
def test_impossible_places_of_bars_are_borne(bar: int, offset: int, address: int) -> None:
    place = Places(config_of("r-car-s4")).in_bar(bar, offset, address)

    assert (place.bar, place.bar_offset) == (bar, offset)


def test_arrays_are_named_with_their_index() -> None:
    assert register_name(RegBlock.NTB_RFC1, 0x50 + 4 * 3) == "db_data[3]"
    assert register_name(RegBlock.EDMA, 0x300 + 0x200) == "RD_CONTROL1[1]"
    assert register_name(RegBlock.EDMA, 0x4) == ""
    assert register_name(RegBlock.NONE, 0) == ""
    assert NOWHERE.bar == NO_BAR
