"""Scenarios: those shipped are right, wrong ones are refused in one line, a seed decides the schedule."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from ntbnet import topology
from ntbnet.app import chaos_scenario
from ntbnet.app.chaos_nemesis import Step, schedule
from ntbnet.config import load_text
from ntbnet.devices.crash_points import CRASH_POINTS
from ntbnet.errors import ConfigError

HEAD = 'description = "a test"\n'
FAULT = HEAD + '[[faults]]\nkind = "kill"\n'


def steps(text: str, seed: int = 1, most: int = 200, fabric: str = "local") -> list[Step]:
    return list(islice(schedule(chaos_scenario.parse(text, "test"), seed, fabric), most))


@pytest.mark.parametrize("name", chaos_scenario.shipped())
def test_every_shipped_scenario_gives_a_configuration_and_steps(name: str) -> None:
    scenario = chaos_scenario.load(name)

    for fabric in scenario.fabrics:
        text = chaos_scenario.configuration(scenario, {}, fabric, Path("/logs"))
        assert load_text(text, name).bridge.fabric == fabric
        assert list(islice(schedule(scenario, 1, fabric), 3)) or scenario.rules
    assert scenario.summary()["faults"]


def test_the_scenarios_of_the_documentation_are_those_shipped() -> None:
    text = (Path(__file__).resolve().parents[3] / "docs/chaos.md").read_text(encoding="utf-8")

    for name in chaos_scenario.shipped():
        assert f"| `{name}` |" in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "test: description is missing: every key of it must be given"),
        (HEAD, "phases.seconds = 0: must be at least 1 without [[faults]]"),
        (
            HEAD + "[phases]\nsecond = 3",
            "phases.second = 3: unknown key; the nearest known one is phases.seconds",
        ),
        (HEAD + '[[faults]]\nkind = "kil"', 'faults[0].kind = \'kil\': must be "kill" or "stop"'),
        (FAULT + 'services = ["epd"]', "faults[0].services = an array: must be an array of some of"),
        (
            FAULT + 'services = ["epc"]\npattern = "pairs"',
            "faults[0].services = an array: must be at least 2 of",
        ),
        (FAULT + "count = 0", "faults[0].count = 0: must be an integer 1..100000 times"),
        (FAULT + "min_pause_ms = 900", "faults[0].max_pause_ms = 300: must be at least min_pause_ms, 900"),
        (HEAD + '[[faults]]\nkind = "stop"', "faults[0].hold_ms = 0: must be at least 1 for kind stop"),
        (
            FAULT + 'point = "ring.flags"',
            "faults[0].point = 'ring.flags': must be left out but for kind crash",
        ),
        (
            HEAD + '[[faults]]\nkind = "crash"\npoint = "ring.flags"\nservices = ["epc"]',
            "faults[0].services = an array: must be of peer-rc or peer-ep",
        ),
        (FAULT + "[workload]\nmax_bytes = 50", "workload.max_bytes = 50: must be at least min_bytes, 64"),
        (FAULT + '[phases]\norder = "random"', "phases.order = 'random': must be \"given\" without"),
        (
            HEAD + "[phases]\nseconds = 9\nfaults = 5",
            "phases.faults = 5: must be 0 without [[faults]], or with",
        ),
        (FAULT + "[phases]\nseconds = 9\ncalm_percent = 5", "phases.calm_percent = 5: must be 0 without"),
        (FAULT + '[[rules]]\nkind = "drop"', "rules[0]: exactly one of rate, every and at must be given"),
        (FAULT + "[config]\nx = 1.5", "config.x = 1.5: must be a word, a number or a boolean"),
        ("fabrics = []\n" + FAULT, 'fabrics = an array: must be an array with "local"'),
        ("description = ", "test: not valid TOML"),
    ],
)
def test_a_wrong_scenario_is_refused_in_one_line(text: str, message: str) -> None:
    def read() -> None:
        scenario = chaos_scenario.parse(text, "test")
        chaos_scenario.configuration(scenario, {}, "local", Path("/logs"))

    with pytest.raises(ConfigError) as caught:
        read()

    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_name_and_missing_file_are_said() -> None:
    with pytest.raises(ConfigError, match=r"no scenario 'kill': must be one of .*rolling-kill"):
        chaos_scenario.load("kill")
    with pytest.raises(ConfigError, match=r"cannot read scenario \./x\.toml: No such file"):
        chaos_scenario.load("./x.toml")


def test_a_scenario_changes_the_users_configuration_and_the_fabric_is_what_was_asked_for() -> None:
    scenario = chaos_scenario.parse(FAULT + "[config.netdev]\nmtu = 1500\n", "test")
    base = {"netdev": {"mtu": 9000, "tx_stop": 3}, "bridge": {"fabric": "local"}}

    config = load_text(chaos_scenario.configuration(scenario, base, "message", Path("/logs")), "test")

    assert (config.netdev.mtu, config.netdev.tx_stop, config.bridge.fabric) == (1500, 3, "message")
    assert config.log.dir == "/logs"


@pytest.mark.parametrize("name", ["rolling-kill", "soak", "crash-points"])
def test_the_same_seed_gives_the_same_schedule_and_another_one_another(name: str) -> None:
    scenario = chaos_scenario.load(name)

    one, same, other = (list(islice(schedule(scenario, seed, "local"), 60)) for seed in (7, 7, 8))

    assert one == same
    assert one != other


def test_rolling_kill_hits_each_service_equally_often() -> None:
    found = Counter(step.victims for step in schedule(chaos_scenario.load("rolling-kill"), 7, "local"))

    assert found == {(service,): 12 for service in topology.SERVICES}


def test_pairs_are_all_pairs() -> None:
    found = steps(FAULT + 'pattern = "pairs"\ncount = 20')

    assert set(Counter(step.victims for step in found).values()) == {2}
    assert all(len(set(step.victims)) == 2 for step in found)


def test_together_is_everybody_at_once_and_pauses_are_in_range() -> None:
    found = steps(FAULT + 'pattern = "together"\ncount = 9\nmin_pause_ms = 5\nmax_pause_ms = 9')

    assert {step.victims for step in found} == {topology.SERVICES}
    assert all(5 <= step.pause_ms <= 9 for step in found)


def test_entries_of_a_phase_with_a_length_come_again_and_again() -> None:
    found = steps(FAULT + 'count = 2\n[[faults]]\nkind = "supervisor"\n[phases]\nseconds = 9', most=6)

    assert [step.fault.kind for step in found] == ["kill", "kill", "supervisor"] * 2


def test_random_order_heeds_how_likely_an_entry_is() -> None:
    text = FAULT + 'count = 9\n[[faults]]\nkind = "supervisor"\n[phases]\nseconds = 9\norder = "random"'

    found = Counter(step.fault.kind for step in steps(text, most=1000))

    assert found["kill"] > 5 * found["supervisor"] > 0


@pytest.mark.parametrize("fabric", ["local", "message"])
def test_crashes_without_a_point_go_round_all_that_the_bridge_comes_to(fabric: str) -> None:
    found = steps(HEAD + '[[faults]]\nkind = "crash"\ncount = 500', most=500, fabric=fabric)

    points = {step.point for step in found}
    assert all(step.victims[0] in CRASH_POINTS[step.point].services for step in found)
    assert {CRASH_POINTS[point].fabric for point in points} <= {"", fabric}
    assert ("ring.payload" in points) == (fabric == "local")
    assert "edma.list" not in points
    assert {step.before for step in found} == {True, False}


def test_dma_makes_its_crash_points_reachable() -> None:
    text = HEAD + '[[faults]]\nkind = "crash"\ncount = 500\n[config.transport]\nuse_dma = true'

    assert "edma.list" in {step.point for step in steps(text, most=500)}


def test_a_flap_hits_drivers_and_a_reset_hosts() -> None:
    text = HEAD + '[[faults]]\nkind = "flap"\nhold_ms = 1\ncount = 2\n[[faults]]\nkind = "reset"\ncount = 2'

    found = steps(text)

    assert {step.victims[0] for step in found[:2]} == {"peer-rc", "peer-ep"}
    assert {step.victims[0] for step in found[2:]} == {"rc-host", "epc"}


def test_a_number_of_faults_repeats_them_as_a_length_does() -> None:
    plain = chaos_scenario.parse(FAULT + "count = 2", "test")

    longer = plain.length(0, 5)

    assert len(list(islice(schedule(plain, 1, "local"), 9))) == 2
    assert len(list(islice(schedule(longer, 1, "local"), 9))) == 9
    assert (longer.phases.seconds, longer.phases.faults) == (0, 5)
    assert plain.length(0, 0) == plain


@pytest.mark.parametrize("name", ["bad-wire", "soak"])
def test_no_number_of_faults_where_rules_alone_or_a_calm_end_decide(name: str) -> None:
    with pytest.raises(ConfigError, match="no number of faults"):
        chaos_scenario.load(name).length(1, 5)
