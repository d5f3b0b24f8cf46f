"""Where lines of logs come from: files, folders, a running bridge, standard input; read once, or followed."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter
from pathlib import Path
from typing import BinaryIO

from ntbnet.app.logs import Axis, Line, Tally, in_order, merge, read_lines
from ntbnet.config import load_text
from ntbnet.edge.log_rotation import place_of
from ntbnet.edge.rundir import RunDir
from ntbnet.errors import ConfigError

STDIN = "-"
BUFFER_BYTES = 1 << 16
LOOK_S = 0.1
"""Between two looks at files that are followed."""


def log_files(run: RunDir, log_dir: str = "") -> list[Path]:
    """The services' log files of a bridge, each service's from the oldest; [] when there are none.

    Args:
        run: its run folder.
        log_dir: ``log.dir`` of its configuration; empty is inside the run folder.
    """
    return folder_files(Path(log_dir) if log_dir else run.path / "logs")


def folder_files(folder: Path) -> list[Path]:
    """The log files in a folder, or in ``logs`` of a run folder; what services said on stderr is none."""
    try:
        if (folder / "logs").is_dir():
            folder /= "logs"
        files = [path for path in folder.iterdir() if path.suffix == ".jsonl" and path.is_file()]
    except OSError:
        return []
    return sorted(files, key=_from_the_oldest)


def _from_the_oldest(path: Path) -> tuple[str, int]:
    service, newer = place_of(path)
    return service, -newer


def files_of_bridge(name: str, root: Path, log_dir: Path | None) -> tuple[Path, list[Path]]:
    """Folder and log files of a bridge.

    Raises:
        ConfigError: it cannot have that name.
    """
    run = RunDir(root, name)
    told = str(log_dir) if log_dir else _configured_log_dir(run)
    return Path(told) if told else run.path / "logs", log_files(run, told)


def _configured_log_dir(run: RunDir) -> str:
    """log.dir of the configuration that the supervisor left in the run folder; empty when unusable."""
    path = run.path / "config.toml"
    try:
        text = path.read_text(encoding="utf-8")
        return load_text(text, str(path), lambda name: Path(name).read_text(encoding="utf-8")).log.dir
    except (OSError, ValueError, ConfigError):
        return ""


def read_file(path: Path, axis: Axis, tally: Tally) -> Iterator[Line]:
    """Lines of a file, in order; a file that cannot be read is noted in ``tally``."""
    return read_files([path], axis, tally)


def read_files(paths: Iterable[Path], axis: Axis, tally: Tally) -> Iterator[Line]:
    """Lines of files one after the other, all opened now: a log that is set aside meanwhile is read once."""
    opened: list[tuple[Path, BinaryIO]] = []
    for path in paths:
        try:
            opened.append((path, path.open("rb", buffering=BUFFER_BYTES)))
        except OSError as problem:
            tally.unreadable.append(f"{path}: {problem.strerror}")
    return in_order(_each(opened, axis, tally))


def _each(opened: Sequence[tuple[Path, BinaryIO]], axis: Axis, tally: Tally) -> Iterator[Line]:
    for path, stream in opened:
        try:
            with stream:
                yield from read_lines(stream, axis, tally)
        except OSError as problem:
            tally.unreadable.append(f"{path}: {problem.strerror}")


def by_service(paths: Iterable[Path]) -> list[list[Path]]:
    """Files of a folder, those of one service together."""
    found: dict[tuple[Path, str], list[Path]] = {}
    for path in paths:
        found.setdefault((path.parent, place_of(path)[0]), []).append(path)
    return list(found.values())


def read_all(paths: Sequence[str], axis: Axis, tally: Tally) -> Iterator[Line]:
    """Lines of files, of the files in folders, and of standard input, in one order of time.

    Args:
        paths: each once; ``-`` is standard input.
        axis: see ``read_lines``.
        tally: see ``read_lines``.
    """
    sources = []
    for path in dict.fromkeys(paths):
        if path == STDIN:
            stream = sys.stdin.buffer
            lines = read_lines(stream, axis, tally)
            # A line from a pipe is shown when it comes, not when enough others have come.
            sources.append(in_order(lines) if stream.seekable() else lines)
        elif (folder := Path(path)).is_dir():
            files = folder_files(folder)
            sources += [read_files(one, axis, tally) for one in by_service(files)]
            if not files:
                tally.unreadable.append(f"{path!r}: no .jsonl files, or not readable")
        else:
            sources.append(read_file(folder, axis, tally))
    return merge(sources)


class Tail:
    """Whole lines of a file that still grows; and of the one that takes its place, once it has a line.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("rb", buffering=BUFFER_BYTES)

    def readline(self, size: int, /) -> bytes:
        """See ``logs.Readable``; a line that has no end yet is read later."""
        line = self._file.readline(size)
        if line and len(line) < size and not line.endswith(b"\n"):
            self._file.seek(-len(line), os.SEEK_CUR)
            return b""
        return line

    def is_replaced(self) -> bool:
        """True when another file of this name has been written to, so that nothing more comes in this one."""
        try:
            now, mine = self._path.stat(), os.fstat(self._file.fileno())
        except OSError:
            return False
        return now.st_size > 0 and (now.st_dev, now.st_ino) != (mine.st_dev, mine.st_ino)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Follower:
    """Lines of growing files of one folder, in one order of time.

    Args:
        files: says which files there are; asked again and again, since services start and logs are set aside.
        axis: see ``read_lines``, as ``tally``.
    """

    def __init__(self, files: Callable[[], list[Path]], axis: Axis, tally: Tally) -> None:
        self._files, self._axis, self._tally = files, axis, tally
        self._tails: dict[Path, Tail] = {}
        self._held: list[Line] = []
        self._horizon_ns = -1

    def lines(self) -> Iterator[Line]:
        """First what is there, then what comes; ends once there are no files any more."""
        earlier = []
        for group in by_service(self._files()):
            *older, current = group
            earlier.append(read_files(older, self._axis, self._tally))
            if self._open(current):
                earlier.append(in_order(read_lines(self._tails[current], self._axis, self._tally)))
        yield from merge(earlier)
        while self._tails:
            time.sleep(LOOK_S)  # between looks at other processes' files; nothing to await
            yield from self.look()
        yield from self._held

    def _open(self, path: Path) -> bool:
        try:
            self._tails[path] = Tail(path)
        except OSError as problem:
            self._tally.unreadable.append(f"{path}: {problem.strerror}")
        return path in self._tails

    def look(self) -> list[Line]:
        """What has come, but for the latest: a line of another file may belong before it."""
        files = self._files()
        found = self._held
        for path in [path for path in files if place_of(path)[1] == 0 and path not in self._tails]:
            self._open(path)
        for path, tail in list(self._tails.items()):
            is_last = path not in files or tail.is_replaced()
            found += read_lines(tail, self._axis, self._tally)
            if is_last:
                tail.close()
                del self._tails[path]
                if path in files and self._open(path):
                    found += read_lines(self._tails[path], self._axis, self._tally)
        found.sort(key=attrgetter("time_ns"))
        ready = [line for line in found if line.time_ns <= self._horizon_ns]
        self._held = found[len(ready) :]
        if found:
            self._horizon_ns = max(self._horizon_ns, found[-1].time_ns)
        return ready
