from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from struct import pack, pack_into
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from ntbnet import wire
from ntbnet.errors import WireError
from ntbnet.wire import (
    Call,
    CfgRead,
    CfgWrite,
    Completion,
    Decoder,
    Irq,
    IrqSource,
    Kind,
    MemRead,
    MemWrite,
    Message,
    Notice,
    Reply,
    Service,
    Status,
    decode_header,
    decode_message,
    encode_control,
    unpack_body,
)
from tests.frames import encode

GOLDEN = Path(__file__).parents[1] / "golden" / "wire.txt"
ROUTE = {"src": 4, "dst": 1, "incarnation": 7, "session": 9, "sequence": 11, "timestamp_ns": 13}

MESSAGES: tuple[Message, ...] = (
    MemWrite(0x3010_0000, b"\x01\x02\x03\x04", epoch=3),
    MemRead(0xFFFF_FFFF_FFFF_F000, 4096, tag=5, epoch=3),
    Completion(5, Status.OK, b"\xaa\xbb", epoch=3),
    Completion(6, Status.UR, epoch=3),
    CfgRead(0x50, 4, tag=7, epoch=3),
    CfgWrite(0x52, b"\x81\x00", tag=8, epoch=3),
    Irq(IrqSource.MSI_VECTOR, 2, epoch=3),
    Irq(IrqSource.EDMA_LINE, 1),
    Call("dma_map", {"addr": 0x8000_0000, "size": 4096}, tag=9, epoch=3),
    Reply(9, 22, {"reason": "EINVAL"}, epoch=3),
    Notice("epoch", {"epoch": 3}, epoch=3),
)
"""One of each kind; their bytes are in golden/wire.txt, line by line."""


def golden() -> list[tuple[str, bytes]]:
    rows = (line.split() for line in GOLDEN.read_text(encoding="ascii").splitlines())
    return [(row[0], bytes.fromhex("".join(row[1:]))) for row in rows]


def frames_of(message: Message) -> tuple[bytes, bytes]:
    header, payload = encode(message, **ROUTE)
    return header, bytes(payload)


def decoded(header: bytes, payload: bytes) -> Message:
    return decode_message(decode_header(header, payload), payload)


def control() -> tuple[bytes, bytes]:
    return encode_control(Kind.OPEN, 1, 2, 7, 9, arg=4, timestamp_ns=13, body={"bridge": "default"})


def sealed(payload: bytes = b"", **fields: int) -> tuple[bytes, bytes]:
    """Frames with any field values and a right checksum: what only a hostile peer sends."""
    values = {"version": 1, "kind": 16, "flags": 0, "src": 4, "dst": 1, "reserved": 0, "incarnation": 7}
    values |= {"session": 9, "epoch": 3, "tag": 0, "sequence": 0, "address": 0, "length": len(payload)}
    values |= {"arg": 0, "timestamp": 0}
    assert set(fields) <= set(values)
    head = pack("<BBHBBHIIIIQQIIQ", *(values | fields).values())
    return head + pack("<Q", xxh3_64_intdigest(payload, xxh3_64_intdigest(head))), payload


@pytest.mark.parametrize(("message", "row"), list(zip(MESSAGES, golden(), strict=False)))
def test_golden_bytes_encode_and_decode(message: Message, row: tuple[str, bytes]) -> None:
    """Changed bytes are a changed protocol: they need a new SCHEMA_VERSION."""
    header, payload = frames_of(message)

    assert (type(message).__name__, header + payload) == row
    assert decoded(row[1][:64], row[1][64:]) == message


USUAL = [message for message in MESSAGES if isinstance(message, (MemWrite, Irq))]
DECODER = Decoder(src=4, dst=1, incarnation=7, session=9)


@pytest.mark.parametrize("message", MESSAGES)
def test_message_that_is_checked_as_one_is_what_it_is_field_by_field(message: Message) -> None:
    found = DECODER.decode_next(*frames_of(message), sequence=ROUTE["sequence"])

    assert found == (message if message in USUAL else None)


@given(st.sampled_from(USUAL), st.integers(0, 10_000), st.integers(1, 255))
def test_damaged_message_is_not_taken_as_one(message: Message, place: int, change: int) -> None:
    header, payload = frames_of(message)
    whole = bytearray(header + payload)
    whole[place % len(whole)] ^= change

    assert DECODER.decode_next(bytes(whole[:64]), bytes(whole[64:]), ROUTE["sequence"]) is None


