"""Limits of a chaos run grow by what its processes waited for a CPU, and by no more than themselves."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntbnet.app import chaos_history
from ntbnet.app.chaos_checker import check
from ntbnet.app.chaos_history import History, Kind, LoggedEvent, Observed, WaitSample
from ntbnet.app.chaos_judgement import Judgement
from ntbnet.app.chaos_schedstat import WaitSampler
from ntbnet.app.chaos_waits import RESTARTING, Waits
from tests.unit.app.chaos_histories import MS, Made, delayed, kill, scenario

TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def waits(
    until_ms: int, waited_ms: Mapping[tuple[str, int], int], stolen_ms: Mapping[int, int] | None = None
) -> list[WaitSample]:
    """A sample every 50 ms, from 0 on, while others run all the time.

    Keys are who waited, and the time of the sample that says so.
    """
    return [
        WaitSample(
            at_ms * MS,
            {name: waited * MS for (name, when_ms), waited in waited_ms.items() if when_ms == at_ms},
            (stolen_ms or {}).get(at_ms, 0) * MS,
            others_ran_ns=100 * MS,
        )
        for at_ms in range(0, until_ms + 1, 50)
    ]


def late(silent_ms: int) -> Made:
    """Nothing is lost, but all that flow 0 rc->ep carries after 2.5 s comes that much later, at once."""
    made = Made(length_ms=4000, outages=[])
    for at, one in enumerate(made.records):
        is_hit = (one.kind, one.way, one.flow) == (Kind.RECEIVED, 0, 0)
        if is_hit and 2500 * MS < one.time_ns < (2500 + silent_ms) * MS:
            made.records[at] = one._replace(time_ns=(2500 + silent_ms) * MS)
    made.records.sort(key=lambda one: one.time_ns)
    return made


def judged(made: Made, samples: list[WaitSample], **bounds: object) -> Judgement:
    history = made.history()
    return check(History(history.lives, history.faults, history.observed, samples), scenario(**bounds))


# the limits


def test_a_pause_behind_a_recovery_is_no_part_of_it_when_it_was_waited_for_a_cpu() -> None:
    """As much as was measured, and at most as long again as what is no outage: 60 ms."""

    def recovery_ms(until_ms: int, waited_ms: int, observed: Observed | None = None) -> float:
        made = Made(outages=[(500.0, 600.0)], observed=observed or Observed())
        samples = waits(2000, {("epc", 900): waited_ms})
        return float(judged(delayed(made, 800, until_ms), samples).recovery_ms()["max"])

    changed = Observed(events=(LoggedEvent("peer-ep", "path.changed", 770 * MS, "", ""),))
    assert 100 <= recovery_ms(900, 48) <= 105
    assert recovery_ms(900, 20) == 400
    assert recovery_ms(900, 0) == 400
    assert recovery_ms(940, 120) == 440
    assert recovery_ms(900, 48, changed) == 400


def test_silence_that_a_process_waited_through_is_allowed() -> None:
    made = late(340)

    alone = judged(made, [])
    quiet = judged(made, waits(4000, {}))
    busy = judged(made, waits(4000, {("epc", 2750): 120}))

    assert alone.problems == quiet.problems
    assert alone.problems[0].startswith("outage: flow 0 rc->ep was silent for 34")
    assert alone.problems[0].endswith("ms and no fault was near, allowed 250 ms")
    assert (busy.verdict, busy.problems, busy.allowed_for_waits) == ("ok", [], 1)
    assert (alone.as_json()["cpu_wait_ms"], alone.allowed_for_waits) == (None, 0)
    assert busy.as_json()["cpu_wait_ms"] == {
        "max": 120.0,
        "total": 120.0,
        "stolen": 0.0,
        "by_process": {"epc": 120.0},
    }


def test_a_wait_that_does_not_explain_the_silence_is_told_beside_it() -> None:
    found = judged(late(400), waits(4000, {("epc", 2750): 80}))

    assert found.verdict == "failed"
    assert "silent for 40" in found.problems[0]
    assert found.problems[0].endswith("of which its processes waited 80 ms for a CPU; allowed 250 ms without")


def test_waits_before_and_after_a_silence_explain_nothing() -> None:
    found = judged(late(340), waits(4000, {("epc", 2400): 300, ("epc", 3300): 300}))

    assert found.problems == judged(late(340), []).problems


def test_no_limit_grows_by_more_than_itself() -> None:
    """A bridge that is stuck fails on the busiest machine."""
    waited = {("epc", at_ms): 50 for at_ms in range(50, 4001, 50)}

    assert judged(late(490), waits(4000, waited)).verdict == "ok"
    found = judged(late(520), waits(4000, waited))

    assert found.verdict == "failed"
    assert "allowed 250 ms without" in found.problems[0]


def test_time_that_the_host_took_counts_as_waited() -> None:
    assert judged(late(340), waits(4000, {}, {2750: 120})).verdict == "ok"


def test_supervisor_holds_up_a_recovery_but_no_packet() -> None:
    waited = {("supervisor", 2750): 120}
    assert judged(late(340), waits(4000, waited)).verdict == "failed"

    recovered = Made(length_ms=2000, outages=[(500, 850)])
    without = judged(recovered, [], recovery_max_ms=300)
    within = judged(recovered, waits(2000, {("supervisor", 700): 120}), recovery_max_ms=300)

    assert without.problems[0].startswith("recovery: 35")
    assert (within.verdict, within.allowed_for_waits) == ("ok", 1)
    assert within.recovery_ms() == without.recovery_ms()


def test_median_is_judged_without_the_waits_and_shown_with_them() -> None:
    made = Made(length_ms=2000, outages=[(500, 850)])
    samples = waits(2000, {("edma", 700): 120})

    assert judged(made, samples, recovery_p50_ms=300).verdict == "ok"
    found = judged(made, samples, recovery_p50_ms=200)

    assert found.recovery_ms()["p50"] > 350
    assert found.problems[0].startswith("recovery: median 35")
    assert found.problems[0].endswith("waited 120 ms for a CPU; allowed 200 ms without")


def test_way_of_a_datagram_may_be_as_much_longer() -> None:
    made = late(340)
    excused = {"silence_ms": 1000, "delay_ms": 300}

    assert judged(made, [], **excused).problems[0].startswith("delay: datagram 500 of flow 0 rc->ep took 3")
    assert judged(made, waits(4000, {("peer-ep", 2750): 120}), **excused).verdict == "ok"


def test_waits_in_the_excused_part_of_a_silence_explain_nothing_of_the_rest() -> None:
    made = late(800)
    made.faults = [kill(900)]

    found = judged(made, waits(4000, {("epc", 2750): 240}), settle_ms=2000)
    within = judged(made, waits(4000, {("epc", 3100): 180}), settle_ms=2000)

    assert found.problems[0].startswith("outage: flow 0 rc->ep was silent for 39")
    assert "waited" not in found.problems[0]
    assert within.verdict == "ok"


# the sum


def test_waits_at_once_count_once_and_those_of_later_samples_too() -> None:
    found = Waits(waits(500, {("epc", 200): 30, ("edma", 200): 40, ("epc", 300): 25, ("traffic", 350): 50}))

    assert found.within(100 * MS, 400 * MS) == (40 + 25 + 50) * MS
    assert found.within(210 * MS, 260 * MS) == 25 * MS
    assert found.within(400 * MS, 500 * MS) == 0


def test_what_few_cpus_cost_without_anybody_else_is_not_counted() -> None:
    each = {("epc", at_ms): 10 for at_ms in range(50, 501, 50)}

    assert Waits(waits(500, each)).within(100 * MS, 400 * MS) == 0
    assert Waits(waits(500, {**each, ("epc", 200): 11})).within(100 * MS, 400 * MS) == 11 * MS


def test_who_waits_for_processes_of_the_bridge_is_not_held_up_by_others() -> None:
    """Five replacements on two CPUs wait for each other; no more counts than what others ran."""
    waited = dict.fromkeys(("rc-host", "epc", "edma", "peer-rc", "peer-ep"), 30 * MS)

    for others_ms, stolen_ms, counted_ms in ((-5, 0, 0), (0, 0, 0), (12, 0, 24), (0, 5, 10), (90, 0, 60)):
        starting = [WaitSample(at_ms * MS, waited, stolen_ms * MS, others_ms * MS) for at_ms in (50, 100)]
        found = Waits([WaitSample(0), *starting]).within(0, 100 * MS)
        assert found == counted_ms * MS


def test_run_that_became_known_later_counts_in_the_whole_time() -> None:
    """A replacement that is noted late has run since its start; before, that looks like another's run."""
    samples = [WaitSample(0), WaitSample(50 * MS, {"epc": 40 * MS}, 0, 30 * MS)]
    samples.append(WaitSample(100 * MS, {"epc": 40 * MS}, 0, -30 * MS))

    assert Waits(samples).within(0, 100 * MS) == 0


