"""``ntbnet layout`` and ``ntbnet explain`` as a user sees them: output, files, exit codes."""

from __future__ import annotations

import io
import json
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from ntbnet.app.cli import main
from ntbnet.app.layout_cli import actual_windows, running_walk
from ntbnet.app.layout_picture import bytes_text, pieces, svg, terminal
from ntbnet.config import load_text
from ntbnet.errors import SetupError
from ntbnet.layout import Layout, layout_of
from ntbnet.profile import SHIPPED, shipped
from tests.unit.app.test_layout_script import BEFORE, COVER_LETTER
from tests.unit.test_layout_rules import BROKEN

SVG = "{http://www.w3.org/2000/svg}"


@dataclass(frozen=True)
class Done:
    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)


Run = Callable[..., Done]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object, stdin: str = "") -> Done:
        monkeypatch.setattr(sys, "argv", ["ntbnet", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        code = ended.value.code
        return Done(code if isinstance(code, int) else 0, captured.out, captured.err)

    return run


# check


@pytest.mark.parametrize("profile", SHIPPED)
def test_layout_of_each_shipped_profile_is_good(run: Run, profile: str) -> None:
    done = run("layout", "check", "--profile", profile, "--json")

    assert done.code == 0
    assert done.json == {"ok": True, "profile": profile, "violations": [], "warnings": []}


@pytest.mark.parametrize(("profile", "ntb", "key", "says"), BROKEN.values(), ids=BROKEN)
def test_broken_layout_gets_its_complaint_and_exit_code_1(
    run: Run, tmp_path: Path, profile: str, ntb: str, key: str, says: str
) -> None:
    file = tmp_path / "broken.toml"
    file.write_text(f"[ntb]\n{ntb}\n", encoding="utf-8")

    done = run("layout", "check", file, "--profile", profile, "--json")

    assert done.code == 1
    assert done.json["ok"] is False
    first = done.json["violations"][0]
    assert set(first) == {"key", "value", "rule"}
    assert first["key"] == key
    assert says in first["rule"]


def test_violations_and_warnings_are_listed_for_people(run: Run) -> None:
    broken = run("layout", "check", "-", stdin="[ntb]\nmw1 = 0xF0004\nmw2_bar = 5\n")
    warned = run("layout", "check", "-", stdin="[ntb]\nmw1 = 0x70000\n")

    assert broken.code == 1
    assert broken.stdout.splitlines() == [
        "ntb.mw2_bar = 5: BAR5 of profile r-car-s4 is reserved: must be one of 0, 2, 4, or -1",
        "ntb.mw1 = 0xf0004: must be a multiple of 0x1000, the controller's alignment",
        "layout on profile r-car-s4: 2 rules are broken",
    ]
    assert warned.code == 0
    assert warned.stdout.startswith("warning: ntb.mw1 = 0x70000: a ring of 6 entries")


@pytest.mark.parametrize(
    ("arguments", "stdin", "says"),
    [
        (("check", "/nonexistent.toml"), "", "/nonexistent.toml: cannot be read"),
        (("check", "-"), "[", "stdin: not valid TOML"),
        (("check", "--profile", "no-such"), "", "no profile 'no-such'"),
        (("import", "/nonexistent.sh"), "", "/nonexistent.sh: cannot be read"),
        (("suggest", "--mw", "lots"), "", "--mw lots: must be a size"),
        (("suggest", "--mw", "1M", "--mw2-target", "ether"), "", "must be none, edma or msi"),
        (("show", "--svg", "/nonexistent/a.svg"), "", "--svg /nonexistent/a.svg: cannot be written"),
    ],
)
def test_what_cannot_be_read_or_understood_is_exit_code_2(
    run: Run, arguments: tuple[str, ...], stdin: str, says: str
) -> None:
    done = run("layout", *arguments, stdin=stdin)

    assert done.code == 2
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "stdin"),
    [
        (("layout", "check", "--profile", "no-such"), ""),
        (("layout", "check", "/nonexistent.toml"), ""),
        (("layout", "check", "-"), "["),
        (("layout", "show", "--profile", "no-such"), ""),
        (("layout", "show", "--svg", "/nonexistent/a.svg"), ""),
        (("layout", "suggest", "--mw", "lots"), ""),
        (("layout", "suggest", "--mw", "1M", "--profile", "no-such"), ""),
        (("layout", "import", "-", "--profile", "no-such"), "echo 1 > num_mws"),
        (("explain", "nowhere", "--profile", "r-car-s4"), ""),
        (("explain", "BAR2", "--profile", "no-such"), ""),
    ],
)
def test_error_is_a_json_object_too(run: Run, arguments: tuple[str, ...], stdin: str) -> None:
    done = run(*arguments, "--json", stdin=stdin)

    assert done.code == 2
    assert set(done.json) == {"ok", "error"}
    assert done.json["ok"] is False
    assert done.stderr == f"ntbnet: {done.json['error']}\n"


