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
import os, signal, sys
parent = str(os.getpid())
child = os.fork()
if child == 0:
    os.kill(os.getpid(), signal.SIGSTOP)
    os.execv(sys.executable, [sys.executable, "-m", sys.argv[1], parent, *sys.argv[2:]])
os.waitpid(child, os.WUNTRACED)
print(child, flush=True)
sys.stdin.read()
"""
"""Starts a program, which is stopped before it begins."""
ECHO = """
import os, socket, sys
from ntbnet.app.pingpong import echo_process
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
    server.bind(("127.0.0.1", 0))
    with echo_process(server):
        print(open(f"/proc/self/task/{os.getpid()}/children").read(), flush=True)
        sys.stdin.read()
"""
"""Has an echo process, which works."""
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
        starter.kill()
    os.kill(child, signal.SIGCONT)

    until(is_gone(child), 10, f"end of {module}")
    assert complaints.read_text() == "who started this has ended\n"


def test_echo_process_whose_starter_is_killed_ends_by_itself() -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen((sys.executable, "-c", ECHO), stdin=pipe, stdout=pipe) as starter:
        assert starter.stdout is not None
        child = int(starter.stdout.readline())
        assert not is_gone(child)()
        starter.kill()

    until(is_gone(child), 10, "end of the echo process")