def test_a_wait_that_the_kernel_counts_at_its_end_reaches_back() -> None:
    assert Waits(waits(1000, {("epc", 800): 400})).within(350 * MS, 850 * MS) == 400 * MS
    assert Waits(waits(1000, {("epc", 800): 400})).within(700 * MS, 850 * MS) == 100 * MS


@given(
    st.lists(
        st.tuples(
            st.integers(1, 200), st.integers(0, 10**4), st.integers(0, 10**4), st.integers(-1000, 1000)
        ),
        max_size=20,
    ),
    st.integers(0, 4000),
    st.integers(0, 4000),
)
def test_sum_is_never_longer_than_the_time(
    steps: list[tuple[int, int, int, int]], from_ms: int, length_ms: int
) -> None:
    samples, at_ms = [], 0
    for step_ms, waited_ms, stolen_ms, ran_ms in steps:
        at_ms += step_ms
        samples.append(WaitSample(at_ms * MS, {"epc": waited_ms * MS}, stolen_ms * MS, ran_ms * MS))

    found = Waits(samples).within(from_ms * MS, (from_ms + length_ms) * MS, RESTARTING)

    assert 0 <= found <= length_ms * MS


# what is kept, and the sampler


def test_waits_are_kept_with_a_history_and_may_be_missing(tmp_path: Path) -> None:
    chaos_history.write_observed(tmp_path, Observed())
    assert list(chaos_history.read(tmp_path).waits) == []

    samples = [WaitSample(5, {"epc": 7}, 9, -11), WaitSample(6)]
    chaos_history.write_waits(tmp_path, samples)

    assert list(chaos_history.read(tmp_path).waits) == samples


