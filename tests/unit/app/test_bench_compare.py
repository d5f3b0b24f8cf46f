"""Two results side by side: what counts as a figure, and as a difference."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ntbnet.app.bench_compare import compare, figures, read_result, show, warnings
from ntbnet.app.bench_samples import Samples
from ntbnet.errors import ConfigError


def samples(*values: float) -> dict[str, Any]:
    return Samples.of(values).as_json()


def result(*values: float, bench: str = "throughput", fabric: str = "message") -> dict[str, Any]:
    row = {"fabric": fabric, "backend": "msi", "mtu": 1500, "rounds": {"ratio": samples(*values)}}
    return {"bench": bench, "wall": 1.0, "results": [row], "machine": {"loadavg": [0.1, 0.2, 0.3]}}


def test_figures_are_named_after_their_row() -> None:
    body = {**result(1.0, 2.0), "veth": {"rounds": {"p50_us": samples(3.0)}}}

    assert [(name, found["median"]) for name, found in figures(body)] == [
        ("message msi 1500 ratio", 1.5),
        ("veth p50_us", 3.0),
    ]


@pytest.mark.parametrize(
    ("before", "after", "differs"),
    [
        ((1.0, 2.0, 3.0), (4.0, 4.0, 4.1), False),
        ((1.0, 2.0, 3.0), (4.1, 4.1, 4.2), True),
        ((4.1, 4.1, 4.2), (1.0, 2.0, 3.0), True),
        ((2.0, 2.0), (2.0, 2.0), False),
        ((2.0,), (9.0, 9.0), None),
        ((2.0, 2.0), (9.0,), None),
    ],
)
def test_a_difference_is_wider_than_both_spreads(
    before: tuple[float, ...], after: tuple[float, ...], differs: bool | None
) -> None:
    (row,) = compare(result(*before), result(*after))

    assert row["differs"] is differs


def test_change_is_in_percent_of_the_first() -> None:
    (row,) = compare(result(4.0, 4.2, 4.1), result(8.2, 8.3, 8.1))

    assert (row["before"], row["after"], row["change_percent"]) == (4.1, 8.2, 100.0)
    assert (row["spread_before"], row["spread_after"]) == (0.2, 0.2)
    (row,) = compare(result(0.0, 0.0), result(1.0, 1.0))
    assert (row["change_percent"], row["differs"]) == (None, True)


def test_only_what_both_have_is_compared() -> None:
    more = result(1.0, 2.0)
    more["results"] += result(5.0, fabric="local")["results"]

    assert [row["figure"] for row in compare(more, result(1.0, 2.0))] == ["message msi 1500 ratio"]
    with pytest.raises(ConfigError, match="no figure in common"):
        compare(result(1.0), result(1.0, fabric="local"))
    with pytest.raises(ConfigError, match="different benches: throughput and latency"):
        compare(result(1.0), result(1.0, bench="latency"))


@pytest.mark.parametrize(
    "found", [{"n": 2, "min": "1", "median": 1.0, "max": 2.0, "samples": []}, {"n": 2, "min": 1.0}]
)
def test_what_only_looks_like_a_figure_is_none(found: dict[str, Any]) -> None:
    assert list(figures({"bench": "x", "figure": found})) == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [("{", "no JSON"), ("[]", "not what"), ('{"bench": 1}', "not what"), (None, "No such file")],
)
def test_a_file_that_holds_no_result_is_refused(tmp_path: Path, text: str | None, reason: str) -> None:
    path = tmp_path / "a.json"
    if text is not None:
        path.write_text(text, encoding="utf-8")

    with pytest.raises(ConfigError, match=reason):
        read_result(path)


def test_a_result_is_read_as_it_was_printed(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(result(1.0), indent=2), encoding="utf-8")

    assert read_result(path) == result(1.0)


def test_table_marks_what_differs() -> None:
    shown_on = StringIO()

    show(compare(result(1.0, 1.1), result(2.0, 2.1)), [], Console(file=shown_on, width=200))

    (line,) = [line for line in shown_on.getvalue().splitlines() if "message msi" in line]
    assert line.split()[-3:] == ["+95.2", "%", "*"]


@pytest.mark.parametrize(
    ("change", "warned"),
    [
        ({}, []),
        ({"wall": 2.0}, []),
        ({"machine": {"cpu": "a", "python": "3.12", "loadavg": [9.0]}}, ["machine.python: 3.11, then 3.12"]),
        ({"machine": {"cpu": "a"}}, ["machine.python: 3.11, then not in that result"]),
        ({"profile": "generic"}, ["profile: r-car-s4, then generic"]),
        ({"config": {"netdev": {"queues": 2}}}, ["config.netdev.queues: 1, then 2"]),
        ({"rounds": 5}, ["rounds: 3, then 5"]),
        ({"invalid": ["x", "y"]}, ["the second result has 2 measurements that do not count: x"]),
        ({"unverified": ["z"]}, ["the second result has 1 measurements that do not count: z"]),
        ({"results": [{"fabric": "local"}]}, ["fabrics: message, then local"]),
    ],
)
def test_what_else_is_not_the_same_is_warned_of(change: dict[str, Any], warned: list[str]) -> None:
    before = {
        **result(1.0),
        "machine": {"cpu": "a", "python": "3.11", "loadavg": [0.1]},
        "profile": "r-car-s4",
        "rounds": 3,
        "config": {"netdev": {"queues": 1}},
    }
    shown_on = StringIO()

    found = warnings(before, {**before, **change})
    show([], found, Console(file=shown_on, width=200))

    assert found == warned
    assert shown_on.getvalue().count("NOT THE SAME") == len(warned)
