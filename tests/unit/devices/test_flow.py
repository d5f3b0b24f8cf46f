from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntbnet.devices.flow import flow_hash

TCP, UDP, ICMP = 6, 17, 1


def ipv4(
    protocol: int = TCP, ports: bytes = b"\x12\x34\x00\x50", fragment: int = 0, options: int = 0
) -> memoryview:
    head = bytearray(20)
    head[0], head[9] = 0x45 + options, protocol
    head[6:8] = fragment.to_bytes(2, "big")
    head[12:20] = bytes((10, 77, 0, 1, 10, 77, 0, 2))
    return memoryview(bytes(head) + bytes(4 * options) + ports + b"payload")


def ipv6(next_header: int = TCP, ports: bytes = b"\x12\x34\x00\x50") -> memoryview:
    return memoryview(bytes((0x60, 0, 0, 0, 0, 8, next_header, 64)) + bytes(range(32)) + ports + b"payload")


def different() -> Iterator[memoryview]:
    yield ipv4()
    yield ipv4(ports=b"\x12\x35\x00\x50")
    yield ipv4(protocol=ICMP)
    yield ipv6()
    yield ipv6(ports=b"\x12\x35\x00\x50")
    yield ipv6(next_header=58)


def test_flows_differ_by_addresses_and_ports() -> None:
    hashes = [flow_hash(packet) for packet in different()]

    assert len(set(hashes)) == len(hashes)


def test_options_do_not_hide_the_ports() -> None:
    assert flow_hash(ipv4(options=3)) == flow_hash(ipv4())


@pytest.mark.parametrize("fragment", [0x2000, 0x00B9, 0x20B9])
def test_every_fragment_of_a_datagram_has_one_flow(fragment: int) -> None:
    """Only the first fragment has ports, so none may count."""
    assert flow_hash(ipv4(UDP, fragment=fragment)) == flow_hash(ipv4(UDP, b"\xff" * 4, fragment=0x2000))


def test_do_not_fragment_is_no_fragment() -> None:
    assert flow_hash(ipv4(fragment=0x4000)) == flow_hash(ipv4())


@given(st.binary(max_size=80))
def test_anything_has_a_flow(packet: bytes) -> None:
    assert 0 <= flow_hash(memoryview(packet)) < 1 << 32


@pytest.mark.parametrize("queues", [2, 3, 4])
@pytest.mark.parametrize("step", [1, 2, 4])
def test_flows_of_neighbouring_ports_spread_over_the_queues(queues: int, step: int) -> None:
    ports = range(40_000, 40_000 + 64 * step, step)
    queue_of = [flow_hash(ipv4(ports=port.to_bytes(2, "big") + b"\x14\x51")) % queues for port in ports]

    assert all(queue_of.count(queue) >= 64 // queues // 2 for queue in range(queues))
