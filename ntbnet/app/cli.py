"""The ``ntbnet`` command."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer
from rich.console import Console
from rich.table import Table

from ntbnet import __version__
from ntbnet.app import exits
from ntbnet.app.bridge import Bridge
from ntbnet.app.lazy_group import LazyGroup
from ntbnet.config import Config, to_toml, warnings
from ntbnet.edge.config_file import DEFAULT_NAME, load_config
from ntbnet.edge.node import exec_in_node, spec_from
from ntbnet.edge.rundir import RunDir
from ntbnet.errors import ConfigError, NtbnetError, SetupError

LINK_TIMEOUT_S = 15.0
REFUSALS_S = 2.0
"""How often it is looked why the other machine does not join, seconds."""


class _Commands(LazyGroup):
    """Those of this module, and what is in modules of their own."""

    elsewhere: ClassVar[Mapping[str, str]] = {
        "keys": "ntbnet.app.keys_cli:app",
        "logs": "ntbnet.app.logs_cli:app",
        "bench": "ntbnet.app.bench:bench_app",
        "chaos": "ntbnet.app.chaos_cli:chaos_app",
        "layout": "ntbnet.app.layout_cli:layout_app",
        "link": "ntbnet.app.link_cli:app",
        "reset": "ntbnet.app.link_cli:reset_app",
        "explain": "ntbnet.app.layout_cli:explain_app",
        "trace": "ntbnet.app.trace_cli:trace_app",
        "top": "ntbnet.app.top_cli:app",
    }


app = typer.Typer(
    name="ntbnet",
    cls=_Commands,
    help="Two hosts joined by an emulated PCIe Non-Transparent Bridge.",
    epilog="First steps: ntbnet demo; or: ntbnet up --detach, ntbnet ping, ntbnet down.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
config_app = typer.Typer(help="Check and show configurations.", no_args_is_help=True)
app.add_typer(config_app, name="config")

ConfigOption = Annotated[
    str | None,
    typer.Option("--config", "-c", metavar="FILE", help="Configuration (TOML); defaults without it."),
]
LongConfigOption = Annotated[
    str | None,
    typer.Option("--config", metavar="FILE", help="Configuration it was started with, for its run.dir."),
]
NameOption = Annotated[str, typer.Option("--name", "-n", help="Name of the bridge; several may run at once.")]
ProfileOption = Annotated[
    str | None,
    typer.Option(
        "--profile", "-p", metavar="P", help="Platform: a profile's name or path; replaces the file's."
    ),
]
NodeOption = Annotated[
    str | None,
    typer.Option(
        "--node", metavar="rc|ep", help="Run this node only; the other one is on another machine ([machine])."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"ntbnet {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Two hosts joined by an emulated PCIe Non-Transparent Bridge."""


def say(text: str) -> None:
    """One line for people, on stderr."""
    err.print(text, markup=False, soft_wrap=True)


def _bridge(
    name: str, config_path: str | None = None, profile: str | None = None, node: str | None = None
) -> Bridge:
    config = load_config(config_path, profile, node)
    run = RunDir(config.run.dir, name)
    if run.exists() and not os.access(run.path, os.R_OK | os.W_OK | os.X_OK):
        raise SetupError(f"bridge {name} belongs to another user (run folder {run.path}); run as root")
    return Bridge(run, config)


def _print_json(value: dict[str, Any]) -> None:
    print(json.dumps(value, indent=2))


@app.command(
    epilog="Example: ntbnet up -c deploy/ntbnet.toml --detach; one node: up -c ntbnet-rc.toml --node rc"
)
def up(
    config: ConfigOption = None,
    profile: ProfileOption = None,
    node: NodeOption = None,
    name: NameOption = DEFAULT_NAME,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return once the link is up.")] = False,
    ready_fd: Annotated[int, typer.Option(hidden=True)] = -1,
) -> None:
    """Start the two nodes and the five services, or one node; runs until Ctrl-C or `ntbnet down`."""
    if node is not None:
        _check_node("--node", node)
    wanted = load_config(config, profile, node)
    bridge = _bridge(name, config, profile, node)
    for warning in warnings(bridge.config if bridge.is_up() else wanted):
        say(f"warning: {warning}")
    if bridge.is_up():
        record = bridge.run.read_run()
        pid = record.supervisor.pid if record else "?"
        say(f"bridge {name} is already up (process {pid}); its configuration stays as it is")
        _tell(ready_fd, {"ok": True})
        return
    if wanted.is_apart:
        from ntbnet.edge.keys import load_ring

        load_ring(wanted)
    if detach:
        _start_detached(config, profile, node, name)
        return
    import asyncio

    try:
        asyncio.run(_run_supervisor(bridge, wanted, config, ready_fd))
    except NtbnetError as problem:
        _tell(ready_fd, {"ok": False, "error": str(problem), "code": exits.code_of(problem)})
        raise


