"""The shipped profile's numbers, typed again by hand, and what a wrong profile is told."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ntbnet.address import Span
from ntbnet.errors import ConfigError
from ntbnet.profile import SHIPPED, Profile, load_profile, shipped

FOLDER = Path(__file__).resolve().parents[2] / "ntbnet" / "profiles"


@pytest.fixture
def board() -> Profile:
    return load_profile(shipped("r-car-s4"), "r-car-s4")


def refusal(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_profile(text, "p")
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("p: ")
    return message.removeprefix("p: ")


def changed(old: str, new: str) -> str:
    """The shipped profile with the first line that begins with ``old`` replaced."""
    text, count = re.subn(rf"(?m)^{re.escape(old)}.*$", lambda _: new, shipped("r-car-s4"), count=1)
    assert count == 1
    return text


def test_list_of_shipped_profiles_is_the_folder() -> None:
    assert sorted(SHIPPED) == sorted(file.stem for file in FOLDER.glob("*.toml"))


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_profile_loads_under_its_own_name(name: str) -> None:
    assert load_profile(shipped(name), name).name == name


@pytest.mark.parametrize("name", SHIPPED)
def test_every_value_of_a_shipped_profile_has_a_source(name: str) -> None:
    text = shipped(name)
    body, _, _ = text[text.index("[kernel]") :].partition("[[endpoint.bars]]")
    body += text[text.index("[rc]") :]
    bare = [line for line in body.splitlines() if "=" in line and not re.search(r"# .{8,}", line)]

    assert bare == []


def test_r_car_s4_has_the_published_address_map(board: Profile) -> None:
    regions = board.regions(32 << 20, 16 << 20)

    assert regions["endpoint"]["aperture"] == Span(0xFE000000, 4 << 20)
    assert regions["endpoint"]["edma"] == Span(0xE65D5000, 0x1200)
    assert regions["endpoint"]["dram"] == Span(0x48000000, 16 << 20)
    assert regions["rc"]["mmio"] == Span(0x30000000, 256 << 20)
    assert regions["rc"]["dram"] == Span(0x80000000, 32 << 20)
    assert regions["rc"]["msi_target"] == Span(0xF1050040, 4)


def test_r_car_s4_has_the_published_controller(board: Profile) -> None:
    endpoint = board.endpoint

    assert (board.kernel.hz, board.kernel.poll_ms) == (250, 5)
    assert (endpoint.align, endpoint.page_bytes) == (4096, 4096)
    assert (endpoint.inbound_windows, endpoint.outbound_windows) == (16, 16)
    assert (endpoint.edma_write_channels, endpoint.edma_read_channels) == (8, 8)
    assert (endpoint.msi_vectors, endpoint.msix, board.rc.msi_vectors) == (16, False, 32)


def test_r_car_s4_has_two_wide_resizable_bars_and_a_fixed_one(board: Profile) -> None:
    bars = board.endpoint.bars

    assert [bar.kind for bar in bars] == ["resizable", "upper", "resizable", "upper", "fixed", "reserved"]
    assert [bar.bits64 for bar in bars] == [True, False, True, False, False, False]
    assert [bar.fixed_size for bar in bars] == [0, 0, 0, 0, 256, 0]
    assert [n for n, bar in enumerate(bars) if bar.is_usable] == [0, 2, 4]


@pytest.mark.parametrize("name", ["", "no-such", "../config", "r-car-s4.toml", "r-car-s4/", "a\nb"])
def test_only_shipped_names_are_looked_up(name: str) -> None:
    with pytest.raises(
        ConfigError, match=r"^no profile .*: must be one of r-car-s4, .*rk3588, or the path of a .toml file$"
    ):
        shipped(name)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("hz =", "hz = 99", "kernel.hz = 99: must be an integer 100..1000 ticks per second"),
        ("hz =", "", "kernel.hz is missing"),
        ("hz =", "hz = 250\ntick = 1", "kernel.tick = 1: unknown key"),
        ("align =", "align = 4095", "a power of two"),
        ("align =", "align = true", "endpoint.align = true: must be an integer"),
        ("msix =", "msix = 0", "endpoint.msix = 0: must be true or false"),
        ("inbound_windows =", "inbound_windows = 2", "must be an integer 3..256 windows"),
        ("aperture_base =", "aperture_base = 0xFE000800", "must be a multiple of 0x1000"),
        ("aperture_base =", "aperture_base = 0xE65D5000", "endpoint.aperture"),
        ("aperture_base =", "aperture_base = 0xFFFFFFFFFFFFF000", "64-bit"),
        ("edma_bytes =", "edma_bytes = 0x1100", "must be at least 0x1200 for 8 . 8 channels"),
        ("edma_write_channels =", "edma_write_channels = 9", "must be an integer 1..8 channels"),
        ("edma_lines =", "edma_lines = 0", "must be an integer 1..16 lines"),
        ("edma_lines =", "edma_lines = 17", "must be an integer 1..16 lines"),
        ("edma_test_line =", 'edma_test_line = "any"', 'must be "first" or "turn"'),
        ("mmio_bytes =", "mmio_bytes = 0xE0000000", "must end below 4 GiB"),
        ("mmio_base =", "mmio_base = 0x7FF00000", "rc.dram .* and rc.mmio .*: must not overlap"),
        ("msi_target =", "msi_target = 0xF1050042", "= 0xf1050042: must be .*, a multiple of 4"),
        ("msi_target =", "msi_target = 0x80000000", "rc.dram .* and rc.msi_target .*: must not overlap"),
        ("msi_vectors =", "msi_vectors = 12", "a power of two"),
        ("name =", 'name = "R Car"', "name = 'R Car': must be small letters"),
        ("description =", 'description = "a\\nb"', "must be one line"),
        ("fixed_size =", "", r"endpoint.bars\[4\].fixed_size is missing"),
        ("fixed_size =", "fixed_size = 255", r"endpoint.bars\[4\].fixed_size = 255: must be an integer 16.."),
        ("kind =", 'kind = "huge"', r"endpoint.bars\[0\].kind = 'huge': must be \"programmable\" or"),
        ("kind =", 'kind = "reserved"', r"endpoint.bars\[0\].bits64 = true: must be false"),
        ("bits64 = true", "bits64 = false", r"endpoint.bars\[1\].kind = 'upper': must be 'upper' exactly"),
        (
            "bits64 = true",
            "bits64 = true\nfixed_size = 256",
            r"endpoint.bars\[0\].fixed_size = 256: must be left out",
        ),
        (
            "bits64 = false",
            "bits64 = true",
            r"endpoint.bars\[1\].bits64 = true: must be false for an odd number",
        ),
    ],
)
def test_wrong_profile_is_refused_with_key_and_range(old: str, new: str, says: str) -> None:
    assert re.search(says, refusal(changed(old, new)))


def test_edma_has_no_more_lines_than_channels() -> None:
    text = shipped("rk3588").replace("edma_lines = 4 ", "edma_lines = 5 ")

    says = "endpoint.edma_lines = 5: must be 1..4, no more than there are channels"
    assert refusal(text) == says


def test_profiles_say_which_lines_the_edma_has() -> None:
    lines = {name: load_profile(shipped(name), name).endpoint for name in SHIPPED}

    assert {name: (one.edma_lines, one.edma_test_line) for name, one in lines.items()} == {
        "r-car-s4": (1, "first"),
        "r-car-s4-db-in-bar0": (1, "first"),
        "generic": (1, "first"),
        "rk3588": (4, "turn"),
    }


def test_profile_needs_six_bars() -> None:
    text = shipped("r-car-s4").replace('[[endpoint.bars]]\nkind = "reserved"\nbits64 = false\n', "")

    assert refusal(text) == "endpoint.bars has 5 entries: must be 6"


def test_bars_that_are_no_tables_are_refused() -> None:
    text = re.sub(r"\[\[endpoint.bars\]\][^\[]*", "", shipped("r-car-s4")).replace(
        "[endpoint]", "[endpoint]\nbars = [1]"
    )

    assert refusal(text) == "endpoint.bars[0] = 1: must be a table"


def test_region_beyond_64_bits_is_refused() -> None:
    text = changed("dram_base = 0x48000000", "dram_base = 0x7FFFFFFFFFFFF000").replace("0x7FFF", "0xFFFF")

    assert "64-bit" in refusal(text)
