"""``ntbnet logs``: show, filter, count and judge what the services of a bridge logged.

Exit codes: 0 something was found, 1 nothing was (or nothing could be read), 2 usage.
"""

from __future__ import annotations

import contextlib
import json
import sys
from enum import StrEnum
from itertools import islice
from typing import Annotated

import typer

from ntbnet.app import exits, logs_verdicts_cli
from ntbnet.app.log_filter import filter_from
from ntbnet.app.log_summary import Summary
from ntbnet.app.logs_options import (
    AsJson,
    LogFolder,
    Name,
    Paths,
    RunFolder,
    Services,
    Since,
    Source,
    checked,
    progress,
)
from ntbnet.app.logs_text import print_json, print_summary, print_text
from ntbnet.log import EVENTS

app = typer.Typer(
    help="Show, count and judge what the services of a bridge logged.",
    no_args_is_help=True,
    add_completion=False,
)

SHOW_EXAMPLES = """Examples:

ntbnet logs show --level warning

ntbnet logs show -f --event 'link.*' --service epc --since 10m

ntbnet logs show --where link_epoch=7

honcho start | ntbnet logs show -

ntbnet logs show --json saved-logs/ | jq -r .event"""
SUMMARY_EXAMPLES = """Examples:

ntbnet logs summary

ntbnet logs summary --json --since 1h

ntbnet logs summary saved-logs/"""


class Level(StrEnum):
    """Values of --level: the keys of ``LEVELS``."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Colour(StrEnum):
    """Values of --color."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


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
    epoch: Annotated[
        list[int] | None, typer.Option("--epoch", help="Only this start of a process; repeatable.")
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option("--where", metavar="KEY=VALUE", help="Only lines with this value; repeatable."),
    ] = None,
    since: Since = "",
    limit: Annotated[int, typer.Option("--limit", min=0, help="Stop after so many lines; 0 is never.")] = 0,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what comes, until the files are gone.")
    ] = False,
    color: Annotated[Colour, typer.Option("--color", help="Colour the levels.")] = Colour.AUTO,
    json_lines: Annotated[bool, typer.Option("--json", help="The original JSON lines.")] = False,
) -> None:
    """Print the events of all services in one order of time, one line each."""
    wanted = checked(
        lambda: filter_from(service or (), event or (), level, since, epochs=epoch or (), where=where or ())
    )
    source = Source(paths, name, run_dir, log_dir)
    lines = source.follow(wanted) if follow else source.lines(wanted)
    if limit:
        lines = islice(lines, limit)
    is_live = follow or source.is_live
    colour = color is Colour.ALWAYS or (color is Colour.AUTO and sys.stdout.isatty())
    shown = 0
    with exits.closed_pipe_ends_quietly():
        with contextlib.suppress(KeyboardInterrupt):  # the way to end what follows
            if json_lines:
                shown = print_json(lines, is_live=is_live)
            else:
                shown = print_text(lines, is_live=is_live, colour=colour)
        source.finish(shown or follow)


@app.command(epilog=SUMMARY_EXAMPLES)
def summary(
    paths: Paths = None,
    name: Name = None,
    run_dir: RunFolder = None,
    log_dir: LogFolder = None,
    service: Services = None,
    since: Since = "",
    as_json: AsJson = False,
) -> None:
    """Count, for each service: events, warnings, errors, starts, link changes, refusals by cause."""
    wanted = checked(lambda: filter_from(services=service or (), since=since))
    source = Source(paths, name, run_dir, log_dir)
    counts = Summary()
    counts.add_all(progress(source.lines(wanted), source.tally))
    services = {key: one for key, one in sorted(counts.services.items()) if not service or key in service}
    with exits.closed_pipe_ends_quietly():
        if as_json:
            about = {
                "first": counts.first,
                "last": counts.last,
                "lines": source.tally.lines,
                "skipped": source.tally.skipped,
            }
            body = {key: one.to_dict() for key, one in services.items()}
            print(json.dumps({**about, "services": body}, indent=2))
        elif services:
            print_summary(services)
        source.finish(sum(one.events for one in services.values()))


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


logs_verdicts_cli.add_to(app)


def main() -> None:
    """``ntbnet logs`` without the other commands of ``ntbnet``; see ``exits``."""
    whole = typer.Typer(
        name="ntbnet",
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    whole.callback()(lambda: None)
    whole.add_typer(app, name="logs")
    exits.run(whole)
