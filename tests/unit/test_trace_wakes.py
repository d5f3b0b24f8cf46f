"""Which wake that was sent is which one that arrived."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntbnet import trace_wakes
from ntbnet.trace_records import Entry, Flag, Kind, Record, Result, RingHeader
from ntbnet.trace_wakes import MOST_WAITING, PAIR_NS, with_wake_flows
from ntbnet.wire import Service
from tests.trace_samples import records, ring_of

EDMA, EP = ring_of(Service.EDMA), ring_of(Service.PEER_EP)


def sent(at: int, line: int, result: Result = Result.OK) -> Entry:
    return Entry(EDMA, Record(at, Kind.LINE, Flag.SENT | Flag.WAKE, Service.PEER_EP, result, address=line))


def came(at: int, line: int, result: Result = Result.OK) -> Entry:
    return Entry(EP, Record(at, Kind.LINE, Flag.WAKE, Service.EDMA, result, address=line))


def pairs(entries: list[Entry]) -> list[int | None]:
    """Of each wake that arrived: when it was sent."""
    times, found = dict[int, int](), list[int | None]()
    for _, record in with_wake_flows(entries):
        if record.kind == Kind.SLICE:
            continue
        if record.flags & Flag.SENT:
            times[record.flow] = record.mono_ns
        else:
            found.append(times.get(record.flow))
    return found


def test_what_was_sent_before_one_that_arrived_does_not_arrive_any_more() -> None:
    entries = [sent(1, 1), sent(2, 2), came(3, 2), sent(4, 1), came(5, 1)]

    assert pairs(entries) == [2, 4]


def test_a_wake_that_a_fault_lost_is_not_the_next_one() -> None:
    entries = [sent(1, 1), came(2, 1, Result.DROPPED), sent(3, 1), came(4, 1)]

    assert pairs(entries) == [1, 3]


def test_a_wake_that_its_sender_could_not_get_rid_of_is_not_the_next_one() -> None:
    entries = [sent(1, 1), sent(2, 1, Result.DROPPED), sent(3, 1), came(4, 1)]

    assert pairs(entries) == [3]


def test_a_process_that_begins_takes_none_that_were_sent_before() -> None:
    again = EP._replace(incarnation=EP.incarnation + 1, pid=77)
    arrived = came(4, 1).record

    assert pairs([sent(1, 1), came(2, 1), sent(3, 1), Entry(again, Record(3, Kind.SLICE)), sent(4, 1)]) == [1]
    begins = [came(0, 9), sent(1, 1), Entry(again, Record(2, Kind.SLICE))]
    assert pairs([*begins, sent(3, 1), Entry(again, arrived)]) == [None, 3]


def test_a_wake_that_nobody_took_for_long_is_lost() -> None:
    assert pairs([sent(1, 1), sent(2 + PAIR_NS, 1), came(3 + PAIR_NS, 1)]) == [2 + PAIR_NS]


def test_more_than_a_fifo_holds_are_not_remembered() -> None:
    entries = [sent(1 + number, number % 3) for number in range(MOST_WAITING + 1)]

    assert pairs([*entries, came(MOST_WAITING + 2, 0)]) == [4]


def test_arrivals_that_nobody_sent_cost_no_more_with_many_that_nobody_took() -> None:
    """A ring may say anything."""

    def seconds(waiting: int) -> float:
        entries = [sent(number, number) for number in range(waiting)]
        entries += [came(waiting, -1)] * 20_000
        began = time.process_time()
        assert sum(1 for _ in with_wake_flows(entries)) == len(entries)
        return time.process_time() - began

    alone, many = seconds(1), seconds(MOST_WAITING)

    assert many < 5 * alone + 0.2


def test_memory_does_not_grow_with_what_rings_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_wakes, "MOST_WAITING", 256)

    def endless(count: int) -> Iterator[Entry]:
        for number in range(count):
            yield sent(number, number)
            yield came(number, number + 7, Result.MERGED)

    def most(count: int) -> int:
        tracemalloc.start()
        for _ in with_wake_flows(endless(count)):
            pass
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    assert most(12_000) < 1.2 * most(3_000)


@given(st.lists(st.tuples(st.sampled_from(Service).map(ring_of), records())))
def test_any_entries_come_back_in_order_with_another_flow_at_most(
    entries: list[tuple[RingHeader, Record]],
) -> None:
    found = list(with_wake_flows(Entry(*entry) for entry in entries))

    assert [one.record._replace(flow=0) for one in found] == [one._replace(flow=0) for _, one in entries]
