"""The network device with offloads: super-frames beyond the MTU, headers of a hostile peer."""

from __future__ import annotations

import pytest

from ntbnet.devices.framing import GSO_TCPV4, GSO_TCPV6, MARK, NEEDS_CSUM, VnetHeader
from ntbnet.devices.netdev import Netdev
from tests.unit.devices.ntb_pair import MS, Pair
from tests.unit.devices.test_netdev import IPV4, inject, make

PLAIN = VnetHeader().pack()
SEGMENTS = VnetHeader(NEEDS_CSUM, GSO_TCPV4, 54, 1448, 20, 16).pack()
NO_SIZE = VnetHeader(NEEDS_CSUM, GSO_TCPV4, 54, 0, 20, 16).pack()
SEGMENTS_6 = VnetHeader(NEEDS_CSUM, GSO_TCPV6, 74, 1428, 40, 16).pack()
FAR_CSUM = VnetHeader(NEEDS_CSUM, csum_start=90, csum_offset=16).pack()


def start(pair: Pair, mtu: int = 1500, queues: int = 1) -> tuple[Netdev, Netdev]:
    for side in pair.sides:
        side.probe()
    rc, ep = (make(pair, side, mtu, queues=queues, offloads=True) for side in pair.sides)
    for device in (rc, ep):
        device.open()
    pair.advance(100 * MS)
    return rc, ep


@pytest.mark.parametrize("length", [1, 1500, 1501, 40_000, 65_510])
def test_super_frame_crosses_with_its_header_at_a_small_mtu(length: int) -> None:
    pair = Pair()
    rc, ep = start(pair)
    packet = IPV4 + bytes(range(256)) * 256
    header = SEGMENTS if length > 1500 else PLAIN

    for device in (rc, ep):
        assert device.xmit(packet[:length], header)
    pair.flush()

    for side in pair.sides:
        assert side.delivered == [packet[:length]]
        assert side.offload_headers == [header]
    assert ep.rx_bytes == length + 14


def test_packet_and_header_move_between_tun_and_ring_in_one_piece() -> None:
    pair = Pair()
    rc, _ = start(pair)
    given = SEGMENTS + IPV4 + b"x" * 3000

    rc.room()[: len(given)] = given
    assert rc.xmit_in_place(len(given))
    rc.end_burst()
    pair.flush()

    assert bytes(rc.tx_buffer[: 4 + len(given)]) == MARK + given
    assert pair.ep.offload_headers[0] + pair.ep.delivered[0] == given


@pytest.mark.parametrize("length", [65_511, 65_512])
def test_packet_longer_than_a_frame_is_dropped_and_counted(length: int) -> None:
    pair = Pair()
    rc, _ = start(pair)

    assert rc.xmit(IPV4 + bytes(length - 1), SEGMENTS)
    pair.flush()

    assert (rc.tx_dropped, pair.ep.delivered) == (1, [])


@pytest.mark.parametrize("given", [b"", PLAIN[:9], PLAIN])
def test_what_the_tun_cannot_have_given_is_dropped_and_counted(given: bytes) -> None:
    pair = Pair()
    rc, _ = start(pair)

    assert rc.xmit(b"", given)

    assert rc.tx_dropped == 1


@pytest.mark.parametrize(
    ("frame", "cause"),
    [
        (MARK + NO_SIZE + IPV4 + bytes(99), "offload_gso_size"),
        (MARK + SEGMENTS_6 + IPV4 + bytes(99), "offload_gso_type"),
        (MARK + FAR_CSUM + IPV4 + bytes(99), "offload_csum"),
        (MARK + PLAIN + b"\x00" + bytes(99), "ip_version"),
        (bytes(14) + IPV4, "offload_mark"),
    ],
)
def test_bad_header_of_the_peer_is_counted_logged_once_and_not_delivered(frame: bytes, cause: str) -> None:
    pair = Pair()
    rc, ep = start(pair)

    for _ in range(3):
        inject(rc, frame)
    pair.flush()

    assert pair.ep.delivered == []
    assert (ep.rx_dropped, ep.rx_packets, ep.queue.rx.pending) == (3, 3, 100)
    assert [keys["cause"] for keys in pair.ep.logs("netdev.frame_refused")] == [cause]


def test_every_buffer_is_as_long_as_a_frame_whatever_the_mtu_becomes() -> None:
    pair = Pair()
    rc, ep = start(pair, 1280)
    ep.set_mtu(9000)
    pair.advance(100 * MS)

    for _ in range(3):
        assert rc.xmit(IPV4 + bytes(65_509), SEGMENTS)
        pair.advance(20 * MS)

    assert [len(packet) for packet in pair.ep.delivered] == [65_510] * 3
    assert ep.rx_errors == 0


def test_flows_of_super_frames_keep_their_order_on_several_queues() -> None:
    pair = Pair(([1 << 20] * 2, [1 << 20] * 2))
    rc, ep = start(pair, queues=2)
    assert len(rc.queues) == 2
    packets = []
    for number in range(6):
        for flow in range(8):
            head = bytes((0x45,)) + bytes(11) + bytes((10, 0, 0, flow)) + bytes(8)
            packets.append(head + bytes((flow, number)) * 400)

    for packet in packets:
        assert rc.xmit(packet, SEGMENTS)
        pair.advance(20 * MS)

    used = [queue.tx.tx_pkts for queue in rc.queues]
    assert all(used)
    assert sum(used) == len(packets)
    for flow in range(8):
        assert [p for p in pair.ep.delivered if p[15] == flow] == [p for p in packets if p[15] == flow]
    assert ep.rx_packets == len(packets)
