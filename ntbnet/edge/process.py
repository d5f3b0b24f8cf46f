"""A process that can be told from a later one with the same id.

Linux reuses process ids; the pair (id, start time) is unique until the machine restarts.
Source: proc(5), /proc/<pid>/stat, fields 3 (state) and 22 (starttime).
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_DEAD_STATES = ("Z", "X", "x")
_STOPPED_STATE = "T"
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_PR_SET_PDEATHSIG = 1
"""Source: Linux uapi/linux/prctl.h."""
_libc = ctypes.CDLL(None, use_errno=True)


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


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process has used so far and holds now."""

    cpu_s: float
    """Processor time since its start, user and system, seconds; in steps of a clock tick (10 ms)."""
    resident_bytes: int
    """Resident set, mappings that it shares with others included."""
    age_s: float
    """Time since its start, suspended or not, seconds; in steps of a clock tick."""
    is_stopped: bool
    """True while SIGSTOP holds it; not one that a debugger or ``strace`` looks at."""


def usage_of(record: ProcessRecord) -> Usage | None:
    """What that very process uses; None when it has ended.

    Source: proc(5), /proc/<pid>/stat, fields 14, 15 (utime, stime), 24 (rss, pages).
    """
    try:
        fields = Path(f"/proc/{record.pid}/stat").read_bytes().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state = fields[0].decode()
    if state in _DEAD_STATES or int(fields[19]) != record.start_ticks:
        return None
    cpu_s = (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
    age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - record.start_ticks / _TICKS_PER_S
    return Usage(cpu_s, int(fields[21]) * _PAGE_BYTES, age_s, state == _STOPPED_STATE)


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


def end(records: Iterable[ProcessRecord], patience_s: float) -> None:
    """End processes that may be no children of ours: SIGTERM, then SIGKILL for those that live on.

    Args:
        records: processes; those of somebody else are left out.
        patience_s: seconds that all of them together have after SIGTERM.
    """
    living = list(records)
    for number, wait_s in ((signal.SIGTERM, patience_s), (signal.SIGKILL, patience_s)):
        living = [record for record in living if _reaches(record, number)]
        if number == signal.SIGTERM:
            # a stopped process takes SIGTERM only once it goes on
            living = [record for record in living if _reaches(record, signal.SIGCONT)]
        deadline = time.monotonic() + wait_s
        for record in living:
            wait_until_ended(record, max(deadline - time.monotonic(), 0))


def wait_until_ended(record: ProcessRecord, timeout_s: float) -> bool:
    """Wait for the end of a process that may be no child of ours; False when it lives on."""
    try:
        fd = os.pidfd_open(record.pid)
    except ProcessLookupError:
        return True
    try:
        return not alive(record) or bool(select.select([fd], [], [], timeout_s)[0])
    finally:
        os.close(fd)


def die_with_parent() -> None:
    """Have the kernel SIGKILL this process when its parent ends, even while this one is stopped.

    A parent that has ended already is not noticed: compare ``os.getppid()`` afterwards. What counts
    as the parent is the thread that forked.

    Raises:
        OSError: the kernel refused.
    """
    if _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _reaches(record: ProcessRecord, number: signal.Signals) -> bool:
    try:
        return send_signal(record, number)
    except PermissionError:
        return False


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