@pytest.mark.parametrize("command", [("layout", "show"), ("explain", "BAR2+0", "--config")])
def test_broken_layout_is_a_json_object_where_a_good_one_is_needed(
    run: Run, command: tuple[str, ...]
) -> None:
    done = run(*command, "-", "--json", stdin="[ntb]\nmw2_offset = 0xE0000\n")

    assert (done.code, done.stderr) == (1, "")
    assert (done.json["ok"], [one["key"] for one in done.json["violations"]]) == (False, ["ntb.mw2_offset"])


def test_unknown_key_is_listed_with_the_other_violations(run: Run) -> None:
    text = "[ntb]\nmw1_ofset = 4\nfoo = 1\nmw2_offset = 0xE0000\n[netdev]\nmtuu = 1500\n[zzzzzz]\n"
    done = run("layout", "check", "-", "--json", stdin=text)

    assert done.code == 1
    assert [(one["key"], one["value"], one["rule"]) for one in done.json["violations"][:3]] == [
        ("zzzzzz", "a table", "unknown key"),
        ("netdev.mtuu", 1500, "unknown key; the nearest known one is netdev.mtu"),
        ("ntb.mw1_ofset", 4, "unknown key; the nearest known one is ntb.mw1_offset"),
    ]
    assert done.json["violations"][3]["rule"].startswith("unknown key; the nearest known one is ntb.")
    assert [one["key"] for one in done.json["violations"][3:]] == ["ntb.foo", "ntb.mw2_offset"]


# import and export


def test_import_writes_toml_that_check_accepts(run: Run, tmp_path: Path) -> None:
    script = tmp_path / "vntb.sh"
    script.write_text(BEFORE + COVER_LETTER, encoding="utf-8")

    imported = run("layout", "import", script)
    checked = run("layout", "check", "-", "--json", stdin=imported.stdout)

    assert (imported.code, imported.stderr, checked.code) == (0, "", 0)
    table = tomllib.loads(imported.stdout)
    assert table["bridge"] == {"profile": "r-car-s4"}
    assert (table["ntb"]["mw2"], table["ntb"]["mw2_offset"], table["ntb"]["mw2_bar"]) == (0x8000, 0xF0000, 2)
    assert checked.json["ok"] is True


def test_import_of_the_bare_lines_names_num_mws(run: Run) -> None:
    done = run("layout", "import", "-", stdin=COVER_LETTER)
    as_json = run("layout", "import", "-", "--json", stdin=COVER_LETTER)

    assert (done.code, done.stdout) == (1, "")
    assert done.stderr.splitlines()[0] == (
        "stdin: line 1: mw1 = 0xF0000: -EINVAL: num_mws is 0; write num_mws first"
    )
    assert as_json.json["toml"] is None
    assert as_json.json["refused"][0] == {
        "line": 1,
        "key": "mw1",
        "value": "0xF0000",
        "rule": "-EINVAL: num_mws is 0; write num_mws first",
    }


def test_export_is_read_by_import(run: Run) -> None:
    exported = run("layout", "export", "--profile", "rk3588")
    imported = run("layout", "import", "-", "--profile", "rk3588", stdin=exported.stdout)

    assert (exported.code, imported.code) == (0, 0)
    assert load_text(imported.stdout, "x").windows == load_text("", "x", profile="rk3588").windows


@pytest.mark.parametrize("profile", SHIPPED)
def test_export_of_each_profile_is_imported_and_good_without_naming_it_again(run: Run, profile: str) -> None:
    exported = run("layout", "export", "--profile", profile)
    imported = run("layout", "import", "-", stdin=exported.stdout)
    checked = run("layout", "check", "-", "--json", stdin=imported.stdout)

    assert (exported.code, imported.code, imported.stderr, checked.code) == (0, 0, "", 0)
    assert checked.json["profile"] == profile
    assert load_text(imported.stdout, "x").ntb == load_text("", "x", profile=profile).ntb


