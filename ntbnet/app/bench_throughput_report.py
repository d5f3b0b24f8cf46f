"""Throughput beside veth, for people."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from rich.console import Console
from rich.table import Table

from ntbnet.app.bench_report import show_budgets, show_machine

WIDTH = 140


def show(result: Mapping[str, Any], console: Console) -> None:
    """The whole result; a narrow ``console`` gets longer lines."""
    console.width = max(console.width, WIDTH)
    say = partial(console.print, markup=False, soft_wrap=True)
    show_machine(result["machine"], console)
    say(
        f"profile {result['profile']}, iperf3, what the receiver got, {result['rounds']} x "
        f"{result['seconds']} s, ntbnet {result['version']}; medians (least..greatest)"
    )
    say()
    table = Table("fabric", "backend", "mtu", "load", "direction", box=None)
    for heading in ("Gbit/s", "veth", "ratio"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for row in result["results"]:
        table.add_row(
            row["fabric"],
            row["backend"],
            str(row["mtu"]),
            f"{row['protocol']} x{row['streams']}",
            row["direction"],
            *(_spread(row["rounds"][key]) for key in ("gbit_s", "veth_gbit_s", "ratio")),
            _verdict(row, result["rounds"]),
        )
    console.print(table)
    say()
    show_budgets(result["budgets"], console)


def _verdict(row: Mapping[str, Any], rounds: int) -> str:
    if not row["valid"]:
        return "INVALID"
    refused = row["invalid_rounds"]
    return f"without {refused} of {rounds} rounds: INVALID" if refused else ""


def _spread(samples: Mapping[str, Any]) -> str:
    return f"{samples['median']:.3f} ({samples['min']:.3f}..{samples['max']:.3f})"
