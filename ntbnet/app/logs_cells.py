"""Failures and hops as rows of a table, for terminal and report."""

from __future__ import annotations

from ntbnet.app.log_latency import Hop
from ntbnet.app.log_timeline import Failure
from ntbnet.app.logs_text import bare

HOP_TITLES = ("what", "hop", "count", "min, us", "p50, us", "p90, us", "p99, us", "p99.9, us", "max, us")
FAILURE_TITLES = (
    "service",
    "what",
    "at, s",
    "detected, ms",
    "restarted, ms",
    "ready, ms",
    "link up, ms",
    "first packet, ms",
    "link",
)


def failure_cells(failure: Failure) -> list[str]:
    """Cells under ``FAILURE_TITLES``."""
    steps = (
        failure.detected_ns,
        failure.restarted_ns,
        failure.ready_ns,
        failure.usable_ns,
        failure.first_packet_ns,
    )
    times = [failure.ms(step) for step in steps]
    at_s = (failure.fault_ns - failure.mono_offset_ns) / 1e9
    cells = ["-" if one is None else f"{one:.1f}" for one in times]
    link = "lost" if failure.link_lost else "kept"
    return [bare(failure.service), bare(failure.kind), f"{at_s:.3f}", *cells, link]


def hop_cells(hop: Hop) -> list[str]:
    """Cells under ``HOP_TITLES``."""
    figures = hop.spread.to_dict()
    return [hop.sort, hop.name, str(figures.pop("count")), *(f"{one:.1f}" for one in figures.values())]
