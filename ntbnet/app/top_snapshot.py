"""One look at a running bridge: its status, what its processes use, its newest events."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ntbnet.app.bridge import Bridge
from ntbnet.app.log_sources import log_files
from ntbnet.app.logs import Axis, Line, Tally, read_lines
from ntbnet.app.top_latency import Latencies
from ntbnet.edge.log_rotation import place_of
from ntbnet.edge.process import Usage, usage_of

EVENTS = 50
"""Newest events of all services together that are kept."""
TAIL_BYTES = 16384
"""Read from the end of each log."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A bridge at one moment."""

    taken_ns: int
    """Monotonic clock, when the status had come."""
    status: Mapping[str, Any]
    """As ``ntbnet status --json`` prints it."""
    usage: Mapping[str, Usage]
    """By service; of those that run."""
    events: Sequence[Mapping[str, Any]]
    """Lines of the logs, oldest first."""
    latencies_ns: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """By sending node, of packets that a trace saw: from its stack to the other one's, nanoseconds."""
    is_traced: bool = False
    """True while services are to trace everything."""


def take_snapshot(bridge: Bridge, latencies: Latencies) -> Snapshot:
    """Look at a bridge, running or not; waits for its services, a second at most."""
    status = bridge.status()
    taken_ns = time.monotonic_ns()
    usage = {}
    for name, record in bridge.run.processes().items():
        used = usage_of(record)
        if used is not None:
            usage[name] = used
    return Snapshot(
        taken_ns,
        status,
        usage,
        last_events(log_files(bridge.run, bridge.config.log.dir)),
        latencies_ns=latencies.look(),
        is_traced=bridge.run.wanted_trace() is not None,
    )


def last_events(files: Sequence[Path], count: int = EVENTS) -> list[Mapping[str, Any]]:
    """The newest events of some logs, oldest first; what cannot be read is left out.

    Args:
        files: JSON lines, of any length; those that were set aside are not opened.
        count: how many events at most.
    """
    axis, tally = Axis(), Tally()
    lines: list[Line] = []
    for path in files:
        if place_of(path)[1]:
            continue  # set aside: what a service says now is in the newest
        try:
            with path.open("rb") as stream:
                end = stream.seek(0, os.SEEK_END)
                if end > TAIL_BYTES:
                    stream.seek(end - TAIL_BYTES)
                    stream.readline()  # the rest of a line
                else:
                    stream.seek(0)
                lines += read_lines(stream, axis, tally)
        except OSError:
            continue
    lines.sort(key=lambda line: line.time_ns)
    return [line.fields for line in lines[-count:]]
