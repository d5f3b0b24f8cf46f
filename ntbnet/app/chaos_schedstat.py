"""Samples of how long processes waited for a CPU and ran, and of what the machine's host took from it.

Source: Linux Documentation/scheduler/sched-stats.rst, /proc/<pid>/schedstat: the first number is the time
spent on a CPU, the second that spent ready on a run queue, ns; proc(5), /proc/stat: the eighth number of a
CPU is stolen time, clock ticks.
"""

from __future__ import annotations

import os
import time
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
        self._threads: dict[tuple[int, int], tuple[int, int]] = {}
        self._stolen: dict[str, int] = {}
        self._last_ns = 0
        self.samples: list[WaitSample] = []

    def is_due(self, now_ns: int) -> bool:
        """Whether the last sample is old enough."""
        return self._counts and now_ns - self._last_ns >= INTERVAL_NS

    def sample(self, processes: Mapping[str, int]) -> None:
        """Read all counters.

        Args:
            processes: name -> id. Who was not there in the sample before has waited and run since its start;
                only the first sample of all is nothing but the ground of the next.
        """
        is_first = not self._last_ns
        self._last_ns = time.monotonic_ns()
        longest: dict[str, tuple[int, int]] = {}
        all_ran_ns = 0
        threads = {}
        for name, pid in processes.items():
            for thread, times in self._times(pid):
                threads[pid, thread] = times
                before_ran, before_waited = self._threads.get((pid, thread), (0, 0))
                ran_ns, waited_ns = max(times[0] - before_ran, 0), max(times[1] - before_waited, 0)
                all_ran_ns += ran_ns
                if waited_ns > longest.get(name, (0, 0))[0]:
                    longest[name] = waited_ns, ran_ns
        self._threads = threads
        stolen, before = self._stolen_ticks(), self._stolen
        self._stolen = stolen
        if is_first:
            return
        most = max((ticks - before.get(cpu, ticks) for cpu, ticks in stolen.items()), default=0)
        self.samples.append(
            WaitSample(
                self._last_ns,
                {name: waited_ns for name, (waited_ns, _) in longest.items()},
                max(most, 0) * _NS_PER_TICK,
                {name: ran_ns for name, (_, ran_ns) in longest.items()},
                all_ran_ns,
            )
        )

    def _times(self, pid: int) -> Iterator[tuple[int, tuple[int, int]]]:
        """Threads of a process, and what each ran and waited since its start; none when it has ended."""
        try:
            threads = list((self._proc / str(pid) / "task").iterdir())
        except (FileNotFoundError, ProcessLookupError):
            return
        for thread in threads:
            with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
                ran, waited, *_ = (thread / "schedstat").read_bytes().split()
                yield int(thread.name), (int(ran), int(waited))

    def _stolen_ticks(self) -> dict[str, int]:
        """CPU -> its stolen time."""
        lines = [line.split() for line in (self._proc / "stat").read_text(encoding="ascii").splitlines()]
        return {
            words[0]: int(words[_STOLEN])
            for words in lines
            if words[0].startswith("cpu") and words[0] != "cpu" and len(words) > _STOLEN
        }
