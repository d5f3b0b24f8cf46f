"""The checker catches each violation, and leaves healthy histories alone."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntbnet.app.chaos_checker import check
from ntbnet.app.chaos_history import (
    CHANGES,
    FaultRecord,
    Kind,
    LoggedError,
    LoggedEvent,
    Observed,
    Record,
    Sample,
)
from ntbnet.app.chaos_judgement import Judgement
from ntbnet.app.chaos_run import judge
from tests.unit.app.chaos_histories import MS, SIZE, Made, counters, delayed, kill, scenario, strike


def judged(made: Made, **bounds: object) -> Judgement:
    return check(made.history(), scenario(**bounds))


def test_healthy_history_is_ok() -> None:
    made = Made()

    found = judged(made)

    assert (found.verdict, found.problems) == ("ok", [])
    assert found.tcp_ok is True
    assert found.lost == 4 * 30
    assert found.sent == found.delivered + found.lost
    assert found.as_json()["faults"] == 1


def test_recovery_is_from_the_kill_to_the_end_of_the_outage_by_service() -> None:
    found = judged(Made(), recovery_p50_ms=155)

    figures = found.recovery_ms()

    assert found.verdict == "ok"
    assert 150 <= figures["p50"] == figures["max"] == figures["by_service"]["epc"]["p99"] <= 155


def test_an_outage_that_comes_late_counts() -> None:
    """A killed service may take the link down only when it is back."""
    made = Made(outages=[(800.0, 900.0)])

    assert 400 <= judged(made).recovery_ms()["max"] <= 405


@pytest.mark.parametrize("event", sorted(CHANGES))
def test_a_pause_in_which_the_bridge_changed_is_part_of_a_recovery(event: str) -> None:
    """Packets may wait for a service, for its interrupts, and none is lost; whoever waits for a CPU."""
    observed = Observed(events=(LoggedEvent("peer-ep", event, 850 * MS, "", ""),))
    paused = delayed(Made(outages=[(500.0, 600.0)], observed=observed), 800, 900)

    assert judged(paused).recovery_ms()["max"] == 400


def test_a_pause_that_nobody_waited_through_is_part_of_a_recovery() -> None:
    """A frame may be stranded, and found by the next look."""
    paused = delayed(Made(outages=[(500.0, 600.0)]), 800, 900)

    assert judged(paused).recovery_ms()["max"] == 400


@pytest.mark.parametrize(("event_ms", "wanted_ms"), [(None, 105), (795, 105), (835, 360)])
def test_no_silence_begins_while_the_sending_program_does_not_run(
    event_ms: int | None, wanted_ms: float
) -> None:
    """The machine stood still, and whoever measures with it; a silence that begins behind that counts."""
    events = () if event_ms is None else (LoggedEvent("epc", "path.changed", event_ms * MS, "", ""),)
    made = Made(outages=[(500.0, 600.0)], observed=Observed(events=events))
    made.records = [one for one in made.records if not 700 * MS < one.time_ns < 790 * MS]
    if event_ms == 835:
        made = delayed(made, 771, 860)

    assert judged(made).recovery_ms()["max"] == pytest.approx(wanted_ms, abs=5)


def test_the_wait_for_the_first_packet_is_a_recovery_although_none_is_lost() -> None:
    assert judged(delayed(Made(outages=[]), 500, 620)).recovery_ms()["max"] == 120


@pytest.mark.parametrize(
    ("event", "wanted_ms"),
    [("netdev.carrier_changed", 140), ("link.changed", 140), ("path.changed", 5), (None, 5)],
)
def test_a_short_outage_counts_when_the_link_was_lost_in_it(event: str | None, wanted_ms: float) -> None:
    """Packets went on until the replacement came; a new link takes less than what is an outage by itself."""
    events = () if event is None else (LoggedEvent("peer-ep", event, 600 * MS, "", ""),)
    made = Made(outages=[(590.0, 640.0)], observed=Observed(events=events))

    assert judged(made).recovery_ms()["max"] == pytest.approx(wanted_ms, abs=6)


def test_each_of_two_faults_has_its_own_outage() -> None:
    made = Made(outages=[(500.0, 600.0), (900.0, 1100.0)], faults=[kill(500), kill(900, "edma", 1)])

    services = judged(made).recovery_ms()["by_service"]

    assert 100 <= services["epc"]["max"] <= 105
    assert 200 <= services["edma"]["max"] <= 205


@pytest.mark.parametrize("bounds", [{"recovery_max_ms": 149}, {"recovery_p50_ms": 149}])
def test_slow_recovery_fails(bounds: dict[str, int]) -> None:
    found = judged(Made(), **bounds)

    assert found.verdict == "failed"
    assert "recovery" in found.problems[0]


def test_traffic_that_never_comes_back_fails() -> None:
    found = judged(Made(outages=[(500.0, 1e9)]))

    assert found.verdict == "failed"
    assert "no packet crossed after fault 0 (kill of epc)" in found.problems[0]


def test_one_way_that_never_comes_back_fails() -> None:
    made = Made()
    made.records = [
        one for one in made.records if not (one.kind == Kind.RECEIVED and one.way and one.time_ns > 500 * MS)
    ]

    assert judged(made).verdict == "failed"


def test_changed_bytes_fail() -> None:
    made = Made()
    at = made.at(Kind.RECEIVED, 100)
    made.records[at] = replace_kind(made.records[at], Kind.DAMAGED)

    found = judged(made)

    assert (found.verdict, found.damaged) == ("failed", 1)


@pytest.mark.parametrize("change", [{"size": SIZE + 1}, {"extra": 12345}, {"sequence": 9999}])
def test_a_datagram_that_nobody_sent_fails(change: dict[str, int]) -> None:
    made = Made()
    at = made.at(Kind.RECEIVED, 100)
    made.records[at] = made.records[at]._replace(**change)

    assert judged(made).damaged == 1


def test_a_datagram_that_comes_twice_fails() -> None:
    made = Made()
    at = made.at(Kind.RECEIVED, 100)
    made.records.insert(at + 30, made.records[at])

    found = judged(made)

    assert (found.verdict, found.duplicated) == ("failed", 1)


def test_a_datagram_from_before_the_fault_that_comes_again_after_it_fails() -> None:
    made = Made()
    old = made.records[made.at(Kind.RECEIVED, 490)]
    made.records.insert(made.at(Kind.RECEIVED, 660), old._replace(time_ns=660 * MS))

    assert judged(made).duplicated == 1


def test_two_datagrams_of_a_flow_in_the_wrong_order_fail() -> None:
    made = Made()
    one, other = made.at(Kind.RECEIVED, 100), made.at(Kind.RECEIVED, 106)
    made.records.insert(other, made.records.pop(one))

    found = judged(made)

    assert (found.verdict, found.misordered) == ("failed", 1)


def test_flows_may_overtake_each_other() -> None:
    made = Made()
    at = made.at(Kind.RECEIVED, 100, flow=0)
    late = made.records.pop(at)
    made.records.insert(made.at(Kind.RECEIVED, 100, flow=1) + 1, late)

    assert judged(made).verdict == "ok"


def test_loss_far_from_any_fault_fails() -> None:
    made = Made()
    del made.records[made.at(Kind.RECEIVED, 1500)]

    found = judged(made)

    assert found.verdict == "failed"
    assert "no fault was near" in found.problems[0]


def test_loss_just_before_a_fault_is_what_was_on_its_way() -> None:
    made = Made(outages=[(480.0, 650.0)])

    assert judged(made).verdict == "ok"


def test_loss_before_a_fault_that_a_later_datagram_overtook_fails() -> None:
    made = Made()
    del made.records[made.at(Kind.RECEIVED, 460)]

    found = judged(made)

    assert found.verdict == "failed"
    assert "a later one had arrived before the fault" in found.problems[0]


def test_loss_after_the_recovery_and_the_time_to_settle_fails() -> None:
    made = Made()
    del made.records[made.at(Kind.RECEIVED, 920)]

    assert judged(made).verdict == "failed"
    assert judged(made, settle_ms=400).verdict == "ok"


def test_no_loss_is_allowed_where_the_scenario_says_none() -> None:
    assert judged(Made(), loss="none").verdict == "failed"
    assert judged(Made(outages=[]), loss="none").verdict == "ok"


def test_losses_beyond_what_was_injected_fail() -> None:
    rules = FaultRecord(0, "rules", (), 100 * MS, 1900 * MS)
    events = tuple(strike(at_ms, "drop-frame") for at_ms in (300, 400))
    made = Made(outages=[], faults=[rules], observed=Observed(injected={"drop-frame": 1}, events=events))
    del made.records[made.at(Kind.RECEIVED, 300)]
    assert judged(made, loss="injected").verdict == "ok"

    del made.records[made.at(Kind.RECEIVED, 400)]

    assert judged(made, loss="injected").verdict == "failed"


def test_a_stranded_flow_fails_though_others_go_on() -> None:
    made = Made()
    made.records = [
        one
        for one in made.records
        if not (one.kind == Kind.RECEIVED and (one.way, one.flow) == (1, 1) and one.time_ns > 700 * MS)
    ]

    found = judged(made)

    assert "stranded: flow 1 ep->rc delivers nothing after the last fault" in found.problems


def test_a_late_datagram_fails_where_the_scenario_bounds_delays() -> None:
    made = Made(length_ms=3000)
    at = max(i for i, one in enumerate(made.records) if one.kind == Kind.RECEIVED and not one.way)
    made.records[at] = made.records[at]._replace(time_ns=made.records[at].time_ns + 200 * MS)

    found = judged(made, delay_ms=150, outage_ms=300)

    assert found.problems == ["delay: datagram 599 of flow 1 rc->ep took 201 ms, allowed 150 ms"]
    assert judged(made, delay_ms=250, outage_ms=300).verdict == "ok"


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (Kind.TCP_RECEIVED_END, {"extra": 78}),
        (Kind.TCP_RECEIVED_END, {"sequence": 5}),
        (Kind.TCP_RECEIVED_END, {"kind": Kind.TCP_BROKEN}),
        (Kind.TCP_SENT_END, {"kind": Kind.TCP_SENT}),
    ],
)
def test_a_tcp_stream_that_is_not_whole_fails(kind: Kind, change: dict[str, int]) -> None:
    made = Made()
    at = made.at(kind, 0, way=1)
    made.records[at] = made.records[at]._replace(**change)

    found = judged(made)

    assert (found.verdict, found.tcp_ok) == ("failed", False)


def test_counters_that_agree_are_no_problem() -> None:
    made = Made()
    made.observed = Observed(nodes=(counters(made, "rc"), counters(made, "ep")))

    assert judged(made).problems == []


@pytest.mark.parametrize(
    ("part", "key", "by"),
    [
        ("udp", "InDatagrams", 1),
        ("udp", "OutDatagrams", -1),
        ("udp", "InCsumErrors", 1),
        ("interface", "rx_packets", -11),
        ("netdev", "rx_packets", 1),
    ],
)
def test_counters_that_contradict_the_history_fail(part: str, key: str, by: int) -> None:
    made = Made()
    good = counters(made, "ep")
    changed: Any = {part: {**getattr(good, part), key: getattr(good, part)[key] + by}}
    bad = replace(good, **changed)
    made.observed = Observed(nodes=(bad,))

    assert judged(made).verdict == "failed"


def test_a_workload_that_loses_what_reached_it_makes_the_run_unknown() -> None:
    made = Made()
    good = counters(made, "ep")
    made.observed = Observed(nodes=(replace(good, udp={**good.udp, "RcvbufErrors": 3}),))

    assert judged(made).verdict == "unknown"


@pytest.mark.parametrize(
    ("kind", "time_ms", "injected", "verdict"),
    [
        ("unlink", 1500, False, "failed"),
        ("unlink", 1500, True, "ok"),
        ("unlink", 600, False, "ok"),
        ("unlink", None, False, "failed"),
        ("kill", 600, False, "failed"),
        ("kill", 600, True, "ok"),
    ],
)
def test_error_events_fail_but_injected_or_in_a_fault_that_is_more_than_a_death(
    kind: str, time_ms: int | None, injected: bool, verdict: str
) -> None:
    time_ns = None if time_ms is None else time_ms * MS
    error = LoggedError("epc", "service.failed", time_ns, injected, "it broke")

    made = Made(observed=Observed(errors=(error,)))
    made.faults = [replace(fault, kind=kind) for fault in made.faults]

    assert judged(made).verdict == verdict


def test_what_is_left_on_the_machine_is_a_leak() -> None:
    found = judged(Made(observed=Observed(leaks=("memory /dev/shm/x",))))

    assert (found.verdict, found.leaks) == ("failed", 1)


@pytest.mark.parametrize(("private_kib", "descriptors"), [(6000, 20), (1000, 40)])
def test_growth_of_a_process_is_a_leak(private_kib: int, descriptors: int) -> None:
    samples = (
        Sample(1, "epc", 10, 1000 << 10, 20),
        Sample(2, "epc", 10, 1000 << 10, 20),
        Sample(3, "epc", 10, private_kib << 10, descriptors),
    )

    assert judged(Made(observed=Observed(samples=samples))).leaks == 1


def test_a_restarted_process_may_be_larger_than_the_one_before() -> None:
    samples = (Sample(1, "epc", 10, 1 << 20, 20), Sample(2, "epc", 11, 30 << 20, 21))

    assert judged(Made(observed=Observed(samples=samples))).leaks == 0


@pytest.mark.parametrize(("growth_kib", "leaks"), [(100, 0), (2000, 1)])
def test_successors_that_grow_one_after_the_other_are_a_leak(growth_kib: int, leaks: int) -> None:
    samples = tuple(Sample(pid, "epc", pid, (8000 + pid * growth_kib) << 10, 20) for pid in range(8))

    assert judged(Made(observed=Observed(samples=samples))).leaks == leaks


@pytest.mark.parametrize(
    "observed", [Observed(gaps=("the nemesis failed",)), Observed(injected={"drop": 1})], ids=["gap", "few"]
)
def test_a_run_that_tests_nothing_is_unknown(observed: Observed) -> None:
    assert judged(Made(observed=observed), min_injected=2).verdict == "unknown"


def test_without_the_end_of_its_traffic_a_run_is_unknown() -> None:
    made = Made()
    made.records.pop()

    assert judged(made).verdict == "unknown"


def test_without_a_fault_a_run_is_unknown() -> None:
    assert judged(Made(outages=[], faults=[])).verdict == "unknown"


def test_damage_is_damage_however_little_of_the_run_there_is() -> None:
    made = Made(observed=Observed(gaps=("the nemesis failed",)))
    made.records.insert(0, Record(Kind.DAMAGED, 0, 0, 5, 0, 1, 0))

    assert judged(made).verdict == "failed"


def test_a_checker_that_fails_makes_the_run_unknown() -> None:
    made = Made()
    made.records[0] = made.records[0]._replace(way=None)  # type: ignore[arg-type]
    made.faults = [replace(kill(500), services=None)]  # type: ignore[arg-type]

    found = judge(made.history(), scenario())

    assert found.verdict == "unknown"
    assert "the checker failed" in found.problems[0]


def test_traffic_of_a_life_that_a_fault_ended_is_lost_without_blame() -> None:
    first, second = Made(length_ms=500, outages=[(400.0, 1e9)], faults=[]), Made(outages=[])
    first.records = [one for one in first.records if one.kind in {Kind.SENT, Kind.RECEIVED}]
    later = [one._replace(time_ns=one.time_ns + 1000 * MS) for one in second.records]
    later = [one._replace(extra=one.extra + 1000 * MS) if one.kind == Kind.RECEIVED else one for one in later]
    fault = FaultRecord(0, "supervisor", ("supervisor",), 400 * MS, 400 * MS, ends_life=True)
    history = replace(second.history(), lives=[first.records, later], faults=[fault])

    found = check(history, scenario())

    assert (found.verdict, found.problems) == ("ok", [])
    assert 600 <= found.recovery_ms()["by_service"]["supervisor"]["max"] <= 610


outages = st.tuples(st.integers(300, 1200), st.integers(1, 400)).map(lambda one: (one[0], one[0] + one[1]))


@given(outages, st.integers(0, 3))
def test_any_outage_that_a_kill_began_is_healthy(outage: tuple[int, int], early_ms: int) -> None:
    made = Made(outages=[(outage[0] - early_ms, outage[1])], faults=[kill(outage[0])])

    found = judged(made)

    assert found.problems == []
    took_ms = found.recovery_ms()["max"]
    assert took_ms is not None
    assert took_ms <= max(outage[1] - outage[0], 0) + 7


@given(st.randoms(use_true_random=False), st.sampled_from(["damaged", "duplicated", "misordered"]))
def test_one_wrong_arrival_anywhere_is_found(chance: random.Random, sort: str) -> None:
    made = Made(length_ms=800, outages=[(400.0, 450.0)], faults=[kill(400)])
    came = [i for i, one in enumerate(made.records) if one.kind == Kind.RECEIVED]
    at = chance.choice(came[:-8])
    record = made.records[at]
    flow = [i for i in came if i > at and made.records[i][1:3] == record[1:3]]
    if sort == "damaged":
        made.records[at] = replace_kind(record, Kind.DAMAGED)
    elif sort == "duplicated":
        made.records.insert(chance.randint(at + 1, len(made.records) - 1), record)
    else:
        made.records.insert(flow[0], made.records.pop(at))

    found = judged(made)

    assert found.verdict == "failed"
    assert getattr(found, sort) == 1


def replace_kind(record: Record, kind: Kind) -> Record:
    return record._replace(kind=kind)
