"""``ntbnet bench``: the figures that have a budget, measured on a bridge of the bench's own."""

from __future__ import annotations

import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
    from ntbnet.app.bench_lab import Lab

DEFAULT_BENCH_NAME = "ntbnet-bench"

bench_app = typer.Typer(help="Measure a bridge of the bench's own.", no_args_is_help=True)
err = Console(stderr=True, highlight=False)

NameOption = Annotated[str, typer.Option("--name", "-n", help="Name of the bench's bridge.")]
ConfigOption = Annotated[
    str | None,
    typer.Option("--config", "-c", metavar="FILE", help="Configuration (TOML); defaults without it."),
]
QuickOption = Annotated[
    bool, typer.Option("--quick", help="Few and short runs: shows that it works, measures little.")
]


def _say(text: str) -> None:
    err.print(text, markup=False, soft_wrap=True)


def _stop_on_sigterm() -> None:
    """Leave through every ``finally``, so that the bridge is stopped."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    startups: int
    import_runs: int
    idle_windows: int
    idle_window_s: float
    latency_s: int
    rounds: int
    stream_s: int
    kill_rounds: int
    killed: tuple[str, ...]


FULL = Plan(
    startups=5,
    import_runs=5,
    idle_windows=5,
    idle_window_s=2.0,
    latency_s=10,
    rounds=3,
    stream_s=3,
    kill_rounds=2,
    killed=("rc-host", "epc", "edma", "peer-rc", "peer-ep"),
)
QUICK = Plan(
    startups=1,
    import_runs=1,
    idle_windows=2,
    idle_window_s=0.5,
    latency_s=1,
    rounds=1,
    stream_s=1,
    kill_rounds=1,
    killed=("peer-ep",),
)


def run(name: str, config_path: str | None, plan: Plan, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure everything in ``plan`` with polled doorbells; what ``--json`` prints. The bridge is down then.

    Raises:
        ConfigError: name or configuration is wrong.
        SetupError: a program is missing, the bridge does not start or work, or its name is taken.
    """
    from ntbnet.app.bench_backends import POLLED, backend_configs, write_config
    from ntbnet.app.bench_lab import Lab, require_programs
    from ntbnet.edge.startup import load_config

    require_programs()
    polled = backend_configs(load_config(config_path))[POLLED]
    with tempfile.TemporaryDirectory() as folder:
        return _measure(Lab(name, write_config(polled, Path(folder)), say), plan)


def _measure(lab: Lab, plan: Plan) -> dict[str, Any]:
    from ntbnet import __version__
    from ntbnet.app import bench_cost, bench_report
    from ntbnet.app.bench_lab import veth_pair
    from ntbnet.app.bench_recovery import recovery
    from ntbnet.app.bench_samples import Samples
    from ntbnet.app.bench_sockperf import ping_pong
    from ntbnet.app.bench_traffic import tcp_bounds, throughput

    name, say = lab.name, lab.say
    result: dict[str, Any] = {
        "bench": "basics",
        "version": __version__,
        "wall": time.time(),
        "machine": bench_report.machine(),
        "settings": lab.settings(),
    }
    startups = []
    try:
        for number in range(plan.startups):
            lab.down()
            say(f"starting bridge {name}, run {number + 1} of {plan.startups}")
            startups.append(lab.up())
        result["startup_s"] = Samples.of(startups).as_json()
        status = lab.bridge.status()
        pids = bench_cost.service_pids(status)
        result["private_bytes"] = bench_cost.memory(name, pids)
        say("idle")
        idle = bench_cost.idle_cost(pids, plan.idle_windows, plan.idle_window_s)
        result["idle_percent"] = {service: samples.as_json() for service, samples in idle.items()}
        say("importing the services")
        imports = bench_cost.import_times(plan.import_runs)
        result["imports_ms"] = {module: samples.as_json() for module, samples in imports.items()}
        say("sockperf ping-pong")
        result["latency"] = ping_pong(lab.direction("rc", "ep"), plan.latency_s)
        with veth_pair(name, lab.config.netdev.mtu) as veth:
            result["throughput"] = throughput(lab, veth, plan.rounds, plan.stream_s)
        entries = status["link"]["queues"][0]["rc"]["tx_max_entry"]
        result["tcp_bounds_gbit_s"] = tcp_bounds(lab.config, entries)
        result["recovery"] = recovery(lab, plan.killed, plan.kill_rounds)
    finally:
        say(f"stopping bridge {name}")
        lab.down()
    result["machine"]["loadavg_after"] = bench_report.machine()["loadavg"]
    result["unverified"] = result["throughput"].pop("unverified")
    result["budgets"] = bench_report.as_json(bench_report.rows(result))
    return result


@bench_app.callback()
def bench() -> None:
    """Measure a bridge of the bench's own."""


@bench_app.command(epilog="Example: ntbnet bench basics --json > basics.json")
def basics(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object, raw samples included.")
    ] = False,
    name: NameOption = DEFAULT_BENCH_NAME,
    config: ConfigOption = None,
    quick: QuickOption = False,
) -> None:
    """Start-up, idle cost, polled latency, throughput, recovery beside their budgets; about three minutes.

    Exit code 0 when all was measured, whether or not within budget; 1 when it could not be, or the
    bridge's own counters contradict what iperf3 says.
    """
    from ntbnet.app import bench_report

    _stop_on_sigterm()
    result = run(name, config, QUICK if quick else FULL, _say)
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        bench_report.show(result, Console(highlight=False))
    raise typer.Exit(1 if result["unverified"] else 0)


@bench_app.command(
    epilog="Examples: ntbnet bench latency --plot latency.png; "
    "ntbnet bench latency --quick --json --profile generic | jq .ratio_polled_to_edma"
)
def latency(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE.png", help="Draw the distributions (needs matplotlib)."),
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option("--profile", "-p", metavar="P", help="Platform: a profile's name or path."),
    ] = None,
    name: NameOption = DEFAULT_BENCH_NAME,
    config: ConfigOption = None,
    quick: QuickOption = False,
) -> None:
    """Ping-pong over each interrupt backend, beside veth and the published figures; about two minutes.

    Exit code 0 when all was measured; 1 when it could not be, or a backend's own counters contradict
    the messages that were sent.
    """
    from ntbnet.app import bench_latency, bench_latency_report, bench_plot
    from ntbnet.edge.startup import load_config

    if plot is not None:
        bench_plot.require_matplotlib(plot)
    _stop_on_sigterm()
    plan = bench_latency.QUICK if quick else bench_latency.FULL
    result, samples_us = bench_latency.run(name, load_config(config, profile), plan, _say)
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        bench_latency_report.show(result, Console(highlight=False))
    if plot is not None:
        bench_plot.draw(result, samples_us, plot)
        _say(f"drawn: {plot}")
    for complaint in result["invalid"]:
        _say(f"invalid: {complaint}")
    raise typer.Exit(1 if result["invalid"] else 0)
