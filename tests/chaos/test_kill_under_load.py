"""One service is killed under TCP both ways: restarts and epochs are those of that service alone."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest

from ntbnet import topology
from ntbnet.edge.tun import has_interface
from tests.conftest import MakeBridge
from tests.live.bridge import LiveBridge, leftovers, until
from tests.live.carriers import fell_and_rose
from tests.live.traffic import Pinger, summary, transfers

pytestmark = [pytest.mark.chaos, pytest.mark.system, pytest.mark.needs_tun]

RECOVERY_LIMIT_S = 2.0
"""From SIGKILL to the first ping reply."""

services = pytest.mark.parametrize("service", topology.SERVICES)


@pytest.fixture(scope="module")
def recoveries() -> Iterator[list[float]]:
    """Times from a kill to the first ping reply; told at the end."""
    times: list[float] = []
    yield times
    if times:
        summary("recovery after SIGKILL", times, print)


@pytest.fixture
def pinger(bridge: LiveBridge) -> Iterator[Pinger]:
    pinger = Pinger(bridge)
    yield pinger
    pinger.close()


@pytest.mark.covers("HAZARD 10.14", "HAZARD 10.15")
@services
def test_kill_under_tcp_both_ways_loses_no_byte_and_ping_is_back(
    bridge: LiveBridge, pinger: Pinger, recoveries: list[float], service: str
) -> None:
    before = {row["name"]: row for row in bridge.wait_for_link()["services"]}
    epoch = bridge.status()["link"]["epoch"]
    with transfers(bridge, "rc", "ep", seed=len(service)):
        began_ns = time.monotonic_ns()
        killed_s = bridge.kill(service)
        assert killed_s is not None
        if service != "edma":
            for node in ("rc", "ep"):
                until(lambda: fell_and_rose(bridge, node, began_ns), 10, f"carrier of {node}")  # noqa: B023 - called at once
        recovery_s = pinger.first_reply_s(killed_s, 10)
        bridge.wait_for_replacement(service, before[service]["pid"])
        bridge.wait_for_link()

    recoveries.append(recovery_s)
    print(f"{service}: first ping reply {recovery_s:.3f} s after SIGKILL")
    after = {row["name"]: row for row in bridge.wait_for_link()["services"]}
    for name in topology.SERVICES:
        killed = name == service
        assert (after[name]["pid"] != before[name]["pid"]) == killed, name
        assert after[name]["restarts"] - before[name]["restarts"] == int(killed), name
        assert after[name]["epoch"] - before[name]["epoch"] == int(killed), name
    assert bridge.status()["link"]["epoch"] >= epoch + (service in topology.LINK_PATH)
    assert recovery_s <= RECOVERY_LIMIT_S
    assert bridge.complaints() == []


def test_nothing_of_a_bridge_full_of_dead_services_is_left(make_bridge: MakeBridge) -> None:
    """Namespaces, interfaces, memory, sockets and processes are gone after `down`, whatever died before."""
    bridge = make_bridge("")
    for service in topology.SERVICES:
        bridge.signal(service, signal.SIGKILL)

    assert bridge.down().returncode == 0

    assert leftovers(bridge.name) == []
    assert not has_interface(bridge.config.netdev.tun)
