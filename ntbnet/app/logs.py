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

import fnmatch
import heapq
import json
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from pathlib import Path
from typing import Any, BinaryIO

from ntbnet.edge.rundir import RunDir
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
_AGO = re.compile(r"(\d{1,6})([smhd])", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(slots=True)
class Line:
    """One event as read."""

    time_ns: int
    """Place in the merged order; comparable with the lines of the same ``Timeline`` only."""
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


class Timeline:
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


@dataclass(frozen=True, slots=True)
class Filter:
    """Which lines are wanted; made by ``filter_from``."""

    services: frozenset[str] = frozenset()
    """Empty wants all."""
    events: re.Pattern[str] | None = None
    least: int = 0
    """Least of ``LEVELS``."""
    since: str = ""
    """First wanted ``wall``; its format is such that text compares as time does."""

    def wants(self, fields: dict[str, Any]) -> bool:
        return (
            (not self.services or fields["service"] in self.services)
            and LEVELS[fields["level"]] >= self.least
            and fields["wall"] >= self.since
            and (self.events is None or self.events.fullmatch(fields["event"]) is not None)
        )


def filter_from(
    services: Sequence[str] = (),
    events: Sequence[str] = (),
    level: str = "debug",
    since: str = "",
    now: datetime | None = None,
) -> Filter:
    """Make a filter of what a user typed.

    Args:
        services: names; a line of any of them is wanted.
        events: shell patterns such as ``link.*``; a line that any of them matches is wanted.
        level: least level, a key of ``LEVELS``.
        since: empty, as ``since_wall`` takes it otherwise.
        now: end of a span of time in ``since``, timezone-aware; the clock's time when absent.

    Raises:
        ValueError: ``since`` is malformed.
    """
    pattern = re.compile("|".join(fnmatch.translate(glob) for glob in events)) if events else None
    wall = since_wall(since, now or datetime.now(UTC)) if since else ""
    return Filter(frozenset(services), pattern, LEVELS[level], wall)


def since_wall(text: str, now: datetime) -> str:
    """A point in time, in the format of ``wall``.

    Args:
        text: a span before ``now`` (``90s``, ``10m``, ``2h``, ``1d``), or an ISO 8601 date or time;
            without an offset it is UTC.
        now: timezone-aware.

    Raises:
        ValueError: neither of them, or outside the years 1..9999.
    """
    ago = _AGO.fullmatch(text)
    try:
        if ago:
            at = now - timedelta(seconds=int(ago[1]) * _SECONDS[ago[2]])
        else:
            at = datetime.fromisoformat(text)
            if at.tzinfo is None:
                at = at.replace(tzinfo=UTC)
        at = at.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(
            f"{text!r}: allowed are a span such as 90s, 10m, 2h or 1d, or an ISO 8601 time such as "
            "2025-01-31T12:00:00Z"
        ) from None
    return at.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def log_files(run: RunDir, log_dir: str = "") -> list[Path]:
    """The services' log files of a bridge, by name; [] when there are none.

    Args:
        run: its run folder.
        log_dir: ``log.dir`` of its configuration; empty is inside the run folder.
    """
    return folder_files(Path(log_dir) if log_dir else run.path / "logs")


def folder_files(folder: Path) -> list[Path]:
    """The log files in a folder, or in ``logs`` of a run folder; what services said on stderr is none."""
    try:
        if (folder / "logs").is_dir():
            folder /= "logs"
        return sorted(path for path in folder.iterdir() if path.suffix == ".jsonl" and path.is_file())
    except OSError:
        return []


def merge(sources: Iterable[Iterable[Line]]) -> Iterator[Line]:
    """Lines of all sources by time; holds one line of each.  Equal times: the earlier source first."""
    return heapq.merge(*sources, key=attrgetter("time_ns"))


def read_file(path: Path, timeline: Timeline, tally: Tally) -> Iterator[Line]:
    """Lines of a file, in order; a file that cannot be read is noted in ``tally``."""
    try:
        with path.open("rb") as stream:
            yield from in_order(read_lines(stream, timeline, tally))
    except OSError as problem:
        tally.unreadable.append(f"{path}: {problem.strerror}")


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


def read_lines(stream: BinaryIO, timeline: Timeline, tally: Tally) -> Iterator[Line]:
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
            time_ns = timeline.place(fields["run_id"], fields["wall"], fields["mono_ns"])
        except ValueError:
            tally.skipped += 1
            continue
        tally.lines += 1
        yield Line(time_ns, raw, fields)


def _fields(raw: bytes) -> dict[str, Any] | None:
    """The object in ``raw`` when it is an event of ours."""
    try:
        fields = json.loads(raw.decode())
    except (ValueError, RecursionError):
        return None
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
