"""What runs under a bridge name: written by whoever starts it, read by every other command.

Under our own supervisor and under honcho alike, so that ``status``, ``exec``, ``ping`` and ``down``
find either kind of run.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from ntbnet.edge.process import ProcessRecord, process_record_from

MODES = ("supervisor", "honcho")


def new_run_id() -> str:
    """A name for one ``up``: 12 random hexadecimal digits."""
    return os.urandom(6).hex()


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What runs under a bridge name, and who to ask to stop it.

    Raises:
        ValueError: a field is out of range.
    """

    name: str
    run_id: str
    """One for each ``up``; 1..64 characters."""
    mode: str
    """``supervisor`` (ours restarts what dies) or ``honcho`` (services on their own)."""
    supervisor: ProcessRecord
    """The process whose end ends the bridge; under honcho the first service's."""
    started_unix_s: float
    """Wall clock, for people only."""
    config_path: str | None
    """Absolute path of the configuration file; None when the defaults run."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.run_id) <= 64:
            raise ValueError(f"run_id of {len(self.run_id)} characters, allowed 1..64")
        if self.mode not in MODES:
            raise ValueError(f"mode {self.mode!r}, allowed {MODES}")
        if not 0 <= self.started_unix_s < 1 << 40:
            raise ValueError(f"start time {self.started_unix_s}")


def run_record_from(data: object) -> RunRecord | None:
    """The record in decoded JSON; None when it is not one."""
    if not isinstance(data, dict):
        return None
    name, run_id, mode = data.get("name"), data.get("run_id"), data.get("mode")
    started, config_path = data.get("started_unix_s"), data.get("config_path")
    supervisor = process_record_from(data.get("supervisor"))
    if not isinstance(name, str) or not isinstance(run_id, str) or not isinstance(mode, str):
        return None
    if supervisor is None or not isinstance(started, int | float) or not isinstance(config_path, str | None):
        return None
    try:
        return RunRecord(name, run_id, mode, supervisor, float(started), config_path)
    except (ValueError, OverflowError):
        return None
