"""What is told of each failure: which lines make its steps, and which belong to another one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from ntbnet.app import log_settled, log_timeline, logs_verdicts_cli
from ntbnet.app.log_timeline import Failures
from ntbnet.app.logs_cli import app
from ntbnet.errors import SetupError
from tests.unit.app.log_lines import (
    START_MS,
    Fields,
    carrier,
    crossed,
    died,
    encoded,
    fault,
    healthy,
    lines_of,
    path,
    said,
    spawned,
)


def failures(*story: Fields) -> list[dict[str, Any]]:
    found = Failures()
    found.add_all(lines_of(story))
    return [one.to_dict() for one in found.ended()]


def steps(one: dict[str, Any]) -> tuple[float | None, ...]:
    names = ("detected_ms", "restarted_ms", "ready_ms", "link_up_ms", "first_packet_ms")
    return tuple(one[name] for name in names)


def recovery(at_ms: float, service: str = "epc", *, epoch: int = 2) -> list[Fields]:
    """A death and what follows from it, to the first packets."""
    return [
        died(at_ms + 3, service),
        spawned(at_ms + 14, service),
        said(at_ms + 70, service, "service.started", epoch=epoch, incarnation=epoch),
        carrier(at_ms + 72, "peer-rc", up=False),
        path(at_ms + 80, "peer-rc", service, epoch),
        carrier(at_ms + 150, "peer-ep", up=True),
        carrier(at_ms + 160, "peer-rc", up=True),
        crossed(at_ms + 170, "peer-ep"),
        crossed(at_ms + 172, "peer-rc"),
    ]


STEPS = (3.0, 14.0, 70.0, 160.0, 172.0)


def test_steps_of_a_kill_are_those_since_the_time_that_the_nemesis_gives() -> None:
    (one,) = failures(fault(1000, "kill", "epc"), *recovery(1000))

    assert steps(one) == STEPS
    assert one["fault_ns"] == (START_MS + 1000) * 1_000_000
    assert (one["service"], one["kind"], one["run_id"], one["link_lost"]) == ("epc", "kill", "r1", True)


def test_healthy_story_has_the_one_failure() -> None:
    (one,) = failures(*healthy())

    assert steps(one) == (3.0, 14.0, 70.0, 161.0, 172.0)


def test_nemesis_may_speak_after_the_supervisor() -> None:
    (one,) = failures(*recovery(1000), fault(1000, "kill", "epc", told_ms=1120))

    assert (one["kind"], steps(one)) == ("kill", STEPS)


def test_death_that_nobody_did_counts_from_who_noticed_it_first() -> None:
    (of_itself,) = failures(*recovery(1000))
    (silent,) = failures(path(500, "peer-rc", "epc", 0), *recovery(1000))
    (back_before,) = failures(
        path(500, "peer-rc", "epc", 0), path(600, "peer-rc", "epc", 2), *recovery(1000, epoch=3)
    )

    assert (of_itself["kind"], of_itself["detected_ms"], of_itself["first_packet_ms"]) == ("died", 0.0, 169.0)
    assert (silent["detected_ms"], silent["first_packet_ms"]) == (0.0, 672.0)
    assert (of_itself["detected_by"], silent["detected_by"]) == ("supervisor", "peer-rc")
    assert back_before["first_packet_ms"] == 169.0


def test_service_that_hangs_is_one_failure_with_its_death() -> None:
    hung = said(2000, "supervisor", "supervisor.service_hung", name="epc", child_pid=101)

    (one,) = failures(path(900, "peer-rc", "epc", 0), hung, *recovery(2001))

    assert one["kind"] == "hung"
    assert (one["detected_ms"], one["restarted_ms"]) == (0.0, 1115.0)


def test_process_that_dies_again_on_its_way_up_is_the_same_failure() -> None:
    story = [fault(1000, "crash", "epc"), died(1003, "epc"), spawned(1014, "epc"), *recovery(1030)]

    (one,) = failures(*story)

    assert (one["restarted_ms"], one["first_packet_ms"]) == (44.0, 202.0)


def test_failure_that_keeps_the_link_ends_at_the_first_packet_after_its_path() -> None:
    story = [
        fault(1000, "kill", "edma"),
        died(1003, "edma"),
        crossed(1010, "peer-rc"),
        spawned(1014, "edma"),
        said(1050, "edma", "service.started", epoch=2, incarnation=2),
        path(1059, "peer-ep", "edma", 0),
        path(1061, "peer-ep", "edma", 2),
        crossed(1063, "peer-ep", 0),
        crossed(1064, "peer-ep", 1),
        path(1070, "epc", "edma", 2),
        *recovery(1500),
    ]

    kept, lost = failures(*story)

    assert steps(kept) == (3.0, 14.0, 50.0, 61.0, 64.0)
    assert not kept["link_lost"]
    assert lost["first_packet_ms"] == 169.0


def test_failure_whose_packets_never_cross_says_so_and_takes_none_of_the_next() -> None:
    story = [fault(1000, "kill", "edma"), died(1003, "edma"), path(1061, "peer-ep", "edma", 2)]

    first, second = failures(*story, fault(1300, "kill", "epc", number=1), *recovery(1300))

    assert (first["link_up_ms"], first["first_packet_ms"]) == (61.0, None)
    assert steps(second) == STEPS


def test_faults_close_to_each_other_share_the_link_that_comes_back_from_both() -> None:
    story = [
        fault(1000, "kill", "rc-host", "epc"),
        *[line for line in recovery(1000) if line["event"] != "netdev.packet_crossed"],
        fault(1100, "kill", "edma", number=1),
        crossed(1172, "peer-ep"),
    ]

    found = failures(*story)

    assert [(one["service"], one["link_up_ms"], one["first_packet_ms"]) for one in found] == [
        ("rc-host", 160.0, 172.0),
        ("epc", 160.0, 172.0),
        ("edma", 60.0, 72.0),
    ]


def test_failure_while_the_link_is_down_waits_for_the_link_beyond_the_next_one() -> None:
    story = [
        fault(1000, "kill", "rc-host"),
        carrier(1050, "peer-rc", up=False),
        fault(1060, "kill", "epc", number=1),
        path(1080, "peer-rc", "epc", 2),
        fault(1100, "kill", "edma", number=2),
        carrier(1160, "peer-rc", up=True),
        crossed(1170, "peer-rc"),
    ]

    found = failures(*story)

    assert [(one["link_up_ms"], one["first_packet_ms"], one["link_lost"]) for one in found] == [
        (160.0, 170.0, True),
        (100.0, 110.0, True),
        (60.0, 70.0, True),
    ]


def test_second_outage_that_soon_follows_is_the_same_failure_and_a_late_one_is_not() -> None:
    flap = [carrier(0, "peer-rc", up=False), carrier(80, "peer-rc", up=True), crossed(90, "peer-rc")]

    def moved(at_ms: float) -> list[Fields]:
        return [{**line, "mono_ns": line["mono_ns"] + round(at_ms * 1e6)} for line in flap]

    (soon,) = failures(fault(1000, "kill", "epc"), *recovery(1000), *moved(1400))
    (late,) = failures(fault(1000, "kill", "epc"), *recovery(1000), *moved(9000))

    assert (soon["link_up_ms"], soon["first_packet_ms"]) == (480.0, 490.0)
    assert steps(late) == STEPS


def test_queue_that_was_idle_does_not_make_the_recovery_longer() -> None:
    (one,) = failures(fault(1000, "kill", "epc"), *recovery(1000), crossed(2100, "peer-rc", 1))

    assert one["first_packet_ms"] == 172.0


def test_flap_is_detected_at_the_link() -> None:
    down = said(1002, "epc", "link.changed", up=False, link_epoch=1, reason="by command")

    (one,) = failures(
        fault(1000, "flap", "rc-host", told_ms=1060),
        down,
        carrier(1100, "peer-rc", up=True),
        crossed(1110, "peer-ep"),
    )

    assert steps(one) == (2.0, None, None, 100.0, 110.0)
    assert one["detected_by"] == "epc"


def test_start_without_a_supervisor_tells_of_a_death() -> None:
    story = [
        said(0, "epc", "service.started", epoch=1, incarnation=1),
        path(900, "peer-rc", "epc", 0),
        said(1000, "epc", "service.started", epoch=2, incarnation=2),
        carrier(1100, "peer-rc", up=True),
        crossed(1110, "peer-ep"),
    ]

    (one,) = failures(*story)

    assert steps(one) == (0.0, 100.0, 100.0, 200.0, 210.0)


def test_killed_supervisor_is_replaced_by_the_next_run() -> None:
    next_run = [
        {**line, "run_id": "r2"}
        for line in (
            said(3000, "supervisor", "supervisor.started", services=["epc"]),
            carrier(3400, "peer-rc", up=True),
            crossed(3410, "peer-ep"),
        )
    ]

    (one,) = failures(fault(1000, "supervisor", "supervisor"), *next_run)

    assert steps(one) == (2000.0, 2000.0, 2000.0, 2400.0, 2410.0)


def test_time_of_small_faults_is_no_failure() -> None:
    assert failures(fault(1000, "rules")) == []
    assert failures(fault(1000, "rules", "epc")) == []


JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 1 << 70), st.text(max_size=4), st.lists(st.integers())
)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 5000),
            st.sampled_from(healthy()),
            st.dictionaries(
                st.sampled_from(["name", "peer", "up", "services", "at_ns", "kind", "epoch", "queue"]), JUNK
            ),
        ),
        max_size=40,
    )
)
def test_no_values_stop_it(parts: list[tuple[int, Fields, dict[str, Any]]]) -> None:
    story = [{**line, **junk, "mono_ns": at_ms * 1_000_000} for at_ms, line, junk in parts]

    failures(*story)


def test_failures_that_are_over_are_put_away_and_told_as_if_they_were_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whether they are in memory, in a file, or were never put away."""
    story = [
        one
        for ms in range(0, 400_000, 2000)
        for one in (
            fault(ms, "kill", "epc", number=ms),
            died(ms + 3, "epc"),
            spawned(ms + 9, "epc"),
            said(ms + 50, "epc", "service.started", epoch=2 + ms, incarnation=2 + ms),
        )
    ]
    story.append(fault(1, "stop", "edma", told_ms=399_999, number=1))  # told last
    told = []
    for sweep, room in ((10_000, 1 << 20), (3, 1 << 20), (3, 100)):
        monkeypatch.setattr(log_timeline, "SWEEP", sweep)
        monkeypatch.setattr(log_settled, "IN_MEMORY_BYTES", room)
        told.append(failures(*story))

    assert len(told[0]) == 201
    assert told[0][1]["service"] == "edma"
    assert told[1] == told[0]
    assert told[2] == told[0]


