"""The kernel how-to's commands: what configfs takes, what it refuses, and the way there and back."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntbnet.app.layout_script import MAX_LINES, Configfs, read_script, write_script
from ntbnet.config import check_text, load_text
from ntbnet.profile import SHIPPED

COVER_LETTER = """\
echo 0xF0000 > ./mw1
echo 0x8000  > ./mw2
echo 0xF0000 > ./mw2_offset
echo 2       > ./mw1_bar
echo 2       > ./mw2_bar
"""
BEFORE = "echo 16 > ./db_count\necho 128 > ./spad_count\necho 2 > ./num_mws\n"
HOW_TO = """\
Creating the endpoint function:

# mount -t configfs none /sys/kernel/config
# cd /sys/kernel/config/pci_ep/
# mkdir functions/pci_epf_vntb/func1
# echo 0x1957 > functions/pci_epf_vntb/func1/vendorid
# echo 0x0809 > functions/pci_epf_vntb/func1/deviceid
# echo 4 > functions/pci_epf_vntb/func1/pci_epf_vntb.0/db_count
# echo 128 > functions/pci_epf_vntb/func1/pci_epf_vntb.0/spad_count
# echo 1 > functions/pci_epf_vntb/func1/pci_epf_vntb.0/num_mws
# echo 0x100000 > functions/pci_epf_vntb/func1/pci_epf_vntb.0/mw1
# echo 0x1957 > functions/pci_epf_vntb/func1/pci_epf_vntb.0/vntb_vid
# echo 0x080A > functions/pci_epf_vntb/func1/pci_epf_vntb.0/vntb_pid
# echo 0x10 > functions/pci_epf_vntb/func1/pci_epf_vntb.0/vbus_number
# ln -s controllers/5f010000.pcie_ep functions/pci_epf_vntb/func1/primary
# echo 1 > controllers/5f010000.pcie_ep/start
"""


def stored(*writes: tuple[str, str]) -> tuple[Configfs, list[str | None]]:
    state = Configfs()
    return state, [state.store(name, value) for name, value in writes]


def test_cover_letters_lines_give_exactly_its_layout() -> None:
    script = read_script(BEFORE + COVER_LETTER)

    assert script.refused == []
    config = load_text(script.state.to_toml({}), "imported")
    default = load_text("", "defaults")
    assert (config.bars, config.windows, config.db_region) == (
        default.bars,
        default.windows,
        default.db_region,
    )
    assert config.bar_sizes == default.bar_sizes


@pytest.mark.covers("NTB 15", "NTB 23")
def test_cover_letters_bare_lines_are_refused_because_num_mws_is_zero() -> None:
    refused = read_script(COVER_LETTER).refused

    assert [(one.line, one.attribute) for one in refused] == [(1, "mw1"), (2, "mw2"), (3, "mw2_offset")]
    assert str(refused[0]) == "line 1: mw1 = 0xF0000: -EINVAL: num_mws is 0; write num_mws first"


@pytest.mark.covers("NTB 13", "NTB 22")
def test_defaults_are_configfs_own() -> None:
    values = Configfs().values

    assert (values["spad_count"], values["db_count"], values["num_mws"], values["vbus_number"]) == (
        0,
        0,
        0,
        255,
    )
    assert (values["vntb_vid"], values["vntb_pid"], values["vendor_id"]) == (0, 0, 0xFFFF)
    assert {values[name] for name in values if name.endswith("_bar")} == {-1}
    assert values["mw1_offset"] == 0


@pytest.mark.covers("NTB 14")
def test_five_windows_are_refused_and_four_taken() -> None:
    state, errors = stored(("num_mws", "4"), ("num_mws", "5"))

    assert errors == [None, "-EINVAL: num_mws is at most 4"]
    assert state.values["num_mws"] == 4


@pytest.mark.covers("NTB 16")
@pytest.mark.parametrize("text", ["0x100000", "1048576", "04000000", "0X100000", "+1048576"])
def test_number_may_be_in_any_base(text: str) -> None:
    state, errors = stored(("num_mws", "1"), ("mw1", text))

    assert errors == [None, None]
    assert state.values["mw1"] == 1048576


@pytest.mark.covers("NTB 17", "NTB 18", "NTB 19")
@pytest.mark.parametrize(("text", "value"), [("0x1957", 6487), ("0x11957", 6487), ("0xFFFFFFFF", 0xFFFF)])
def test_ids_of_the_virtual_bus_are_cut_to_16_bits(text: str, value: int) -> None:
    state, errors = stored(("vntb_vid", text))

    assert errors == [None]
    assert state.values["vntb_vid"] == value


@pytest.mark.covers("NTB 19")
def test_id_on_the_link_is_not_cut_but_refused() -> None:
    state, errors = stored(("vendorid", "0x1957"), ("vendorid", "0x11957"))

    assert errors == [None, "-ERANGE: more than 16 bits"]
    assert state.values["vendor_id"] == 0x1957


@pytest.mark.covers("NTB 20", "NTB 21", "HAZARD 10.20")
@pytest.mark.parametrize("db_count", [0, 33])
def test_doorbell_count_is_taken_by_configfs_and_refused_at_bind(db_count: int) -> None:
    script = read_script(BEFORE.replace("16", str(db_count)) + COVER_LETTER)

    assert script.refused == []
    violations = check_text(script.state.to_toml({}), "imported").violations
    assert [violation.key for violation in violations] == ["ntb.db_count"]


@pytest.mark.covers("NTB 22")
@pytest.mark.parametrize(("text", "is_taken"), [("-1", True), ("5", True), ("6", False), ("-2", False)])
def test_bar_number_is_minus_1_to_5(text: str, is_taken: bool) -> None:
    for name in ("ctrl_bar", "db_bar", "mw1_bar", "mw4_bar"):
        _, errors = stored((name, text))
        assert (errors == [None]) == is_taken


@pytest.mark.covers("NTB 24")
@pytest.mark.parametrize("text", ["", "a", "1.0", "0x", "08", "1 2", "$COUNT", "0b1"])
def test_what_is_no_number_is_refused_and_leaves_the_old_value(text: str) -> None:
    state, errors = stored(("db_count", "4"), ("db_count", text))

    assert errors[1] is not None
    assert errors[1].startswith("-EINVAL")
    assert state.values["db_count"] == 4


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        ("db_count", "0x100000000", "-ERANGE"),
        ("mw1", "0x10000000000000000", "-ERANGE"),
        ("mw1", "-4", "-EINVAL"),
    ],
)
def test_number_too_wide_for_its_attribute_is_refused(name: str, text: str, error: str) -> None:
    _, errors = stored(("num_mws", "1"), (name, text))

    assert errors[1] is not None
    assert errors[1].startswith(error)


def test_unknown_attribute_is_refused_and_known_ones_without_effect_are_passed_over() -> None:
    _, errors = stored(("mw5", "1"), ("mw1_size", "1"), ("msi_interrupts", "16"), ("interrupt_pin", "1"))

    assert errors == ["-ENOENT: no such attribute", "-ENOENT: no such attribute", None, None]


def test_how_to_is_read_as_it_stands_prompts_included() -> None:
    script = read_script(HOW_TO)

    assert [str(one) for one in script.refused] == [
        "line 1: Creating the endpoint function:: not understood: echo VALUE > attribute"
    ]
    table = tomllib.loads(script.state.to_toml({"profile": "generic"}))
    assert table["ntb"]["mw1"] == 0x100000
    assert table["ntb"]["vendor_id"] == 0x1957
    assert table["ntb"]["vntb_pid"] == 0x080A
    config = load_text(script.state.to_toml({"profile": "generic"}), "imported")
    assert (config.bars.ctrl, config.bars.db, config.bars.mws) == (0, 1, (2,))


@pytest.mark.parametrize(
    "line",
    [
        "echo 4 > ./db_count",
        "echo 4>db_count",
        "  echo -n 4 > pci_epf_vntb.0/db_count  # four",
        "echo '4' > ./db_count",
        'echo "4" >> ./db_count',
        "$ echo 4 > functions/pci_epf_vntb/func1/pci_epf_vntb.0/db_count",
        "cd func1; echo 4 > ./db_count && cd ..",
        "echo 4 | tee ./db_count",
        "echo 4 | sudo tee -a ./db_count > /dev/null",
        "echo 4 | sudo tee ./db_count >/dev/null 2>&1",
        'sudo sh -c "echo 4 > db_count"',
        "sudo -E bash -ec 'cd func1 && echo 4 > db_count'",
        """sudo sh -c "echo '4' | tee db_count" """,
        '$ sudo sh -c "echo 4 > db_count # four"',
        "# echo 4 | sudo tee ./db_count",
        '# sudo sh -c "echo 4 > db_count"',
        "sudo mkdir func1 2>/dev/null; sudo echo 4 > ./db_count",
        'echo 4 > "$FUNC/db_count"',
    ],
)
def test_echo_is_read_however_it_is_written(line: str) -> None:
    script = read_script(line)

    assert script.refused == []
    assert script.state.values["db_count"] == 4


def test_commented_line_of_a_script_does_nothing() -> None:
    script = read_script("#!/bin/sh\necho 4 > db_count\n# echo 8 > db_count\n\nmkdir x\n")

    assert (script.refused, script.state.values["db_count"]) == ([], 4)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("sudo cat count > db_count", "what cat writes would be lost"),
        ("cat <<EOF > db_count", "what cat writes would be lost"),
        ('ip netns exec x sh -c "echo 4 > db_count"', "what ip writes would be lost"),
        ("ls | sudo tee db_count", "what ls writes would be lost"),
        ("cd func1 || echo 4 > db_count", "what cd writes would be lost"),
        ("> db_count", "not understood"),
        ("echo 4 > a > db_count", "not understood"),
        ("echo 4 | cat > db_count", "not understood"),
        ("echo 4 | sudo tee", "not understood"),
        ("echo 4 > db_count || echo 5 > db_count", "not understood"),
        ("echo 4 > db_count &", "not understood"),
        ("sudo dd of=db_count", "not understood"),
        ("sudo sh -c 'printf 4 > db_count'", "not understood"),
        ("sudo sh setup.sh", "not understood: sh -c"),
        ("sudo sh -c '", "a quote is not closed"),
        ("# printf 4 > db_count", "not understood"),
    ],
)
def test_write_that_is_not_read_is_refused_with_its_line_and_reason(line: str, says: str) -> None:
    (refused,) = read_script(f"# echo 8 > spad_count\n{line}\n" if line[0] == "#" else f"\n{line}\n").refused

    assert refused.line == 2
    assert says in refused.error


@pytest.mark.parametrize(
    "line", ["lspci | grep Renesas", "sudo modprobe x 2>&1", "ls || true", "sudo rm -r a"]
)
def test_command_that_writes_nothing_is_passed_over(line: str) -> None:
    script = read_script(f"{line}\necho 4 > db_count\n")

    assert (script.refused, script.state.values["db_count"]) == ([], 4)


def test_comment_that_looks_like_a_write_is_warned_about() -> None:
    script = read_script("# echo 16 > db_count\necho 1 > num_mws  # echo 2 > num_mws\n# one window\n")

    assert script.refused == []
    assert script.warnings == [
        "line 1 is a comment: echo 16 > db_count",
        "line 2 is a comment: echo 2 > num_mws",
    ]


def test_prompts_are_known_where_bare_lines_write_nothing() -> None:
    script = read_script("cd func1\n# echo 16 > db_count\n")

    assert (script.refused, script.warnings, script.state.values["db_count"]) == ([], [], 16)
    bare = read_script('sudo sh -c "echo 4 > db_count"\n# echo 16 > db_count\n')
    assert (len(bare.warnings), bare.state.values["db_count"]) == (1, 4)


def test_script_of_more_lines_than_are_read_is_refused_as_a_whole() -> None:
    lines = ["echo 4 > db_count"] + ["cd .."] * (MAX_LINES - 1)

    assert read_script("\n".join(lines)).refused == []
    assert [str(one) for one in read_script("\n".join([*lines, "echo 8 > db_count"])).refused] == [
        "line 10001: a script has at most 10000 lines"
    ]


@pytest.mark.parametrize("text", ["", "rm -rf /", "# nothing", "echo 1 > start"])
def test_script_without_a_write_is_refused(text: str) -> None:
    assert [str(one) for one in read_script(text).refused] == ["no attribute is written"]


@pytest.mark.parametrize(
    ("comment", "says"),
    [
        ('# ntbnet: inbound = "mapp"', 'inbound = "mapp": must be "map" or "submap" or "bar"'),
        ("# ntbnet: profile = 7", "profile = 7: must be a profile's name"),
        ("# ntbnet: profile =", "profile = '': must be a profile's name"),
        ("#ntbnet: num_mws = 2", "num_mws = 2: no such setting: must be one of profile"),
    ],
)
def test_setting_that_is_not_taken_is_refused(comment: str, says: str) -> None:
    (refused,) = read_script(f"echo 4 > db_count\n{comment}\n").refused

    assert str(refused).startswith(f"line 2: {says}")


def test_line_that_is_not_understood_is_named() -> None:
    refused = read_script("echo 4 > db_count\nprintf 5 > db_count\n").refused

    assert [(one.line, one.attribute) for one in refused] == [(2, "printf 5 > db_count")]


@pytest.mark.parametrize("profile", SHIPPED)
def test_exported_lines_read_back_give_the_same_layout(profile: str) -> None:
    config = load_text("", "x", profile=profile)

    script = read_script(write_script(config))
    again = load_text(script.to_toml(), "imported")

    assert script.refused == []
    assert again.ntb == config.ntb


def test_export_of_the_cover_letters_layout_holds_its_five_lines() -> None:
    lines = write_script(load_text("", "x")).splitlines()

    for line in COVER_LETTER.splitlines():
        assert " ".join(line.split()) in lines
    assert lines.index("echo 2 > ./num_mws") < lines.index("echo 0xF0000 > ./mw1")


@given(st.text(max_size=200))
def test_any_text_is_read_without_an_exception(text: str) -> None:
    script = read_script(text)

    assert tomllib.loads(script.to_toml())["bridge"]["profile"] == "r-car-s4"


@given(
    st.lists(
        st.tuples(
            st.sampled_from(sorted({*Configfs().values, "vendorid", "deviceid", "mw9", "start"})),
            st.integers(-(1 << 65), 1 << 65).map(str) | st.text(max_size=8),
        ),
        max_size=12,
    )
)
def test_whatever_is_written_the_state_is_a_configuration_that_can_be_judged(
    writes: list[tuple[str, str]],
) -> None:
    state, _ = stored(*writes)

    result = check_text(state.to_toml({}), "imported")

    assert (result.config is None) == bool(result.violations)
