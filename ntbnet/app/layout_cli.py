"""``ntbnet layout`` and ``ntbnet explain``: plan BARs and windows, and walk an address through them.

Exit codes: 0 ok, 1 a rule is broken, no layout exists or the address misses, 2 usage or unreadable file.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ntbnet.address import Span
from ntbnet.app import layout_picture
from ntbnet.app.bridge import Bridge
from ntbnet.app.layout_script import read_script, write_script
from ntbnet.config import Checked, Config, check_text, load_text, warnings
from ntbnet.edge.config_file import DEFAULT_NAME, load_config, read_config, read_profile
from ntbnet.edge.rundir import RunDir
from ntbnet.errors import ConfigError, NtbnetError, SetupError
from ntbnet.layout import InboundWindow, Layout, layout_of
from ntbnet.layout_explain import Explanation, Walk
from ntbnet.layout_suggest import suggest

layout_app = typer.Typer(
    help="Plan BARs and memory windows: check, draw, suggest, import, export.",
    no_args_is_help=True,
    add_completion=False,
)

explain_app = typer.Typer(add_completion=False)

FileArgument = Annotated[
    str | None, typer.Argument(metavar="[FILE]", help="Configuration (TOML), - is standard input.")
]
ProfileOption = Annotated[
    str | None,
    typer.Option(
        "--profile", "-p", metavar="P", help="Platform: a profile's name or path; replaces the file's."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

_SIZE = re.compile(r"(0x[0-9A-Fa-f]{1,16}|[0-9]{1,18})([KMG]?)(?:i?B)?", re.IGNORECASE)
_SPAN = re.compile(r"\[(0x[0-9a-f]+), (0x[0-9a-f]+)\)")


def _say(text: str) -> None:
    out.print(text, markup=False, soft_wrap=True)


def _print_json(value: dict[str, Any]) -> None:
    print(json.dumps(value, indent=2))


@contextmanager
def _errors(as_json: bool) -> Iterator[None]:
    """Have whoever reads JSON find an error there too; the line on stderr and the exit code stay."""
    try:
        yield
    except NtbnetError as problem:
        if as_json:
            _print_json({"ok": False, "error": str(problem)})
        raise


def _check(file: str | None, profile: str | None) -> Checked:
    text, source = read_config(file)
    return check_text(text, source, read_profile, profile)


@layout_app.command("check", epilog="Example: ntbnet layout check deploy/ntbnet.toml --profile rk3588")
def layout_check(
    file: FileArgument = None, profile: ProfileOption = None, as_json: JsonOption = False
) -> None:
    """List every rule that a layout breaks, with key, value and rule. Exit code 1 when there is one."""
    with _errors(as_json):
        checked = _check(file, profile)
    warned = warnings(checked.config) if checked.config is not None else []
    if as_json:
        _print_json({**_verdict(checked), "warnings": warned})
    else:
        for violation in checked.violations:
            _say(str(violation))
        for warning in warned:
            _say(f"warning: {warning}")
        count = len(checked.violations)
        verdict = "good" if not count else "1 rule is broken" if count == 1 else f"{count} rules are broken"
        _say(f"layout on profile {checked.profile.name}: {verdict}")
    raise typer.Exit(0 if checked.config is not None else 1)


@layout_app.command("show", epilog="Example: ntbnet layout show --profile generic --svg layout.svg")
def layout_show(
    file: FileArgument = None,
    profile: ProfileOption = None,
    svg: Annotated[str | None, typer.Option("--svg", metavar="FILE", help="Write a picture (SVG).")] = None,
    as_json: JsonOption = False,
) -> None:
    """Draw the BARs, what lies in them and the inbound windows that reach it."""
    with _errors(as_json):
        layout = layout_of(_good(_check(file, profile), as_json))
        if svg is not None:
            try:
                Path(svg).write_text(layout_picture.svg(layout), encoding="utf-8")
            except OSError as problem:
                raise ConfigError(f"--svg {svg}: cannot be written: {problem.strerror}") from None
    if as_json:
        _print_json(layout.as_json())
    else:
        print(layout_picture.terminal(layout, shutil.get_terminal_size().columns))


def _verdict(checked: Checked) -> dict[str, Any]:
    return {
        "ok": checked.config is not None,
        "profile": checked.profile.name,
        "violations": [violation.as_json() for violation in checked.violations],
    }


def _good(checked: Checked, as_json: bool = False) -> Config:
    if checked.config is None:
        if as_json:
            _print_json(_verdict(checked))
        else:
            for violation in checked.violations:
                err.print(str(violation), markup=False, soft_wrap=True)
        raise typer.Exit(1)
    return checked.config


def _size(text: str) -> int:
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"--mw {text[:60]}: must be a size such as 0xF0000, 983040, 960K or 1M")
    return int(match[1], 0) << {"": 0, "K": 10, "M": 20, "G": 30}[match[2].upper()]


@layout_app.command("suggest", epilog="Example: ntbnet layout suggest --profile r-car-s4 --mw 960K --mw 32K")
def layout_suggest(
    mw: Annotated[
        list[str],
        typer.Option("--mw", metavar="SIZE", help="A window's size (960K); once for each, mw1 first."),
    ],
    profile: ProfileOption = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--mw2-target", metavar="none|edma|msi", help="What mw2 is for; the profile's, unless given."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Find a layout for windows of these sizes, or say why none exists. Prints TOML."""
    with _errors(as_json):
        # whether the profile's own layout is good does not matter: another one is looked for
        checked = _check(None, profile)
        sizes = [_size(text) for text in mw]
        wanted = checked.profile.mw2_target if target is None else target
        if wanted not in {"none", "edma", "msi"}:
            raise ConfigError(f"--mw2-target {wanted[:60]}: must be none, edma or msi")
    found = suggest(checked.profile, sizes, wanted, checked.sections.node.ep.dram_bytes)
    text = found.to_toml(checked.sections.bridge.profile)
    layout = None if text is None else layout_of(load_text(text, "suggestion", read_profile))
    if as_json:
        _print_json({
            "ok": text is not None,
            "reason": found.reason or None,
            "notes": list(found.notes),
            "tried": found.tried,
            "toml": text,
            "layout": None if layout is None else layout.as_json(),
        })  # fmt: skip
    elif text is None:
        err.print(f"no layout: {found.reason}", markup=False, soft_wrap=True)
    else:
        for note in found.notes:
            print(f"# {note}")
        print(text, end="")
    raise typer.Exit(0 if text is not None else 1)


