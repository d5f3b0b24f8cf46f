"""Receivers that poll under load: in order, nothing lost, nothing left lying, nothing looked at when idle."""

from __future__ import annotations

import pytest

from tests.sim.process import MS, SECOND, US
from tests.sim.world import POLLED, SMALL, World, packet_of


def flood(world: World, bursts: int, every_ns: int = 50 * US) -> dict[str, list[bytes]]:
    """Both nodes send bursts of 1 to 6 packets; what each of them sent."""
    sent: dict[str, list[bytes]] = {"rc": [], "ep": []}
    for _ in range(bursts):
        for node, packets in sent.items():
            for _ in range(world.random.randint(1, 6)):
                packets.append(packet_of(world.random, len(packets), world.random.choice((64, 1500, 9000))))
                world.send(node, packets[-1])
        world.run_for(every_ns)
    return sent


def arrive(
    world: World, sent: dict[str, list[bytes]], before: dict[str, int], *, one_queue: bool = True
) -> None:
    """Wait until every packet came, once; in order with one queue, since each packet is a flow of its own."""

    def all_came() -> bool:
        return all(
            len(world.delivered[to]) - before[to] >= len(sent[node])
            for node, to in (("rc", "ep"), ("ep", "rc"))
        )

    world.settle(all_came, 5 * SECOND)
    for node, to in (("rc", "ep"), ("ep", "rc")):
        found = world.delivered[to][before[to] :]
        assert found == sent[node] if one_queue else sorted(found) == sorted(sent[node])


def came(world: World) -> dict[str, int]:
    return {node: len(packets) for node, packets in world.delivered.items()}


def saved(world: World, *names: str) -> int:
    return sum(
        queue["rings_saved"]
        for name in names or ("peer-rc", "peer-ep")
        for queue in world.device(name).snapshot()["link"]["queues"]
    )


def is_polling(world: World) -> list[str]:
    return [name for name in ("peer-rc", "peer-ep") if world.device(name).snapshot()["polling"]["is_on"]]


@pytest.mark.parametrize("queues", [1, 3])
@pytest.mark.parametrize("seed", range(4))
def test_flood_crosses_in_order_and_polling_ends_with_it(seed: int, queues: int, fabric: str) -> None:
    transport = f"[transport]\ntransport_mtu = 16384\nmax_num_clients = {queues}\n"
    text = f"{SMALL}\n{transport}[netdev]\nmtu = 9000\nqueues = {queues}\n"
    world = World(seed=seed, text=text).bring_up()
    world.run_for(100 * MS)
    before = came(world)

    arrive(world, flood(world, 100), before, one_queue=queues == 1)
    rings_saved = saved(world)
    world.run_for(5 * MS)

    assert (rings_saved > 20) == (fabric == "local")
    assert not is_polling(world)
    if queues == 1:
        world.exchange(3)


def test_never_rings_for_each_burst() -> None:
    world = World(seed=1, text=f'{SMALL}\n[netdev]\npoll = "never"\n').bring_up()
    before = came(world)

    arrive(world, flood(world, 20, 5 * MS), before)

    assert saved(world) == 0


def test_receiver_whose_doorbells_are_polled_does_not_get_past_that_poll() -> None:
    world = World(seed=1, text=SMALL + POLLED).bring_up()
    before = came(world)

    arrive(world, flood(world, 60), before)

    assert saved(world, "peer-rc") == 0


@pytest.mark.fabric("local")
@pytest.mark.parametrize("node", ["rc", "ep"])
@pytest.mark.parametrize("number", [1, 7, 20, 41, 60])
def test_process_that_is_stopped_in_a_store_under_load_loses_nothing(node: str, number: int) -> None:
    world = World(seed=number).bring_up()
    world.run_for(100 * MS)
    before = came(world)
    world.stop_in_store(node, number, 3 * MS)

    arrive(world, flood(world, 60), before)

    world.run_for(5 * MS)
    assert not is_polling(world)
    world.exchange(3)


@pytest.mark.fabric("local")
@pytest.mark.parametrize("victim", ["peer-rc", "peer-ep", "epc", "edma"])
def test_death_of_a_process_under_load_leaves_nobody_waiting(victim: str) -> None:
    world = World(seed=3).bring_up()
    flood(world, 20)
    world.restart(victim)
    flood(world, 20)
    world.run_for(SECOND)
    world.settle(world.is_up, 5 * SECOND)
    for process in world.processes.values():
        process.waiting.clear()
    world.run_for(100 * MS)

    world.exchange(20)
    world.run_for(5 * MS)
    assert not is_polling(world)
