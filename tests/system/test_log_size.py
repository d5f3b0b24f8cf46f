"""Logs of any size are read in the same memory, which the kernel measures of a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.live.bridge import child_environment

pytestmark = [pytest.mark.system, pytest.mark.slow]

LIMIT_KIB = 40 * 1024
GROWTH_KIB = 3 * 1024
"""A larger log may take so much more: allocators round, and counts have more digits."""
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


def most_kib(*words: str) -> int:
    """Most memory that a program held, KiB."""
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, env=child_environment()) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss


@pytest.mark.parametrize("command", ["summary", "check", "timeline", "show"])
def test_memory_stays_within_its_limit_and_does_not_grow_with_the_log(tmp_path: Path, command: str) -> None:
    write_logs(tmp_path / "short", 2_000)
    write_logs(tmp_path / "long", 60_000)
    logs = (sys.executable, "-m", "ntbnet.app.entry", "logs", command)

    interpreter = most_kib(sys.executable, "-c", "pass")
    short, long = (most_kib(*logs, str(tmp_path / name)) for name in ("short", "long"))

    assert long - interpreter <= LIMIT_KIB
    assert long - short <= GROWTH_KIB
