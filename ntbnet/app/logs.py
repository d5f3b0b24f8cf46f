"""Reading the JSON lines of several services as one sequence, in bounded memory.

What is read may come from anywhere: a line counts only when it is a JSON object with the common
keys of ``log``; anything else (other programs' output, damage, a line over 64 KiB) is counted and
skipped.  A line torn by a crash and continued by the next start gives the second part.  honcho's
prefix ("12:34:56 epc.1 | ") is taken off.

Order: within a run by ``mono_ns``, which a step of the wall clock does not disturb; between runs by
``wall``, taken from the first line read of each run.  One total order follows, whatever the clocks
did.  Lines of one file may stand up to 64 lines from their place, as in honcho's output.
"""

from __future__ import annotations

import heapq
import json
import re
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Any, Protocol

import orjson

from ntbnet.log import LEVELS

MAX_LINE_BYTES = 1 << 16
REORDER_LINES = 64
MAX_RUNS = 1024
"""Runs whose clocks are remembered at a time; one forgotten is placed anew by its next line."""

NO_RUN = frozenset({"", "none"})
"""Values of ``run_id`` that tell no two runs apart, so that ``mono_ns`` may be of different boots."""

_START = b'{"event":'
_COLOUR = rb"(?:\x1b\[[0-9;]{0,16}m)*"
_HONCHO = re.compile(_COLOUR + rb"\d\d:\d\d:\d\d [a-zA-Z0-9_.-]{1,64} *\| " + _COLOUR)
_WALL = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(slots=True)
class Line:
    """One event as read."""

    time_ns: int
    """Place in the merged order; comparable with the lines of the same ``Axis`` only."""
    raw: bytes
    """The JSON object as it was written, without prefix and newline."""
    fields: dict[str, Any]
    """The decoded object; its common keys are checked, its other keys are not."""


@dataclass(slots=True)
class Tally:
    """What happened while reading."""

    lines: int = 0
    """Events read, shown or not."""
    skipped: int = 0
    """Lines (or torn parts) that are no events of ours."""
    unreadable: list[str] = field(default_factory=list)
    """One message for each source that could not be read, or not to its end."""


class Readable(Protocol):
    """What lines are read from."""

    def readline(self, size: int, /) -> bytes:
        """At most ``size`` bytes up to and with the next newline; b"" when there is nothing more."""


class Axis:
    """Puts the lines of several runs on one axis of nanoseconds."""

    def __init__(self) -> None:
        self._offsets: dict[str, int] = {}

    def place(self, run_id: str, wall: str, mono_ns: int) -> int:
        """Where a line belongs.

        Raises:
            ValueError: ``wall`` is needed and no date.
        """
        offset = self._offsets.get(run_id)
        if offset is None:
            offset = (datetime.fromisoformat(wall) - _EPOCH) // _MICROSECOND * 1000 - mono_ns
            if run_id in NO_RUN:
                return offset + mono_ns
            if len(self._offsets) >= MAX_RUNS:
                del self._offsets[next(iter(self._offsets))]
            self._offsets[run_id] = offset
        return offset + mono_ns


def merge(sources: Iterable[Iterable[Line]]) -> Iterator[Line]:
    """Lines of all sources by time; holds one line of each.  Equal times: the earlier source first."""
    return heapq.merge(*sources, key=attrgetter("time_ns"))


def in_order(lines: Iterable[Line]) -> Iterator[Line]:
    """Sort lines that stand at most ``REORDER_LINES`` from their place; equal times keep their order."""
    held: deque[Line] = deque()
    for line in lines:
        at = len(held)
        while at and held[at - 1].time_ns > line.time_ns:
            at -= 1
        held.insert(at, line)
        if len(held) > REORDER_LINES:
            yield held.popleft()
    yield from held


def read_lines(stream: Readable, axis: Axis, tally: Tally) -> Iterator[Line]:
    """Events in a stream of bytes, each as soon as its line is complete, in the stream's order."""
    while raw := stream.readline(MAX_LINE_BYTES):
        if len(raw) == MAX_LINE_BYTES and not raw.endswith(b"\n"):
            while (rest := stream.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                pass
            tally.skipped += 1
            continue
        raw = raw.strip()
        fields = _fields(raw) if raw.startswith(b"{") else None
        if fields is None:
            if not raw:
                continue
            # Our objects begin with this key, and inside a JSON string its quotes would be escaped.
            start = raw.rfind(_START)
            fields = _fields(raw[start:]) if start > 0 else None
            if fields is None:
                tally.skipped += 1
                continue
            if not _HONCHO.fullmatch(raw, 0, start):
                tally.skipped += 1
            raw = raw[start:]
        try:
            time_ns = axis.place(fields["run_id"], fields["wall"], fields["mono_ns"])
        except ValueError:
            tally.skipped += 1
            continue
        tally.lines += 1
        yield Line(time_ns, raw, fields)


def _fields(raw: bytes) -> dict[str, Any] | None:
    """The object in ``raw`` when it is an event of ours."""
    try:
        fields = orjson.loads(raw)
    except orjson.JSONDecodeError:
        fields = _lenient(raw)
    if type(fields) is not dict:
        return None
    get = fields.get
    event, level, wall, mono_ns = get("event"), get("level"), get("wall"), get("mono_ns")
    run_id, service = get("run_id"), get("service")
    is_ours = (
        type(event) is str
        and type(level) is str
        and level in LEVELS
        and type(wall) is str
        and _WALL.fullmatch(wall) is not None
        and type(mono_ns) is int
        and 0 <= mono_ns < 1 << 63
        and type(run_id) is str
        and len(run_id) <= 64
        and type(service) is str
    )
    return fields if is_ours else None


def _lenient(raw: bytes) -> object:
    """What ``log`` may write though orjson refuses it: NaN, half a surrogate pair. None: no JSON at all."""
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None
