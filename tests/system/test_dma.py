"""Payloads by DMA on real processes: iperf3, and a checked transfer while the engine is killed."""

from __future__ import annotations

import json
import time
from functools import partial
from typing import Any

import pytest

from tests.conftest import MakeBridge
from tests.live.bridge import LiveBridge, in_background, until
from tests.live.traffic import TcpTransfer, is_served

pytestmark = [pytest.mark.system, pytest.mark.needs_tun, pytest.mark.slow]

DMA = "transport.use_dma = true\n"
TRANSFER_BYTES = 32 << 20
SHARES = (TRANSFER_BYTES // 3, TRANSFER_BYTES * 2 // 3)
"""How much has arrived when the engine is killed, bytes."""


def queue(bridge: LiveBridge, node: str) -> dict[str, Any]:
    (row,) = bridge.status()["link"]["queues"]
    return dict(row[node])


def has_received(transfer: TcpTransfer, share: int) -> bool:
    return transfer.received >= share


def copies(bridge: LiveBridge) -> int:
    return int(bridge.service("peer-ep")["counters"].get("dma_copies", 0))


def test_iperf3_from_the_endpoint_goes_by_dma(make_bridge: MakeBridge) -> None:
    bridge = make_bridge(DMA)
    target = bridge.address("rc")
    with in_background(*bridge.exec_words("rc", "iperf3", "-s", "-1", "-B", target)):
        until(lambda: is_served(bridge, "rc", "tcp", 5201), 10, "iperf3 server")
        done = bridge.run_inside("ep", "iperf3", "-c", target, "-t", "3", "-J")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)["end"]
    ep, rc = queue(bridge, "ep"), queue(bridge, "rc")

    assert report["sum_received"]["bytes"] > 1 << 20
    assert ep["tx_async"] > 10
    assert (rc["tx_async"], rc["rx_async"], ep["rx_async"], ep["dma_errors"]) == (0, 0, 0, 0)
    assert rc["rx_memcpy"] >= ep["tx_async"]
    assert bridge.complaints() == []


def test_transfers_survive_kills_of_the_engine(make_bridge: MakeBridge) -> None:
    bridge = make_bridge(DMA)
    transfer = TcpTransfer(bridge, "ep", TRANSFER_BYTES, seed=5)
    back = TcpTransfer(bridge, "rc", TRANSFER_BYTES // 4, seed=6)
    for share in SHARES:
        until(partial(has_received, transfer, share), 60, "part of the transfer")
        bridge.kill("edma")
    transfer.finish(120)
    back.finish(120)
    until(lambda: bridge.status()["state"] == "up", 10, "engine back")

    before, deadline_s = copies(bridge), time.monotonic() + 10
    while copies(bridge) <= before:
        assert time.monotonic() < deadline_s, "DMA is not used again"
        TcpTransfer(bridge, "ep", 1 << 20, seed=7).finish(60)
    assert queue(bridge, "ep")["tx_async"] > 0
    assert bridge.status()["link"]["epoch"] == 1
