"""The parts of a bridge beside their references, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from ntbnet.app.bench_report import Group, show_budgets, show_machine, show_samples

FIGURES = {
    "p50_us": ("p50", "us"),
    "avg_us": ("average", "us"),
    "ratio_to_veth": ("p50 / veth", ""),
    "store_gbyte_s": ("store", "GB/s"),
    "memcpy_gbyte_s": ("memcpy", "GB/s"),
    "eventfd_p50_us": ("beside eventfd, p50", "us"),
    "ratio": ("ratio", ""),
}
"""Name and unit of each key under ``rounds``."""


def show(result: Mapping[str, Any], console: Console) -> None:
    """The whole result."""
    show_machine(result["machine"], console)
    groups = []
    for name, row in result["ping_pong"].items():
        groups += _groups(f"ping-pong {name}", row["rounds"])
    for row in result["stores"]:
        groups += _groups(f"{row['bytes'] >> 10} KiB", row["rounds"])
    for row in result["interrupts"]:
        groups += _groups(f"interrupt {row['fabric']}", row["rounds"])
    ring = result["ring"]
    groups.append(
        (f"frames of {ring['payload_bytes']} B, batches of {ring['batch']}", "/s", ring["frames_per_s"])
    )
    for curve in ("queues", "bridges"):
        for row in result.get("curves", {}).get(curve, ()):
            what = f"{curve} {row[curve]}, processor time for a packet, x{row['ratio_to_first']:g}"
            groups.append((what, "us", row["us_per_packet"]))
    show_samples(groups, console)
    show_budgets(result["budgets"], console)


def _groups(name: str, rounds: Mapping[str, Any]) -> list[Group]:
    named = [(*FIGURES[key], samples) for key, samples in rounds.items()]
    return [(f"{name}, {figure}", unit, samples) for figure, unit, samples in named]
