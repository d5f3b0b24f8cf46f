"""``ntbnet logs``: show, filter and count what the services of a bridge logged.

Exit codes: 0 something was found, 1 nothing was (or nothing could be read), 2 usage.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Iterator
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from ntbnet.app.log_summary import ServiceSummary, Summary
from ntbnet.app.logs import (
    Filter,
    Line,
    Tally,
    Timeline,
    filter_from,
    folder_files,
    in_order,
    log_files,
    merge,
    read_file,
    read_lines,
)
from ntbnet.config import load_text
from ntbnet.edge.run_root import default_root
from ntbnet.edge.rundir import RunDir
from ntbnet.errors import ConfigError
from ntbnet.log import COMMON_KEYS, EVENTS

app = typer.Typer(
    help="Show and count what the services of a bridge logged.", no_args_is_help=True, add_completion=False
)

DEFAULT_NAME = "ntbnet"
STYLES = {"debug": "dim", "info": "green", "warning": "yellow", "error": "bold red"}
PIPED_WIDTH = 160
"""Columns of a table that goes to no terminal."""

SHOW_EXAMPLES = """Examples:

ntbnet logs show --level warning

ntbnet logs show --event 'link.*' --service epc --since 10m

honcho start | ntbnet logs show -

ntbnet logs show --json saved-logs/ | jq -r .event"""
SUMMARY_EXAMPLES = """Examples:

ntbnet logs summary

ntbnet logs summary --json --since 1h

ntbnet logs summary saved-logs/"""

_BARE = re.compile(r"[!#-<>-\[\]-~]+")
"""Text that is shown without quotes: printable ASCII without blanks, ``"``, ``=`` and backslashes."""


