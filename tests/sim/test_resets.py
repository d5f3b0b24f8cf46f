"""Resets of the host and the endpoint, and the NTB link taken down by command."""

from __future__ import annotations

import mmap
from collections.abc import Sequence

import pytest

from ntbnet.errors import KernelError
from tests.sim.process import MS, SECOND
from tests.sim.world import SMALL, World

RESET = {"rc": ("rc-host", "host.reset"), "ep": ("epc", "endpoint.reset")}
MARK = b"what was in memory"


def command(world: World, service: str, *words: str) -> None:
    """Tell a running service to do something."""
    process = world.processes[service]
    process.perform(world.device(service).command([*words], world.now_ns))
    process.arm()


def losing(node: str) -> str:
    """Configuration in which a reset of the node loses its memory."""
    head = f"[node.{node}]\n"
    rest = 'dram_on_reset = "lost"\n'
    return SMALL.replace(head, head + rest) if head in SMALL else f"{SMALL}\n{head}{rest}"


def last_of(memory: mmap.mmap) -> slice:
    """Where memory ends: behind all that a bridge allocates within a test."""
    return slice(len(memory) - len(MARK), len(memory))


@pytest.mark.parametrize("node", ["rc", "ep"])
def test_reset_is_one_event_of_its_own_after_which_the_link_is_back(node: str) -> None:
    service, event = RESET[node]
    world = World(seed=3).bring_up()
    world.start_traffic()
    world.run_for(100 * MS)

    command(world, service, "reset")
    took_ns = world.until_epoch(2)
    world.run_for(100 * MS)
    world.stop_traffic()

    assert world.events(event) == [{"memory": "kept"}]
    assert took_ns < 250 * MS
    assert world.epoch == 2
    assert world.check_history() > 20
    world.exchange(20)


@pytest.mark.parametrize("node", ["rc", "ep"])
def test_reset_at_any_moment_damages_nothing(node: str) -> None:
    """The reset moves through bring-up and traffic."""
    for at_step in range(5, 900, 47):
        world = World(seed=at_step, text=losing(node))
        world.start()
        while world.steps < at_step:
            world.step()
        world.start_traffic()
        command(world, RESET[node][0], "reset")
        world.run_for(50 * MS)
        world.settle(world.is_up, 3 * SECOND)
        world.stop_traffic()
        world.check_history()
        world.settle(world.is_up, 3 * SECOND)
        world.exchange(3)


@pytest.mark.parametrize("node", ["rc", "ep"])
@pytest.mark.parametrize("is_lost", [False, True])
def test_memory_is_kept_or_lost_as_configured_and_the_other_hosts_stays(node: str, is_lost: bool) -> None:
    world = World(text=losing(node) if is_lost else SMALL).bring_up()
    for memory in world.dram.values():
        memory[last_of(memory)] = MARK

    command(world, RESET[node][0], "reset")
    world.until_epoch(2)

    other = "ep" if node == "rc" else "rc"
    memory, others = world.dram[node], world.dram[other]
    assert memory[last_of(memory)] == (bytes(len(MARK)) if is_lost else MARK)
    assert others[last_of(others)] == MARK
    assert world.events(RESET[node][1]) == [{"memory": "lost" if is_lost else "kept"}]


@pytest.mark.parametrize("node", ["rc", "ep"])
def test_memory_is_lost_without_a_driver_too(node: str) -> None:
    world = World(text=losing(node)).bring_up()
    world.kill(f"peer-{node}")
    world.run_for(2 * SECOND)
    memory = world.dram[node]
    memory[last_of(memory)] = MARK

    command(world, RESET[node][0], "reset")
    world.restart(f"peer-{node}")
    world.run_for(31 * MS)
    world.settle(world.is_up, 3 * SECOND)

    assert memory[last_of(memory)] == bytes(len(MARK))
    world.exchange(3)


def test_endpoint_reset_loses_what_perst_does_and_hot_reset_does_not() -> None:
    world = World().bring_up()
    engine = world.device("edma")
    engine.registers.set("WR_INT_MASK", 1)

    command(world, "epc", "reset")
    world.run_for(MS)

    assert engine.registers.get("WR_INT_MASK") == engine.registers.block.register("WR_INT_MASK").reset_value
    world.until_epoch(2)
    world.exchange(5)
    assert len(world.events("driver.bound", "peer-ep")) == 2


