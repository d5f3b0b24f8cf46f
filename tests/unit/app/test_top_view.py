from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntbnet.app import top_text
from ntbnet.app.top_latency import Latencies
from ntbnet.app.top_snapshot import TAIL_BYTES, Snapshot, last_events
from ntbnet.app.top_view import Direction, ServiceRow, view_of
from ntbnet.edge.process import Usage
from ntbnet.edge.rundir import RunDir
from ntbnet.edge.trace_ring import TraceRing
from ntbnet.trace_records import Kind, Level, Result
from tests.live.bridge import new_name
from tests.unit.app.top_snapshots import event, gone, snapshot, status, under_load


def row(view: Any, name: str) -> ServiceRow:
    found: ServiceRow = next(row for row in view.services if row.name == name)
    return found


def direction(view: Any, sender: str) -> Direction:
    found: Direction = next(row for row in view.directions if row.sender == sender)
    return found


def test_rates_are_of_the_time_between_two_looks() -> None:
    view = view_of(snapshot(), under_load(2))

    to_ep, to_rc = direction(view, "rc"), direction(view, "ep")
    assert (to_ep.frames_per_s, to_ep.bits_per_s, to_ep.ring_full_per_s) == (1500, 18e6, 5)
    assert (to_rc.frames_per_s, to_rc.bits_per_s) == (10, 8000)
    assert (to_ep.ring_used, to_ep.ring_entries, to_ep.errors) == (4, 13, 1)
    rates = {row.node: row.rates for row in view.interrupts}
    assert rates["ep"] == {"dw-edma-testirq": 120, "msi": 0, "doorbell": 0}
    assert rates["rc"] == {"msi": 10}
    assert row(view, "epc").cpu_percent == pytest.approx(2)
    assert view.interval_s == 2


def test_first_look_has_no_rates() -> None:
    view = view_of(None, under_load())

    assert view.interval_s is None
    assert {row.cpu_percent for row in view.services} == {None}
    assert {rate for row in view.interrupts for rate in row.rates.values()} == {None}
    assert direction(view, "rc").bits_per_s is None
    assert direction(view, "rc").ring_used == 4


def test_look_at_another_run_has_no_rates() -> None:
    other = copy.deepcopy(status())
    other["run_id"] = "another"

    assert view_of(snapshot(), snapshot(1, status=other)).interval_s is None


def test_count_that_began_anew_is_a_rate_of_what_it_counted_since() -> None:
    after = snapshot(4, status=copy.deepcopy(status()))
    after.status["link"]["queues"][0]["rc"]["tx_pkts"] = 100

    assert direction(view_of(under_load(2), after), "rc").frames_per_s == 50


def test_process_that_was_replaced_has_no_cpu_rate_yet() -> None:
    after = under_load()
    after.status["services"][1]["pid"] = 9999

    assert row(view_of(snapshot(), after), "epc").cpu_percent is None


def test_stopped_process_is_shown_as_stopped() -> None:
    after = snapshot(1)
    stopped = Snapshot(
        after.taken_ns, after.status, {**after.usage, "edma": Usage(1, 1, 1, is_stopped=True)}, after.events
    )

    assert row(view_of(snapshot(), stopped), "edma").state == "stopped"


def test_services_of_the_other_machine_are_elsewhere() -> None:
    apart = copy.deepcopy(status())
    apart["services"] = [service for service in apart["services"] if service["node"] == "rc"]
    apart["machine"].update(nodes=["rc"], peer="203.0.113.9")
    apart["link"]["queues"][0]["ep"] = {}

    view = view_of(None, snapshot(status=apart))

    assert {name: row(view, name).state for name in ("epc", "peer-rc")} == {
        "epc": "elsewhere",
        "peer-rc": "up",
    }
    assert direction(view, "ep").ring_used is None
    assert "other node at 203.0.113.9" in top_text.headline(view, is_paused=False).plain


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, ""),
        ({"link": {"wanted": {"rc": True, "ep": False}}}, "the link is down by command of ep; l, or ntbnet"),
        ({"link": {"state": "down"}}, "waiting for the link"),
        ({"machine": {"refusals": ["epc, from rc: unknown key"]}}, "refused: epc, from rc: unknown key"),
        ({"state": "down"}, "nothing runs under this name; start it: ntbnet up --name lab --detach"),
    ],
)
def test_what_to_do_is_said(change: dict[str, Any], said: str) -> None:
    changed = copy.deepcopy(status())
    for key, value in change.items():
        changed[key] = {**changed[key], **value} if isinstance(value, dict) else value

    advice = view_of(None, snapshot(status=changed)).advice

    assert advice.startswith(said)
    assert bool(advice) == bool(said)


