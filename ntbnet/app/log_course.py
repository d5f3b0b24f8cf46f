"""The course of a log over time, for pictures: how much was said, and when links were up.

However long the log is, it becomes a bounded number of steps and spans.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from ntbnet.app.logs import Line

MOST_STEPS = 600
"""Steps of the time axis; when there are more, two become one."""
FIRST_STEP_NS = 10_000_000
MOST_SPANS = 20_000
MOST_ROWS = 16
ROWS = {"link.changed": "link", "transport.link_changed": "transport", "netdev.carrier_changed": "carrier"}
"""Events of links that are shown -> what they are called."""


@dataclass(slots=True)
class Span:
    """A time for which a link was up or down, in the merged order."""

    start_ns: int
    end_ns: int
    up: bool


@dataclass(slots=True)
class Course:
    """Events by level over time, and states of links."""

    first_ns: int = -1
    last_ns: int = 0
    step_ns: int = FIRST_STEP_NS
    levels: dict[str, Counter[int]] = field(default_factory=dict)
    """Level -> step -> events."""
    links: dict[str, list[Span]] = field(default_factory=dict)
    """Link, by service, -> its states in order; the last one goes on."""
    left_out: int = 0
    """Changes of links beyond the maxima."""
    _spans: int = 0

    def add(self, line: Line) -> None:
        """Take the next line, in merged order."""
        if self.first_ns < 0:
            self.first_ns = line.time_ns
        self.last_ns = max(line.time_ns, self.first_ns)
        step = (self.last_ns - self.first_ns) // self.step_ns
        while step >= MOST_STEPS:
            self._widen()
            step //= 2
        fields = line.fields
        self.levels.setdefault(fields["level"], Counter())[step] += 1
        what, up = ROWS.get(fields["event"]), fields.get("up")
        if what is not None and type(up) is bool:
            self._change(f"{fields['service'][:32]} {what}", up, self.last_ns)
        elif fields["event"] == "supervisor.service_died":
            for link in [link for link in self.links if link.startswith(f"{fields.get('name')} ")]:
                self._change(link, False, self.last_ns)

    def _widen(self) -> None:
        self.step_ns *= 2
        for level, counts in self.levels.items():
            wide: Counter[int] = Counter()
            for step, count in counts.items():
                wide[step // 2] += count
            self.levels[level] = wide

    def _change(self, link: str, up: bool, now_ns: int) -> None:
        spans = self.links.get(link)
        if self._spans >= MOST_SPANS or (spans is None and len(self.links) >= MOST_ROWS):
            self.left_out += 1
            return
        spans = self.links.setdefault(link, [])
        if spans:
            if spans[-1].up is up:
                return
            spans[-1].end_ns = now_ns
        spans.append(Span(now_ns, now_ns, up))
        self._spans += 1

    def spans(self) -> dict[str, list[Span]]:
        """The links' states until the last line."""
        for spans in self.links.values():
            spans[-1].end_ns = self.last_ns
        return dict(sorted(self.links.items()))
