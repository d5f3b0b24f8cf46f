"""When a bridge may lose packets, be silent or log errors: near a fault that does such a thing."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from ntbnet.app.chaos_history import FaultRecord, Kind, LoggedEvent, Record
from ntbnet.app.chaos_scenario import Scenario

Span = tuple[int, int]
"""From and until, ns."""
Window = tuple[int, int, FaultRecord]

OUTAGES = frozenset(
    {"drop", "swap", "corrupt", "truncate", "stall", "cut", "unlink-memory", "all-ones", "ur", "ca"}
)
"""Kinds of injected faults that take a path or the link down."""
LOSSES = frozenset({"drop-frame"})
"""Kinds that cost a packet, and nothing after it. All others may delay, and cost nothing."""
INJECTED = frozenset({"chaos.fault_injected", "chaos.faults_counted"})
COUNTED_NS = 1_000_000_000
"""Where nobody knows when faults happened that are counted, not told one by one: in that time before."""
PREDECESSOR_NS = 5_000_000_000
"""The same, where a process tells what the one that it replaces had not told: until that was found hung."""


def strikes(events: Iterable[LoggedEvent], scenario: Scenario) -> list[Window]:
    """What the fault layer did, and for how long that may be felt."""
    held_ns: dict[str, int] = {}
    for rule in scenario.rules:
        if rule.kind in {"cut", "stall"}:
            held_ns[rule.kind] = max(held_ns.get(rule.kind, 0), rule.parameter("delay_us") * 1000)
    recovery_ns = scenario.bounds.recovery_max_ms * 1_000_000
    found = []
    for number, event in enumerate(event for event in events if event.event in INJECTED):
        if event.kind not in OUTAGES | LOSSES:
            continue
        from_ns = until_ns = event.time_ns
        if event.since_ns is not None and event.until_ns is not None:
            from_ns, until_ns = event.since_ns, event.until_ns
        elif event.event == "chaos.faults_counted":
            from_ns -= COUNTED_NS if event.path else PREDECESSOR_NS
        if event.kind in OUTAGES:
            until_ns += held_ns.get(event.kind, 0) + recovery_ns
        record = FaultRecord(number, event.kind, (event.service,), from_ns, until_ns, event.path)
        found.append((from_ns, until_ns, record))
    return found


def merged(spans: Iterable[Span]) -> list[Span]:
    """The same time as spans that do not touch, in order."""
    found: list[Span] = []
    for from_ns, until_ns in sorted(spans):
        if found and from_ns <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], until_ns))
        else:
            found.append((from_ns, until_ns))
    return found


def covers(spans: Sequence[Span], time_ns: int) -> bool:
    """True when one of ``spans``, which are ``merged``, has that moment in it."""
    place = bisect_right(spans, (time_ns, 1 << 64))
    return place > 0 and time_ns <= spans[place - 1][1]


def parts_outside(from_ns: int, until_ns: int, spans: Sequence[Span]) -> Iterator[Span]:
    """The parts of a time that no span covers, in order.

    Args:
        from_ns: beginning.
        until_ns: end.
        spans: as ``merged`` gives them.
    """
    at_ns = from_ns
    for start_ns, end_ns in spans[max(bisect_right(spans, (from_ns, 0)) - 1, 0) :]:
        if start_ns >= until_ns:
            break
        if start_ns > at_ns:
            yield at_ns, start_ns
        at_ns = max(at_ns, end_ns)
    if until_ns > at_ns:
        yield at_ns, until_ns


def pauses(records: Iterable[Record], longest_ns: int) -> list[Span]:
    """When the sending program itself did not run: nothing was tried in any flow for that long."""
    tried = [record.time_ns for record in records if record.kind in {Kind.SENT, Kind.REFUSED}]
    return [(before, after) for before, after in pairwise(tried) if after - before > longest_ns]
