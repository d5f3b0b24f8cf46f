"""What must hold in a log: a healthy one passes, each doctored one fails at the doctored line."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ntbnet.app.log_check import BEGINS_DOWN, CAUSES, LINKS, RISING, Checker
from ntbnet.app.logs_cli import app
from ntbnet.log import EVENTS
from tests.unit.app.log_lines import Fields, died, encoded, healthy, lines_of, path, said, transport


def broken(story: list[Fields]) -> list[tuple[str, str]]:
    return [(breach.rule, breach.line.fields["event"]) for breach in Checker().check_all(lines_of(story))]


def at(story: list[Fields], event: str, number: int = 0) -> int:
    return [index for index, line in enumerate(story) if line["event"] == event][number]


def test_healthy_log_breaks_no_rule() -> None:
    assert broken(healthy()) == []


def without_up(story: list[Fields]) -> None:
    del story[at(story, "transport.link_changed", 5)]  # peer-rc is up again after the kill


def without_key(story: list[Fields]) -> None:
    del story[at(story, "path.changed", 1)]["session"]


def with_key(story: list[Fields]) -> None:
    story[at(story, "path.changed", 1)]["colour"] = "blue"


def without_common_key(story: list[Fields]) -> None:
    del story[at(story, "link.changed")]["node"]


def other_level(story: list[Fields]) -> None:
    story[at(story, "link.changed")]["level"] = "debug"


def other_type(story: list[Fields]) -> None:
    story[at(story, "link.changed")]["pid"] = "7"


def unknown_event(story: list[Fields]) -> None:
    story[at(story, "link.changed")]["event"] = "link.lost"


def older_epoch(story: list[Fields]) -> None:
    story[at(story, "service.stopped", 1)]["epoch"] = 1


def later_epoch(story: list[Fields]) -> None:
    story[at(story, "path.changed", 1)]["epoch"] = 99


def epoch_of_another_process(story: list[Fields]) -> None:
    story[at(story, "service.stopped", 1)]["pid"] = 4711


def older_link_epoch(story: list[Fields]) -> None:
    story[at(story, "link.changed", 1)]["link_epoch"] = 0x0
    story.insert(
        at(story, "netdev.packet_crossed", 2),
        said(1165, "rc-host", "link.changed", up=True, link_epoch=3, reason="x"),
    )
    story.insert(
        at(story, "netdev.packet_crossed", 2),
        said(1166, "rc-host", "link.changed", up=False, link_epoch=0, reason="x"),
    )
    story.insert(
        at(story, "netdev.packet_crossed", 2),
        said(1167, "rc-host", "link.changed", up=True, link_epoch=2, reason="x"),
    )


def older_session(story: list[Fields]) -> None:
    story[at(story, "path.changed", 2)]["session"] = 1
    story[at(story, "path.changed", 0)]["session"] = 5


def error_without_cause(story: list[Fields]) -> None:
    story.insert(1, said(5, "edma", "service.failed", reason="OSError: out of memory"))


def error_without_reason(story: list[Fields]) -> None:
    story.insert(at(story, "service.stopped"), said(1500, "edma", "service.failed", reason=""))


@pytest.mark.parametrize(
    ("doctor", "expected"),
    [
        (without_up, [("links", "transport.link_changed")]),
        (without_key, [("keys", "path.changed")]),
        (with_key, [("keys", "path.changed")]),
        (without_common_key, [("keys", "link.changed")]),
        (other_level, [("keys", "link.changed")]),
        (other_type, [("keys", "link.changed")]),
        (unknown_event, [("keys", "link.lost")]),
        (older_epoch, [("epochs", "service.stopped")]),
        (later_epoch, [("epochs", "path.changed")]),
        (epoch_of_another_process, [("epochs", "service.stopped")]),
        (older_link_epoch, [("epochs", "link.changed")]),
        (older_session, [("epochs", "path.changed")]),
        (error_without_cause, [("errors", "service.failed")]),
        (error_without_reason, [("errors", "service.failed")]),
    ],
)
def test_doctored_log_is_found_out(
    doctor: Callable[[list[Fields]], None], expected: list[tuple[str, str]]
) -> None:
    story = healthy()
    doctor(story)

    assert broken(story) == expected


@pytest.mark.parametrize(("key", "wrong"), [("epoch", 99), ("epoch", 0), ("pid", 4711)])
def test_one_wrong_line_is_told_once_wherever_it_is(key: str, wrong: int) -> None:
    story = healthy()
    alike = Counter((line["service"], line["pid"]) for line in story)
    for number, line in enumerate(story):
        if alike[line["service"], line["pid"]] < 3:
            continue  # too few others say what is right
        doctored = [*story[:number], line | {key: wrong}, *story[number + 1 :]]

        assert [rule for rule, _ in broken(doctored)] == ["epochs"], line


def test_too_high_a_number_is_told_once() -> None:
    sessions = [1, 2, 9, 4, 5, 6]
    story = [path(ms, "epc", "rc-host", session) for ms, session in enumerate(sessions)]
    told = [(breach.what, breach.line.fields["session"]) for breach in Checker().check_all(lines_of(story))]

    assert [one for one in told if "session" in one[0]] == [("session 4 after 9", 4)]


def test_next_process_may_have_the_id_of_the_one_before() -> None:
    """When the supervisor saw that one end."""
    story = [
        said(0, "edma", "service.started", incarnation=1, pid=7),
        died(5, "edma"),
        said(6, "edma", "security.privileges_dropped", user="nobody", epoch=2, pid=7),
        said(7, "edma", "service.started", incarnation=2, epoch=2, pid=7),
    ]

    assert broken(story) == []
    assert broken([story[0], *story[2:]]) == [("epochs", "security.privileges_dropped")]


def test_down_may_end_with_its_process_with_the_bridge_or_be_young() -> None:
    by_restart = [
        transport(0, "peer-rc", up=False),
        said(1, "peer-rc", "service.started", epoch=2, incarnation=2),
    ]
    by_death = [path(0, "epc", "rc-host", 0), died(5, "epc")]
    by_end = [path(0, "epc", "rc-host", 0), said(1, "supervisor", "supervisor.stopped", reason="down")]
    by_command = [
        path(0, "epc", "rc-host", 0),
        said(1, "peer-rc", "link.administered", up=False),
    ]
    later = said(60_000, "supervisor", "supervisor.ready", seconds=1)

    for story in (by_restart, by_death, by_end, by_command):
        assert broken([*story, later]) == []
    assert broken([path(55_000, "epc", "rc-host", 0), later]) == []


STAYS_DOWN = path(0, "epc", "rc-host", 0)
BEGINS = said(0, "supervisor", "supervisor.started", services=["epc", "peer-rc"])
ENDS = said(60_000, "supervisor", "supervisor.stopped", reason="down")


def test_down_that_stays_is_not_excused_by_the_end_of_the_bridge() -> None:
    assert broken([STAYS_DOWN, ENDS]) == [("links", "path.changed")]
    assert broken([path(55_000, "epc", "rc-host", 0), ENDS]) == []


def test_down_by_command_is_excused_until_the_link_is_wanted_on_both_sides_again() -> None:
    def administered(ms: float, service: str, *, up: bool) -> Fields:
        return said(ms, service, "link.administered", up=up)

    dropped = [administered(1, "peer-rc", up=False), administered(2, "peer-ep", up=False)]
    one_wants, both_want = administered(3, "peer-rc", up=True), administered(4, "peer-ep", up=True)
    late = administered(55_000, "peer-ep", up=True)

    assert broken([STAYS_DOWN, *dropped, ENDS]) == []
    assert broken([STAYS_DOWN, *dropped, one_wants, ENDS]) == []
    assert broken([STAYS_DOWN, *dropped, one_wants, both_want, ENDS]) == [("links", "path.changed")]
    assert broken([STAYS_DOWN, *dropped, one_wants, late, ENDS]) == []


def test_run_that_wrote_no_more_is_not_late_because_another_one_goes_on() -> None:
    other = {**said(60_000, "supervisor", "supervisor.ready", seconds=1), "run_id": "r2"}

    assert broken([STAYS_DOWN, other]) == []


def test_error_after_a_fault_has_a_cause_for_ten_seconds() -> None:
    failed = [said(ms, "edma", "service.failed", reason="gone") for ms in (9000, 10_500)]

    began = [BEGINS, said(1, "edma", "service.started", incarnation=1), died(2, "epc")]
    assert broken([*began, failed[0]]) == []
    assert broken([*began, failed[1]]) == [("errors", "service.failed")]
    assert broken([*began, {**failed[1], "under_faults": True}]) == []


def cut(story: list[Fields], service: str, first_ms: float) -> list[Fields]:
    """As rotation leaves it: the lines of a service before a time are gone."""
    start_ns = said(first_ms, "epc", "x")["mono_ns"]
    return [line for line in story if line["service"] != service or line["mono_ns"] >= start_ns]


def test_error_whose_cause_may_have_been_in_lines_that_are_gone_is_none() -> None:
    story = [
        BEGINS,
        said(1, "rc-host", "service.started", incarnation=1),
        said(29_000, "rc-host", "host.reset", kind="hot"),
        said(30_000, "rc-host", "netdev.packet_crossed", queue=0),
        said(31_000, "edma", "service.failed", reason="gone"),
        said(41_000, "edma", "service.failed", reason="gone"),
    ]
    story[1:1] = [said(1, "edma", "service.started", incarnation=1)]
    whole = [*story[:3], *story[4:]]

    assert broken(cut(story, "rc-host", 29_500)) == [("errors", "service.failed")]
    assert len(broken(whole)) == 2


def test_link_may_be_down_by_a_command_in_lines_that_are_gone() -> None:
    down = said(20_000, "peer-rc", "link.administered", up=False)
    story = [
        BEGINS,
        said(1, "peer-rc", "service.started", incarnation=1),
        transport(10, "peer-rc", up=True),
        down,
        transport(20_001, "peer-rc", up=False),
        ENDS,
    ]
    without = [line for line in story if line is not down]

    assert broken(story) == broken(cut(story, "peer-rc", 20_000.5)) == []
    assert broken(without) == [("links", "transport.link_changed")]
    again = [transport(20_010, "peer-rc", up=True), transport(20_020, "peer-rc", up=False)]
    assert broken([*cut(story, "peer-rc", 20_000.5)[:-1], *again, ENDS]) == [
        ("links", "transport.link_changed")
    ]


def test_event_about_a_message_may_have_its_flow() -> None:
    assert broken([said(0, "epc", "mw.cleared", widx=0, flow="0x2480000100000007")]) == []


def test_processes_without_a_run_are_checked_for_keys_only() -> None:
    story = [
        {**said(ms, "epc", "service.started", epoch=3 - ms, incarnation=1), "run_id": "none"} for ms in (0, 1)
    ]

    assert broken(story) == []


def test_any_number_of_links_and_services_takes_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ntbnet.app.log_check.MAX_TRACKED", 10)
    checker = Checker()
    story = [{**path(ms, f"s{ms % 50}", f"p{ms}", ms), "run_id": f"r{ms % 7}"} for ms in range(1, 2000)]

    list(checker.check_all(lines_of(story)))

    runs = checker._runs.values()
    processes = [process for run in runs for process in run.processes.values()]
    assert len(runs) + sum(1 + len(one.links) + len(one.numbers) for one in processes) == 10


def test_what_a_run_took_is_free_once_it_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ntbnet.app.log_check.MAX_TRACKED", 10)
    story = []
    for number in range(9):
        since_ms = number * 100_000
        ends = said(since_ms + 60_000, "supervisor", "supervisor.stopped", reason="down")
        story += [{**line, "run_id": f"r{number}"} for line in (path(since_ms, "epc", "rc-host", 0), ends)]

    assert len(broken(story)) == 9


def test_tables_name_events_that_exist_with_the_keys_they_have() -> None:
    assert EVENTS.keys() >= CAUSES
    assert BEGINS_DOWN <= LINKS.keys() <= EVENTS.keys()
    for event, of in LINKS.items():
        assert {"up", of} - {""} <= set(EVENTS[event].keys)
    for event, (number, of) in RISING.items():
        assert {number, of, "up"} - {""} <= set(EVENTS[event].keys)


def test_command_exits_0_for_a_healthy_log_and_1_with_the_lines_for_a_doctored_one(tmp_path: Path) -> None:
    story = healthy()
    file = tmp_path / "bridge.jsonl"
    file.write_bytes(encoded(story) + b'{"event":"half a li')

    done = CliRunner().invoke(app, ["check", str(file)])
    assert (done.exit_code, done.stdout) == (0, f"nothing is broken in {len(story)} lines\n")

    without_key(story)
    file.write_bytes(encoded(story))
    done = CliRunner().invoke(app, ["check", str(file)])
    assert done.exit_code == 1
    assert done.stdout.startswith("keys: without session\n    {")
    found = json.loads(CliRunner().invoke(app, ["check", "--json", str(file)]).stdout)
    assert (found["broken"], found["breaches"][0]["line"]["event"]) == (1, "path.changed")


@pytest.mark.parametrize("at_ms", range(0, 12_010, 400))
def test_healthy_log_breaks_no_rule_from_whenever_it_is_looked_at(tmp_path: Path, at_ms: float) -> None:
    story, since = healthy(), said(at_ms, "epc", "x")["wall"]
    story.insert(-3, said(11_000, "edma", "service.failed", reason="killed"))
    file = tmp_path / "bridge.jsonl"
    file.write_bytes(encoded(story))

    done = CliRunner().invoke(app, ["check", "--since", since, str(file)])

    left = sum(line["wall"] >= since for line in story)
    assert (done.exit_code, done.stdout) == (0, f"nothing is broken in {left} lines\n")


def test_only_lines_from_then_on_are_told() -> None:
    story = healthy()
    without_key(story)
    wall = story[at(story, "path.changed", 1)]["wall"]

    def told(since: str) -> int:
        return len(list(Checker(since).check_all(lines_of(story))))

    assert (told(wall), told(wall[:-1] + "~")) == (1, 0)
