"""``ntbnet link`` and ``ntbnet reset``: faults that real hardware has by command."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Annotated, Any

import typer

from ntbnet.app.bridge import Bridge
from ntbnet.edge.config_file import DEFAULT_NAME, load_config
from ntbnet.edge.rundir import RunDir
from ntbnet.errors import ConfigError, SetupError

NODES = ("rc", "ep")
PATIENCE_S = 20.0
LOOK_INTERVAL_S = 0.01

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Take the NTB link down and up, by command."
)
reset_app = typer.Typer(add_completion=False)

NameOption = Annotated[str, typer.Option("--name", "-n", help="Name of the bridge.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
ConfigOption = Annotated[
    str | None, typer.Option("--config", "-c", metavar="FILE", help="Configuration that has its run folder.")
]
NodeArgument = Annotated[
    str | None, typer.Argument(metavar="[rc|ep]", help="Whose driver does it; both without it.")
]


@app.command(epilog="Example: ntbnet link down ep")
def down(
    node: NodeArgument = None,
    name: NameOption = DEFAULT_NAME,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Have a node's NTB driver drop the link; it stays down until `ntbnet link up`, whatever restarts."""
    _set(_running(name, config, node), node, wanted=False, as_json=as_json)


@app.command(epilog="Example: ntbnet link up ep --json")
def up(
    node: NodeArgument = None,
    name: NameOption = DEFAULT_NAME,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Have a node's NTB driver ask for the link; it is up once both ask for it."""
    _set(_running(name, config, node), node, wanted=True, as_json=as_json)


@reset_app.command(epilog="Example: ntbnet reset ep --json")
def reset(
    node: Annotated[str, typer.Argument(metavar="rc|ep", help="Host (rc) or endpoint (ep).")],
    name: NameOption = DEFAULT_NAME,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Reset the host (its driver boots anew) or the endpoint (PERST#), and wait for the link to return."""
    bridge = _running(name, config, node)
    before = bridge.status()["link"]
    began_ns = time.monotonic_ns()
    bridge.reset(node)
    wanted = all(before["wanted"].values())

    def is_back(status: dict[str, Any]) -> bool:
        epoch, state = status["link"]["epoch"], status["link"]["state"]
        return epoch > before["epoch"] and (state == "up" or not wanted)

    after = _until(bridge, is_back, f"{node} was reset, but the link did not return")["link"]
    took_ms = round((time.monotonic_ns() - began_ns) / 1e6)
    if as_json:
        _print_json({"node": node, "epoch": after["epoch"], "link": after["state"], "took_ms": took_ms})
    elif wanted:
        print(f"{node} was reset; the link is up again after {took_ms} ms, in epoch {after['epoch']}")
    else:
        print(f"{node} was reset; the link stays down by command, in epoch {after['epoch']}")


def _set(bridge: Bridge, node: str | None, *, wanted: bool, as_json: bool) -> None:
    nodes = NODES if node is None else (node,)
    unheard = [why for one in nodes if (why := bridge.want_link(one, wanted)) is not None]
    all_wanted = all(bridge.link_wanted().values())

    def is_done(status: dict[str, Any]) -> bool:
        is_up = status["link"]["state"] == "up"
        sides = [service for service in status["services"] if service["name"].startswith("peer-")]
        any_up = any(queue[side].get("link") == "up" for queue in status["link"]["queues"] for side in NODES)
        return is_up if all_wanted else not any_up and all(side["state"] == "up" for side in sides)

    words = "come up" if all_wanted else "go down"
    link = _until(bridge, is_done, "; ".join([f"the link did not {words}", *unheard]))["link"]
    if as_json:
        _print_json({"link": link["state"], "epoch": link["epoch"], "wanted": link["wanted"]})
    else:
        print(said_of(link))


def _until(bridge: Bridge, is_done: Callable[[dict[str, Any]], bool], failure: str) -> dict[str, Any]:
    said = f"{failure} within {PATIENCE_S:.0f} s"
    return bridge.wait_for(is_done, PATIENCE_S, lambda _: said, pause_s=LOOK_INTERVAL_S)


def said_of(link: dict[str, Any]) -> str:
    """The link's state in words, with those who took it down."""
    by = " and ".join(node for node, wanted in link["wanted"].items() if not wanted)
    return f"link: {link['state']}{f' by command of {by}' if by else ''}, epoch {link['epoch']}"


def _running(name: str, config_path: str | None, node: str | None) -> Bridge:
    if node is not None and node not in NODES:
        raise ConfigError(f"node {node}: allowed are rc and ep")
    config = load_config(config_path)
    bridge = Bridge(RunDir(config.run.dir, name), config)
    if not bridge.is_up():
        raise SetupError(f"bridge {name} is not up; start it with: ntbnet up --name {name}")
    return bridge


def _print_json(value: dict[str, Any]) -> None:
    print(json.dumps(value, indent=2))
