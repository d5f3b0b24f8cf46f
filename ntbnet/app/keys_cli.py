"""``ntbnet keys``: the key of this machine, and those of the machines it lets in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ntbnet.edge import keys
from ntbnet.edge.config_file import load_config

app = typer.Typer(
    help="Keys of machines that run one node each: without them nothing crosses.",
    epilog="First steps, on both machines: ntbnet keys new; ntbnet keys allow NAME KEY-OF-THE-OTHER-ONE.",
    no_args_is_help=True,
    add_completion=False,
)
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

DirOption = Annotated[
    str | None,
    typer.Option(
        "--dir", metavar="FOLDER", help="Folder of the keys; machine.keys of the configuration without it."
    ),
]
ConfigOption = Annotated[
    str | None, typer.Option("--config", "-c", metavar="FILE", help="Configuration that names the folder.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def _folder(folder: str | None, config: str | None) -> Path:
    return Path(folder).absolute() if folder else Path(load_config(config).machine.keys)


def _say(text: str) -> None:
    err.print(text, markup=False, soft_wrap=True)


@app.command(epilog="Example: ntbnet keys new")
def new(folder: DirOption = None, config: ConfigOption = None) -> None:
    """Make this machine's key pair, readable by this user only; prints the public key."""
    where = _folder(folder, config)
    pair = keys.make_pair(where)
    _say(f"made {where / keys.OWN}; on the other machine: ntbnet keys allow NAME followed by this public key")
    print(pair.public)


@app.command(epilog="Example: ntbnet keys show --json")
def show(folder: DirOption = None, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Print this machine's public key, and the machines that it allows. Never the secret key."""
    where = _folder(folder, config)
    pair, allowed = keys.own_pair(where), keys.allowed_keys(where)
    if as_json:
        print(json.dumps({"folder": str(where), "public": pair.public, "allowed": allowed}, indent=2))
        return
    print(pair.public)
    for name, key in allowed.items():
        _say(f"allows {name}: {key}")
    if not allowed:
        _say("allows no other machine yet: ntbnet keys allow NAME KEY")


@app.command(epilog="Example: ntbnet keys allow lab-ep '<the 40 characters that keys show prints there>'")
def allow(
    name: Annotated[str, typer.Argument(help="Your name for the other machine: a-z, 0-9, _ and -.")],
    key: Annotated[str, typer.Argument(help="Its public key, 40 characters; quote it for the shell.")],
    folder: DirOption = None,
    config: ConfigOption = None,
) -> None:
    """Let another machine in; holds from the next start of the services."""
    where = _folder(folder, config)
    is_new = keys.allow(where, name, key.strip())
    _say(f"{where}: {name} {'is allowed from now on' if is_new else 'was allowed already'}")


@app.command(epilog="Example: ntbnet keys forget lab-ep")
def forget(
    name: Annotated[str, typer.Argument(help="Name under which the machine is allowed.")],
    folder: DirOption = None,
    config: ConfigOption = None,
) -> None:
    """Let another machine in no more; what is connected stays so until `ntbnet down`."""
    where = _folder(folder, config)
    keys.forget(where, name)
    _say(f"{where}: {name} is no longer allowed")