@layout_app.command("import", epilog="Example: ntbnet layout import vntb.sh > ntbnet.toml")
def layout_import(
    script: Annotated[
        str, typer.Argument(metavar="SCRIPT", help="echo VALUE > ./attribute lines; - is stdin.")
    ],
    profile: Annotated[
        str | None,
        typer.Option(
            "--profile", "-p", metavar="P", help="Platform to name in the result; the script's, or r-car-s4."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Read the kernel how-to's configfs commands and write them as a configuration (TOML)."""
    with _errors(as_json):
        text, source = read_config(script)
        read = read_script(text)
        if profile is not None:
            read.settings["profile"] = profile
        check_text("", source, read_profile, read.settings.get("profile"))
    toml = None if read.refused else read.to_toml()
    for warning in read.warnings:
        err.print(f"{source}: {warning}", markup=False, soft_wrap=True)
    if as_json:
        _print_json({
            "ok": toml is not None,
            "toml": toml,
            "refused": [
                {"line": one.line, "key": one.attribute, "value": one.value, "rule": one.error}
                for one in read.refused
            ],
            "warnings": read.warnings,
        })  # fmt: skip
    elif toml is None:
        for one in read.refused:
            err.print(f"{source}: {one}", markup=False, soft_wrap=True)
    else:
        print(toml, end="")
    raise typer.Exit(0 if toml is not None else 1)


@layout_app.command("export", epilog="Example: ntbnet layout export deploy/ntbnet.toml > vntb.sh")
def layout_export(file: FileArgument = None, profile: ProfileOption = None) -> None:
    """Write a configuration's layout as configfs commands of the kernel's how-to."""
    print(write_script(_good(_check(file, profile))), end="")


@layout_app.command("move-bar", epilog="Example: ntbnet layout move-bar 2")
def layout_move_bar(
    bar: Annotated[int, typer.Argument(metavar="BAR", min=0, max=5, help="BAR to move.")],
    name: Annotated[str, typer.Option("--name", "-n", help="Running bridge.")] = DEFAULT_NAME,
    config: Annotated[
        str | None, typer.Option("--config", metavar="FILE", help="Its configuration, for its run.dir.")
    ] = None,
) -> None:
    """Have the host of a running bridge put a BAR elsewhere on the bus; the link restarts with it."""
    fallback = load_config(config)
    bridge = Bridge(RunDir(fallback.run.dir, name), fallback)
    if not bridge.is_up():
        raise SetupError(f"bridge {name} is not up; start it with: ntbnet up --name {name}")
    bridge.move_bar(bar)
    print(f"BAR{bar} of bridge {name} is being moved; see: ntbnet status --name {name}")


@explain_app.command(epilog="Example: ntbnet explain BAR2+0xF00A0 --profile r-car-s4")
def explain(
    address: Annotated[str, typer.Argument(metavar="ADDR", help="Bus address (0x30000000) or BARn+OFFSET.")],
    config: Annotated[
        str | None, typer.Option("--config", "-c", metavar="FILE", help="Walk this configuration (TOML).")
    ] = None,
    profile: ProfileOption = None,
    name: Annotated[
        str | None,
        typer.Option("--name", "-n", help="Walk this running bridge; the default one, if it is up."),
    ] = None,
    size: Annotated[int, typer.Option("--size", min=1, max=4096, help="Bytes of the access.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Walk one address through BAR, inbound window and memory window, and name its target or what missed."""
    with _errors(as_json):
        if name is not None and (config is not None or profile is not None):
            raise ConfigError("--name walks a running bridge: it cannot go with --config or --profile")
        walk, source = _walk(config, profile, name, as_json)
        explanation = walk.explain(address, size)
    if as_json:
        _print_json({"address": address, "size": size, "source": source, **explanation.as_json()})
    else:
        _show(address, source, explanation)
    raise typer.Exit(0 if explanation.target is not None else 1)


def _walk(file: str | None, profile: str | None, name: str | None, as_json: bool) -> tuple[Walk, str]:
    if file is None and profile is None:
        fallback = load_config(None)
        bridge = Bridge(RunDir(fallback.run.dir, name or DEFAULT_NAME), fallback)
        if bridge.is_up():
            return running_walk(bridge.config, bridge.answers()), f"bridge {bridge.run.name}"
        if name is not None:
            raise SetupError(f"bridge {name} is not up; start it with: ntbnet up --name {name}")
    config = _good(_check(file, profile), as_json)
    return Walk(config), f"plan of {file or 'the defaults'}, profile {config.profile.name}"


def running_walk(config: Config, answers: dict[str, dict[str, Any]]) -> Walk:
    """A walk through what a running bridge has programmed and its host has assigned.

    Raises:
        SetupError: the endpoint controller or the root complex does not answer.
    """
    missing = [service for service in ("rc-host", "epc") if service not in answers]
    if missing:
        raise SetupError(f"no answer from {', '.join(missing)}")
    windows = actual_windows(config, answers["epc"].get("windows", []))
    return Walk(config, assigned_spans(answers), windows)


def assigned_spans(answers: dict[str, dict[str, Any]]) -> dict[int, Span]:
    """Bus addresses that the host gave the BARs, by number; none when it does not answer."""
    spans = {}
    for bar, text in answers.get("rc-host", {}).get("bars", {}).items():
        match = _SPAN.fullmatch(str(text))
        if match is not None:
            base, end = int(match[1], 16), int(match[2], 16)
            spans[int(bar)] = Span(base, end - base)
    return spans


def actual_windows(config: Config, rows: list[dict[str, Any]]) -> list[InboundWindow]:
    """The inbound windows of an ``epc`` answer, named after what they were planned for."""
    layout, found = layout_of(config), []
    for row in rows:
        if row.get("direction") != "inbound" or row.get("bar") is None:
            continue
        base, limit, target = (_number(row.get(key)) for key in ("base", "limit", "target"))
        bar, mode = int(row["bar"]), str(row["mode"])
        what = _named(layout, bar, limit - base + 1, target)
        found.append(
            InboundWindow(int(row["index"]), mode, bar, base, limit, what, target, bool(row.get("stale")))
        )
    return found


def _named(layout: Layout, bar: int, size: int, target: int) -> str:
    """What a programmed window serves: by its BAR, then by its target or its size."""
    planned = [window for window in layout.windows if window.bar == bar]
    if len(planned) == 1:
        return planned[0].what
    for window in planned:
        if window.target == target:
            return window.what
    sizes = [window.what for window in planned if window.limit - window.base + 1 == size]
    return sizes[0] if len(sizes) == 1 else "a window"


def _number(value: object) -> int:
    if isinstance(value, str):
        return int(value, 0)
    return value if isinstance(value, int) else 0


def _show(address: str, source: str, explanation: Explanation) -> None:
    _say(f"{address} on {source}")
    for step in explanation.steps:
        _say(f"  {step.stage:<7} {step.address:<22} {step.rule}")
    _say(f"  => {explanation.target or 'nothing: writes are dropped, reads give all ones (UR)'}")