@pytest.mark.parametrize(
    "fields",
    [
        *({name: 2} for name in ("version", "flags", "src", "dst", "reserved", "incarnation", "session")),
        {"sequence": 1},
        {"kind": 24},
        {"length": 3},
        {"length": 5},
        {"address": (1 << 64) - 3},
    ],
    ids=str,
)
def test_message_with_a_right_checksum_and_a_wrong_field_is_not_taken_as_one(fields: dict[str, int]) -> None:
    assert DECODER.decode_next(*sealed(b"word"), sequence=0) == MemWrite(0, b"word", 3)
    assert DECODER.decode_next(*sealed(b"word", **fields), sequence=0) is None


@pytest.mark.parametrize("fields", [{"arg": 0}, {"arg": 5}], ids=str)
def test_interrupt_of_no_source_is_not_taken_as_one(fields: dict[str, int]) -> None:
    assert DECODER.decode_next(*sealed(kind=24, arg=1), sequence=0) == Irq(IrqSource.MSI_VECTOR, 0, 3)
    assert DECODER.decode_next(*sealed(b"", kind=24, **fields), sequence=0) is None


def test_header_of_another_length_and_empty_write_are_not_taken_as_one() -> None:
    header, payload = sealed(b"word")

    assert DECODER.decode_next(header + b"\0", payload, 0) is None
    assert DECODER.decode_next(header[:63], payload, 0) is None
    assert DECODER.decode_next(*sealed(b""), sequence=0) is None


def test_golden_control_message() -> None:
    header, payload = control()

    assert ("Open", header + payload) == golden()[-1]
    assert unpack_body(payload) == {"bridge": "default"}
    assert len(golden()) == len(MESSAGES) + 1


def test_header_fields_are_where_the_table_says() -> None:
    header = decode_header(*frames_of(MESSAGES[1]))

    assert header._asdict() == {
        "version": 1,
        "kind": 17,
        "flags": 0,
        "src": 4,
        "dst": 1,
        "reserved": 0,
        "incarnation": 7,
        "session": 9,
        "epoch": 3,
        "tag": 5,
        "sequence": 11,
        "address": 0xFFFF_FFFF_FFFF_F000,
        "length": 0,
        "arg": 4096,
        "timestamp_ns": 13,
    }


def test_message_made_with_another_key_is_refused() -> None:
    """Whoever cannot read the run folder cannot name an incarnation or a session."""
    key = 0x0123_4567_89AB_CDEF
    device = encode(MESSAGES[0], **ROUTE, key=key)
    hello = encode_control(Kind.HELLO, 1, 2, 0xFFFF_FFFF, 0, body={"bridge": "default"}, key=key)

    for header, payload in (device, hello):
        assert decode_header(header, payload, key).src in {1, 4}
        for other in (0, key ^ 1, key ^ 1 << 63):
            with pytest.raises(WireError, match="checksum"):
                decode_header(header, payload, other)


