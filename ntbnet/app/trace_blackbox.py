"""The flight recorder after a crash: the last seconds of every process of a bridge, in one order of time.

Each ring counts back from its own end, unless its process still runs: then from now. So what a service did
before it was killed is there, however long ago that was.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from ntbnet.app.json_rows import write_with_rows
from ntbnet.app.trace_progress import ReadingBar
from ntbnet.app.trace_text import as_object, as_text, wall_text
from ntbnet.edge.clock import monotonic_ns
from ntbnet.edge.process import alive
from ntbnet.edge.rundir import RunDir
from ntbnet.edge.trace_rings import RingFile, find_rings, merged
from ntbnet.trace_records import Entry, Kind, Level

_NS = 1_000_000_000


@dataclass(slots=True)
class _Life:
    """One process as its rings tell of it."""

    ring: RingFile
    state: str
    last_ns: int = 0

    @property
    def key(self) -> tuple[int, int]:
        return self.ring.header.service, self.ring.header.incarnation


class Blackbox:
    """What the rings of one run folder tell.

    Args:
        run: the run folder; the bridge may be gone.
        seconds: how much of each process' end.
        folder: of the rings.

    Attributes:
        rings: what was found.
        complaints: files that are no rings, or damaged ones.
    """

    def __init__(self, run: RunDir, seconds: float, folder: Path) -> None:
        self.rings, self.complaints = find_rings(folder)
        self._run = run
        self._seconds = seconds
        self._now_ns = monotonic_ns()
        self._lives = self._find_lives()

    def _find_lives(self) -> dict[tuple[int, int], _Life]:
        processes = self._run.processes()
        lives: dict[tuple[int, int], _Life] = {}
        for ring in self.rings:
            header = ring.header
            process = processes.get(header.label)
            is_running = process is not None and process.pid == header.pid and alive(process)
            ended = "ended in order" if header.seen_ns else "killed"
            life = lives.setdefault(
                (header.service, header.incarnation), _Life(ring, "running" if is_running else ended)
            )
            if header.level == Level.COARSE:
                life.ring, life.state = ring, "running" if is_running else ended
            for record in _last_of(ring):
                life.last_ns = max(life.last_ns, record)
        return lives

    def entries(self) -> Iterator[Entry]:
        """What is shown, in order of time."""
        span_ns, bar = int(self._seconds * _NS), ReadingBar(self.rings)
        for entry in bar.around(merged(self.rings)):
            life = self._lives[entry.ring.service, entry.ring.incarnation]
            end_ns = self._now_ns if life.state == "running" else life.last_ns
            if entry.record.mono_ns >= end_ns - span_ns and _is_of_its_level(entry):
                bar.stop()
                yield entry

    def processes(self) -> list[dict[str, Any]]:
        """Every process that left a ring: how it ended, and when it was last heard of."""
        return [
            {
                "service": life.ring.header.label,
                "incarnation": life.ring.header.incarnation,
                "pid": life.ring.header.pid,
                "state": life.state,
                "last_mono_ns": life.last_ns,
                "last_wall": wall_text(life.ring.header, life.last_ns),
                "records": life.ring.last,
                "overwritten": life.ring.overwritten,
            }
            for life in self._lives.values()
        ]

    def write_text(self, out: TextIO) -> None:
        """For people."""
        for one in self.processes():
            who = f"{one['service']}#{one['incarnation']}"
            out.write(f"{who:12} pid {one['pid']:<8} {one['state']:15} last record {one['last_wall']}\n")
        out.writelines(f"skipped: {complaint}\n" for complaint in self.complaints)
        out.write("\n")
        shown = 0
        for entry in self.entries():
            out.write(as_text(entry) + "\n")
            shown += 1
        torn = sum(ring.torn for ring in self.rings)
        out.write(f"\n{shown} records of the last {self._seconds:g} s of each process; {torn} torn\n")

    def write_json(self, out: TextIO) -> None:
        """One object; records one a line."""
        head = {
            "bridge": self._run.name,
            "run_id": _run_id(self.rings),
            "seconds": self._seconds,
            "processes": self.processes(),
            "skipped": self.complaints,
        }
        rows = map(as_object, self.entries())
        write_with_rows(out, head, "records", rows, lambda: {"torn": sum(ring.torn for ring in self.rings)})


def _run_id(rings: list[RingFile]) -> str:
    return rings[-1].header.run_id if rings else ""


def _last_of(ring: RingFile) -> Iterator[int]:
    """Times of a ring's last records; of a damaged one there may be none."""
    tail = RingFile(ring.path, ring.header, max(ring.first, ring.last - 64), ring.last)
    return (record.mono_ns for record in tail.records())


def _is_of_its_level(entry: Entry) -> bool:
    """False for bytes that are no record of any kind this build knows."""
    return entry.record.kind in Kind._value2member_map_
