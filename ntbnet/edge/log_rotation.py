"""Log files that are set aside when they have grown: ``epc.jsonl``, then ``epc.1.jsonl``, ``epc.2.jsonl``...

The old file is renamed under its writer, who goes on in it until it takes the new one: no line is lost on
the way. The oldest file goes; where there may be only one, that is the old one. A service gets the new one
from its supervisor, as an open descriptor, since it may not be allowed to open any.
"""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

NEW_LOG = b"L"
"""What is said to a service together with the descriptor of its new log."""
MAX_FILES = 100
_NUMBERED = re.compile(r"(.+)\.([1-9]\d?)", re.ASCII)


def set_aside(path: Path, files: int) -> None:
    """Make room for a new log file.

    Args:
        path: the log; afterwards there is none of that name.
        files: how many there may be of it from now on, the new one included, 1..MAX_FILES; the oldest go,
            those too that are left from when there might be more.

    Raises:
        OSError: a file cannot be renamed or removed.
    """
    for number in range(max(files - 1, 1), MAX_FILES):
        path.with_name(_numbered_name(path, number)).unlink(missing_ok=True)
    for number in range(files - 2, 0, -1):
        older = path.with_name(_numbered_name(path, number))
        if older.exists():
            older.rename(path.with_name(_numbered_name(path, number + 1)))
    if files > 1:
        path.rename(path.with_name(_numbered_name(path, 1)))
    else:
        path.unlink(missing_ok=True)


def _numbered_name(path: Path, number: int) -> str:
    return f"{path.stem}.{number}{path.suffix}" if number else path.name


def place_of(path: Path) -> tuple[str, int]:
    """Whose log a file is, and how many newer ones there are of it."""
    found = _NUMBERED.fullmatch(path.stem)
    return (found[1], int(found[2])) if found else (path.stem, 0)


def pass_log(lifeline: socket.socket, path: Path) -> None:
    """Give a service a new log file, made if it is not there.

    Raises:
        OSError: it cannot be opened, or the service takes nothing now.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    try:
        socket.send_fds(lifeline, [NEW_LOG], [descriptor])
    finally:
        os.close(descriptor)


def take_log(lifeline: socket.socket, log: int) -> bytes:
    """What the supervisor says; a log that comes with it takes the place of descriptor ``log``.

    Raises:
        OSError: there is nothing to be read.
    """
    data, descriptors, _, _ = socket.recv_fds(lifeline, 64, 1)
    for descriptor in descriptors:
        os.dup2(descriptor, log, inheritable=False)
        os.close(descriptor)
    return data
