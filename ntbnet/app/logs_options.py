"""What every ``ntbnet logs`` command takes, and how it ends."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from ntbnet.app.log_filter import Filter, filter_from
from ntbnet.app.log_sources import STDIN, Follower, files_of_bridge, folder_files, read_all
from ntbnet.app.logs import Axis, Line, Tally
from ntbnet.edge.run_root import default_root
from ntbnet.errors import ConfigError

DEFAULT_NAME = "ntbnet"
TOLD_LINES = 4096
TOLD_S = 1.0
"""How often progress is looked at, lines, and told, s."""

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
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")]


class Source:
    """Where a command reads.

    Args:
        paths, name, run_dir, log_dir: as the user typed them.

    Raises:
        typer.BadParameter: they contradict each other, or no bridge can have that name.
    """

    def __init__(
        self, paths: list[str] | None, name: str | None, run_dir: Path | None, log_dir: Path | None
    ) -> None:
        if paths and (name or run_dir or log_dir):
            raise typer.BadParameter("give either paths, or --name, --run-dir and --log-dir")
        self.tally = Tally()
        self._axis = Axis()
        self._paths = paths or []
        if not paths:
            self._paths = [str(self._bridge_folder(name or DEFAULT_NAME, run_dir or default_root(), log_dir))]

    def _bridge_folder(self, name: str, root: Path, log_dir: Path | None) -> Path:
        try:
            folder, files = files_of_bridge(name, root, log_dir)
        except ConfigError as problem:
            raise typer.BadParameter(str(problem), param_hint="--name") from None
        if not files:
            how = "is the bridge up? (under honcho: honcho start | ntbnet logs show -)"
            self._fail(f"no logs of bridge {name} in {log_dir or folder}: {how}")
        return folder

    @staticmethod
    def _fail(problem: str) -> None:
        print(f"ntbnet logs: {problem}", file=sys.stderr)
        raise typer.Exit(1)

    @property
    def is_live(self) -> bool:
        """True when lines come while somebody waits for them."""
        return STDIN in self._paths

    def lines(self, wanted: Filter | None = None) -> Iterator[Line]:
        """The wanted lines in one order of time."""
        return _wanted(read_all(self._paths, self._axis, self.tally), wanted)

    def follow(self, wanted: Filter) -> Iterator[Line]:
        """The wanted lines there are, then those that come.

        Raises:
            typer.BadParameter: it is not one folder that is read.
        """
        folder = Path(self._paths[0])
        if len(self._paths) > 1 or not folder.is_dir():
            raise typer.BadParameter("needs a running bridge or one folder", param_hint="--follow")
        if not folder_files(folder):
            self._fail(f"{str(folder)!r}: no .jsonl files, or not readable")
        return _wanted(Follower(lambda: folder_files(folder), self._axis, self.tally).lines(), wanted)

    def finish(self, found: int) -> None:
        """Say on stderr what was left out.

        Raises:
            typer.Exit: 1 when nothing was found.
        """
        sys.stdout.flush()
        for problem in self.tally.unreadable:
            print(f"ntbnet logs: {problem}", file=sys.stderr)
        if self.tally.skipped:
            skipped = f"{self.tally.skipped} lines skipped that are no events, or damaged"
            print(f"ntbnet logs: {skipped}", file=sys.stderr)
        if not found:
            raise typer.Exit(1)


def _wanted(lines: Iterator[Line], wanted: Filter | None) -> Iterator[Line]:
    if wanted is None or wanted == filter_from():
        return lines
    return (line for line in lines if wanted.wants(line.fields))


def checked(make: Callable[[], Filter]) -> Filter:
    """A filter.

    Raises:
        typer.BadParameter: what the user typed makes none.
    """
    try:
        return make()
    except ValueError as problem:
        raise typer.BadParameter(str(problem)) from None


def progress(lines: Iterator[Line], tally: Tally) -> Iterator[Line]:
    """The same lines; says on a terminal, once a second, how many were read."""
    if not sys.stderr.isatty():
        return lines
    return _told(lines, tally)


def _told(lines: Iterator[Line], tally: Tally) -> Iterator[Line]:
    told_s = time.monotonic()
    has_told = False
    for number, line in enumerate(lines):
        if number % TOLD_LINES == 0 and time.monotonic() - told_s >= TOLD_S:
            told_s, has_told = time.monotonic(), True
            print(f"\r{tally.lines} lines", end="", file=sys.stderr, flush=True)
        yield line
    if has_told:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
