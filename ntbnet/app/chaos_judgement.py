"""What the checker of chaos runs says of one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ntbnet.app.chaos_history import FaultRecord, RuleCount
from ntbnet.app.chaos_waits import WaitTotals

RULES = "rules"
"""Kind of the fault that stands for all that the fault layer injects."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """One fault, and when packets crossed again both ways.

    Attributes:
        fault: what was done.
        took_ns: from the fault (of a flap: from the link's coming up) to the delivery that ended the last
            outage; None when none did.
    """

    fault: FaultRecord
    took_ns: int | None


@dataclass(slots=True)
class Judgement:
    """What the checker says of a run."""

    verdict: str = "ok"
    """``ok``, ``failed`` or ``unknown``."""
    problems: list[str] = field(default_factory=list)
    recoveries: list[Recovery] = field(default_factory=list)
    sent: int = 0
    delivered: int = 0
    lost: int = 0
    damaged: int = 0
    duplicated: int = 0
    misordered: int = 0
    leaks: int = 0
    tcp_ok: bool | None = None
    tcp_bytes: int = 0
    injected: int = 0
    rules: tuple[RuleCount, ...] = ()
    waits: WaitTotals | None = None
    allowed_for_waits: int = 0
    """Times that were within their limit only because of what processes waited for a CPU."""

    def as_json(self) -> dict[str, Any]:
        """The checker's part of what ``chaos run --json`` prints."""
        return {
            "verdict": self.verdict,
            "faults": len([one for one in self.recoveries if one.fault.kind != RULES]),
            "injected": self.injected,
            "injected_by_rule": [
                {
                    "kind": rule.kind,
                    "injected": rule.injected,
                    "interrupts_again": rule.again,
                    "interrupts_handled": rule.handled,
                }
                for rule in self.rules
            ],
            "recovery_ms": self.recovery_ms(),
            "tcp_ok": self.tcp_ok,
            "tcp_bytes": self.tcp_bytes,
            "sent": self.sent,
            "delivered": self.delivered,
            "lost": self.lost,
            "damaged": self.damaged,
            "duplicated": self.duplicated,
            "misordered": self.misordered,
            "leaks": self.leaks,
            "cpu_wait_ms": self.waits and self.waits.as_json(),
            "allowed_for_cpu_wait": self.allowed_for_waits,
            "problems": self.problems,
        }

    def recovery_ms(self) -> dict[str, Any]:
        """Median, 99th percentile and most of the recoveries, and the same by service."""
        by_service: dict[str, list[float]] = {}
        every = []
        for one in self.recoveries:
            if one.took_ns is None or one.fault.kind == RULES:
                continue
            every.append(one.took_ns / 1e6)
            for service in one.fault.services:
                by_service.setdefault(service, []).append(one.took_ns / 1e6)
        return {
            **_quantiles(every),
            "by_service": {name: _quantiles(values) for name, values in sorted(by_service.items())},
        }


def _quantiles(values: Sequence[float]) -> dict[str, float | None]:
    """Nearest rank; None without values."""
    ordered = sorted(values)

    def rank(share: float) -> float | None:
        return round(ordered[max(math.ceil(share * len(ordered)), 1) - 1], 1) if ordered else None

    return {"p50": rank(0.5), "p99": rank(0.99), "max": rank(1)}
