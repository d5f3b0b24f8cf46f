"""Removing what a bridge has on the machine: processes, nodes, DRAM, run folder."""

from __future__ import annotations

import os
import signal

from ntbnet.config import Config
from ntbnet.edge.process import ProcessRecord, alive, send_signal, wait_until_ended
from ntbnet.edge.rundir import RunDir
from ntbnet.edge.side import remove_side


def remove_leftovers(run: RunDir, config: Config, *, keep_folder: bool = False) -> list[str]:
    """Kill what still runs under the run folder, then remove nodes, DRAM and the folder itself.

    Args:
        run: locked by the caller, unless nobody else can want it.
        config: says what the nodes are called.
        keep_folder: only empty the folder: the caller goes on under its lock.

    Returns:
        What was found and removed, in words.
    """
    found = []
    for name, record in run.processes().items():
        if alive(record) and record.pid != os.getpid():
            found.append(f"process {name} ({record.pid})")
            kill(record)
    for node in ("rc", "ep"):
        found += [f"{part} of {node}" for part in remove_side(config, run, node)]
    if keep_folder:
        run.empty()
    elif run.exists():
        run.remove()
        found.append("run folder")
    return found


def remove_but_records(run: RunDir, config: Config, *, of_this_run: bool) -> None:
    """The same after a failure, without what a run has recorded that was killed or failed.

    The folder stays when there is such a record, for ``trace blackbox --last``.

    Args:
        run: as above.
        config: as above.
        of_this_run: keep what this run recorded, and not the one before it.
    """
    if not of_this_run:
        run.forget_trace()
    remove_leftovers(run, config, keep_folder=True)
    if not run.last_trace_folder.is_dir():
        run.remove()


def kill(record: ProcessRecord, timeout_s: float = 5.0) -> None:
    """SIGKILL a process that may be no child of ours, and wait until it is gone."""
    if send_signal(record, signal.SIGKILL):
        wait_until_ended(record, timeout_s)