def test_import_without_a_write_is_exit_code_1_and_comments_are_warned_about(run: Run) -> None:
    done = run("layout", "import", "-", stdin="rm -rf /\n")
    mixed = "# echo 2 > num_mws\necho 0xF0000 > mw1\n"
    warned, as_json = (run("layout", "import", "-", *more, stdin=mixed) for more in ((), ("--json",)))

    assert (done.code, done.stdout, done.stderr) == (1, "", "stdin: no attribute is written\n")
    assert warned.code == as_json.code == 1
    assert warned.stderr.splitlines()[0] == "stdin: line 1 is a comment: echo 2 > num_mws"
    assert as_json.json["warnings"] == ["line 1 is a comment: echo 2 > num_mws"]


def test_broken_layout_is_not_exported_and_not_drawn(run: Run) -> None:
    for command in ("export", "show"):
        done = run("layout", command, "-", stdin="[ntb]\nmw2_offset = 0\n")
        assert (done.code, done.stdout) == (1, "")
        assert "ntb.mw2_offset = 0: " in done.stderr


# suggest


def test_suggestion_is_a_file_that_check_accepts(run: Run) -> None:
    done = run("layout", "suggest", "--profile", "r-car-s4", "--mw", "960K", "--mw", "32K")
    again = run("layout", "check", "-", stdin=done.stdout)

    assert (done.code, again.code) == (0, 0)
    assert load_text(done.stdout, "x").windows == load_text("", "x").windows


def test_suggestion_that_does_not_exist_says_why_and_is_exit_code_1(run: Run) -> None:
    done = run("layout", "suggest", "--profile", "r-car-s4", "--mw", "64MiB", "--json")

    assert done.code == 1
    assert done.json["ok"] is False
    assert done.json["layout"] is None
    assert "outbound aperture of profile r-car-s4" in done.json["reason"]


def test_suggestion_replaces_a_profiles_own_layout_that_is_broken(run: Run, tmp_path: Path) -> None:
    board = tmp_path / "board.toml"
    board.write_text(shipped("r-car-s4").replace("mw2_bar = 2 ", "mw2_bar = 5 "), encoding="utf-8")

    broken = run("layout", "check", "--profile", board)
    done = run("layout", "suggest", "--profile", board, "--mw", "960K", "--mw", "32K")
    again = run("layout", "check", "-", stdin=done.stdout)

    assert (broken.code, done.code, done.stderr, again.code) == (1, 0, "", 0)


# show


@pytest.mark.parametrize("profile", SHIPPED)
@pytest.mark.parametrize("columns", [20, 80, 200])
def test_picture_in_the_terminal_has_each_bar_and_part_and_straight_edges(profile: str, columns: int) -> None:
    layout = layout_of(load_text("", "x", profile=profile))

    lines = terminal(layout, columns).splitlines()

    for bar in layout.bars:
        start = next(n for n, line in enumerate(lines) if line.startswith(f"BAR{bar.number} "))
        box = lines[start + 1 : start + 4]
        assert len({len(line) for line in box}) == 1
        assert [line.lstrip()[0] for line in box] == ["┌", "│", "└"]
        assert box[1].count("│") == len(pieces(bar)) + 1
        for part in bar.ranges:
            assert any(part.name in line and part.what in line for line in lines)


def test_show_prints_bars_holes_and_windows_as_json(run: Run) -> None:
    shown = run("layout", "show", "--json").json

    assert shown["inbound_windows"] == {"used": 4, "available": 16}
    bar2 = shown["bars"][1]
    assert (bar2["bar"], bar2["size"], bar2["holes"]) == (2, 0x100000, [{"offset": 0xF8000, "size": 0x8000}])
    assert shown["windows"][2]["target"] == "0x00000000e65d5000"


@pytest.mark.parametrize("profile", SHIPPED)
def test_svg_is_well_formed_and_shows_each_part_inside_the_picture(
    run: Run, tmp_path: Path, profile: str
) -> None:
    file = tmp_path / "layout.svg"

    done = run("layout", "show", "--profile", profile, "--svg", file)

    assert done.code == 0
    root = ET.fromstring(file.read_text(encoding="utf-8"))
    titles = [str(title.text) for title in root.iter(f"{SVG}title")]
    layout = layout_of(load_text("", "x", profile=profile))
    for bar in layout.bars:
        for part in bar.ranges:
            assert any(title.startswith(f"{part.name}: ") for title in titles)
    width, height = int(root.attrib["width"]), int(root.attrib["height"])
    for box in root.iter(f"{SVG}rect"):
        assert 0 <= int(box.attrib["x"]) <= int(box.attrib["x"]) + int(box.attrib["width"]) <= width
        assert int(box.attrib["y"]) + int(box.attrib["height"]) <= height


