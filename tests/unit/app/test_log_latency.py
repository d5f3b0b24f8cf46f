"""Durations of hops, from stamps of trace rings."""

from __future__ import annotations

import json
from math import ceil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from ntbnet.app import log_latency
from ntbnet.app.log_latency import HopLatencies, Spread
from ntbnet.app.logs_cli import app
from ntbnet.edge.rundir import RunDir
from ntbnet.trace_records import (
    SERVICES,
    Entry,
    Flag,
    Handler,
    Kind,
    Level,
    Record,
    RingHeader,
    frame_flow,
    message_flow,
    pack_header,
    pack_record,
)

PEER_RC, PEER_EP = SERVICES.index("peer-rc"), SERVICES.index("peer-ep")
EPC = SERVICES.index("epc")


def header(service: int, capacity: int = 64) -> RingHeader:
    return RingHeader(Level.FULL, service, capacity, 7, 1, 0, 0, "r1")


def frame(start_ns: int, ver: int, node: int = 0) -> list[Entry]:
    """A frame that takes 10 us to the ring and 30 us from there."""
    sender, receiver = (PEER_RC, PEER_EP) if node == 0 else (PEER_EP, PEER_RC)
    flow = frame_flow(node, 0, 1, ver)
    return [
        Entry(header(sender), Record(start_ns, Kind.TUN_READ, flow=flow)),
        Entry(header(sender), Record(start_ns + 10_000, Kind.RING_WRITE, flow=flow)),
        Entry(header(receiver), Record(start_ns + 40_000, Kind.TUN_WRITE, flow=flow)),
    ]


def found(*entries: Entry) -> dict[tuple[str, str], Spread]:
    latencies = HopLatencies()
    latencies.add_all(entries)
    return {(hop.sort, hop.name): hop.spread for hop in latencies.hops()}


def test_frame_is_timed_end_to_end_and_at_the_ring() -> None:
    hops = found(*frame(1000, 0), *frame(90_000, 1), *frame(200_000, 0, node=1))

    assert hops["end to end", "rc->ep"].count == 2
    assert hops["end to end", "rc->ep"].most_ns == 40_000
    assert hops["frame", "rc->ep TUN read to ring"].most_ns == 10_000
    assert hops["frame", "rc->ep ring to TUN write"].least_ns == 30_000
    assert hops["end to end", "ep->rc"].count == 1


def test_frame_whose_begin_is_lost_or_that_was_dropped_counts_for_no_hop() -> None:
    lost_begin, dropped = frame(1000, 0)[1:], frame(90_000, 1)[:1]

    assert found(*lost_begin, *dropped) == {}


def test_id_that_comes_again_is_a_new_frame() -> None:
    hops = found(*frame(1000, 0)[:2], *frame(500_000, 0))

    assert hops["end to end", "rc->ep"].most_ns == 40_000


def test_message_is_timed_from_who_sends_it_to_whom_it_comes_to() -> None:
    flow = message_flow(PEER_RC, EPC, 3, 9)
    sent = Entry(header(PEER_RC), Record(5_000, Kind.MEM_WRITE, flags=Flag.SENT, flow=flow))
    came = Entry(header(EPC), Record(25_000, Kind.MEM_WRITE, flow=flow))

    hops = found(sent, came, came)

    assert {key: spread.count for key, spread in hops.items()} == {("message", "peer-rc to epc"): 1}
    assert hops["message", "peer-rc to epc"].most_ns == 20_000


def test_handlers_are_told_by_service() -> None:
    slice_ = Record(5_000, Kind.SLICE, slot=Handler.TUN, amount=1500)

    hops = found(Entry(header(PEER_RC), slice_), Entry(header(EPC), slice_._replace(slot=77)))

    assert hops["handler", "peer-rc tun"].most_ns == 1500
    assert ("handler", "epc handler") in hops


def test_any_number_of_flows_takes_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_latency, "MAX_OPEN", 10)
    latencies = HopLatencies()

    latencies.add_all(frame(ver * 1000, ver)[0] for ver in range(1000))

    assert len(latencies._frames) == 10


@given(st.lists(st.integers(0, 10**11), min_size=1, max_size=200), st.floats(0.01, 1))
def test_quantile_is_within_two_percent_of_the_exact_one(times: list[int], share: float) -> None:
    spread = Spread()
    for time_ns in times:
        spread.add(time_ns)

    exact = sorted(times)[ceil(share * len(times)) - 1]

    assert exact * 0.98 - 1 <= spread.quantile_ns(share) <= exact * 1.02 + 1


def test_command_reads_the_rings_of_a_folder_or_of_a_bridge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rings: dict[int, list[Record]] = {}
    for entry in [*frame(1000, 0), *frame(90_000, 1)]:
        records = rings.setdefault(entry.ring.service, [])
        records.append(entry.record._replace(number=len(records) + 1))
    for service, records in rings.items():
        head = header(service)
        body = b"".join(map(pack_record, records)).ljust(head.size_bytes - 256, b"\0")
        (tmp_path / f"{SERVICES[service]}.1.full").write_bytes(pack_header(head) + body)
    monkeypatch.setattr(RunDir, "trace_folder", property(lambda run: tmp_path if run.name == "lab" else None))

    for words in ([str(tmp_path)], ["--name", "lab"]):
        done = CliRunner().invoke(app, ["latency", "--json", *words])
        assert done.exit_code == 0
        body_found = json.loads(done.stdout)["end to end"]["rc->ep"]
        assert (body_found["count"], body_found["min_us"], body_found["max_us"]) == (2, 40.0, 40.0)
    shown = CliRunner().invoke(app, ["latency", str(tmp_path)]).stdout
    assert "rc->ep ring to TUN write" in shown


def test_without_stamps_the_way_out_is_told(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["latency", str(tmp_path)])

    assert done.exit_code == 1
    assert "ntbnet trace start" in done.stderr
