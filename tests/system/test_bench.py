"""The bench on a bridge of its own, with very short runs."""

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
from ntbnet.app.bench_basics import QUICK
from ntbnet.app.bridge import Bridge
from ntbnet.edge.config_file import load_config
from ntbnet.edge.netns import NETNS_FOLDER
from ntbnet.edge.rundir import RunDir
from ntbnet.edge.shm import dram_path

pytestmark = [pytest.mark.system, pytest.mark.needs_tun, pytest.mark.slow]

COMMAND = [sys.executable, "-m", "ntbnet.app.cli", "bench", "basics", "--quick"]


@pytest.fixture
def name() -> Iterator[str]:
    name = f"tb-{os.getpid()}"
    yield name
    bridge_of(name).down()


def bridge_of(name: str) -> Bridge:
    config = load_config(None)
    return Bridge(RunDir(config.run.dir, name), config)


def left_of(name: str) -> list[str]:
    namespaces = [entry.name for entry in NETNS_FOLDER.iterdir() if entry.name.startswith(f"{name}-")]
    memory = [str(dram_path(name, node)) for node in ("rc", "ep") if dram_path(name, node).exists()]
    run = bridge_of(name).run
    return namespaces + memory + ([str(run.path)] if run.exists() else [])


def test_basics_measures_everything_and_leaves_nothing(name: str, programs: None) -> None:
    done = subprocess.run([*COMMAND, "--json", "--name", name], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    assert left_of(name) == []
    assert result["unverified"] == []
    # eight of the polled bridge, and budget and wish of each way with interrupts
    assert len(result["budgets"]) == 15
    assert result["throughput_edma"]["valid"] == {"rc->ep": True, "ep->rc": True}
    assert {"cpu", "cores", "kernel", "python", "loadavg"} <= result["machine"].keys()
    assert result["startup_s"]["n"] == QUICK.startups
    assert 0 < result["startup_s"]["median"] < 15
    assert set(result["private_bytes"]) == set(topology.SERVICES)
    assert set(result["idle_percent"]) == {*topology.SERVICES, "total"}
    assert 0 < result["idle_percent"]["total"]["median"] < 100
    # polled doorbells: half of a 12 ms period, however slow the machine
    assert result["latency"]["average_us"] > 5000
    assert result["latency"]["n"] == len(result["latency"]["samples_us"]) > 10
    for way in ("rc->ep", "ep->rc"):
        (run,) = result["throughput"]["rounds"][way]
        assert run["ring"]["tx_pkts"] == run["ring"]["rx_pkts"] > 0
        assert run["ring"]["rx_bytes"] >= run["bytes"] > 0
    assert result["throughput"]["gbit_s"]["veth"]["median"] > result["throughput"]["gbit_s"]["rc->ep"]["max"]
    assert result["recovery"]["service_ms"].keys() == set(QUICK.killed)


def test_a_bridge_of_that_name_is_left_alone(name: str) -> None:
    up = [sys.executable, "-m", "ntbnet.app.cli", "up", "--detach", "--name", name]
    subprocess.run(up, capture_output=True, check=True)
    done = subprocess.run([*COMMAND, "--name", name], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"bridge {name} is up" in done.stderr
    assert bridge_of(name).status()["state"] == "up"


def test_without_its_programs_the_bench_says_which_packages_to_install(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "--name", name],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PATH": str(tmp_path)},
    )
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("ntbnet: ip, ping, iperf3, sockperf not installed;")
    assert line.endswith("apt-get install iproute2 iputils-ping iperf3 sockperf")
