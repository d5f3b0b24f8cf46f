"""Parts of long events in a stream of records."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ntbnet.trace_records import Kind, Record
from ntbnet.trace_whole import whole_events
from ntbnet.wire import Service
from tests.trace_samples import Entry, records, ring_of

RC, EP = ring_of(Service.PEER_RC), ring_of(Service.PEER_EP)


def part(number: int, slot: int, amount: int, text: str) -> Record:
    return Record(100 + number, Kind.EVENT, slot=slot, amount=amount, data=text.encode(), number=number)


def texts(entries: list[Entry]) -> list[str]:
    return [record.data.decode() for _, record in whole_events(entries)]


def test_parts_become_one_record_at_the_time_of_the_last() -> None:
    entries = [(RC, part(1, 0, 3, "link.")), (RC, part(2, 1, 3, "changed ")), (RC, part(3, 2, 3, "up=1"))]

    ((ring, record),) = whole_events(entries)

    assert (ring, record.mono_ns, record.data, record.amount) == (RC, 103, b"link.changed up=1", 1)


def test_parts_of_two_processes_do_not_mix() -> None:
    entries = [
        (RC, part(1, 0, 2, "a")),
        (EP, part(1, 0, 2, "x")),
        (RC, part(2, 1, 2, "b")),
        (EP, part(2, 1, 2, "y")),
    ]

    assert texts(entries) == ["ab", "xy"]


def test_an_event_cut_short_stays_in_parts() -> None:
    """Its process was killed between two parts, and the next one began."""
    entries = [(RC, part(1, 0, 2, "torn")), (RC, part(2, 0, 2, "who")), (RC, part(3, 1, 2, "le"))]

    assert texts(entries) == ["torn", "whole"]


def test_a_last_part_whose_first_was_overwritten_is_kept() -> None:
    assert texts([(RC, part(9, 1, 2, "tail")), (RC, part(10, 0, 2, "never finished"))]) == [
        "tail",
        "never finished",
    ]


@given(st.lists(st.tuples(st.sampled_from([RC, EP]), records())))
def test_nothing_is_lost_of_any_stream(entries: list[Entry]) -> None:
    found = list(whole_events(entries))

    for ring in (RC, EP):
        mine = b"".join(record.data for one, record in entries if one is ring and record.kind == Kind.EVENT)
        theirs = b"".join(record.data for one, record in found if one is ring and record.kind == Kind.EVENT)
        assert theirs == mine
    others = [entry for entry in entries if entry[1].kind != Kind.EVENT]
    assert [entry for entry in found if entry[1].kind != Kind.EVENT] == others
