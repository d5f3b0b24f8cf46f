"""The header of a record in a capture file, and what addresses are called there."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntbnet.config import load_text
from ntbnet.trace_link import FIELDS, HEADER_BYTES, offsets, pack, place_of, unpack
from ntbnet.trace_places import NO_BAR, NOWHERE, Place, Places, RegBlock, Region
from ntbnet.trace_records import Block, Flag, Kind, Record
from ntbnet.wire import Service
from tests import dissector_tables
from tests.trace_samples import BAR2, BELL, EDMA, records, ring_of

U8, U16, U32, U64 = (st.integers(0, (1 << bits) - 1) for bits in (8, 16, 32, 64))


def default_places() -> Places:
    return Places(load_text("", "defaults", lambda name: name))


def test_fields_lie_where_the_document_says() -> None:
    at = offsets()

    # typed again by hand: a second witness of the table
    assert (at["kind"], at["service"], at["result"], at["epoch"], at["length"]) == (2, 4, 6, 8, 12)
    assert (at["flow"], at["address"], at["translated"], at["bar_offset"]) == (16, 24, 32, 40)
    assert (at["queue"], at["slot"], at["tag"], at["amount"], at["offset"]) == (48, 50, 52, 56, 60)
    assert (at["region"], at["block"], at["level"], at["pid"], at["incarnation"]) == (64, 65, 66, 68, 72)
    assert (at["mono_ns"], at["number"], HEADER_BYTES) == (76, 84, 92)


@given(record=records(), service=st.sampled_from(Service))
def test_a_record_is_unpacked_as_it_was(record: Record, service: Service) -> None:
    place = Place(2, 0xF00A0, Region.MW2, RegBlock.EDMA, 0xA0)

    fields, data = unpack(pack(ring_of(service), record, place))

    assert data == record.data
    ring = ring_of(service)
    for name in {field.name for field in FIELDS} & set(record._fields):
        assert fields[name] == getattr(record, name)
    assert (fields["service"], fields["other"], fields["pid"]) == (service, record.source, ring.pid)
    assert (fields["bar"], fields["bar_offset"], fields["region"], fields["block"]) == (2, 0xF00A0, 10, 1)


@pytest.mark.parametrize(
    "damage", [b"", bytes(HEADER_BYTES), b"\x02" + bytes(HEADER_BYTES), b"\x01\xff" + bytes(100)]
)
def test_what_is_no_such_packet_is_refused(damage: bytes) -> None:
    with pytest.raises(ValueError, match="no version 1"):
        unpack(damage)


def test_a_later_version_may_have_a_longer_header() -> None:
    packet = pack(ring_of(Service.EDMA), Record(1, Kind.REG_WRITE, data=b"abcd"))
    longer = packet[:1] + bytes([HEADER_BYTES + 8]) + packet[2:HEADER_BYTES] + bytes(8) + b"abcd"

    assert unpack(longer)[1] == b"abcd"


def test_dissector_has_the_tables_of_the_code() -> None:
    """Register names, numbers and offsets: else run ``python -m tests.dissector_tables``."""
    assert dissector_tables.DISSECTOR.read_text() == dissector_tables.dissector()


def test_document_has_the_fields_of_the_code() -> None:
    assert dissector_tables.DOCUMENT.read_text() == dissector_tables.document()


def write(service: Service, other: Service, address: int, flags: int = 0, **more: Any) -> Place:
    record = Record(1, Kind.MEM_WRITE, flags, int(other), address=address, length=4, **more)
    return place_of(default_places(), service, record)


THE_BELL = Place(2, 0xF00A0, Region.MW2, RegBlock.EDMA, 0xA0)
THE_REGISTER = Place(NO_BAR, 0, Region.EDMA, RegBlock.EDMA, 0xA0)


@pytest.mark.covers("EDMA 126")
def test_the_hosts_store_is_named_after_the_register_it_reaches() -> None:
    assert write(Service.PEER_RC, Service.EDMA, BELL, Flag.SENT | Flag.WAKE) == THE_BELL
    assert write(Service.EDMA, Service.PEER_RC, BELL, Flag.WAKE) == THE_BELL


def test_the_controllers_own_word_about_the_bar_counts() -> None:
    moved = BELL + 0x1000_0000

    place = write(
        Service.EPC, Service.PEER_RC, moved, Flag.TRANSLATED, translated=EDMA + 0xA0, queue=2, amount=0xF00A0
    )

    assert place == THE_BELL


def test_a_local_address_of_the_endpoint_is_named() -> None:
    assert write(Service.EPC, Service.EDMA, EDMA + 0xA0, Flag.SENT) == THE_REGISTER


def test_what_the_endpoint_stores_outbound_is_no_bar() -> None:
    flags = Flag.SENT | Flag.OUTBOUND | Flag.TRANSLATED

    assert write(Service.PEER_EP, Service.EPC, BELL, flags, translated=BAR2, queue=2) is NOWHERE


def test_registers_are_named_by_their_owners_block() -> None:
    known = Record(1, Kind.REG_WRITE, slot=Block.EDMA, address=0xA0, length=4)
    unknown = known._replace(slot=77)

    assert place_of(None, Service.EDMA, known) == THE_REGISTER
    assert place_of(None, Service.EDMA, unknown) is NOWHERE


def test_configuration_space_is_named() -> None:
    record = Record(1, Kind.CFG_READ, address=0x52, length=2)

    assert place_of(None, Service.RC_HOST, record) == Place(NO_BAR, 0, Region.CONFIG, RegBlock.CONFIG, 0x52)
