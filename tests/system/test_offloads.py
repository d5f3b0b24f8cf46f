"""Offloads between real kernels: super-frames at MTU 1500, checksums left out on the way, nothing changed."""

from __future__ import annotations

import random
import socket
import subprocess
from typing import Any

import pytest

from ntbnet.app.ask import ask
from tests.conftest import MakeBridge
from tests.live.bridge import LiveBridge
from tests.live.traffic import TcpTransfer, open_socket, other, udp_round_trip

pytestmark = [pytest.mark.system, pytest.mark.needs_tun]

UDP_SEGMENT = 103
"""Socket option: the kernel cuts a datagram into several of that size. Source: Linux uapi/linux/udp.h."""
SMALL = "[netdev]\nmtu = 1500\n"

directions = pytest.mark.parametrize("source", ["rc", "ep"])


@pytest.fixture(scope="module")
def on(make_module_bridge: MakeBridge) -> LiveBridge:
    return make_module_bridge(SMALL)


@pytest.fixture(scope="module")
def off(make_module_bridge: MakeBridge) -> LiveBridge:
    return make_module_bridge(f"{SMALL}offloads = false\n")


@pytest.fixture(params=["on", "off"])
def either(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def received(bridge: LiveBridge, node: str) -> tuple[int, int]:
    """Frames and bytes that a node took out of its rings."""
    queues = [queue[node] for queue in bridge.status()["link"]["queues"]]
    return sum(queue["rx_pkts"] for queue in queues), sum(queue["rx_bytes"] for queue in queues)


def bytes_a_frame(bridge: LiveBridge, source: str, size: int) -> float:
    """Average length of the frames that carry a TCP transfer of ``size`` bytes."""
    before = received(bridge, other(source))
    TcpTransfer(bridge, source, size, seed=size).finish(60)
    frames, length = (new - old for new, old in zip(received(bridge, other(source)), before, strict=True))
    assert length >= size
    return length / frames


@directions
def test_tcp_at_mtu_1500_moves_super_frames(on: LiveBridge, source: str) -> None:
    assert bytes_a_frame(on, source, 16 << 20) > 10_000


@directions
def test_tcp_without_offloads_moves_frames_of_the_mtu(off: LiveBridge, source: str) -> None:
    assert bytes_a_frame(off, source, 1 << 20) <= 1514


def test_tcp_both_ways_at_once_keeps_every_byte(either: LiveBridge) -> None:
    both = [TcpTransfer(either, source, 2 << 20, seed=8) for source in ("rc", "ep")]

    for transfer in both:
        transfer.finish(60)


@directions
def test_datagrams_of_every_size_keep_every_byte(either: LiveBridge, source: str) -> None:
    """Longer ones are fragments, which cannot leave their checksum out."""
    chance = random.Random(1)
    payloads = [chance.randbytes(size) for size in (0, 1, 2, 1471, 1472, 1473, 9000, 40_001)]

    assert [udp_round_trip(either, source, payload) for payload in payloads] == payloads


@directions
def test_segmented_datagrams_cross_as_one_frame_and_arrive_as_many(on: LiveBridge, source: str) -> None:
    target = other(source)
    sender, receiver = (open_socket(on, node, socket.SOCK_DGRAM) for node in (source, target))
    payload = random.Random(2).randbytes(40 * 1000 + 7)
    before, _ = received(on, target)
    with sender, receiver:
        receiver.bind((on.address(target), 0))
        receiver.settimeout(10)
        sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 1000)
        sender.sendto(payload, receiver.getsockname())
        datagrams = [receiver.recv(65536) for _ in range(41)]

    assert b"".join(datagrams) == payload
    assert [len(one) for one in datagrams] == [1000] * 40 + [7]
    assert received(on, target)[0] - before == 1


def test_mtus_of_the_two_interfaces_may_differ(on: LiveBridge) -> None:
    """A user's ``ip link set mtu`` on one side: buffers are as long as a frame anyway."""

    def set_mtu(mtu: int) -> None:
        words = ["ip", "-n", on.netns("ep"), "link", "set", on.config.netdev.tun, "mtu", str(mtu)]
        subprocess.run(words, check=True)

    set_mtu(9000)
    try:
        for source in ("rc", "ep"):
            TcpTransfer(on, source, 2 << 20, seed=9).finish(60)
            payload = random.Random(3).randbytes(8900)
            assert udp_round_trip(on, source, payload) == payload
    finally:
        set_mtu(1500)


def test_a_restarted_peer_gets_the_offloads_again(make_bridge: MakeBridge) -> None:
    bridge = make_bridge(SMALL)
    for service in ("peer-ep", "peer-rc"):
        pid, epoch = bridge.pids()[service], bridge.wait_for_link()["link"]["epoch"]
        bridge.kill(service)
        bridge.wait_for_replacement(service, pid)
        bridge.wait_for_link(after=epoch)

        assert bytes_a_frame(bridge, "rc", 8 << 20) > 10_000


@pytest.mark.parametrize("frame", [1306, 4096, 20_000])
def test_super_frames_are_no_longer_than_a_frame_of_the_ring(make_bridge: MakeBridge, frame: int) -> None:
    bridge = make_bridge(f"[netdev]\nmtu = 1280\n[transport]\ntransport_mtu = {frame}\n")

    for source in ("rc", "ep"):
        assert bytes_a_frame(bridge, source, 2 << 20) <= frame
        service = f"peer-{source}"
        netdev = ask({service: bridge.run.socket_path(f"ask.{service}")}, 5)[service]["netdev"]
        assert netdev["tx_dropped"] == 0
