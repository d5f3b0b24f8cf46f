"""What docs/profiles.md and docs/layouts.md show works as they show it."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

from ntbnet.app.cli import main
from ntbnet.app.layout_script import read_script
from ntbnet.config import load_text, warnings
from ntbnet.layout_explain import Walk
from ntbnet.profile import SHIPPED, load_profile, shipped

ROOT = Path(__file__).resolve().parent.parent
PROFILES = (ROOT / "docs" / "profiles.md").read_text(encoding="utf-8")
LAYOUTS = (ROOT / "docs" / "layouts.md").read_text(encoding="utf-8")


def block(text: str, language: str) -> str:
    (body,) = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
    return str(body)


def commands() -> list[str]:
    return [line[2:] for line in block(LAYOUTS, "console").splitlines()]


def test_example_profile_loads_and_its_layout_is_good() -> None:
    text = block(PROFILES, "toml")

    profile = load_profile(text, "docs/profiles.md")
    config = load_text('bridge.profile = "board.toml"', "x", lambda _: text)

    assert profile.name == "my-board"
    assert [window.mode for window in config.windows] == ["submap", "wired", "submap"]
    assert Walk(config).explain("BAR4+0x10A0").target == "edma.RD_INT_STATUS"
    assert [line for line in warnings(config) if "mw2_target" not in line] == []


def test_every_shipped_profile_is_described_with_its_mode() -> None:
    rows = dict(re.findall(r"^\| `([a-z0-9-]+)`[^|]*\|[^|]*\| `(\w+)` \|", PROFILES, re.MULTILINE))

    assert rows == {name: load_profile(shipped(name), name).ntb.inbound for name in SHIPPED}


def test_example_script_is_the_cover_letters_layout() -> None:
    script = read_script(block(LAYOUTS, "sh"))

    assert (script.refused, script.warnings) == ([], [])
    assert load_text(script.to_toml(), "x").windows == load_text("", "x").windows


@pytest.mark.parametrize("command", commands())
def test_command_of_the_page_succeeds(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", shlex.split(command))
    monkeypatch.chdir(ROOT)

    with pytest.raises(SystemExit) as ended:
        main()

    assert ended.value.code in {0, None}
    assert capsys.readouterr().out
