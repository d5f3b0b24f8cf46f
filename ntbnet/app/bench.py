"""``ntbnet bench``: the figures that have a budget, measured on a bridge of the bench's own."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ntbnet.app.bench_options import Options, measuring, say

bench_app = typer.Typer(
    help="Measure a bridge of the bench's own.", no_args_is_help=True, add_completion=False
)


@bench_app.callback()
def bench() -> None:
    """Measure a bridge of the bench's own."""


@measuring(bench_app, "plot", "fabric", epilog="Example: ntbnet bench basics --json > basics.json")
def basics(options: Options) -> dict[str, Any]:
    """Start-up, idle cost, polled latency, throughput, recovery beside their budgets; about three minutes.

    Exit code 0 when all was measured, whether or not within budget; 1 when it could not be, or the
    bridge's own counters contradict what iperf3 says.
    """
    from ntbnet.app import bench_basics, bench_report

    plan = bench_basics.QUICK if options.quick else bench_basics.FULL
    result = bench_basics.basics(options.name, options.load_config(), plan, say)
    options.print(result, bench_report.show)
    return result


@measuring(
    bench_app, "plot", epilog="Example: ntbnet bench startup --json | jq '.results[] | {fabric, startup_s}'"
)
def startup(options: Options) -> dict[str, Any]:
    """Cold start to the first ping reply, imports, memory and idle cost; half a minute for each fabric."""
    from ntbnet.app import bench_basics, bench_report

    plan = bench_basics.QUICK if options.quick else bench_basics.FULL
    result = bench_basics.startup(options.name, options.load_config(), plan, say, options.fabric or ())
    options.print(result, partial(bench_report.show_fabrics, bench_report.startup_groups))
    return result


@measuring(bench_app, "plot", epilog="Example: ntbnet bench recovery --fabric message --json > recovery.json")
def recovery(options: Options) -> dict[str, Any]:
    """SIGKILL each service in turn until packets cross again; sixty kills, three minutes for each fabric."""
    from ntbnet.app import bench_basics, bench_report

    plan = bench_basics.QUICK if options.quick else bench_basics.RECOVERY
    result = bench_basics.kills(options.name, options.load_config(), plan, say, options.fabric or ())
    options.print(result, partial(bench_report.show_fabrics, bench_report.recovery_groups))
    return result


@measuring(
    bench_app,
    epilog="Examples: ntbnet bench latency --plot latency.png; "
    "ntbnet bench latency --quick --json --profile generic | jq .ratio_polled_to_edma",
)
def latency(options: Options) -> dict[str, Any]:
    """Ping-pong over each fabric and interrupt backend, beside veth, pumps and the published figures.

    Two minutes for the references and one fabric, about one more for another. Exit code 0 when all was
    measured; 1 when it could not be, or a backend's own counters contradict the messages that were sent.
    """
    from ntbnet.app import bench_latency, bench_latency_report, bench_plot

    plan = bench_latency.QUICK if options.quick else bench_latency.FULL
    config, fabrics = options.load_config(), options.fabric or ()
    result, samples_us = bench_latency.run(options.name, config, plan, say, fabrics)
    options.print(result, bench_latency_report.show)
    options.draw(partial(bench_plot.draw, result, samples_us))
    return result


@measuring(
    bench_app,
    epilog="Examples: ntbnet bench throughput --plot tcp.png; "
    "ntbnet bench throughput --backend dw-edma-testirq --mtu 1500 --direction 'rc->ep' --rounds 5 --json",
)
def throughput(
    options: Options,
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
) -> dict[str, Any]:
    """iperf3 over each fabric and backend, both ways, beside veth; three and a half minutes for each fabric.

    Exit code 0 when all was measured; 1 when it could not be, or the bridge's own counters contradict
    what iperf3 says.
    """
    from ntbnet.app import bench_plot, bench_throughput, bench_throughput_report
    from ntbnet.app.bench_backends import chosen

    plan = bench_throughput.QUICK if options.quick else bench_throughput.FULL
    plan = replace(
        plan,
        fabrics=options.fabric or (),
        backends=backend or (),
        only_default_backend=plan.only_default_backend and not backend,
        mtus=sorted(set(mtu or plan.mtus)),
        directions=chosen(direction or (), bench_throughput.DIRECTIONS, "direction"),
        protocols=chosen(protocol or (), bench_throughput.PROTOCOLS, "protocol"),
        streams=sorted(set(streams or plan.streams)),
        rounds=rounds or plan.rounds,
        seconds=seconds or plan.seconds,
    )
    result = bench_throughput.run(options.name, options.load_config(), plan, say)
    options.print(result, bench_throughput_report.show)
    options.draw(partial(bench_plot.draw_throughput, result))
    return result


@measuring(
    bench_app,
    "plot",
    "fabric",
    "profile",
    "config",
    epilog="Examples: ntbnet bench micro --json | jq '.ring.frames_per_s.median'; "
    "ntbnet bench micro --curves",
)
def micro(
    options: Options,
    curves: Annotated[
        bool, typer.Option("--curves", help="Cost of a packet with 1 to 4 queues, 1 to 10 bridges, too.")
    ] = False,
) -> dict[str, Any]:
    """The parts beside what Python can do without them: pumps, stores, interrupts, small frames; a minute.

    The curves take two minutes more.

    Exit code 0 when all was measured; 1 when it could not be, or what arrived is not what was sent.
    """
    from ntbnet.app import bench_curves, bench_micro, bench_micro_report

    plan, of_curves = bench_micro.FULL, bench_curves.FULL
    if options.quick:
        plan, of_curves = bench_micro.QUICK, bench_curves.QUICK
    result = bench_micro.run(options.name, plan, say, of_curves if curves else None)
    options.print(result, bench_micro_report.show)
    return result


@bench_app.command(epilog="Example: ntbnet bench compare before.json after.json")
def compare(
    before: Annotated[Path, typer.Argument(metavar="A.json", help="What a bench printed with --json.")],
    after: Annotated[Path, typer.Argument(metavar="B.json", help="What the same bench printed later.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """The same figures of two runs side by side; what differs by more than both spreads is marked.

    Warns of what else is not the same: machine, Python, profile, fabrics, configuration.
    """
    from ntbnet.app import bench_compare

    results = bench_compare.read_result(before), bench_compare.read_result(after)
    rows, warned = bench_compare.compare(*results), bench_compare.warnings(*results)
    if as_json:
        about = {"before": str(before), "after": str(after), "warnings": warned}
        print(json.dumps({**about, "figures": rows}, indent=2))
    else:
        bench_compare.show(rows, warned, Console(highlight=False))