def test_no_room_for_failures_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(log_timeline, "SWEEP", 3)
    monkeypatch.setattr(log_settled, "IN_MEMORY_BYTES", 1)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))

    with pytest.raises(SetupError, match=r"no room for what was found, in .*gone: No such file"):
        failures(*(fault(ms * 5000, "kill", "epc", number=ms) for ms in range(300)))


@pytest.mark.parametrize("at_ns", [1 << 63, (1 << 64) - 1, -(1 << 63)])
def test_times_of_any_size_are_put_away(monkeypatch: pytest.MonkeyPatch, at_ns: int) -> None:
    monkeypatch.setattr(log_timeline, "SWEEP", 1)

    told = failures(*({**fault(ms * 5000, "kill", "epc", number=ms), "at_ns": at_ns} for ms in range(300)))

    assert [one["fault_ns"] for one in told] == [at_ns] * 300


def test_any_number_of_failures_is_counted_and_so_many_are_kept(monkeypatch: Any) -> None:
    monkeypatch.setattr(log_timeline, "MAX_FAILURES", 5)
    found = Failures()

    found.add_all(lines_of([fault(ms * 10, "kill", f"s{ms}", number=ms) for ms in range(200)]))

    assert (len(found.ended()), found.left_out) == (5, 195)
    assert all(len(run.open) <= log_timeline.MAX_OPEN for run in found._runs.values())


