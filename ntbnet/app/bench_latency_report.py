"""Our latencies beside the published ones, for people."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from rich.console import Console
from rich.table import Table

from ntbnet.app.bench_hops import TOLERANCE
from ntbnet.app.bench_latencies import PUBLISHED, QUANTILES

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
PINGS = {"min_ms": "ping min, ms", "avg_ms": "ping avg, ms", "max_ms": "ping max, ms"}
WIDTH = 104
"""Columns that the table of three backends takes."""
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
    say(
        f"profile {result['profile']}, fabric {result['fabric']}, RC to EP, UDP ping-pong by "
        f"{result['tool']}, {result['rounds']} x {result['seconds']} s; half a round trip in us"
    )
    say()
    say(_figures(result))
    say()
    _show_ratio(result, console)
    for row in result["results"]:
        console.print()
        _show_hops(row["backend"], row["hops"], console)


def _figures(result: Mapping[str, Any]) -> Table:
    """One line for each figure; a backend's published column stands left of ours."""
    published = {row["backend"]: row for row in result["published"]}
    table = Table("", box=None)
    columns = []
    for row in result["results"]:
        if row["backend"] in published:
            table.add_column(f"{row['backend']}\npublished", justify="right", style="dim")
            columns.append(published[row["backend"]])
        table.add_column(f"{row['backend']}\n{_verdict(row)}", justify="right")
        columns.append(row)
    table.add_column(f"veth\n{_verdict(result['veth'])}", justify="right")
    columns.append(result["veth"])
    for key, name in FIGURES.items():
        table.add_row(name, *(f"{column[key]:.3f}" for column in columns))
    for key, name in COUNTS.items():
        table.add_row(name, *(str(column[key]) for column in columns))
    for key, name in PINGS.items():
        pings = [column.get("ping", {}).get(key) for column in columns]
        table.add_row(name, *("" if value is None else f"{value:.2f}" for value in pings))
    return table


def _verdict(row: Mapping[str, Any]) -> str:
    return "measured" if row["valid"] else "INVALID"


def _show_ratio(result: Mapping[str, Any], console: Console) -> None:
    ratio = result["ratio_polled_to_edma"]
    measured = "not measured" if ratio is None else f"{ratio:.1f}"
    console.print(f"polled / eDMA, averages: {measured} (published: {PUBLISHED_RATIO:.1f})", markup=False)


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
