"""What is said once: a device's refusals, once a cause, and a transport's complaints of its peer.

The peer chooses the values that appear here, so the number of distinct lines is bounded too.
"""

from __future__ import annotations

from collections.abc import Callable

from ntbnet.devices.effects import Outbox

MOST_PER_EPOCH = 16
"""Distinct lines of one kind in a link epoch; a peer that makes more is not worth more."""


class Once:
    """Tells the first time of each cause from all later ones; of causes beyond a bound nothing is told."""

    def __init__(self) -> None:
        self._said: set[tuple[str, ...]] = set()

    def begin_epoch(self) -> None:
        """Everything may be said again."""
        self._said.clear()

    def is_first(self, *cause: str) -> bool:
        """True when ``cause`` is worth a line: it is new, and one of the first ``MOST_PER_EPOCH``."""
        if cause in self._said or len(self._said) >= MOST_PER_EPOCH:
            return False
        self._said.add(cause)
        return True


class Complaints:
    """Logs waiting, refusals and stuck queues, and asks for a new link epoch.

    Args:
        outbox: takes the log events.
        on_stuck: called with a reason, at most once for each link epoch.
    """

    def __init__(self, outbox: Outbox, on_stuck: Callable[[str], None]) -> None:
        self._outbox = outbox
        self._on_stuck = on_stuck
        self.silent = False
        self._waiting, self._refused = Once(), Once()
        self.begin_epoch()

    def begin_epoch(self) -> None:
        """Everything may be said again."""
        self._waiting.begin_epoch()
        self._refused.begin_epoch()
        self._stuck: set[int] = set()

    def waiting(self, reason: str) -> None:
        """The handshake goes on because of ``reason``."""
        if self._waiting.is_first(reason):
            self._outbox.log("transport.handshake_waiting", reason=reason)

    def refused(self, cause: str, value: int) -> None:
        """``value`` was not used."""
        if self._refused.is_first(cause):
            self._outbox.log("transport.refused", cause=cause, value=f"{value:#x}")

    def stuck(self, queue: int, reason: str) -> None:
        """Queue ``queue`` cannot go on: only a new link epoch helps. Not asked for once ``silent``."""
        if queue in self._stuck:
            return
        first = not self._stuck
        self._stuck.add(queue)
        self._outbox.log("transport.queue_stuck", queue=queue, reason=reason)
        if first and not self.silent:
            self._on_stuck(f"queue {queue}: {reason}")
