"""Programs that are one end of what is measured: none outlives who started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.live.bridge import until

START = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-m", sys.argv[1], str(os.getpid()), *sys.argv[2:]])
print(child.pid, flush=True)
sys.stdin.read()
"""
PROGRAMS = {
    "ntbnet.app.echo": ("0",),
    "ntbnet.app.pump": ("shm", "0", "0", "0"),
    "ntbnet.app.interrupt_pingpong": ("eventfd", "answer", "1", "0", "0"),
    "ntbnet.app.ring_rate": ("receive", "1", "0", "0", "0"),
}


def is_gone(pid: int) -> Callable[[], bool]:
    """True when there is no such process that runs."""

    def look() -> bool:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        return state == "Z"

    return look


@pytest.mark.parametrize("module", PROGRAMS)
def test_program_whose_starter_was_killed_while_it_began_ends_by_itself(module: str, tmp_path: Path) -> None:
    words = (sys.executable, "-c", START, module, *PROGRAMS[module])
    pipe, complaints = subprocess.PIPE, tmp_path / "stderr"
    with (
        complaints.open("wb") as file,
        subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=file) as starter,
    ):
        assert starter.stdout is not None
        child = int(starter.stdout.readline())
        os.kill(child, signal.SIGSTOP)  # before it could ask for anything
        starter.kill()
    os.kill(child, signal.SIGCONT)

    until(is_gone(child), 10, f"end of {module}")
    assert complaints.read_text() == "who started this has ended\n"