def test_host_reset_forgets_where_bars_were_moved_to() -> None:
    world = World().bring_up()
    placed = world.device("rc-host").snapshot()["bars"]
    command(world, "rc-host", "move_bar", "2")
    world.until_epoch(2)
    assert world.device("rc-host").snapshot()["bars"] != placed

    command(world, "rc-host", "reset")
    world.until_epoch(3)

    assert world.device("rc-host").snapshot()["bars"] == placed


@pytest.mark.parametrize("nodes", [("rc",), ("ep",), ("rc", "ep")])
def test_link_goes_down_on_both_sides_and_comes_back_in_the_same_epoch(nodes: Sequence[str]) -> None:
    world = World(seed=5).bring_up()
    world.exchange(3)

    for node in nodes:
        command(world, f"peer-{node}", "link", "down")
    world.settle(lambda: not any(world.carrier.values()), 100 * MS)
    world.run_for(SECOND)
    assert not any(world.carrier.values())

    for node in nodes:
        assert not any(world.carrier.values())
        command(world, f"peer-{node}", "link", "up")
        world.run_for(10 * MS)
    world.settle(world.is_up, 200 * MS)

    assert world.epoch == 1
    world.exchange(10)
    told = world.events("link.administered")
    assert told == [{"up": False}] * len(nodes) + [{"up": True}] * len(nodes)


@pytest.mark.parametrize("node", ["rc", "ep"])
def test_link_stays_down_across_a_reset_and_the_death_of_the_other_services(node: str) -> None:
    world = World(seed=6).bring_up()
    command(world, f"peer-{node}", "link", "down")
    world.settle(lambda: not any(world.carrier.values()), 100 * MS)

    for service in ("rc-host", "epc", "edma", "peer-ep" if node == "rc" else "peer-rc"):
        world.restart(service)
        world.run_for(500 * MS)
        assert not any(world.carrier.values()), service
    command(world, "epc", "reset")
    world.run_for(500 * MS)
    assert not any(world.carrier.values())

    command(world, f"peer-{node}", "link", "up")
    world.settle(world.is_up, 2 * SECOND)
    world.exchange(3)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_storm_of_flaps_under_traffic_loses_no_order_and_ends_up(seed: int) -> None:
    world = World(seed=seed).bring_up()
    world.start_traffic()
    for _ in range(60):
        node, state = world.random.choice(("rc", "ep")), world.random.choice(("down", "up"))
        command(world, f"peer-{node}", "link", state)
        world.run_for(world.random.randrange(60 * MS))
    for node in ("rc", "ep"):
        command(world, f"peer-{node}", "link", "up")
    world.settle(world.is_up, 3 * SECOND)
    world.run_for(100 * MS)
    world.stop_traffic()

    assert world.check_history() > 20
    world.exchange(10)


@pytest.mark.parametrize("service", ["rc-host", "epc", "peer-rc", "peer-ep"])
def test_words_that_nobody_knows_are_refused(service: str) -> None:
    world = World().bring_up()

    with pytest.raises(KernelError, match="unknown question"):
        world.device(service).command(["reboot"], world.now_ns)


@pytest.mark.parametrize("node", ["rc", "ep"])
def test_reset_while_the_engine_copies_damages_nothing(node: str) -> None:
    """The engine's channels end with the reset, and its next transfers go to the new link epoch."""
    for seed in range(12):
        world = World(seed=seed, text=losing(node) + "[transport]\nuse_dma = true\n").bring_up()
        world.start_traffic(every_ns=MS, sizes=(64, 9000, 60_000))
        world.run_for((20 + 7 * seed) * MS + seed * 137_000)
        command(world, RESET[node][0], "reset")
        world.until_epoch(2)
        world.run_for(50 * MS)
        world.stop_traffic()

        assert world.check_history() > 20
        world.exchange(5, size=9000)
        assert world.device("peer-ep").counters["dma_copies"] > 5
