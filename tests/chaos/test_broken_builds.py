"""A build without one of its checks is caught by the checker, under the fault that the check is there for."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.chaos.runs import HERE, chaos_run
from tests.live.bridge import ROOT

pytestmark = [pytest.mark.chaos, pytest.mark.system, pytest.mark.needs_tun]


@pytest.mark.fabric("message")
@pytest.mark.parametrize(
    ("switched_off", "scenario"),
    [("epoch", "stale-writes"), ("order", "lost-writes"), ("ver", "one-kill")],
)
def test_a_build_without_a_check_is_caught(switched_off: str, scenario: str, tmp_path: Path) -> None:
    broken = os.pathsep.join((str(HERE / "broken"), str(ROOT)))
    environment = {"PYTHONPATH": broken, "BREAK_NTBNET": switched_off}

    done = chaos_run(HERE / f"scenarios/{scenario}.toml", "message", tmp_path, environment)

    assert done.returncode == 1, done.stderr
    result = json.loads(done.stdout)
    assert result["verdict"] == "failed", result["problems"]


@pytest.mark.fabric("message")
@pytest.mark.parametrize("scenario", ["stale-writes", "lost-writes"])
def test_the_same_faults_do_no_harm_to_a_whole_build(scenario: str, tmp_path: Path) -> None:
    done = chaos_run(HERE / f"scenarios/{scenario}.toml", "message", tmp_path)

    result = json.loads(done.stdout)
    assert result["verdict"] == "ok", result["problems"]
    assert result["injected"] > 0
