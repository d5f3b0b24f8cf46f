"""Traces of a real bridge, as files that tshark and Perfetto's schema read back; in both fabrics."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from ntbnet.trace_records import Kind
from tests.conftest import MakeBridge
from tests.live.bridge import LiveBridge, cli
from tests.perfetto_flows import parse
from tests.tshark import rows

pytestmark = [pytest.mark.system, pytest.mark.needs_tun]

PINGS = 5
ECHO_BYTES = 28
"""Of a request or reply: an IPv4 header and an ICMP header."""
NODES = ("rc", "ep")


@dataclass
class Traced:
    bridge: LiveBridge
    fabric: str
    folder: Path
    sent: int
    """Packets that both nodes' stacks gave to the bridge while it was traced."""

    def export(self, name: str, *words: str) -> Path:
        path = self.folder / name
        done = cli("trace", "export", "--name", self.bridge.name, "-o", str(path), *words)
        assert done.returncode == 0, done.stderr
        return path


def packets_sent(bridge: LiveBridge) -> int:
    counter = "/sys/class/net/ntb0/statistics/tx_packets"
    return sum(int(bridge.run_inside(node, "cat", counter).stdout) for node in NODES)


@pytest.fixture(scope="module", params=["local", "message"])
def traced(
    request: pytest.FixtureRequest, make_module_bridge: MakeBridge, tmp_path_factory: pytest.TempPathFactory
) -> Traced:
    bridge = make_module_bridge(f'[bridge]\nfabric = "{request.param}"\n')
    for node in NODES:
        # without IPv6 the stacks send nothing of their own
        quiet = bridge.run_inside(node, "sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/ntb0/disable_ipv6")
        assert quiet.returncode == 0, quiet.stderr
    assert bridge.pings()
    before = packets_sent(bridge)
    assert cli("trace", "start", "--name", bridge.name).returncode == 0
    assert bridge.pings(count=PINGS)
    assert cli("trace", "stop", "--name", bridge.name).returncode == 0
    sent = packets_sent(bridge) - before
    return Traced(bridge, request.param, tmp_path_factory.mktemp("trace"), sent)


def test_perfetto_has_as_many_flows_as_packets_were_sent(traced: Traced) -> None:
    path = traced.export("trace.perfetto-trace", "--json")

    flows = parse(path.read_bytes()).frame_flows()

    assert len(flows) == traced.sent == 2 * PINGS
    for steps in flows.values():
        names = [step.name for step in steps]
        assert (names[0], names[-1], names.count("ring write")) == ("TUN read", "TUN write", 1)
        assert steps[0].notes["bytes"] == steps[-1].notes["bytes"] == ECHO_BYTES


def test_perfetto_shows_processes_handlers_and_rings(traced: Traced) -> None:
    trace = parse(traced.export("shown.perfetto-trace").read_bytes())

    processes = {track.name for track in trace.tracks.values() if track.pid and not track.parent}
    assert processes == {"rc: rc-host", "rc: peer-rc", "ep: epc", "ep: edma", "ep: peer-ep"}
    assert trace.on("peer-ep handlers")
    assert trace.counter("queue 0, frames in the ring")
    assert len(trace.on("rc to ep, queue 0")) == len(trace.on("ep to rc, queue 0")) == PINGS


def test_json_report_counts_the_flows(traced: Traced) -> None:
    path = traced.folder / "counted.perfetto-trace"
    done = cli("trace", "export", "--name", traced.bridge.name, "-o", str(path), "--json")

    report = json.loads(done.stdout)

    assert report["flows"] == {"begun": traced.sent, "ended": traced.sent}
    assert report["bytes"] == path.stat().st_size
    assert (report["overwritten"], report["torn"], report["complaints"]) == (0, 0, [])


def test_tshark_shows_each_packet_on_both_nodes(traced: Traced) -> None:
    path = traced.export("trace.pcapng")

    fields = ("ip.src", "icmp.type", "icmp.seq", "frame.interface_name", "ntbnet.flow")
    found = rows(path, *fields, where="icmp")

    seen = [(row["icmp.type"], row["icmp.seq"], row["frame.interface_name"]) for row in found]
    assert len(seen) == len(set(seen)) == 4 * PINGS
    flows = {(row["icmp.type"], row["icmp.seq"]): row["ntbnet.flow"] for row in found}
    assert all(row["ntbnet.flow"] == flows[row["icmp.type"], row["icmp.seq"]] for row in found)


@pytest.mark.covers("EDMA 104", "EDMA 126")
def test_tshark_follows_the_interrupt_from_the_store_to_the_handler(traced: Traced) -> None:
    """RC write to BAR2+0xF00A0, translated, RD_INT_STATUS, line, handler."""
    path = traced.export("chain.pcapng")
    links = ("frame.number", "ntbnet.kind", "ntbnet.flow_next", "ntbnet.effect", "ntbnet.service")
    what = ("ntbnet.bar", "ntbnet.bar_offset", "ntbnet.reg", "ntbnet.translated")
    found = {
        row["frame.number"]: row for row in rows(path, *links, *what, where="ntbnet.kind", two_passes=True)
    }
    begins = [
        row
        for row in found.values()
        if (row["ntbnet.kind"], row["ntbnet.service"], row["ntbnet.bar_offset"])
        == ("32", "4", "0x00000000000f00a0")
    ]
    assert begins

    for row in begins:
        chain = [row]
        while (at := chain[-1]["ntbnet.effect"] or chain[-1]["ntbnet.flow_next"]) != "":
            chain.append(found[at])
        kinds = [Kind(int(one["ntbnet.kind"])) for one in chain]
        stores = len(kinds) - 4
        assert kinds == [Kind.MEM_WRITE] * stores + [Kind.REG_WRITE, Kind.LINE, Kind.LINE, Kind.SLICE]
        assert {one["ntbnet.reg"] for one in chain[: stores + 1]} == {"RD_INT_STATUS"}
        assert any(one["ntbnet.translated"] == "0x00000000e65d50a0" for one in chain[:stores])
        assert (row["ntbnet.bar"], chain[-1]["ntbnet.service"]) == ("2", "5")


def test_only_the_last_seconds_are_exported_when_asked(traced: Traced) -> None:
    path = traced.folder / "last.pcapng"
    words = ("--name", traced.bridge.name, "-o", str(path), "--json")

    whole, last = (
        json.loads(cli("trace", "export", *words, *more).stdout) for more in ((), ("--seconds", "0.5"))
    )

    assert last["records"] < whole["records"]
    assert last["seconds"] <= 0.5 < whole["seconds"]


def test_rings_of_a_bridge_that_is_gone_are_exported_from_a_folder(traced: Traced, tmp_path: Path) -> None:
    folder = tmp_path / "rings"
    folder.mkdir()
    for ring in traced.bridge.run.trace_folder.glob("*.full"):
        (folder / ring.name).write_bytes(ring.read_bytes())

    done = cli(
        "trace", "export", str(folder), "-o", str(tmp_path / "x.pftrace"), "--json", "--name", "no-such"
    )

    assert json.loads(done.stdout)["flows"] == {"begun": traced.sent, "ended": traced.sent}
