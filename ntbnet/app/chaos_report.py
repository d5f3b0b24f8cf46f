"""What the chaos commands print for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from ntbnet.app.chaos_run import Done

SHOWN_PROBLEMS = 20
COLOURS = {"ok": "green", "failed": "red", "unknown": "yellow"}


def show_scenarios(rows: Sequence[Mapping[str, Any]], out: Console) -> None:
    """The scenarios."""
    table = Table("scenario", "fabrics", "what is done", box=None)
    for row in rows:
        table.add_row(row["scenario"], " ".join(row["fabrics"]), row["description"])
    out.print(table)


def show_points(rows: Sequence[Mapping[str, Any]], out: Console) -> None:
    """The crash points."""
    table = Table("crash point", "fabric", "services", "what is stored", box=None)
    for row in rows:
        table.add_row(row["point"], row["fabric"], " ".join(row["services"]) or "-", row["what"])
    out.print(table)


def show(done: Done, out: Console) -> None:
    """One run: verdict, recoveries by service, what arrived, problems, how to repeat it."""
    result = done.as_json()
    verdict = result["verdict"]
    out.print(
        f"{result['scenario']}, seed {result['seed']}, fabric {result['fabric']}: "
        f"[{COLOURS[verdict]}]{verdict}[/]"
    )
    recovery = result["recovery_ms"]
    if recovery["p50"] is not None:
        table = Table("recovery, ms", "p50", "p99", "max", box=None)
        rows = {**recovery["by_service"], "all": {key: recovery[key] for key in ("p50", "p99", "max")}}
        for name, figures in rows.items():
            table.add_row(name, *(f"{figures[key]:.1f}" for key in ("p50", "p99", "max")))
        out.print(table)
    tcp = {True: "every byte", False: "not every byte", None: "none"}[result["tcp_ok"]]
    table = Table(
        "faults",
        "injected",
        "sent",
        "delivered",
        "lost",
        "damaged",
        "twice",
        "out of order",
        "leaks",
        "TCP",
        box=None,
    )
    keys = ("faults", "injected", "sent", "delivered", "lost", "damaged", "duplicated", "misordered", "leaks")
    table.add_row(*(str(result[key]) for key in keys), tcp)
    out.print(table)
    waits = result["cpu_wait_ms"]
    if waits is not None:
        out.print(
            f"waits for a CPU: {waits['total'] / 1000:.1f} s, {waits['max']:.0f} ms at once at most, "
            f"{waits['stolen'] / 1000:.1f} s stolen; {result['allowed_for_cpu_wait']} limits were met only so"
        )
    for problem in result["problems"][:SHOWN_PROBLEMS]:
        out.print(problem, markup=False, soft_wrap=True)
    more = len(result["problems"]) - SHOWN_PROBLEMS
    if more > 0:
        out.print(f"and {more} more problems: see --json")
    out.print(f"repeat: {result['repeat']}", markup=False, soft_wrap=True)


def show_sweep(result: Mapping[str, Any], out: Console) -> None:
    """A sweep: by point, then what failed."""
    table = Table("crash point", "fabric", "service", "survived", "recovery, ms", box=None)
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for row in result["results"]:
        groups.setdefault((row["point"], row["fabric"], row["service"]), []).append(row)
    for (point, fabric, service), rows in groups.items():
        survived = sum(row["survived"] for row in rows)
        times = [f"{row['when']} {row['recovery_ms']}" for row in rows if row["recovery_ms"] is not None]
        table.add_row(point, fabric, service, f"{survived} of {len(rows)}", ", ".join(times))
    out.print(table)
    for row in result["results"]:
        for problem in row["problems"][:3]:
            out.print(
                f"{row['point']} {row['when']}, {row['service']}, {row['fabric']}: {problem}", markup=False
            )
    for problem in result["problems"]:
        out.print(problem, markup=False, soft_wrap=True)
    if result["unreached"]:
        out.print(f"no service comes to: {', '.join(result['unreached'])}", soft_wrap=True)
    verdict = result["verdict"]
    out.print(f"survived {result['survived']} of {result['points']}: [{COLOURS[verdict]}]{verdict}[/]")
    out.print(f"repeat: {result['repeat']}", markup=False, soft_wrap=True)
