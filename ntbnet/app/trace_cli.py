"""``ntbnet trace``: trace everything for a while, and see what a bridge did before it failed."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from ntbnet.app import trace_export
from ntbnet.app.bridge import Bridge
from ntbnet.app.trace_blackbox import Blackbox
from ntbnet.app.trace_control import MAX_RECORDS, RECORDS, start_trace, stop_trace, trace_status
from ntbnet.edge.config_file import DEFAULT_NAME, load_config
from ntbnet.edge.rundir import RunDir
from ntbnet.errors import ConfigError, SetupError
from ntbnet.trace_records import RECORD_BYTES

MAX_SECONDS = 86400.0

trace_app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Trace every access, interrupt and packet; flight recorder.",
)

NameOption = Annotated[str, typer.Option("--name", "-n", help="Name of the bridge.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
LastOption = Annotated[bool, typer.Option("--last", help=trace_export.LAST_HELP)]
ConfigOption = Annotated[
    str | None, typer.Option("--config", "-c", metavar="FILE", help="Configuration that has its run folder.")
]


@trace_app.command(epilog="Example: ntbnet trace start --records 200000")
def start(
    records: Annotated[
        int,
        typer.Option(
            "--records",
            help=f"Records of each service's ring, {RECORD_BYTES} bytes each; new ones replace the oldest.",
        ),
    ] = RECORDS,
    name: NameOption = DEFAULT_NAME,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Trace everything from now on, in services that start later as well, until `ntbnet trace stop`."""
    if not 1 <= records <= MAX_RECORDS:
        raise ConfigError(f"--records {records}: allowed are 1..{MAX_RECORDS}")
    bridge = _running(name, config)
    start_trace(bridge, records)
    _show_status(bridge, as_json=as_json)


@trace_app.command(epilog="Example: ntbnet trace stop")
def stop(name: NameOption = DEFAULT_NAME, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Trace no more. What was traced stays in shared memory, until the next start or `ntbnet down`."""
    bridge = _running(name, config)
    stop_trace(bridge)
    _show_status(bridge, as_json=as_json)


@trace_app.command(epilog="Example: ntbnet trace status --json")
def status(name: NameOption = DEFAULT_NAME, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """What is being traced, and how much was."""
    _show_status(_running(name, config), as_json=as_json)


@trace_app.command(
    epilog="Examples: ntbnet trace blackbox --seconds 2; after a crash and a new ntbnet up: "
    "ntbnet trace blackbox --last"
)
def blackbox(
    seconds: Annotated[
        float, typer.Option("--seconds", "-s", help="How much of the end of each process is shown.")
    ] = 5.0,
    last: LastOption = False,
    name: NameOption = DEFAULT_NAME,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """The last seconds of every service, of those that were killed too, in one order of time."""
    if not 0 < seconds <= MAX_SECONDS:
        raise ConfigError(f"--seconds {seconds:g}: allowed are more than 0, up to {MAX_SECONDS:g}")
    bridge = _bridge(name, config)
    folder = bridge.run.last_trace_folder if last else bridge.run.trace_folder
    box = Blackbox(bridge.run, seconds, folder)
    if not box.rings:
        raise SetupError(f"bridge {name} has left no trace in {folder}")
    if as_json:
        box.write_json(sys.stdout)
    else:
        box.write_text(sys.stdout)


trace_app.command(epilog=trace_export.EXAMPLES)(trace_export.export)


def _bridge(name: str, config_path: str | None) -> Bridge:
    config = load_config(config_path)
    return Bridge(RunDir(config.run.dir, name), config)


def _running(name: str, config_path: str | None) -> Bridge:
    bridge = _bridge(name, config_path)
    if not bridge.is_up():
        raise SetupError(f"bridge {name} is not up; start it with: ntbnet up --name {name}")
    return bridge


def _show_status(bridge: Bridge, *, as_json: bool) -> None:
    state = trace_status(bridge)
    if as_json:
        print(json.dumps(state, indent=2))
        return
    print(f"trace: {'on' if state['on'] else 'off'}")
    for service in state["services"]:
        print(_line_of(service))


def _line_of(service: dict[str, Any]) -> str:
    line = f"  {service['service']:8} {service['level']:6}"
    if service["records"] is not None:
        replaced = f", {service['overwritten']} replaced by newer ones" if service["overwritten"] else ""
        line += f" {service['records']} records{replaced}"
    return line
