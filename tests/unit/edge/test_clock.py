"""The timer fires at its deadlines, in whatever order they come."""

from __future__ import annotations

import select
from collections.abc import Iterator
from pathlib import Path

import pytest

from ntbnet.edge.clock import Ticker, Timer, monotonic_ns

MS = 1_000_000


@pytest.fixture
def timer() -> Iterator[Timer]:
    timer = Timer()
    yield timer
    timer.close()


def fires(timer: Timer, within_s: float = 2.0) -> int:
    """Monotonic ns at which it was seen to fire."""
    readable, _, _ = select.select([timer.fd], [], [], within_s)
    assert readable, "the timer did not fire"
    return monotonic_ns()


def left_ns(timer: Timer) -> int:
    """Nanoseconds until the kernel's timer fires, as /proc shows it."""
    for line in Path(f"/proc/self/fdinfo/{timer.fd}").read_text(encoding="ascii").splitlines():
        if line.startswith("it_value:"):
            seconds, nanoseconds = line.partition("(")[2].rstrip(")").split(",")
            return int(seconds) * 1_000_000_000 + int(nanoseconds)
    raise AssertionError("no timerfd")


def test_it_fires_at_its_deadline_and_not_before(timer: Timer) -> None:
    deadline = monotonic_ns() + 2 * MS
    timer.arm(deadline)
    assert timer.armed_ns == deadline
    assert fires(timer) >= deadline
    timer.expired()
    assert timer.armed_ns == 0


def test_regular_deadlines_fire_on_time_without_being_set_again(timer: Timer) -> None:
    first = monotonic_ns() + 2 * MS
    for number in range(5):
        deadline = first + number * 2 * MS
        timer.arm(deadline)
        assert fires(timer) >= deadline
        timer.expired()
    ahead = first + 5 * 2 * MS - monotonic_ns()
    assert left_ns(timer) <= max(ahead, 2 * MS)


def test_a_deadline_later_than_the_rhythm_is_not_met_early(timer: Timer) -> None:
    first = monotonic_ns() + MS
    for deadline in (first, first + MS, first + 20 * MS):
        timer.arm(deadline)
        assert fires(timer) >= deadline
        timer.expired()


def test_a_deadline_earlier_than_the_rhythm_replaces_it(timer: Timer) -> None:
    start = monotonic_ns()
    for deadline in (start + MS, start + 60_000 * MS, start + 2 * MS):
        timer.arm(deadline)
        if deadline < start + 1000 * MS:
            assert deadline <= fires(timer) < start + 10_000 * MS
            timer.expired()


def test_deadlines_missed_while_busy_are_made_up_once(timer: Timer) -> None:
    start = monotonic_ns()
    for deadline in (start + MS, start + 2 * MS):
        timer.arm(deadline)
        fires(timer)
        timer.expired()
    timer.arm(start + 3 * MS)
    while monotonic_ns() < start + 8 * MS:
        pass
    timer.expired()
    deadline = monotonic_ns() + 3 * MS
    timer.arm(deadline)
    assert fires(timer) >= deadline


def test_a_deadline_in_the_past_fires_at_once(timer: Timer) -> None:
    timer.arm(0)
    fires(timer, 0)


def test_a_timer_that_has_not_fired_stays_armed(timer: Timer) -> None:
    deadline = monotonic_ns() + 60_000 * MS
    timer.arm(deadline)
    timer.expired()
    assert timer.armed_ns == deadline
    assert left_ns(timer) > 50_000 * MS


def test_ticker_fires_again_and_again_until_it_is_stopped() -> None:
    ticker = Ticker()
    begin = monotonic_ns()
    ticker.start(MS)

    for _ in range(3):
        readable, _, _ = select.select([ticker.fd], [], [], 2)
        assert readable
        assert ticker.expired()
    assert monotonic_ns() - begin >= 2 * MS

    ticker.start(0)
    ticker.expired()
    assert not select.select([ticker.fd], [], [], 0)[0]
    assert not ticker.expired()
    ticker.close()
