"""Counters that outlive the processes that count: totals over all incarnations of a service.

A service counts from zero each time it starts, and a transport queue each time its link comes up. What
Prometheus wants is one count that never goes down, so what a generation had reached is where the next one
begins. What was counted between the last look at a process and its end is lost. A count that begins anew
within a process is told by its going down.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ntbnet.app.metrics_families import COUNTER, FAMILY_OF
from ntbnet.app.metrics_readings import Reading

MAX_SERIES = 256
"""Label sets of one metric; more are left out and counted."""

Key = tuple[str, tuple[str, ...]]


@dataclass(slots=True)
class _Total:
    total: float
    last: float
    generation: object


class Totals:
    """Everything that was read so far: totals of counters, and the last gauges of each source."""

    def __init__(self) -> None:
        self._totals: dict[Key, _Total] = {}
        self._gauges: dict[str, dict[Key, float]] = {}
        self._series: Counter[str] = Counter()
        self.left_out = 0
        """Readings of counters that were not taken, for want of room."""

    def take(self, source: str, readings: Iterable[Reading]) -> None:
        """Take what one source says now; its gauges of before are forgotten, its counters go on.

        Args:
            source: who says it. What a source does not say any more keeps its total.
            readings: their counters never go down within a generation, unless they begin anew at zero.
        """
        gauges: dict[Key, float] = {}
        for reading in readings:
            key = (reading.family, reading.labels)
            if FAMILY_OF[reading.family].kind == COUNTER:
                self._count(key, reading)
            elif len(gauges) < MAX_SERIES:
                gauges[key] = reading.value
        self._gauges[source] = gauges

    def _count(self, key: Key, reading: Reading) -> None:
        known = self._totals.get(key)
        if known is None:
            if self._series[reading.family] >= MAX_SERIES:
                self.left_out += 1
                return
            self._series[reading.family] += 1
            self._totals[key] = _Total(reading.value, reading.value, reading.generation)
            return
        begun_anew = reading.generation != known.generation or reading.value < known.last
        known.total += reading.value if begun_anew else reading.value - known.last
        known.last, known.generation = reading.value, reading.generation

    def series(self) -> Iterator[tuple[str, tuple[str, ...], float]]:
        """Every (family, label values, value), totals for counters."""
        for (family, labels), known in self._totals.items():
            yield family, labels, known.total
        for gauges in self._gauges.values():
            for (family, labels), value in gauges.items():
                yield family, labels, value
