"""Bytes of pcapng blocks, read back by a reader of the tests."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntbnet import pcapng
from tests.pcapng_blocks import read_section


def one_interface() -> bytes:
    return pcapng.section() + pcapng.interface(pcapng.LINKTYPE_RAW, "ntb0")


def test_section_names_who_wrote_it() -> None:
    section = read_section(
        pcapng.section(application="ntbnet 1", hardware="r-car-s4", comment="two lines\nhere")
    )

    assert section.options == {1: b"two lines\nhere", 2: b"r-car-s4", 4: b"ntbnet 1"}


def test_interface_has_link_type_name_and_nanoseconds() -> None:
    data = pcapng.section() + pcapng.interface(147, "pcie", "what it is", snap_bytes=96)

    (interface,) = read_section(data).interfaces
    assert (interface.link_type, interface.name, interface.snap_bytes) == (147, "pcie", 96)
    assert interface.options[3] == b"what it is"


@given(
    data=st.binary(max_size=200),
    wall_ns=st.integers(0, (1 << 64) - 1),
    whole=st.integers(0, 70_000),
    direction=st.sampled_from(pcapng.Direction),
    packet_id=st.integers(0, (1 << 64) - 1),
    queue=st.none() | st.integers(0, (1 << 32) - 1),
)
def test_packet_is_read_back_as_it_was(
    data: bytes, wall_ns: int, whole: int, direction: pcapng.Direction, packet_id: int, queue: int | None
) -> None:
    block = pcapng.packet(
        0, wall_ns, data, whole_bytes=whole, direction=direction, packet_id=packet_id, queue=queue
    )

    (packet,) = read_section(one_interface() + block).packets
    assert (packet.wall_ns, packet.data, packet.whole_bytes) == (wall_ns, data, max(whole, len(data)))
    assert (packet.direction, packet.packet_id, packet.queue) == (direction, packet_id, queue)


def test_packet_longer_than_readers_take_is_refused() -> None:
    with pytest.raises(ValueError, match=r"262145 bytes: allowed 0\.\.262144"):
        pcapng.packet(0, 0, bytes(pcapng.MAX_PACKET_BYTES + 1))


def test_text_longer_than_an_option_is_refused() -> None:
    with pytest.raises(ValueError, match="option 2 of 65536 bytes"):
        pcapng.interface(147, "x" * 65536)


def test_statistics_count_what_is_missing() -> None:
    data = one_interface() + pcapng.statistics(0, 5 << 32 | 7, received=10, dropped=3)

    assert read_section(data).statistics == [(0, 5 << 32 | 7, {4: 10, 5: 3})]
