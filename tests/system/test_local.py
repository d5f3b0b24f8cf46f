"""Fabric ``local`` on real processes: stores past the messages; nothing wrong comes of stops and kills."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from ntbnet import topology
from ntbnet.edge.idle_cores import CPU_LATENCY
from tests.conftest import MakeBridge
from tests.live.bridge import LiveBridge, cli, until
from tests.live.traffic import transfers

pytestmark = [pytest.mark.system, pytest.mark.needs_tun]

FABRICS = ("local", "message")
PEERS = ("peer-rc", "peer-ep")


@pytest.fixture(scope="module", params=FABRICS)
def bridge(request: pytest.FixtureRequest, make_module_bridge: MakeBridge) -> LiveBridge:
    """One bridge in each fabric."""
    return make_module_bridge(f'[bridge]\nfabric = "{request.param}"\n')


@pytest.fixture(scope="module")
def local(make_module_bridge: MakeBridge) -> LiveBridge:
    return make_module_bridge('[bridge]\nfabric = "local"\n')


def stores(bridge: LiveBridge, peer: str) -> dict[str, Any]:
    found: dict[str, Any] = bridge.service(peer)["stores"]
    return found


def is_direct(bridge: LiveBridge) -> bool:
    """True when both hosts store in place."""
    return all(stores(bridge, peer).get("direct") for peer in PEERS)


def test_each_peer_can_keep_idle_cores_awake_where_the_machine_lets_it(local: LiveBridge) -> None:
    allowed = os.access(CPU_LATENCY, os.W_OK)

    for peer in PEERS:
        opened = [path.resolve() for path in Path(f"/proc/{local.service(peer)['pid']}/fd").iterdir()]
        assert opened.count(CPU_LATENCY) == allowed


def test_status_tells_the_fabric_and_whether_stores_are_direct(bridge: LiveBridge) -> None:
    bridge.wait_for_link()
    assert bridge.pings(count=2)
    status = bridge.status()
    fabric = bridge.config.bridge.fabric

    assert status["fabric"] == fabric
    for peer in PEERS:
        assert stores(bridge, peer)["direct"] is (fabric == "local")
        assert (stores(bridge, peer)["grants"] > 0) is (fabric == "local")
        assert bridge.service(peer)["counters"].get("grants_refused", 0) == 0


def test_bar_that_moves_under_a_transfer_is_granted_anew(bridge: LiveBridge) -> None:
    epoch = bridge.wait_for_link()["link"]["epoch"]
    with transfers(bridge, "rc", seed=1):
        taken = stores(bridge, "peer-rc").get("grants_taken", 0)

        moved = cli("layout", "move-bar", "2", "--name", bridge.name)
        assert moved.returncode == 0, moved.stderr
        bridge.wait_for_link(after=epoch)

    assert bridge.pings(count=2)
    if bridge.config.bridge.fabric == "local":
        assert stores(bridge, "peer-rc")["grants_taken"] > taken
        assert stores(bridge, "peer-rc")["direct"]
    assert bridge.complaints() == []
    for service in topology.SERVICES:
        assert [line for line in bridge.log_lines(service) if line["event"] == "grants.refused"] == []


@pytest.mark.parametrize("peer", PEERS)
def test_peer_stopped_for_a_moment_goes_on_where_it_was(local: LiveBridge, peer: str) -> None:
    local.wait_for_link()
    before = local.pids()
    with transfers(local, "rc", seed=2):
        local.signal(peer, signal.SIGSTOP)
        time.sleep(0.3)  # how long it is stopped is what the test is about
        local.signal(peer, signal.SIGCONT)

    assert local.pids() == before
    assert local.complaints() == []


@pytest.mark.parametrize("peer", PEERS)
def test_peer_stopped_for_long_is_replaced_before_its_memory_is_used_again(
    local: LiveBridge, peer: str
) -> None:
    local.wait_for_link()
    before = local.service(peer)
    with transfers(local, "ep", seed=3):
        local.signal(peer, signal.SIGSTOP)
        local.wait_for_replacement(peer, before["pid"], timeout_s=5)
        local.wait_for_link()

    assert local.service(peer)["restarts"] == before["restarts"] + 1
    until(lambda: is_direct(local), 10, "direct stores again")
    assert local.complaints() == []


@pytest.mark.parametrize("service", topology.SERVICES)
def test_service_killed_under_a_transfer_and_stores_are_direct_again(local: LiveBridge, service: str) -> None:
    epoch = local.wait_for_link()["link"]["epoch"]
    before = local.pids()
    with transfers(local, "rc", seed=4):
        local.kill(service)
        local.wait_for_replacement(service, before[service])
        local.wait_for_link(after=epoch if service in topology.LINK_PATH else 0)

    until(lambda: is_direct(local), 10, "direct stores again")
    assert local.complaints() == []
