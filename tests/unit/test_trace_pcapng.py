"""Records as a capture file, read back by a reader of the tests."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ntbnet.pcapng import Direction
from ntbnet.trace_link import unpack
from ntbnet.trace_pcapng import PcapngTrace
from ntbnet.trace_records import DATA_BYTES, Kind, Record
from ntbnet.wire import Service
from tests.pcapng_blocks import Section, read_section
from tests.trace_samples import (
    MADE_MONO_NS,
    MADE_WALL_NS,
    STEP_NS,
    Entry,
    Notebook,
    ip_packet,
    packet_over_the_edma,
    packets,
    records,
    ring_of,
)

BRIDGE, RC, EP = 0, 1, 2


def section_of(entries: list[Entry]) -> Section:
    return read_section(b"".join(PcapngTrace("ntbnet test", comment="here").blocks(entries)))


def test_file_says_who_made_it_and_what_its_interfaces_are() -> None:
    section = section_of([])

    assert section.options == {1: b"here", 4: b"ntbnet test"}
    shape = [(one.name, one.link_type) for one in section.interfaces]
    assert shape == [("bridge", 147), ("ntb0@rc", 101), ("ntb0@ep", 101)]


def test_a_packet_is_on_both_nodes_with_one_id() -> None:
    section = section_of(list(packets(1)))

    sent, arrived = (next(p for p in section.packets if p.interface == node) for node in (RC, EP))
    assert sent.data == arrived.data == ip_packet()[:DATA_BYTES]
    assert sent.whole_bytes == arrived.whole_bytes == len(ip_packet())
    assert (sent.direction, arrived.direction) == (Direction.OUTBOUND, Direction.INBOUND)
    assert sent.packet_id == arrived.packet_id != 0
    assert (sent.queue, arrived.queue) == (0, 0)


def test_an_ip_packet_stands_behind_its_record() -> None:
    section = section_of(list(packets(2)))

    for at, packet in enumerate(section.packets):
        if packet.interface != BRIDGE:
            fields, data = unpack(section.packets[at - 1].data)
            assert fields["kind"] in (Kind.TUN_READ, Kind.TUN_WRITE)
            assert (fields["flow"], data) == (packet.packet_id, b"")


def test_every_record_is_a_packet_of_the_bridge_on_one_clock() -> None:
    entries = list(packets(3))
    # another process read its clocks later, when the wall clock had been set back
    entries = [
        (ring._replace(made_wall_ns=7) if ring.service == Service.EDMA else ring, r) for ring, r in entries
    ]

    found = [packet for packet in section_of(entries).packets if packet.interface == BRIDGE]

    assert [unpack(packet.data)[0]["mono_ns"] for packet in found] == [
        record.mono_ns for _, record in entries
    ]
    assert [packet.wall_ns for packet in found] == [
        MADE_WALL_NS + record.mono_ns - MADE_MONO_NS for _, record in entries
    ]
    assert found[1].wall_ns - found[0].wall_ns == STEP_NS


def test_overwritten_records_are_counted_for_each_ring() -> None:
    book = Notebook()
    packet_over_the_edma(book, 0)
    book.lose(Service.EDMA, 5)
    packet_over_the_edma(book, 1)

    ((interface, _, counts),) = section_of(book.entries).statistics

    assert (interface, counts) == (BRIDGE, {4: len(book.entries) + 5, 5: 5})


def test_what_is_no_ip_packet_stays_with_its_record() -> None:
    """LINKTYPE_RAW has no place for it."""
    record = Record(MADE_MONO_NS, Kind.TUN_READ, length=4, data=b"\x00\x01\x02\x03")

    (packet,) = section_of([(ring_of(Service.PEER_RC), record)]).packets

    assert (packet.interface, unpack(packet.data)[1]) == (BRIDGE, record.data)


@settings(max_examples=50)
@given(st.lists(st.tuples(st.sampled_from(Service).map(ring_of), records())))
def test_any_records_make_a_file_that_can_be_read(entries: list[Entry]) -> None:
    section = section_of(entries)

    bridge = [unpack(packet.data)[0] for packet in section.packets if packet.interface == BRIDGE]
    assert [(fields["kind"], fields["flow"]) for fields in bridge] == [(r.kind, r.flow) for _, r in entries]


def test_blocks_come_one_record_at_a_time() -> None:
    """So memory does not grow with the trace."""
    taken = 0

    def endless() -> object:
        nonlocal taken
        ring, record = next(packets(1))
        while True:
            taken += 1
            yield ring, record._replace(number=taken)

    blocks = PcapngTrace("test").blocks(endless())  # type: ignore[arg-type] # a generator that never ends
    for _ in range(4 + 200):
        next(blocks)

    assert taken == 100
