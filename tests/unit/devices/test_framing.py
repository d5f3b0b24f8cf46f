"""Frames with and without offload headers, and what of a peer's header gets as far as a kernel."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ntbnet.devices.framing import (
    DATA_VALID,
    GSO_ECN,
    GSO_NONE,
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_UDP_L4,
    HEAD_BYTES,
    MARK,
    NEEDS_CSUM,
    EthernetFraming,
    OffloadFraming,
    VnetHeader,
)

U8, U16 = st.integers(0, 0xFF), st.integers(0, 0xFFFF)
TCP4 = VnetHeader(NEEDS_CSUM, GSO_TCPV4, 54, 1448, 20, 16)
UDP6 = VnetHeader(NEEDS_CSUM, GSO_UDP_L4, 48, 1200, 40, 6)
LOCAL, PEER = bytes.fromhex("02aa00000001"), bytes.fromhex("02bb00000002")


@pytest.mark.parametrize(
    ("header", "raw"),
    [
        (VnetHeader(), "00 00 0000 0000 0000 0000"),
        (TCP4, "01 01 3600 a805 1400 1000"),
        (UDP6, "01 05 3000 b004 2800 0600"),
        (VnetHeader(DATA_VALID, GSO_TCPV6 | GSO_ECN, 0xFFFE, 1, 2, 3), "02 84 feff 0100 0200 0300"),
    ],
)
def test_header_has_the_bytes_of_virtio_net_hdr(header: VnetHeader, raw: str) -> None:
    """Bytes typed from include/uapi/linux/virtio_net.h, little-endian."""
    assert header.pack() == bytes.fromhex(raw)
    assert VnetHeader.unpack(bytes.fromhex(raw)) == header


@pytest.mark.parametrize(
    ("header", "length", "version"),
    [
        (VnetHeader(), 1, 4),
        (VnetHeader(DATA_VALID), 20, 4),
        (VnetHeader(NEEDS_CSUM, csum_start=20, csum_offset=6), 28, 4),
        (VnetHeader(NEEDS_CSUM, csum_start=40, csum_offset=16), 60, 6),
        (TCP4, 65510, 4),
        (TCP4._replace(gso_type=GSO_TCPV4 | GSO_ECN), 65510, 4),
        (TCP4._replace(hdr_len=0), 55, 4),
        (UDP6, 49, 6),
        (UDP6._replace(csum_start=20), 36_028, 4),
        (VnetHeader(NEEDS_CSUM, GSO_TCPV6, 60, 1440, 40, 16), 61, 6),
    ],
)
def test_headers_that_kernels_give_are_taken(header: VnetHeader, length: int, version: int) -> None:
    assert header.fault(length, version) is None


@pytest.mark.parametrize(
    ("header", "length", "version", "fault"),
    [
        (VnetHeader(4), 100, 4, "offload_flags"),
        (VnetHeader(NEEDS_CSUM | DATA_VALID, csum_start=20), 100, 4, "offload_flags"),
        (VnetHeader(hdr_len=101), 100, 4, "offload_hdr_len"),
        (VnetHeader(NEEDS_CSUM, csum_start=19, csum_offset=6), 100, 4, "offload_csum"),
        (VnetHeader(NEEDS_CSUM, csum_start=39, csum_offset=6), 100, 6, "offload_csum"),
        (VnetHeader(NEEDS_CSUM, csum_start=93, csum_offset=6), 100, 4, "offload_csum"),
        (VnetHeader(NEEDS_CSUM, csum_start=20, csum_offset=0xFFFF), 100, 4, "offload_csum"),
        (TCP4._replace(gso_type=3), 9000, 4, "offload_gso_type"),
        (TCP4._replace(gso_type=GSO_ECN), 9000, 4, "offload_gso_type"),
        (TCP4._replace(gso_type=GSO_UDP_L4 | GSO_ECN), 9000, 4, "offload_gso_type"),
        (TCP4._replace(gso_type=GSO_TCPV6), 9000, 4, "offload_gso_type"),
        (TCP4._replace(csum_start=40), 9000, 6, "offload_gso_type"),
        (TCP4._replace(flags=0), 9000, 4, "offload_gso_csum"),
        (TCP4._replace(csum_offset=6), 9000, 4, "offload_gso_csum"),
        (UDP6._replace(csum_offset=16), 9000, 6, "offload_gso_csum"),
        (TCP4._replace(gso_size=0), 9000, 4, "offload_gso_size"),
        (TCP4._replace(hdr_len=0), 40, 4, "offload_gso_size"),
        (UDP6, 48, 6, "offload_gso_size"),
    ],
)
def test_headers_that_do_not_fit_the_packet_are_refused(
    header: VnetHeader, length: int, version: int, fault: str
) -> None:
    assert header.fault(length, version) == fault


@given(raw=st.binary(min_size=10, max_size=10), length=st.integers(1, 65535), version=st.sampled_from((4, 6)))
@example(raw=TCP4.pack(), length=65510, version=4)
def test_whatever_is_taken_stays_inside_the_packet(raw: bytes, length: int, version: int) -> None:
    header = VnetHeader.unpack(raw)
    if header.fault(length, version) is not None:
        return

    assert header.hdr_len <= length
    if header.flags == NEEDS_CSUM:
        assert header.csum_start >= 20
        assert header.csum_start + header.csum_offset + 2 <= length
    if header.gso_type != GSO_NONE:
        assert header.gso_size > 0
        assert header.flags == NEEDS_CSUM
        assert header.csum_start + (8 if header.gso_type == GSO_UDP_L4 else 20) < length


@given(st.builds(VnetHeader, U8, U8, U16, U16, U16, U16))
def test_header_survives_packing(header: VnetHeader) -> None:
    assert VnetHeader.unpack(header.pack()) == header


@pytest.mark.parametrize("packet", [b"", b"\x05", b"\x51", b"\xff" * 20])
def test_what_is_no_ip_is_neither_sent_nor_taken_with_offloads(packet: bytes) -> None:
    framing = OffloadFraming()

    assert (packet or b"\x00")[0] >> 4 not in framing.fronts
    assert framing.refusal(MARK + bytes(10), memoryview(packet or b"\x00")) == "ip_version"


@given(head=st.binary(min_size=HEAD_BYTES, max_size=HEAD_BYTES), packet=st.binary(min_size=1, max_size=80))
@example(head=MARK + bytes(10), packet=b"\x45")
def test_any_bytes_of_a_peer_are_judged_without_an_exception(head: bytes, packet: bytes) -> None:
    refusal = OffloadFraming().refusal(head, memoryview(packet))

    assert (refusal is None) <= (head.startswith(MARK) and packet[0] >> 4 in (4, 6))
    EthernetFraming(LOCAL, PEER).refusal(head, memoryview(packet))


@pytest.mark.parametrize("packet", [b"\x45", b"\x60"])
def test_the_two_formats_refuse_each_other(packet: bytes) -> None:
    ethernet, offload = EthernetFraming(LOCAL, PEER), OffloadFraming()
    frame = EthernetFraming(PEER, LOCAL).fronts[packet[0] >> 4] + packet

    assert ethernet.refusal(bytes(frame[:HEAD_BYTES]), memoryview(packet)) is None
    assert offload.refusal(bytes(frame[:HEAD_BYTES]), memoryview(packet)) == "offload_mark"
    assert offload.refusal(MARK + bytes(10), memoryview(packet)) is None
    assert ethernet.refusal(MARK + bytes(10), memoryview(packet)) == "address"
