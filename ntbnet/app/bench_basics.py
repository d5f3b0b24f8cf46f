"""``ntbnet bench basics``, ``startup`` and ``recovery``: what a bridge costs beside its traffic."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ntbnet.app import bench_budgets, bench_cost, bench_head
from ntbnet.app.bench_backends import (
    EDMA,
    POLLED,
    backend_configs,
    chosen,
    fabrics,
    with_fabric,
    write_config,
)
from ntbnet.app.bench_lab import Lab, Say, require_programs, veth_pair
from ntbnet.app.bench_latency import await_backend
from ntbnet.app.bench_recovery import recovery
from ntbnet.app.bench_samples import Samples
from ntbnet.app.bench_sockperf import ping_pong
from ntbnet.app.bench_traffic import tcp_bounds, throughput
from ntbnet.config import Config
from ntbnet.edge.idle_cores import awake

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


def basics(name: str, config: Config, plan: Plan, say: Say) -> dict[str, Any]:
    """Measure everything in ``plan``; what ``--json`` prints. The bridges are down then.

    Doorbells are polled, but for a second bridge, where the platform has an eDMA: TCP both ways once more.

    Raises:
        ConfigError: name or configuration is wrong.
        SetupError: a program is missing, the bridge does not start or work, or its name is taken.
    """
    require_programs()
    configs = backend_configs(config)
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab(name, write_config(configs[POLLED], Path(folder)), say)
        result = {**bench_head.head("basics", config), "settings": lab.settings()}
        try:
            result |= _startup(lab, plan)
            status = lab.bridge.status()
            say("sockperf ping-pong")
            result["latency"] = ping_pong(lab.direction("rc", "ep"), plan.latency_s)
            with awake(config.run.idle_cores != "halt"), veth_pair(name, lab.config.netdev.mtu) as veth:
                result["throughput"] = throughput(lab, veth, plan.rounds, plan.stream_s)
            entries = status["link"]["queues"][0]["rc"]["tx_max_entry"]
            result["tcp_bounds_gbit_s"] = tcp_bounds(lab.config, entries)
            result["recovery"] = recovery(lab, plan.killed, plan.kill_rounds)
        finally:
            say(f"stopping bridge {name}")
            lab.down()
        with_edma = _edma_throughput(name, configs, plan, say, Path(folder))
    bench_head.end(result)
    result["throughput_edma"] = with_edma
    result["unverified"] = result["throughput"].pop("unverified")
    if with_edma is not None:
        result["unverified"] += [f"{EDMA}: {text}" for text in with_edma.pop("unverified")]
    result["budgets"] = bench_budgets.as_json(bench_budgets.basics_rows(result))
    return result


def _edma_throughput(
    name: str, configs: Mapping[str, Config], plan: Plan, say: Say, folder: Path
) -> dict[str, Any] | None:
    """As ``throughput``, where nothing waits for a poll; None where the platform or layout has no eDMA."""
    if EDMA not in configs:
        return None
    lab = Lab(name, write_config(configs[EDMA], folder), say)
    try:
        say(f"starting bridge {name} with {EDMA}")
        lab.up()
        await_backend(lab, EDMA)
        with awake(lab.config.run.idle_cores != "halt"), veth_pair(name, lab.config.netdev.mtu) as veth:
            return throughput(lab, veth, plan.rounds, plan.stream_s)
    finally:
        say(f"stopping bridge {name}")
        lab.down()


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
        "startup", name, config, wanted, say, lambda lab: _startup(lab, plan), bench_budgets.startup_rows
    )


def kills(name: str, config: Config, plan: Plan, say: Say, wanted: Sequence[str] = ()) -> dict[str, Any]:
    """Recovery from SIGKILL on each fabric; what ``--json`` prints. Arguments and errors as ``startup``."""

    def measure(lab: Lab) -> dict[str, Any]:
        lab.up()
        return recovery(lab, plan.killed, plan.kill_rounds)

    return _each_fabric("recovery", name, config, wanted, say, measure, bench_budgets.recovery_rows)


def _each_fabric(
    bench: str,
    name: str,
    config: Config,
    wanted: Sequence[str],
    say: Say,
    measure: Callable[[Lab], dict[str, Any]],
    rows: Callable[[dict[str, Any]], list[bench_budgets.Row]],
) -> dict[str, Any]:
    chosen_fabrics = chosen(wanted, fabrics(), "fabric")
    require_programs(STARTUP_PROGRAMS)
    result = {**bench_head.head(bench, config), "results": [], "budgets": []}
    with tempfile.TemporaryDirectory() as folder:
        for fabric in chosen_fabrics:
            lab = Lab(name, write_config(with_fabric(config, fabric), Path(folder)), say)
            try:
                measured = measure(lab)
            finally:
                say(f"stopping bridge {name}")
                lab.down()
            result["results"].append({"fabric": fabric, "settings": lab.settings(), **measured})
            result["budgets"] += [{"fabric": fabric, **row} for row in bench_budgets.as_json(rows(measured))]
    bench_head.end(result)
    return result


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
