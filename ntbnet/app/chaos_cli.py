"""``ntbnet chaos``: faults of a scenario under checked traffic, and a verdict."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ntbnet.app import stop_request
from ntbnet.errors import ConfigError

DEFAULT_CHAOS_NAME = "ntbnet-chaos"

chaos_app = typer.Typer(
    help="Break a bridge of its own on purpose, under checked traffic, and judge what arrived.",
    no_args_is_help=True,
    add_completion=False,
)
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
NameOption = Annotated[str, typer.Option("--name", "-n", help="Name of the bridge that is broken.")]
SeedOption = Annotated[
    int, typer.Option("--seed", min=0, max=(1 << 53) - 1, help="Decides every choice; the same one repeats.")
]
FabricOption = Annotated[
    str | None, typer.Option("--fabric", metavar="FABRIC", help="local or message; the scenario's first one.")
]
ConfigOption = Annotated[
    str | None,
    typer.Option("--config", "-c", metavar="FILE", help="Configuration (TOML) that the scenario changes."),
]


def _say(text: str) -> None:
    err.print(text, markup=False, soft_wrap=True)


@chaos_app.command("list", epilog="Example: ntbnet chaos list --json | jq -r '.scenarios[].scenario'")
def list_(
    as_json: JsonOption = False,
    points: Annotated[bool, typer.Option("--points", help="The crash points instead.")] = False,
) -> None:
    """Show the scenarios that come with ntbnet, or the crash points."""
    from ntbnet.app import chaos_report, chaos_scenario
    from ntbnet.devices.crash_points import CRASH_POINTS

    if points:
        rows = [
            {"point": name, "what": row.what, "services": list(row.services), "fabric": row.fabric or "both"}
            for name, row in CRASH_POINTS.items()
        ]
        if as_json:
            print(json.dumps({"points": rows}, indent=2))
        else:
            chaos_report.show_points(rows, out)
        return
    found = [chaos_scenario.load(name).summary() for name in chaos_scenario.shipped()]
    if as_json:
        print(json.dumps({"scenarios": found}, indent=2))
    else:
        chaos_report.show_scenarios(found, out)


@chaos_app.command(
    epilog="Examples: ntbnet chaos run rolling-kill --seed 7 --plot kills.png; "
    "ntbnet chaos run ./mine.toml --fabric message --json | jq .verdict"
)
def run(
    scenario: Annotated[str, typer.Argument(help="Name of a shipped scenario, or the path of a .toml file.")],
    as_json: JsonOption = False,
    seed: SeedOption = 1,
    fabric: FabricOption = None,
    seconds: Annotated[
        int, typer.Option("--seconds", min=0, max=86400, help="Length of the fault phase; 0: the scenario's.")
    ] = 0,
    faults: Annotated[
        int, typer.Option("--faults", min=0, max=100000, help="Least number of faults; 0: the scenario's.")
    ] = 0,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE.png", help="Draw throughput, faults and recovery (matplotlib)."),
    ] = None,
    keep: Annotated[
        Path | None, typer.Option("--keep", metavar="DIR", help="Keep the history: traffic, faults, logs.")
    ] = None,
    config: ConfigOption = None,
    name: NameOption = DEFAULT_CHAOS_NAME,
) -> None:
    """Run a scenario on a bridge of its own and judge what was delivered.

    Exit code 0 when the verdict is ok; 1 when it is failed, or unknown because the test itself failed.
    """
    from ntbnet.app import chaos_plot, chaos_report, chaos_run, chaos_scenario
    from ntbnet.app.bench_plot import require_matplotlib

    if plot is not None:
        require_matplotlib(plot)
    loaded = chaos_scenario.load(scenario).length(seconds, faults)
    chosen = _fabric(fabric, loaded.fabrics, scenario)
    words = ["--seed", str(seed), "--fabric", chosen]
    words += ["--seconds", str(seconds)] if seconds else []
    words += ["--faults", str(faults)] if faults else []
    words += ["--config", config] if config else []
    again = shlex.join(["ntbnet", "chaos", "run", scenario, *words])
    wanted = chaos_run.Wanted(loaded, seed, chosen, name, chaos_run.read_tables(config), again)
    stop_request.hear()
    with chaos_run.history_folder(keep, seconds or 0) as folder:
        done = chaos_run.run(wanted, folder, _say)
        if keep is not None:
            _say(f"kept: {keep}")
    if plot is not None:
        chaos_plot.draw(done, plot)
        _say(f"drawn: {plot}")
    if as_json:
        print(json.dumps(done.as_json(), indent=2))
    else:
        chaos_report.show(done, out)
    raise typer.Exit(0 if done.judgement.verdict == "ok" else 1)


@chaos_app.command(
    epilog="Examples: ntbnet chaos sweep --json | jq .failed; ntbnet chaos sweep --point edma.list"
)
def sweep(
    as_json: JsonOption = False,
    seed: SeedOption = 1,
    fabric: Annotated[
        list[str] | None, typer.Option("--fabric", metavar="FABRIC", help="Only this one; may be repeated.")
    ] = None,
    point: Annotated[
        list[str] | None, typer.Option("--point", metavar="POINT", help="Only this one; may be repeated.")
    ] = None,
    keep: Annotated[
        Path | None, typer.Option("--keep", metavar="DIR", help="Keep the histories, one folder a bridge.")
    ] = None,
    name: NameOption = DEFAULT_CHAOS_NAME,
) -> None:
    """Kill a process just before and just after each named store to shared memory, under traffic.

    Exit code 0 when every point was survived, 1 otherwise.
    """
    from ntbnet.app import chaos_report, chaos_run, chaos_scenario, chaos_sweep

    fabrics = [_fabric(one, chaos_scenario.FABRICS, "a sweep") for one in fabric or chaos_scenario.FABRICS]
    words = ["--seed", str(seed)]
    words += [word for one in fabric or () for word in ("--fabric", one)]
    words += [word for one in point or () for word in ("--point", one)]
    again = shlex.join(["ntbnet", "chaos", "sweep", *words])
    stop_request.hear()
    with chaos_run.history_folder(keep) as folder:
        result = chaos_sweep.sweep(fabrics, point or (), seed, name, folder, _say, again)
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        chaos_report.show_sweep(result, out)
    raise typer.Exit(0 if result["verdict"] == "ok" else 1)


def _fabric(wanted: str | None, allowed: Iterable[str], who: str) -> str:
    fabrics = list(allowed)
    if wanted is None:
        return fabrics[0]
    if wanted not in fabrics:
        raise ConfigError(f"--fabric {wanted}: {who} allows {' and '.join(fabrics)}")
    return wanted
