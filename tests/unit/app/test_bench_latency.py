"""Percentiles, validity, result and picture of ``bench latency``."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from ntbnet.app import bench_latency_report, bench_plot
from ntbnet.app.bench_backends import (
    FOUND,
    MERGED,
    TO_RC,
    TRIGGERS,
    backend_configs,
    backend_counts,
    complaints,
    difference,
    loss_complaints,
    settled_counts,
    write_config,
)
from ntbnet.app.bench_hops import route
from ntbnet.app.bench_latencies import PUBLISHED, QUANTILES, Latencies
from ntbnet.app.bench_sockperf import sockperf_result
from ntbnet.app.bench_tally import Tally, summary
from ntbnet.config import load_text
from ntbnet.edge.config_file import load_config
from ntbnet.errors import SetupError

SOCKPERF = """\
sockperf: [Total Run] RunTime=1.000 sec; Warm up time=400 msec; SentMessages=46; ReceivedMessages=46
sockperf: [Valid Duration] RunTime=0.511 sec; SentMessages=24; ReceivedMessages=24
sockperf: \x1b[2;35m====> avg-latency=61.597 (std-dev=20.962)\x1b[0m
sockperf: # dropped messages = 0; # duplicated messages = 0; # out-of-order messages = 0
sockperf: ---> <MAX> observation =  106.237
sockperf: ---> percentile 99.999 =  106.237
sockperf: ---> percentile 99.990 =  106.237
sockperf: ---> percentile 99.900 =  106.237
sockperf: ---> percentile 99.000 =  106.237
sockperf: ---> percentile 90.000 =   96.958
sockperf: ---> percentile 75.000 =   82.542
sockperf: ---> percentile 50.000 =   51.085
sockperf: ---> percentile 25.000 =   47.515
sockperf: ---> <MIN> observation =   40.675
"""
"""A real report (version 3.7, loopback); the latencies below are from the full log of the same run."""
FULL_LOG_US = (
    *(51.085, 42.959, 48.051, 51.417, 52.163, 44.180, 45.151, 50.034, 40.675, 48.547, 50.324, 50.064),
    *(54.555, 53.319, 47.515, 46.524, 54.906, 96.958, 99.697, 85.576, 106.237, 85.376, 82.542, 90.494),
)


# percentiles


def test_our_figures_are_those_of_sockperfs_own_report() -> None:
    log = "\n".join(f"{number}, 2.4, 2.5, {value}" for number, value in enumerate(FULL_LOG_US))
    report = sockperf_result(SOCKPERF, log)

    figures = Latencies(report["samples_us"]).figures()

    assert figures["samples"] == report["n"] == 24
    assert figures["avg_us"] == pytest.approx(report["average_us"], abs=0.0011)
    assert figures["stddev_us"] == pytest.approx(report["std_dev_us"], abs=0.0011)
    assert (figures["min_us"], figures["max_us"]) == (report["min_us"], report["max_us"])
    printed = {float(name): value for name, value in report["percentiles_us"].items()}
    assert printed == {round(100 * share, 3): figures[key] for key, share in QUANTILES.items()}


@pytest.mark.parametrize("output", [SOCKPERF.replace("SentMessages", ""), SOCKPERF.replace("# dropped", "")])
def test_a_report_without_its_counts_is_refused(output: str) -> None:
    with pytest.raises(SetupError, match="measured nothing"):
        sockperf_result(output, "0, 1.0, 2.0, 3.0\n")


@given(st.lists(st.floats(0.1, 1e6), min_size=1, max_size=200))
def test_figures_rise_from_least_to_greatest_and_are_measured_ones(values: list[float]) -> None:
    latencies = Latencies(values)

    rising = [latencies.percentile(share) for share in sorted(QUANTILES.values())]

    assert rising == sorted(rising)
    assert set(rising) <= set(values)
    assert latencies.percentile(1.0) == max(values)
    assert min(values) <= latencies.average_us * (1 + 1e-9)
    assert latencies.average_us <= max(values) * (1 + 1e-9)


def test_one_latency_has_no_deviation_and_none_is_refused() -> None:
    assert Latencies([5.0]).figures()["stddev_us"] == 0
    with pytest.raises(ValueError, match="no latency"):
        Latencies([])


def test_published_rows_are_those_of_the_cover_letter() -> None:
    polled, edma = PUBLISHED

    assert polled.keys() == edma.keys() == {"backend", *Latencies([1.0]).figures(), *counts_of_losses()}
    assert (polled["avg_us"], edma["avg_us"]) == (5995.68, 127.677)
    assert (polled["max_us"], edma["max_us"]) == (6121.137, 446.691)
    assert polled["avg_us"] / edma["avg_us"] == pytest.approx(46.96, abs=0.01)


def counts_of_losses() -> set[str]:
    return {"dropped", "duplicated", "out_of_order"}


# validity


def counts(backend: str = "msi", /, **changed: int) -> dict[str, int]:
    """Of 100 messages and their answers, with three more frames each way, one of them in another's burst."""
    return {
        "frames_rc_to_ep": 103,
        "arrived_at_ep": 103,
        "rings_rc_to_ep": 102,
        "frames_ep_to_rc": 103,
        "arrived_at_rc": 103,
        "rings_ep_to_rc": 102,
        TO_RC: 101,
        MERGED: 1,
        **dict.fromkeys(TRIGGERS.values(), 0),
        FOUND: 0,
        TRIGGERS[backend]: 102,
        **changed,
    }


@pytest.mark.parametrize("backend", TRIGGERS)
def test_a_run_whose_rings_were_all_counted_counts(backend: str) -> None:
    assert complaints(backend, counts(backend), 100) == []


def test_polls_may_find_two_rings_at_once_but_no_two_messages() -> None:
    assert complaints("doorbell", counts("doorbell", doorbell_polls_hit=100), 100) == []
    (complaint,) = complaints("doorbell", counts("doorbell", doorbell_polls_hit=99), 100)
    assert complaint == "doorbell: 100 messages, but 99 polls found the doorbell"


@pytest.mark.parametrize(
    ("backend", "changed", "reason"),
    [
        *(
            (
                backend,
                {TRIGGERS[backend]: counted},
                f"rung 102 times from RC to EP, but {counted} counted ({TRIGGERS[backend]})",
            )
            for backend in ("dw-edma-testirq", "msi")
            for counted in (0, 101, 103)
        ),
        ("msi", {"rings_rc_to_ep": 101}, "rung 101 times from RC to EP, but 102 counted (local_msis)"),
        ("msi", {"test_interrupts": 1}, "another trigger was used: test_interrupts 1"),
        ("msi", {"doorbell_polls_hit": 2}, "another trigger was used: doorbell_polls_hit 2"),
        (
            "doorbell",
            {"doorbell_polls_hit": 103},
            "rung 102 times from RC to EP, but 103 polls found it (doorbell_polls_hit)",
        ),
        ("doorbell", {"arrived_at_ep": 102}, "103 frames from RC to EP, 102 arrived"),
        (
            "msi",
            {"rings_rc_to_ep": 99, "local_msis": 99},
            "100 messages, but rung 99 times from RC to EP",
        ),
        (
            "msi",
            {"rings_rc_to_ep": 104, "local_msis": 104},
            "103 frames from RC to EP, rung 104 times",
        ),
    ],
)
def test_a_run_whose_counters_contradict_it_is_refused(
    backend: str, changed: dict[str, int], reason: str
) -> None:
    assert complaints(backend, counts(backend, **changed), 100) == [f"{backend}: {reason}"]


@pytest.mark.parametrize("messages", [104, 38])
def test_a_run_with_too_few_or_too_many_frames_is_refused(messages: int) -> None:
    found = complaints("msi", counts(rings_ep_to_rc=103, msis=102), messages)

    assert found == [f"msi: {messages} messages, but 103 frames from RC to EP"]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (
            {TO_RC: 100},
            "rung 102 times from EP to RC, but 100 counted (msis) and 1 merged (wakes_merged)",
        ),
        (
            {MERGED: 2},
            "rung 102 times from EP to RC, but 101 counted (msis) and 2 merged (wakes_merged)",
        ),
        (
            {"rings_ep_to_rc": 101},
            "rung 101 times from EP to RC, but 101 counted (msis) and 1 merged (wakes_merged)",
        ),
        ({"rings_ep_to_rc": 99, TO_RC: 98}, "100 messages, but rung 99 times from EP to RC"),
        ({"rings_ep_to_rc": 104, TO_RC: 103}, "103 frames from EP to RC, rung 104 times"),
        ({"arrived_at_rc": 102}, "103 frames from EP to RC, 102 arrived"),
    ],
)
def test_a_run_whose_answers_were_not_rung_or_are_missing_is_refused(
    changed: dict[str, int], reason: str
) -> None:
    assert complaints("msi", counts(**changed), 100) == [f"msi: {reason}"]


