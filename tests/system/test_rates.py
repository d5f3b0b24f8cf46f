"""Rates and latencies between the two nodes, by the tools that the RFC series was measured with."""

from __future__ import annotations

import json
import re
import subprocess

import pytest

from tests.conftest import MakeBridge
from tests.live.bridge import LiveBridge, child_environment, until
from tests.live.traffic import is_served, other

pytestmark = [pytest.mark.system, pytest.mark.needs_tun]

POLLED_ONE_WAY_US = 5995.680
"""Source: cover letter of the RFC series, sockperf on R-Car S4 with polled doorbells."""
POLL_LIMIT_MBIT_S = 650
"""13 frames of 65510 bytes in one poll of 12 ms are 568 Mbit/s; the rest is for the clock's grain."""
IPERF3_PORT = 5201
SOCKPERF_PORT = 11111

POLLED = "[transport]\nuse_intr = false\n"
"""Doorbells both ways, as before the series."""


def start_server(bridge: LiveBridge, node: str, *command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        bridge.exec_words(node, *command),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=child_environment(),
    )


def iperf3_mbit_s(bridge: LiveBridge, source: str) -> float:
    target = other(source)
    server = start_server(bridge, target, "iperf3", "-s", "-1")
    try:
        until(lambda: is_served(bridge, target, "tcp", IPERF3_PORT), 10, "iperf3 server")
        done = bridge.run_inside(source, "iperf3", "-c", bridge.address(target), "-t", "3", "-J")
    finally:
        server.kill()
        server.communicate()
    assert done.returncode == 0, done.stdout
    end = json.loads(done.stdout)["end"]
    assert "sum_received" in end, done.stdout[-4000:] + done.stderr
    return float(end["sum_received"]["bits_per_second"]) / 1e6


@pytest.fixture(scope="module")
def polled(make_module_bridge: MakeBridge) -> LiveBridge:
    """A running bridge without interrupts."""
    return make_module_bridge(POLLED)


def test_iperf3_from_rc_runs(bridge: LiveBridge) -> None:
    assert iperf3_mbit_s(bridge, "rc") >= 50


def test_iperf3_from_rc_does_not_get_past_the_poll(polled: LiveBridge) -> None:
    assert 50 <= iperf3_mbit_s(polled, "rc") <= POLL_LIMIT_MBIT_S


def test_iperf3_from_ep_runs(bridge: LiveBridge) -> None:
    assert iperf3_mbit_s(bridge, "ep") >= 50


def sockperf_us(bridge: LiveBridge) -> float:
    """Average one-way latency of a ping-pong from the RC, microseconds."""
    port, address = str(SOCKPERF_PORT), bridge.address("ep")
    server = start_server(bridge, "ep", "sockperf", "sr", "-i", address, "-p", port)
    try:
        until(lambda: is_served(bridge, "ep", "udp", SOCKPERF_PORT), 10, "sockperf server")
        done = bridge.run_inside("rc", "sockperf", "pp", "-i", address, "-p", port, "-t", "5")
    finally:
        server.kill()
        server.communicate()

    average = re.search(r"avg-latency=([\d.]+)", done.stdout)
    assert average, done.stdout + done.stderr
    return float(average[1])


def test_sockperf_one_way_latency_is_the_polled_one_of_the_board(polled: LiveBridge) -> None:
    assert sockperf_us(polled) == pytest.approx(POLLED_ONE_WAY_US, rel=0.15)


def test_sockperf_one_way_latency_with_interrupts_is_a_fraction_of_the_polled_one(bridge: LiveBridge) -> None:
    assert sockperf_us(bridge) < POLLED_ONE_WAY_US / 2
