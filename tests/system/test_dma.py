"""Payloads by DMA on real processes: iperf3 both ways, and a checked transfer while the engine is killed."""

from __future__ import annotations

import json
import signal
import time
from typing import Any

import pytest

from ntbnet.app.ask import ask
from tests.conftest import MakeBridge
from tests.live.bridge import LiveBridge, in_background, until
from tests.live.traffic import TcpTransfer, is_served, other, transfers

pytestmark = [pytest.mark.system, pytest.mark.needs_tun, pytest.mark.slow]

COUNTERS = ("tx_async", "rx_async", "rx_memcpy", "dma_errors")
"""Of a queue."""
DMA = "transport.use_dma = true\n"
STOPPED_S = 1
"""Less than it takes to be found hung."""
TRANSFER_BYTES = 256 << 20
SHARES = (TRANSFER_BYTES // 4, TRANSFER_BYTES // 2)
"""How much has arrived when the engine is killed, bytes."""


def queue(bridge: LiveBridge, node: str) -> dict[str, Any]:
    (row,) = bridge.status()["link"]["queues"]
    return dict(row[node])


@pytest.fixture(scope="module")
def dma_bridge(make_module_bridge: MakeBridge) -> LiveBridge:
    """A running bridge whose endpoint sends by DMA."""
    return make_module_bridge(DMA)


def counted(bridge: LiveBridge, name: str) -> int:
    return int(bridge.service("peer-ep")["counters"].get(name, 0))


@pytest.mark.parametrize("source", ["ep", "rc"])
def test_iperf3_crosses_by_dma_from_the_endpoint_and_by_the_cpu_from_the_host(
    dma_bridge: LiveBridge, source: str
) -> None:
    bridge, receiver = dma_bridge, other(source)
    before = {node: queue(bridge, node) for node in ("rc", "ep")}
    target = bridge.address(receiver)
    with in_background(*bridge.exec_words(receiver, "iperf3", "-s", "-1", "-B", target)):
        until(lambda: is_served(bridge, receiver, "tcp", 5201), 10, "iperf3 server")
        done = bridge.run_inside(source, "iperf3", "-c", target, "-t", "2", "-J")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)["end"]
    ep, rc = (
        {name: count - before[node][name] for name, count in queue(bridge, node).items() if name in COUNTERS}
        for node in ("ep", "rc")
    )

    assert report["sum_received"]["bytes"] > 1 << 20
    assert (rc["tx_async"], rc["rx_async"], ep["rx_async"], ep["dma_errors"]) == (0, 0, 0, 0)
    if source == "ep":
        assert ep["tx_async"] > 10
        assert rc["rx_memcpy"] >= ep["tx_async"]
    else:
        assert ep["rx_memcpy"] > 10
    assert bridge.complaints() == []


def kill_engine_at_work(bridge: LiveBridge) -> None:
    """SIGKILL it while copies wait for it; it is stopped before, so that they do not get done meanwhile."""
    errors, socket = counted(bridge, "dma_errors"), bridge.run.socket_path("ask.peer-ep")

    def is_waited_for() -> bool:
        rows = ask({"peer-ep": socket}, 5)["peer-ep"]["dma"]
        return any(row["buffers_used"] for row in rows)

    def is_stopped_at_work() -> bool:
        bridge.signal("edma", signal.SIGSTOP)
        looks_until_s = time.monotonic() + STOPPED_S
        while not is_waited_for():
            if time.monotonic() > looks_until_s:
                bridge.signal("edma", signal.SIGCONT)
                return False
        return True

    until(is_stopped_at_work, 10, "copies under way")
    bridge.kill("edma")
    until(lambda: counted(bridge, "dma_errors") > errors, 10, "failed copies")
    until(lambda: bridge.status()["state"] == "up", 10, "engine back")


def test_a_transfer_of_256_mib_survives_kills_of_the_engine_at_work(dma_bridge: LiveBridge) -> None:
    bridge = dma_bridge
    epoch = bridge.wait_for_link()["link"]["epoch"]
    restarts = bridge.service("edma")["restarts"]
    with transfers(bridge, "ep", "rc", seed=5) as (transfer, _):
        for share in SHARES:
            until(lambda: transfer.received >= share, 60, "part of the transfer")  # noqa: B023
            kill_engine_at_work(bridge)
        until(lambda: transfer.received >= TRANSFER_BYTES, 120, "all of the transfer")

    before, deadline_s = counted(bridge, "dma_copies"), time.monotonic() + 10
    while counted(bridge, "dma_copies") <= before:
        assert time.monotonic() < deadline_s, "DMA is not used again"
        TcpTransfer(bridge, "ep", 1 << 20, seed=7).finish(60)
    assert queue(bridge, "ep")["dma_errors"] >= len(SHARES)
    assert bridge.service("edma")["restarts"] == restarts + len(SHARES)
    assert bridge.status()["link"]["epoch"] == epoch
