"""Choices, ratios, validity and report of ``bench throughput``; budgets that are ratios."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ntbnet.app import bench_budgets, bench_plot, bench_report, bench_throughput_report
from ntbnet.app.bench_backends import (
    FOUND,
    MERGED,
    POLLED,
    TO_RC,
    TRIGGERS,
    chosen,
    crossing_complaints,
    fabrics,
    with_fabric,
    write_config,
)
from ntbnet.app.bench_samples import ratios
from ntbnet.app.bench_throughput import Cell, Plan, settings
from ntbnet.config import load_text
from ntbnet.edge.config_file import load_config
from ntbnet.errors import ConfigError


def test_fabrics_are_those_the_configuration_takes() -> None:
    assert "message" in fabrics()
    for fabric in fabrics():
        config = load_text(f'[bridge]\nfabric = "{fabric}"\n', "test")
        assert with_fabric(load_text("", "test"), fabric).bridge == config.bridge


def test_nothing_wanted_is_everything_and_the_order_is_that_of_what_there_is() -> None:
    assert chosen((), ("a", "b"), "x") == ["a", "b"]
    assert chosen(("b", "a", "b"), ("a", "b", "c"), "x") == ["a", "b"]
    with pytest.raises(ConfigError, match="x d: available are a, b"):
        chosen(("a", "d"), ("a", "b"), "x")


def test_every_bridge_of_a_plan_has_a_configuration_of_its_own(tmp_path: Path) -> None:
    places = list(settings(load_config(None), Plan(1, 1)))

    assert [(place.fabric, place.backend, place.mtu) for place in places] == [
        (fabric, backend, mtu)
        for fabric in fabrics()
        for backend in ("doorbell", "dw-edma-testirq")
        for mtu in (1500, 65510)
    ]
    paths = {write_config(place.config, tmp_path) for place in places}
    assert len(paths) == len(places)
    for place in places:
        assert load_config(write_config(place.config, tmp_path)).netdev.mtu == place.mtu


def test_the_default_backend_is_the_one_a_bridge_chooses_by_itself() -> None:
    plan = Plan(1, 1, mtus=(1500,), only_default_backend=True)

    assert {place.backend for place in settings(load_config(None), plan)} == {"dw-edma-testirq"}
    assert {place.backend for place in settings(load_config(None, "generic"), plan)} == {"msi"}


@pytest.mark.parametrize(
    "plan", [Plan(1, 1, fabrics=("none",)), Plan(1, 1, backends=("msi",)), Plan(1, 1, mtus=(70000,))]
)
def test_what_there_is_not_is_refused_before_anything_runs(plan: Plan, tmp_path: Path) -> None:
    def load_each() -> None:
        for place in settings(load_config(None), plan):
            load_config(write_config(place.config, tmp_path))

    with pytest.raises(ConfigError):
        load_each()


def test_ratios_are_those_of_each_round() -> None:
    assert ratios([1.0, 6.0], [2.0, 3.0]) == [0.5, 2.0]
    with pytest.raises(ValueError, match="shorter"):
        ratios([1.0, 2.0], [1.0])


def cell(*speeds: float, veth: tuple[float, ...]) -> Cell:
    return Cell([{"gbit_s": speed, "valid": True} for speed in speeds], [{"gbit_s": speed} for speed in veth])


def test_cell_gives_medians_and_the_spread_of_its_ratios() -> None:
    row = cell(1.0, 2.0, 3.0, veth=(4.0, 5.0, 10.0)).as_json()

    assert (row["gbit_s"], row["veth_gbit_s"], row["ratio"]) == (2.0, 5.0, 0.3)
    assert row["rounds"]["ratio"]["samples"] == [0.25, 0.4, 0.3]
    assert [run["gbit_s"] for run in row["raw"]] == [1.0, 2.0, 3.0]
    assert row["valid"] is True


def test_a_round_that_does_not_count_is_in_no_median_but_among_the_raw_ones() -> None:
    one = cell(1.0, 9.0, 3.0, veth=(4.0, 5.0, 10.0))
    one.raw[1]["valid"] = False

    row = one.as_json()

    assert (row["gbit_s"], row["veth_gbit_s"], row["ratio"]) == (2.0, 7.0, 0.275)
    assert row["rounds"]["gbit_s"]["samples"] == [1.0, 3.0]
    assert (row["valid"], row["invalid_rounds"], len(row["raw"])) == (True, 1, 3)


def test_where_no_round_counts_neither_does_the_median() -> None:
    one = cell(1.0, veth=(4.0,))
    one.raw[0]["valid"] = False

    row = one.as_json()

    assert (row["ratio"], row["valid"], row["invalid_rounds"]) == (0.25, False, 1)


@pytest.mark.parametrize("backend", TRIGGERS)
def test_the_backend_rang_and_no_other(backend: str) -> None:
    used = TRIGGERS[backend]
    other = next(name for name in TRIGGERS.values() if name != used)
    moved = {
        **dict.fromkeys((*TRIGGERS.values(), FOUND), 0),
        "frames_rc_to_ep": 900,
        "arrived_at_ep": 900,
        "rings_rc_to_ep": 50,
        used: 50,
        "frames_ep_to_rc": 300,
        "arrived_at_rc": 300,
        "rings_ep_to_rc": 20,
        TO_RC: 17,
        MERGED: 3,
    }

    def complaints(**changed: int) -> list[str]:
        return crossing_complaints(backend, {**moved, **changed})

    assert complaints() == []
    assert complaints(**{other: 2}) == [f"another trigger was used: {other} 2"]
    assert complaints(**{FOUND: 3}) == ["3 frames were delivered by the slow look (found_by_slow_look)"]
    assert complaints(arrived_at_ep=899) == ["900 frames from RC to EP, 899 arrived"]
    assert complaints(arrived_at_rc=301) == ["300 frames from EP to RC, 301 arrived"]
    assert complaints(**{TO_RC: 16}) == [
        "rung 20 times from EP to RC, but 16 counted (msis) and 3 merged (wakes_merged)"
    ]
    assert complaints(**{MERGED: 4}) == [
        "rung 20 times from EP to RC, but 17 counted (msis) and 4 merged (wakes_merged)"
    ]
    assert complaints(rings_ep_to_rc=0, **{TO_RC: 0, MERGED: 0}) == ["300 frames from EP to RC, rung 0 times"]
    assert complaints(rings_rc_to_ep=901, **{used: 901}) == ["900 frames from RC to EP, rung 901 times"]
    for counted in (0, 51):
        (complaint,) = complaints(**{used: counted})
        assert complaint.startswith(f"rung 50 times from RC to EP, but {counted} ")


@pytest.mark.parametrize("backend", TRIGGERS)
def test_only_a_poll_may_find_several_rings_as_one(backend: str) -> None:
    frames = {"frames_rc_to_ep": 9, "arrived_at_ep": 9, "frames_ep_to_rc": 9, "arrived_at_rc": 9}
    rings = {"rings_rc_to_ep": 5, "rings_ep_to_rc": 9, TO_RC: 9, MERGED: 0, FOUND: 0}
    counted = {**dict.fromkeys(TRIGGERS.values(), 0), TRIGGERS[backend]: 4}

    found = crossing_complaints(backend, {**frames, **rings, **counted})

    assert found == (
        [] if backend == POLLED else [f"rung 5 times from RC to EP, but 4 counted ({TRIGGERS[backend]})"]
    )


def row(fabric: str, backend: str, mtu: int, ratio: float, **changed: Any) -> dict[str, Any]:
    whole = {"fabric": fabric, "backend": backend, "mtu": mtu, "streams": 1, "protocol": "tcp"}
    measured = cell(ratio * 10, veth=(10.0,)).as_json()
    return {**whole, "direction": "rc->ep", **measured, **changed}


@pytest.fixture
def result() -> dict[str, Any]:
    rows = [
        row("message", "dw-edma-testirq", 65510, 0.15),
        row("message", "dw-edma-testirq", 65510, 0.01, streams=4),
        row("message", "dw-edma-testirq", 65510, 0.01, protocol="udp"),
        row("message", "dw-edma-testirq", 1500, 0.01),
        row("local", "dw-edma-testirq", 1500, 0.39, valid=False),
        row("local", "doorbell", 65510, 0.0597),
    ]
    bounds = {"65510": {"rc->ep": 0.3931, "rc->ep_whole_ring": 0.5678}}
    about = {"cores": 2, "cpu": "test", "kernel": "6.1", "python": "3.11", "loadavg": [0.1, 0.2, 0.3]}
    result = {
        "profile": "r-car-s4",
        "rounds": 1,
        "seconds": 1,
        "version": "0",
        "results": rows,
        "tcp_bounds_gbit_s": bounds,
        "config": {"netdev": {"offloads": True, "poll": "adaptive"}},
        "machine": {**about, "tcp_congestion": "bbr"},
    }
    result["budgets"] = bench_budgets.as_json(bench_budgets.throughput_rows(result, "doorbell"))
    return result


def test_budgets_are_for_one_stream_of_tcp_where_there_is_one(result: dict[str, Any]) -> None:
    judged = [(row["what"], row["is_wish"], row["within"]) for row in result["budgets"]]

    message = "message, dw-edma-testirq, TCP rc->ep, MTU 65510 / veth"
    local = "local, dw-edma-testirq, TCP rc->ep, MTU 1500 / veth"
    polled = "local, doorbell, TCP rc->ep, MTU 65510"
    assert judged == [
        *((message, False, True), (message, True, False)),
        *((local, False, None), (local, True, None)),
        (polled, False, False),
        (f"{polled}, bound by the poll alone", False, True),
    ]


@pytest.mark.parametrize(
    ("gbit_s", "within"),
    [(0.31, [True, False]), (0.32, [True, True]), (0.59, [True, True]), (0.6, [False, True])],
)
def test_polled_tcp_is_bound_by_the_poll_and_by_nothing_else(
    result: dict[str, Any], gbit_s: float, within: list[bool]
) -> None:
    result["results"] = [row("local", "doorbell", 65510, gbit_s / 10)]

    assert [row.within for row in bench_budgets.throughput_rows(result, "doorbell")] == within


@pytest.mark.parametrize(
    ("changed", "why"),
    [({"offloads": False}, "netdev.offloads is false"), ({"poll": "never"}, "netdev.poll is never")],
)
def test_shares_of_veth_bind_the_configuration_they_are_meant_for(
    result: dict[str, Any], changed: dict[str, Any], why: str
) -> None:
    result["config"]["netdev"] |= changed

    rows = bench_budgets.throughput_rows(result, "doorbell")

    shares = [row for row in rows if row.what.endswith("veth")]
    assert len(shares) == 4
    assert {row.within for row in shares} == {None}
    assert shares[0].why.startswith(why)
    assert [row.within for row in rows if row not in shares] == [False, True]


@pytest.fixture
def latencies() -> dict[str, Any]:
    ratios = {"ratio_to_pump": 2.0, "ratio_to_veth": 5.0, "p50_us": 121.2}
    return {
        "results": [
            {"fabric": fabric, "backend": backend, "avg_us": 6200.0, "pump": pump, "valid": True, **ratios}
            for fabric, pump in (("message", "pump_zmq"), ("local", "pump_shm"))
            for backend in ("doorbell", "dw-edma-testirq")
        ],
        "ratios_polled_to_edma": {"message": 11.0, "local": 50.0},
        "pump_shm": {"avg_us": 30.0, "valid": True},
        "pump_zmq": {"avg_us": 90.0, "valid": True},
        "veth": {"avg_us": 20.0, "valid": True},
        "poll_period_ms": 12.0,
    }


def test_ping_pong_budgets_are_ratios_to_the_fabrics_own_pump(latencies: dict[str, Any]) -> None:
    judged = bench_budgets.latency_rows(latencies)

    assert [(row.what, row.within) for row in judged] == [
        ("message, polled, ping-pong average", True),
        ("message, eDMA, ping-pong p50 / pump_zmq", True),
        ("message, eDMA, ping-pong p50 / veth", True),
        ("local, polled, ping-pong average", True),
        ("local, eDMA, ping-pong p50 / pump_shm", False),
        ("local, eDMA, ping-pong p50 / veth", False),
        ("local, eDMA, ping-pong p50", False),
        ("message, polled / eDMA, averages", False),
        ("message, polled / eDMA, averages", False),
        ("local, polled / eDMA, averages", True),
        ("local, polled / eDMA, averages", False),
    ]


@pytest.mark.parametrize(
    ("wrong", "unjudged"),
    [("pump_zmq", ["message, eDMA, ping-pong p50 / pump_zmq"]), ("veth", ["message", "local"])],
)
def test_a_ratio_to_a_reference_that_does_not_count_is_not_judged(
    latencies: dict[str, Any], wrong: str, unjudged: list[str]
) -> None:
    latencies[wrong]["valid"] = False

    found = [row.what for row in bench_budgets.latency_rows(latencies) if row.within is None]

    assert all(
        what.startswith(start) and what.endswith(wrong) for what, start in zip(found, unjudged, strict=True)
    )


def test_a_run_that_does_not_count_is_not_judged(latencies: dict[str, Any]) -> None:
    for row in latencies["results"]:
        row["valid"] = False
    latencies["ratios_polled_to_edma"] = dict.fromkeys(("message", "local"))

    judged = bench_budgets.latency_rows(latencies)

    assert len(judged) == 11
    assert {(row.within, row.why) for row in judged} == {(None, "INVALID")}


@pytest.mark.parametrize(
    ("pump", "why"),
    [
        ({"avg_us": 81.0, "valid": True}, "pump_shm averages 81.0 us, above 80"),
        ({"avg_us": 30.0, "valid": False}, "pump_shm is INVALID"),
    ],
)
def test_figures_of_the_boards_bind_only_their_poll_and_machines_that_could_reach_them(
    latencies: dict[str, Any], pump: dict[str, Any], why: str
) -> None:
    latencies |= {"poll_period_ms": 10.0, "pump_shm": pump}
    latencies["results"] = [row for row in latencies["results"] if row["fabric"] == "local"] + [
        row for row in latencies["results"] if (row["fabric"], row["backend"]) == ("message", "doorbell")
    ]
    latencies["ratios_polled_to_edma"]["message"] = None

    found = {
        (row.what, row.measured, row.within, row.why)
        for row in bench_budgets.latency_rows(latencies)
        if "polled" in row.what
    }

    other_poll = "polled every 10 ms, the boards 12"
    assert found == {
        ("local, polled, ping-pong average", 6200.0, None, other_poll),
        ("message, polled, ping-pong average", 6200.0, None, other_poll),
        ("local, polled / eDMA, averages", 50.0, None, why),
        ("message, polled / eDMA, averages", None, None, "no dw-edma-testirq backend"),
    }


def test_a_figure_that_there_is_not_is_shown_with_its_reason(latencies: dict[str, Any]) -> None:
    latencies["ratios_polled_to_edma"] = {"local": None}
    latencies["results"] = []
    shown_on = StringIO()

    bench_report.show_budgets(
        bench_budgets.as_json(bench_budgets.latency_rows(latencies)), Console(file=shown_on, width=200)
    )

    assert shown_on.getvalue().count("not judged: no doorbell backend") == 2


def test_table_shows_spread_and_what_does_not_count(result: dict[str, Any]) -> None:
    shown_on = StringIO()

    bench_throughput_report.show(result, Console(file=shown_on, width=200))

    lines = shown_on.getvalue().splitlines()
    assert any("1.500 (1.500..1.500)" in line and "INVALID" not in line for line in lines)
    assert sum(line.rstrip().endswith(" INVALID") and "not judged" not in line for line in lines) == 1
    assert sum("not judged: INVALID" in line for line in lines) == 2
    assert sum("MISSED" in line for line in lines) == 1


def test_picture_is_a_png(result: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "tcp.png"

    bench_plot.draw_throughput(result, path)

    image = path.read_bytes()
    assert image.startswith(b"\x89PNG\r\n")
    assert int.from_bytes(image[16:20], "big") > 1000
