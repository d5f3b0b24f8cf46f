"""What a bridge costs while it does nothing: imports, memory, processor time."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ntbnet import topology
from ntbnet.app.bench_samples import Samples
from ntbnet.app.forks import child_environment
from ntbnet.app.stop_request import check, pause
from ntbnet.edge.shm import dram_path
from ntbnet.errors import SetupError

SETTLE_S = 1.0
"""After start-up, before idle cost is taken."""

_TIMED_IMPORT = (
    "import time; start_ns = time.perf_counter_ns(); import {module}; "
    "print(time.perf_counter_ns() - start_ns)"
)


def service_pids(status: Mapping[str, Any]) -> dict[str, int]:
    """Process ids by service, from a bridge's status.

    Raises:
        SetupError: one of the five does not run.
    """
    pids = {service["name"]: service["pid"] for service in status["services"]}
    gone = [name for name, pid in pids.items() if pid is None]
    if gone:
        raise SetupError(f"{', '.join(gone)} ended while being measured")
    return pids


def import_times(runs: int) -> dict[str, Samples]:
    """Milliseconds that importing a service's module takes in a fresh interpreter, by module.

    The interpreter's own start is not in it. The runs go round the modules, so that a disturbance
    hits all of them alike; a first round, which may have to read and compile, is not counted.
    """
    modules = sorted({module[0] for module in topology.MODULES.values()})
    taken: dict[str, list[float]] = {module: [] for module in modules}
    for number in range(runs + 1):
        for module in modules:
            check()
            command = [sys.executable, "-c", _TIMED_IMPORT.format(module=module)]
            done = subprocess.run(
                command, env=child_environment(), capture_output=True, text=True, check=True
            )
            if number:
                taken[module].append(int(done.stdout) / 1e6)
    return {module: Samples.of(times, 1) for module, times in taken.items()}


def private_bytes(pid: int, *shared_files: str) -> int:
    """Unique set size of a process, without its mappings of ``shared_files``.

    The nodes' DRAM is left out by name: a page of it counts as private as long as only one
    process has touched it.

    Raises:
        SetupError: the process ended.

    Source: proc(5), /proc/<pid>/smaps, Private_Clean and Private_Dirty.
    """
    try:
        lines = Path(f"/proc/{pid}/smaps").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as problem:
        raise SetupError(f"/proc/{pid}/smaps: {problem.strerror}") from None
    kibibytes, is_counted = 0, True
    for line in lines:
        key, _, rest = line.partition(" ")
        if not key.endswith(":"):
            is_counted = not line.endswith(shared_files)
        elif is_counted and key in {"Private_Clean:", "Private_Dirty:"}:
            kibibytes += int(rest.split()[0])
    return kibibytes * 1024


def memory(bridge: str, pids: Mapping[str, int]) -> dict[str, int]:
    """Private bytes of each service, without either node's DRAM: in fabric ``local`` peers map both."""
    drams = [str(dram_path(bridge, node)) for node in sorted(set(topology.NODE_OF.values()))]
    return {name: private_bytes(pid, *drams) for name, pid in pids.items()}


def run_times_ns(pid: int) -> dict[int, int]:
    """Processor time of each living thread of ``pid``, by thread id.

    Not utime and stime: those are sampled, and a poll on the kernel's own tick falls between the
    samples or on all of them.

    Raises:
        SetupError: the process ended.

    Source: Linux Documentation/scheduler/sched-stats.rst, /proc/<pid>/schedstat, first field.
    """
    folder = Path(f"/proc/{pid}/task")
    try:
        return {
            int(task.name): int((task / "schedstat").read_text(encoding="ascii").split()[0])
            for task in folder.iterdir()
        }
    except OSError as problem:
        raise SetupError(f"{problem.filename}: {problem.strerror}") from None


def idle_cost(
    pids: Mapping[str, int], windows: int, window_s: float, wait: Callable[[float], None] = pause
) -> dict[str, Samples]:
    """Percent of one core that each service and ``total`` use, one sample for each window."""
    taken: dict[str, list[float]] = {name: [] for name in (*pids, "total")}
    wait(SETTLE_S)
    before = {name: run_times_ns(pid) for name, pid in pids.items()}
    start_ns = time.monotonic_ns()
    for _ in range(windows):
        wait(window_s)
        after = {name: run_times_ns(pid) for name, pid in pids.items()}
        end_ns = time.monotonic_ns()
        used = {
            name: sum(time_ns - before[name].get(thread, 0) for thread, time_ns in threads.items())
            for name, threads in after.items()
        }
        used["total"] = sum(used.values())
        for name, used_ns in used.items():
            taken[name].append(100 * used_ns / (end_ns - start_ns))
        before, start_ns = after, end_ns
    return {name: Samples.of(percents) for name, percents in taken.items()}
