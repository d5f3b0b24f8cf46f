"""What a path's way out does with messages while faults are injected."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

import pytest

from ntbnet.edge.lane import Lane

MS = 1_000_000


class Wire:
    """A clock, a loop and what came out of the lane: text of each message, ``own`` ones in brackets."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.out: list[str] = []
        self.flushes = 0
        self._timers: list[tuple[float, int, Callable[..., object]]] = []
        self.lane = Lane("epc", self._send, self._send_now, lambda: self.now_ns, self, self._flush)

    def _send(self, peer: str, header: bytes, payload: bytes | memoryview) -> bool:
        self.out.append(header.decode())
        return True

    def _send_now(self, peer: str, header: bytes, payload: bytes | memoryview) -> bool:
        self.out.append(f"({header.decode()})")
        return True

    def _flush(self) -> None:
        self.flushes += 1

    def call_soon(self, callback: Callable[..., object], *args: Any) -> object:
        raise AssertionError("a lane waits for time only")

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> object:
        heapq.heappush(self._timers, (self.now_ns + delay * 1e9, len(self._timers), callback))
        return callback

    def advance(self, duration_ns: int) -> None:
        end_ns = self.now_ns + duration_ns
        while self._timers and self._timers[0][0] <= end_ns:
            due_ns, _, callback = heapq.heappop(self._timers)
            self.now_ns = max(self.now_ns, int(due_ns))
            callback()
        self.now_ns = end_ns

    def send(self, *texts: str) -> None:
        for text in texts:
            is_own = text.startswith("(")
            assert self.lane.send([(text.strip("()").encode(), b"")], is_own=is_own)


@pytest.fixture
def wire() -> Wire:
    return Wire()


def test_without_a_fault_everything_passes_at_once(wire: Wire) -> None:
    wire.send("a", "(beat)", "b")

    assert wire.out == ["a", "(beat)", "b"]


def test_message_that_waits_holds_up_those_behind_it_the_paths_own_too(wire: Wire) -> None:
    wire.send("a")
    wire.lane.hold_next(3000)
    wire.send("b", "(beat)", "c")
    wire.advance(3 * MS - 1)
    assert wire.out == ["a"]

    wire.advance(1)
    assert wire.out == ["a", "b", "(beat)", "c"]
    assert wire.flushes == 1


def test_messages_that_each_wait_come_at_their_times(wire: Wire) -> None:
    wire.lane.hold_next(3000)
    wire.send("a")
    wire.advance(MS)
    wire.lane.hold_next(3000)
    wire.send("b")
    wire.advance(2 * MS)
    assert wire.out == ["a"]

    wire.advance(MS)
    assert wire.out == ["a", "b"]


def test_swapped_message_comes_behind_the_next_one_of_the_path(wire: Wire) -> None:
    wire.lane.hold_next(5000, swap=True)
    wire.send("a")
    wire.send("(beat)")
    wire.send("b", "c")
    assert wire.out == []

    wire.advance(5 * MS)
    assert wire.out == ["a", "(beat)", "b", "c"]
    wire.lane.hold_next(5000, swap=True)
    wire.send("d", "e", "f")
    assert wire.out[4:] == ["e", "d", "f"]


def test_swapped_message_without_a_next_one_is_sent_in_the_end(wire: Wire) -> None:
    wire.lane.hold_next(5000, swap=True)
    wire.send("a")
    wire.advance(5 * MS)

    assert wire.out == ["a"]


def test_reordered_message_waits_for_that_many_of_other_paths(wire: Wire) -> None:
    wire.lane.hold_next(5000, overtakers=2)
    wire.send("a", "b")
    wire.lane.overtaken()
    assert wire.out == []

    wire.lane.overtaken()
    assert wire.out == ["a", "b"]


def test_reordered_message_waits_no_longer_than_its_time(wire: Wire) -> None:
    wire.lane.hold_next(5000, overtakers=2)
    wire.send("a")
    wire.advance(5 * MS)

    assert wire.out == ["a"]


def test_cut_wire_lets_nothing_through_until_its_time(wire: Wire) -> None:
    wire.lane.cut(2000)
    wire.send("a", "(beat)")
    wire.advance(2 * MS)
    wire.send("b")

    assert wire.out == ["b"]


def test_cut_without_an_end_lasts_until_everything_is_released(wire: Wire) -> None:
    wire.lane.cut(0)
    wire.advance(3600_000 * MS)
    wire.send("a")
    wire.lane.release_all()
    wire.send("b")

    assert wire.out == ["b"]


def test_release_sends_all_that_waits_in_order(wire: Wire) -> None:
    wire.lane.hold_next(60_000_000)
    wire.send("a", "(beat)", "b")
    wire.lane.release_all()

    assert wire.out == ["a", "(beat)", "b"]


def test_what_waits_for_a_session_that_ended_is_lost_with_it(wire: Wire) -> None:
    wire.lane.hold_next(1000)
    wire.send("a", "b")
    wire.lane.forget()
    wire.advance(MS)
    wire.send("c")

    assert wire.out == ["c"]
