"""``ntbnet bench``: the figures that have a budget, measured on a bridge of the bench's own."""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

DEFAULT_BENCH_NAME = "ntbnet-bench"

bench_app = typer.Typer(help="Measure a bridge of the bench's own.", no_args_is_help=True)
err = Console(stderr=True, highlight=False)

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object, raw samples included.")]
NameOption = Annotated[str, typer.Option("--name", "-n", help="Name of the bench's bridge.")]
ConfigOption = Annotated[
    str | None,
    typer.Option("--config", "-c", metavar="FILE", help="Configuration (TOML); defaults without it."),
]
ProfileOption = Annotated[
    str | None, typer.Option("--profile", "-p", metavar="P", help="Platform: a profile's name or path.")
]
QuickOption = Annotated[
    bool, typer.Option("--quick", help="Few and short runs: shows that it works, measures little.")
]
FabricOption = Annotated[
    list[str] | None,
    typer.Option("--fabric", metavar="FABRIC", help="Only this fabric; may be repeated. All without it."),
]
PlotOption = Annotated[
    Path | None, typer.Option("--plot", metavar="FILE.png", help="Draw a picture too (needs matplotlib).")
]


def _say(text: str) -> None:
    err.print(text, markup=False, soft_wrap=True)


def _stop_on_sigterm() -> None:
    """Leave through every ``finally``, so that the bridge is stopped."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def _end(complaints: list[str]) -> None:
    """Exit code 1 when a figure does not count; says which."""
    for complaint in complaints:
        _say(f"invalid: {complaint}")
    raise typer.Exit(1 if complaints else 0)


@bench_app.callback()
def bench() -> None:
    """Measure a bridge of the bench's own."""


@bench_app.command(epilog="Example: ntbnet bench basics --json > basics.json")
def basics(
    as_json: JsonOption = False,
    name: NameOption = DEFAULT_BENCH_NAME,
    config: ConfigOption = None,
    quick: QuickOption = False,
) -> None:
    """Start-up, idle cost, polled latency, throughput, recovery beside their budgets; about three minutes.

    Exit code 0 when all was measured, whether or not within budget; 1 when it could not be, or the
    bridge's own counters contradict what iperf3 says.
    """
    from ntbnet.app import bench_basics, bench_report

    _stop_on_sigterm()
    plan = bench_basics.QUICK if quick else bench_basics.FULL
    result = bench_basics.basics(name, config, plan, _say)
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        bench_report.show(result, Console(highlight=False))
    raise typer.Exit(1 if result["unverified"] else 0)


@bench_app.command(epilog="Example: ntbnet bench startup --json | jq '.results[] | {fabric, startup_s}'")
def startup(
    as_json: JsonOption = False,
    fabric: FabricOption = None,
    profile: ProfileOption = None,
    name: NameOption = DEFAULT_BENCH_NAME,
    config: ConfigOption = None,
    quick: QuickOption = False,
) -> None:
    """Cold start to the first ping reply, imports, memory and idle cost; half a minute for each fabric."""
    from ntbnet.app import bench_basics, bench_report
    from ntbnet.app.bringup import load_whole_config

    _stop_on_sigterm()
    plan = bench_basics.QUICK if quick else bench_basics.FULL
    result = bench_basics.startup(name, load_whole_config(config, profile), plan, _say, fabric or ())
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        bench_report.show_fabrics(result, bench_report.startup_groups, Console(highlight=False))


@bench_app.command(epilog="Example: ntbnet bench recovery --fabric message --json > recovery.json")
def recovery(
    as_json: JsonOption = False,
    fabric: FabricOption = None,
    profile: ProfileOption = None,
    name: NameOption = DEFAULT_BENCH_NAME,
    config: ConfigOption = None,
    quick: QuickOption = False,
) -> None:
    """SIGKILL each service in turn until packets cross again; sixty kills, three minutes for each fabric."""
    from ntbnet.app import bench_basics, bench_report
    from ntbnet.app.bringup import load_whole_config

    _stop_on_sigterm()
    plan = bench_basics.QUICK if quick else bench_basics.RECOVERY
    result = bench_basics.kills(name, load_whole_config(config, profile), plan, _say, fabric or ())
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        bench_report.show_fabrics(result, bench_report.recovery_groups, Console(highlight=False))


@bench_app.command(
    epilog="Examples: ntbnet bench latency --plot latency.png; "
    "ntbnet bench latency --quick --json --profile generic | jq .ratio_polled_to_edma"
)
def latency(
    as_json: JsonOption = False,
    plot: PlotOption = None,
    fabric: FabricOption = None,
    profile: ProfileOption = None,
    name: NameOption = DEFAULT_BENCH_NAME,
    config: ConfigOption = None,
    quick: QuickOption = False,
) -> None:
    """Ping-pong over each fabric and interrupt backend, beside veth, pumps and the published figures.

    Two minutes for the references and one fabric, about one more for another. Exit code 0 when all was
    measured; 1 when it could not be, or a backend's own counters contradict the messages that were sent.
    """
    from ntbnet.app import bench_latency, bench_latency_report, bench_plot
    from ntbnet.app.bringup import load_whole_config

    if plot is not None:
        bench_plot.require_matplotlib(plot)
    _stop_on_sigterm()
    plan = bench_latency.QUICK if quick else bench_latency.FULL
    result, samples_us = bench_latency.run(name, load_whole_config(config, profile), plan, _say, fabric or ())
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        bench_latency_report.show(result, Console(highlight=False))
    if plot is not None:
        bench_plot.draw(result, samples_us, plot)
        _say(f"drawn: {plot}")
    _end(result["invalid"])


