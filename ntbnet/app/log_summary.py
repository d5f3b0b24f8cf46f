"""What the logs say about each service: how often it spoke, started, lost its link, refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ntbnet.app.logs import Line
from ntbnet.log import EVENTS

LINK_EVENTS = frozenset({"link.changed", "link.status_changed", "transport.link_changed"})
REFUSALS = {
    **{name: "cause" for name, row in EVENTS.items() if row.level == "warning" and "cause" in row.keys},
    "call.refused": "reason",
}
"""Events that say something was refused -> their key that says why."""

MAX_SERVICES = 64
MAX_CAUSES = 64
MAX_RUNS_COUNTED = 1024
OTHERS = "(others)"
"""Stands for what is beyond the maxima: a damaged log must not fill the memory."""


@dataclass(slots=True)
class ServiceSummary:
    """Counts of one service."""

    events: int = 0
    warnings: int = 0
    errors: int = 0
    links: dict[str, Counter[str]] = field(default_factory=dict)
    """Event of a link -> how often it went ``up`` and ``down``."""
    refusals: Counter[str] = field(default_factory=Counter)
    """``event: cause`` -> lines; most services log a cause once, so this is no count of messages."""
    _spoke: dict[str, list[int]] = field(default_factory=dict)
    """run_id -> highest epoch, and how often it rose: starts that came as far as logging."""
    _spawned: Counter[str] = field(default_factory=Counter)
    """run_id -> starts that the supervisor tells of."""

    @property
    def starts(self) -> int:
        """Starts of the process, by its own word or the supervisor's, whichever tells of more."""
        return sum(self._starts())

    @property
    def restarts(self) -> int:
        """Starts after the first of each run."""
        return sum(max(0, count - 1) for count in self._starts())

    def _starts(self) -> list[int]:
        own = {run: count for run, (_, count) in self._spoke.items()}
        return [max(own.get(run, 0), self._spawned[run]) for run in {**own, **self._spawned}]

    def add(self, fields: dict[str, Any]) -> None:
        """Count one event of this service."""
        event, level = fields["event"], fields["level"]
        self.events += 1
        self.warnings += level == "warning"
        self.errors += level == "error"
        self._count_epoch(fields["run_id"], fields.get("epoch"))
        if event in LINK_EVENTS:
            self.links.setdefault(event, Counter())["up" if fields.get("up") is True else "down"] += 1
        elif event in REFUSALS:
            cause = f"{event}: {str(fields.get(REFUSALS[event]))[:200]}"
            known = cause in self.refusals or len(self.refusals) < MAX_CAUSES
            self.refusals[cause if known else OTHERS] += 1

    def add_spawn(self, run_id: str) -> None:
        """Count a start that the supervisor tells of."""
        if run_id in self._spawned or len(self._spawned) < MAX_RUNS_COUNTED:
            self._spawned[run_id] += 1

    def _count_epoch(self, run_id: str, epoch: object) -> None:
        if type(epoch) is not int:
            return
        seen = self._spoke.get(run_id)
        if seen is None:
            if len(self._spoke) < MAX_RUNS_COUNTED:
                self._spoke[run_id] = [epoch, 1]
        elif epoch > seen[0]:
            seen[:] = [epoch, seen[1] + 1]

    def to_dict(self) -> dict[str, Any]:
        """The counts, for JSON."""
        return {
            "events": self.events,
            "warnings": self.warnings,
            "errors": self.errors,
            "starts": self.starts,
            "restarts": self.restarts,
            "links": {event: {"up": c["up"], "down": c["down"]} for event, c in sorted(self.links.items())},
            "refusals": dict(self.refusals.most_common()),
        }


@dataclass(slots=True)
class Summary:
    """Counts of all services in the lines added."""

    services: dict[str, ServiceSummary] = field(default_factory=dict)
    first: str = ""
    """``wall`` of the first line in merged order."""
    last: str = ""

    def add_all(self, lines: Iterable[Line]) -> None:
        """Count lines, which come in merged order."""
        for line in lines:
            self.add(line)

    def add(self, line: Line) -> None:
        """Count the next line."""
        fields = line.fields
        self.first = self.first or fields["wall"]
        self.last = fields["wall"]
        self._service(fields["service"]).add(fields)
        if fields["event"] == "supervisor.service_started" and isinstance(fields.get("name"), str):
            self._service(fields["name"]).add_spawn(fields["run_id"])

    def _service(self, name: str) -> ServiceSummary:
        found = self.services.get(name)
        if found is None:
            if len(self.services) >= MAX_SERVICES:
                name = OTHERS
            found = self.services.setdefault(name, ServiceSummary())
        return found
