"""``bench latency`` on real bridges, with very short runs."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ntbnet.app import bench_latency_report
from ntbnet.app.bench_backends import MERGED, POLLED, TO_RC, TRIGGERS, backend_configs, fabrics
from ntbnet.app.bench_latencies import PUBLISHED, QUANTILES
from ntbnet.app.bench_tally import PUMP_OF, REFERENCES
from ntbnet.edge.config_file import load_config
from tests.live.bridge import leftovers, new_name

pytestmark = [pytest.mark.system, pytest.mark.needs_tun, pytest.mark.slow, pytest.mark.timeout(240)]

FIGURES = {"avg_us", "stddev_us", "min_us", *QUANTILES, "max_us", "samples"}
LOSSES = {"dropped", "duplicated", "out_of_order"}


@pytest.fixture
def name() -> Iterator[str]:
    name = new_name()
    yield name
    assert leftovers(name) == []


def measure(name: str, *words: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ntbnet.app.cli", "bench", "latency", "--quick", "--name", name, *words],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        env={**os.environ, **({} if path is None else {"PATH": path})},
    )


def check(result: dict[str, Any], profile: str, fabrics: Sequence[str]) -> None:
    """Every promised key, and counters that match."""
    backends = list(backend_configs(load_config(None, profile)))
    expected = [(fabric, backend) for fabric in fabrics for backend in backends]
    assert [(row["fabric"], row["backend"]) for row in result["results"]] == expected
    assert result["profile"] == profile
    assert result["fabrics"] == list(fabrics)
    assert result["fabric"] == fabrics[0]
    assert result["published"] == [dict(row) for row in PUBLISHED]
    assert result["invalid"] == []
    assert all(any(PUMP_OF[fabric] in row["what"] for row in result["budgets"]) for fabric in fabrics)
    assert {"cpu", "cores", "kernel", "python", "loadavg", "loadavg_after"} <= result["machine"].keys()
    for row in (*result["results"], *(result[name] for name in REFERENCES)):
        assert row.keys() >= {*FIGURES, *LOSSES, "ping"}
        assert [row[key] for key in LOSSES] == [0, 0, 0]
        assert row["samples"] > 10
        assert row["ping"]["received"] == row["ping"]["sent"] > 0
    for row in result["results"]:
        for key, name in (("ratio_to_veth", "veth"), ("ratio_to_pump", row["pump"])):
            assert row[key] == pytest.approx(row["p50_us"] / result[name]["p50_us"], rel=0.01)
        moved, hops = row["backend_counts"], row["hops"]
        assert row["samples"] <= row["messages"] <= moved["frames_rc_to_ep"] == moved["arrived_at_ep"]
        assert {name for name in TRIGGERS.values() if moved[name]} == {TRIGGERS[row["backend"]]}
        assert moved["rings_rc_to_ep"] >= row["messages"]
        assert moved["frames_ep_to_rc"] == moved["arrived_at_rc"] >= row["samples"]
        assert moved[TO_RC] + moved[MERGED] == moved["rings_ep_to_rc"] >= row["samples"]
        if row["backend"] != POLLED:
            assert moved[TRIGGERS[row["backend"]]] == moved["rings_rc_to_ep"]
        assert hops["trips"] > 0
        assert hops["sum_us"] == pytest.approx(sum(hop["p50_us"] for hop in hops["hops"]), abs=0.1)
    for fabric in fabrics:
        averages = {row["backend"]: row["avg_us"] for row in result["results"] if row["fabric"] == fabric}
        # half of a 12 ms period, however slow the machine
        assert averages["doorbell"] > 5000
        assert result["veth"]["avg_us"] < min(averages.values())
        if "dw-edma-testirq" in averages:
            ratio = averages["doorbell"] / averages["dw-edma-testirq"]
            assert result["ratios_polled_to_edma"][fabric] == pytest.approx(ratio, rel=0.01)
    assert result["ratio_polled_to_edma"] == result["ratios_polled_to_edma"][result["fabric"]]


def test_every_backend_is_measured_and_counted(programs: None, name: str, tmp_path: Path) -> None:
    """On the profile that has all three."""
    profile = "generic"
    picture = tmp_path / "latency.png"

    done = measure(name, "--json", "--profile", profile, "--plot", str(picture))

    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["tool"] == "sockperf"
    check(result, profile, fabrics())
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.fixture(scope="module")
def built_in(programs: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Result of a run in both fabrics where sockperf is not installed."""
    folder, name = tmp_path_factory.mktemp("path"), new_name()
    for program in ("ip", "ping"):
        found = shutil.which(program)
        assert found is not None
        folder.joinpath(program).symlink_to(found)

    done = measure(name, "--json", path=str(folder))

    assert done.returncode == 0, done.stderr
    assert "sockperf is not installed" in done.stderr
    assert leftovers(name) == []
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_without_sockperf_the_built_in_ping_pong_takes_its_place(built_in: dict[str, Any]) -> None:
    assert built_in["tool"] == "built-in"
    check(built_in, "r-car-s4", fabrics())


def check_table(text: str, result_fabrics: Sequence[str], backends: Sequence[str]) -> None:
    """The published figures, and for each fabric its ratio, and the hops of each backend."""
    published = ("5995.680", "p99.999")
    hops = ("peer-rc: ring write", "until its handler", "the sum ")
    for words in published:
        assert words in text
    for words in hops:
        assert text.count(words) >= len(result_fabrics) * len(backends)
    for fabric in result_fabrics:
        assert f"{fabric}: polled / eDMA" in text
        for backend in backends:
            assert f"{fabric} {backend}: where a round trip goes" in text
    assert "INVALID" not in text


def test_table_of_both_fabrics_shows_the_published_figures_and_the_hops(built_in: dict[str, Any]) -> None:
    told = io.StringIO()

    bench_latency_report.show(built_in, Console(file=told))

    check_table(told.getvalue(), fabrics(), list(backend_configs(load_config(None, "r-car-s4"))))


def test_without_json_the_table_is_printed(programs: None, name: str) -> None:
    profile = "r-car-s4-db-in-bar0"
    done = measure(name, "--fabric", "message", "--profile", profile)

    assert done.returncode == 0, done.stderr
    check_table(done.stdout, ["message"], list(backend_configs(load_config(None, profile))))
