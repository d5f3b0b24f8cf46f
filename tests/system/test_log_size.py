"""Logs of any size are read in the same memory, which the kernel measures of a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ntbnet.edge.trace_ring import TraceRing
from ntbnet.trace_records import Kind, Level, frame_flow
from tests.live.bridge import child_environment

pytestmark = [pytest.mark.system, pytest.mark.slow]

LIMIT_KIB = 40 * 1024
GROWTH_KIB = 3 * 1024
"""A longer log may take so much more, 8 bytes for each of its lines: allocators round."""
SHORT, LONG = 4_000, 400_000
"""Lines; records."""
SERVICES = ("rc-host", "epc", "edma", "peer-rc", "peer-ep")
LINE = (
    '{{"event":"write.dropped","level":"warning","wall":"2025-01-31T12:{minute:02}:{second:02}.{us:06}Z",'
    '"mono_ns":{mono_ns},"run_id":"5f0c9a","node":"rc","service":"{service}","pid":4242,"epoch":3,'
    '"cause":"no BAR there {cause}","addr":"0x0000000012345678","size_bytes":8}}\n'
)


def write_logs(folder: Path, lines: int) -> None:
    """That many lines, a thousand a second, in turn by service."""
    folder.mkdir()
    for number, service in enumerate(SERVICES):
        with (folder / f"{service}.jsonl").open("w") as file:
            for ms in range(number, lines, len(SERVICES)):
                file.write(
                    LINE.format(
                        minute=ms // 60_000 % 60,
                        second=ms // 1000 % 60,
                        us=ms % 1000 * 1000,
                        mono_ns=ms * 1_000_000 + 1,
                        service=service,
                        cause=ms,
                    )
                )


MEASURE = """
import os, sys
child = os.fork()
if child == 0:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.execvp(sys.argv[1], sys.argv[1:])
_, status, usage = os.wait4(child, 0)
print(usage.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""
"""A program that starts another one: the most that a process held counts what it was forked with, a test
worker's hundreds of MiB, say."""


def most_kib(*words: str) -> int:
    """Most memory that a program held, KiB."""
    command = (sys.executable, "-S", "-c", MEASURE, *words)
    done = subprocess.run(command, capture_output=True, text=True, env=child_environment(), check=True)
    return int(done.stdout)


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of a short log and of a long one."""
    folder = tmp_path_factory.mktemp("logs")
    write_logs(folder / "short", SHORT)
    write_logs(folder / "long", LONG)
    return folder / "short", folder / "long"


@pytest.mark.parametrize("command", ["summary", "check", "timeline", "show"])
def test_memory_stays_within_its_limit_and_does_not_grow_with_the_log(
    logs: tuple[Path, Path], command: str
) -> None:
    words = (sys.executable, "-m", "ntbnet.app.entry", "logs", command)

    interpreter = most_kib(sys.executable, "-c", "pass")
    short, long = (most_kib(*words, str(folder)) for folder in logs)

    assert long - interpreter <= LIMIT_KIB
    assert long - short <= GROWTH_KIB


def test_memory_of_a_report_does_not_grow_with_the_log(logs: tuple[Path, Path], tmp_path: Path) -> None:
    """What its pictures take is matplotlib's."""
    words = (sys.executable, "-m", "ntbnet.app.entry", "logs", "report", "-o", str(tmp_path / "report.html"))

    short, long = (most_kib(*words, str(folder)) for folder in logs)

    assert long - short <= GROWTH_KIB


def write_rings(folder: Path, records: int) -> None:
    """Packets of one flow each, from a ring to the other, so many records together."""
    folder.mkdir()
    sender, receiver = (
        TraceRing(folder, label, 1, Level.FULL, records // 2, "run") for label in ("peer-rc", "peer-ep")
    )
    for number in range(records // 2):
        flow, at = frame_flow(0, 0, 1, number), 1 + number * 1000
        sender.note(Kind.TUN_READ, epoch=1, flow=flow, length=64, mono_ns=at)
        receiver.note(Kind.TUN_WRITE, epoch=1, flow=flow, length=64, mono_ns=at + number % 999)


def test_memory_of_latencies_does_not_grow_with_the_trace(tmp_path: Path) -> None:
    write_rings(tmp_path / "short", SHORT)
    write_rings(tmp_path / "long", LONG)
    words = (sys.executable, "-m", "ntbnet.app.entry", "logs", "latency")

    interpreter = most_kib(sys.executable, "-c", "pass")
    short, long = (most_kib(*words, str(tmp_path / name)) for name in ("short", "long"))

    assert long - interpreter <= LIMIT_KIB
    assert long - short <= GROWTH_KIB