def test_svg_escapes_what_a_profile_calls_itself() -> None:
    layout = layout_of(load_text("", "x"))
    hostile = Layout("<&>", layout.inbound, 1, layout.bars, layout.windows)

    assert ET.fromstring(svg(hostile)).tag == f"{SVG}svg"


@pytest.mark.parametrize(
    ("size", "text"),
    [(1, "1 B"), (1023, "1023 B"), (1024, "1 KiB"), (0xF0000, "960 KiB"), (1 << 30, "1 GiB")],
)
def test_size_for_people_is_exact(size: int, text: str) -> None:
    assert bytes_text(size) == text


# explain


def test_explain_prints_steps_and_target(run: Run) -> None:
    done = run("explain", "BAR2+0xF00A0", "--profile", "r-car-s4", "--json")

    assert done.code == 0
    assert done.json["target"] == "edma.RD_INT_STATUS"
    assert [set(step) for step in done.json["steps"]] == [{"stage", "address", "rule"}] * 4


def test_explain_names_the_rule_that_missed_and_is_exit_code_1(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text("", encoding="utf-8")

    done = run("explain", "BAR2+0xF8000", "-c", file)

    assert done.code == 1
    assert "no inbound window holds it" in done.stdout
    assert done.stdout.splitlines()[-1] == "  => nothing: writes are dropped, reads give all ones (UR)"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("nowhere", "--profile", "r-car-s4"), 2, "must be a bus address"),
        (("BAR2", "--name", "x", "--profile", "r-car-s4"), 2, "--name walks a running bridge"),
        (("BAR2", "--name", "no-such-bridge"), 1, "bridge no-such-bridge is not up"),
    ],
)
def test_explain_refuses_in_one_line(run: Run, arguments: tuple[str, ...], code: int, says: str) -> None:
    done = run("explain", *arguments)

    assert done.code == code
    assert says in done.stderr


ANSWERS: dict[str, dict[str, Any]] = {
    "rc-host": {"bars": {"0": "[0x30000000, 0x30100000)", "2": "[0x30100000, 0x30200000)"}},
    "epc": {
        "windows": [
            {"index": 0, "direction": "outbound", "mode": "map", "bar": None, "base": 0, "limit": 1},
            {"index": 2, "direction": "inbound", "mode": "map", "bar": 2, "base": "0x30100000",
             "limit": "0x301effff", "target": "0x49000000", "size": 0xF0000, "stale": False},
            {"index": 3, "direction": "inbound", "mode": "map", "bar": 2, "base": 0x301F0000,
             "limit": 0x301F7FFF, "target": 0xE65D5000, "size": 0x8000, "stale": False},
        ]
    },
}  # fmt: skip


WIRED = {"index": -1, "direction": "inbound", "mode": "wired", "bar": 4, "base": "0x0", "limit": "0x1fff",
         "target": "0xa40380000", "size": 0x2000, "stale": False}  # fmt: skip


def test_running_bridge_is_walked_by_what_it_programmed() -> None:
    config = load_text("", "x")

    assert running_walk(config, ANSWERS).explain("0x301F00A0").target == "edma.RD_INT_STATUS"
    found = actual_windows(config, ANSWERS["epc"]["windows"])
    assert [(window.index, window.what) for window in found] == [(2, "mw1"), (3, "mw2")]


def test_wired_window_of_a_running_bridge_is_walked() -> None:
    config = load_text("", "x", profile="rk3588")
    answers: dict[str, dict[str, Any]] = {
        "rc-host": {"bars": {"4": "[0xf0500000, 0xf0600000)"}},
        "epc": {"windows": [WIRED]},
    }

    assert running_walk(config, answers).explain("BAR4+0xA0").target == "edma.RD_INT_STATUS"


def test_silent_service_of_a_running_bridge_is_named() -> None:
    with pytest.raises(SetupError, match="no answer from epc"):
        running_walk(load_text("", "x"), {"rc-host": {}})
