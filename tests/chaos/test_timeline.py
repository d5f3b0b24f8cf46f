"""What the logs tell of failures agrees with what the traffic of a chaos run saw of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.chaos.runs import chaos_run
from tests.fabric import FABRIC
from tests.live.bridge import cli

pytestmark = [pytest.mark.chaos, pytest.mark.system, pytest.mark.needs_tun]

AGREEMENT_MS = 10.0
KILLS = 10
WITNESSES = {
    "detected_ms": "detected_ms",
    "restarted_ms": "restarted_ms",
    "link_up_ms": "link_up_ms",
    "first_packet_ms": "recovery_ms",
}
"""Step of the timeline -> what the chaos report has for it: of supervisor, kernel's carriers, traffic."""


def test_timeline_lists_every_kill_as_the_chaos_report_does(tmp_path: Path) -> None:
    shipped = Path(__file__).resolve().parents[2] / "ntbnet" / "scenarios" / "rolling-kill.toml"
    scenario = tmp_path / "short.toml"
    scenario.write_text(shipped.read_text().replace("count = 60", f"count = {KILLS}"))
    done = chaos_run(scenario, FABRIC, tmp_path)
    report = json.loads(done.stdout)
    folder = tmp_path / "history" / "logs"

    told = json.loads(cli("logs", "timeline", "--json", str(folder)).stdout)["failures"]

    faults = [json.loads(line) for line in (tmp_path / "history" / "faults.jsonl").read_text().splitlines()]
    assert len(told) == len(report["events"]) == KILLS
    for fault, event, failure in zip(faults, report["events"], told, strict=True):
        assert ([failure["service"]], failure["kind"]) == (event["services"], "kill")
        assert failure["fault_ns"] == fault["at_ns"] == event["at_ns"]
        both = (event, failure)
        for step, witness in WITNESSES.items():
            if step != "link_up_ms" or failure["link_lost"]:
                assert abs(failure[step] - event[witness]) <= AGREEMENT_MS, both
        assert failure["link_lost"] == (event["link_up_ms"] is not None), both
        assert failure["detected_by"] == "supervisor", both
        steps = [step for step in WITNESSES if step != "link_up_ms" or failure["link_lost"]]
        times = [failure[step] for step in steps]
        assert times == sorted(times), both
    assert any(failure["link_lost"] for failure in told)
    assert cli("logs", "check", str(folder)).returncode == 0
