"""Histories are written and read back whole; datagrams that are not what was sent are told apart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntbnet.app import chaos_history
from ntbnet.app.chaos_history import (
    FaultLog,
    FaultRecord,
    Kind,
    LoggedError,
    NodeCounters,
    Observed,
    Record,
    Sample,
    Tail,
    pack,
    traffic_path,
    unpack,
)
from ntbnet.app.chaos_load import datagram, examine
from ntbnet.edge.carrier import CarrierChange

POOL = bytes(range(256)) * 300


def test_history_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    fault = FaultRecord(0, "kill", ("epc", "edma"), 5, 5, "note", 1, ends_life=True)
    FaultLog(tmp_path).add(fault)
    observed = Observed(
        errors=(LoggedError("epc", "x", None, False, "text"),),
        injected={"drop": 3},
        samples=(Sample(1, "epc", 2, 3, 4),),
        nodes=(NodeCounters(0, "rc", {"InDatagrams": 1}, {"rx_packets": 2}, None),),
        carriers=(CarrierChange("rc", 1, up=True),),
        leaks=("a",),
        gaps=("b",),
    )
    chaos_history.write_observed(tmp_path, observed)
    traffic_path(tmp_path, 0).write_bytes(pack(Kind.SENT, 1, 2, 3, 4, 5))
    traffic_path(tmp_path, 1).write_bytes(pack(Kind.RECEIVED, 0, 2, 3, 4, 5, 6))

    found = chaos_history.read(tmp_path)

    assert found.observed == observed
    assert list(found.faults) == [fault]
    assert found.lives == [[Record(1, 1, 2, 3, 4, 5, 0)], [Record(2, 0, 2, 3, 4, 5, 6)]]


def test_a_history_without_its_observations_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        chaos_history.read(tmp_path)
    (tmp_path / chaos_history.OBSERVED_FILE).write_text(json.dumps({"errors": []}))
    with pytest.raises(KeyError):
        chaos_history.read(tmp_path)


def test_tail_gives_each_record_once_and_waits_for_whole_ones(tmp_path: Path) -> None:
    path = tmp_path / "traffic"
    tail = Tail(path)
    assert tail.new() == []
    one, two = pack(Kind.SENT, 0, 0, 1, 1, 1), pack(Kind.SENT, 0, 0, 1, 2, 2)

    path.write_bytes(one + two[:5])
    first = tail.new()
    path.write_bytes(one + two)

    assert [record.sequence for record in first] == [1]
    assert [record.sequence for record in tail.new()] == [2]
    assert tail.new() == []


@given(st.integers(0, 1), st.integers(0, 63), st.integers(48, 60000), st.integers(0, 1 << 40))
def test_whole_datagram_is_known_again(way: int, flow: int, size: int, sequence: int) -> None:
    data = datagram(POOL, way, flow, size, sequence, 12345)

    assert len(data) == size
    assert examine(data, way, flow) == (sequence, 12345)
    assert examine(data, 1 - way, flow) is None
    assert examine(data, way, flow + 1) is None


@given(st.integers(48, 600), st.randoms(use_true_random=False), st.data())
def test_any_change_of_a_datagram_is_seen(size: int, chance: object, draw: st.DataObject) -> None:
    data = bytearray(datagram(POOL, 0, 1, size, 7, 12345))
    at = draw.draw(st.integers(0, size - 1))
    data[at] ^= draw.draw(st.integers(1, 255))

    assert examine(bytes(data), 0, 1) is None


@given(st.binary(max_size=200))
def test_bytes_that_are_no_datagram_are_refused(data: bytes) -> None:
    assert examine(data, 0, 0) is None


def test_records_have_a_fixed_size_and_half_ones_are_left_out() -> None:
    data = pack(Kind.END, 0, 0, 0, 0, 9)

    assert len(data) == chaos_history.RECORD.size == 32
    assert unpack(data + data[:31]) == [Record(9, 0, 0, 0, 0, 9, 0)]
