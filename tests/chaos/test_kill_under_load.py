"""One service is killed or stopped while checked traffic runs: nothing wrong arrives, and it goes on."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from ntbnet import topology
from ntbnet.edge.tun import has_interface
from tests.conftest import MakeBridge
from tests.live.bridge import LiveBridge, leftovers, until
from tests.live.traffic import Pinger, TcpTransfer, UdpStream, summary

pytestmark = [pytest.mark.chaos, pytest.mark.system, pytest.mark.needs_tun]

RECOVERY_LIMIT_S = 2.0
"""From SIGKILL to the first ping reply."""
TRANSFER_BYTES = 32 << 20
KILL_AT_BYTES = 4 << 20

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
    both = [TcpTransfer(bridge, source, TRANSFER_BYTES, seed=len(service)) for source in ("rc", "ep")]
    until(lambda: all(one.received >= KILL_AT_BYTES for one in both), 20, "transfers under way")
    assert all(one.received < TRANSFER_BYTES for one in both)

    killed_s = bridge.kill(service)
    assert killed_s is not None
    recovery_s = pinger.first_reply_s(killed_s, 10)
    for transfer in both:
        transfer.finish(60)

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


def test_numbered_datagrams_stay_whole_single_and_in_order_across_kills(bridge: LiveBridge) -> None:
    bridge.wait_for_link()
    streams = [UdpStream(bridge, source, seed=11) for source in ("rc", "ep")]
    try:
        for service in topology.SERVICES:
            restarts = bridge.service(service)["restarts"]
            killed_s = bridge.kill(service)
            assert killed_s is not None
            until(lambda: bridge.service(service)["restarts"] > restarts, 10, service)  # noqa: B023 - at once
            bridge.wait_for_link()
            for stream in streams:
                until(lambda: stream.arrived_at_s > killed_s, 10, "datagrams")  # noqa: B023 - called at once
    finally:
        for stream in streams:
            stream.finish()
    assert bridge.complaints() == []


def test_both_ends_of_a_path_killed_at_once_come_back(bridge: LiveBridge, pinger: Pinger) -> None:
    for pair in topology.PATHS:
        bridge.wait_for_link()
        transfer = TcpTransfer(bridge, "ep", 8 << 20, seed=9)
        until(lambda: transfer.received > 1 << 20, 20, "transfer under way")  # noqa: B023 - called at once
        for service in pair:
            bridge.signal(service, signal.SIGKILL)
        pinger.first_reply_s(time.monotonic(), 15)
        transfer.finish(60)
    assert bridge.complaints() == []


@pytest.mark.parametrize("service", ["rc-host", "epc", "peer-ep"])
def test_hung_service_is_killed_and_replaced(bridge: LiveBridge, pinger: Pinger, service: str) -> None:
    bridge.wait_for_link()
    before = bridge.service(service)
    transfer = TcpTransfer(bridge, "ep", 16 << 20, seed=12)
    until(lambda: transfer.received > 1 << 20, 20, "transfer under way")

    stopped_s = bridge.signal(service, signal.SIGSTOP)
    until(lambda: bridge.pids()[service] != before["pid"], 5, f"replacement of {service}")
    replaced_s = time.monotonic() - stopped_s
    recovery_s = pinger.first_reply_s(stopped_s, 10)

    transfer.finish(60)
    print(f"{service}: replaced {replaced_s:.3f} s after SIGSTOP, first ping reply after {recovery_s:.3f} s")
    after = bridge.service(service)
    assert after["restarts"] == before["restarts"] + 1
    assert after["epoch"] == before["epoch"] + 1
    bridge.wait_for_link()
    assert bridge.complaints() == []


def test_short_stop_of_a_service_is_survived_without_a_restart(bridge: LiveBridge, pinger: Pinger) -> None:
    """A service that was stopped for less than it takes to be called hung goes on, or is told so."""
    bridge.wait_for_link()
    before = bridge.pids()
    transfer = TcpTransfer(bridge, "ep", 16 << 20, seed=13)
    until(lambda: transfer.received > 1 << 20, 20, "transfer under way")

    logged = len(bridge.log_lines("peer-ep"))
    bridge.signal("epc", signal.SIGSTOP)

    def is_noticed() -> bool:  # by the log: a question to all services waits for the stopped one
        changes = [line for line in bridge.log_lines("peer-ep")[logged:] if line["event"] == "path.changed"]
        return any(line["peer"] == "epc" and not line["up"] for line in changes)

    until(is_noticed, 3, "peer-ep misses epc")
    resumed_s = bridge.signal("epc", signal.SIGCONT)
    pinger.first_reply_s(resumed_s, 10)
    transfer.finish(60)
    bridge.wait_for_link()
    assert bridge.pids() == before


def test_killed_supervisor_leaves_nothing_wrong_and_the_next_up_works(make_bridge: MakeBridge) -> None:
    bridge = make_bridge("")
    streams = [UdpStream(bridge, source, seed=14) for source in ("rc", "ep")]
    until(lambda: all(stream.arrived > 20 for stream in streams), 10, "datagrams")

    os.kill(bridge.supervisor().pid, signal.SIGKILL)
    until(lambda: bridge.status()["state"] == "down", 3, "end of the bridge")
    for stream in streams:
        stream.finish()
    done = bridge.up()

    assert "removed what a killed run left" in done.stderr
    TcpTransfer(bridge, "rc", 4 << 20, seed=15).finish(30)


def test_nothing_of_a_bridge_full_of_dead_services_is_left(make_bridge: MakeBridge) -> None:
    """Namespaces, interfaces, memory, sockets and processes are gone after `down`, whatever died before."""
    bridge = make_bridge("")
    for service in topology.SERVICES:
        bridge.signal(service, signal.SIGKILL)

    assert bridge.down().returncode == 0

    assert leftovers(bridge.name) == []
    assert not has_interface(bridge.config.netdev.tun)
