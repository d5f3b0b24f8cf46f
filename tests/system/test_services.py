"""Services on their own: by honcho, by hand, in any order; how they stop and what they write."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

from ntbnet import topology
from ntbnet.log import COMMON_KEYS, EVENTS, FLOW
from tests.live.bridge import ROOT, HandStarted, child_environment, leftovers, run_command, until

pytestmark = [pytest.mark.system, pytest.mark.needs_tun]

ORDERS = {
    "dependency order": list(topology.SERVICES),
    "reverse order": list(reversed(topology.SERVICES)),
    "peers first": ["peer-ep", "peer-rc", "edma", "rc-host", "epc"],
}


@pytest.mark.parametrize("service", topology.SERVICES)
def test_help_says_what_the_service_is_and_takes(service: str) -> None:
    module, *arguments = topology.MODULES[service]

    done = run_command(sys.executable, "-m", module, *arguments, "--help")

    assert done.returncode == 0
    assert done.stderr == ""
    for option in ("--config FILE", "--name NAME"):
        assert option in done.stdout
    assert len(done.stdout.splitlines()) > 6


def test_unknown_option_of_a_service_is_exit_2() -> None:
    done = run_command(sys.executable, "-m", "services.edma", "--bogus")

    assert done.returncode == 2
    assert "--bogus" in done.stderr


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS.keys())
def test_services_started_one_after_another_reach_link_up(by_hand: HandStarted, order: list[str]) -> None:
    for service in order:
        by_hand.start(service)
        by_hand.wait_until_started(service)

    status = by_hand.bridge.wait_for_link()
    assert status["mode"] == "honcho"
    assert by_hand.bridge.cli("ping", "-c", "1").returncode == 0
    assert by_hand.stop(signal.SIGTERM) == dict.fromkeys(topology.SERVICES, 0)
    assert leftovers(by_hand.bridge.name) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_services_started_at_once_stop_cleanly_and_log_json_only(
    by_hand: HandStarted, number: signal.Signals
) -> None:
    for service in topology.SERVICES:
        by_hand.start(service)
    by_hand.bridge.wait_for_link()
    pids = {name: child.pid for name, child in by_hand.children.items()}

    assert by_hand.stop(number) == dict.fromkeys(topology.SERVICES, 0)

    assert leftovers(by_hand.bridge.name) == []
    run_ids = set()
    for service in topology.SERVICES:
        assert by_hand.stderr(service).read_text() == ""
        assert by_hand.stdout(service).read_bytes().endswith(b"}\n")
        lines = by_hand.lines(service)
        for line in lines:
            assert tuple(line)[: len(COMMON_KEYS)] == COMMON_KEYS
            assert set(line) - {FLOW} == {*COMMON_KEYS, *EVENTS[line["event"]].keys}
            assert line["level"] == EVENTS[line["event"]].level
            assert line["service"] == service
            assert line["node"] == topology.NODE_OF[service]
            assert line["pid"] == pids[service]
            assert line["epoch"] == 1
            assert datetime.fromisoformat(line["wall"]).tzinfo is not None
            run_ids.add(line["run_id"])
        monotonic = [line["mono_ns"] for line in lines]
        assert monotonic == sorted(monotonic)
        assert lines[-1]["event"] == "service.stopped"
        assert lines[-1]["reason"] == number.name
    assert len(run_ids) == 1


def test_service_that_runs_already_is_refused(by_hand: HandStarted) -> None:
    by_hand.start("edma")
    by_hand.wait_until_started("edma")

    done = run_command(*by_hand.command("edma"))

    assert done.returncode == 1
    assert done.stderr == f"edma: edma of bridge {by_hand.bridge.name} runs already; stop it first\n"
    assert by_hand.children["edma"].poll() is None


def test_service_with_another_configuration_is_refused_in_one_line(by_hand: HandStarted) -> None:
    other = by_hand.bridge.folder / "other.toml"
    other.write_text("[netdev]\nmtu = 1500\n", encoding="utf-8")
    by_hand.start("edma")
    by_hand.wait_until_started("edma")

    done = run_command(*by_hand.command("epc", config=other))

    assert done.returncode == 1
    name = by_hand.bridge.name
    how = "give epc the same --config, or stop it"
    assert done.stderr == f"epc: bridge {name} runs with another configuration; {how}\n"
    assert by_hand.children["edma"].poll() is None
    assert list(by_hand.bridge.run.processes()) == ["edma"]


def test_commands_find_the_configuration_of_services_started_by_hand(by_hand: HandStarted) -> None:
    other = by_hand.bridge.folder / "other.toml"
    other.write_text('[node.rc]\nipv4 = "10.99.0.1/30"\n[node.ep]\nipv4 = "10.99.0.2/30"\n', encoding="utf-8")
    for service in topology.SERVICES:
        by_hand.start(service, config=other)
    by_hand.bridge.wait_for_link()

    done = by_hand.bridge.cli("ping", "-c", "1")

    assert done.returncode == 0
    assert "10.99.0.2" in done.stdout


def test_stop_request_at_any_moment_of_the_start_leaves_nothing(by_hand: HandStarted) -> None:
    """The folder appears first, so from then on there is something to leave behind."""
    for _ in range(6):
        by_hand.start("edma")
        until(by_hand.bridge.run.path.exists, 10, "run folder")

        code = by_hand.stop(signal.SIGTERM)["edma"]

        assert code == 0
        assert leftovers(by_hand.bridge.name) == []


def test_service_that_was_killed_is_started_again_by_hand(by_hand: HandStarted) -> None:
    for service in topology.SERVICES:
        by_hand.start(service)
    by_hand.bridge.wait_for_link()
    by_hand.stop(signal.SIGKILL, ["peer-ep"])
    until(lambda: by_hand.bridge.status()["state"] == "degraded", 10, "death of peer-ep")

    by_hand.start("peer-ep")

    by_hand.bridge.wait_for_link()
    assert by_hand.bridge.service("peer-ep")["epoch"] == 2


def test_all_services_killed_leave_what_the_next_run_replaces(by_hand: HandStarted) -> None:
    for service in topology.SERVICES:
        by_hand.start(service)
    by_hand.bridge.wait_for_link()
    by_hand.stop(signal.SIGKILL)
    assert by_hand.bridge.status()["state"] == "down"
    assert leftovers(by_hand.bridge.name) != []

    by_hand.bridge.up()

    assert by_hand.bridge.status()["mode"] == "supervisor"
    assert by_hand.bridge.cli("ping", "-c", "1").returncode == 0


def test_honcho_starts_the_same_bridge_and_every_command_finds_it(by_hand: HandStarted) -> None:
    bridge = by_hand.bridge
    honcho = subprocess.Popen(
        [str(Path(sys.executable).with_name("honcho")), "start"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**child_environment(), "NTBNET_NAME": bridge.name},
    )
    try:
        bridge.wait_for_link(20)

        status = json.loads(bridge.cli("status", "--json").stdout)
        assert status["mode"] == "honcho"
        assert status["state"] == "up"
        assert bridge.cli("ping", "-c", "2").returncode == 0
        assert bridge.exec("ep", "sh", "-c", "exit 7").returncode == 7
        again = bridge.cli("up", "--detach")
        assert again.returncode == 0
        assert "already up" in again.stderr

        os.kill(honcho.pid, signal.SIGTERM)
        said, _ = honcho.communicate(timeout=20)
    finally:
        honcho.kill()
        honcho.communicate()

    assert honcho.returncode == 143, said
    assert "Traceback" not in said
    assert leftovers(bridge.name) == []


def test_down_ends_a_bridge_under_honcho(by_hand: HandStarted) -> None:
    bridge = by_hand.bridge
    with subprocess.Popen(
        [str(Path(sys.executable).with_name("honcho")), "start"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**child_environment(), "NTBNET_NAME": bridge.name},
    ) as honcho:
        try:
            bridge.wait_for_link(20)

            done = bridge.down()

            assert done.returncode == 0
            assert leftovers(bridge.name) == []
            said, _ = honcho.communicate(timeout=20)
        finally:
            honcho.kill()
    assert "Traceback" not in said
    assert honcho.returncode == 0
