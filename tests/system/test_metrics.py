"""The metrics endpoint of a real bridge, scraped over real HTTP."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.request

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from ntbnet.app.metrics_endpoint import MAX_CONNECTIONS
from ntbnet.app.metrics_families import FAMILIES
from tests.conftest import MakeBridge
from tests.live.bridge import LiveBridge, until
from tests.live.traffic import free_ports

pytestmark = [pytest.mark.system, pytest.mark.needs_tun]

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]
COUNTERS = {family.exposed_name for family in FAMILIES if family.kind == "counter"}
RECEIVED = ("ntbnet_network_receive_packets_total", (("node", "ep"),))


def get(port: int, accept: str = "application/openmetrics-text; version=1.0.0") -> str:
    asked = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(asked, timeout=5) as answer:
        text: str = answer.read().decode()
    return text


def scrape(port: int) -> Samples:
    """Every sample, by name and sorted labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(get(port))
        for sample in family.samples
    }


def of_service(name: str, service: str, node: str = "ep") -> tuple[str, tuple[tuple[str, str], ...]]:
    return name, (("node", node), ("service", service))


@pytest.fixture(scope="module")
def port() -> int:
    return free_ports(1)


@pytest.fixture(scope="module")
def bridge(make_module_bridge: MakeBridge, port: int) -> LiveBridge:
    bridge = make_module_bridge(f"[metrics]\nport = {port}")
    until(lambda: scrape(port)["ntbnet_link_up", ()] == 1, 10, "link in the metrics")
    return bridge


def test_scrape_is_what_promtool_and_the_table_of_metrics_say(bridge: LiveBridge, port: int) -> None:
    assert {family.name for family in text_string_to_metric_families(get(port))} == {
        family.name for family in FAMILIES
    }
    text = subprocess.run(
        ["promtool", "check", "metrics"],
        input=get(port, "text/plain"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (text.returncode, text.stdout + text.stderr) == (0, "")


def test_packets_are_counted_once(bridge: LiveBridge, port: int) -> None:
    before = scrape(port)[RECEIVED]

    assert bridge.pings("rc", count=3)

    until(lambda: scrape(port)[RECEIVED] >= before + 3, 5, "pings in the metrics")
    assert scrape(port)[RECEIVED] < before + 10


def test_counters_outlive_the_process_that_counts(bridge: LiveBridge, port: int) -> None:
    assert bridge.pings("rc", count=2)
    until(lambda: scrape(port)[RECEIVED] >= 2, 5, "pings in the metrics")
    before = seen = scrape(port)
    restarts = of_service("ntbnet_service_restarts_total", "peer-ep")

    os.kill(bridge.pids()["peer-ep"], signal.SIGKILL)

    def is_back() -> bool:
        nonlocal seen
        now = scrape(port)
        fallen = {
            key: (value, now.get(key))
            for key, value in seen.items()
            if key[0] in COUNTERS and now.get(key, -1) < value
        }
        assert fallen == {}
        seen = now
        return (
            now[restarts] == before[restarts] + 1
            and now.get(("ntbnet_link_epoch", ()), 0) > before["ntbnet_link_epoch", ()]
        )

    until(is_back, 15, "restart in the metrics")
    bridge.wait_for_link()
    assert bridge.pings("rc", count=2)
    until(
        lambda: is_back() and seen[RECEIVED] >= before[RECEIVED] + 2,
        5,
        "pings after the restart in the metrics",
    )
    cpu = of_service("ntbnet_service_cpu_seconds_total", "peer-ep")
    assert seen[cpu] >= before[cpu]


def test_service_that_hangs_is_down_and_keeps_its_values_and_scrapes_do_not_wait(
    bridge: LiveBridge, port: int
) -> None:
    before = scrape(port)
    up = of_service("ntbnet_service_up", "edma")
    events = [
        key for key in before if key[0] == "ntbnet_service_events_total" and ("service", "edma") in key[1]
    ]
    assert before[up] == 1
    assert events

    os.kill(bridge.pids()["edma"], signal.SIGSTOP)  # the supervisor replaces it by and by

    def is_seen() -> Samples | None:
        began_s = time.monotonic()
        now = scrape(port)
        assert time.monotonic() - began_s < 2
        return now if now[up] == 0 else None

    seen: Samples = until(is_seen, 10, "hung service in the metrics")
    assert all(seen[key] >= before[key] for key in events)
    assert seen[of_service("ntbnet_service_up", "epc")] == 1
    until(lambda: scrape(port)[up] == 1, 15, "its successor in the metrics")
    bridge.wait_for_link()


def test_scrapers_that_say_nothing_hold_nobody_up(bridge: LiveBridge, port: int) -> None:
    silent = [socket.create_connection(("127.0.0.1", port), timeout=5) for _ in range(MAX_CONNECTIONS + 4)]
    try:
        assert bridge.status()["state"] == "up"
        assert any(one.recv(1) == b"" for one in silent[MAX_CONNECTIONS:])
    finally:
        for one in silent:
            one.close()

    def answers() -> bool:
        try:
            return bool(scrape(port))
        except OSError:
            return False

    until(answers, 10, "scrape after the silent ones")
    assert bridge.complaints() == []


def test_port_that_is_taken_leaves_nothing_behind(make_bridge: MakeBridge) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bridge = make_bridge(f"[metrics]\nport = {taken.getsockname()[1]}", up=False)

        done = bridge.cli("up", "--detach", *bridge.config_words)

    assert done.returncode == 1
    assert "metrics.port = " in done.stderr
    assert "cannot listen on 127.0.0.1" in done.stderr
    assert not bridge.run.exists()
