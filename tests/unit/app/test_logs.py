"""Reading, merging and counting log lines; what is read is partly hostile."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntbnet.app import logs
from ntbnet.app.log_filter import Filter, filter_from, since_wall
from ntbnet.app.log_sources import log_files, read_file
from ntbnet.app.log_summary import MAX_CAUSES, MAX_SERVICES, OTHERS, Summary
from ntbnet.app.logs import Axis, Line, Tally, merge, read_lines
from ntbnet.edge.rundir import RunDir
from ntbnet.log import EVENTS, Logger

BASE = datetime(2025, 1, 31, 12, tzinfo=UTC)


def wall(us: int) -> str:
    return (BASE + timedelta(microseconds=us)).isoformat(timespec="microseconds").replace("+00:00", "Z")


def fields(us: int = 0, *, wall_us: int | None = None, **keys: Any) -> dict[str, Any]:
    common: dict[str, Any] = {
        "event": "link.restarted",
        "level": "warning",
        "wall": wall(us if wall_us is None else wall_us),
    }
    common |= {"mono_ns": us * 1000, "run_id": "r1", "node": "rc", "service": "rc-host", "pid": 7, "epoch": 1}
    return common | keys


def encoded(*lines: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(line, separators=(",", ":")).encode() + b"\n" for line in lines)


def read(data: bytes) -> tuple[list[Line], Tally]:
    tally = Tally()
    return list(read_lines(io.BytesIO(data), Axis(), tally)), tally


def summary_of(*lines: dict[str, Any]) -> Summary:
    found, _ = read(encoded(*lines))
    summary = Summary()
    summary.add_all(found)
    return summary


# reading


def test_line_of_our_logger_is_read_back() -> None:
    stream = io.StringIO()
    bound = {"run_id": "r1", "node": "rc", "service": "rc-host", "epoch": 3}
    Logger(stream, "info", bound).emit("link.changed", up=True, link_epoch=5, reason="both ends up")

    found, tally = read(stream.getvalue().encode())

    assert (tally.lines, tally.skipped) == (1, 0)
    assert found[0].fields["service"] == "rc-host"
    assert found[0].fields["link_epoch"] == 5
    assert found[0].raw == stream.getvalue().strip().encode()


def test_whatever_our_logger_writes_is_read_back() -> None:
    stream = io.StringIO()
    bound = {"run_id": "r1", "node": "rc", "service": "rc-host", "epoch": 3}
    for reason in (float("nan"), float("-inf"), "half a pair: \ud800", 1 << 70):
        Logger(stream, "info", bound).emit("link.restarted", reason=reason)

    found, tally = read(stream.getvalue().encode())

    assert (tally.lines, tally.skipped) == (4, 0)
    assert repr([one.fields["reason"] for one in found[:3]]) == r"[nan, -inf, 'half a pair: \ud800']"
    assert found[3].fields["reason"] == 1 << 70


@pytest.mark.parametrize(
    "prefix",
    [b"12:34:56 peer-rc.1 | ", b"12:34:56 epc      | ", b"\x1b[0m\x1b[36m12:34:56 epc.1 | \x1b[0m"],
)
def test_honchos_prefix_is_taken_off(prefix: bytes) -> None:
    line = encoded(fields())

    found, tally = read(prefix + line)

    assert [one.raw + b"\n" for one in found] == [line]
    assert tally.skipped == 0


def test_line_continued_after_a_torn_one_is_kept_and_the_torn_part_counted() -> None:
    whole = encoded(fields(service="epc"))

    found, tally = read(encoded(fields())[:40] + whole)

    assert [one.raw + b"\n" for one in found] == [whole]
    assert tally.skipped == 1


def test_torn_last_line_is_counted_and_the_rest_kept() -> None:
    found, tally = read(encoded(fields(1), fields(2))[:-9])

    assert len(found) == 1
    assert tally.skipped == 1


def test_complete_last_line_without_newline_is_kept() -> None:
    found, tally = read(encoded(fields(1)).rstrip())

    assert (len(found), tally.skipped) == (1, 0)


def test_blank_lines_are_not_counted() -> None:
    found, tally = read(b"\n  \n" + encoded(fields()) + b"\n")

    assert (len(found), tally.skipped) == (1, 0)


@pytest.mark.parametrize(
    "garbage",
    [
        b"system | epc.1 started (pid=12)",
        b"\xff\xfe{}",
        b"[" * 20000,
        b'{"a":' * 20000,
        b"{}",
        b"[1]",
        b"{\x00}",
        b'{"event":"x","mono_ns":' + b"9" * 5000 + b"}",
        encoded(fields(mono_ns=True)).strip(),
        encoded(fields(mono_ns=-1)).strip(),
        encoded(fields(mono_ns=1 << 63)).strip(),
        encoded(fields(mono_ns=1.5)).strip(),
        encoded(fields(level="fatal")).strip(),
        encoded(fields(level=["info"])).strip(),
        encoded(fields(wall="yesterday")).strip(),
        encoded(fields(wall="2025-13-31T12:00:00.000000Z")).strip(),
        encoded(fields(run_id=None)).strip(),
        encoded(fields(run_id="r" * 65)).strip(),
        encoded(fields(service=3)).strip(),
        encoded(fields(event={"event": "x"})).strip(),
    ],
)
def test_what_is_no_event_is_counted_and_skipped(garbage: bytes) -> None:
    found, tally = read(garbage + b"\n" + encoded(fields(1)))

    assert len(found) == 1
    assert tally.skipped == 1


@given(st.binary(max_size=300))
def test_no_bytes_stop_the_reader(junk: bytes) -> None:
    found, _ = read(junk + b"\n" + encoded(fields(1)))

    assert found[-1].fields == fields(1)


def test_line_over_the_limit_is_skipped_as_one_and_never_held_whole() -> None:
    class Endless(io.BytesIO):
        def readline(self, size: int | None = -1, /) -> bytes:
            assert size == logs.MAX_LINE_BYTES
            return super().readline(size)

    tally = Tally()
    data = encoded(fields(1, reason="x" * 300_000), fields(2))

    found = list(read_lines(Endless(data), Axis(), tally))

    assert [one.fields["mono_ns"] for one in found] == [2000]
    assert tally.skipped == 1


# order


def test_within_a_run_mono_ns_decides_though_the_wall_clock_was_set_back() -> None:
    early = read_lines(io.BytesIO(encoded(fields(10), fields(20))), axis := Axis(), tally := Tally())
    late = read_lines(io.BytesIO(encoded(fields(30, wall_us=-5_000_000, service="epc"))), axis, tally)

    assert [one.fields["mono_ns"] for one in merge([late, early])] == [10_000, 20_000, 30_000]


def test_between_runs_the_wall_clock_decides() -> None:
    older = fields(900_000_000, wall_us=0, run_id="r1")
    newer = fields(5, wall_us=60_000_000, run_id="r2")
    axis, tally = Axis(), Tally()
    sources = [read_lines(io.BytesIO(encoded(one)), axis, tally) for one in (newer, older)]

    assert [one.fields["run_id"] for one in merge(sources)] == ["r1", "r2"]


def test_lines_of_no_run_are_placed_by_their_own_wall_clock() -> None:
    before_boot = fields(900_000_000, wall_us=0, run_id="none")
    after_boot = fields(5, wall_us=60_000_000, run_id="none")

    found, _ = read(encoded(before_boot, after_boot))

    assert found[0].time_ns + 60_000_000_000 == found[1].time_ns


def test_slightly_disordered_lines_of_one_file_are_put_in_order(tmp_path: Path) -> None:
    path = tmp_path / "honcho.log"
    path.write_bytes(encoded(*[fields(us ^ 7) for us in range(504)]))

    found = list(read_file(path, Axis(), Tally()))

    assert [one.fields["mono_ns"] for one in found] == [us * 1000 for us in range(504)]


def test_clocks_of_any_number_of_runs_take_bounded_memory() -> None:
    axis = Axis()

    for number in range(3 * logs.MAX_RUNS):
        axis.place(f"run{number}", wall(0), number)

    assert len(axis._offsets) == logs.MAX_RUNS


RUNS = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(0, 4), st.integers(0, 10**6)), max_size=60
)  # run, service, microseconds


@given(RUNS, st.permutations(range(5)), st.lists(st.integers(-(10**7), 10**7), min_size=60, max_size=60))
def test_merge_keeps_every_line_and_the_order_of_each_run(
    events: list[tuple[str, int, int]], order: list[int], wall_steps: list[int]
) -> None:
    files: list[list[dict[str, Any]]] = [[] for _ in range(5)]
    # One run after the other, as a persistent log folder holds them; the wall clock jumps at will.
    for (run, service, us), step in zip(sorted(events, key=lambda e: (e[0], e[2])), wall_steps, strict=False):
        files[service].append(fields(us, wall_us=us + step, run_id=run, service=f"s{service}"))
    axis, tally = Axis(), Tally()
    sources = [list(read_lines(io.BytesIO(encoded(*files[index])), axis, tally)) for index in order]

    merged = list(merge(logs.in_order(source) for source in sources))

    assert sorted(one.raw for one in merged) == sorted(one.raw for source in sources for one in source)
    assert len(merged) == len(events)
    for run in "abc":
        of_run = [one.fields["mono_ns"] for one in merged if one.fields["run_id"] == run]
        assert of_run == sorted(of_run)


@given(RUNS, st.permutations(range(5)))
def test_order_of_the_files_does_not_matter_when_clocks_run_evenly(
    events: list[tuple[str, int, int]], order: list[int]
) -> None:
    unique = {us: (run, service) for run, service, us in events}
    files: list[list[dict[str, Any]]] = [[] for _ in range(5)]
    boots = {"a": 0, "b": 10**9, "c": 77}  # where each run's monotonic clock stands
    for us, (run, service) in sorted(unique.items()):
        files[service].append(fields(us, mono_ns=(us + boots[run]) * 1000, run_id=run))
    axis, tally = Axis(), Tally()

    merged = merge([read_lines(io.BytesIO(encoded(*files[index])), axis, tally) for index in order])

    assert [one.fields["wall"] for one in merged] == [wall(us) for us in sorted(unique)]


# filters


@pytest.mark.parametrize(
    ("wanted", "is_wanted"),
    [
        (filter_from(), True),
        (filter_from(services=["epc", "rc-host"]), True),
        (filter_from(services=["epc"]), False),
        (filter_from(events=["path.*", "link.*"]), True),
        (filter_from(events=["link"]), False),
        (filter_from(events=["link.*d?"]), False),
        (filter_from(level="warning"), True),
        (filter_from(level="error"), False),
        (filter_from(since="2025-01-31T13:00:01+01:00"), True),
        (filter_from(since="2025-01-31T12:00:01.000001"), False),
        (filter_from(since="10s", now=BASE + timedelta(seconds=11)), True),
        (filter_from(since="10s", now=BASE + timedelta(seconds=12)), False),
        (filter_from(epochs=[1, 4]), True),
        (filter_from(epochs=[4]), False),
        (filter_from(where=["pid=7", "node=rc"]), True),
        (filter_from(where=["pid=7", "node=ep"]), False),
        (filter_from(where=['pid="7"']), False),
        (filter_from(where=["pid=7.0"]), False),
        (filter_from(where=["reason=null"]), False),
    ],
)
def test_filter(wanted: Filter, is_wanted: bool) -> None:
    assert wanted.wants(fields(1_000_000)) is is_wanted


def test_since_takes_spans_and_iso_times() -> None:
    assert since_wall("2h", BASE) == "2025-01-31T10:00:00.000000Z"
    assert since_wall("2025-01-31", BASE) == "2025-01-31T00:00:00.000000Z"


@pytest.mark.parametrize("text", ["", "10", "m", "-5s", "999999d", "0001-01-01T00:00:00+10:00", "now", "٣s"])
def test_malformed_since_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="allowed are"):
        since_wall(text, BASE)


# files


def test_log_files_are_those_of_the_run_folder_unless_told_another(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run", "demo")
    run.create()
    elsewhere = tmp_path / "logs"
    elsewhere.mkdir()
    for path in (
        run.log_path("epc"),
        run.log_path("peer-rc"),
        run.stderr_path("epc"),
        elsewhere / "a.jsonl",
    ):
        path.write_text("")
    (elsewhere / "notes.txt").write_text("")
    (elsewhere / "folder.jsonl").mkdir()

    assert log_files(run) == [run.log_path("epc"), run.log_path("peer-rc")]
    assert log_files(run, str(elsewhere)) == [elsewhere / "a.jsonl"]
    assert log_files(RunDir(tmp_path, "absent")) == []


def test_unreadable_file_is_noted_and_ends_nothing(tmp_path: Path) -> None:
    tally = Tally()

    assert list(read_file(tmp_path / "absent", Axis(), tally)) == []
    assert list(read_file(tmp_path, Axis(), tally)) == []
    assert tally.unreadable == [
        f"{tmp_path / 'absent'}: No such file or directory",
        f"{tmp_path}: Is a directory",
    ]


# summary


def test_summary_counts_levels_links_and_refusals() -> None:
    summary = summary_of(
        fields(1, event="link.changed", level="info", up=True),
        fields(2, event="link.changed", level="info", up=False),
        fields(3, event="link.changed", level="info", up=True),
        fields(4, event="write.dropped", cause="no BAR there"),
        fields(5, event="call.refused", reason="EINVAL: bar"),
        fields(6, event="service.failed", level="error", reason="x"),
    )

    counted = summary.services["rc-host"].to_dict()

    assert counted["events"] == 6
    assert (counted["warnings"], counted["errors"]) == (2, 1)
    assert counted["links"] == {"link.changed": {"up": 2, "down": 1}}
    assert counted["refusals"] == {"write.dropped: no BAR there": 1, "call.refused: EINVAL: bar": 1}
    assert (summary.first, summary.last) == (wall(1), wall(6))


def test_each_new_epoch_is_a_start_and_a_restart_unless_first_of_its_run() -> None:
    epochs = [("r1", 4), ("r1", 4), ("r1", 5), ("r2", 6), ("r2", 7), ("r2", 8)]

    one = summary_of(*[fields(us, run_id=run, epoch=epoch) for us, (run, epoch) in enumerate(epochs)])

    assert (one.services["rc-host"].starts, one.services["rc-host"].restarts) == (5, 3)


def test_starts_that_never_got_to_log_are_known_from_the_supervisor() -> None:
    spawn: dict[str, Any] = {"event": "supervisor.service_started", "service": "supervisor", "name": "epc"}
    lines = [fields(us, **spawn, restarts=us) for us in range(4)]

    summary = summary_of(*lines, fields(9, service="epc", epoch=4))

    assert (summary.services["epc"].starts, summary.services["epc"].restarts) == (4, 3)
    assert summary.services["epc"].events == 1
    assert (summary.services["supervisor"].starts, summary.services["supervisor"].restarts) == (1, 0)


def test_any_number_of_causes_services_and_odd_epochs_takes_bounded_memory() -> None:
    causes = [fields(us, event="path.refused", cause=f"c{us}", epoch="x") for us in range(3 * MAX_CAUSES)]
    services = [fields(us, service=f"s{us}") for us in range(3 * MAX_SERVICES)]

    summary = summary_of(*causes, *services)

    assert len(summary.services["rc-host"].refusals) == MAX_CAUSES + 1
    assert summary.services["rc-host"].refusals[OTHERS] == 2 * MAX_CAUSES
    assert len(summary.services) == MAX_SERVICES + 1
    assert sum(one.events for one in summary.services.values()) == len(causes) + len(services)


def test_every_event_that_counts_as_a_refusal_or_link_change_exists() -> None:
    from ntbnet.app.log_summary import LINK_EVENTS, REFUSALS

    assert {"path.refused", "write.dropped", "call.refused"} <= REFUSALS.keys() <= EVENTS.keys()
    assert all(key in EVENTS[event].keys for event, key in REFUSALS.items())
    assert all("up" in EVENTS[event].keys for event in LINK_EVENTS)
