"""Several measurements of one thing, kept raw."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Samples:
    """At least one measurement, in the order they were taken.

    Raises:
        ValueError: there is none.
    """

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError("no sample was taken")

    @classmethod
    def of(cls, values: Sequence[float], digits: int = 3) -> Samples:
        """``values`` rounded to ``digits`` decimals, which is more than any of them is good for."""
        return cls(tuple(round(value, digits) for value in values))

    @property
    def low(self) -> float:
        """Least."""
        return min(self.values)

    @property
    def median(self) -> float:
        """Middle one; mean of the two in the middle when their number is even."""
        return statistics.median(self.values)

    @property
    def high(self) -> float:
        """Greatest."""
        return max(self.values)

    def as_json(self) -> dict[str, Any]:
        """Number of samples, summary and the samples."""
        return {
            "n": len(self.values),
            "min": self.low,
            "median": round(self.median, 3),
            "max": self.high,
            "samples": list(self.values),
        }


def ratios(values: Sequence[float], references: Sequence[float]) -> list[float]:
    """Each value to the reference of its own round.

    Raises:
        ValueError: there are not as many of one as of the other.
    """
    return [value / reference for value, reference in zip(values, references, strict=True)]