class Level(StrEnum):
    """Values of --level: the keys of ``LEVELS``."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


Paths = Annotated[
    list[str] | None, typer.Argument(metavar="PATH", help="Log files, folders of them, or - for stdin.")
]
Name = Annotated[
    str | None, typer.Option("--name", help="Bridge whose logs to read.", show_default=DEFAULT_NAME)
]
RunFolder = Annotated[
    Path | None,
    typer.Option("--run-dir", help="Folder of the run folders.", show_default=str(default_root())),
]
LogFolder = Annotated[
    Path | None,
    typer.Option("--log-dir", help="Folder of the logs.", show_default="log.dir of the running bridge"),
]
Services = Annotated[list[str] | None, typer.Option("--service", help="Only this service; repeatable.")]
Since = Annotated[
    str, typer.Option("--since", help="Only from then on: 90s, 10m, 2h, 1d ago, or an ISO 8601 time.")
]


@app.command(epilog=SHOW_EXAMPLES)
def show(
    paths: Paths = None,
    name: Name = None,
    run_dir: RunFolder = None,
    log_dir: LogFolder = None,
    service: Services = None,
    event: Annotated[
        list[str] | None, typer.Option("--event", help="Only events like this ('link.*'); repeatable.")
    ] = None,
    level: Annotated[Level, typer.Option("--level", help="Least level.")] = Level.DEBUG,
    since: Since = "",
    limit: Annotated[int, typer.Option("--limit", min=0, help="Stop after so many lines; 0 is never.")] = 0,
    json_lines: Annotated[bool, typer.Option("--json", help="The original JSON lines.")] = False,
) -> None:
    """Print the events of all services in one order of time, one line each."""
    wanted = _filter(service, event, level, since)
    tally = Tally()
    lines = _wanted(_open(paths, name, run_dir, log_dir, tally), wanted)
    if limit:
        lines = islice(lines, limit)
    with _closed_pipe_ends_quietly():
        show_lines = _print_json if json_lines else _print_text
        _finish(tally, show_lines(lines, is_live="-" in (paths or [])))


@app.command(epilog=SUMMARY_EXAMPLES)
def summary(
    paths: Paths = None,
    name: Name = None,
    run_dir: RunFolder = None,
    log_dir: LogFolder = None,
    service: Services = None,
    since: Since = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")] = False,
) -> None:
    """Count, for each service: events, warnings, errors, starts, link changes, refusals by cause."""
    wanted = _filter(service, None, Level.DEBUG, since)
    tally = Tally()
    counts = Summary()
    counts.add_all(_wanted(_open(paths, name, run_dir, log_dir, tally), wanted))
    services = {key: one for key, one in sorted(counts.services.items()) if not service or key in service}
    with _closed_pipe_ends_quietly():
        if as_json:
            about = {
                "first": counts.first,
                "last": counts.last,
                "lines": tally.lines,
                "skipped": tally.skipped,
            }
            body = {key: one.to_dict() for key, one in services.items()}
            print(json.dumps({**about, "services": body}, indent=2))
        elif services:
            _print_table(services)
        _finish(tally, sum(one.events for one in services.values()))


@app.command()
def events() -> None:
    """Print the table of all events that can be logged, as Markdown."""
    print(events_table(), end="")


def events_table() -> str:
    """EVENTS as a Markdown table, in its order."""
    rows = ["| Event | Level | Keys | Meaning |", "|---|---|---|---|"]
    for event, row in EVENTS.items():
        keys = ", ".join(f"`{key}`" for key in row.keys)
        rows.append(f"| `{event}` | {row.level} | {keys} | {row.meaning} |")
    return "\n".join(rows) + "\n"


def text_of(line: Line) -> list[tuple[str, str]]:
    """A line for people, in pieces with their styles; holds printable ASCII only."""
    fields = line.fields
    level = fields["level"]
    pieces = [
        (fields["wall"] + " ", "dim"),
        (f"{_bare(fields['service']):<10} ", "cyan"),
        (f"{level:<7} ", STYLES[level]),
        (_bare(fields["event"]), "bold"),
    ]
    for key, value in fields.items():
        if key not in COMMON_KEYS:
            pieces += [(f" {_bare(key)}=", "dim"), (_bare(value), "")]
    return pieces


def _bare(value: object) -> str:
    if isinstance(value, str) and _BARE.fullmatch(value):
        return value
    return json.dumps(value, separators=(",", ":")).replace("\x7f", "\\u007f")


def _filter(services: list[str] | None, globs: list[str] | None, level: Level, since: str) -> Filter:
    try:
        return filter_from(services or (), globs or (), level, since)
    except ValueError as problem:
        raise typer.BadParameter(str(problem), param_hint="--since") from None


def _wanted(lines: Iterator[Line], wanted: Filter) -> Iterator[Line]:
    return lines if wanted == Filter() else (line for line in lines if wanted.wants(line.fields))


def _open(
    paths: list[str] | None, name: str | None, run_dir: Path | None, log_dir: Path | None, tally: Tally
) -> Iterator[Line]:
    if paths and (name or run_dir or log_dir):
        raise typer.BadParameter("give either paths, or --name, --run-dir and --log-dir")
    timeline = Timeline()
    if not paths:
        files = _bridge_files(name or DEFAULT_NAME, run_dir or "", log_dir, tally)
        return merge([read_file(path, timeline, tally) for path in files])
    sources = []
    for path in dict.fromkeys(paths):
        if path == "-":
            stream = sys.stdin.buffer
            lines = read_lines(stream, timeline, tally)
            # A line from a pipe is shown when it comes, not when enough others have come.
            sources.append(in_order(lines) if stream.seekable() else lines)
        elif (folder := Path(path)).is_dir():
            files = folder_files(folder)
            sources += [read_file(one, timeline, tally) for one in files]
            if not files:
                tally.unreadable.append(f"{_bare(path)}: no .jsonl files, or not readable")
        else:
            sources.append(read_file(folder, timeline, tally))
    return merge(sources)


def _bridge_files(name: str, run_dir: Path | str, log_dir: Path | None, tally: Tally) -> list[Path]:
    try:
        run = RunDir(run_dir, name)
    except ConfigError as problem:
        raise typer.BadParameter(str(problem), param_hint="--name") from None
    files = log_files(run, str(log_dir) if log_dir else _configured_log_dir(run))
    if not files:
        where = log_dir or run.path
        how = "is the bridge up? (under honcho: honcho start | ntbnet logs show -)"
        tally.unreadable.append(f"no logs of bridge {name} in {where}: {how}")
    return files


def _configured_log_dir(run: RunDir) -> str:
    """log.dir of the configuration that the supervisor left in the run folder; empty when unusable."""
    path = run.path / "config.toml"
    try:
        text = path.read_text(encoding="utf-8")
        return load_text(text, str(path), lambda name: Path(name).read_text(encoding="utf-8")).log.dir
    except (OSError, ValueError, ConfigError):
        return ""


def _print_json(lines: Iterator[Line], *, is_live: bool) -> int:
    out = sys.stdout.buffer
    shown = 0
    for line in lines:
        out.write(line.raw + b"\n")
        shown += 1
        if is_live:
            out.flush()
    out.flush()
    return shown


def _print_text(lines: Iterator[Line], *, is_live: bool) -> int:
    shown = 0
    if not sys.stdout.isatty():
        for line in lines:
            print("".join(text for text, _ in text_of(line)), flush=is_live)
            shown += 1
        return shown
    from rich.console import Console
    from rich.text import Text

    console = Console()
    for line in lines:
        console.print(Text.assemble(*text_of(line)), soft_wrap=True, highlight=False)
        shown += 1
    return shown


def _print_table(services: dict[str, ServiceSummary]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE)
    table.add_column("service")
    for title in ("events", "warnings", "errors", "starts", "restarts"):
        table.add_column(title, justify="right")
    table.add_column("links")
    table.add_column("refusals", overflow="fold")
    for name, one in services.items():
        counts = (one.events, one.warnings, one.errors, one.starts, one.restarts)
        links = [f"{event}: {c['up']} up, {c['down']} down" for event, c in sorted(one.links.items())]
        refusals = [f"{count} x {_ascii(cause)}" for cause, count in one.refusals.most_common()]
        cells = [_bare(name), *map(str, counts), "\n".join(links), "\n".join(refusals)]
        table.add_row(*map(Text, cells))
    is_terminal = sys.stdout.isatty()
    Console(width=None if is_terminal else PIPED_WIDTH, force_terminal=is_terminal).print(table)


def _ascii(text: str) -> str:
    return text if text.isascii() and text.isprintable() else _bare(text)


def _finish(tally: Tally, found: int) -> None:
    """Say on stderr what was left out; exit code 1 when nothing was found."""
    sys.stdout.flush()
    for problem in tally.unreadable:
        print(f"ntbnet logs: {problem}", file=sys.stderr)
    if tally.skipped:
        print(f"ntbnet logs: {tally.skipped} lines skipped that are no events, or damaged", file=sys.stderr)
    if not found:
        raise typer.Exit(1)


@contextlib.contextmanager
def _closed_pipe_ends_quietly() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        # What is still buffered would be written, and fail again, when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), cast("Any", sys.stdout).fileno())
