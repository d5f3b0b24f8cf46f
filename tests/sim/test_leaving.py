"""A peer that is told to stop."""

from __future__ import annotations

import pytest

from tests.sim.process import MS, SECOND
from tests.sim.world import World

LEAVE_NS = 300 * MS
"""What a service is given to leave."""


def leave(world: World, node: str) -> None:
    """Tell the node's peer to stop; it goes on with what it has to say."""
    process = world.processes[f"peer-{node}"]
    process.perform(world.device(process.name).shutdown(world.now_ns))
    process.arm()


def commands(world: World) -> list[str]:
    return [keys["command"] for keys in world.events("command.executed", "epc")]


@pytest.mark.covers("NTB 108")
def test_rc_peer_leaves_in_the_order_of_the_drivers_and_in_time() -> None:
    world = World(seed=1).bring_up()
    world.exchange(3)
    before = len(commands(world))
    leave(world, "rc")
    took_ns = world.settle(world.device("peer-rc").is_shut_down, LEAVE_NS)

    assert commands(world)[before:] == ["TEARDOWN_MW", "LINK_DOWN", "TEARDOWN_DOORBELL"]
    assert took_ns < LEAVE_NS
    assert world.events("driver.removed", "peer-rc") == [{"driver": "ntb_hw_epf", "reason": "shutdown"}]
    assert world.events("driver.failed") == []


@pytest.mark.parametrize(("node", "other", "within_ns"), [("rc", "ep", 20 * MS), ("ep", "rc", 2 * MS)])
def test_carrier_of_the_other_side_is_off_at_once(node: str, other: str, within_ns: int) -> None:
    """One doorbell poll for the endpoint, one MSI for the host; silence would take a second."""
    world = World(seed=2).bring_up()
    world.exchange(3)
    leave(world, node)

    assert not world.carrier[node]
    world.settle(lambda: not world.carrier[other], within_ns)
    assert world.epoch == 1


@pytest.mark.parametrize("node", ["rc", "ep"])
def test_peer_that_left_is_replaced_by_its_successor(node: str) -> None:
    world = World(seed=3).bring_up()
    leave(world, node)
    world.settle(world.device(f"peer-{node}").is_shut_down, LEAVE_NS)
    world.restart(f"peer-{node}")
    world.run_for(31 * MS)
    world.settle(world.is_up, 2 * SECOND)

    world.exchange(3)


def test_peer_that_left_takes_no_device_any_more() -> None:
    world = World(seed=4).bring_up()
    leave(world, "rc")
    world.settle(world.device("peer-rc").is_shut_down, LEAVE_NS)
    world.restart("epc")
    world.run_for(SECOND)

    assert world.epoch == 2
    assert len(world.events("driver.bound", "peer-rc")) == 1


@pytest.mark.parametrize("node", ["rc", "ep"])
@pytest.mark.parametrize("at_step", [0, 20, 60, 120, 200, 280])
def test_peer_may_leave_at_any_moment_of_its_bring_up(node: str, at_step: int) -> None:
    world = World(seed=at_step)
    world.start()
    for _ in range(at_step):
        world.step()
    leave(world, node)

    world.settle(world.device(f"peer-{node}").is_shut_down, LEAVE_NS)


def test_peer_without_its_neighbour_has_nothing_to_wait_for() -> None:
    world = World(seed=5).bring_up()
    world.kill("rc-host")
    leave(world, "rc")
    process = world.processes["peer-rc"]
    process.paths["rc-host"].surprise_down("silent", world.now_ns)
    process.settle(process.paths["rc-host"])

    assert world.device("peer-rc").is_shut_down()


def test_told_twice_is_told_once() -> None:
    world = World(seed=6).bring_up()
    before = len(commands(world))
    leave(world, "rc")
    leave(world, "rc")
    world.settle(world.device("peer-rc").is_shut_down, LEAVE_NS)

    assert commands(world)[before:].count("LINK_DOWN") == 1
