"""The format file for lnav, read by the real lnav."""

from __future__ import annotations

import csv
import io
import os
import subprocess
from pathlib import Path

import pytest

from tests.unit.app.log_lines import encoded, healthy, said

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("programs")]

ROOT = Path(__file__).resolve().parents[2]
FORMAT = ROOT / "deploy" / "lnav" / "ntbnet.json"
QUERY = "SELECT log_time, log_level, service, epoch, log_body FROM ntbnet_log"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    done = lnav(home, "-i", str(FORMAT))
    assert done.returncode == 0, done.stderr
    return home


def lnav(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HOME": str(home), "XDG_CONFIG_HOME": str(home), "TERM": "dumb", "TZ": "UTC"}
    return subprocess.run(
        ["lnav", *words], env=environment, capture_output=True, text=True, check=False, timeout=60,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


def test_lnav_accepts_the_format(home: Path) -> None:
    done = lnav(home, "-C")

    assert (done.returncode, "error" in done.stderr) == (0, False), done.stderr


def test_every_line_is_an_event_with_level_and_time(home: Path, tmp_path: Path) -> None:
    story = [*healthy(), said(12_020, "edma", "service.failed", reason="gone")]
    (tmp_path / "bridge.jsonl").write_bytes(encoded(story))

    done = lnav(home, "-n", "-c", f";{QUERY}", "-c", ":write-csv-to -", str(tmp_path / "bridge.jsonl"))

    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["log_body"] for row in rows] == [line["event"] for line in story]
    assert [row["log_level"] for row in rows] == [line["level"] for line in story]
    assert [int(row["epoch"]) for row in rows] == [line["epoch"] for line in story]
    assert rows[0]["log_time"].startswith("2025-01-31 12:00:00.000")
    assert rows[-1]["service"] == "edma"


def test_line_is_shown_with_its_own_keys_and_without_the_common_ones(home: Path, tmp_path: Path) -> None:
    (tmp_path / "epc.jsonl").write_bytes(encoded(healthy()[3:4]))

    done = lnav(home, "-n", str(tmp_path / "epc.jsonl"))

    assert done.stdout.splitlines() == [
        "2025-01-31T12:00:00.021 epc        info    link.changed",
        "  up: true",
        "  link_epoch: 1",
        "  reason: session agreed",
    ]


def test_files_of_one_bridge_are_merged_by_time(home: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(encoded([said(ms, "epc", "mw.cleared", widx=0) for ms in (1, 3)]))
    (tmp_path / "b.jsonl").write_bytes(encoded([said(2, "edma", "service.started", incarnation=1)]))

    done = lnav(home, "-n", "-c", f";{QUERY}", "-c", ":write-csv-to -", *map(str, tmp_path.glob("*.jsonl")))

    assert [row["service"] for row in csv.DictReader(io.StringIO(done.stdout))] == ["epc", "edma", "epc"]
