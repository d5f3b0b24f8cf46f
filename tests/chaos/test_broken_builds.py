"""A build without one of its checks is caught by the checker, under the fault that the check is there for."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.runs import HERE, chaos_run
from tests.live.bridge import ROOT

pytestmark = [pytest.mark.chaos, pytest.mark.system, pytest.mark.needs_tun]

BROKEN = [
    ("epoch", "stale-writes", "message", "recovery: "),
    ("order", "lost-writes", "message", "no fault was near"),
    ("ver", "one-kill", "local", "duplicated"),
]
"""Check switched off, scenario, fabric, and what it leads to: frames of the last lap come again; behind
writes that nobody missed the ring stands still while nothing is wrong; stale ones keep it from being back."""


def judged(scenario: str, fabric: str, folder: Path, environment: dict[str, str]) -> dict[str, Any]:
    done = chaos_run(HERE / f"scenarios/{scenario}.toml", fabric, folder, environment)
    assert done.stdout, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (result["verdict"] != "ok"), done.stderr
    return result


@pytest.mark.parametrize(("switched_off", "scenario", "fabric", "symptom"), BROKEN)
def test_a_build_without_a_check_is_caught(
    switched_off: str, scenario: str, fabric: str, symptom: str, tmp_path: Path
) -> None:
    broken = os.pathsep.join((str(HERE / "broken"), str(ROOT)))
    environment = {"PYTHONPATH": broken, "BREAK_NTBNET": switched_off}

    result = judged(scenario, fabric, tmp_path, environment)

    assert result["verdict"] == "failed", result["problems"]
    assert [text for text in result["problems"] if symptom in text], result["problems"]
    assert symptom != "duplicated" or result["duplicated"] > 0


@pytest.mark.parametrize(("scenario", "fabric"), [(row[1], row[2]) for row in BROKEN])
def test_the_same_faults_do_no_harm_to_a_whole_build(scenario: str, fabric: str, tmp_path: Path) -> None:
    result = judged(scenario, fabric, tmp_path, {})

    assert result["verdict"] == "ok", result["problems"]
    assert (result["injected"] > 0) == (scenario != "one-kill")
    assert (result["faults"] > 0) == (scenario != "lost-writes")
