"""Rings as they are written, left behind, damaged and read."""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ntbnet.edge import trace_ring
from ntbnet.edge.trace_ring import KEPT, TraceRing, pattern, writer
from ntbnet.edge.trace_rings import find_rings, merged, open_ring, read_rings
from ntbnet.errors import SetupError
from ntbnet.trace_records import (
    HEADER_BYTES,
    NUMBER_AT,
    RECORD_BYTES,
    Flag,
    Kind,
    Level,
    Record,
    flow_type,
    number_of,
)

RC, EP, EDMA = 4, 5, 3


def ring_of(folder: Path, service: str = "peer-rc", incarnation: int = 1, capacity: int = 8) -> TraceRing:
    return TraceRing(folder, service, incarnation, Level.FULL, capacity, "run")


def tags(folder: Path) -> list[int]:
    return [entry.record.tag for entry in read_rings(folder)]


def test_records_come_back_in_order_with_their_ring(tmp_path: Path) -> None:
    ring = ring_of(tmp_path)
    for number in range(5):
        ring.note(Kind.MEM_READ, tag=number)

    entries = list(read_rings(tmp_path))

    assert [entry.record.tag for entry in entries] == [0, 1, 2, 3, 4]
    assert [entry.record.number for entry in entries] == [1, 2, 3, 4, 5]
    assert {(entry.ring.label, entry.ring.pid, entry.ring.run_id) for entry in entries} == {
        ("peer-rc", os.getpid(), "run")
    }


def test_newest_records_replace_the_oldest_which_are_counted(tmp_path: Path) -> None:
    ring = ring_of(tmp_path)
    for number in range(21):
        ring.note(Kind.MEM_READ, tag=number)

    (found,), complaints = find_rings(tmp_path)

    assert tags(tmp_path) == list(range(13, 21))
    assert (found.overwritten, found.last, complaints) == (13, 21, [])


def test_record_without_its_number_is_torn_and_the_others_are_read(tmp_path: Path) -> None:
    ring = ring_of(tmp_path)
    for number in range(12):
        ring.note(Kind.MEM_READ, tag=number)
    with ring.path.open("r+b") as file:
        file.seek(HEADER_BYTES + 1 * RECORD_BYTES + NUMBER_AT)
        file.write(bytes(8))

    (found,), _ = find_rings(tmp_path)

    assert [record.tag for record in found.records()] == [4, 5, 6, 7, 8, 10, 11]
    assert found.torn == 1


def test_a_value_without_room_makes_no_record_and_hurts_nobody(tmp_path: Path) -> None:
    ring = ring_of(tmp_path)
    ring.note(Kind.MEM_READ, tag=1)
    ring.note(Kind.MEM_READ, tag=1 << 40)
    ring.note(Kind.MEM_READ, address=-1)
    ring.note(Kind.MEM_READ, tag=4)

    assert tags(tmp_path) == [1, 4]


@given(
    st.builds(
        Record,
        st.integers(1, (1 << 64) - 1),
        *(st.integers(0, 255) for _ in range(4)),
        st.integers(0, (1 << 32) - 1),
        *(st.integers(0, (1 << 64) - 1) for _ in range(3)),
        st.integers(0, (1 << 32) - 1),
        *(st.integers(0, (1 << 16) - 1) for _ in range(2)),
        *(st.integers(0, (1 << 32) - 1) for _ in range(2)),
        st.binary(max_size=64),
        st.just(0),
    )
)
def test_record_of_a_pattern_is_the_same_as_one_of_all_its_fields(record: Record) -> None:
    view = memoryview(bytearray(HEADER_BYTES + 2 * RECORD_BYTES))
    notes = writer(view, 2)
    notes.note(*record[1:15], record.mono_ns)
    notes.note_like(record.mono_ns, pattern(record._replace(mono_ns=0, amount=0)), record.amount)

    first, second = (view[at : at + NUMBER_AT] for at in (HEADER_BYTES, HEADER_BYTES + RECORD_BYTES))
    assert first == second
    assert number_of(view, HEADER_BYTES + RECORD_BYTES) == 2


def test_rings_are_merged_by_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = count(100)
    monkeypatch.setattr(trace_ring, "monotonic_ns", lambda: next(times))
    rings = [ring_of(tmp_path, service) for service in ("peer-rc", "edma", "epc")]
    for number in range(15):
        rings[number % 3].note(Kind.MEM_READ, tag=number, mono_ns=1000 + number)

    assert tags(tmp_path) == list(range(15))


def test_a_new_process_has_a_ring_of_its_own_and_the_last_ones_are_kept(tmp_path: Path) -> None:
    for incarnation in range(1, 11):
        ring_of(tmp_path, incarnation=incarnation).note(Kind.START, amount=incarnation)

    rings, _ = find_rings(tmp_path)

    assert [ring.header.incarnation for ring in rings] == [9, 10]
    assert len(rings) == KEPT[Level.FULL]


def test_only_a_ring_that_was_closed_says_so(tmp_path: Path) -> None:
    ring_of(tmp_path, incarnation=1)
    ring_of(tmp_path, incarnation=2).close()

    rings, _ = find_rings(tmp_path)

    assert [ring.header.seen_ns != 0 for ring in rings] == [False, True]


