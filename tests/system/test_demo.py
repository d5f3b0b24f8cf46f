"""``ntbnet demo`` to its end and interrupted; its bridge has a name that the command chooses."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest

from ntbnet.app.bench_backends import TRIGGERS
from ntbnet.app.bench_latencies import QUANTILES
from ntbnet.profile import SHIPPED
from ntbnet.sections import Bridge
from tests.live.bridge import CLI, cli, in_background, leftovers

pytestmark = [pytest.mark.system, pytest.mark.needs_tun, pytest.mark.slow]


def demo(*words: str) -> dict[str, Any]:
    """What a whole demo printed; it left nothing."""
    done = cli("demo", "--json", *words)
    assert done.returncode == 0, done.stderr
    assert leftovers("ntbnet-demo") == []
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.fixture(scope="module")
def result(programs: None) -> dict[str, Any]:
    """Of a demo of the default profile."""
    result = demo("--count", "3")
    assert result["profile"] == SHIPPED[0]
    check_traffic(result)
    return result


def check_traffic(result: dict[str, Any]) -> None:
    """Pings and a checksummed transfer each way crossed whole."""
    assert result["ok"] is True
    assert all(ping["received"] == ping["sent"] == 3 for ping in result["ping"])
    assert [(one["from"], one["bytes"], one["sha256_equal"]) for one in result["transfer"]] == [
        ("ep", 64 << 20, True),
        ("rc", 64 << 20, True),
    ]
    assert all(one["gbit_s"] > 0 and one["error"] is None for one in result["transfer"])


def test_demo_prints_one_object_with_every_promised_key(result: dict[str, Any]) -> None:
    assert result["ok"] is True
    assert result["fabric"] == Bridge().fabric
    assert {"backend", "backend_ep_to_rc"} <= result.keys()
    assert 0 < result["startup_s"] < 15
    sent = [(ping["from"], ping["family"], ping["sent"], ping["received"]) for ping in result["ping"]]
    assert sent == [(node, family, 3, 3) for node in ("rc", "ep") for family in ("ipv4", "ipv6")]
    for ping in result["ping"]:
        assert 0 < ping["rtt_ms"]["min"] <= ping["rtt_ms"]["avg"] <= ping["rtt_ms"]["max"] < 1000


def test_demo_ends_with_polled_latency_beside_the_published_pair(result: dict[str, Any]) -> None:
    latency = result["latency"]
    assert latency["tool"] == "built-in"
    assert latency["results"][0]["backend"] == "doorbell"
    assert latency["results"][0]["avg_us"] > 5000
    assert [row["avg_us"] for row in latency["published"]] == [5995.68, 127.677]
    figures = {"avg_us", "stddev_us", "min_us", *QUANTILES, "max_us", "samples"}
    for row in latency["results"]:
        assert row.keys() >= {*figures, "dropped", "duplicated", "out_of_order"}
        moved = row["backend_counts"]
        assert row["samples"] <= row["messages"] <= moved["frames_rc_to_ep"] == moved["arrived_at_ep"]
        assert {name for name in TRIGGERS.values() if moved[name]} == {TRIGGERS[row["backend"]]}
    assert latency["invalid"] == []


@pytest.mark.parametrize("profile", SHIPPED[1:])
def test_demo_of_another_profile_carries_ping_and_a_transfer_both_ways(programs: None, profile: str) -> None:
    """That of the default one is judged where it is made."""
    result = demo("--profile", profile, "--count", "3")

    assert result["profile"] == profile
    check_traffic(result)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_demo_told_to_stop_leaves_nothing(number: signal.Signals) -> None:
    with in_background(*CLI, "demo") as process:
        assert process.stderr is not None
        said = [next(process.stderr)]
        while "waiting for" not in said[-1]:
            said.append(next(process.stderr))
        process.send_signal(number)
        said += process.communicate(timeout=30)[1].splitlines()

    assert process.returncode == 1, said
    assert said[-1] == "ntbnet: stopped before it was done"
    assert leftovers("ntbnet-demo") == []