def test_a_run_in_which_a_slow_look_delivered_frames_is_refused() -> None:
    found = complaints("msi", counts(**{FOUND: 2}), 100)

    assert found == ["msi: 2 frames were delivered by the slow look (found_by_slow_look)"]


def test_frames_found_are_those_of_every_queue_at_both_ends() -> None:
    answer = status(1)
    first, second = answer["link"]["queues"]
    first["rc"]["found"], first["ep"]["found"], second["ep"]["found"] = 1, 20, 300

    assert backend_counts(answer)[FOUND] == 321


def test_a_run_without_losses_counts() -> None:
    assert loss_complaints("veth", 0, 0, 0) == []


@pytest.mark.parametrize("losses", [(3, 0, 0), (0, 3, 0), (0, 0, 3)])
def test_a_run_that_lost_doubled_or_overtook_a_message_is_refused(losses: tuple[int, int, int]) -> None:
    dropped, duplicated, late = losses
    reason = f"msi: {dropped} messages dropped, {duplicated} duplicated, {late} out of order"

    assert loss_complaints("msi", *losses) == [reason]


OWN = ("counters", "stores", "wakes")


def status(frames: int, **changed: str) -> dict[str, Any]:
    services: list[dict[str, Any]] = [
        {"name": name, "state": changed.get(name.replace("-", "_"), "up"), **{key: {} for key in OWN}}
        for name in ("rc-host", "epc", "edma", "peer-rc", "peer-ep")
    ]
    services[1]["counters"] = {"doorbell_polls_hit": frames}
    queue = {
        "rc": {"tx_pkts": frames, "rx_pkts": 1, "rings": frames},
        "ep": {"tx_pkts": 2, "rx_pkts": frames, "rings": 1},
    }
    return {"services": services, "link": {"queues": [queue, {"rc": {}, "ep": {}}]}}