u32 = st.integers(0, 0xFFFF_FFFF)
u64 = st.integers(0, (1 << 64) - 1)
values = st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.text(max_size=8)
bodies = st.dictionaries(st.text(max_size=4), values | st.lists(values, max_size=2), max_size=2)
config_accesses = st.sampled_from((1, 2, 4)).flatmap(
    lambda size: st.tuples(st.integers(0, 4096 // size - 1).map(lambda n: n * size), st.just(size))
)
messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(MemWrite, st.integers(0, (1 << 64) - 64), st.binary(min_size=1, max_size=64), u32),
    st.builds(MemRead, st.integers(0, (1 << 64) - 4096), st.integers(1, 4096), u32, u32),
    st.builds(Completion, u32, st.sampled_from(Status), st.binary(max_size=64), u32),
    st.builds(lambda a, tag, epoch: CfgRead(a[0], a[1], tag, epoch), config_accesses, u32, u32),
    st.builds(lambda a, tag, epoch: CfgWrite(a[0], bytes(a[1]), tag, epoch), config_accesses, u32, u32),
    st.builds(Irq, st.sampled_from(IrqSource), u64, u32),
    st.builds(Call, st.text(max_size=12), bodies, u32, u32),
    st.builds(Reply, u32, st.integers(0, 4095), bodies, u32),
    st.builds(Notice, st.text(max_size=12), bodies, u32),
)


@settings(max_examples=50)
@given(messages)
def test_every_kind_survives_the_wire(message: Message) -> None:
    assert decoded(*frames_of(message)) == message


@given(st.sampled_from(MESSAGES), st.data())
def test_any_single_bit_flip_is_refused(message: Message, data: st.DataObject) -> None:
    header, payload = frames_of(message)
    whole = bytearray(header + payload)
    bit = data.draw(st.integers(0, 8 * len(whole) - 1))
    whole[bit // 8] ^= 1 << bit % 8

    with pytest.raises(WireError):
        decode_header(bytes(whole[:64]), bytes(whole[64:]))


@given(st.sampled_from(MESSAGES), st.data())
def test_truncated_message_is_refused(message: Message, data: st.DataObject) -> None:
    whole = b"".join(frames_of(message))
    short = whole[: data.draw(st.integers(0, len(whole) - 1))]

    with pytest.raises(WireError):
        decode_header(short[:64], short[64:])


@given(st.binary(max_size=100), st.binary(max_size=100))
def test_random_bytes_raise_only_wire_error(header: bytes, payload: bytes) -> None:
    with pytest.raises(WireError):
        decode_header(header, payload)
    try:
        body = unpack_body(payload)
    except WireError:
        return
    assert isinstance(body, dict)


@given(
    st.fixed_dictionaries(
        {
            "kind": st.integers(0, 255),
            "address": u64 | st.integers(0, 5000),
            "arg": u32 | st.integers(0, 5000),
            "tag": u32,
            "sequence": u64,
        }
    ),
    st.binary(max_size=40),
)
def test_hostile_field_values_raise_only_wire_error(fields: dict[str, int], payload: bytes) -> None:
    header = decode_header(*sealed(payload, **fields))
    try:
        message = decode_message(header, payload)
    except WireError:
        return
    assert asdict(message)["epoch"] == 3


REFUSED: dict[str, dict[str, Any]] = {
    "version": {"version": 2},
    "flags": {"flags": 1, "payload": b"x"},
    "length": {"kind": Kind.MEM_WRITE},
    "address": {"kind": Kind.MEM_READ, "address": (1 << 64) - 1, "arg": 2},
    "arg": {"kind": Kind.MEM_READ, "arg": 4097},
    "size": {"kind": Kind.CFG_READ, "arg": 3},
    "offset": {"kind": Kind.CFG_READ, "arg": 4, "address": 0x52},
    "kind": {"kind": 99},
    "body": {"kind": Kind.CALL, "payload": b"\x80"},
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusal_names_the_field(name: str) -> None:
    fields = dict(REFUSED[name])
    frames = sealed(fields.pop("payload", b""), **fields)

    with pytest.raises(WireError, match=rf"^{name}: "):
        decoded(*frames)


def test_completion_longer_than_any_read_is_refused() -> None:
    with pytest.raises(WireError, match="length"):
        decoded(*sealed(bytes(4097), kind=Kind.COMPLETION))


def test_interrupt_carries_no_payload() -> None:
    with pytest.raises(WireError, match="length"):
        decoded(*sealed(b"x", kind=Kind.IRQ, arg=IrqSource.MSI_VECTOR))


def test_map_with_too_many_items_is_refused() -> None:
    many = encode(Notice("n", {str(i): i for i in range(wire.MAX_BODY_ITEMS + 1)}), **ROUTE)[1]

    with pytest.raises(WireError, match="body"):
        unpack_body(many)


def test_deeply_nested_body_is_refused() -> None:
    with pytest.raises(WireError, match="body"):
        unpack_body(b"\x81\xa1a" + b"\x91" * 5000 + b"\x00")


def test_payload_above_the_limit_is_refused() -> None:
    payload = bytes(wire.MAX_PAYLOAD_BYTES + 1)
    header = bytearray(64)
    pack_into("<BB", header, 0, 1, 16)
    pack_into("<I", header, 40, len(payload))

    with pytest.raises(WireError, match="length"):
        decode_header(bytes(header), payload)


def test_services_have_the_names_people_use() -> None:
    assert [service.label for service in Service] == ["rc-host", "epc", "edma", "peer-rc", "peer-ep"]
