from __future__ import annotations

from statistics import median

import pytest

from ntbnet.topology import SERVICES
from ntbnet.wire import Kind
from tests.sim.process import MS, SECOND, Frame
from tests.sim.world import POLLED, SMALL, Fault, World, packet_of

RECOVERY_NS = 2 * SECOND
"""Bound of every recovery, from the kill on; a peer may have to wait until its epoch is 1 s old."""
DATA_LINKS = [("peer-rc", "epc"), ("epc", "peer-rc"), ("epc", "peer-ep"), ("peer-ep", "epc")]
CONTROL_LINKS = [
    *(("peer-rc", "rc-host"), ("rc-host", "peer-rc")),
    *(("rc-host", "epc"), ("epc", "rc-host")),
]
"""What only talks while the link comes up."""


def recover(world: World, within_ns: int = RECOVERY_NS) -> int:
    """Wait until packets cross again, and show that they do; virtual ns it took."""
    took_ns = world.settle(world.is_up, within_ns)
    world.stop_traffic()
    world.check_history()
    world.settle(world.is_up, within_ns)
    world.exchange(3)
    world.check_history()
    return took_ns


@pytest.mark.parametrize("name", SERVICES)
def test_bridge_recovers_from_a_kill_at_any_event(name: str) -> None:
    """The kill moves through bring-up and traffic, every 41 events."""
    times = []
    for at_step in range(1, 1000, 41):
        world = World(seed=at_step)
        world.start()
        while world.steps < at_step and not world.is_up():
            world.step()
        if world.is_up():
            world.start_traffic()
        while world.steps < at_step:
            world.step()
        world.restart(name)
        # the moment after a kill may still look as if nothing had happened
        world.run_for(31 * MS)
        times.append(31 * MS + recover(world))

    assert median(times) < 250 * MS


@pytest.mark.slow
def test_hundred_random_kills_lose_no_order_and_damage_nothing() -> None:
    world = World(seed=2025).bring_up()
    came = 0
    for _ in range(100):
        world.start_traffic()
        world.run_for(world.random.randrange(120 * MS))
        for name in world.random.sample(SERVICES, world.random.choice((1, 1, 1, 2, 5))):
            world.restart(name, world.random.choice((0, MS, 30 * MS, 200 * MS)))
        world.run_for(201 * MS)
        world.settle(world.is_up, RECOVERY_NS)
        world.run_for(50 * MS)
        world.stop_traffic()
        came += world.check_history()

    world.settle(world.is_up, RECOVERY_NS)
    world.exchange(5)
    assert came > 2000


@pytest.mark.parametrize("stopped_ms", [100, 700, 950, 1500])
@pytest.mark.parametrize("name", SERVICES)
def test_bridge_recovers_from_a_stopped_process(name: str, stopped_ms: int) -> None:
    """A stop shorter than the liveness time may outlast every timeout of a driver."""
    for at_step in (20, 60, 150, 270, 330, 390, 430, 520, 700):
        world = World(seed=at_step)
        world.start()
        for _ in range(at_step):
            world.step()
        world.start_traffic()
        world.pause(name, stopped_ms * MS)
        world.run_for((stopped_ms + 1) * MS)
        recover(world, 3 * SECOND)


def nth_message(kind: str, skip: int = 5) -> Fault:
    """A link that mistreats one device message, after ``skip`` good ones."""
    seen = 0
    held: list[Frame] = []

    def fault(frame: Frame) -> list[Frame]:
        nonlocal seen
        if held:
            return [frame, held.pop()]
        if frame[0][1] >= Kind.MEM_WRITE:
            seen += 1
            if seen == skip + 1:
                if kind == "swap":
                    held.append(frame)
                broken = frame[0][:40] + b"\xff" + frame[0][41:], frame[1]
                return {"damage": [broken], "repeat": [frame, frame]}.get(kind, [])
        return [frame]

    return fault


