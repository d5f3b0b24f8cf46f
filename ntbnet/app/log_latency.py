"""How long frames and interrupts take, hop by hop, from the stamps of trace rings.

A hop is between two records of one flow: of a frame, from the node that sends it to the node it is for; of a
message or a wake, from who sends it to whom it comes to. Beside these, what each handler took. Quantiles are
of a histogram whose buckets are 2 % wide, so memory does not grow with the trace.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import ceil, exp
from math import log as ln
from pathlib import Path
from typing import Any

from ntbnet.app.trace_progress import read_with_bar
from ntbnet.edge.trace_rings import find_rings
from ntbnet.trace_records import FRAME_FLOW, SERVICES, Entry, Flag, Handler, Kind, Level, Record, flow_type

MAX_OPEN = 1 << 16
"""Flows whose begin is remembered at a time; of one forgotten no further hop is counted."""
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}
_WIDTH = ln(1.02)
_WAYS = ("rc->ep", "ep->rc")
_ROWS = ("end to end", "frame", "message", "handler")
_HANDLERS = {int(one): one.name.lower() for one in Handler}


@dataclass(slots=True)
class Spread:
    """Durations of one hop."""

    count: int = 0
    least_ns: int = 0
    most_ns: int = 0
    _buckets: dict[int, int] = field(default_factory=dict)

    def add(self, took_ns: int) -> None:
        """Count a duration, 0 or more."""
        self.least_ns = min(self.least_ns, took_ns) if self.count else took_ns
        self.most_ns = max(self.most_ns, took_ns)
        self.count += 1
        bucket = int(ln(took_ns) / _WIDTH) if took_ns > 0 else -1
        self._buckets[bucket] = self._buckets.get(bucket, 0) + 1

    def quantile_ns(self, share: float) -> int:
        """The duration that ``share`` of all do not exceed, to 1 %; within what was seen."""
        wanted, seen = ceil(share * self.count), 0
        for bucket, count in sorted(self._buckets.items()):
            seen += count
            if seen >= wanted:
                middle = 0 if bucket < 0 else round(exp((bucket + 0.5) * _WIDTH))
                return min(max(middle, self.least_ns), self.most_ns)
        return self.most_ns

    def to_dict(self) -> dict[str, float]:
        """Count, and microseconds."""
        figures = {f"{name}_us": self.quantile_ns(share) / 1e3 for name, share in QUANTILES.items()}
        return {
            "count": self.count,
            "min_us": self.least_ns / 1e3,
            **figures,
            "max_us": self.most_ns / 1e3,
        }


@dataclass(slots=True)
class Hop:
    """One row of the result."""

    sort: str
    """``end to end``, ``frame``, ``message`` or ``handler``."""
    name: str
    spread: Spread


class HopLatencies:
    """Durations of all hops in the records added."""

    def __init__(self) -> None:
        self._spreads: dict[tuple[str, str], Spread] = {}
        self._frames: OrderedDict[int, dict[int, int]] = OrderedDict()
        """Flow of a frame -> kind of record -> its time."""
        self._sent: OrderedDict[int, tuple[int, int]] = OrderedDict()
        """Flow of a message -> who sent it, and when."""
        self.records = 0

    def add_all(self, entries: Iterable[Entry]) -> None:
        """Count records, which come in the order of time."""
        for ring, record in entries:
            self.records += 1
            if record.kind == Kind.SLICE:
                name = f"{ring.label} {_HANDLERS.get(record.slot, 'handler')}"
                self._add("handler", name, record.amount)
            elif not record.flow:
                continue
            elif flow_type(record.flow) == FRAME_FLOW:
                self._frame(record)
            else:
                self._message(ring.service, record)

    def hops(self) -> list[Hop]:
        """Every hop that was seen, the whole way first."""
        found = [Hop(sort, name, spread) for (sort, name), spread in self._spreads.items()]
        return sorted(found, key=lambda hop: (_ROWS.index(hop.sort), hop.name))

    def to_dict(self) -> dict[str, Any]:
        """For JSON: hops by sort and name, microseconds."""
        body: dict[str, Any] = {sort: {} for sort in _ROWS}
        for hop in self.hops():
            body[hop.sort][hop.name] = hop.spread.to_dict()
        return body

    def _add(self, sort: str, name: str, took_ns: int) -> None:
        if took_ns >= 0:
            self._spreads.setdefault((sort, name), Spread()).add(took_ns)

    def _frame(self, record: Record) -> None:
        flow, kind, now_ns = record.flow, record.kind, record.mono_ns
        if kind == Kind.TUN_READ:
            self._frames.pop(flow, None)
            _make_room(self._frames)
            self._frames[flow] = {kind: now_ns}
            return
        stamps = self._frames.get(flow)
        if stamps is None:
            return  # its begin was overwritten in the ring
        way = _WAYS[flow >> 57 & 1]
        if kind == Kind.RING_WRITE:
            stamps[kind] = now_ns
            self._add("frame", f"{way} TUN read to ring", now_ns - stamps[Kind.TUN_READ])
        elif kind == Kind.TUN_WRITE:
            del self._frames[flow]
            self._add("end to end", way, now_ns - stamps[Kind.TUN_READ])
            if Kind.RING_WRITE in stamps:
                self._add("frame", f"{way} ring to TUN write", now_ns - stamps[Kind.RING_WRITE])

    def _message(self, service: int, record: Record) -> None:
        if record.flags & Flag.SENT:
            _make_room(self._sent)
            self._sent[record.flow] = (service, record.mono_ns)
            return
        sent = self._sent.pop(record.flow, None)
        if sent is not None:
            name = f"{SERVICES[sent[0]]} to {SERVICES[service]}"
            self._add("message", name, record.mono_ns - sent[1])


def ring_latencies(folder: Path) -> tuple[HopLatencies, list[str]]:
    """What the rings in a folder tell, and what is wrong with those that cannot be read."""
    rings, problems = find_rings(folder, Level.FULL)
    latencies = HopLatencies()
    latencies.add_all(read_with_bar(rings))
    return latencies, problems


def _make_room(flows: OrderedDict[int, Any]) -> None:
    if len(flows) >= MAX_OPEN:
        flows.popitem(last=False)
