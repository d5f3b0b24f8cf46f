"""Fabric ``local``: no stale store reaches live data, however its process is stopped, killed, remapped.

The world judges every direct store (``tests/sim/watch.py``); these tests make the unlucky moments.
"""

from __future__ import annotations

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from ntbnet.topology import SERVICES
from tests.sim.process import MS, SECOND
from tests.sim.world import SMALL, World

pytestmark = pytest.mark.fabric("local")

DMA = f"{SMALL}\n[transport]\nuse_dma = true\n"
OTHER = {"rc": "ep", "ep": "rc"}


def under_load(seed: int, text: str = SMALL) -> World:
    """A bridge that is up, with traffic both ways."""
    world = World(seed=seed, text=text).bring_up()
    world.start_traffic(every_ns=2 * MS)
    return world


def stop_in_store(world: World, node: str, number: int, for_ns: int) -> None:
    """Wait until the peer of ``node`` was stopped in the middle of a store."""
    world.stop_in_store(node, number, for_ns)
    world.settle(lambda: world.processes[f"peer-{node}"].is_paused, SECOND)


def recover(world: World) -> None:
    """Everything runs again, and what crosses is whole."""
    # a driver may wait 500 ms for the answer of a process that was killed; packets queue up behind it
    world.run_for(SECOND)
    world.settle(world.is_up, 5 * SECOND)
    world.stop_traffic()
    world.settle(world.is_up, 5 * SECOND)
    world.check_history()
    world.exchange(3)


@pytest.mark.parametrize("node", ["rc", "ep"])
def test_process_that_goes_on_in_a_store_of_an_old_epoch_hits_nobody(node: str) -> None:
    world = under_load(1)
    epoch = world.epoch

    stop_in_store(world, node, 50, for_ns=2 * SECOND)
    world.run_for(1500 * MS)
    assert world.epoch != epoch
    recover(world)

    assert world.epoch > epoch
    assert world.watch.late >= 1


@pytest.mark.parametrize("links", range(1, 6))
def test_new_process_takes_no_memory_that_a_stopped_one_still_stores_to(links: int) -> None:
    """Each link epoch moves the receive buffer on: here into what the next process would begin with."""
    world = under_load(links, DMA)
    for _ in range(links):
        world.restart("rc-host")
        world.run_for(100 * MS)
        world.settle(world.is_up, 3 * SECOND)

    stop_in_store(world, "rc", 50, for_ns=2 * SECOND)
    world.restart("peer-ep")
    world.run_for(1900 * MS)
    recover(world)

    assert world.watch.late >= 1


def test_other_host_that_never_leaves_its_epoch_keeps_a_new_process_waiting_but_no_longer() -> None:
    world = under_load(7)
    stop_in_store(world, "ep", 20, for_ns=20 * SECOND)
    world.restart("peer-rc")
    world.run_for(3 * SECOND)
    assert world.device("peer-rc").snapshot()["link"]["queues"] == []

    world.restart("peer-ep")
    world.run_for(100 * MS)
    recover(world)


def test_links_that_come_and_go_do_not_use_up_the_memory() -> None:
    world = under_load(3)
    for _ in range(40):
        world.restart("rc-host", after_ns=5 * MS)
        world.run_for(50 * MS)
        world.settle(world.is_up, 3 * SECOND)
    recover(world)

    assert world.watch.stores > 100


Blow = tuple[str, int, int]
BLOWS = st.lists(
    st.tuples(st.sampled_from(SERVICES), st.integers(0, 400), st.integers(0, 100)), min_size=0, max_size=4
)
"""Service, milliseconds until it is killed, milliseconds until it is back."""


@pytest.mark.slow
@given(
    seed=st.integers(0, 1 << 16),
    node=st.sampled_from(("rc", "ep")),
    number=st.integers(1, 300),
    stopped_ms=st.integers(1, 2500),
    blows=BLOWS,
    is_killed=st.booleans(),
    moves_bar=st.booleans(),
    text=st.sampled_from((SMALL, DMA)),
)
@settings(max_examples=25, phases=[Phase.explicit, Phase.reuse, Phase.generate])
def test_no_stale_store_reaches_live_data(
    seed: int,
    node: str,
    number: int,
    stopped_ms: int,
    blows: list[Blow],
    is_killed: bool,
    moves_bar: bool,
    text: str,
) -> None:
    """A stop in some store; meanwhile BARs move and services die; then it goes on, or is killed."""
    world = World(seed=seed, text=text, fabric="local").bring_up()
    world.start_traffic(every_ns=2 * MS)
    stop_in_store(world, node, number, stopped_ms * MS)
    if moves_bar and world.epoch:
        host = world.processes["rc-host"]
        host.perform(host.device.reassign_bar(2, world.now_ns))  # type: ignore[attr-defined]
        host.arm()
    for name, wait_ms, back_ms in blows:
        world.run_for(wait_ms * MS)
        if name != f"peer-{node}":
            world.restart(name, back_ms * MS)
    if is_killed:
        world.restart(f"peer-{node}")
    world.run_for(stopped_ms * MS)
    recover(world)
