"""A sweep tries every crash point, and finds the culprit among those that share a bridge."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ntbnet.app import chaos_sweep
from ntbnet.app.chaos_history import FaultRecord, History, Observed
from ntbnet.app.chaos_judgement import Judgement, Recovery
from ntbnet.app.chaos_run import Done, Wanted
from ntbnet.app.chaos_scenario import Fault, configuration, parse
from ntbnet.config import load_text
from ntbnet.devices.crash_points import CRASH_POINTS
from ntbnet.errors import ConfigError

FABRICS = ("local", "message")


class Runs:
    """Runs that end as told: ``never`` are points never reached, ``harmful`` ones that a problem follows."""

    def __init__(
        self,
        never: tuple[str, ...] = (),
        harmful: tuple[str, ...] = (),
        once: bool = False,
        aside: str = "",
    ) -> None:
        self.never, self.harmful, self.once, self.aside = never, harmful, once, aside
        self.groups: list[list[Fault]] = []

    def __call__(self, wanted: Wanted, folder: Path, say: object) -> Done:
        faults = list(wanted.scenario.faults)
        self.groups.append(faults)
        judgement = Judgement()
        for number, fault in enumerate(faults):
            if fault.point in self.never:
                judgement.verdict, judgement.problems = "unknown", [f"never came to the store {fault.point}"]
                break
            record = FaultRecord(number, "crash", fault.services, number, number)
            judgement.recoveries.append(Recovery(record, 5_000_000))
            if fault.point in self.harmful and not (self.once and len(faults) == 1):
                judgement.verdict, judgement.problems = "failed", ["damaged: datagram 1"]
        if judgement.verdict == "unknown" and self.aside and len(faults) > 1:
            judgement.problems.append(self.aside)
        return Done(wanted, History([], [], Observed()), judgement)


def sweep(runs: Runs, tmp_path: Path, *only: str) -> dict[str, object]:
    return chaos_sweep.sweep(FABRICS, only, 1, "x", tmp_path, lambda _: None, "again", runs)


def test_every_point_that_a_service_comes_to_is_tried_before_and_after(tmp_path: Path) -> None:
    result = sweep(Runs(), tmp_path)

    rows = result["results"]
    assert isinstance(rows, list)
    tried = {(row["fabric"], row["point"], row["service"], row["when"]) for row in rows}
    expected = {
        (fabric, name, service, when)
        for name, point in CRASH_POINTS.items()
        for fabric in FABRICS
        if point.fabric in {"", fabric}
        for service in point.services
        for when in ("before", "after")
    }
    assert tried == expected
    assert result["points"] == result["survived"] == len(expected)
    assert (result["failed"], result["verdict"]) == (0, "ok")
    assert result["unreached"] == [name for name, point in CRASH_POINTS.items() if not point.services]


def test_a_point_that_is_never_reached_fails_alone(tmp_path: Path) -> None:
    result = sweep(Runs(never=("ring.flags",)), tmp_path, "ring.flags", "ring.header")

    assert (result["points"], result["failed"], result["verdict"]) == (8, 4, "failed")
    assert {row["point"] for row in result["results"] if not row["survived"]} == {"ring.flags"}  # type: ignore[attr-defined]


def test_harm_is_traced_to_its_point(tmp_path: Path) -> None:
    result = sweep(Runs(harmful=("ring.flags",)), tmp_path, "ring.flags", "ring.header")

    assert result["failed"] == 4
    assert {row["point"] for row in result["results"] if not row["survived"]} == {"ring.flags"}  # type: ignore[attr-defined]


def test_harm_that_does_not_show_again_is_not_forgotten(tmp_path: Path) -> None:
    result = sweep(Runs(harmful=("ring.flags",), once=True), tmp_path, "ring.flags")

    assert (result["failed"], result["verdict"]) == (0, "failed")
    assert result["problems"]


def test_what_is_wrong_beside_a_point_that_is_never_reached_is_not_forgotten(tmp_path: Path) -> None:
    runs = Runs(never=("ring.flags",), aside="leak: left after down: memory /dev/shm/x")

    result = sweep(runs, tmp_path, "ring.flags", "ring.header")

    assert result["problems"]
    assert all("left after down" in text for text in result["problems"])  # type: ignore[attr-defined]
    assert result["repeat"] == "again"


@pytest.mark.parametrize("fabric", FABRICS)
def test_each_setting_that_a_point_needs_is_a_configuration(fabric: str) -> None:
    plain = parse('description = "x"\n[phases]\nseconds = 1\n', "x")

    for config, _ in chaos_sweep.crashes(fabric, (), 1):
        text = configuration(replace(plain, config=config), {}, fabric, Path("/logs"))
        assert load_text(text, "x").bridge.fabric == fabric


def test_the_seed_chooses_at_which_store_of_the_traffic_a_process_dies(tmp_path: Path) -> None:
    one, same, other = (list(chaos_sweep.crashes("local", (), seed)) for seed in (1, 1, 2))

    assert one == same
    assert one != other
    assert all(crash.nth == 1 for _, found in one for crash in found if CRASH_POINTS[crash.point].is_bring_up)


def test_an_unknown_point_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--point ring: must be one that"):
        sweep(Runs(), tmp_path, "ring")