def _tell(ready_fd: int, body: dict[str, Any]) -> None:
    if ready_fd >= 0:
        os.write(ready_fd, json.dumps(body).encode() + b"\n")


async def _run_supervisor(bridge: Bridge, config: Config, config_path: str | None, ready_fd: int) -> None:
    import asyncio

    from ntbnet.app.bringup import running, unless_stopped
    from ntbnet.app.interrupts import interrupt_lines
    from ntbnet.app.supervisor import Supervisor

    name = bridge.run.name
    supervisor = Supervisor(config, bridge.run, config_path, say)
    say(f"starting bridge {name}: profile {config.profile.name}, fabric {config.bridge.fabric}")
    async with running(bridge, supervisor) as removed:
        loop = asyncio.get_running_loop()
        wait = partial(bridge.wait_for_link, LINK_TIMEOUT_S, lambda: supervisor.is_stopping)
        if config.is_apart:
            await unless_stopped(supervisor, loop.run_in_executor(None, partial(wait, ours=True)))
            said = f"node {config.machine.node} runs here, the other one at {config.machine.peer}"
            say(said)
            _tell(ready_fd, {"ok": True, "said": [*removed, said]})
            if ready_fd >= 0:  # nobody reads what is said from here on
                await supervisor.wait_for_stop()
                return
            wait = partial(_wait_for_the_other, bridge, lambda: supervisor.is_stopping)
        status = await unless_stopped(supervisor, loop.run_in_executor(None, wait))
        say(f"link is up, epoch {status['link']['epoch']}")
        lines = [] if config.is_apart else interrupt_lines(status)
        for line in lines:
            say(line)
        say(f"try: ntbnet ping --name {name}    stop: Ctrl-C or ntbnet down --name {name}")
        if not config.is_apart:
            _tell(ready_fd, {"ok": True, "said": removed, "interrupts": lines})
        await supervisor.wait_for_stop()


def _wait_for_the_other(bridge: Bridge, given_up: Callable[[], bool]) -> dict[str, Any]:
    """Status once the other machine has joined, however long that takes; says why it is refused."""
    told: set[str] = set()
    while True:
        try:
            return bridge.wait_for_link(REFUSALS_S, given_up, pause_s=0.5)
        except SetupError:
            refusals = bridge.status()["machine"]["refusals"]
            for reason in refusals:
                if reason not in told:
                    say(f"refused: {reason}")
            told.update(refusals)


def _start_detached(config: str | None, profile: str | None, node: str | None, name: str) -> None:
    """Run ``up`` in a session of its own, and wait until it says how it went."""
    from ntbnet.app.forks import child_environment

    read_fd, write_fd = os.pipe()
    command = [sys.executable, "-m", "ntbnet.app.entry", "up", "--name", name, "--ready-fd", str(write_fd)]
    if config is not None:
        command += ["--config", config]
    if profile is not None:
        command += ["--profile", profile]
    if node is not None:
        command += ["--node", node]
    with err.status(f"starting bridge {name}"):
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=(write_fd,),
            start_new_session=True,
            env=child_environment(),
        )
        os.close(write_fd)
        with os.fdopen(read_fd, "rb") as pipe:
            line = pipe.readline()
    body = json.loads(line) if line else {}
    for text in body.get("said", ()):
        say(text)
    if body.get("ok"):
        for text in body.get("interrupts", ()):
            say(text)
        say(f"bridge {name} is up; stop it with: ntbnet down --name {name}")
        return
    # it may still be ending: what it started is gone only when it is
    words = child.communicate()[1].decode(errors="replace").strip().splitlines()
    error = body.get("error") or (words[-1] if words else "it ended without a word")
    raise ConfigError(error) if body.get("code") == 2 else SetupError(error)


