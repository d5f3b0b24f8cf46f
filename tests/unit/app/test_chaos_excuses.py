"""A broken bridge is not excused by a fault that is far away, or that does no such thing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntbnet.app.chaos_checker import check
from ntbnet.app.chaos_history import (
    FaultRecord,
    Kind,
    LoggedError,
    LoggedEvent,
    NodeCounters,
    Observed,
    Record,
    RuleCount,
)
from ntbnet.app.chaos_judgement import Judgement
from ntbnet.app.chaos_scenario import Bounds, parse
from ntbnet.app.chaos_windows import covers, merged
from tests.unit.app.chaos_histories import MS, Made, kill, scenario, strike, told, without

RULES = FaultRecord(0, "rules", (), 100 * MS, 4900 * MS)


def judged(made: Made, **bounds: object) -> Judgement:
    return check(made.history(), scenario(**bounds))


def under_rules(*events: LoggedEvent) -> Made:
    return Made(5000, [], [RULES], Observed(events=events))


def test_a_schedule_that_was_not_done_to_its_end_makes_the_run_unknown() -> None:
    assert judged(Made(observed=Observed(planned=60))).verdict == "unknown"
    assert judged(Made(observed=Observed(planned=1))).verdict == "ok"


def test_a_recovery_that_was_awaited_in_vain_fails() -> None:
    found = judged(Made(observed=Observed(planned=60, given_up=("fault 0 (kill epc)",))))

    assert found.verdict == "failed"
    assert "recovery: awaited in vain after fault 0 (kill epc)" in found.problems


def test_one_flow_that_is_back_late_is_a_late_recovery() -> None:
    made = without(Made(length_ms=8000), 500, 5500, way=1, flow=1)

    found = judged(made)

    assert found.verdict == "failed"
    assert found.recovery_ms()["max"] >= 5000
    assert "recovery: 50" in found.problems[0]


def test_silence_far_from_any_fault_fails() -> None:
    made = Made(length_ms=4000)
    late = made.at(Kind.RECEIVED, 2500)
    for at, one in enumerate(made.records):
        # nothing is lost, but all that is sent in 300 ms comes at their end
        if (one.kind, one.way, one.flow) == (Kind.RECEIVED, 0, 0) and 2200 * MS <= one.time_ns < 2500 * MS:
            made.records[at] = one._replace(time_ns=made.records[late].time_ns)
    made.records.sort(key=lambda one: one.time_ns)

    found = judged(made)

    assert found.lost == 4 * 30
    assert [problem.partition(" was")[0] for problem in found.problems] == ["outage: flow 0 rc->ep"]


def test_an_interface_that_refuses_everything_fails() -> None:
    made = without(Made(length_ms=4000), 2500, 9000)
    made.records = [
        replace_refused(one)
        if (one.kind, one.way, one.flow) == (Kind.SENT, 0, 0) and one.time_ns > 2500 * MS
        else one
        for one in made.records
    ]

    found = judged(made)

    assert found.verdict == "failed"
    assert any(problem.startswith("outage: flow 0 rc->ep") for problem in found.problems)


def replace_refused(record: Record) -> Record:
    return record._replace(kind=Kind.REFUSED, sequence=0)


def test_silence_while_the_sending_program_was_not_run_is_nobodys() -> None:
    made = Made(length_ms=4000)
    made.records = [one for one in made.records if not 2500 * MS < (one.extra or one.time_ns) < 2800 * MS]

    assert judged(made).problems == []


@pytest.mark.parametrize(
    ("events", "verdict"),
    [
        ((strike(2500, "corrupt"),), "ok"),
        ((), "failed"),
        ((strike(4000, "corrupt"), strike(200, "corrupt")), "failed"),
        ((strike(2500, "duplicate"), strike(2500, "lost-interrupt")), "failed"),
    ],
    ids=["near", "never", "far", "harmless"],
)
def test_rules_excuse_losses_only_where_they_struck(events: tuple[LoggedEvent, ...], verdict: str) -> None:
    made = without(under_rules(*events), 2510, 2520)

    assert judged(made, recovery_max_ms=1000).verdict == verdict


def test_an_outage_longer_than_the_recovery_from_a_strike_fails() -> None:
    made = without(under_rules(strike(500, "corrupt")), 510, 2520)

    assert judged(made, recovery_max_ms=2000).verdict == "ok"
    assert judged(made, recovery_max_ms=1000).verdict == "failed"


@pytest.mark.parametrize(("time_ms", "verdict"), [(2600, "ok"), (4500, "failed")])
def test_rules_excuse_errors_only_where_they_struck(time_ms: int, verdict: str) -> None:
    error = LoggedError("epc", "service.failed", time_ms * MS, False, "it broke")
    observed = Observed(events=(strike(2500, "corrupt"),), errors=(error,))
    made = Made(5000, [], [RULES], observed)

    assert judged(made, recovery_max_ms=1000).verdict == verdict


@pytest.mark.parametrize(
    ("counts", "verdict"),
    [
        ([RuleCount("drop", 5), RuleCount("corrupt", 1)], "ok"),
        ([RuleCount("drop", 500), RuleCount("corrupt", 0)], "unknown"),
        ([RuleCount("drop", 5, 10), RuleCount("corrupt", 5, 11)], "ok"),
        ([RuleCount("drop", 5, 12), RuleCount("corrupt", 5, 10)], "unknown"),
        ([], "unknown"),
    ],
    ids=["each", "one never", "half", "less than half", "uncounted"],
)
def test_every_rule_has_to_strike(counts: list[RuleCount], verdict: str) -> None:
    rules = "".join(f'[[rules]]\nkind = "{kind}"\nrate = 9\n' for kind in ("drop", "corrupt"))
    plain = parse(f'description = "x"\n[phases]\nseconds = 5\n{rules}', "x")
    made = Made(5000, [], [RULES], Observed(rules=tuple(counts)))

    found = check(made.history(), plain)

    assert found.verdict == verdict
    assert found.as_json()["injected_by_rule"] == [
        {"kind": one.kind, "injected": one.injected, "interrupts_again": 0, "interrupts_handled": 0}
        for one in counts
    ]


DEATH = told(505, "service_died", "epc")


@pytest.mark.parametrize(
    ("events", "problem"),
    [
        ((DEATH,), ""),
        ((DEATH, told(600, "service_died", "edma")), "edma died, though nobody had killed it"),
        ((DEATH, told(600, "service_died", "epc")), "epc died, though nobody had killed it"),
        ((DEATH, told(1900, "service_hung", "epc")), "epc was found hung, though nobody had stopped it"),
        ((told(1, "service_started", "epc"),), "nobody noticed that epc was killed (fault 0)"),
    ],
)
def test_services_die_of_their_faults_alone(events: tuple[LoggedEvent, ...], problem: str) -> None:
    found = judged(Made(observed=Observed(events=events)))

    assert found.problems == ([f"services: {problem}"] if problem else [])


def test_a_death_is_that_of_the_latest_fault_that_explains_it() -> None:
    """A crash on the way up kills another service first, which may be killed by itself soon after."""
    crash = FaultRecord(0, "crash", ("epc",), 500 * MS, 500 * MS, "before ctrl.reset")
    killed = kill(900, "rc-host", 1)
    deaths = [
        told(at, "service_died", name) for at, name in ((505, "rc-host"), (560, "epc"), (905, "rc-host"))
    ]
    made = Made(4000, [(500, 650), (900, 1000)], [crash, killed], Observed(events=tuple(deaths)))

    assert judged(made).problems == []


def test_memory_that_is_lost_takes_its_users_along() -> None:
    unlink = FaultRecord(0, "unlink", ("epc",), 500 * MS, 500 * MS)
    deaths = [told(at, "service_died", name) for at, name in ((505, "epc"), (560, "peer-rc"))]
    made = Made(faults=[unlink], observed=Observed(events=tuple(deaths)))

    assert judged(made).problems == []


def test_a_stopped_service_has_to_be_found_hung_killed_and_replaced() -> None:
    stop = FaultRecord(0, "stop", ("epc",), 500 * MS, 3000 * MS)
    story = tuple(
        told(at, event, "epc")
        for at, event in ((2600, "service_hung"), (2610, "service_died"), (2630, "service_started"))
    )
    made = Made(6000, [(500, 3100)], [stop], Observed(events=story))
    bounds = {"must_hang": True, "recovery_max_ms": 5000}

    assert judged(made, **bounds).problems == []
    for left_out in range(3):
        made.observed = Observed(events=story[:left_out] + story[left_out + 1 :])
        assert judged(made, **bounds).verdict == "failed"
    made.observed = Observed()
    assert judged(made, **bounds).verdict == "unknown"


def test_a_service_that_was_stopped_for_a_moment_only_is_neither_found_hung_nor_replaced() -> None:
    stop = FaultRecord(0, "stop", ("epc",), 500 * MS, 1400 * MS)
    story = (told(1300, "service_hung", "epc"), told(1310, "service_died", "epc"))
    made = Made(4000, [(500, 1500)], [stop], Observed(events=story))

    assert judged(made).problems == [
        "services: epc was found hung, though nobody had stopped it",
        "services: epc died, though nobody had killed it",
    ]


def counters(tx_dropped: int, tx_stops: int) -> tuple[NodeCounters, ...]:
    """Of the node rc, whose kernel and history agree."""
    udp = dict.fromkeys(("InDatagrams", "OutDatagrams", "SndbufErrors", "RcvbufErrors", "InCsumErrors"), 0)
    netdev = {"tx_stops": tx_stops, "tx_packets": 0, "rx_packets": 0, "rx_dropped": 0, "tun_write_drops": 0}
    return (NodeCounters(0, "rc", udp, {"rx_packets": 0, "tx_dropped": tx_dropped}, netdev),)


def test_packet_that_is_lost_between_the_drivers_is_no_counted_one() -> None:
    bounds = Bounds(loss="counted")
    plain = replace(parse('description = "x"\n[phases]\nseconds = 5\n', "x"), bounds=bounds)
    (rc,) = counters(50, 0)
    assert rc.netdev is not None
    ep = replace(rc, node="ep", netdev={**rc.netdev, "tx_packets": 7})
    made = Made(2000, [], [RULES], Observed(nodes=(rc, ep)))

    found = check(made.history(), plain)

    assert any("driver of ep sent 7 packets, 0 arrived" in text for text in found.problems)


@pytest.mark.parametrize(
    ("tx_dropped", "tx_stops", "problem"),
    [
        (50, 5, ""),
        (50, 4, "a full ring stopped"),
        (9, 5, "were dropped for want"),
        (10, 5, "but rc counts 10"),
    ],
)
def test_pressure_has_to_be_seen_and_losses_counted(tx_dropped: int, tx_stops: int, problem: str) -> None:
    bounds = Bounds(loss="counted", min_stops=5, min_dropped=10)
    plain = replace(parse('description = "x"\n[phases]\nseconds = 5\n', "x"), bounds=bounds)
    made = without(Made(2000, [], [RULES], Observed(nodes=counters(tx_dropped, tx_stops))), 500, 600)

    found = check(made.history(), plain)

    seen = [text for text in found.problems if "stopped" in text or "dropped" in text]
    assert any(problem in text for text in seen) if problem else not seen


@pytest.mark.parametrize(
    ("tx_dropped", "tcp_kib_s", "is_right"),
    [(19, 0, False), (20, 0, True), (21, 0, False), (21, 1, True)],
)
def test_without_tcp_as_many_datagrams_are_lost_as_packets_were_dropped(
    tx_dropped: int, tcp_kib_s: int, is_right: bool
) -> None:
    plain = parse(f'description = "x"\n[phases]\nseconds = 5\n[workload]\ntcp_kib_s = {tcp_kib_s}\n', "x")
    counting = replace(plain, bounds=Bounds(loss="counted"))
    made = without(Made(2000, [], [RULES], Observed(nodes=counters(tx_dropped, 0))), 500, 600)

    found = check(made.history(), counting)

    assert any(f"counts {tx_dropped} dropped" in text for text in found.problems) is not is_right


@pytest.mark.parametrize(("again", "is_enough"), [(1000, True), (999, False)])
def test_storm_has_to_reach_whom_it_interrupts(again: int, is_enough: bool) -> None:
    rules = '[[rules]]\nkind = "interrupt-storm"\nat = [1]\n[bounds]\nmin_again = 1000\n'
    plain = parse(f'description = "x"\n[phases]\nseconds = 5\n{rules}', "x")
    counts = (RuleCount("interrupt-storm", 1, None, again, 100_000),)

    found = check(Made(5000, [], [RULES], Observed(rules=counts)).history(), plain)

    assert any("come 999 times again" in text for text in found.problems) is not is_enough


@pytest.mark.parametrize(
    ("burst", "handled", "is_enough"), [(100_000, 40, True), (100_000, 39, False), (20, 10, True)]
)
def test_storm_has_to_have_handlers_run(burst: int, handled: int, is_enough: bool) -> None:
    """That an interrupt came says nothing of what it did: equal ones share runs."""
    rules = f'[[rules]]\nkind = "interrupt-storm"\nburst = {burst}\nat = [1]\n[bounds]\nmin_handled = 40\n'
    plain = parse(f'description = "x"\n[phases]\nseconds = 5\n{rules}', "x")
    counts = (RuleCount("interrupt-storm", 1, None, burst, burst, handled),)

    found = check(Made(5000, [], [RULES], Observed(rules=counts)).history(), plain)

    assert any(f"handler run {handled} times" in text for text in found.problems) is not is_enough


@pytest.mark.parametrize(("counted", "is_enough"), [(6, True), (5, False)])
def test_log_has_to_account_for_every_fault(counted: int, is_enough: bool) -> None:
    plain = parse('description = "x"\n[phases]\nseconds = 5\n[[rules]]\nkind = "delay"\nrate = 9\n', "x")
    events = (
        strike(500, "delay"),
        LoggedEvent("epc", "chaos.faults_counted", 600 * MS, "delay", count=counted, since_ns=1, until_ns=2),
    )
    seen = Observed(rules=(RuleCount("delay", 7),), injected={"delay": 7}, events=events)

    found = check(Made(5000, [], [RULES], seen).history(), plain)

    assert any("the logs tell of 6 of 7" in text for text in found.problems) is not is_enough


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20))), st.integers(-2, 75))
def test_moment_is_covered_when_one_of_the_merged_spans_has_it(
    lengths: list[tuple[int, int]], time_ns: int
) -> None:
    spans = [(start, start + length) for start, length in lengths]

    assert covers(merged(spans), time_ns) == any(start <= time_ns <= end for start, end in spans)
