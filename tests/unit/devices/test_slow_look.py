"""A slow look: on its grid, and what it saw is acted on only when it is there a moment later."""

from __future__ import annotations

import pytest

from ntbnet.devices.effects import Outbox
from ntbnet.devices.slow_look import CONFIRM_NS, SlowLook
from ntbnet.devices.task import Tasks

PERIOD_NS = 300_000_000


class Watched:
    """What is looked at, and when it was looked at and acted on."""

    def __init__(self, now_ns: int, poll_ns: int = 0) -> None:
        self.tasks = Tasks(Outbox(), "peer", 1)
        self.tasks.now_ns = now_ns
        self.waits = False
        self.looks: list[int] = []
        self.acts: list[int] = []
        self.slow = SlowLook(
            self.tasks, PERIOD_NS, self._look, lambda: self.acts.append(self.tasks.now_ns), poll_ns
        )
        self.slow.start()

    def _look(self) -> bool:
        self.looks.append(self.tasks.now_ns)
        return self.waits

    def advance(self, until_ns: int) -> None:
        while (due := self.tasks.next_deadline()) is not None and due <= until_ns:
            self.tasks.on_deadline(due)
        self.tasks.now_ns = until_ns


@pytest.fixture
def watched() -> Watched:
    return Watched(7)


def test_looks_are_on_the_grid_of_the_beats(watched: Watched) -> None:
    watched.advance(3 * PERIOD_NS)

    assert watched.looks == [PERIOD_NS, 2 * PERIOD_NS, 3 * PERIOD_NS]
    assert watched.acts == []


def test_what_waits_is_acted_on_a_moment_later(watched: Watched) -> None:
    watched.waits = True
    watched.advance(2 * PERIOD_NS + CONFIRM_NS)

    assert watched.acts == [PERIOD_NS + CONFIRM_NS, 2 * PERIOD_NS + CONFIRM_NS]
    assert watched.looks == [PERIOD_NS, 2 * PERIOD_NS]


def test_a_slow_doorbell_poll_is_waited_for() -> None:
    watched = Watched(7, poll_ns=100_000_000)
    watched.waits = True
    watched.advance(2 * PERIOD_NS)

    assert watched.acts == [PERIOD_NS + 200_000_000]


@pytest.mark.parametrize("at_ns", [1000, PERIOD_NS + 1])
def test_stopped_one_looks_and_acts_no_more(watched: Watched, at_ns: int) -> None:
    watched.waits = True
    watched.advance(at_ns)
    looks = len(watched.looks)
    watched.slow.stop()
    watched.advance(3 * PERIOD_NS)

    assert (len(watched.looks), watched.acts) == (looks, [])
    assert watched.tasks.next_deadline() is None