@app.command(epilog="Example: ntbnet down --name lab")
def down(name: NameOption = DEFAULT_NAME, config: ConfigOption = None) -> None:
    """Stop the bridge and remove everything of it: processes, nodes, memory, run folder."""
    bridge = _bridge(name, config)
    if not bridge.run.exists():
        say(f"bridge {name} is not up; nothing to do")
        return
    was_up = bridge.is_up()
    with err.status(f"stopping bridge {name}"):
        done = bridge.down()
    if was_up:
        say(f"bridge {name} is down")
    else:
        say(f"bridge {name} was not up; removed what a killed run left: {', '.join(done)}")


@app.command(epilog="Example: ntbnet status --json | jq .link.epoch")
def status(name: NameOption = DEFAULT_NAME, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Show services, link and counters. Exit code 0 when the bridge is up, 1 otherwise."""
    state = _bridge(name, config).status()
    if as_json:
        _print_json(state)
    else:
        _print_status(state)
    raise typer.Exit(0 if state["state"] == "up" else 1)


def _print_status(state: dict[str, Any]) -> None:
    from ntbnet.app.interrupts import interrupt_lines
    from ntbnet.app.link_cli import said_of

    link = state["link"]
    out.print(f"bridge {state['name']}: {state['state']}   {said_of(link)}")
    if state["state"] == "down":
        return
    out.print(f"profile: {state['profile']}   fabric: {state['fabric']}   run folder: {state['folder']}")
    if state["machine"]["peer"]:
        out.print(
            f"node {state['machine']['nodes'][0]} runs here, the other one at {state['machine']['peer']}"
        )
    for reason in state["machine"]["refusals"]:
        out.print(f"refused: {reason}", markup=False, soft_wrap=True)
    for line in interrupt_lines(state) if state["machine"]["peer"] is None else ():
        # one of two machines cannot tell: only the side that is rung knows its backend
        out.print(line, markup=False, soft_wrap=True)
    table = Table("service", "node", "pid", "epoch", "restarts", "state", "up for", box=None)
    for service in state["services"]:
        uptime = "" if service["uptime_s"] is None else f"{service['uptime_s']:.1f} s"
        pid = "" if service["pid"] is None else str(service["pid"])
        table.add_row(
            service["name"],
            service["node"],
            pid,
            str(service["epoch"]),
            str(service["restarts"]),
            service["state"],
            uptime,
        )
    out.print(table)
    out.print(_window_table(state["windows"]))
    for queue in link["queues"]:
        table = Table(f"queue {queue['queue']}: {queue['state']}", "rc", "ep", box=None)
        for counter in queue["rc"] or queue["ep"]:
            table.add_row(counter, *(str(queue[node].get(counter, "")) for node in ("rc", "ep")))
        out.print(table)


def _window_table(windows: dict[str, list[dict[str, Any]]]) -> Table:
    """Inbound windows as the controller has them now, wired ones included."""
    rows = [row for row in windows["actual"] if row["direction"] == "inbound"]
    table = Table("inbound window", "BAR", "by", "from", "to", "leads to", "state", box=None)
    for row in rows:
        table.add_row(
            "-" if row["mode"] == "wired" else str(row["index"]),
            str(row["bar"]),
            row["mode"],
            *(f"{int(row[key], 16):#x}" for key in ("base", "limit")),
            f"{int(row['target'], 16):#x}" if row["target"] else "",
            "stale" if row["stale"] else "",
        )
    return table


def _require(program: str, package: str) -> None:
    if shutil.which(program) is None:
        raise SetupError(f"{program} is not installed; apt-get install {package}")


def _require_up(bridge: Bridge) -> Config:
    if not bridge.is_up():
        raise SetupError(
            f"bridge {bridge.run.name} is not up; start it with: ntbnet up --name {bridge.run.name}"
        )
    return bridge.config


@app.command(epilog="Example: ntbnet ping -c 5 --from ep -6")
def ping(
    name: NameOption = DEFAULT_NAME,
    count: Annotated[
        int, typer.Option("--count", "-c", min=1, max=1_000_000, help="Echo requests to send.")
    ] = 4,
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="rc|ep", help="Node that sends; rc, or the one that runs here."),
    ] = None,
    ipv6: Annotated[bool, typer.Option("-6", help="IPv6 instead of IPv4.")] = False,
    config_path: LongConfigOption = None,
) -> None:
    """Ping from one node to the other, with the system's own ping. Exit code as ping's."""
    bridge = _bridge(name, config_path)
    config = _require_up(bridge)
    source = source or config.nodes[0]
    _check_node("--from", source)
    _check_here(config, source)
    _require("ping", "iputils-ping")
    peer = config.node.ep if source == "rc" else config.node.rc
    address = (peer.ipv6 if ipv6 else peer.ipv4).partition("/")[0]
    exec_in_node(spec_from(config, name, source), ["ping", "-c", str(count), address])


def _check_node(what: str, node: str) -> None:
    if node not in ("rc", "ep"):
        raise ConfigError(f"{what} {node}: allowed are rc and ep")


def _check_here(config: Config, node: str) -> None:
    if node not in config.nodes:
        raise SetupError(f"node {node} runs on the other machine, {config.machine.peer}; run this there")


@app.command(
    name="exec",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    epilog="Example: ntbnet exec ep -- iperf3 -s -1",
)
def exec_(
    context: typer.Context,
    node: Annotated[str, typer.Argument(metavar="rc|ep", help="Node to run it in.")],
    name: NameOption = DEFAULT_NAME,
    config_path: LongConfigOption = None,
) -> None:
    """Run any program inside a node; exit code is the program's. Put `--` before the program."""
    bridge = _bridge(name, config_path)
    config = _require_up(bridge)
    _check_node("node", node)
    _check_here(config, node)
    if not context.args:
        raise ConfigError("no program given; example: ntbnet exec rc -- ip addr")
    program = context.args[0]
    if shutil.which(program) is None:
        if Path(program).exists():
            raise SetupError(f"{program} is not an executable file")
        package = PACKAGES.get(program)
        how = f"; apt-get install {package}" if package else ""
        raise SetupError(f"{program} is not installed{how}")
    exec_in_node(spec_from(config, name, node), context.args)


PACKAGES = {
    "ping": "iputils-ping",
    "iperf3": "iperf3",
    "sockperf": "sockperf",
    "tcpdump": "tcpdump",
    "ip": "iproute2",
    "ssh": "openssh-client",
}
"""Debian packages of programs people run in nodes."""


@app.command(epilog="Example: ntbnet demo --json")
def demo(
    as_json: JsonOption = False,
    config: ConfigOption = None,
    profile: ProfileOption = None,
    count: Annotated[int, typer.Option("--count", min=1, max=10_000, help="Pings for each direction.")] = 10,
) -> None:
    """Start a bridge of its own, ping both ways over IPv4 and IPv6, transfer 64 MiB each way, stop."""
    import asyncio

    from ntbnet.app import demo as demo_module
    from ntbnet.app.bringup import load_whole_config

    _require("ping", "iputils-ping")
    try:
        result = asyncio.run(demo_module.run(load_whole_config(config, profile), count, say))
    except asyncio.CancelledError:  # SIGTERM; everything is removed by now
        raise typer.Exit(143) from None
    if as_json:
        _print_json(result)
    else:
        demo_module.show(result, out)
    raise typer.Exit(0 if result["ok"] else 1)


@config_app.command("check", epilog="Example: ntbnet config check deploy/ntbnet.toml")
def config_check(file: Annotated[str, typer.Argument(help="Configuration to check.")]) -> None:
    """Say whether a configuration is right; one line naming key, value and range when it is not."""
    config = load_config(file)
    for warning in warnings(config):
        say(f"warning: {warning}")
    out.print(f"{file}: good (profile {config.profile.name})", markup=False)


@config_app.command("show", epilog="Example: ntbnet config show > ntbnet.toml")
def config_show(config: ConfigOption = None) -> None:
    """Print the whole configuration, defaults included, as TOML."""
    print(to_toml(load_config(config)), end="")


def main() -> None:
    """Entry point; see ``exits``."""
    exits.run(app)


if __name__ == "__main__":
    main()