def test_counters_are_taken_once_they_do_not_move_any_more() -> None:
    answers = [status(frames) for frames in (3, 5, 6, 6, 9)]

    taken = settled_counts(lambda: answers.pop(0), lambda _: None)

    assert (taken["frames_rc_to_ep"], taken["doorbell_polls_hit"]) == (6, 6)
    assert difference(backend_counts(status(2)), taken)["arrived_at_ep"] == 4


def test_rings_of_the_host_are_counted_once_whichever_way_they_took() -> None:
    answer = status(1)
    services = {service["name"]: service for service in answer["services"]}
    services["rc-host"]["counters"] = {"msis": 1}
    services["peer-rc"]["counters"] = {"msis": 20}
    services["peer-ep"]["wakes"] = {"wakes_merged": 300}

    taken = backend_counts(answer)

    assert (taken[TO_RC], taken[MERGED]) == (21, 300)


def test_rings_that_met_an_equal_one_are_counted_once_wherever_they_met() -> None:
    """Each of the endpoint's rings is one MSI, or merged; what became of the MSI later does not count."""
    answer = status(1)
    services = {service["name"]: service for service in answer["services"]}
    services["peer-ep"]["wakes"] = {"wakes_merged": 1, "interrupts_collapsed_from_edma": 10}
    services["epc"]["wakes"] = {"interrupts_collapsed_from_peer-ep": 200}
    services["peer-rc"]["wakes"] = {
        "interrupts_collapsed_from_peer-ep": 4000,
        "interrupts_collapsed_from_rc-host": 50_000,
    }

    assert backend_counts(answer)[MERGED] == 4201


