"""The bytes of a trace ring."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntbnet.errors import WireError
from ntbnet.topology import SERVICES as LABELS
from ntbnet.trace_kinds import KINDS
from ntbnet.trace_records import (
    DATA_BYTES,
    HEADER_BYTES,
    NUMBER_AT,
    RECORD_BYTES,
    SERVICES,
    Kind,
    Record,
    RingHeader,
    decode_header,
    decode_record,
    flow_type,
    frame_flow,
    message_flow,
    number_of,
    pack_header,
    pack_record,
    wake_flow,
)
from ntbnet.wire import SERVICE_BY_LABEL

HEADER = RingHeader(2, 4, 1000, 77, 3, 5_000, 1_700_000_000_000_000_000, "abcdef012345")


def test_every_field_is_where_the_table_says() -> None:
    data = bytes(range(64))
    record = Record(0x01, 0x20, 0x05, 4, 1, 0x0A, 0x0B, 0x0C, 0x0D, 64, 0x0E, 0x0F, 0x10, 0x11, data, 0x12)
    packed = pack_record(record)

    def at(offset: int, size: int) -> int:
        return int.from_bytes(packed[offset : offset + size], "little")

    assert len(packed) == RECORD_BYTES == 128
    assert [at(0, 8), at(8, 1), at(9, 1), at(10, 1), at(11, 1), at(12, 4)] == [1, 0x20, 5, 4, 1, 0x0A]
    assert [at(16, 8), at(24, 8), at(32, 8), at(40, 4)] == [0x0B, 0x0C, 0x0D, 64]
    assert [at(44, 2), at(46, 2), at(48, 4), at(52, 4)] == [0x0E, 0x0F, 0x10, 0x11]
    assert packed[56:120] == data
    assert at(NUMBER_AT, 8) == number_of(packed) == 0x12
    assert decode_record(packed) == record


def test_data_is_as_long_as_was_accessed_and_text_ends_before_a_zero() -> None:
    word = Record(1, Kind.MEM_WRITE, length=4, data=b"\1\0\0\0", number=1)
    text = Record(1, Kind.EVENT, data=b"link.changed up=True", number=1)

    assert decode_record(pack_record(word)).data == b"\1\0\0\0"
    assert decode_record(pack_record(text)).data == b"link.changed up=True"


def test_header_comes_back_and_is_padded() -> None:
    packed = pack_header(HEADER)

    assert len(packed) == HEADER_BYTES
    assert decode_header(packed) == HEADER
    assert HEADER.label == "peer-rc"
    assert HEADER.wall_ns(6_000) == 1_700_000_000_000_001_000


@pytest.mark.parametrize(
    ("offset", "value", "says"),
    [
        (0, 0, "not one"),
        (8, 9, "version 9"),
        (12, 7, "level 7"),
        (13, 6, "service 6"),
        (19, 255, "capacity"),
        (20, 0, "pid 0"),
        (23, 255, "pid"),
    ],
)
def test_a_wrong_header_is_refused_by_field(offset: int, value: int, says: str) -> None:
    packed = bytearray(pack_header(HEADER))
    packed[offset] = value

    with pytest.raises(WireError, match=says):
        decode_header(bytes(packed))


def test_services_are_those_of_the_wire() -> None:
    assert {label: number for number, label in enumerate(SERVICES) if number} == {
        label: int(service) for label, service in SERVICE_BY_LABEL.items()
    }
    assert set(SERVICES[1:]) == set(LABELS)


def test_every_kind_is_documented_with_fields_that_exist() -> None:
    assert set(KINDS) == set(Kind)
    assert all(set(row.fields) <= set(Record._fields) for row in KINDS.values())


@given(st.binary(min_size=RECORD_BYTES, max_size=RECORD_BYTES))
def test_any_bytes_are_a_record(data: bytes) -> None:
    assert len(decode_record(data).data) <= DATA_BYTES


@given(st.integers(0, 1), st.integers(0, 31), st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 40) - 1))
def test_flows_of_frames_differ_by_node_queue_and_number(node: int, queue: int, epoch: int, ver: int) -> None:
    flow = frame_flow(node, queue, epoch, ver)

    assert flow_type(flow) == 1
    assert flow < 1 << 64
    assert flow != frame_flow(1 - node, queue, epoch, ver)
    assert flow != frame_flow(node, queue ^ 1, epoch, ver)
    assert flow != frame_flow(node, queue, epoch, ver + 1)
    assert flow == frame_flow(node, queue, epoch, ver + (1 << 32))


def test_flows_of_messages_and_wakes_have_types_of_their_own() -> None:
    assert flow_type(message_flow(1, 2, 3, 4)) == 2
    assert flow_type(wake_flow(4, 3, 9)) == 3
    assert message_flow(1, 2, 3, 4) != message_flow(2, 1, 3, 4)
