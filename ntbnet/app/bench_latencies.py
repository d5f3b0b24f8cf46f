"""Latencies as sockperf sums them up, and the ones that were published."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from typing import Any

QUANTILES = {
    "p25_us": 0.25,
    "p50_us": 0.50,
    "p75_us": 0.75,
    "p90_us": 0.90,
    "p99_us": 0.99,
    "p999_us": 0.999,
    "p9999_us": 0.9999,
    "p99999_us": 0.99999,
}
"""The eight percentiles of a sockperf report."""

PUBLISHED: tuple[dict[str, Any], ...] = (
    {
        "backend": "doorbell",
        "avg_us": 5995.680,
        "stddev_us": 70.258,
        "min_us": 5883.362,
        "p25_us": 5935.021,
        "p50_us": 5993.040,
        "p75_us": 6054.418,
        "p90_us": 6099.178,
        "p99_us": 6121.137,
        "p999_us": 6121.137,
        "p9999_us": 6121.137,
        "p99999_us": 6121.137,
        "max_us": 6121.137,
        "samples": 45,
        "dropped": 0,
        "duplicated": 0,
        "out_of_order": 0,
    },
    {
        "backend": "dw-edma-testirq",
        "avg_us": 127.677,
        "stddev_us": 21.719,
        "min_us": 113.637,
        "p25_us": 119.037,
        "p50_us": 121.137,
        "p75_us": 124.497,
        "p90_us": 149.277,
        "p99_us": 221.515,
        "p999_us": 291.234,
        "p9999_us": 446.691,
        "p99999_us": 446.691,
        "max_us": 446.691,
        "samples": 2145,
        "dropped": 0,
        "duplicated": 0,
        "out_of_order": 0,
    },
)
"""Both sockperf reports of the cover letter (RFC PATCH 00/25, 2025-10-23), two R-Car S4 boards, RC to EP."""


class Latencies:
    """At least one latency; each is half a round trip.

    Args:
        values_us: microseconds, in any order.

    Raises:
        ValueError: there is none.
    """

    def __init__(self, values_us: Iterable[float]) -> None:
        self.ordered_us = tuple(sorted(values_us))
        if not self.ordered_us:
            raise ValueError("no latency was measured")

    @property
    def average_us(self) -> float:
        """Mean."""
        return math.fsum(self.ordered_us) / len(self.ordered_us)

    def percentile(self, share: float) -> float:
        """The latency that ``share`` (0..1) of all do not exceed: one that was measured, none in between.

        Source: sockperf's own rule, observation number round(share * n), counted from 1.
        """
        return self.ordered_us[max(int(share * len(self.ordered_us) + 0.5), 1) - 1]

    def figures(self) -> dict[str, float | int]:
        """Every figure of a sockperf report by its key in ``--json``."""
        ordered = self.ordered_us
        percentiles = {key: self.percentile(share) for key, share in QUANTILES.items()}
        figures = {
            "avg_us": self.average_us,
            "stddev_us": statistics.stdev(ordered) if len(ordered) > 1 else 0.0,
            "min_us": ordered[0],
            **percentiles,
            "max_us": ordered[-1],
        }
        return {**{key: round(value, 3) for key, value in figures.items()}, "samples": len(ordered)}
