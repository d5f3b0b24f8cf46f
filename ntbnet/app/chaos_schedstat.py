"""Samples of how long processes waited for a CPU, and of what the machine's host took from it.

Source: Linux Documentation/scheduler/sched-stats.rst, /proc/<pid>/schedstat: the second number is the time
spent ready on a run queue, ns; proc(5), /proc/stat: the eighth number of a CPU is stolen time, clock ticks.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from ntbnet.app.chaos_history import WaitSample

INTERVAL_NS = 50_000_000
_NS_PER_TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_STOLEN = 8


class WaitSampler:
    """Makes a sample every 50 ms at most, or none where the kernel does not count waits.

    Args:
        proc: where the kernel shows processes.
    """

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._counts = (proc / "self/schedstat").exists()
        self._threads: dict[tuple[int, int], int] = {}
        self._stolen: dict[str, int] = {}
        self._last_ns = 0
        self.samples: list[WaitSample] = []

    def is_due(self, now_ns: int) -> bool:
        """Whether the last sample is old enough."""
        return self._counts and now_ns - self._last_ns >= INTERVAL_NS

    def sample(self, processes: Mapping[str, int]) -> None:
        """Read all counters.

        Args:
            processes: name -> id. Who was not there in the sample before has waited since its start; only the
                first sample of all is nothing but the ground of the next.
        """
        is_first = not self._last_ns
        self._last_ns = time.monotonic_ns()
        waited_ns: Counter[str] = Counter()
        threads = {}
        for name, pid in processes.items():
            for thread, total_ns in self._waits(pid):
                threads[pid, thread] = total_ns
                waited_ns[name] += max(total_ns - self._threads.get((pid, thread), 0), 0)
        self._threads = threads
        stolen, before = self._stolen_ticks(), self._stolen
        self._stolen = stolen
        if is_first:
            return
        most = max((ticks - before.get(cpu, ticks) for cpu, ticks in stolen.items()), default=0)
        self.samples.append(WaitSample(self._last_ns, dict(+waited_ns), max(most, 0) * _NS_PER_TICK))

    def _waits(self, pid: int) -> Iterator[tuple[int, int]]:
        """Threads of a process, and what each waited since its start; none when it has ended."""
        try:
            threads = list((self._proc / str(pid) / "task").iterdir())
        except (FileNotFoundError, ProcessLookupError):
            return
        for thread in threads:
            with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
                yield int(thread.name), int((thread / "schedstat").read_bytes().split()[1])

    def _stolen_ticks(self) -> dict[str, int]:
        """CPU -> its stolen time."""
        lines = [line.split() for line in (self._proc / "stat").read_text(encoding="ascii").splitlines()]
        return {
            words[0]: int(words[_STOLEN])
            for words in lines
            if words[0].startswith("cpu") and words[0] != "cpu" and len(words) > _STOLEN
        }
