"""A persistent TUN with offloads: what the kernel hands over, and takes, at each attach."""

from __future__ import annotations

import os
import select
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ntbnet.devices.framing import GSO_UDP_L4, NEEDS_CSUM, VNET_HEADER_BYTES, VnetHeader
from ntbnet.edge.netns import inside
from ntbnet.edge.node import NodeSpec, create_node, remove_node
from ntbnet.edge.rundir import RunDir
from ntbnet.edge.tun import Tun

pytestmark = [pytest.mark.system, pytest.mark.needs_tun]

UDP_SEGMENT = 103
"""Source: Linux uapi/linux/udp.h."""
PEER = ("10.77.0.2", 9)


@pytest.fixture
def netns(tmp_path: Path) -> Iterator[str]:
    """A node of MTU 1500."""
    spec = NodeSpec(f"o-{os.getpid()}", "rc", mtu=1500, ipv4="10.77.0.1/30")
    run = RunDir(tmp_path, spec.bridge)
    create_node(spec, run)
    yield spec.netns
    remove_node(spec, run)
    run.remove()


def exchange(netns: str, tun: Tun, segment: int = 0, size: int = 100) -> list[bytes]:
    """What the TUN gives for one datagram of ``size`` bytes that the node sends."""
    tun.set_carrier(up=True)
    with inside(netns), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        if segment:
            sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, segment)
        sender.sendto(bytes(size), PEER)
    found: list[bytes] = []
    while select.select([tun], [], [], 0 if found else 5)[0]:
        packet = tun.read()
        assert packet is not None
        found.append(packet)
    return found


def details(netns: str) -> str:
    words = ["ip", "-n", netns, "-d", "link", "show", "ntb0"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def test_each_attach_decides_anew_whether_packets_have_a_header(netns: str) -> None:
    for offload_bytes in (0, 65510, 0, 9000):
        tun = Tun(netns, "ntb0", offload_bytes)
        (packet,) = exchange(netns, tun)
        tun.close()

        header, rest = (packet[:10], packet[10:]) if offload_bytes else (b"", packet)
        assert len(rest) == 128
        assert rest[0] == 0x45
        if offload_bytes:
            assert VnetHeader.unpack(header) == VnetHeader(NEEDS_CSUM, csum_start=20, csum_offset=6)


def test_segments_come_as_one_packet_and_without_offloads_as_many(netns: str) -> None:
    tun = Tun(netns, "ntb0", 65510)
    (packet,) = exchange(netns, tun, 1000, 60_500)
    tun.close()
    header = VnetHeader.unpack(packet[:VNET_HEADER_BYTES])
    assert (header.gso_type, header.gso_size) == (GSO_UDP_L4, 1000)
    assert header.fault(len(packet) - VNET_HEADER_BYTES, 4) is None

    tun = Tun(netns)
    assert [len(one) for one in exchange(netns, tun, 1000, 5_500)] == [1028] * 5 + [528]
    tun.close()


@pytest.mark.parametrize("size", [8_972, 8_973])
def test_kernel_cuts_what_is_longer_than_the_limit(netns: str, size: int) -> None:
    tun = Tun(netns, "ntb0", 9000)

    assert "gso_max_size 9001" in details(netns)
    assert (len(exchange(netns, tun, 1000, size)) == 1) == (size + 28 <= 9000)
    tun.close()


def udp_packet(payload: bytes) -> bytes:
    """From the peer to port 7777 of the node, IP checksum right, UDP checksum that of the pseudo header."""
    length = 8 + len(payload)
    addresses = bytes((10, 77, 0, 2, 10, 77, 0, 1))
    head = b"\x45\0" + (20 + length).to_bytes(2, "big") + bytes(4) + b"\x40\x11"
    checksum = 0xFFFF - int.from_bytes(head + b"\0\0" + addresses, "big") % 0xFFFF
    pseudo = int.from_bytes(addresses + bytes((0, 17)) + length.to_bytes(2, "big"), "big") % 0xFFFF
    ports = (9).to_bytes(2, "big") + (7777).to_bytes(2, "big")
    udp = ports + length.to_bytes(2, "big") + pseudo.to_bytes(2, "big")
    return head + checksum.to_bytes(2, "big") + addresses + udp + payload


@pytest.mark.parametrize(
    "header",
    [
        VnetHeader(NEEDS_CSUM, csum_start=20, csum_offset=6),
        VnetHeader(NEEDS_CSUM, GSO_UDP_L4, 28, 1000, 20, 6),
    ],
)
def test_node_receives_packets_whose_checksum_was_left_out(netns: str, header: VnetHeader) -> None:
    tun = Tun(netns, "ntb0", 65510)
    tun.set_carrier(up=True)
    payload = bytes(range(250)) * 10
    with inside(netns):
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.bind(("10.77.0.1", 7777))
    receiver.settimeout(5)

    assert tun.write(udp_packet(payload), header.pack())

    got = b""
    while len(got) < len(payload):
        got += receiver.recv(65536)
    assert got == payload
    receiver.close()
    tun.close()


def test_header_that_the_kernel_refuses_is_a_drop_not_an_error(netns: str) -> None:
    tun = Tun(netns, "ntb0", 65510)

    for header in (VnetHeader(NEEDS_CSUM, csum_start=500).pack(), VnetHeader(gso_type=77).pack(), b"\1"):
        assert tun.write(udp_packet(b"x"), header) is False
    tun.close()
