"""``ntbnet logs`` as a user sees it: output, filters, exit codes."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from ntbnet.app.logs import Line
from ntbnet.app.logs_cli import Level, app
from ntbnet.app.logs_text import text_of
from ntbnet.config import load_text, to_toml
from ntbnet.edge.rundir import RunDir
from ntbnet.log import LEVELS, Logger


def line(mono_ns: int, service: str = "epc", event: str = "mw.cleared", **keys: Any) -> str:
    common = {
        "event": event,
        "level": "info",
        "wall": f"2025-01-31T12:00:00.{mono_ns:06}Z",
        "mono_ns": mono_ns,
    }
    common |= {"run_id": "r1", "node": "ep", "service": service, "pid": 7, "epoch": 1}
    return json.dumps(common | keys, separators=(",", ":")) + "\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    epc = [line(1, widx=0), line(4, event="write.dropped", level="warning", cause="no BAR there")]
    rc = [line(2, "rc-host", "link.changed", up=True, link_epoch=3, reason="a b"), line(3, "rc-host")]
    (tmp_path / "epc.jsonl").write_text("".join(epc))
    (tmp_path / "rc-host.jsonl").write_text("".join(rc))
    return tmp_path


def run(*arguments: object, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, [str(one) for one in arguments], input=stdin)


def shown(result: Result) -> list[int]:
    return [json.loads(one)["mono_ns"] for one in result.stdout.splitlines()]


def test_show_prints_one_plain_line_an_event_in_order_of_time(folder: Path) -> None:
    result = run("show", folder)

    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "2025-01-31T12:00:00.000001Z epc        info    mw.cleared widx=0",
        '2025-01-31T12:00:00.000002Z rc-host    info    link.changed up=true link_epoch=3 reason="a b"',
        "2025-01-31T12:00:00.000003Z rc-host    info    mw.cleared",
        '2025-01-31T12:00:00.000004Z epc        warning write.dropped cause="no BAR there"',
    ]
    assert result.stderr == ""


def test_show_json_gives_the_original_lines(folder: Path) -> None:
    result = run("show", "--json", folder / "rc-host.jsonl")

    assert result.stdout == (folder / "rc-host.jsonl").read_text()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--service", "epc"], [1, 4]),
        (["--service", "epc", "--service", "rc-host", "--event", "mw.*"], [1, 3]),
        (["--event", "link.*", "--event", "write.*"], [2, 4]),
        (["--level", "warning"], [4]),
        (["--since", "2025-01-31T12:00:00.000003Z"], [3, 4]),
        (["--limit", "2"], [1, 2]),
        (["--limit", "0"], [1, 2, 3, 4]),
    ],
)
def test_filters_of_show(folder: Path, options: list[str], expected: list[int]) -> None:
    assert shown(run("show", "--json", *options, folder)) == expected


def test_stdin_is_merged_with_files_and_honchos_prefix_is_not_shown(folder: Path) -> None:
    text = "12:00:00 system   | epc.1 started (pid=7)\n12:00:00 epc.1 | " + line(2, "peer-ep")

    result = run("show", "--json", "-", folder / "epc.jsonl", "-", stdin=text)

    assert shown(result) == [1, 2, 4]
    assert "1 lines skipped" in result.stderr


@pytest.mark.parametrize("command", ["show", "summary", "check", "timeline"])
def test_nothing_found_or_readable_exits_1_and_says_why(tmp_path: Path, command: str) -> None:
    (tmp_path / "foreign.log").write_text("hello\n")

    for path in (tmp_path / "absent", tmp_path, tmp_path / "foreign.log"):
        result = run(command, path)
        assert result.exit_code == 1
        assert result.stderr.startswith("ntbnet logs: ")


def test_epoch_and_values_choose_lines(folder: Path) -> None:
    (folder / "other.jsonl").write_text(line(9, widx=0, epoch=2) + line(10, widx=1, epoch=2))

    assert shown(run("show", "--json", "--epoch", 2, folder)) == [9, 10]
    assert shown(run("show", "--json", "--where", "widx=0", folder)) == [1, 9]
    assert shown(run("show", "--json", "--where", "widx=0", "--epoch", 2, folder)) == [9]


def test_levels_are_coloured_when_asked_for(folder: Path) -> None:
    coloured = run("show", "--color", "always", folder).stdout

    assert "\x1b[33mwarning" in coloured
    assert "\x1b[" not in run("show", "--color", "never", folder).stdout
    assert "\x1b[" not in run("show", folder).stdout


def test_follow_shows_what_comes_until_the_files_are_gone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def looks() -> Iterator[None]:
        with (folder / "epc.jsonl").open("a") as file:
            file.write(line(20))
        yield
        for path in folder.iterdir():
            path.unlink()
        yield

    look = looks()
    monkeypatch.setattr("time.sleep", lambda _: next(look))

    result = run("show", "-f", "--json", "--service", "epc", folder)

    assert (result.exit_code, shown(result)) == (0, [1, 4, 20])


def test_filter_that_leaves_nothing_exits_1(folder: Path) -> None:
    assert run("show", "--level", "error", folder).exit_code == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["show", "--since", "soon", "."],
        ["show", "--level", "fatal", "."],
        ["show", "--limit", "-1", "."],
        ["show", "--name", "No/Name"],
        ["show", "--name", "demo", "file"],
        ["show", "--where", "epc", "."],
        ["show", "--color", "blue", "."],
        ["show", "-f", "-"],
        ["show", "-f", "one.jsonl", "other.jsonl"],
        ["check", "--since", "soon", "."],
        ["timeline", "--name", "demo", "file"],
        ["latency", "--name", "demo", "folder"],
        ["latency", "--name", "No/Name"],
        ["report", "."],
        ["summary", "--since", "soon", "."],
        ["nonsense"],
    ],
)
def test_wrong_usage_exits_2(arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2


def test_running_bridge_is_read_where_its_configuration_says(tmp_path: Path) -> None:
    bridge = RunDir(tmp_path / "run", "demo")
    bridge.create()
    elsewhere = tmp_path / "logs"
    elsewhere.mkdir()
    bridge.log_path("epc").write_text(line(1))
    (elsewhere / "epc.jsonl").write_text(line(2))
    options = ("show", "--json", "--run-dir", tmp_path / "run", "--name", "demo")

    assert shown(run(*options)) == [1]
    assert shown(run(*options, "--log-dir", elsewhere)) == [2]
    config = load_text(f'[log]\ndir = "{elsewhere}"\n', "test")
    (bridge.path / "config.toml").write_text(to_toml(config))
    assert shown(run(*options)) == [2]
    (bridge.path / "config.toml").write_text("torn = [")
    assert shown(run(*options)) == [1]
    assert shown(run("show", "--json", bridge.path)) == [1]


def test_absent_bridge_exits_1_and_names_the_way_out(tmp_path: Path) -> None:
    result = run("show", "--run-dir", tmp_path, "--name", "demo")

    assert result.exit_code == 1
    assert "is the bridge up?" in result.stderr


def test_summary_table_holds_every_service(folder: Path) -> None:
    result = run("summary", folder)

    assert result.exit_code == 0
    assert "link.changed: 1 up, 0 down" in result.stdout
    assert "1 x write.dropped: no BAR there" in result.stdout


def test_summary_json(folder: Path) -> None:
    found = json.loads(run("summary", "--json", folder).stdout)

    assert found["lines"] == 4
    assert found["last"] == "2025-01-31T12:00:00.000004Z"
    assert found["services"]["epc"]["warnings"] == 1
    assert list(found["services"]) == ["epc", "rc-host"]


def test_summary_of_one_service_leaves_the_others_out(folder: Path) -> None:
    found = json.loads(run("summary", "--json", "--service", "epc", folder).stdout)

    assert list(found["services"]) == ["epc"]


def test_control_characters_from_a_log_never_reach_the_terminal(tmp_path: Path) -> None:
    evil = "\x1b[2J\x9b\u202e\x7f\n[red]x[/red]"
    path = tmp_path / "evil.jsonl"
    path.write_text(line(1, service=evil, event="path.refused", level="warning", cause=evil, **{evil: evil}))

    for command in ("show", "summary", "check"):
        result = run(command, path)
        assert result.exit_code == (command == "check")
        assert all(" " <= char <= "~" or char in "\n─" for char in result.stdout)
    assert "[red]x[/red]" in run("summary", path).stdout


def test_pieces_of_a_line_are_styled_by_level() -> None:
    fields = json.loads(line(1, level="error", value=1))

    pieces = text_of(Line(0, b"", fields))

    assert ("error   ", "bold red") in pieces
    assert pieces[-2:] == [(" value=", "dim"), ("1", "")]


def test_level_option_knows_every_level() -> None:
    assert [one.value for one in Level] == list(LEVELS)


@pytest.mark.parametrize("command", ["show", "summary", "check", "timeline", "latency", "report"])
def test_help_has_examples(command: str) -> None:
    assert f"ntbnet logs {command}" in run(command, "--help").stdout


def test_what_the_logger_writes_is_what_show_shows() -> None:
    stream = io.StringIO()
    bound = {"run_id": "r1", "node": "rc", "service": "rc-host", "epoch": 3}
    Logger(stream, "info", bound).emit("link.restarted", reason="test")

    result = run("show", "-", stdin=stream.getvalue())

    assert result.stdout.endswith("link.restarted reason=test\n")