@pytest.mark.fabric("message")
@pytest.mark.parametrize("kind", ["drop", "damage", "swap"])
@pytest.mark.parametrize("link", DATA_LINKS, ids="-".join)
def test_lost_damaged_or_reordered_message_is_a_new_link_epoch(link: tuple[str, str], kind: str) -> None:
    """Nothing behind it is applied: no packet is damaged, whatever message it was."""
    world = World(seed=3, text=SMALL + POLLED).bring_up()
    world.faults[link] = nth_message(kind)
    world.start_traffic()
    world.settle(lambda: world.epoch > 1 and world.is_up(), RECOVERY_NS)

    recover(world)
    refused = world.processes[link[1]].paths[link[0]].refused
    assert refused["gap"] + refused["damaged"] == 1
    assert world.epoch == 2


@pytest.mark.parametrize("kind", ["drop", "damage", "swap"])
@pytest.mark.parametrize("link", CONTROL_LINKS, ids="-".join)
def test_bring_up_survives_a_lost_damaged_or_reordered_message(link: tuple[str, str], kind: str) -> None:
    world = World(seed=3, text=SMALL + POLLED)
    world.faults[link] = nth_message(kind, skip=1)
    world.start()
    world.settle(lambda: sum(world.processes[link[1]].paths[link[0]].refused.values()) > 0, 5 * SECOND)
    world.settle(world.is_up, 10 * SECOND)

    refused = world.processes[link[1]].paths[link[0]].refused
    assert refused["gap"] + refused["damaged"] == 1
    world.exchange(3)


@pytest.mark.fabric("message")
@pytest.mark.parametrize("link", DATA_LINKS, ids="-".join)
def test_repeated_message_is_discarded_and_nothing_else_happens(link: tuple[str, str]) -> None:
    world = World(seed=4, text=SMALL + POLLED).bring_up()
    world.faults[link] = nth_message("repeat")
    world.start_traffic()
    world.run_for(SECOND)

    world.stop_traffic()
    assert world.processes[link[1]].paths[link[0]].refused["repeated"] == 1
    assert world.epoch == 1
    assert world.check_history() > 400


def test_packets_in_flight_on_a_dead_path_are_lost_never_delivered_later() -> None:
    world = World(seed=5).bring_up()
    for _ in range(4):
        world.exchange(1)
    world.delivered["ep"].clear()
    world.start_traffic(every_ns=20 * MS)
    world.kill("peer-ep")
    world.stop_traffic()
    world.start("peer-ep")
    world.settle(lambda: world.epoch == 2 and world.is_up(), RECOVERY_NS)
    world.run_for(200 * MS)

    assert world.delivered["ep"] == []
    world.exchange(5)


@pytest.mark.fabric("message")
@pytest.mark.covers("EDMA 165")
def test_stale_writes_are_counted() -> None:
    """A peer that has not heard of the link's loss yet writes into the void."""
    world = World(seed=6).bring_up()
    process = world.processes["epc"]
    for node in ("rc", "ep"):
        epoch, before = world.epoch, world.device("epc").counters["stale_epoch"]
        process.paths["rc-host"].surprise_down("test", world.now_ns)
        process.settle(process.paths["rc-host"])
        world.send(node, packet_of(world.random, 1, 64))
        world.until_epoch(epoch + 1)

        assert world.device("epc").counters["stale_epoch"] >= before + 4
        assert world.delivered == {"rc": [], "ep": []}
    world.exchange(3)


def test_every_restart_of_the_link_is_a_higher_epoch() -> None:
    world = World(seed=7).bring_up()
    epochs = [world.epoch]
    for name in ("peer-rc", "peer-ep", "epc", "rc-host"):
        world.restart(name)
        world.run_for(31 * MS)
        world.settle(world.is_up, RECOVERY_NS)
        epochs.append(world.epoch)

    assert epochs == sorted(set(epochs))


def test_loss_of_the_edma_engine_leaves_link_and_packets_alone() -> None:
    world = World(seed=8).bring_up()
    world.kill("edma")
    world.exchange(5)
    world.start("edma")
    world.run_for(SECOND)

    assert world.epoch == 1
    world.exchange(5)


def test_link_loss_refuses_nobodys_request() -> None:
    """An ordinary new link epoch warns of nothing but itself."""
    world = World(seed=9).bring_up()
    for name in ("peer-rc", "rc-host"):
        world.restart(name)
        world.run_for(31 * MS)
        world.settle(world.is_up, RECOVERY_NS)

    assert world.events("call.refused") == []
    assert world.events("driver.failed") == []
    assert world.events("transport.refused") == []
