"""A record of the flight recorder costs less than a microsecond."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ntbnet.edge.trace_ring import TraceRing
from ntbnet.trace_records import Kind, Level

LIMIT_US = 1.0


def test_one_record(benchmark: Any, tmp_path: Path) -> None:
    note = TraceRing(tmp_path, "peer-rc", 1, Level.COARSE, 4096, "run").note

    benchmark(note, Kind.EVENT, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 1, 0, b"link.changed up=True link_epoch=7")

    assert float(benchmark.stats.stats.median) * 1e6 < LIMIT_US
