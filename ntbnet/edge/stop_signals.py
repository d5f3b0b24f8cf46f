"""Signals that ask for the end, as requests: none is lost, and none interrupts anything.

The usual order, loop first and handlers in it, leaves two gaps in which a signal ends the process
as it stands: before the loop's handlers are there, and after the loop is closed. What a service
makes before its loop and removes after it would stay behind.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable
from types import FrameType


class StopSignals:
    """Hears the signals from its making to the end of the process; main thread only."""

    def __init__(self, numbers: Iterable[signal.Signals] = (signal.SIGTERM, signal.SIGINT)) -> None:
        self._first: str | None = None
        self._tell: Callable[[str], object] | None = None
        for number in numbers:
            signal.signal(number, self._on_signal)

    def listen(self, tell: Callable[[str], object]) -> None:
        """Call ``tell`` with the name of the first signal: at once when it came already, else when it comes.

        Args:
            tell: runs in a signal handler, between any two instructions of the main thread.
        """
        self._tell = tell
        if self._first is not None:
            tell(self._first)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._first is None:
            self._first = signal.Signals(number).name
            if self._tell is not None:
                self._tell(self._first)
