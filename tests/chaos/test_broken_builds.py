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
    ("epoch", "stale-writes", "message", ["recovery: "]),
    ("order", "lost-writes", "message", ["no fault was near"]),
    ("ver", "one-kill", "local", ["duplicated", "no fault was near"]),
]
"""Check switched off, scenario, fabric, and what it leads to, one or the other: frames of the last lap come
again, or are taken in place of those of this one, which vanish while nothing is wrong; so do datagrams in
writes that nobody missed; stale ones keep the ring from coming back."""


def judged(scenario: str, fabric: str, folder: Path, environment: dict[str, str]) -> dict[str, Any]:
    done = chaos_run(HERE / f"scenarios/{scenario}.toml", fabric, folder, environment)
    assert done.stdout, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (result["verdict"] != "ok"), done.stderr
    return result


@pytest.mark.parametrize(("switched_off", "scenario", "fabric", "symptoms"), BROKEN)
def test_a_build_without_a_check_is_caught(
    switched_off: str, scenario: str, fabric: str, symptoms: list[str], tmp_path: Path
) -> None:
    broken = os.pathsep.join((str(HERE / "broken"), str(ROOT)))
    environment = {"PYTHONPATH": broken, "BREAK_NTBNET": switched_off}

    result = judged(scenario, fabric, tmp_path, environment)

    assert result["verdict"] == "failed", result["problems"]
    seen = {symptom for symptom in symptoms for text in result["problems"] if symptom in text}
    assert seen, result["problems"]
    assert "duplicated" not in seen or result["duplicated"] > 0


@pytest.mark.parametrize(("scenario", "fabric"), [(row[1], row[2]) for row in BROKEN])
def test_the_same_faults_do_no_harm_to_a_whole_build(scenario: str, fabric: str, tmp_path: Path) -> None:
    result = judged(scenario, fabric, tmp_path, {})

    assert result["verdict"] == "ok", result["problems"]
    assert (result["injected"] > 0) == (scenario != "one-kill")
    assert (result["faults"] > 0) == (scenario != "lost-writes")
