"""``bench throughput``, ``micro``, ``startup`` and ``recovery`` with very short runs; their comparison."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ntbnet import topology
from ntbnet.app.bench_backends import fabrics
from ntbnet.app.bench_latencies import Latencies
from ntbnet.app.bench_pump import PUMPS, pump
from ntbnet.app.pingpong import ping_pong
from tests.live.bridge import leftovers, new_name

pytestmark = [pytest.mark.system, pytest.mark.needs_tun, pytest.mark.slow, pytest.mark.timeout(240)]

MACHINE = {"cpu", "cores", "kernel", "python", "loadavg", "loadavg_after"}
FABRICS = f"available are {', '.join(fabrics())}"


@pytest.fixture
def name(programs: None) -> Iterator[str]:
    name = new_name()
    yield name
    assert leftovers(name) == []
    namespaces = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
    assert f"{name}-" not in namespaces


def bench(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ntbnet.app.cli", "bench", *words],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        env={**os.environ, "COLUMNS": "200"},
    )


def measure(kind: str, name: str, *words: str) -> dict[str, Any]:
    done = bench(kind, "--quick", "--json", "--name", name, *words)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    assert result["bench"] == kind
    assert result["machine"].keys() >= MACHINE
    return result


def test_throughput_is_measured_beside_veth_and_counted(name: str, tmp_path: Path) -> None:
    picture = tmp_path / "throughput.png"

    result = measure("throughput", name, "--plot", str(picture))

    expected = [
        (fabric, "dw-edma-testirq", 65510, 1, direction, protocol)
        for fabric in fabrics()
        for protocol in ("tcp", "udp")
        for direction in ("rc->ep", "ep->rc")
    ]
    keys = ("fabric", "backend", "mtu", "streams", "direction", "protocol")
    assert [tuple(row[key] for key in keys) for row in result["results"]] == expected
    assert result["invalid"] == []
    for row in result["results"]:
        (run,) = row["raw"]
        assert row["valid"] is True
        assert row["ratio"] == pytest.approx(row["gbit_s"] / row["veth_gbit_s"], abs=0.001)
        assert row["ratio"] > 0
        assert row["rounds"]["ratio"]["n"] == result["rounds"] == 1
        assert run["ring"]["tx_pkts"] == run["ring"]["rx_pkts"] > 0
        assert run["ring"]["rx_bytes"] >= run["bytes"] > 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_throughput_of_one_backend_mtu_direction_and_several_streams(name: str) -> None:
    chosen = ("--backend", "doorbell", "--mtu", "65510", "--direction", "rc->ep", "--streams", "4")

    result = measure("throughput", name, "--protocol", "tcp", *chosen)

    assert [row["fabric"] for row in result["results"]] == list(fabrics())
    for row in result["results"]:
        assert (row["backend"], row["mtu"], row["direction"]) == ("doorbell", 65510, "rc->ep")
        assert (row["protocol"], row["streams"]) == ("tcp", 4)
        # one ring of frames each poll, and not much more
        assert row["gbit_s"] < 1.2 * result["tcp_bounds_gbit_s"]["65510"]["rc->ep_whole_ring"]


def test_parts_are_measured_beside_their_references(name: str) -> None:
    result = measure("micro", name, "--curves")

    assert result["invalid"] == []
    for curve, counts in (("queues", [1, 4]), ("bridges", [1, 2])):
        assert [row[curve] for row in result["curves"][curve]] == counts
        assert all(0 < row["us_per_packet"]["median"] < 100_000 for row in result["curves"][curve])
    assert list(result["ping_pong"]) == ["veth", *PUMPS]
    medians = {way: row["p50_us"] for way, row in result["ping_pong"].items()}
    assert medians["veth"] < min(medians[way] for way in PUMPS)
    assert [row["bytes"] for row in result["stores"]] == [65536, 262144, 1048576]
    for row in (*result["stores"], *result["interrupts"]):
        assert row["ratio"] == row["rounds"]["ratio"]["median"] > 0
    assert [row["fabric"] for row in result["interrupts"]] == list(fabrics())
    (run,) = result["ring"]["raw"]
    assert run["sent"] == run["received"] == result["ring"]["frames"] > 0


def test_startup_of_each_fabric(name: str) -> None:
    result = measure("startup", name)

    assert [row["fabric"] for row in result["results"]] == list(fabrics())
    for row in result["results"]:
        assert 0 < row["startup_s"]["median"] < 15
        assert set(row["private_bytes"]) == set(topology.SERVICES)
        assert 0 < row["idle_percent"]["total"]["median"] < 100
        assert row["imports_ms"]
    assert len(result["budgets"]) == 5 * len(fabrics())


def test_recovery_in_each_fabric_and_compared_with_itself(name: str, tmp_path: Path) -> None:
    result = measure("recovery", name)

    assert [row["fabric"] for row in result["results"]] == list(fabrics())
    for row in result["results"]:
        assert row["service_ms"].keys() == {"peer-ep"}
        assert 0 < row["all_ms"]["median"] < 20_000

    path = tmp_path / "recovery.json"
    path.write_text(json.dumps(result), encoding="utf-8")
    done = bench("compare", str(path), str(path), "--json")

    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["figures"]
    assert f"{fabrics()[0]} service_ms peer-ep" in [row["figure"] for row in rows]
    assert all(row["change_percent"] == 0 for row in rows)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("throughput", "--fabric", "none"), FABRICS),
        (("throughput", "--backend", "none"), "available are doorbell"),
        (("throughput", "--direction", "up"), "available are rc->ep, ep->rc"),
        (("latency", "--fabric", "none"), FABRICS),
        (("startup", "--fabric", "none"), FABRICS),
        (("compare", "/nowhere/a.json", "/nowhere/b.json"), "/nowhere/a.json: No such file"),
    ],
)
def test_what_there_is_not_is_refused_at_once(words: tuple[str, ...], reason: str) -> None:
    done = bench(*words)

    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert reason in line


@pytest.mark.parametrize("kind", PUMPS)
def test_pump_carries_packets_and_leaves_nothing(name: str, kind: str) -> None:
    with pump(kind, name, 65510) as way:
        trips = ping_pong((way.sender, way.receiver), way.address, seconds=0.3, warm_up_s=0.05)

    assert trips.dropped == 0
    assert 0 < Latencies(trips.latencies_us()).percentile(0.5) < 100_000