def test_silent_service_is_named() -> None:
    changed = copy.deepcopy(status())
    changed["services"][2]["state"] = "silent"

    assert view_of(None, snapshot(status=changed)).advice.startswith("no answer from edma")


def test_view_is_json() -> None:
    view = view_of(snapshot(), under_load())

    assert json.loads(json.dumps(dataclasses.asdict(view)))["directions"][0]["bits_per_s"] == 18e6


@given(st.integers(0, 10**12), st.integers(0, 10**12))
def test_rate_is_never_negative(old: int, new: int) -> None:
    before, after = snapshot(), snapshot(1, status=copy.deepcopy(status()))
    before.status["link"]["queues"][0]["rc"]["tx_bytes"] = old
    after.status["link"]["queues"][0]["rc"]["tx_bytes"] = new

    bits = direction(view_of(before, after), "rc").bits_per_s

    assert bits is not None
    assert bits >= 0


# texts


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0, "0"), (3.04, "3.0"), (999.4, "999"), (999.9, "1.00 k"), (18e6, "18.0 M")],
)
def test_amount_has_three_digits(value: float | None, text: str) -> None:
    assert top_text.amount(value) == text


@pytest.mark.parametrize("make", [under_load, gone])
def test_everything_fits_eighty_columns_but_events(make: Any) -> None:
    view = view_of(snapshot(), make())
    lines = [
        *top_text.picture(view),
        *top_text.services(view.services, "epc"),
        *top_text.directions(view.directions),
        *top_text.interrupts(view.interrupts),
        *top_text.latencies(view.latencies, is_traced=False),
    ]

    assert max(line.cell_len for line in lines) <= 80


def test_names_in_the_picture_stand_above_their_states() -> None:
    changed = copy.deepcopy(status())
    states_of = ("silent", "stopped", "down", "up", "silent")
    for service, state in zip(changed["services"], states_of, strict=True):
        service["state"] = state
    lines = top_text.picture(view_of(None, snapshot(status=changed)))
    _, names, states, spur = (line.plain for line in lines)

    for name, state in {"rc-host": "silent", "epc": "stopped", "peer-rc": "up", "peer-ep": "silent"}.items():
        assert abs(states.index(state, names.index(name) - 1) - names.index(name)) <= 1, (names, states)
    assert "edma: down" in spur


def test_log_steers_no_terminal() -> None:
    evil = "\x1b[2J\nx"

    (line,) = top_text.events([event(1, evil, name=evil, reason=evil, **{evil: evil})], 5)

    assert line.plain.isascii()
    assert line.plain.isprintable()
    assert line.plain.endswith(r'reason="\u001b[2J\nx" "\u001b[2J\nx"="\u001b[2J\nx"')


def test_log_that_was_set_aside_is_not_opened(tmp_path: Path) -> None:
    for name, second in (("epc.jsonl", 2), ("epc.1.jsonl", 1)):
        (tmp_path / name).write_text(json.dumps(event(second, "epc")) + "\n", encoding="utf-8")

    found = last_events(sorted(tmp_path.iterdir()), 5)

    assert [line["mono_ns"] for line in found] == [event(2, "epc")["mono_ns"]]


def test_ring_with_one_frame_is_not_shown_as_empty() -> None:
    view = view_of(None, under_load())

    assert "███░" not in top_text.directions([direction(view, "ep")])[1].plain
    assert "████░░░░░░ 4/13" in top_text.directions([direction(view, "rc")])[1].plain


