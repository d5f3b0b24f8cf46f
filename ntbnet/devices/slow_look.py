"""A slow look at what an interrupt should have told: a lost interrupt delays, and strands nothing.

The kernel has none: there a frame whose interrupt is lost waits for the next one. Looks are on the grid of
the paths' beats, so that an idle process wakes for all of it at once. What waits may just have come, its
interrupt (or the doorbell's poll) may be under way: only what waits a moment later as well is acted on.
"""

from __future__ import annotations

from collections.abc import Callable

from ntbnet.devices.task import Sleep, Task, Tasks

CONFIRM_NS = 50_000_000
"""How long an interrupt may take at least to be told."""


class SlowLook:
    """Calls ``look`` on every multiple of ``period_ns``, once it was started, until the tasks end.

    Args:
        tasks: runs it.
        period_ns: above 0.
        look: True when something waits; must not block, nor act on it.
        act: called later; does what is still to be done.
        poll_ns: how long a doorbell poll takes to find what was rung; ``act`` waits for two of them, and for
            CONFIRM_NS.
    """

    def __init__(
        self,
        tasks: Tasks,
        period_ns: int,
        look: Callable[[], bool],
        act: Callable[[], None],
        poll_ns: int = 0,
    ) -> None:
        self._tasks = tasks
        self._period_ns = period_ns
        self._look = look
        self._act = act
        self._confirm_ns = max(CONFIRM_NS, 2 * poll_ns)
        self._stopped = False

    def start(self) -> None:
        """Begin to look."""
        self._tasks.spawn("slow-look", self._run())

    def stop(self) -> None:
        """Look no more."""
        self._stopped = True

    def _run(self) -> Task[None]:
        while True:
            yield Sleep(self._period_ns - self._tasks.now_ns % self._period_ns)
            if not self._stopped and self._look():
                yield Sleep(self._confirm_ns)
                if not self._stopped:
                    self._act()
            if self._stopped:
                return
