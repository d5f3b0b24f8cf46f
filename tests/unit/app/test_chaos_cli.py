"""The chaos commands: lists, refusals, tables and the picture; no bridge."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from ntbnet.app import chaos_plot, chaos_report, chaos_run, chaos_scenario
from ntbnet.app.chaos_checker import check
from ntbnet.app.chaos_cli import chaos_app
from ntbnet.app.chaos_run import Done, Wanted
from ntbnet.devices.crash_points import CRASH_POINTS
from ntbnet.edge.carrier import CarrierChange
from ntbnet.edge.run_root import is_in_memory
from ntbnet.edge.shm import SHM_FOLDER
from ntbnet.errors import ConfigError, SetupError
from tests.unit.app.chaos_histories import MS, Made, scenario


def run(*words: str) -> str:
    done = CliRunner().invoke(chaos_app, words)
    if done.exception is not None:
        raise done.exception
    return done.stdout


def made() -> Done:
    history = Made().history()
    asked = scenario(recovery_max_ms=100)
    return Done(Wanted(asked, 7, "local", "x", {}, "ntbnet chaos run x"), history, check(history, asked))


def test_list_shows_scenarios_and_points() -> None:
    found = json.loads(run("list", "--json"))["scenarios"]
    points = json.loads(run("list", "--points", "--json"))["points"]

    assert [row["scenario"] for row in found] == chaos_scenario.shipped()
    assert all(row["description"] and row["fabrics"] for row in found)
    assert [row["point"] for row in points] == list(CRASH_POINTS)
    assert "rolling-kill" in run("list")
    assert "ring.flags" in run("list", "--points")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("run", "no-such"), "no scenario 'no-such'"),
        (("run", "damaged-messages", "--fabric", "local"), "--fabric local: damaged-messages allows message"),
        (("run", "kill-each", "-c", "/no/such"), "/no/such: "),
        (("run", "kill-each", "--keep", "."), "--keep .: must be an empty folder, or none yet"),
        (("sweep", "--fabric", "both"), "--fabric both: a sweep allows local and message"),
        (("sweep", "--point", "ring"), "--point ring: must be one that"),
    ],
)
def test_wrong_words_are_refused_before_anything_starts(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run(*words)

    assert message in str(caught.value)


def test_result_has_what_a_script_needs() -> None:
    result = made().as_json()

    assert {
        *("scenario", "seed", "fabric", "verdict", "faults", "recovery_ms", "tcp_ok", "delivered", "lost"),
        *("damaged", "duplicated", "misordered", "leaks", "problems", "repeat"),
    } <= result.keys()
    assert {"p50", "p99", "max", "by_service"} == result["recovery_ms"].keys()
    assert result["recovery_ms"]["by_service"]["epc"].keys() == {"p50", "p99", "max"}
    json.dumps(result)


def test_link_is_up_when_the_last_carrier_that_a_fault_cost_is_back() -> None:
    def link_up_ms(*changes: CarrierChange) -> float | None:
        done = made()
        observed = replace(done.history.observed, carriers=changes)
        told = replace(done, history=replace(done.history, observed=observed)).as_json()["events"]
        assert (told[0]["at_ns"], round(told[0]["recovery_ms"])) == (500 * MS, 151)
        found: float | None = told[0]["link_up_ms"]
        return found

    before, down = CarrierChange("rc", 400 * MS, up=True), CarrierChange("rc", 510 * MS, up=False)
    back = [CarrierChange(node, ms * MS, up=True) for node, ms in (("rc", 620), ("ep", 640))]
    later = CarrierChange("rc", 900 * MS, up=True)

    heard_late = CarrierChange("ep", 700 * MS, up=True)

    assert link_up_ms(before, down, *back, later) == 140
    assert link_up_ms(before, down, back[0], heard_late) == pytest.approx(151, abs=0.5)
    assert link_up_ms(before) is None


def test_table_tells_verdict_recovery_problems_and_how_to_repeat() -> None:
    text = StringIO()

    chaos_report.show(made(), Console(file=text, width=140))

    shown = text.getvalue()
    assert "by hand, seed 7, fabric local: failed" in shown
    assert "epc" in shown
    assert "recovery: 151 ms after fault 0 (kill of epc), allowed 100 ms" in shown
    assert shown.endswith("repeat: ntbnet chaos run x\n")


def test_picture_is_drawn(tmp_path: Path) -> None:
    path = tmp_path / "run.png"

    chaos_plot.draw(made(), path)

    assert path.read_bytes().startswith(b"\x89PNG")


def test_history_is_kept_where_asked_and_removed_otherwise(tmp_path: Path) -> None:
    with chaos_run.history_folder(tmp_path / "kept") as folder:
        (folder / "logs").mkdir()
        (folder / "logs/x").touch()
        assert is_in_memory(folder)
    with chaos_run.history_folder(None) as gone:
        assert gone.is_dir()

    assert (tmp_path / "kept/logs/x").exists()
    assert not folder.exists()
    assert not gone.exists()


def test_folder_that_a_history_is_kept_in_stays_as_it_was_made(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir(mode=0o755)
    with chaos_run.history_folder(kept) as folder:
        (folder / "config.toml").write_text(f'[log]\ndir = "{folder}/logs"\n')

    assert kept.stat().st_mode & 0o777 == 0o755
    assert (kept / "config.toml").read_text() == f'[log]\ndir = "{kept}/logs"\n'


def test_history_of_a_run_that_fails_is_kept_all_the_same(tmp_path: Path) -> None:
    def fail() -> None:
        with chaos_run.history_folder(tmp_path / "kept") as folder:
            (folder / "x").touch()
            raise ConfigError("no")

    with pytest.raises(ConfigError):
        fail()

    assert (tmp_path / "kept/x").exists()


def test_history_that_cannot_be_kept_is_one_line_and_leaves_no_memory_taken(tmp_path: Path) -> None:
    def run() -> None:
        with chaos_run.history_folder(tmp_path / "kept") as folder:
            (folder / "logs").mkdir()
            (tmp_path / "kept/logs").touch()
            used.append(folder)

    used: list[Path] = []
    with pytest.raises(SetupError, match="--keep"):
        run()
    assert not used[0].exists()


def test_history_of_a_killed_run_does_not_stay_in_memory() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    abandoned = SHM_FOLDER / f"ntbnet-chaos-{gone.pid}-x"
    in_use = SHM_FOLDER / f"ntbnet-chaos-{os.getpid()}-x"
    for folder in (abandoned, in_use):
        folder.mkdir()
    try:
        with chaos_run.history_folder(None):
            assert not abandoned.exists()
            assert in_use.exists()
    finally:
        in_use.rmdir()


def test_history_is_made_on_a_disk_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chaos_run, "HISTORY_ROOM_BYTES", 1 << 60)

    with chaos_run.history_folder(None) as folder:
        assert folder.parent == Path(tempfile.gettempdir())