def test_of_many_failures_people_see_the_last_ones_and_scripts_all(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(logs_verdicts_cli, "MOST_FAILURES", 2)
    file = tmp_path / "bridge.jsonl"
    file.write_bytes(encoded(fault(ms * 5000, "kill", f"s{ms}", number=ms) for ms in range(5)))

    shown = CliRunner().invoke(app, ["timeline", str(file)]).stdout
    told = json.loads(CliRunner().invoke(app, ["timeline", "--json", str(file)]).stdout)

    assert [f"s{number} " in shown for number in range(5)] == [False, False, False, True, True]
    assert shown.endswith("the last 2 of 5 failures; --json tells all of them\n")
    assert [one["service"] for one in told["failures"]] == ["s0", "s1", "s2", "s3", "s4"]
    file.write_bytes(encoded(healthy()[:5]))
    assert json.loads(CliRunner().invoke(app, ["timeline", "--json", str(file)]).stdout)["failures"] == []


def test_command_shows_a_row_for_each_failure(tmp_path: Path) -> None:
    file = tmp_path / "bridge.jsonl"
    file.write_bytes(encoded(healthy()))

    shown = CliRunner().invoke(app, ["timeline", str(file)])
    found = json.loads(CliRunner().invoke(app, ["timeline", "--json", str(file)]).stdout)

    assert shown.exit_code == 0
    assert shown.stdout.splitlines()[-2].split()[:2] == ["epc", "kill"] or "epc" in shown.stdout
    assert [one["first_packet_ms"] for one in found["failures"]] == [172.0]
    file.write_bytes(encoded(healthy()[:5]))
    assert CliRunner().invoke(app, ["timeline", str(file)]).stdout == "no failure in 5 lines\n"