@bench_app.command(
    epilog="Examples: ntbnet bench throughput --plot tcp.png; "
    "ntbnet bench throughput --backend dw-edma-testirq --mtu 1500 --direction 'rc->ep' --rounds 5 --json"
)
def throughput(
    as_json: JsonOption = False,
    plot: PlotOption = None,
    fabric: FabricOption = None,
    backend: Annotated[
        list[str] | None, typer.Option("--backend", metavar="B", help="Only this one; may be repeated.")
    ] = None,
    mtu: Annotated[
        list[int] | None, typer.Option("--mtu", min=1280, max=65510, help="Instead of 1500 and 65510.")
    ] = None,
    direction: Annotated[
        list[str] | None, typer.Option("--direction", metavar="D", help="rc->ep or ep->rc; both without it.")
    ] = None,
    protocol: Annotated[
        list[str] | None, typer.Option("--protocol", metavar="P", help="tcp or udp; both without it.")
    ] = None,
    streams: Annotated[
        list[int] | None, typer.Option("--streams", min=1, max=64, help="Instead of 1 and 4.")
    ] = None,
    rounds: Annotated[int | None, typer.Option("--rounds", min=1, help="Runs of each transfer.")] = None,
    seconds: Annotated[int | None, typer.Option("--seconds", min=1, help="Length of a transfer.")] = None,
    profile: ProfileOption = None,
    name: NameOption = DEFAULT_BENCH_NAME,
    config: ConfigOption = None,
    quick: QuickOption = False,
) -> None:
    """iperf3 over each fabric and backend, both ways, beside veth; about three minutes for each fabric.

    Exit code 0 when all was measured; 1 when it could not be, or the bridge's own counters contradict
    what iperf3 says.
    """
    from ntbnet.app import bench_plot, bench_throughput, bench_throughput_report
    from ntbnet.app.bench_backends import chosen
    from ntbnet.app.bringup import load_whole_config

    if plot is not None:
        bench_plot.require_matplotlib(plot)
    _stop_on_sigterm()
    plan = bench_throughput.QUICK if quick else bench_throughput.FULL
    plan = replace(
        plan,
        fabrics=fabric or (),
        backends=backend or (),
        only_default_backend=plan.only_default_backend and not backend,
        mtus=sorted(set(mtu or plan.mtus)),
        directions=chosen(direction or (), bench_throughput.DIRECTIONS, "direction"),
        protocols=chosen(protocol or (), bench_throughput.PROTOCOLS, "protocol"),
        streams=sorted(set(streams or plan.streams)),
        rounds=rounds or plan.rounds,
        seconds=seconds or plan.seconds,
    )
    result = bench_throughput.run(name, load_whole_config(config, profile), plan, _say)
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        bench_throughput_report.show(result, Console(highlight=False))
    if plot is not None:
        bench_plot.draw_throughput(result, plot)
        _say(f"drawn: {plot}")
    _end(result["invalid"])


@bench_app.command(
    epilog="Examples: ntbnet bench micro --json | jq '.ring.frames_per_s.median'; ntbnet bench micro --curves"
)
def micro(
    as_json: JsonOption = False,
    curves: Annotated[
        bool, typer.Option("--curves", help="Cost of a packet with 1 to 4 queues, 1 to 10 bridges, too.")
    ] = False,
    name: NameOption = DEFAULT_BENCH_NAME,
    quick: QuickOption = False,
) -> None:
    """The parts beside what Python can do without them: pumps, stores, interrupts, small frames; a minute.

    The curves take four minutes more.

    Exit code 0 when all was measured; 1 when it could not be, or what arrived is not what was sent.
    """
    from ntbnet.app import bench_curves, bench_micro, bench_micro_report

    _stop_on_sigterm()
    plan, of_curves = bench_micro.FULL, bench_curves.FULL
    if quick:
        plan, of_curves = bench_micro.QUICK, bench_curves.QUICK
    result = bench_micro.run(name, plan, _say, of_curves if curves else None)
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        bench_micro_report.show(result, Console(highlight=False))
    _end(result["invalid"])


@bench_app.command(epilog="Example: ntbnet bench compare before.json after.json")
def compare(
    before: Annotated[Path, typer.Argument(metavar="A.json", help="What a bench printed with --json.")],
    after: Annotated[Path, typer.Argument(metavar="B.json", help="What the same bench printed later.")],
    as_json: JsonOption = False,
) -> None:
    """The same figures of two runs side by side; what differs by more than both spreads is marked."""
    from ntbnet.app import bench_compare

    rows: list[dict[str, Any]] = bench_compare.compare(
        bench_compare.read_result(before), bench_compare.read_result(after)
    )
    if as_json:
        print(json.dumps({"before": str(before), "after": str(after), "figures": rows}, indent=2))
    else:
        bench_compare.show(rows, Console(highlight=False))
