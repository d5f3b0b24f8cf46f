"""The traffic of a history, flow by flow: what was sent and came, and when packets crossed again."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

from ntbnet.app.chaos_history import Kind, Record

LATE_OUTAGE_NS = 1_500_000_000
"""An outage that begins later than that after a fault is not the fault's."""


SHORTEST_PART = 8
"""Of what is an outage by itself: less than such a part is none whatever happened."""


class Flow:
    """What one flow sent and received."""

    __slots__ = (
        "_highest",
        "arrivals",
        "came",
        "last_came_ns",
        "last_sent_ns",
        "last_tried_ns",
        "missed_ns",
        "received",
        "sent",
    )

    def __init__(self) -> None:
        self.sent: dict[int, tuple[int, int]] = {}
        """Sequence -> time, size."""
        self.received: dict[int, int] = {}
        """Sequence -> time of its first coming."""
        self.arrivals = 0
        """Datagrams that a program in the node read, wrong ones included."""
        self.last_sent_ns = self.last_came_ns = self.last_tried_ns = 0
        self.came: list[tuple[int, int]] = []
        """Time of coming and of sending, in the order of coming."""
        self.missed_ns: list[int] = []
        """When something was tried that never came, once ``close`` was called."""
        self._highest: list[int] = []

    def take(self, record: Record) -> str:
        """Take the next record; what is wrong with it: ``damaged``, ``duplicated``, ``misordered`` or ""."""
        if record.kind in {Kind.SENT, Kind.REFUSED}:
            self.last_tried_ns = record.time_ns
        if record.kind == Kind.REFUSED:
            self.missed_ns.append(record.time_ns)
            return ""
        if record.kind == Kind.SENT:
            self.sent[record.sequence] = (record.time_ns, record.size)
            self.last_sent_ns = record.time_ns
            return ""
        self.arrivals += 1
        if record.kind == Kind.DAMAGED or self.sent.get(record.sequence) != (record.extra, record.size):
            return "damaged"
        if record.sequence in self.received:
            return "duplicated"
        self.received[record.sequence] = self.last_came_ns = record.time_ns
        highest = self._highest[-1] if self._highest else -1
        self.came.append((record.time_ns, record.extra))
        self._highest.append(max(highest, record.sequence))
        return "misordered" if record.sequence < highest else ""

    def close(self) -> list[int]:
        """Nothing more is taken; the sequence numbers of what never came."""
        missing = sorted(self.sent.keys() - self.received.keys())
        self.missed_ns = sorted([*self.missed_ns, *(self.sent[sequence][0] for sequence in missing)])
        return missing

    def misses(self, since_ns: int, until_ns: int) -> bool:
        """True when something that was tried in that time never came, or was refused."""
        at = bisect_right(self.missed_ns, since_ns)
        return at < len(self.missed_ns) and self.missed_ns[at] < until_ns

    def had_come(self, sequence: int, before_ns: int) -> bool:
        """True when a later datagram had come before that time."""
        count = bisect_right(self.came, (before_ns, 1 << 63))
        return count > 0 and self._highest[count - 1] > sequence


def back_ns(
    arrivals: Sequence[tuple[int, int]],
    since_ns: int,
    next_ns: int | None,
    outage_ns: int,
    is_felt: Callable[[int, int], bool],
    not_run: Sequence[tuple[int, int]] = (),
) -> int | None:
    """When packets crossed again: the end of the last outage, else the first crossing.

    A later pause is none when nothing happened to the bridge and nothing was lost, and some process waited
    for a CPU.

    Args:
        arrivals: (time of coming, time of sending), by time of coming.
        since_ns: the fault; only what was sent after it counts.
        next_ns: the next fault, whose outage is not ours; None when there is none.
        outage_ns: no packet for longer than that is an outage; for less, where it is felt.
        is_felt: whether the bridge shows anything of one between two such times.
        not_run: when the program that sends and receives was not run, in order; no silence begins then.
    """
    first = bisect_right(arrivals, (since_ns, 1 << 63))
    crossings = [came_ns for came_ns, sent_ns in arrivals[first:] if sent_ns > since_ns]
    if not crossings:
        return None
    crossed_ns = crossings[0]
    for arrived_ns, came_ns in pairwise(_chain(since_ns, crossings)):
        before_ns = _run_again(not_run, arrived_ns)
        begins_late = before_ns - since_ns > LATE_OUTAGE_NS
        # what was no outage yet when the next fault came is the next fault's
        if begins_late or (next_ns is not None and before_ns >= next_ns - outage_ns):
            break
        if came_ns - before_ns > outage_ns // SHORTEST_PART and is_felt(before_ns, came_ns):
            crossed_ns = came_ns
    return crossed_ns


def _run_again(not_run: Sequence[tuple[int, int]], now_ns: int) -> int:
    """The end of the pause that ``now_ns`` lies in, else itself."""
    at = bisect_right(not_run, (now_ns, 1 << 63)) - 1
    return max(now_ns, not_run[at][1]) if at >= 0 else now_ns


def _chain(first: int, rest: Iterable[int]) -> Iterable[int]:
    yield first
    yield from rest
