"""Traces and the flight recorder of a bridge of real processes."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from ntbnet.app.leftovers import kill as kill_process
from ntbnet.edge.trace_rings import read_rings
from ntbnet.trace_records import Entry, Flag, Kind, Level
from tests.conftest import MakeBridge
from tests.live.bridge import LiveBridge, cli, until

pytestmark = [pytest.mark.system, pytest.mark.needs_tun]

PACKETS = 40
RD_INT_STATUS = 0xA0


@pytest.fixture
def live(bridge: LiveBridge) -> LiveBridge:
    bridge.wait_for_link()
    return bridge


def trace(live: LiveBridge, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = cli("trace", *words, "--name", live.name)
    assert done.returncode == code, done.stderr
    return done


def traced(live: LiveBridge) -> list[Entry]:
    """What a trace of some pings holds."""
    trace(live, "start")
    live.run_inside("rc", "ping", "-q", "-c", str(PACKETS), "-i", "0.01", live.address("ep"))
    state = json.loads(trace(live, "stop", "--json").stdout)
    assert not state["on"]
    assert {service["level"] for service in state["services"]} == {"coarse"}
    return list(read_rings(live.run.trace_folder, Level.FULL))


def flows(entries: list[Entry], kind: Kind, service: str) -> set[int]:
    return {
        entry.record.flow for entry in entries if entry.record.kind == kind and entry.ring.label == service
    }


def test_every_packet_is_followed_from_tun_to_tun(live: LiveBridge) -> None:
    entries = traced(live)

    for sender, receiver in (("peer-rc", "peer-ep"), ("peer-ep", "peer-rc")):
        read = flows(entries, Kind.TUN_READ, sender)
        assert len(read) >= PACKETS
        assert read == flows(entries, Kind.RING_WRITE, sender) == flows(entries, Kind.TUN_WRITE, receiver)


def test_latencies_of_a_running_bridge_are_those_of_its_trace(live: LiveBridge) -> None:
    traced(live)

    done = cli("logs", "latency", "--json", "--name", live.name, "--run-dir", str(live.run.path.parent))

    assert done.returncode == 0, done.stderr
    hops = json.loads(done.stdout)
    for way in ("rc->ep", "ep->rc"):
        assert hops["end to end"][way]["count"] >= PACKETS
        assert 0 < hops["end to end"][way]["p50_us"] < 1e6


def test_ring_of_the_host_is_followed_to_the_handler_of_the_line(live: LiveBridge) -> None:
    """RC write to BAR2+0xF00A0 -> translated -> RD_INT_STATUS -> line -> handler."""
    entries = traced(live)
    ring = next(
        entry.record
        for entry in entries
        if entry.record.kind == Kind.MEM_WRITE
        and entry.record.flags & Flag.TRANSLATED
        and (entry.record.queue, entry.record.amount) == (2, 0xF00A0)
    )
    register = next(
        entry.record
        for entry in entries
        if entry.ring.label == "edma"
        and entry.record.kind == Kind.REG_WRITE
        and entry.record.address == RD_INT_STATUS
        and entry.record.mono_ns >= ring.mono_ns
    )
    line = next(
        entry
        for entry in entries
        if (entry.record.kind, entry.ring.label) == (Kind.LINE, "edma")
        and entry.record.mono_ns >= register.mono_ns
    )
    handler = [
        entry
        for entry in entries
        if entry.record.kind == Kind.SLICE
        and entry.ring.label == "peer-ep"
        and entry.record.flow == line.record.flow
    ]

    assert ring.translated & 0xFFF == RD_INT_STATUS
    assert line.record.flow
    assert len(handler) == 1


def test_message_fabric_shows_the_translation_at_the_controller(make_bridge: MakeBridge) -> None:
    live = make_bridge('bridge.fabric = "message"\n')
    live.wait_for_link()
    entries = traced(live)

    accesses = [
        entry.record
        for entry in entries
        if entry.ring.label == "epc" and entry.record.flags & Flag.TRANSLATED
    ]
    rings = [one for one in accesses if (one.queue, one.amount) == (2, 0xF00A0)]
    assert rings
    assert all(one.translated & 0xFFF == RD_INT_STATUS and one.flow for one in rings)
    assert any(one.flags & Flag.OUTBOUND for one in accesses)
    assert flows(entries, Kind.TUN_READ, "peer-rc") == flows(entries, Kind.TUN_WRITE, "peer-ep")


def test_trace_goes_on_in_a_restarted_service_and_start_is_refused_twice(make_bridge: MakeBridge) -> None:
    live = make_bridge("")
    live.wait_for_link()
    trace(live, "start", "--records", "5000")
    again = trace(live, "start", code=1)
    live.kill("edma")

    def in_the_new_one() -> bool:
        state = json.loads(trace(live, "status", "--json").stdout)
        mine = next(service for service in state["services"] if service["service"] == "edma")
        return bool(mine["level"] == "full" and mine["records"])

    until(in_the_new_one, 20, "a trace of the new edma")
    names = {path.name for path in live.run.trace_folder.glob("edma.*.full")}

    assert "traced already" in again.stderr
    assert len(names) == 2
    trace(live, "stop")


def test_blackbox_tells_what_killed_services_did_also_when_the_bridge_is_gone(
    make_bridge: MakeBridge,
) -> None:
    live = make_bridge("")
    live.wait_for_link()
    live.kill("epc")
    until(lambda: live.service("epc")["epoch"] == 2, 20, "a new epc")
    live.wait_for_link()
    alive_box = box_of(live)
    kill_process(live.supervisor())
    for record in live.run.processes().values():
        kill_process(record)

    gone = box_of(live)
    shown = trace(live, "blackbox").stdout

    states = {(one["service"], one["incarnation"]): one["state"] for one in alive_box["processes"]}
    assert states["epc", 1] == "killed"
    assert states["epc", 2] == "running"
    # a service that sees its supervisor gone ends in order, if it is not killed before
    assert {one["state"] for one in gone["processes"]} <= {"killed", "ended in order"}
    told = {(one["service"], one["incarnation"]) for one in gone["records"]}
    assert {service for service, _ in told} == {"rc-host", "epc", "edma", "peer-rc", "peer-ep"}
    assert {("epc", 1), ("epc", 2)} <= told
    assert "path to rc-host up" in shown


def test_what_a_killed_bridge_recorded_is_there_while_the_next_one_runs(make_bridge: MakeBridge) -> None:
    live = make_bridge("")
    live.wait_for_link()
    first = live.status()["run_id"]
    kill_process(live.supervisor())
    for record in live.run.processes().values():
        kill_process(record)
    up = live.up()
    live.wait_for_link()

    assert f"what it recorded is kept: ntbnet trace blackbox --last --name {live.name}" in up.stderr
    box, now = box_of(live, "--last"), box_of(live)
    written = json.loads(
        trace(live, "export", "-o", str(live.folder / "x.pcapng"), "--last", "--json").stdout
    )

    assert first.startswith(box["run_id"])
    assert live.status()["run_id"].startswith(now["run_id"])
    assert "running" not in {one["state"] for one in box["processes"]}
    assert any("path to rc-host up" in one["text"] for one in box["records"])
    assert written["records"]
    folders = (live.run.trace_folder.parent, live.run.last_trace_folder.parent)
    assert all(folder.is_dir() for folder in folders)
    live.down()
    assert not any(folder.exists() for folder in folders)
    assert "left no trace" in trace(live, "blackbox", "--last", code=1).stderr


def box_of(live: LiveBridge, *words: str) -> dict[str, Any]:
    box: dict[str, Any] = json.loads(trace(live, "blackbox", "--json", "--seconds", "60", *words).stdout)
    return box


def test_without_a_flight_recorder_nothing_is_recorded(make_bridge: MakeBridge) -> None:
    live = make_bridge("trace.records = 0\n")
    live.wait_for_link()

    assert list(live.run.trace_folder.iterdir()) == []
    assert "left no trace" in trace(live, "blackbox", code=1).stderr


def test_down_leaves_no_ring_behind(make_bridge: MakeBridge) -> None:
    live = make_bridge("")
    folder = live.run.trace_folder
    assert any(folder.iterdir())

    live.down()

    assert not folder.parent.exists()
