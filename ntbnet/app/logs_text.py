"""Lines of logs as text for people; what comes from a log never reaches a terminal unescaped."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator

from ntbnet.app.log_summary import ServiceSummary
from ntbnet.app.logs import Line
from ntbnet.log import COMMON_KEYS

STYLES = {"debug": "dim", "info": "green", "warning": "yellow", "error": "bold red"}
PIPED_WIDTH = 160
"""Columns of a table that goes to no terminal."""
FLUSH_LINES = 256

_BARE = re.compile(r"[!#-<>-\[\]-~]+")
"""Text that is shown without quotes: printable ASCII without blanks, ``"``, ``=`` and backslashes."""
_COMMON = frozenset(COMMON_KEYS)


def text_of(line: Line) -> list[tuple[str, str]]:
    """A line for people, in pieces with their styles; holds printable ASCII only."""
    fields = line.fields
    level = fields["level"]
    pieces = [
        (fields["wall"] + " ", "dim"),
        (f"{bare(fields['service']):<10} ", "cyan"),
        (f"{level:<7} ", STYLES[level]),
        (bare(fields["event"]), "bold"),
    ]
    for key, value in fields.items():
        if key not in _COMMON:
            pieces += [(f" {bare(key)}=", "dim"), (bare(value), "")]
    return pieces


def bare(value: object) -> str:
    """A value in printable ASCII: as it is where that is plain, else as JSON."""
    if type(value) is int:
        return str(value)
    if isinstance(value, str) and _BARE.fullmatch(value):
        return value
    return json.dumps(value, separators=(",", ":")).replace("\x7f", "\\u007f")


def plain(text: str) -> str:
    """Text with blanks as it is where that is printable ASCII, else as JSON."""
    return text if text.isascii() and text.isprintable() else bare(text)


def print_json(lines: Iterable[Line], *, is_live: bool) -> int:
    """Print the original lines; how many."""
    out = sys.stdout.buffer
    shown = 0
    for line in lines:
        out.write(line.raw + b"\n")
        shown += 1
        if is_live:
            out.flush()
    out.flush()
    return shown


def print_text(lines: Iterator[Line], *, is_live: bool, colour: bool) -> int:
    """Print one line an event; how many."""
    shown = 0
    if not colour:
        out = sys.stdout
        for line in lines:
            out.write("".join([text for text, _ in text_of(line)]) + "\n")
            shown += 1
            if is_live:
                out.flush()
        return shown
    from rich.console import Console
    from rich.text import Text

    console = Console(force_terminal=True)
    for line in lines:
        console.print(Text.assemble(*text_of(line)), soft_wrap=True, highlight=False)
        shown += 1
    return shown


def print_summary(services: dict[str, ServiceSummary]) -> None:
    """The counts of each service as a table."""
    rows = []
    for name, one in services.items():
        counts = (one.events, one.warnings, one.errors, one.starts, one.restarts)
        links = [f"{event}: {c['up']} up, {c['down']} down" for event, c in sorted(one.links.items())]
        refusals = [f"{count} x {plain(cause)}" for cause, count in one.refusals.most_common()]
        rows.append([bare(name), *map(str, counts), "\n".join(links), "\n".join(refusals)])
    columns = ("service", "events", "warnings", "errors", "starts", "restarts", "links", "refusals")
    print_table(columns, rows, numbers=range(1, 6))


def print_table(columns: Iterable[str], rows: Iterable[Iterable[str]], numbers: Iterable[int]) -> None:
    """A table.

    Args:
        columns: titles; the last column is folded when it is too wide.
        rows: cells, printable.
        numbers: indices of the columns that stand right.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE)
    right = set(numbers)
    for index, title in enumerate(columns):
        table.add_column(title, justify="right" if index in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    is_terminal = sys.stdout.isatty()
    Console(width=None if is_terminal else PIPED_WIDTH, force_terminal=is_terminal).print(table)
