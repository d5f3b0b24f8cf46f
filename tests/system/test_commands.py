"""The command line on real bridges: what it prints, what it returns, what it leaves behind."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from ntbnet import topology
from ntbnet.edge.shm import dram_path
from tests.conftest import MakeBridge
from tests.fabric import FABRIC
from tests.live.bridge import (
    LiveBridge,
    cli,
    is_gone,
    leftovers,
    new_name,
    processes_of,
    until,
)
from tests.live.traffic import Pinger

pytestmark = [pytest.mark.system, pytest.mark.needs_tun]

QUEUE_COUNTERS = {
    "rx_bytes",
    "rx_pkts",
    "rx_memcpy",
    "rx_async",
    "rx_ring_empty",
    "rx_err_no_buf",
    "rx_err_oflow",
    "rx_err_ver",
    "rx_buff",
    "rx_index",
    "rx_max_entry",
    "rx_alloc_entry",
    "tx_bytes",
    "tx_pkts",
    "tx_memcpy",
    "tx_async",
    "tx_ring_full",
    "tx_err_no_buf",
    "tx_mw",
    "tx_index",
    "rx_info",
    "tx_max_entry",
    "free_tx",
}
"""Source: Linux ntb_transport.c, debugfs_read."""


def shown(bridge: LiveBridge) -> tuple[int, dict[str, Any]]:
    done = bridge.cli("status", "--json")
    assert done.stderr == ""
    status: dict[str, Any] = json.loads(done.stdout)
    return done.returncode, status


def test_status_of_a_running_bridge_has_every_promised_key(bridge: LiveBridge) -> None:
    code, status = shown(bridge)

    assert code == 0
    assert status["state"] == "up"
    assert status["fabric"] == FABRIC
    assert (status["backend"], status["backend_ep_to_rc"]) == ("dw-edma-testirq", "doorbell")
    assert status["backend_reason"]
    assert status["backend_ep_to_rc_reason"]
    assert [row["trigger"] for row in status["interrupts"]["rc_to_ep"]] == ["0xa0=0x0"]
    assert [service["name"] for service in status["services"]] == list(topology.SERVICES)
    for service in status["services"]:
        assert service["pid"] == bridge.pids()[service["name"]]
        assert service["epoch"] == 1
        assert service["restarts"] == 0
        assert service["state"] == "up"
    assert status["link"]["state"] == "up"
    assert status["link"]["epoch"] >= 1
    queues = status["link"]["queues"]
    assert [queue["queue"] for queue in queues] == list(range(len(queues)))
    assert queues
    for queue in queues:
        for node in ("rc", "ep"):
            assert queue[node].keys() >= QUEUE_COUNTERS


def test_queue_counters_of_both_sides_agree_with_the_traffic(bridge: LiveBridge) -> None:
    def counts() -> tuple[int, int]:
        queue = bridge.status()["link"]["queues"][0]
        return queue["rc"]["tx_pkts"], queue["ep"]["rx_pkts"]

    before = counts()
    assert bridge.cli("ping", "-c", "3").returncode == 0
    after = counts()

    assert [after[0] - before[0], after[1] - before[1]] == [3, 3]


def test_status_of_a_bridge_that_is_down_has_the_same_keys() -> None:
    name = new_name()

    done = cli("status", "--json", "--name", name)

    status = json.loads(done.stdout)
    assert done.returncode == 1
    assert {"name", "state", "services", "link", "fabric", "backend", "backend_ep_to_rc"} <= status.keys()
    assert {"backend_reason", "backend_ep_to_rc_reason", "interrupts"} <= status.keys()
    assert status["state"] == "down"
    assert status["link"]["state"] == "down"
    assert [service["pid"] for service in status["services"]] == [None] * 5
    assert leftovers(name) == []


def test_status_for_people_names_every_service(bridge: LiveBridge) -> None:
    done = bridge.cli("status")

    assert done.returncode == 0
    for service in topology.SERVICES:
        assert service in done.stdout


@pytest.mark.parametrize("options", [(), ("--from", "ep"), ("-6",), ("--from", "ep", "-6")])
def test_ping_command_pings_the_other_node(bridge: LiveBridge, options: tuple[str, ...]) -> None:
    done = bridge.cli("ping", "-c", "2", *options)

    assert done.returncode == 0
    assert "2 packets transmitted, 2 received, 0% packet loss" in done.stdout


@pytest.mark.parametrize("code", [0, 1, 3, 77])
def test_exec_returns_the_programs_exit_code(bridge: LiveBridge, code: int) -> None:
    assert bridge.exec("rc", "sh", "-c", f"exit {code}").returncode == code


def test_exec_passes_streams_and_arguments_and_runs_inside_the_node(bridge: LiveBridge) -> None:
    done = bridge.exec("ep", "sh", "-c", 'echo "$1"; echo err >&2; ip -o -4 addr show ntb0', "-", "a  b")

    assert done.stdout.startswith("a  b\n")
    assert f"inet {bridge.address('ep')}/24" in done.stdout
    assert done.stderr == "err\n"


def test_exec_of_a_missing_program_is_one_line_and_exit_1(bridge: LiveBridge) -> None:
    done = bridge.exec("rc", "no-such-program-at-all")

    assert done.returncode == 1
    assert done.stderr == "ntbnet: no-such-program-at-all is not installed\n"


def test_up_of_a_running_bridge_changes_nothing(bridge: LiveBridge) -> None:
    before = bridge.pids()

    done = bridge.cli("up", "--detach", *bridge.config_words)

    assert done.returncode == 0
    assert "already up" in done.stderr
    assert bridge.pids() == before
    assert bridge.is_linked()


@pytest.mark.parametrize("words", [("ping",), ("exec", "rc", "--", "true")])
def test_command_that_needs_a_running_bridge_says_how_to_start_it(words: tuple[str, ...]) -> None:
    name = new_name()

    done = cli(words[0], "--name", name, *words[1:])

    assert done.returncode == 1
    assert done.stderr == f"ntbnet: bridge {name} is not up; start it with: ntbnet up --name {name}\n"


def test_down_of_a_bridge_that_is_down_is_fine() -> None:
    done = cli("down", "--name", new_name())

    assert done.returncode == 0
    assert "nothing to do" in done.stderr


def test_down_removes_everything_while_programs_run_in_a_node(make_bridge: MakeBridge) -> None:
    bridge = make_bridge()
    pinger = Pinger(bridge)  # its socket keeps the namespace itself alive, nameless

    assert bridge.down().returncode == 0

    assert leftovers(bridge.name) == []
    pinger.close()


def kill_supervisor(bridge: LiveBridge) -> float:
    """Seconds until the last of the services has ended."""
    services = [record for record in processes_of(bridge.name) if record != bridge.supervisor()]
    assert len(services) == len(topology.SERVICES) + 1  # the fork server
    os.kill(bridge.supervisor().pid, signal.SIGKILL)
    started_s = time.monotonic()
    until(lambda: all(map(is_gone, services)), 10, "end of the services")
    return time.monotonic() - started_s


def test_services_end_within_2_s_of_their_supervisors_death(make_bridge: MakeBridge) -> None:
    bridge = make_bridge()

    assert kill_supervisor(bridge) < 2

    code, status = shown(bridge)
    assert code == 1
    assert status["state"] == "down"
    down = bridge.down()
    assert down.returncode == 0
    assert "was not up; removed what a killed run left" in down.stderr
    assert leftovers(bridge.name) == []


def test_up_after_a_killed_supervisor_cleans_and_works(make_bridge: MakeBridge) -> None:
    bridge = make_bridge()
    kill_supervisor(bridge)

    done = bridge.cli("up", "--detach")

    assert done.returncode == 0, done.stderr
    assert "removed what a killed run left" in done.stderr
    assert bridge.cli("ping", "-c", "1").returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_supervisor_in_the_foreground_ends_with_exit_0_on_a_signal(
    make_bridge: MakeBridge, number: signal.Signals
) -> None:
    bridge = make_bridge(up=False)

    with bridge.in_foreground() as process:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if "Ctrl-C" in line:
                break
        os.kill(bridge.supervisor().pid, number)
        process.communicate(timeout=20)

    assert process.returncode == 0, said
    assert any("link is up" in line for line in said)
    assert leftovers(bridge.name) == []


MOMENTS: dict[str, Callable[[LiveBridge], bool]] = {
    "run folder": lambda bridge: bridge.run.read_run() is not None,
    "memory": lambda bridge: dram_path(bridge.name, "rc").exists(),
    "first node": lambda bridge: bridge.run.read_node("rc") is not None,
    "both nodes": lambda bridge: bridge.run.read_node("ep") is not None,
    "services": lambda bridge: set(topology.SERVICES) <= set(bridge.run.processes()),
}
"""How far `up` has come when something happens to it."""

moments = pytest.mark.parametrize("has_come", MOMENTS.values(), ids=MOMENTS.keys())


@moments
def test_up_told_to_stop_while_starting_leaves_nothing(
    make_bridge: MakeBridge, has_come: Callable[[LiveBridge], bool]
) -> None:
    bridge = make_bridge(up=False)

    with bridge.in_foreground() as process:
        until(lambda: has_come(bridge), 20, "progress")
        process.terminate()
        _, said = process.communicate(timeout=30)

    # it may have come up between our look and the signal
    is_up = "link is up" in said
    assert process.returncode == (0 if is_up else 1), said
    assert is_up or said.splitlines()[-1] == "ntbnet: stopped before it was done"
    assert leftovers(bridge.name) == []


@moments
def test_up_killed_while_starting_is_cleaned_by_down(
    make_bridge: MakeBridge, has_come: Callable[[LiveBridge], bool]
) -> None:
    bridge = make_bridge(up=False)

    with bridge.in_foreground() as process:
        until(lambda: has_come(bridge), 20, "progress")
        process.kill()
        process.communicate(timeout=30)
    done = bridge.down()

    assert done.returncode == 0, done.stderr
    assert leftovers(bridge.name) == []