def test_rings_are_those_of_every_queue_by_who_rang() -> None:
    answer = status(7)
    answer["link"]["queues"][1] = {"rc": {"rings": 20}, "ep": {"rings": 300}}

    taken = backend_counts(answer)

    assert (taken["rings_rc_to_ep"], taken["rings_ep_to_rc"]) == (27, 301)


def test_a_service_that_does_not_answer_is_named() -> None:
    with pytest.raises(SetupError, match="edma did not answer"):
        backend_counts(status(1, edma="silent"))


@pytest.mark.parametrize(
    ("profile", "expected"),
    [
        ("r-car-s4", ["doorbell", "dw-edma-testirq"]),
        ("r-car-s4-db-in-bar0", ["doorbell", "dw-edma-testirq"]),
        ("rk3588", ["doorbell", "dw-edma-testirq"]),
        ("generic", ["doorbell", "dw-edma-testirq", "msi"]),
    ],
)
def test_each_profile_gives_its_backends(profile: str, expected: list[str], tmp_path: Path) -> None:
    found = backend_configs(load_config(None, profile))

    assert list(found) == expected
    for config in found.values():
        assert load_config(write_config(config, tmp_path)) == config
    assert found["doorbell"].transport.interrupts == "false"


def test_a_layout_without_a_window_for_interrupts_has_doorbells_only() -> None:
    plain = load_text(
        "[ntb]\nnum_mws = 1\nmw2 = 0\nmw2_bar = -1\nmw2_offset = 0\nmw2_target = 'none'", "test"
    )

    assert list(backend_configs(plain)) == ["doorbell"]


# the result


def measured(*latencies_us: float, backend: str = "doorbell", fabric: str = "message") -> Tally:
    hops = [(1000,) * (len(route(fabric, backend)) + 1)]
    plain_us = [2 * latency_us + 50 for latency_us in latencies_us]
    return Tally(
        rounds_us=[list(latencies_us)],
        pings_sent=2,
        pings_ms=[1.0, 2.0],
        messages=3,
        hops=hops,
        plain_us=plain_us,
    )


REFERENCES = {
    "veth": measured(*(float(n) for n in range(5, 9000))),
    "pump_shm": measured(30.0),
    "pump_zmq": measured(50.0),
}


@pytest.fixture
def result() -> dict[str, Any]:
    tallies = {
        ("message", "doorbell"): measured(6000.0, 5000.0),
        ("message", "dw-edma-testirq"): measured(120.0, 100.0, backend="dw-edma-testirq"),
    }
    about = {"cores": 2, "cpu": "test", "kernel": "6.1", "python": "3.11", "loadavg": [0.1, 0.2, 0.3]}
    return {
        **summary(tallies, REFERENCES),
        "profile": "r-car-s4",
        "fabrics": ["message"],
        "tool": "sockperf",
        "rounds": 1,
        "seconds": 1,
        "version": "0",
        "machine": about,
        "published": list(PUBLISHED),
        "budgets": [],
    }


def test_ratio_is_that_of_the_averages(result: dict[str, Any]) -> None:
    assert result["ratio_polled_to_edma"] == 50.0
    assert [row["backend"] for row in result["results"]] == ["doorbell", "dw-edma-testirq"]
    assert result["results"][0]["ping"] == {
        "sent": 2,
        "received": 2,
        "min_ms": 1.0,
        "avg_ms": 1.5,
        "max_ms": 2.0,
    }


def test_ratios_are_medians_of_the_ratios_of_each_round() -> None:
    mine = measured(100.0, backend="dw-edma-testirq")
    mine.rounds_us = [[90.0, 100.0, 400.0], [210.0], [300.0]]
    slowing = measured()
    slowing.rounds_us = [[50.0], [100.0], [200.0]]
    references = dict.fromkeys(REFERENCES, slowing)

    row = summary({("message", "dw-edma-testirq"): mine}, {**references, "pump_shm": measured(1.0)})[
        "results"
    ][0]

    assert (row["ratio_to_veth"], row["ratio_to_pump"], row["pump"]) == (2.0, 2.0, "pump_zmq")
    assert row["rounds"]["ratio_to_pump"]["samples"] == [2.0, 2.1, 1.5]
    assert row["rounds"]["p50_us"]["samples"] == [100.0, 210.0, 300.0]


