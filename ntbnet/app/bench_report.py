"""Results of ``basics``, ``startup`` and ``recovery`` for people; budgets and machine of every bench."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from ntbnet.app.bench_budgets import MIB
from ntbnet.app.bench_head import python_hint
from ntbnet.app.bench_samples import Samples


def show(result: Mapping[str, Any], console: Console) -> None:
    """The whole result, for people."""
    settings = result["settings"]
    show_machine(result["machine"], console)
    console.print(
        f"profile {settings['profile']}, fabric {settings['fabric']} over {settings['transport']}, "
        f"MTU {settings['mtu']}, ntbnet {result['version']}",
        markup=False,
    )
    show_budgets(result["budgets"], console)
    console.print()
    _show_spread(result, console)
    _show_latency(result["latency"], console)
    _show_bounds(result, console)
    for complaint in result["unverified"]:
        console.print(f"DOES NOT COUNT: {complaint}", markup=False)


def show_machine(about: Mapping[str, Any], console: Console) -> None:
    """The machine, in a line."""
    one, five, _ = about["loadavg"]
    console.print(
        f"{about['cores']} x {about['cpu']}, Linux {about['kernel']}, Python {about['python']}, "
        f"load {one:.1f} {five:.1f}, TCP {about['tcp_congestion']}",
        markup=False,
        soft_wrap=True,
    )
    if hint := python_hint(about):
        console.print(hint, markup=False, soft_wrap=True)


def show_budgets(rows: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Rows as ``--json`` has them; nothing when there is none."""
    if not rows:
        return
    budgets = Table("measured", "", "", "budget", "ratio", "", box=None)
    for row in rows:
        verdict = "within" if row["within"] else "missed" if row["is_wish"] else "MISSED"
        if row["within"] is None:
            verdict = f"not judged: {row['why']}"
        budget = f"{'wish ' if row['is_wish'] else ''}{row['budget']}"
        measured = "none" if row["measured"] is None else f"{row['measured']:g}"
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
        budgets.add_row(row["what"], measured, row["unit"], budget, ratio, verdict)
    console.print(budgets)


def _show_spread(result: Mapping[str, Any], console: Console) -> None:
    tcp = result["throughput"]
    groups = startup_groups(result)
    groups += [(f"TCP {name}", "Gbit/s", item) for name, item in tcp["gbit_s"].items()]
    groups += [(f"TCP {name} to veth", "", item) for name, item in tcp["ratio_to_veth"].items()]
    with_edma = result["throughput_edma"] or {"gbit_s": {}, "ratio_to_veth": {}}
    groups += [(f"TCP {name}, eDMA bridge", "Gbit/s", item) for name, item in with_edma["gbit_s"].items()]
    for name, item in with_edma["ratio_to_veth"].items():
        groups.append((f"TCP {name} to veth, eDMA", "", item))
    show_samples(groups + recovery_groups(result["recovery"]), console)


Group = tuple[str, str, Mapping[str, Any]]
"""What was measured, its unit, and its Samples as JSON."""


def startup_groups(result: Mapping[str, Any]) -> list[Group]:
    """Of a result with cold starts, imports, memory and idle cost."""
    groups: list[Group] = [("cold start", "s", result["startup_s"])]
    groups += [(f"import {name}", "ms", item) for name, item in result["imports_ms"].items()]
    groups += [(f"idle {name}", "%", item) for name, item in result["idle_percent"].items()]
    private_mib = {name: Samples.of([size / MIB], 1) for name, size in result["private_bytes"].items()}
    return groups + [(f"private memory {name}", "MiB", one.as_json()) for name, one in private_mib.items()]


def recovery_groups(recovery: Mapping[str, Any]) -> list[Group]:
    """Of kills."""
    return [(f"SIGKILL {name}", "ms", item) for name, item in recovery["service_ms"].items()]


def show_samples(groups: Sequence[Group], console: Console) -> None:
    """Spread of each."""
    table = Table("samples", "n", "min", "median", "max", "unit", box=None)
    for name, unit, samples in groups:
        figures = (f"{samples[key]:g}" for key in ("min", "median", "max"))
        table.add_row(name, str(samples["n"]), *figures, unit)
    console.print(table)
    console.print()


def show_fabrics(
    groups: Callable[[Mapping[str, Any]], Sequence[Group]], result: Mapping[str, Any], console: Console
) -> None:
    """A result with one part for each fabric."""
    show_machine(result["machine"], console)
    for row in result["results"]:
        console.print(f"fabric {row['fabric']}, profile {row['settings']['profile']}", markup=False)
        show_samples(groups(row), console)
    show_budgets([{**row, "what": f"{row['fabric']}: {row['what']}"} for row in result["budgets"]], console)


def _show_latency(latency: Mapping[str, Any], console: Console) -> None:
    figures = ", ".join(f"p{float(name):g} {value:.0f}" for name, value in latency["percentiles_us"].items())
    console.print(
        f"ping-pong, half a round trip in us: {figures}, max {latency['max_us']:.0f}; "
        f"average {latency['average_us']:.2f}, std-dev {latency['std_dev_us']:.0f}, n {latency['n']}",
        markup=False,
    )


def _show_bounds(result: Mapping[str, Any], console: Console) -> None:
    mbit_s = {way: 1000 * gbit_s for way, gbit_s in result["tcp_bounds_gbit_s"].items()}
    median = {way: 1000 * samples["median"] for way, samples in result["throughput"]["gbit_s"].items()}
    console.print(
        f"RC->EP waits for the doorbell poll: {mbit_s['rc->ep_whole_ring']:.0f} Mbit/s with a whole ring "
        f"each time; the queue stops before, which leaves {mbit_s['rc->ep']:.0f}; "
        f"measured {median['rc->ep']:.0f}.",
        markup=False,
    )
    bound = mbit_s.get("ep->rc")
    console.print(
        "EP->RC: its acknowledgements wait for the doorbell poll"
        if bound is None
        else f"EP->RC waits for the transmit timer on the kernel tick: at most {bound:.0f} Mbit/s",
        end=f"; measured {median['ep->rc']:.0f}.\n",
        markup=False,
    )
