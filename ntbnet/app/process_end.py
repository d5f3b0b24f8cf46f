"""A program of ours that is one end of what is measured, and ends with whoever started it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO

from ntbnet.app.forks import child_environment
from ntbnet.edge.process import die_with_parent
from ntbnet.errors import SetupError


@contextmanager
def process_end(module: str, arguments: Sequence[str], fds: Sequence[int]) -> Iterator[IO[bytes]]:
    """The program runs inside the ``with`` block; it has said so.

    Args:
        module: of ntbnet, run with ``-m``; it calls ``end_with`` and writes a line once it works.
        arguments: of the module, behind the process id of this one.
        fds: descriptors that it inherits.

    Yields:
        What it writes behind that line.

    Raises:
        SetupError: it ended instead.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", module, str(os.getpid()), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        pass_fds=tuple(fds),
        env=child_environment(),
    )
    with process:
        assert process.stdout is not None
        try:
            if not process.stdout.readline():
                raise SetupError(f"{module} {arguments[0]} did not start")
            yield process.stdout
        finally:
            process.kill()


def end_with(parent: str) -> None:
    """Have this process end with the one of that id, which started it; at once when that has ended.

    Raises:
        SystemExit: it has.
    """
    die_with_parent()
    if os.getppid() != int(parent):
        sys.exit("who started this has ended")
