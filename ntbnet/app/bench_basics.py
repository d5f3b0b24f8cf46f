"""``ntbnet bench basics``, ``startup`` and ``recovery``: what a bridge costs beside its traffic."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ntbnet import __version__
from ntbnet.app import bench_cost, bench_report
from ntbnet.app.bench_backends import POLLED, backend_configs, chosen, fabrics, with_fabric, write_config
from ntbnet.app.bench_lab import Lab, require_programs, veth_pair
from ntbnet.app.bench_recovery import recovery
from ntbnet.app.bench_samples import Samples
from ntbnet.app.bench_sockperf import ping_pong
from ntbnet.app.bench_traffic import tcp_bounds, throughput
from ntbnet.config import Config
from ntbnet.edge.startup import load_config

STARTUP_PROGRAMS = ("ip", "ping")


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


RECOVERY = replace(FULL, kill_rounds=12)
"""Sixty kills."""

Say = Callable[[str], None]


def basics(name: str, config_path: str | None, plan: Plan, say: Say) -> dict[str, Any]:
    """Measure everything in ``plan`` with polled doorbells; what ``--json`` prints. The bridge is down then.

    Raises:
        ConfigError: name or configuration is wrong.
        SetupError: a program is missing, the bridge does not start or work, or its name is taken.
    """
    require_programs()
    polled = backend_configs(load_config(config_path))[POLLED]
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab(name, write_config(polled, Path(folder)), say)
        result = {**_head("basics"), "settings": lab.settings()}
        try:
            result |= _startup(lab, plan)
            status = lab.bridge.status()
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


def startup(name: str, config: Config, plan: Plan, say: Say, wanted: Sequence[str] = ()) -> dict[str, Any]:
    """Cold start, imports, memory and idle cost on each fabric; what ``--json`` prints.

    Args:
        name: of the bridge, which is down then.
        config: what those of the fabrics are made from.
        plan: how much is measured.
        say: told in words what happens.
        wanted: fabrics; all there are, when empty.

    Raises:
        ConfigError: the name or a fabric is wrong.
        SetupError: a program is missing, the bridge does not start, or its name is taken.
    """
    return _each_fabric(
        "startup", name, config, wanted, say, lambda lab: _startup(lab, plan), bench_report.startup_rows
    )


def kills(name: str, config: Config, plan: Plan, say: Say, wanted: Sequence[str] = ()) -> dict[str, Any]:
    """Recovery from SIGKILL on each fabric; what ``--json`` prints. Arguments and errors as ``startup``."""

    def measure(lab: Lab) -> dict[str, Any]:
        lab.up()
        return recovery(lab, plan.killed, plan.kill_rounds)

    return _each_fabric("recovery", name, config, wanted, say, measure, bench_report.recovery_rows)


def _each_fabric(
    bench: str,
    name: str,
    config: Config,
    wanted: Sequence[str],
    say: Say,
    measure: Callable[[Lab], dict[str, Any]],
    rows: Callable[[dict[str, Any]], list[bench_report.Row]],
) -> dict[str, Any]:
    chosen_fabrics = chosen(wanted, fabrics(), "fabric")
    require_programs(STARTUP_PROGRAMS)
    result = {**_head(bench), "results": [], "budgets": []}
    with tempfile.TemporaryDirectory() as folder:
        for fabric in chosen_fabrics:
            lab = Lab(name, write_config(with_fabric(config, fabric), Path(folder)), say)
            try:
                measured = measure(lab)
            finally:
                say(f"stopping bridge {name}")
                lab.down()
            result["results"].append({"fabric": fabric, "settings": lab.settings(), **measured})
            result["budgets"] += [{"fabric": fabric, **row} for row in bench_report.as_json(rows(measured))]
    result["machine"]["loadavg_after"] = bench_report.machine()["loadavg"]
    return result


def _head(bench: str) -> dict[str, Any]:
    return {"bench": bench, "version": __version__, "wall": time.time(), "machine": bench_report.machine()}


def _startup(lab: Lab, plan: Plan) -> dict[str, Any]:
    """The bridge is up then."""
    startups = []
    for number in range(plan.startups):
        lab.down()
        lab.say(f"starting bridge {lab.name}, run {number + 1} of {plan.startups}")
        startups.append(lab.up())
    pids = bench_cost.service_pids(lab.bridge.status())
    memory = bench_cost.memory(lab.name, pids)
    lab.say("idle")
    idle = bench_cost.idle_cost(pids, plan.idle_windows, plan.idle_window_s)
    lab.say("importing the services")
    imports = bench_cost.import_times(plan.import_runs)
    return {
        "startup_s": Samples.of(startups).as_json(),
        "private_bytes": memory,
        "idle_percent": {service: samples.as_json() for service, samples in idle.items()},
        "imports_ms": {module: samples.as_json() for module, samples in imports.items()},
    }