# logs


def test_newest_events_of_all_logs_come_in_order_of_time(tmp_path: Path) -> None:
    for service, seconds in (("epc", (1, 4)), ("edma", (2, 3))):
        lines = [json.dumps(event(second, service)) for second in seconds]
        (tmp_path / f"{service}.jsonl").write_text("\n".join([*lines, '{"event":"torn']), encoding="utf-8")

    found = last_events([*sorted(tmp_path.iterdir()), tmp_path / "none.jsonl"], 3)

    assert [line["service"] for line in found] == ["edma", "edma", "epc"]


def test_long_log_is_read_at_its_end(tmp_path: Path) -> None:
    path = tmp_path / "epc.jsonl"
    lines = [json.dumps(event(number, name=f"a.b{number}")) for number in range(TAIL_BYTES // 100)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")

    found = last_events([path], 10**6)

    assert found[-1]["event"] == f"a.b{len(lines) - 1}"
    assert 10 < len(found) < len(lines)


# latencies


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunDir]:
    """The run folder of a bridge that is traced."""
    run = RunDir(tmp_path, new_name())
    run.create()
    run.want_trace(64)
    yield run
    run.remove()


def ring(run: RunDir, service: str, incarnation: int = 1) -> TraceRing:
    return TraceRing(run.trace_folder, service, incarnation, Level.FULL, 64, "abc")


def test_latency_is_from_one_stack_to_the_other(run: RunDir) -> None:
    rc, ep, latencies = ring(run, "peer-rc"), ring(run, "peer-ep"), Latencies(run)
    rc.note(Kind.TUN_READ, flow=1, mono_ns=1000)
    ep.note(Kind.TUN_READ, flow=2, mono_ns=1500)
    rc.note(Kind.TUN_WRITE, flow=2, mono_ns=1900)
    ep.note(Kind.TUN_WRITE, flow=1, mono_ns=1250)
    ep.note(Kind.TUN_WRITE, flow=3, mono_ns=1300)
    rc.note(Kind.RING_WRITE, flow=3, mono_ns=1200)

    assert latencies.look() == {"rc": (250,), "ep": (400,)}


def test_packet_that_is_under_way_at_one_look_is_taken_at_the_next_and_once(run: RunDir) -> None:
    rc, ep, latencies = ring(run, "peer-rc"), ring(run, "peer-ep"), Latencies(run)
    rc.note(Kind.TUN_READ, flow=1, mono_ns=1000)
    assert latencies.look() == {}

    ep.note(Kind.TUN_WRITE, flow=1, mono_ns=1100)

    assert latencies.look() == {"rc": (100,)}
    assert latencies.look() == {"rc": (100,)}


def test_packet_that_the_stack_did_not_take_is_no_sample(run: RunDir) -> None:
    rc, ep = ring(run, "peer-rc"), ring(run, "peer-ep")
    rc.note(Kind.TUN_READ, flow=1, mono_ns=1000)
    ep.note(Kind.TUN_WRITE, flow=1, mono_ns=1100, result=Result.DROPPED)

    assert Latencies(run).look() == {}


def test_samples_are_forgotten_when_the_trace_ends(run: RunDir) -> None:
    rc, ep, latencies = ring(run, "peer-rc"), ring(run, "peer-ep"), Latencies(run)
    rc.note(Kind.TUN_READ, flow=1, mono_ns=1000)
    ep.note(Kind.TUN_WRITE, flow=1, mono_ns=1100)
    assert latencies.look()

    run.want_trace(None)

    assert latencies.look() == {}


def test_percentiles_are_of_the_samples() -> None:
    taken = {"rc": tuple(range(1000, 101_000, 1000))}

    (found,) = view_of(None, snapshot(latencies_ns=taken)).latencies

    assert (found.sender, found.receiver, found.samples) == ("rc", "ep", 100)
    assert (found.p50_us, found.p99_us, found.most_us) == (51, 100, 100)
