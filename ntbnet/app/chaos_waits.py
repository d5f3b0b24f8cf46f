"""How long the processes of a run were ready and had no CPU: what a busy machine adds to a silence.

A verdict is about the bridge, not about who else ran meanwhile. So a limit of time grows by what was waited
for others within the time that is judged, and by no more than itself: a bridge that is broken fails on any
machine.

Processes that wait at the same time hold a packet up once, one after the other they do so twice. Which it was
within one sample nobody knows. Taken is the least: of each sample the longest wait of a thread, just before
it was made. Processes of the bridge wait for each other, too: so all of it is no more than what others ran,
or the machine's host took, in that time. With nobody else on the machine that is next to nothing.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from statistics import median_low
from typing import Any

from ntbnet import topology
from ntbnet.app.chaos_history import WaitSample
from ntbnet.app.chaos_scenario import SUPERVISOR
from ntbnet.app.chaos_windows import Span, merged

TRAFFIC = "traffic"
"""The program that sends and receives."""
ON_PATH = frozenset({*topology.SERVICES, TRAFFIC})
"""Whose waits hold up a packet; those of who starts services do where one is replaced."""
FORK_SERVER = "fork server"
RESTARTING = ON_PATH | {SUPERVISOR, FORK_SERVER}
OWN_PART = 5
"""What is less than one such part of the time between two samples does not count: so much two CPUs, few for
seven processes, cost them at any time."""


@dataclass(frozen=True, slots=True)
class WaitTotals:
    """Of a whole run, so that a reader sees whether the machine was busy.

    Attributes:
        longest_ns: by one thread between two samples.
        total_ns: by all processes, of each the thread that waited longest.
        stolen_ns: as in the samples, together.
        by_process: process -> its total, ns.
    """

    longest_ns: int
    total_ns: int
    stolen_ns: int
    by_process: Mapping[str, int]

    def as_json(self) -> dict[str, Any]:
        """The same in ms."""
        return {
            "max": round(self.longest_ns / 1e6, 1),
            "total": round(self.total_ns / 1e6, 1),
            "stolen": round(self.stolen_ns / 1e6, 1),
            "by_process": {name: round(waited_ns / 1e6, 1) for name, waited_ns in self.by_process.items()},
        }


class Waits:
    """The waits of one run.

    Args:
        samples: in the order of time; none where the kernel counts no waits: then nothing is allowed for.

    Attributes:
        allowed: how often ``excess`` found a limit met only because of waits.
    """

    def __init__(self, samples: Sequence[WaitSample]) -> None:
        self._samples = samples
        self._times = [sample.time_ns for sample in samples]
        from_first = pairwise([*self._times[:1], *self._times])
        self._least_ns = [(after - before) // OWN_PART for before, after in from_first]
        self.allowed = 0

    def excess(self, spans: Sequence[Span], limit_ms: int, among: frozenset[str] = ON_PATH) -> str:
        """Why the median of some times is too long for its limit and the waits in them; "" when it is not."""
        limit_ns = limit_ms * 1_000_000
        took_ns = median_low(end - start for start, end in spans)
        if took_ns <= limit_ns:
            return ""
        without_ns = median_low(
            end - start - min(self.within(start, end, among), limit_ns) for start, end in spans
        )
        if without_ns <= limit_ns:
            self.allowed += 1
            return ""
        waited_ms = (took_ns - without_ns) / 1e6
        if waited_ms <= 0:
            return f"allowed {limit_ms} ms"
        return f"of which its processes waited {waited_ms:.0f} ms for a CPU; allowed {limit_ms} ms without"

    def within(self, from_ns: int, until_ns: int, among: frozenset[str] = ON_PATH) -> int:
        """Time in which ``among`` waited for others, by the samples that enclose it, ns; 0..its length."""
        first = bisect_left(self._times, from_ns)
        last = bisect_left(self._times, until_ns)
        spans, others_ns = [], 0
        for sample, least_ns in islice(zip(self._samples, self._least_ns, strict=True), first, last + 1):
            others_ns += sample.others_ran_ns + sample.stolen_ns
            of_path = (waited_ns for name, waited_ns in sample.waited_ns.items() if name in among)
            longest_ns = max([sample.stolen_ns, *of_path])
            if longest_ns > least_ns:
                spans.append((sample.time_ns - longest_ns, sample.time_ns))
        waited_ns = sum(max(end - max(start, from_ns), 0) for start, end in merged(spans))
        return max(min(waited_ns, others_ns, until_ns - from_ns), 0)

    def totals(self) -> WaitTotals | None:
        """All of it; None where nothing was sampled."""
        if not self._samples:
            return None
        by_process: Counter[str] = Counter()
        for sample in self._samples:
            by_process.update(sample.waited_ns)
        return WaitTotals(
            max((max(sample.waited_ns.values(), default=0) for sample in self._samples), default=0),
            sum(by_process.values()),
            sum(sample.stolen_ns for sample in self._samples),
            dict(sorted(by_process.items())),
        )
