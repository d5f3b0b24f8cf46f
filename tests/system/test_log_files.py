"""Logs of a running bridge: set aside when long, followed while they grow, healthy when all is."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from threading import Timer

import pytest

from tests.live.bridge import CLI, LiveBridge, child_environment, cli, until

pytestmark = [pytest.mark.system, pytest.mark.needs_tun]

LIMIT_BYTES = 4 << 20
SHOWN_S = 40.0
"""Within which what happens is followed."""


def folder_of(bridge: LiveBridge) -> Path:
    return bridge.log_folder if bridge.config_path else bridge.run.path / "logs"


def test_long_logs_are_set_aside_and_no_line_is_lost(bridge: LiveBridge) -> None:
    bridge.wait_for_link()
    folder = folder_of(bridge)
    for service in ("epc", "supervisor"):
        before = (folder / f"{service}.jsonl").read_text(encoding="utf-8")
        with (folder / f"{service}.jsonl").open("ab") as file:
            file.write(b"\n" * LIMIT_BYTES)
        until((folder / f"{service}.1.jsonl").exists, 5, f"log of {service} set aside")
        assert (folder / f"{service}.1.jsonl").read_text(encoding="utf-8").startswith(before)

    bridge.kill("peer-ep")
    until(lambda: bridge.log_lines("supervisor"), 5, "the supervisor's new log")
    bridge.wait_for_link()

    until(lambda: bridge.log_lines("epc"), 5, "the endpoint's new log")
    events = {line["event"] for line in bridge.log_lines("epc")}
    assert {"path.changed", "link.changed"} <= events
    assert (folder / "epc.1.jsonl").stat().st_size >= LIMIT_BYTES
    found = json.loads(cli("logs", "timeline", "--json", str(folder)).stdout)
    assert [one["service"] for one in found["failures"]][-1] == "peer-ep"


def test_logs_of_a_bridge_that_lost_and_replaced_services_break_no_rule(bridge: LiveBridge) -> None:
    bridge.wait_for_link()
    for service in ("epc", "edma", "rc-host"):
        bridge.kill(service)
        until(lambda: bridge.service(service)["state"] == "up", 10, service)  # noqa: B023 - called at once
        bridge.wait_for_link()

    done = cli("logs", "check", str(folder_of(bridge)))

    assert (done.returncode, done.stdout[:18]) == (0, "nothing is broken "), done.stdout


@pytest.fixture
def heeds_sigint() -> Iterator[None]:
    """What is started does: a shell has its background processes, and so ours, ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_sigint")
def test_follow_shows_what_comes_while_the_bridge_runs(bridge: LiveBridge) -> None:
    bridge.wait_for_link()
    command = [*CLI, "logs", "show", "-f", "--json", "--service", "supervisor", str(folder_of(bridge))]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=child_environment()
    ) as shown:
        overdue = Timer(SHOWN_S, shown.kill)  # ends the reading of lines that do not come
        overdue.start()
        try:
            assert shown.stdout is not None
            assert json.loads(shown.stdout.readline())["service"] == "supervisor"

            killed = bridge.pids()["edma"]
            bridge.kill("edma")

            for line in shown.stdout:
                fields = json.loads(line)
                if fields["event"] == "supervisor.service_died" and fields["child_pid"] == killed:
                    break
            shown.send_signal(signal.SIGINT)
            assert shown.wait(20) == 0
        finally:
            overdue.cancel()
            shown.kill()
    bridge.wait_for_link()
