"""Each service, pairs and both peers are killed under probes: packets return in time, carriers show it.

The bounds are for a busy machine; ``ntbnet bench recovery`` judges the budgets.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from ntbnet import topology
from ntbnet.edge.rundir import RunDir
from tests.conftest import MakeBridge
from tests.live.bridge import LiveBridge, bridges, cli, until
from tests.live.carriers import carriers, fell_and_rose
from tests.live.traffic import Pinger, free_ports

pytestmark = [pytest.mark.chaos, pytest.mark.system, pytest.mark.needs_tun]

RECOVERY_LIMIT_S = 2.0
HANG_LIMIT_S = 5.0
"""From SIGSTOP: noticed after two seconds of silence, killed, replaced."""
PAIRS = [("peer-rc", "peer-ep"), ("rc-host", "epc"), ("epc", "edma"), ("rc-host", "peer-ep")]


@pytest.fixture(scope="module", params=["local", "message", "message over tcp"])
def bridge(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveBridge]:
    fabric, _, tcp = request.param.partition(" over ")
    transport = f'transport = "tcp"\ntcp_base_port = {free_ports(12)}\n' if tcp else ""
    with bridges(tmp_path_factory.mktemp("bridge")) as make:
        yield make(f'[bridge]\nfabric = "{fabric}"\n{transport}')


@pytest.mark.parametrize("victims", [*((name,) for name in topology.SERVICES), *PAIRS], ids="+".join)
def test_packets_are_back_in_time_after_kills(bridge: LiveBridge, victims: tuple[str, ...]) -> None:
    bridge.wait_for_link()
    with closing(Pinger(bridge)) as pinger:
        began_ns = time.monotonic_ns()
        for name in victims:
            bridge.signal(name, signal.SIGKILL)
        killed_s = time.monotonic()

        if victims != ("edma",):
            for node in ("rc", "ep"):
                # a new process finds the carrier that fell with the old one; an old one lets it fall
                until(lambda: fell_and_rose(bridge, node, began_ns), 10, f"carrier of {node}")  # noqa: B023 - called at once
        took_s = time.monotonic() - killed_s + pinger.first_reply_s(time.monotonic(), 10)

    bridge.wait_for_link()
    assert took_s < RECOVERY_LIMIT_S
    assert bridge.complaints() == []


def test_log_tells_the_whole_story_of_a_recovery(bridge: LiveBridge) -> None:
    bridge.wait_for_link()
    began_ns = time.monotonic_ns()

    def times(service: str, event: str, **keys: object) -> list[int]:
        return [
            line["mono_ns"]
            for line in bridge.log_lines(service)
            if line["event"] == event
            and line["mono_ns"] >= began_ns
            and all(line[key] == value for key, value in keys.items())
        ]

    def first(service: str, event: str, **keys: object) -> int:
        return min(times(service, event, **keys))

    with closing(Pinger(bridge)) as pinger:
        bridge.signal("epc", signal.SIGKILL)
        until(lambda: fell_and_rose(bridge, "ep", began_ns), 10, "carrier of ep")
        pinger.first_reply_s(time.monotonic(), 10)
    until(lambda: times("peer-ep", "netdev.packet_crossed"), 5, "first packet")

    story = [
        first("supervisor", "supervisor.service_died", name="epc"),
        first("epc", "link.changed", up=True),
        first("peer-rc", "driver.bound"),
        first("peer-rc", "transport.link_changed", up=True),
        first("peer-ep", "netdev.packet_crossed"),
    ]
    assert story == sorted(story)
    # the supervisor says so behind the fork: the new process may be ahead of it
    until(lambda: times("supervisor", "supervisor.service_started", name="epc"), 5, "start of epc in the log")
    assert story[0] <= first("supervisor", "supervisor.service_started", name="epc")


def test_frozen_neighbour_is_lost_by_its_silence_and_killed_before_it_is_replaced(bridge: LiveBridge) -> None:
    """The messages of a path tell, not the sockets: libzmq and TCP keep answering for a stopped process."""
    bridge.wait_for_link()
    began_ns = time.monotonic_ns()
    frozen = bridge.run.processes()["peer-ep"]
    stopped_s = bridge.signal("peer-ep", signal.SIGSTOP)

    def told(service: str, event: str) -> list[dict[str, object]]:
        lines = bridge.log_lines(service)
        return [line for line in lines if line["event"] == event and line["mono_ns"] > began_ns]

    until(lambda: told("epc", "path.changed"), 3, "the neighbour's notice")
    notice = told("epc", "path.changed")[0]
    until(lambda: bridge.run.processes()["peer-ep"] != frozen, HANG_LIMIT_S, "replacement")
    bridge.wait_for_link()

    assert notice["peer"] == "peer-ep"
    assert str(notice["reason"]).startswith("peer silent for")
    (hung,) = told("supervisor", "supervisor.service_hung")
    (died,) = told("supervisor", "supervisor.service_died")
    assert (hung["name"], hung["child_pid"], died["status"]) == ("peer-ep", frozen.pid, -signal.SIGKILL)
    assert time.monotonic() - stopped_s < HANG_LIMIT_S + 3


def test_link_by_command_is_kept_by_the_next_process_and_shown(bridge: LiveBridge) -> None:
    bridge.wait_for_link()
    began_ns = time.monotonic_ns()

    done = cli("link", "down", "ep", "--name", bridge.name)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("link: down by command of ep")
    restarts = bridge.service("peer-ep")["restarts"]
    bridge.kill("peer-ep")
    until(lambda: bridge.service("peer-ep")["restarts"] > restarts, 10, "replacement")
    until(lambda: bridge.service("peer-ep")["state"] == "up", 10, "answers of the replacement")
    shown = bridge.cli("status")
    crosses = bridge.pings()

    assert shown.returncode == 1
    assert "disabled   link: down by command of ep" in shown.stdout
    assert not crosses
    done = cli("link", "up", "ep", "--name", bridge.name, "--json")
    assert '"link": "up"' in done.stdout
    assert carriers(bridge, "rc", began_ns)[0] is False
    assert carriers(bridge, "rc", began_ns)[-1] is True
    assert bridge.is_linked()


@pytest.mark.parametrize("node", ["rc", "ep"])
def test_reset_by_command_brings_the_link_back(bridge: LiveBridge, node: str) -> None:
    epoch = bridge.wait_for_link()["link"]["epoch"]

    done = cli("reset", node, "--name", bridge.name)

    assert done.returncode == 0, done.stderr
    assert f"{node} was reset; the link is up again after" in done.stdout
    assert bridge.wait_for_link()["link"]["epoch"] > epoch
    assert bridge.pings(node)
    assert bridge.complaints() == []


@pytest.mark.parametrize("words", [("link", "down", "both"), ("reset", "host")])
def test_another_node_is_refused_in_one_line(bridge: LiveBridge, words: tuple[str, ...]) -> None:
    done = cli(*words, "--name", bridge.name)

    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].endswith("allowed are rc and ep")


def test_bridge_that_is_not_up_cannot_be_told_anything(tmp_path: Path, make_bridge: MakeBridge) -> None:
    bridge = make_bridge("", up=False)

    done = cli("link", "down", "--name", bridge.name)

    assert done.returncode == 1
    assert "is not up" in done.stderr
    assert not RunDir(bridge.config.run.dir, bridge.name).exists()
