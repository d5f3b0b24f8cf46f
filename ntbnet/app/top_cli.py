"""The command ``ntbnet top``; its library is imported when it runs."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from functools import partial
from typing import Annotated

import typer

from ntbnet.app.bridge import Bridge
from ntbnet.app.top_actions import Actions
from ntbnet.app.top_latency import Latencies
from ntbnet.app.top_snapshot import take_snapshot
from ntbnet.app.top_view import view_of
from ntbnet.edge.config_file import DEFAULT_NAME, load_config
from ntbnet.edge.rundir import RunDir
from ntbnet.errors import ConfigError, SetupError

app = typer.Typer(add_completion=False)


@app.command(epilog="Example: ntbnet top --name lab --interval 0.5")
def top(
    name: Annotated[str, typer.Option("--name", "-n", help="Name of the bridge.")] = DEFAULT_NAME,
    interval: Annotated[
        float, typer.Option("--interval", "-i", min=0.1, max=60, help="Seconds between two looks.")
    ] = 1.0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Look twice, print what changed as one JSON object, and end.")
    ] = False,
    config: Annotated[
        str | None,
        typer.Option("--config", "-c", metavar="FILE", help="Configuration that has its run folder."),
    ] = None,
) -> None:
    """Watch a running bridge: processes, link, queues, interrupts, events; keys kill, stop and flap."""
    loaded = load_config(config)
    bridge = Bridge(RunDir(loaded.run.dir, name), loaded)
    if not bridge.is_up():
        raise SetupError(f"bridge {name} is not up; start it with: ntbnet up --name {name}")
    if as_json:
        _print_once(bridge, interval)
        return
    try:
        from ntbnet.app.top import Top
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] != "textual":
            raise
        raise ConfigError(
            "ntbnet top needs textual, which is not installed: pip install 'ntbnet[top]'"
        ) from None
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise ConfigError("ntbnet top needs a terminal; without one: ntbnet top --json, or ntbnet status")
    Top(partial(take_snapshot, bridge, Latencies(bridge.run)), Actions(bridge), interval).run()


def _print_once(bridge: Bridge, interval_s: float) -> None:
    latencies = Latencies(bridge.run)
    before = take_snapshot(bridge, latencies)
    time.sleep(interval_s)  # what is printed is how much happens in that time
    print(json.dumps(dataclasses.asdict(view_of(before, take_snapshot(bridge, latencies))), indent=2))
