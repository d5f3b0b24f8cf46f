"""What a stopwatch keeps, and what is refused as its answer."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import pytest

from ntbnet.edge.stopwatch import MOST_POINTS, SENT, Stopwatch, points_from
from ntbnet.errors import WireError


def ticking() -> Callable[[], int]:
    return count(1000, 10).__next__


def test_points_come_back_in_order_with_their_times() -> None:
    watch = Stopwatch(ticking(), 10)
    watch.note("tun in")
    watch.note("out epc")
    watch.note("tun in")

    assert points_from(watch.as_body()) == [("tun in", 1000), ("out epc", 1010), ("tun in", 1020)]


def test_a_call_passes_unchanged_and_is_noted_before_it_is_made() -> None:
    watch, made = Stopwatch(ticking(), 10), []

    def send(label: str, header: bytes, payload: bytes) -> bool:
        made.append((label, header, payload, [point for point, _ in points_from(watch.as_body())]))
        return True

    assert watch.around("out", send)("epc", b"h", b"p") is True
    assert made == [("epc", b"h", b"p", ["out epc"])]


def test_a_read_is_noted_only_when_there_was_a_packet() -> None:
    watch, lengths = Stopwatch(ticking(), 10), [60, 0]
    read = watch.around_read(lambda _: lengths.pop(0))

    assert [read(memoryview(b"")), read(memoryview(b""))] == [60, 0]
    assert points_from(watch.as_body()) == [("tun in", 1000)]


def test_a_write_is_noted_before_it_is_made() -> None:
    watch = Stopwatch(ticking(), 10)

    write = watch.around_write(lambda *_: len(watch.as_body()["codes"]) == 1)

    assert write(memoryview(b"x"), b"") is True


def test_a_flush_is_noted_before_it_is_made() -> None:
    watch, before = Stopwatch(ticking(), 10), []

    watch.around_flush(lambda: before.extend(points_from(watch.as_body())))()

    assert before == [(SENT, 1000)]


def test_a_full_stopwatch_counts_what_it_lost_and_is_refused() -> None:
    watch = Stopwatch(ticking(), 2)
    for _ in range(5):
        watch.note("tun in")

    body = watch.as_body()

    assert (len(body["codes"]), body["lost"]) == (2, 3)
    with pytest.raises(WireError, match="3 points lost"):
        points_from(body)


def test_no_question_gets_a_stopwatch_that_grows_without_bound() -> None:
    watch = Stopwatch(ticking(), 1 << 40)
    for _ in range(MOST_POINTS + 1):
        watch.note("tun in")

    assert watch.as_body()["lost"] == 1


@pytest.mark.parametrize(
    "change",
    [
        {"names": None},
        {"codes": "text"},
        {"times": []},
        {"times": bytes(7)},
        {"codes": b"\0\0"},
        {"codes": b"\5"},
    ],
)
def test_answers_that_are_none_are_refused(change: dict[str, Any]) -> None:
    watch = Stopwatch(ticking(), 10)
    watch.note("tun in")

    with pytest.raises(WireError, match="stopwatch"):
        points_from({**watch.as_body(), **change})
