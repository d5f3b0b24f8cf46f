"""Figures beside their budgets, and the machine they were taken on."""

from __future__ import annotations

import os
import platform
import sys
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ntbnet.app.bench_samples import Samples

REFERENCE_LATENCY_US = 5995.68
"""sockperf ping-pong average of the RFC series, TCP 14 B, doorbells polled every 5 ms at HZ=250."""
LATENCY_TOLERANCE = 0.05
STARTUP_BUDGET_S = 2.0
IMPORT_BUDGET_MS = 150.0
MEMORY_BUDGET_MIB = 40.0
IDLE_BUDGET_PERCENT = 2.0
RECOVERY_P50_BUDGET_MS = 250.0
RECOVERY_WORST_BUDGET_MS = 1000.0
BOUND_TOLERANCE = 0.05
"""A polled direction faster than its bound by more than that was not polled."""
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    what: str
    measured: float
    unit: str
    budget: str
    ratio: float
    """Measured to budget."""
    within: bool
    is_wish: bool = False
    """Beyond the budget: nobody was promised it."""

    @classmethod
    def wish(cls, row: Row) -> Row:
        """The same as something wished for."""
        return replace(row, is_wish=True)

    @classmethod
    def at_most(cls, what: str, measured: float, unit: str, budget: float) -> Row:
        """Less is better."""
        return cls(what, measured, unit, f"<= {budget:g}", round(measured / budget, 3), measured <= budget)

    @classmethod
    def at_least(cls, what: str, measured: float, unit: str, budget: float) -> Row:
        """More is better."""
        return cls(what, measured, unit, f">= {budget:g}", round(measured / budget, 3), measured >= budget)

    @classmethod
    def near(cls, what: str, measured: float, unit: str, target: float, tolerance: float) -> Row:
        """Neither more nor less."""
        ratio = measured / target
        budget = f"{target:g} +-{100 * tolerance:g} %"
        return cls(what, measured, unit, budget, round(ratio, 3), abs(ratio - 1) <= tolerance)


def startup_rows(result: Mapping[str, Any]) -> list[Row]:
    """Of a result with cold starts, imports, memory and idle cost."""
    imports = max(samples["median"] for samples in result["imports_ms"].values())
    private_mib = round(max(result["private_bytes"].values()) / MIB, 2)
    idle_percent = result["idle_percent"]["total"]["median"]
    return [
        Row.at_most("cold start to first ping reply", result["startup_s"]["median"], "s", STARTUP_BUDGET_S),
        Row.at_most("imports, slowest service", imports, "ms", IMPORT_BUDGET_MS),
        Row.at_most("private memory, largest service", private_mib, "MiB", MEMORY_BUDGET_MIB),
        Row.at_most("idle, five services", idle_percent, "% of a core", IDLE_BUDGET_PERCENT),
    ]


def recovery_rows(recovery: Mapping[str, Any]) -> list[Row]:
    """Of kills."""
    every = recovery["all_ms"]
    return [
        Row.at_most("recovery from SIGKILL, p50", every["median"], "ms", RECOVERY_P50_BUDGET_MS),
        Row.at_most("recovery from SIGKILL, worst", every["max"], "ms", RECOVERY_WORST_BUDGET_MS),
    ]


def rows(result: Mapping[str, Any]) -> list[Row]:
    """Every budget that ``result``, of ``bench basics``, has a figure for.

    There is none for EP->RC: its acknowledgements wait for the doorbell poll.
    """
    tcp, bounds = result["throughput"], result["tcp_bounds_gbit_s"]
    down_gbit_s = tcp["gbit_s"]["rc->ep"]["median"]
    return [
        *startup_rows(result),
        Row.near(
            "TCP 14 B ping-pong, average",
            result["latency"]["average_us"],
            "us",
            REFERENCE_LATENCY_US,
            LATENCY_TOLERANCE,
        ),
        Row.at_most(
            "TCP RC->EP, polled",
            down_gbit_s,
            "Gbit/s",
            round(bounds["rc->ep_whole_ring"] * (1 + BOUND_TOLERANCE), 4),
        ),
        *recovery_rows(result["recovery"]),
    ]


def machine() -> dict[str, Any]:
    """What figures depend on beyond ntbnet."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "python_build": python_build(sysconfig.get_config_vars()),
        "loadavg": list(os.getloadavg()),
        "tcp_congestion": _first_line("/proc/sys/net/ipv4/tcp_congestion_control"),
        "keeps_bytecode": not sys.dont_write_bytecode,
    }


def python_build(variables: Mapping[str, Any]) -> str:
    """How the interpreter was built, as far as its own build variables say.

    Returns:
        ``optimised``: with a profile; ``distribution``: a package in /usr, whose maker may have used one
        without a trace; ``plain``: without.
    """
    flags = " ".join(str(variables.get(name, "")) for name in ("CONFIG_ARGS", "PY_CFLAGS", "PY_CORE_CFLAGS"))
    if "--enable-optimizations" in flags or "-fprofile-use" in flags:
        return "optimised"
    return "distribution" if variables.get("prefix") == "/usr" else "plain"


def python_hint(about: Mapping[str, Any]) -> str:
    """A line about an interpreter that makes every figure worse; empty when there is nothing to say."""
    if about.get("python_build") != "plain":
        return ""
    return (
        "this Python was built without --enable-optimizations: one with them, as of a distribution, is faster"
    )


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.machine())


def _first_line(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None


def as_json(table: list[Row]) -> list[dict[str, Any]]:
    """The rows for ``--json``."""
    return [asdict(row) for row in table]


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
        budget = f"{'wish ' if row['is_wish'] else ''}{row['budget']}"
        budgets.add_row(
            row["what"], f"{row['measured']:g}", row["unit"], budget, f"{row['ratio']:.2f}", verdict
        )
    console.print(budgets)


def _show_spread(result: Mapping[str, Any], console: Console) -> None:
    tcp = result["throughput"]
    groups = startup_groups(result)
    groups += [(f"TCP {name}", "Gbit/s", item) for name, item in tcp["gbit_s"].items()]
    groups += [(f"TCP {name} to veth", "", item) for name, item in tcp["ratio_to_veth"].items()]
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
    result: Mapping[str, Any], groups: Callable[[Mapping[str, Any]], Sequence[Group]], console: Console
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
