"""What a ping-pong over one fabric and backend, or over a reference, has given; and the ratios."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ntbnet.app.bench_backends import EDMA, POLLED
from ntbnet.app.bench_hops import breakdown
from ntbnet.app.bench_latencies import Latencies
from ntbnet.app.bench_pump import PUMPS
from ntbnet.app.bench_samples import Samples, ratios

VETH = "veth"
REFERENCES = (VETH, *PUMPS)
PUMP_OF = {"local": "pump_shm", "message": "pump_zmq"}
"""The pump that each fabric is compared with: the same medium, and nothing else."""

Combination = tuple[str, str]
"""Fabric and backend."""


@dataclass(slots=True)
class Tally:
    """What the rounds of one combination, or of one reference, have given."""

    rounds_us: list[list[float]] = field(default_factory=list)
    """Latencies of each round."""
    dropped: int = 0
    duplicated: int = 0
    out_of_order: int = 0
    pings_sent: int = 0
    pings_ms: list[float] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    messages: int = 0
    invalid: list[str] = field(default_factory=list)
    hops: list[tuple[int, ...]] = field(default_factory=list)
    incomplete: int = 0
    """Trips of which a hop is missing."""
    plain_us: list[float] = field(default_factory=list)
    """Round trips of the program that the hops are taken with, without a stopwatch."""

    @property
    def samples_us(self) -> list[float]:
        """Latencies of all rounds."""
        return [value for latencies in self.rounds_us for value in latencies]

    @property
    def p50s_us(self) -> list[float]:
        """Median of each round."""
        return [Latencies(latencies).percentile(0.5) for latencies in self.rounds_us]

    def as_json(self) -> dict[str, Any]:
        """Figures of sockperf's report, of its rounds, whether they count, and those of ping."""
        times_ms = self.pings_ms
        averages_us = [Latencies(latencies).average_us for latencies in self.rounds_us]
        return {
            **Latencies(self.samples_us).figures(),
            "valid": not self.invalid,
            "dropped": self.dropped,
            "duplicated": self.duplicated,
            "out_of_order": self.out_of_order,
            "rounds": {
                "p50_us": Samples.of(self.p50s_us).as_json(),
                "avg_us": Samples.of(averages_us).as_json(),
            },
            "ping": {
                "sent": self.pings_sent,
                "received": len(times_ms),
                "min_ms": min(times_ms, default=None),
                "avg_ms": round(statistics.mean(times_ms), 3) if times_ms else None,
                "max_ms": max(times_ms, default=None),
            },
        }


def summary(tallies: Mapping[Combination, Tally], references: Mapping[str, Tally]) -> dict[str, Any]:
    """``results``, the references, ``ratio_polled_to_edma`` and ``invalid``.

    A ratio of averages is None unless both runs count; ``fabric``, and the ratio without one, are those of
    the first fabric measured. ``ratio_to_veth`` and ``ratio_to_pump`` are of medians, and medians
    themselves: those of every round are in ``rounds``.
    """
    results = []
    for (fabric, backend), tally in tallies.items():
        row: dict[str, Any] = {"fabric": fabric, "backend": backend, **tally.as_json()}
        row |= {"messages": tally.messages, "backend_counts": tally.counts}
        for key, name in (("ratio_to_veth", VETH), ("ratio_to_pump", PUMP_OF[fabric])):
            ratio = Samples.of(ratios(tally.p50s_us, references[name].p50s_us))
            row[key] = round(ratio.median, 3)
            row["rounds"][key] = ratio.as_json()
        row["pump"] = PUMP_OF[fabric]
        round_trip_us = Latencies(tally.plain_us).percentile(0.5)
        row["hops"] = breakdown(tally.hops, tally.incomplete, (fabric, backend), round_trip_us)
        results.append(row)
    by_fabric = {fabric: _polled_to_edma(results, fabric) for fabric, _ in tallies}
    first = next(iter(by_fabric))
    return {
        "fabric": first,
        "results": results,
        **{name: tally.as_json() for name, tally in references.items()},
        "ratio_polled_to_edma": by_fabric[first],
        "ratios_polled_to_edma": by_fabric,
        "invalid": [text for tally in (*tallies.values(), *references.values()) for text in tally.invalid],
    }


def _polled_to_edma(results: Sequence[Mapping[str, Any]], fabric: str) -> float | None:
    averages = {row["backend"]: row["avg_us"] for row in results if row["fabric"] == fabric and row["valid"]}
    return round(averages[POLLED] / averages[EDMA], 3) if {POLLED, EDMA} <= averages.keys() else None
