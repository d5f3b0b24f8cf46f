"""Records that stand for several."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ntbnet.trace_records import Block, Flag, Handler, Kind, Record, Result, decode_record, pack_record
from ntbnet.trace_stored import Stored, StoredFlag, expanded

U32_MAX, U64_MAX = (1 << 32) - 1, (1 << 64) - 1


def test_frame_is_a_packet_that_came_and_what_was_made_of_it() -> None:
    frame = Record(
        5000,
        Stored.FRAME,
        flags=Flag.SENT | Flag.DIRECT,
        epoch=7,
        flow=9,
        address=0x1000,
        length=4,
        queue=1,
        slot=3,
        amount=2,
        tag=400,
        data=b"\x45abc",
        number=11,
    )

    read, written = expanded([frame])

    assert read == Record(4600, Kind.TUN_READ, epoch=7, flow=9, length=4, queue=1, data=b"\x45abc", number=11)
    assert written == frame._replace(kind=Kind.RING_WRITE, tag=0, data=b"")


def test_burst_is_a_trigger_and_a_slice() -> None:
    burst = Record(
        5000, Stored.BURST, result=Result.DROPPED, epoch=7, flow=9, queue=1, amount=3, tag=400, number=11
    )

    trigger, slice_ = expanded([burst])

    assert trigger == burst._replace(kind=Kind.TRIGGER, tag=0)
    assert slice_ == Record(5000, Kind.SLICE, flow=9, slot=Handler.TUN, amount=400, number=11)


def test_single_is_a_frame_and_later_its_burst() -> None:
    frame = Record(
        5000, Stored.FRAME, Flag.SENT, 0, 0, 7, 9, 0x1000, 0, 4, 1, 3, 2, tag=400, data=b"\x45abc", number=11
    )
    single = frame._replace(kind=Stored.SINGLE, result=Result.DROPPED, translated=300)
    ring = Record(5200, Kind.MEM_WRITE, Flag.SENT | Flag.WAKE, 3, number=12)
    later = Record(5300, Kind.LINE, Flag.WAKE, 3, number=13)

    records = [*expanded([single, ring, later])]

    assert [record.mono_ns for record in records] == [4600, 5000, 5200, 5300, 5300, 5300]
    assert records[:2] == [*expanded([frame])]
    assert records[2] == ring
    assert records[3] == Record(
        5300, Kind.TRIGGER, result=Result.DROPPED, epoch=7, flow=9, queue=1, amount=1, number=11
    )
    assert records[4] == Record(5300, Kind.SLICE, flow=9, slot=Handler.TUN, amount=700, number=11)
    assert records[5] == later


def test_slice_of_what_arrived_comes_behind_what_it_led_to() -> None:
    flags = Flag.WAKE | StoredFlag.HANDLED | StoredFlag.REGISTER
    came = Record(
        5000, Kind.MEM_WRITE, flags, 4, 0, 7, 0, 0xE65D50A0, 0xA0, 4, amount=300, data=b"\1\0\0\0", number=1
    )
    line = Record(5200, Kind.LINE, Flag.SENT | Flag.WAKE, 5, number=2)
    later = Record(5300, Kind.LINE, Flag.WAKE, 3, number=3)

    records = [*expanded([came, line, later])]

    assert [record.mono_ns for record in records] == [5000, 5000, 5200, 5300, 5300]
    assert records[0] == came._replace(flags=Flag.WAKE, translated=0, amount=0)
    assert (records[1].kind, records[1].address, records[1].slot) == (Kind.REG_WRITE, 0xA0, Block.EDMA)
    assert records[1].data == b"\1\0\0\0"
    assert records[3] == Record(5300, Kind.SLICE, Flag.WAKE, 4, slot=Handler.WAKE, amount=300, number=1)
    assert records[4] == later


def test_what_arrived_and_was_never_handled_has_no_slice() -> None:
    came = Record(5000, Kind.IRQ, Flag.WAKE, 4, number=1)

    assert [*expanded([came])] == [came]


RAW = st.tuples(
    st.integers(0, U64_MAX),
    st.sampled_from([*Stored, Kind.MEM_WRITE, Kind.LINE, Kind.TUN_WRITE]),
    st.integers(0, 255),
    st.integers(0, U64_MAX),
    st.integers(0, U32_MAX),
    st.integers(0, U32_MAX),
)
"""Time, kind, flags, translated, amount, tag."""


@given(st.lists(RAW))
def test_whatever_is_in_a_ring_becomes_records_that_fit_their_fields(raw: list[tuple[int, ...]]) -> None:
    stored = [
        Record(at, kind, flags, translated=translated, amount=amount, tag=tag, number=1)
        for at, kind, flags, translated, amount, tag in raw
    ]
    records = [*expanded(stored)]
    parts: dict[int, int] = {Stored.FRAME: 2, Stored.BURST: 2, Stored.SINGLE: 4}
    flags = (StoredFlag.HANDLED, StoredFlag.REGISTER)
    made = [parts.get(one.kind, 1 + sum(bool(one.flags & flag) for flag in flags)) for one in stored]
    assert len(records) == sum(made)
    for record in records:
        assert decode_record(pack_record(record))[:3] == record[:3]
        assert record.kind in Kind._value2member_map_
