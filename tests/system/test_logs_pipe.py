"""``ntbnet logs show`` between two pipes, as a real process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.system

ROOT = Path(__file__).resolve().parents[2]
LOGS = [sys.executable, "-c", "from ntbnet.app.logs_cli import app; app()"]


def line(mono_ns: int) -> str:
    wall = f"2025-01-31T12:00:00.{mono_ns:06}Z"
    common = f'"level":"info","wall":"{wall}","mono_ns":{mono_ns},"run_id":"r1","service":"epc"'
    return f'{{"event":"mw.cleared",{common},"widx":0}}\n'


def test_line_from_a_pipe_is_shown_before_the_pipe_ends() -> None:
    command = [*LOGS, "show", "-"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(line(1))
        process.stdin.flush()

        assert "mw.cleared" in process.stdout.readline()
        process.stdin.close()
        assert process.wait(30) == 0


def test_reader_that_goes_away_ends_show_quietly(tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl"
    path.write_text("".join(line(number) for number in range(5000)))
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        command = [*LOGS, "show", "--json", str(path)]
        done = subprocess.run(
            command, cwd=ROOT, stdout=write_end, stderr=subprocess.PIPE, check=False, timeout=60
        )
    finally:
        os.close(write_end)

    assert (done.returncode, done.stderr) == (0, b"")
