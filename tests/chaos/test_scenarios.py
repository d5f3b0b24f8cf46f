"""Every shipped scenario in a short form, on real processes. ``make chaos`` runs the whole ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ntbnet.app import chaos_scenario
from tests.chaos.runs import chaos_run
from tests.fabric import FABRIC

pytestmark = [pytest.mark.chaos, pytest.mark.system, pytest.mark.needs_tun]

SECONDS = {
    "kill-pairs": 1,
    "kill-both-peers": 1,
    "kill-all": 1,
    "kill-in-recovery": 1,
    "crash-points": 1,
    "memory-unlinked": 1,
    "supervisor-killed": 1,
    "stop-short": 1,
    "link-flap-storm": 1,
    "lost-interrupts": 2,
    "lost-frames": 1,
    "damaged-control": 2,
    "bad-wire": 2,
    "bad-device": 8,
    "spurious-storm": 3,
    "slow-consumer": 1,
}
"""Scenario -> length of its fault phase here, s; what one contains is not run twice."""
CONTAINED = {
    "kill-each": "kill-in-recovery kills every service, sooner after each other",
    "rolling-kill": "kill-in-recovery, for longer",
    "damaged-messages": "bad-wire cuts messages off and short, test_broken_builds loses writes",
    "resets": "test_recovery resets both",
    "stop-5s": "test_recovery freezes a service for good",
    "soak": "`make chaos-short` runs it for a minute",
}


def test_every_shipped_scenario_is_run_here_or_contained_in_another() -> None:
    assert set(chaos_scenario.shipped()) == {*SECONDS, *CONTAINED}


@pytest.mark.covers("HAZARD 10.14", "HAZARD 10.15")
@pytest.mark.parametrize("scenario", SECONDS)
def test_short_form_of_a_scenario_is_ok(scenario: str, tmp_path: Path) -> None:
    fabrics = chaos_scenario.load(scenario).fabrics
    fabric = FABRIC if FABRIC in fabrics else fabrics[0]

    done = chaos_run(scenario, fabric, tmp_path, None, "--seconds", str(SECONDS[scenario]))

    assert done.returncode in {0, 1}, done.stderr
    result = json.loads(done.stdout)
    assert result["verdict"] == "ok", result["problems"]
    assert result["delivered"] > 0
    assert result["faults"] or result["injected"]
