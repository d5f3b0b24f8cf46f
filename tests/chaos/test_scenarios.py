"""Every shipped scenario in a short form, on real processes. ``make chaos`` runs the whole ones."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from ntbnet import topology
from ntbnet.app import chaos_scenario
from tests.chaos.runs import chaos_run
from tests.fabric import FABRIC

pytestmark = [pytest.mark.chaos, pytest.mark.system, pytest.mark.needs_tun]

LENGTHS = {
    "kill-each": (1, 5),
    "kill-pairs": (1, 10),
    "kill-both-peers": (1, 0),
    "kill-all": (1, 0),
    "kill-in-recovery": (1, 100),
    "crash-points": (1, 0),
    "memory-unlinked": (1, 0),
    "supervisor-killed": (1, 0),
    "stop-short": (1, 5),
    "stop-5s": (1, 5),
    "link-flap-storm": (1, 0),
    "lost-interrupts": (2, 0),
    "lost-frames": (1, 0),
    "damaged-control": (2, 8),
    "bad-wire": (2, 0),
    "bad-device": (8, 0),
    "spurious-storm": (3, 0),
    "slow-consumer": (2, 0),
    "full-rings": (2, 0),
}
"""Scenario -> length of its fault phase here, s, and the least number of faults: each service, each pair of
them; what one contains is not run twice."""
CONTAINED = {
    "rolling-kill": "kill-in-recovery, for longer",
    "damaged-messages": "bad-wire cuts messages off and short, test_broken_builds loses writes",
    "resets": "test_recovery resets both",
    "soak": "`make chaos-short` runs it for a minute",
}


def test_every_shipped_scenario_is_run_here_or_contained_in_another() -> None:
    assert set(chaos_scenario.shipped()) == {*LENGTHS, *CONTAINED}


@pytest.mark.covers("HAZARD 10.14", "HAZARD 10.15")
@pytest.mark.timeout(150)
@pytest.mark.parametrize("scenario", LENGTHS)
def test_short_form_of_a_scenario_is_ok(scenario: str, tmp_path: Path) -> None:
    fabrics = chaos_scenario.load(scenario).fabrics
    fabric = FABRIC if FABRIC in fabrics else fabrics[0]
    seconds, faults = LENGTHS[scenario]

    done = chaos_run(scenario, fabric, tmp_path, None, "--seconds", str(seconds), "--faults", str(faults))

    assert done.returncode in {0, 1}, done.stderr
    result = json.loads(done.stdout)
    assert result["verdict"] == "ok", result["problems"]
    assert result["delivered"] > 0
    assert result["faults"] or result["injected"]
    assert result["faults"] >= faults
    waited = result["cpu_wait_ms"]
    assert (waited is not None) == Path("/proc/self/schedstat").exists()
    assert waited is None or set(waited["by_process"]) >= {*topology.SERVICES, "traffic"}
    if {fault.kind for fault in chaos_scenario.load(scenario).faults} == {"kill"}:
        judge_epochs(tmp_path / "history")


def judge_epochs(history: Path) -> None:
    """A life has one epoch, each a higher one than the life before; none is raised but by a kill.

    A life that ended before its epoch was raised says nothing to anybody.
    """
    kills = Counter(
        service
        for line in (history / "faults.jsonl").read_text(encoding="utf-8").splitlines()
        for service in json.loads(line)["services"]
    )
    for service in topology.SERVICES:
        lines = (history / "logs" / f"{service}.jsonl").read_text(encoding="utf-8").splitlines()
        whole = [json.loads(line) for line in lines if line.endswith("}")]  # a kill may tear the last one
        epochs = [epoch for epoch, _ in dict.fromkeys((one["epoch"], one["pid"]) for one in whole)]
        assert epochs == sorted(set(epochs))
        assert (kills[service] > 0) < len(epochs) <= epochs[-1] <= 1 + kills[service]
