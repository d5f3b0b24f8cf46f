"""Faults and crash points of a bridge of real processes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from ntbnet.app import chaos_faults
from ntbnet.errors import ConfigError, SetupError
from ntbnet.faults import FaultPlan, plan_from
from ntbnet.topology import SERVICES
from tests.conftest import MakeBridge
from tests.live.bridge import LiveBridge, until

pytestmark = [pytest.mark.system, pytest.mark.needs_tun]


Logged = Callable[[str], list[dict[str, Any]]]


@pytest.fixture
def live(bridge: LiveBridge) -> LiveBridge:
    bridge.wait_for_link()
    return bridge


@pytest.fixture
def logged(live: LiveBridge) -> Logged:
    """Lines of an event that all services wrote since the test began."""
    began_ns = time.monotonic_ns()

    def lines_of(event: str) -> list[dict[str, Any]]:
        lines = [line for name in SERVICES for line in live.log_lines(name)]
        return [line for line in lines if line["event"] == event and line["mono_ns"] >= began_ns]

    return lines_of


def plan_of(*rules: dict[str, Any]) -> FaultPlan:
    return plan_from({"seed": 11, "faults": list(rules)}, "test")


def floods(bridge: LiveBridge) -> bool:
    """Send packets, more than faults can hit."""
    bridge.run_inside("rc", "ping", "-c", "20", "-i", "0.01", "-W", "1", bridge.address("ep"))
    return True


def test_faults_are_injected_logged_counted_and_healed(live: LiveBridge, logged: Logged) -> None:
    run = live.run
    chaos_faults.install(
        run,
        plan_of(
            {"kind": "drop-frame", "every": 3},
            {"kind": "corrupt", "src": "epc", "dst": "rc-host", "every": 5, "limit": 2},
            {"kind": "lost-interrupt", "every": 4},
        ),
    )
    live.kill("peer-ep")  # a link that comes up takes messages in either fabric
    until(lambda: floods(live) and min(chaos_faults.injected(run).by_rule) > 0, 30, "every rule strikes")

    injected = chaos_faults.heal(run)
    assert set(injected.by_kind) == {"drop-frame", "corrupt", "lost-interrupt"}
    assert injected.total == sum(injected.by_service.values())
    lines = logged("chaos.fault_injected")
    assert all(line["injected"] is True for line in lines)
    assert {
        line["kind"]: sum(one["kind"] == line["kind"] for one in lines) for line in lines
    } == injected.by_kind

    assert not run.faults_path.exists()
    assert chaos_faults.injected(run).total == 0
    assert len(logged("chaos.plan_healed")) == len(SERVICES)
    until(live.pings, 10, "packets after the heal")
    assert len(logged("chaos.fault_injected")) == len(lines)


def test_service_that_is_restarted_goes_on_injecting(live: LiveBridge) -> None:
    run = live.run
    chaos_faults.install(
        run, plan_of({"kind": "slow", "service": "peer-ep", "rate": 1_000_000, "delay_us": 10})
    )
    until(lambda: floods(live) and chaos_faults.injected(run).total > 0, 10, "a slow peer")
    live.kill("peer-ep")
    before = chaos_faults.injected(run).total
    until(lambda: floods(live) and chaos_faults.injected(run).total > before, 10, "a slow replacement")

    assert chaos_faults.heal(run).by_service["peer-ep"] > before
    assert chaos_faults.heal(run).total == 0


@pytest.mark.parametrize("before", [True, False])
def test_service_dies_at_a_crash_point_once_and_comes_back(
    live: LiveBridge, logged: Logged, before: bool
) -> None:
    run, first = live.run, live.pids()["peer-ep"]
    chaos_faults.arm_crash(run, "peer-ep", "ring.flags_cleared", nth=2, before=before)
    until(lambda: live.pings() or chaos_faults.has_crashed(run, "peer-ep"), 10, "traffic")
    until(lambda: live.pings() and chaos_faults.has_crashed(run, "peer-ep"), 20, "crash and recovery")

    (line,) = logged("chaos.crashed")
    assert (line["injected"], line["point"], line["nth"], line["before"]) == (
        True,
        "ring.flags_cleared",
        2,
        before,
    )
    second = live.pids()["peer-ep"]
    assert second != first
    assert all(live.pings() for _ in range(3))
    assert live.pids()["peer-ep"] == second


def test_service_dies_while_it_starts_once_and_comes_back(live: LiveBridge, logged: Logged) -> None:
    chaos_faults.arm_crash(live.run, "epc", "ctrl.num_mws")
    live.kill("epc")
    until(lambda: chaos_faults.has_crashed(live.run, "epc"), 10, "the crash")

    until(live.pings, 20, "recovery")
    assert len(logged("chaos.crashed")) == 1


def test_disarmed_service_lives(live: LiveBridge) -> None:
    pids = live.pids()
    chaos_faults.arm_crash(live.run, "peer-ep", "ring.flags_cleared", nth=1000)
    chaos_faults.disarm_crash(live.run, "peer-ep")
    until(live.pings, 10, "a packet")

    assert live.pids() == pids
    assert not chaos_faults.has_crashed(live.run, "peer-ep")


def test_impossible_crash_and_absent_bridge_are_refused(live: LiveBridge, make_bridge: MakeBridge) -> None:
    with pytest.raises(ConfigError, match=r"crash point 'no\.such': must be one of"):
        chaos_faults.arm_crash(live.run, "epc", "no.such")
    with pytest.raises(ConfigError, match="service 'disk': must be one of"):
        chaos_faults.arm_crash(live.run, "disk", "lease")
    with pytest.raises(ConfigError, match="nth = 0"):
        chaos_faults.arm_crash(live.run, "epc", "lease", 0)
    absent = make_bridge("", up=False)
    with pytest.raises(SetupError, match="is not up"):
        chaos_faults.install(absent.run, FaultPlan())
    with pytest.raises(SetupError, match="is not up"):
        chaos_faults.arm_crash(absent.run, "epc", "lease")
