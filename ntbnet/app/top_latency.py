"""How long packets take from one node's stack to the other one's, out of the rings of a trace that runs."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

from ntbnet.edge.rundir import RunDir
from ntbnet.edge.trace_rings import RingFile, find_rings
from ntbnet.trace_records import SERVICES, Kind, Level, Result

NODE_OF_PEER = {"peer-rc": "rc", "peer-ep": "ep"}
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
        self._read: dict[tuple[str, int], int] = {}
        """By ring: number of the last record that was read."""
        self._begins: dict[int, tuple[str, int]] = {}
        self._ends: dict[int, int] = {}
        self._taken: dict[str, deque[int]] = {}

    def look(self) -> Mapping[str, Sequence[int]]:
        """Nanoseconds by sending node, of the newest packets; {} while no trace runs."""
        if self._run.wanted_trace() is None:
            self._forget()
            return {}
        for ring in find_rings(self._run.trace_folder, Level.FULL)[0]:
            node = NODE_OF_PEER.get(SERVICES[ring.header.service])
            if node is not None:
                self._read_on(ring, node)
        for flow in self._begins.keys() & self._ends.keys():
            node, began_ns = self._begins.pop(flow)
            took_ns = self._ends.pop(flow) - began_ns
            if took_ns >= 0:  # an id that came again after a new link is another packet's
                self._taken.setdefault(node, deque(maxlen=KEPT)).append(took_ns)
        for waiting in (self._begins, self._ends):
            while len(waiting) > WAITING:
                del waiting[next(iter(waiting))]
        return {node: tuple(taken) for node, taken in self._taken.items()}

    def _read_on(self, ring: RingFile, node: str) -> None:
        name = (ring.path.name, ring.header.made_mono_ns)
        ring.first = max(ring.first, self._read.get(name, 0) + 1, ring.last - RECORDS + 1)
        for record in ring.records():
            if record.kind == Kind.TUN_READ:
                self._begins[record.flow] = (node, record.mono_ns)
            elif record.kind == Kind.TUN_WRITE and record.result == Result.OK:
                self._ends[record.flow] = record.mono_ns
        self._read[name] = ring.last
