"""A process that can be told from a later one with the same id.

Linux reuses process ids; the pair (id, start time) is unique until the machine restarts.
Source: proc(5), /proc/<pid>/stat, fields 3 (state) and 22 (starttime).
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path

_DEAD_STATES = ("Z", "X", "x")


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """One process, for all time.

    Raises:
        ValueError: a number is out of range.
    """

    pid: int
    """1..2^22, Linux's own limit."""
    start_ticks: int
    """Clock ticks between the machine's start and the process's."""

    def __post_init__(self) -> None:
        if not 1 <= self.pid <= 1 << 22:
            raise ValueError(f"no process id: {self.pid}")
        if not 0 <= self.start_ticks < 1 << 64:
            raise ValueError(f"no start time: {self.start_ticks}")


def record_of(pid: int) -> ProcessRecord | None:
    """The process that has this id now; None when none has, or only its zombie is left."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    if fields[0].decode() in _DEAD_STATES:
        return None
    return ProcessRecord(pid, int(fields[19]))


def own_record() -> ProcessRecord:
    """This process."""
    record = record_of(os.getpid())
    assert record is not None, "/proc does not show this process"
    return record


def alive(record: ProcessRecord) -> bool:
    """True while that very process runs; a zombie, or another one with its id, does not count."""
    return record_of(record.pid) == record


def send_signal(record: ProcessRecord, number: signal.Signals) -> bool:
    """Signal that very process; False when it has ended.  Never reaches one that took over its id.

    Raises:
        PermissionError: the process belongs to somebody else.
    """
    try:
        pidfd = os.pidfd_open(record.pid)
    except ProcessLookupError:
        return False
    try:
        if not alive(record):
            return False
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(pidfd)
    return True


def process_record_from(data: object) -> ProcessRecord | None:
    """The record in decoded JSON; None when it is not one."""
    if not isinstance(data, dict):
        return None
    pid, start_ticks = data.get("pid"), data.get("start_ticks")
    if type(pid) is not int or type(start_ticks) is not int:
        return None
    try:
        return ProcessRecord(pid, start_ticks)
    except ValueError:
        return None
