"""Real packets between the two nodes of one running bridge: none lost, none changed, none too early."""

from __future__ import annotations

import hashlib
import random

import pytest

from ntbnet.app.ping_output import answers
from tests.conftest import MakeBridge
from tests.live.bridge import LiveBridge
from tests.live.traffic import TcpTransfer, free_ports, other, udp_round_trip

pytestmark = [pytest.mark.system, pytest.mark.needs_tun]

HEADERS_BYTES = {"ipv4": 28, "ipv6": 48}
"""IP header and ICMP or UDP header."""

directions = pytest.mark.parametrize("source", ["rc", "ep"])
families = pytest.mark.parametrize("family", ["ipv4", "ipv6"])

AT_ONCE = ("-l", "2")
"""Where the length of a packet matters and not when it comes."""


def assert_ping_is_lossless(bridge: LiveBridge, source: str, family: str, count: int, *options: str) -> None:
    # with a deadline ping waits for replies that a busy machine delays, and sends more meanwhile
    words = ("-i", "0.5", "-c", str(count), "-w", "15", *options)
    done = bridge.run_inside(source, "ping", *words, bridge.address(other(source), family))

    assert done.returncode == 0, done.stdout + done.stderr
    assert set(range(1, count + 1)) <= answers(done.stdout), done.stdout
    assert "DUP" not in done.stdout
    assert "wrong data" not in done.stdout


@directions
@families
def test_ping_loses_nothing(bridge: LiveBridge, source: str, family: str) -> None:
    assert_ping_is_lossless(bridge, source, family, 5)


@directions
@families
@pytest.mark.parametrize("size", [28, 576, 1280, 1500, 9000, 65510])
def test_packet_of_any_size_crosses_whole(bridge: LiveBridge, source: str, family: str, size: int) -> None:
    """ping compares the payload of each reply with what it sent, and fails when a byte differs."""
    payload = max(size - HEADERS_BYTES[family], 0)

    assert_ping_is_lossless(bridge, source, family, 2, *AT_ONCE, "-M", "do", "-s", str(payload), "-p", "a5c3")


@directions
def test_packet_longer_than_the_mtu_is_refused_by_the_node(bridge: LiveBridge, source: str) -> None:
    done = bridge.run_inside(
        source, "ping", "-c", "1", "-W", "1", "-M", "do", "-s", "65483", bridge.address(other(source))
    )

    assert done.returncode == 1
    assert "message too long" in done.stdout + done.stderr


@directions
def test_datagrams_keep_every_byte(bridge: LiveBridge, source: str) -> None:
    chance = random.Random(1)
    sizes = [0, 1, 2, 3, 63, 64, 65, 1472, 4095, 4096, 4097, 16384, 65481, 65482]
    payloads = [chance.randbytes(size) for size in sizes]

    assert [udp_round_trip(bridge, source, payload) for payload in payloads] == payloads


@directions
def test_64_mib_over_tcp_arrive_with_the_same_digest(bridge: LiveBridge, source: str) -> None:
    TcpTransfer(bridge, source, 64 << 20, seed=64).finish(60)


def test_tcp_both_ways_at_once_keeps_every_byte(bridge: LiveBridge) -> None:
    both = [TcpTransfer(bridge, source, 8 << 20, seed=8) for source in ("rc", "ep")]

    for transfer in both:
        transfer.finish(60)


def test_smallest_mtu_carries_both_families_and_no_longer_packet(make_bridge: MakeBridge) -> None:
    bridge = make_bridge("[netdev]\nmtu = 1280\n")

    for source in ("rc", "ep"):
        for family, headers in HEADERS_BYTES.items():
            options = (*AT_ONCE, "-M", "do")
            assert_ping_is_lossless(bridge, source, family, 2, *options, "-s", str(1280 - headers))
        too_long = bridge.run_inside(
            source, "ping", "-c", "1", "-W", "1", "-M", "do", "-s", "1253", bridge.address(other(source))
        )
        assert too_long.returncode == 1
        payload = random.Random(2).randbytes(30000)
        assert udp_round_trip(bridge, source, payload) == payload  # in fragments
        TcpTransfer(bridge, source, 1 << 20, seed=3).finish(60)


def test_small_bar_layout_and_small_ring_carry_traffic(make_bridge: MakeBridge) -> None:
    """Frames of another length and a ring of few entries wrap around many times in one transfer."""
    bridge = make_bridge("[netdev]\nmtu = 1500\n[transport]\ntransport_mtu = 2048\n[ntb]\nmw1 = 0x10000\n")

    for source in ("rc", "ep"):
        TcpTransfer(bridge, source, 4 << 20, seed=4).finish(60)


@pytest.mark.covers("NTB 170")
def test_classic_control_block_layout_works_end_to_end(make_bridge: MakeBridge) -> None:
    bridge = make_bridge('[ntb]\nctrl_layout = "classic"\nnum_mws = 1\n')

    for source in ("rc", "ep"):
        for size in (60, 1500, 65510):
            payload = str(size - HEADERS_BYTES["ipv4"])
            assert_ping_is_lossless(bridge, source, "ipv4", 2, *AT_ONCE, "-s", payload)
        TcpTransfer(bridge, source, 4 << 20, seed=5).finish(60)


def test_tcp_between_the_services_works_end_to_end(make_bridge: MakeBridge) -> None:
    bridge = make_bridge(f'[bridge]\ntransport = "tcp"\ntcp_base_port = {free_ports(12)}\n')

    names = sorted(path.name for path in (bridge.run.path / "sockets").iterdir())
    assert all(name.startswith(("ask.", "wake.")) for name in names), names
    for source in ("rc", "ep"):
        assert_ping_is_lossless(bridge, source, "ipv6", 2, *AT_ONCE)
        TcpTransfer(bridge, source, 4 << 20, seed=6).finish(60)


def test_two_bridges_at_once_do_not_see_each_other(bridge: LiveBridge, make_bridge: MakeBridge) -> None:
    second = make_bridge("")
    payloads = [hashlib.sha512(one.name.encode()).digest() * 100 for one in (bridge, second)]

    transfers = [TcpTransfer(one, "rc", 8 << 20, seed=7) for one in (bridge, second)]
    arrived = [udp_round_trip(one, "ep", data) for one, data in zip((bridge, second), payloads, strict=True)]

    assert arrived == payloads
    for transfer in transfers:
        transfer.finish(60)
