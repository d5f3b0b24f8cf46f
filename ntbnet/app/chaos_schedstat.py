"""Samples of how long processes waited for a CPU, what others ran, and what the machine's host took.

Source: Linux Documentation/scheduler/sched-stats.rst, /proc/<pid>/schedstat: the first number is the time
spent on a CPU, the second that spent ready on a run queue, ns; proc(5), /proc/stat: the first three numbers
of a CPU are the time spent in programs and for them (user, nice, system), the eighth is stolen time, clock
ticks.
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
_RAN = slice(1, 4)
_STOLEN = 8
_ALL = "cpu"
"""Name of the row that sums up all CPUs."""


class WaitSampler:
    """Makes a sample every 50 ms at most, or none where the kernel does not count waits.

    Args:
        proc: where the kernel shows processes.
    """

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._counts = (proc / "self/schedstat").exists()
        self._threads: dict[tuple[int, int], tuple[int, int]] = {}
        self._cpus: dict[str, tuple[int, int]] = {}
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
        longest_ns: dict[str, int] = {}
        own_ran_ns = 0
        threads = {}
        for name, pid in processes.items():
            for thread, times in self._times(pid):
                threads[pid, thread] = times
                before_ran, before_waited = self._threads.get((pid, thread), (0, 0))
                own_ran_ns += max(times[0] - before_ran, 0)
                if times[1] - before_waited > longest_ns.get(name, 0):
                    longest_ns[name] = times[1] - before_waited
        self._threads = threads
        cpus, before = self._cpu_ticks(), self._cpus
        self._cpus = cpus
        if is_first:
            return
        ran, most_stolen = 0, 0
        for cpu, (ran_ticks, stolen_ticks) in cpus.items():
            ran_before, stolen_before = before.get(cpu, (ran_ticks, stolen_ticks))
            if cpu == _ALL:
                ran = ran_ticks - ran_before
            else:
                most_stolen = max(most_stolen, stolen_ticks - stolen_before)
        others_ran_ns = ran * _NS_PER_TICK - own_ran_ns
        self.samples.append(WaitSample(self._last_ns, longest_ns, most_stolen * _NS_PER_TICK, others_ran_ns))

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

    def _cpu_ticks(self) -> dict[str, tuple[int, int]]:
        """CPU, or all of them -> what it ran, and what was stolen from it."""
        lines = [line.split() for line in (self._proc / "stat").read_text(encoding="ascii").splitlines()]
        return {
            words[0]: (sum(map(int, words[_RAN])), int(words[_STOLEN]))
            for words in lines
            if words[0].startswith(_ALL) and len(words) > _STOLEN
        }