def test_the_local_fabric_is_compared_with_shared_memory_and_its_ratio_is_its_own() -> None:
    tallies = {
        ("message", "doorbell"): measured(6000.0),
        ("message", "dw-edma-testirq"): measured(600.0, backend="dw-edma-testirq"),
        ("local", "doorbell"): measured(6000.0, fabric="local"),
        ("local", "dw-edma-testirq"): measured(60.0, backend="dw-edma-testirq", fabric="local"),
    }

    found = summary(tallies, REFERENCES)

    assert found["results"][3]["ratio_to_pump"] == 2.0
    assert found["ratios_polled_to_edma"] == {"message": 10.0, "local": 100.0}
    assert (found["fabric"], found["ratio_polled_to_edma"]) == ("message", 10.0)


def test_without_the_edma_there_is_no_ratio_and_a_complaint_is_kept() -> None:
    polled = measured(6000.0)
    polled.invalid.append("doorbell: 1 messages, but 0 frames from RC to EP")

    found = summary({("message", "doorbell"): polled}, REFERENCES)

    assert found["ratio_polled_to_edma"] is None
    assert found["invalid"] == polled.invalid
    assert found["results"][0]["valid"] is False


def test_a_run_that_does_not_count_gives_no_ratio() -> None:
    refused = measured(120.0, backend="dw-edma-testirq")
    refused.invalid.append("dw-edma-testirq: 103 frames from RC to EP, but 0 rings (test_interrupts)")

    tallies = {("message", "doorbell"): measured(6000.0), ("message", "dw-edma-testirq"): refused}
    found = summary(tallies, REFERENCES)

    assert found["ratio_polled_to_edma"] is None
    assert [row["valid"] for row in found["results"]] == [True, False]


def test_hops_are_compared_with_the_program_they_were_taken_with() -> None:
    found = summary({("message", "doorbell"): measured(6000.0, 6100.0, 5900.0)}, REFERENCES)

    assert found["results"][0]["p50_us"] == 6000.0
    assert found["results"][0]["hops"]["round_trip_us"] == 12050.0


def test_a_veth_run_with_losses_is_shown_as_invalid(result: dict[str, Any]) -> None:
    shown_on = StringIO()
    result["veth"]["valid"] = False

    bench_latency_report.show(result, Console(file=shown_on, width=200))

    assert shown_on.getvalue().count("INVALID") == 1


def test_table_has_every_published_figure_beside_ours(result: dict[str, Any]) -> None:
    shown_on = StringIO()

    bench_latency_report.show(result, Console(file=shown_on, width=200))

    shown = shown_on.getvalue()
    for row in PUBLISHED:
        assert all(f"{row[key]:.3f}" in shown for key in bench_latency_report.FIGURES)
    assert "5500.000" in shown
    assert "polled / eDMA, averages: 50.0 (published: 47.0)" in shown


def test_picture_is_a_png_of_some_size(result: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "latency.png"
    samples = {
        "message doorbell": [6000.0, 5000.0],
        "message dw-edma-testirq": [120.0],
        "veth": [float(n) for n in range(5, 9000)],
    }

    bench_plot.require_matplotlib(path)
    bench_plot.draw(result, samples, path)

    image = path.read_bytes()
    assert image.startswith(b"\x89PNG\r\n")
    assert int.from_bytes(image[16:20], "big") > 1000


@pytest.mark.parametrize(
    ("name", "reason"), [("x.pdf", r"must end in \.png"), ("none/x.png", "there is no folder")]
)
def test_a_picture_that_cannot_be_written_is_refused_at_once(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(SetupError, match=reason):
        bench_plot.require_matplotlib(tmp_path / name)