class Proc:
    """A made-up /proc: threads with what they waited and ran, CPUs with what was stolen."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "self").mkdir()
        (path / "self" / "schedstat").write_text("1 2 3\n")

    def thread(self, pid: int, thread: int, waited_ns: int, ran_ns: int) -> None:
        folder = self.path / str(pid) / "task" / str(thread)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "schedstat").write_text(f"{ran_ns} {waited_ns} 3\n")

    def cpus(self, *ticks: tuple[int, int]) -> None:
        """What each ran, and what was stolen from it."""
        ran, stolen = (sum(column) for column in zip(*ticks, strict=True))
        rows = [f"cpu{number} 1 {ran} 3 4 5 6 7 {stolen} 0 0\n" for number, (ran, stolen) in enumerate(ticks)]
        (self.path / "stat").write_text(
            f"cpu  1 {ran} 3 4 5 6 7 {stolen} 0 0\n{''.join(rows)}intr 1 2 3 4 5 6 7 8 9\n"
        )


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    return Proc(tmp_path)


def test_samples_tell_what_was_waited_and_what_others_ran_since_the_one_before(proc: Proc) -> None:
    sampler = WaitSampler(proc.path)
    proc.thread(10, 10, 5000, 900)
    proc.thread(10, 11, 100, 800)
    proc.cpus((20, 7), (30, 70))
    sampler.sample({"epc": 10})

    proc.thread(10, 10, 5200, 907)
    proc.thread(10, 11, 130, 860)
    proc.thread(20, 20, 44, 11)
    proc.cpus((23, 9), (32, 71))
    sampler.sample({"epc": 10, "edma": 20})
    sampler.sample({"epc": 10, "edma": 20, "peer-rc": 30})

    first, second = sampler.samples
    assert first.waited_ns == {"epc": 200, "edma": 44}
    assert (first.stolen_ns, first.others_ran_ns) == (2 * TICK_NS, 5 * TICK_NS - (7 + 60 + 11))
    assert (second.waited_ns, second.stolen_ns, second.others_ran_ns) == ({}, 0, 0)


def test_kernel_that_counts_no_waits_gives_no_samples(tmp_path: Path) -> None:
    sampler = WaitSampler(tmp_path)

    assert not sampler.is_due(1 << 62)
    assert sampler.samples == []
