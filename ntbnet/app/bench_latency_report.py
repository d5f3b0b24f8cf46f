"""Our latencies beside the published ones, for people."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from rich.console import Console
from rich.table import Table

from ntbnet.app.bench_head import python_hint
from ntbnet.app.bench_hops import TOLERANCE
from ntbnet.app.bench_latencies import PUBLISHED, QUANTILES
from ntbnet.app.bench_report import show_budgets
from ntbnet.app.bench_tally import REFERENCES

FIGURES = {
    "avg_us": "average",
    "stddev_us": "std. deviation",
    "min_us": "min",
    **{key: f"p{share * 100:.8g}" for key, share in QUANTILES.items()},
    "max_us": "max",
}
COUNTS = {
    "samples": "samples",
    "dropped": "dropped",
    "duplicated": "duplicated",
    "out_of_order": "out of order",
}
RATIOS = {"ratio_to_veth": "p50 / veth", "ratio_to_pump": "p50 / pump"}
PINGS = {"min_ms": "ping min, ms", "avg_ms": "ping avg, ms", "max_ms": "ping max, ms"}
WIDTH = 160
"""Columns that the table of three backends, two fabrics and the references takes."""
PUBLISHED_RATIO = PUBLISHED[0]["avg_us"] / PUBLISHED[1]["avg_us"]


def show(result: Mapping[str, Any], console: Console) -> None:
    """The whole result; figures are not cut to fit a narrow ``console``, which gets longer lines instead."""
    console.width = max(console.width, WIDTH)
    about = result["machine"]
    one, five, _ = about["loadavg"]
    say = partial(console.print, markup=False, soft_wrap=True)
    say(
        f"{about['cores']} x {about['cpu']}, Linux {about['kernel']}, Python {about['python']}, "
        f"load {one:.1f} {five:.1f}, ntbnet {result['version']}"
    )
    if hint := python_hint(about):
        say(hint)
    say(
        f"profile {result['profile']}, RC to EP, UDP ping-pong by "
        f"{result['tool']}, {result['rounds']} x {result['seconds']} s; half a round trip in us"
    )
    say()
    say(_figures(result))
    say()
    _show_ratio(result, console)
    show_budgets(result["budgets"], console)
    for row in result["results"]:
        console.print()
        _show_hops(f"{row['fabric']} {row['backend']}", row["hops"], console)


def _figures(result: Mapping[str, Any]) -> Table:
    """One line for each figure; a backend's published column stands left of ours."""
    published = {row["backend"]: row for row in result["published"]}
    table = Table("", box=None)
    columns = []
    for row in result["results"]:
        if row["backend"] in published and row["fabric"] == result["fabrics"][0]:
            table.add_column(f"{row['backend']}\npublished", justify="right", style="dim")
            columns.append(published[row["backend"]])
        table.add_column(f"{row['backend']}\n{_verdict(row, row['fabric'])}", justify="right")
        columns.append(row)
    for name in REFERENCES:
        table.add_column(f"{name}\n{_verdict(result[name], 'measured')}", justify="right")
        columns.append(result[name])
    for key, name in FIGURES.items():
        table.add_row(name, *(f"{column[key]:.3f}" for column in columns))
    for key, name in RATIOS.items():
        rounds = [column["rounds"].get(key) if "rounds" in column else None for column in columns]
        table.add_row(name, *("" if found is None else f"{found['median']:.2f}" for found in rounds))
    for key, name in COUNTS.items():
        table.add_row(name, *(str(column[key]) for column in columns))
    for key, name in PINGS.items():
        pings = [column.get("ping", {}).get(key) for column in columns]
        table.add_row(name, *("" if value is None else f"{value:.2f}" for value in pings))
    return table


def _verdict(row: Mapping[str, Any], word: str) -> str:
    return word if row["valid"] else "INVALID"


def _show_ratio(result: Mapping[str, Any], console: Console) -> None:
    for fabric, ratio in result["ratios_polled_to_edma"].items():
        measured = "not measured" if ratio is None else f"{ratio:.1f}"
        console.print(
            f"{fabric}: polled / eDMA, averages: {measured} (published: {PUBLISHED_RATIO:.1f})", markup=False
        )


def _show_hops(backend: str, hops: Mapping[str, Any], console: Console) -> None:
    console.print(f"{backend}: where a round trip goes, medians of {hops['trips']} trips", markup=False)
    table = Table("hop", box=None)
    table.add_column("us", justify="right")
    table.add_column("share", justify="right")
    for row in hops["hops"]:
        table.add_row(row["hop"], f"{row['p50_us']:.1f}", f"{100 * row['p50_us'] / hops['sum_us']:.1f} %")
    table.add_row("sum", f"{hops['sum_us']:.1f}", "")
    console.print(table)
    verdict = "agrees with" if hops["agrees"] else f"is more than {100 * TOLERANCE:.0f} % off"
    console.print(
        f"the sum {verdict} the round trip of the same program, the built-in one, without a stopwatch, "
        f"{hops['round_trip_us']:.1f} us",
        markup=False,
        soft_wrap=True,
    )
