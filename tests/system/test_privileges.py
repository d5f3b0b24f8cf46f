"""Services of a bridge that root started for another user: what they may still do, and that it suffices."""

from __future__ import annotations

import os
import pwd
import signal
import stat
from pathlib import Path

import pytest

from ntbnet import topology
from ntbnet.edge.process import ProcessRecord
from ntbnet.edge.shm import dram_path
from tests.conftest import MakeBridge
from tests.live.bridge import HandStarted, LiveBridge, is_gone, until

pytestmark = [pytest.mark.system, pytest.mark.needs_tun, pytest.mark.slow]

USER = "nobody"
TEXT = f'[run]\nuser = "{USER}"\n'


@pytest.fixture(scope="module", params=["local", "message"])
def live(request: pytest.FixtureRequest, make_module_bridge: MakeBridge) -> LiveBridge:
    return make_module_bridge(f'{TEXT}[bridge]\nfabric = "{request.param}"\n')


def facts(pid: int) -> dict[str, str]:
    """Lines of /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def mode(path: Path) -> str:
    return f"{stat.S_IMODE(path.stat().st_mode):04o}"


def test_services_are_the_user_without_groups_capabilities_or_a_way_back(live: LiveBridge) -> None:
    account = pwd.getpwnam(USER)
    pids = live.pids()
    assert set(pids) == {*topology.SERVICES, "supervisor"}

    for service in topology.SERVICES:
        found = facts(pids[service])
        assert found["Uid"].split() == [str(account.pw_uid)] * 4, service
        assert found["Gid"].split() == [str(account.pw_gid)] * 4, service
        assert found["Groups"] == "", service
        assert {found[key] for key in ("CapEff", "CapPrm", "CapInh", "CapAmb")} == {"0" * 16}, service
        assert found["NoNewPrivs"] == "1", service
    assert facts(pids["supervisor"])["Uid"].split() == ["0"] * 4
    for service in topology.SERVICES:
        assert any(line["event"] == "security.privileges_dropped" for line in live.log_lines(service))


def test_user_owns_sockets_and_counters_and_nothing_else(live: LiveBridge) -> None:
    path = live.run.path
    uid = pwd.getpwnam(USER).pw_uid

    assert mode(path) == "0710"
    owners = {entry.name: entry.lstat().st_uid for entry in path.iterdir()}
    assert live.run.trace_folder.stat().st_uid == uid
    assert (live.run.trace_folder.parent.stat().st_uid, mode(live.run.trace_folder.parent)) == (0, "0710")
    assert {name for name, owner in owners.items() if owner == uid} == {"sockets", "epochs"}
    assert all(mode(path / name) == "0700" for name in ("sockets", "epochs", "pids", "nodes", "logs"))
    assert all(mode(path / name) == "0600" for name in ("run.json", "config.toml", "secret"))
    for node in ("rc", "ep"):
        memory = dram_path(live.name, node)
        assert (mode(memory), memory.stat().st_uid) == ("0600", 0)


def test_packets_cross_and_carrier_follows_the_link(live: LiveBridge) -> None:
    assert " 0% packet loss" in live.cli("ping", "-c", "3").stdout
    assert live.pings("ep", "ipv6", count=3)

    for node in ("rc", "ep"):
        assert "NO-CARRIER" not in live.exec(node, "ip", "link", "show", "ntb0").stdout


@pytest.mark.parametrize("service", topology.SERVICES)
def test_killed_service_comes_back_as_the_user(live: LiveBridge, service: str) -> None:
    live.wait_for_link()
    before = live.service(service)["restarts"]

    live.kill(service)
    until(
        lambda: live.service(service)["restarts"] > before and live.is_linked(), 15, "link with the new one"
    )

    assert facts(live.pids()[service])["Uid"].split() == [str(pwd.getpwnam(USER).pw_uid)] * 4
    assert live.pings(count=3)
    assert live.complaints() == []


def test_stopped_service_is_killed_and_replaced(live: LiveBridge) -> None:
    live.wait_for_link()
    old = live.run.processes()["epc"]

    live.signal("epc", signal.SIGSTOP)
    until(lambda: is_gone(old), 15, "the hung process is killed")

    live.wait_for_link()
    assert live.pids()["epc"] != old.pid


def test_killed_supervisor_takes_running_and_stopped_services_with_it(make_bridge: MakeBridge) -> None:
    """The kernel forgets who is to die with its parent when a process changes its user."""
    live = make_bridge(TEXT)
    records: dict[str, ProcessRecord] = live.run.processes()
    live.signal("edma", signal.SIGSTOP)

    os.kill(live.supervisor().pid, signal.SIGKILL)

    until(lambda: all(is_gone(record) for record in records.values()), 10, "end of the services")


@pytest.mark.parametrize("user", ["no-such-user-1", "root"])
def test_user_that_cannot_be_is_refused(make_bridge: MakeBridge, user: str) -> None:
    live = make_bridge(f'[run]\nuser = "{user}"\n', up=False)

    done = live.cli("up", *live.config_words)

    assert done.returncode == 2
    assert f'run.user = "{user}": must ' in done.stderr
    assert not live.run.path.exists()


def test_run_folder_that_the_user_cannot_reach_is_refused(make_bridge: MakeBridge, tmp_path: Path) -> None:
    closed = Path("/run") / f"ntbnet-closed-{os.getpid()}"
    closed.mkdir(0o700)
    try:
        live = make_bridge(f'[run]\nuser = "{USER}"\ndir = "{closed}/run"\n', up=False)

        done = live.cli("up", *live.config_words)

        assert done.returncode == 1
        assert "cannot reach run folder" in done.stderr
        assert not live.run.path.exists()
    finally:
        closed.rmdir()


def test_service_without_a_supervisor_refuses_to_become_a_user(make_bridge: MakeBridge) -> None:
    by_hand = HandStarted(make_bridge(TEXT, up=False))
    by_hand.start("epc")

    assert by_hand.children["epc"].wait(timeout=15) == 2
    assert "must be empty without a supervisor" in by_hand.stderr("epc").read_text()


def test_run_folder_memory_and_sockets_are_closed_to_others(make_bridge: MakeBridge) -> None:
    """Without a user: everything is the starter's own."""
    live = make_bridge("")
    path = live.run.path

    assert {mode(folder) for folder in (path, *(f for f in path.iterdir() if f.is_dir()))} == {"0700"}
    assert {mode(dram_path(live.name, node)) for node in ("rc", "ep")} == {"0600"}
    assert all(mode(path / name) == "0600" for name in ("run.json", "config.toml", "secret"))
    fifos = [entry for entry in (path / "sockets").iterdir() if stat.S_ISFIFO(entry.stat().st_mode)]
    assert {mode(fifo) for fifo in fifos} <= {"0600"}
