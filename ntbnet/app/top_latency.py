"""How long packets take from one node's stack to the other one's, out of the rings of a trace that runs."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

from ntbnet.edge.rundir import RunDir
from ntbnet.edge.trace_rings import RingFile, open_ring
from ntbnet.errors import WireError
from ntbnet.topology import NODE_OF
from ntbnet.trace_records import Kind, Result

RINGS = "peer-*.full"
RECORDS = 4096
"""Newest records of a ring that one look reads at most: of more there is only a sample."""
WAITING = 8192
"""Ends of packets that wait for their other one, at most; the oldest are given up."""
KEPT = 2000
"""Packets that percentiles are of, at most: the newest."""


class Latencies:
    """Reads on in the rings at each look.

    Args:
        run: run folder of the bridge.
    """

    def __init__(self, run: RunDir) -> None:
        self._run = run
        self._forget()

    def _forget(self) -> None:
        self._rings: dict[Path, RingFile] = {}
        """As far as they were read."""
        self._begins: dict[int, tuple[str, int]] = {}
        self._ends: dict[int, int] = {}
        self._taken: dict[str, deque[int]] = {}

    def look(self) -> Mapping[str, Sequence[int]]:
        """Nanoseconds by sending node, of the newest packets; {} while no trace runs."""
        if self._run.wanted_trace() is None:
            self._forget()
            return {}
        for path in self._run.trace_folder.glob(RINGS):
            self._read_on(path)
        for flow in self._begins.keys() & self._ends.keys():
            node, began_ns = self._begins.pop(flow)
            took_ns = self._ends.pop(flow) - began_ns
            if took_ns >= 0:  # an id that came again after a new link is another packet's
                self._taken.setdefault(node, deque(maxlen=KEPT)).append(took_ns)
        for waiting in (self._begins, self._ends):
            while len(waiting) > WAITING:
                del waiting[next(iter(waiting))]
        return {node: tuple(taken) for node, taken in self._taken.items()}

    def _read_on(self, path: Path) -> None:
        ring = self._rings.get(path)
        seen = 0 if ring is None else ring.last
        if ring is None or not ring.catch_up():
            self._rings.pop(path, None)
            try:
                ring = self._rings[path] = open_ring(path)
            except (OSError, WireError):
                return
            seen = 0
        node = NODE_OF[ring.header.label]
        ring.first = max(ring.first, seen + 1, ring.last - RECORDS + 1)
        for record in ring.records():
            if record.kind == Kind.TUN_READ:
                self._begins[record.flow] = (node, record.mono_ns)
            elif record.kind == Kind.TUN_WRITE and record.result == Result.OK:
                self._ends[record.flow] = record.mono_ns