def test_without_a_folder_there_is_no_ring_and_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="no trace ring"):
        ring_of(tmp_path / "gone")
    assert find_rings(tmp_path / "gone") == ([], [])


def test_what_is_no_ring_is_told_and_skipped(tmp_path: Path) -> None:
    ring_of(tmp_path).note(Kind.MEM_READ, tag=7)
    (tmp_path / "epc.1.full").write_bytes(b"short")
    (tmp_path / "edma.1.full").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "rc-host.1.full")
    short = ring_of(tmp_path, "peer-ep")
    os.truncate(short.path, HEADER_BYTES + RECORD_BYTES)

    rings, complaints = find_rings(tmp_path)

    assert [ring.path.name for ring in rings] == ["peer-rc.1.full"]
    assert len(complaints) == 4
    assert tags(tmp_path) == [7]


def test_file_that_is_shortened_under_its_reader_ends_the_reading(tmp_path: Path) -> None:
    ring = ring_of(tmp_path, capacity=4000)
    for number in range(4000):
        ring.note(Kind.MEM_READ, tag=number)
    (found,), _ = find_rings(tmp_path)
    records = found.records()
    first = next(records)
    os.truncate(ring.path, HEADER_BYTES + 600 * RECORD_BYTES)

    rest = list(records)

    assert first.tag == 0
    assert [record.tag for record in rest] == list(range(1, 600))
    assert found.torn == 3400


class TestWakes:
    """A wake, its arrival, what its handler did and the handler's slice share a flow."""

    def test_store_to_registers_is_followed_to_its_handler(self, tmp_path: Path) -> None:
        rc, edma = ring_of(tmp_path, "peer-rc"), ring_of(tmp_path, "edma")
        sent = Flag.SENT | Flag.WAKE | Flag.DIRECT | Flag.TRANSLATED
        rc.note(Kind.MEM_WRITE, sent, EDMA, address=0x301F00A0, translated=0xE65D50A0, mono_ns=10)
        edma.note(Kind.MEM_WRITE, Flag.WAKE, RC, address=0xE65D50A0, mono_ns=20)
        edma.note(Kind.REG_WRITE, 0, RC, address=0xA0, mono_ns=21)
        edma.note(Kind.SLICE, Flag.WAKE, RC, mono_ns=30)
        edma.note(Kind.REG_WRITE, 0, EP, address=0x58, mono_ns=40)

        flows = [entry.record.flow for entry in read_rings(tmp_path)]

        assert len(set(flows[:4])) == 1
        assert flow_type(flows[0]) == 3
        assert flows[4] == 0

    def test_wakes_arrive_in_order_and_a_lost_one_shifts_nobody(self, tmp_path: Path) -> None:
        edma, ep = ring_of(tmp_path, "edma"), ring_of(tmp_path, "peer-ep")
        for bits, time in ((1, 10), (2, 11), (3, 12)):
            edma.note(Kind.LINE, Flag.SENT | Flag.WAKE, EP, address=bits, mono_ns=time)
        for bits, time in ((1, 20), (3, 21), (9, 22)):
            ep.note(Kind.LINE, Flag.WAKE, EDMA, address=bits, mono_ns=time)

        flows = [entry.record.flow for entry in read_rings(tmp_path)]

        assert flows[3:5] == [flows[0], flows[2]]
        assert flows[5] == 0


@given(
    at=st.integers(0, HEADER_BYTES + 8 * RECORD_BYTES - 1),
    junk=st.binary(min_size=1, max_size=300),
)
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_ring_is_read_as_far_as_it_goes(tmp_path: Path, at: int, junk: bytes) -> None:
    ring = ring_of(tmp_path, incarnation=1)
    for number in range(12):
        ring.note(Kind.EVENT, tag=number, data=b"text")
    size = ring.path.stat().st_size
    with ring.path.open("r+b") as file:
        file.seek(at)
        file.write(junk)
        file.truncate(size)

    rings, complaints = find_rings(tmp_path)

    assert len(rings) + len(complaints) == 1
    assert len(list(merged(rings))) <= 3 * 8  # one may stand for three


@pytest.mark.parametrize("capacity", [1, 7, 512, 1500])
def test_catching_up_finds_what_a_new_look_finds(tmp_path: Path, capacity: int) -> None:
    ring = ring_of(tmp_path, capacity=capacity)
    known = open_ring(ring.path)
    for many in (0, 1, 3, 511, 512, 513, 1, 4000, 0, capacity, 2 * capacity + 1, 5):
        for number in range(many):
            # one that fits no field leaves its slot empty
            ring.note(Kind.MEM_READ, tag=1 << 40 if number % 50 == 7 else number)

        assert known.catch_up()
        fresh = open_ring(ring.path)
        assert (known.first, known.last) == (fresh.first, fresh.last)


def test_a_ring_that_another_one_replaced_cannot_be_caught_up_with(tmp_path: Path) -> None:
    ring = ring_of(tmp_path)
    known = open_ring(ring.path)
    ring.close()
    assert known.catch_up()  # that it was closed does not make it another one

    ring.path.unlink()
    assert not known.catch_up()
    ring_of(tmp_path)
    assert not known.catch_up()
