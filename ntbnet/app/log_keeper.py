"""Keeps the logs of one bridge bounded: sets long ones aside, and gives their writers new ones."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from ntbnet.app.child import Child
from ntbnet.config import Config
from ntbnet.edge.log_rotation import pass_log, set_aside


class LogKeeper:
    """Looks at the size of logs whenever it is asked to.

    Args:
        config: its section [log] says how large and how many.
        path_of: where the log of a service is.
    """

    def __init__(self, config: Config, path_of: Callable[[str], Path]) -> None:
        self._bytes, self._files = config.log.file_bytes, config.log.files
        self._path_of = path_of
        self._untold: set[str] = set()
        """Services whose log was set aside, and that have not taken the new one."""

    def look_after(self, child: Child) -> None:
        """Set the log of a service aside if it is long; one that does not take the new one is told again.

        Raises:
            OSError: a file cannot be renamed, or the new one not be opened.
        """
        path = self._path_of(child.name)
        if self._is_long(path):
            set_aside(path, self._files)
            self._untold.add(child.name)
        if child.name in self._untold and child.lifeline is not None:
            try:
                pass_log(child.lifeline, path)
            except (BlockingIOError, ConnectionError):
                return  # it hangs or ends; its replacement opens the new one itself
        self._untold.discard(child.name)

    def look_after_own(self, service: str, stream: TextIO) -> None:
        """The same for the log that this process writes itself.

        Raises:
            OSError: see above.
        """
        path = self._path_of(service)
        if self._is_long(path):
            set_aside(path, self._files)
            with path.open("a", encoding="utf-8") as new:
                os.dup2(new.fileno(), stream.fileno(), inheritable=False)

    def _is_long(self, path: Path) -> bool:
        try:
            return path.stat().st_size >= self._bytes
        except FileNotFoundError:
            return False
