"""Payloads by DMA in the whole bridge: order and content, undisturbed and when the engine is disturbed."""

from __future__ import annotations

from typing import Any

import pytest

from ntbnet.devices.effects import Restart
from ntbnet.profile import SHIPPED
from tests.sim.process import MS, SECOND, US
from tests.sim.test_windows import bridge, udp
from tests.sim.world import SMALL, World, number_in, packet_of

DMA_KEYS = "[transport]\nuse_dma = true\n"
DMA = SMALL + DMA_KEYS
SIZES = (64, 900, 1500, 9000, 60_000)


def dma_world(seed: int, text: str = DMA) -> World:
    return World(seed=seed, text=text).bring_up()


def queue(world: World, node: str) -> dict[str, Any]:
    rows: list[dict[str, Any]] = world.device(f"peer-{node}").snapshot()["link"]["queues"]
    return rows[0]


def copies(world: World) -> int:
    """Payloads that the engine has copied for this life of peer-ep."""
    return int(world.device("peer-ep").counters["dma_copies"])


def test_long_payloads_go_by_dma_and_short_ones_do_not() -> None:
    world = dma_world(1)
    world.exchange(20, size=9000)
    assert (queue(world, "ep")["tx_async"], queue(world, "ep")["tx_memcpy"]) == (20, 0)
    world.exchange(5, size=1009)
    assert (queue(world, "ep")["tx_async"], queue(world, "ep")["tx_memcpy"]) == (20, 5)
    world.exchange(5, size=1010)
    assert queue(world, "ep")["tx_async"] == 25
    assert (queue(world, "rc")["tx_async"], queue(world, "rc")["tx_memcpy"]) == (0, 30)
    assert (queue(world, "ep")["rx_async"], queue(world, "rc")["rx_async"]) == (0, 0)
    assert [one["bytes"] for one in world.device("edma").snapshot()["channels"]] == [20 * 9014 + 5 * 1024]


def test_host_without_an_engine_says_so_once() -> None:
    world = dma_world(2)
    world.exchange(3, size=9000)

    assert world.events("dma.unavailable", "peer-rc") == [{"reason": "this host has no DMA engine"}]
    assert world.events("dma.unavailable", "peer-ep") == []


def test_several_frames_are_in_flight_and_short_ones_wait_behind_them() -> None:
    world = dma_world(3)
    sent = [packet_of(world.random, n, 60_000 if n % 2 == 0 else 100) for n in range(8)]
    for packet in sent:
        world.send("ep", packet)
    in_flight = queue(world, "ep")["tx_in_flight"]
    world.settle(lambda: len(world.delivered["rc"]) == 8, SECOND)

    assert in_flight == 8
    assert world.delivered["rc"] == sent
    assert (queue(world, "ep")["tx_async"], queue(world, "ep")["tx_memcpy"]) == (4, 4)
    assert queue(world, "ep")["tx_in_flight"] == 0


def test_off_by_default_and_without_the_driver() -> None:
    by_default, driverless = dma_world(4, SMALL), dma_world(5, DMA + "dw_edma = false\n")
    for world in (by_default, driverless):
        world.exchange(5, size=9000)
        assert queue(world, "ep")["tx_async"] == 0
    assert by_default.events("dma.unavailable") == []
    assert len(driverless.events("dma.unavailable", "peer-ep")) == 1


def test_engine_killed_in_mid_transfer_loses_no_frame() -> None:
    world = dma_world(6)
    sent = [packet_of(world.random, n, 60_000) for n in range(6)]
    for packet in sent:
        world.send("ep", packet)
    world.run_for(MS // 10)
    assert queue(world, "ep")["tx_in_flight"] == 6
    world.restart("edma")
    world.settle(lambda: len(world.delivered["rc"]) == 6, 3 * SECOND)

    assert world.delivered["rc"] == sent
    assert queue(world, "ep")["dma_errors"] == 6
    assert world.epoch == 1
    world.run_for(SECOND)
    before = queue(world, "ep")["tx_async"]
    world.exchange(10, size=9000)
    assert queue(world, "ep")["tx_async"] == before + 10


@pytest.mark.parametrize("paused_ms", [300, 700, 1500, 3000])
def test_engine_that_stands_still_and_goes_on_harms_nothing(paused_ms: int) -> None:
    world = dma_world(7 + paused_ms)
    world.start_traffic(every_ns=MS, sizes=SIZES)
    world.run_for(50 * MS)
    world.pause("edma", paused_ms * MS)
    world.run_for((paused_ms + 2500) * MS)
    before = copies(world)
    world.run_for(50 * MS)
    world.stop_traffic()

    assert copies(world) > before > 0
    assert world.check_history() > 1000
    assert world.epoch == 1


@pytest.mark.parametrize("held_us", range(507_500, 510_000, 250))
def test_write_of_a_failed_copy_that_is_late_meets_no_frame_that_came_after_it(held_us: int) -> None:
    """The engine gives up when no answer came in time; what it sent arrives just when the CPU copies."""
    world = dma_world(1)
    world.exchange(3, size=9000)
    world.delivered["rc"].clear()
    world.hold_back("epc", "peer-rc", held_us * US)
    for number in range(1, 301):  # more than the ring holds: slots are used again
        world.send("ep", packet_of(world.random, number, 9000))
    world.run_for(600 * MS)

    assert world.device("peer-ep").counters["dma_errors"] > 0
    assert world.check_history() > 100
    assert world.epoch == 1


@pytest.mark.parametrize("seed", range(3))
def test_random_kills_of_the_engine_leave_order_and_content(seed: int) -> None:
    world = dma_world(100 + seed)
    world.start_traffic(every_ns=2 * MS, sizes=SIZES)
    for _ in range(6):
        world.run_for(world.random.randint(5, 400) * MS)
        world.restart("edma", world.random.randint(1, 300) * MS)
    world.run_for(2 * SECOND)
    before = copies(world)
    world.run_for(100 * MS)
    world.stop_traffic()

    assert copies(world) > before
    assert world.device("peer-ep").counters["dma_errors"] > 0
    assert world.check_history() > 1000
    assert world.epoch == 1


@pytest.mark.parametrize("seed", range(4))
def test_random_faults_of_everything_leave_order_and_content(seed: int) -> None:
    """Kills of any service, flaps of the link: packets may be lost, none is damaged or comes twice."""
    world = dma_world(200 + seed)
    world.start_traffic(every_ns=2 * MS, sizes=SIZES)
    for _ in range(6):
        world.run_for(world.random.randint(20, 900) * MS)
        victim = world.random.choice(("edma", "link", "link", "epc", "rc-host", "peer-rc"))
        if victim != "link":
            world.restart(victim, world.random.randint(1, 100) * MS)
        elif "epc" in world.processes:
            world.processes["epc"].perform([Restart("rc-host", "flap")])
    world.settle(world.is_up, 20 * SECOND)
    world.run_for(SECOND)
    before = copies(world)
    world.run_for(100 * MS)
    world.stop_traffic()

    assert copies(world) > before
    assert world.check_history() > 300


@pytest.mark.parametrize("seed", range(2))
def test_lost_frames_of_the_engines_paths_leave_order_and_content(seed: int) -> None:
    world = dma_world(300 + seed)
    paths = [("edma", "epc"), ("edma", "peer-ep"), ("peer-ep", "edma"), ("epc", "edma")]
    for path in paths:
        world.faults[path] = lambda frame: () if world.random.random() < 0.003 else (frame,)
    world.start_traffic(every_ns=2 * MS, sizes=SIZES)
    world.run_for(3 * SECOND)
    world.faults.clear()
    world.run_for(2 * SECOND)
    before = copies(world)
    world.run_for(100 * MS)
    world.stop_traffic()

    assert copies(world) > before
    assert world.device("epc").counters["edma_fences"] > 0
    assert world.check_history() > 1500
    assert world.epoch == 1


def test_queue_that_is_closed_and_opened_again_starts_with_a_quiet_engine() -> None:
    world = dma_world(8)
    process = world.processes["peer-ep"]
    peer: Any = process.device
    for round_number in range(10):
        for n in range(4):
            world.send("ep", packet_of(world.random, 4 * round_number + n, 60_000))
        world.run_for(world.random.randint(0, 300) * MS // 1000)
        peer._netdev.set_mtu(9000 if round_number % 2 else 65000)
        process.perform(peer._outbox.take())
        process.arm()
        world.settle(world.is_up, 3 * SECOND)
    world.run_for(100 * MS)
    numbers = [number_in(packet) for packet in world.delivered["rc"]]

    assert numbers == sorted(set(numbers))
    assert len(numbers) >= 20
    peer._netdev.set_mtu(65000)
    process.perform(peer._outbox.take())
    process.arm()
    world.run_for(SECOND)
    world.delivered["rc"].clear()
    world.exchange(10, size=9000)
    assert queue(world, "ep")["tx_async"] == 10


@pytest.mark.parametrize("profile", SHIPPED)
def test_every_profile_can(profile: str) -> None:
    world = bridge(profile, DMA_KEYS)
    world.exchange(10, size=9000)

    assert queue(world, "ep")["tx_async"] == 10


def test_queues_have_channels_of_their_own_until_none_is_left() -> None:
    text = DMA_KEYS + "max_num_clients = 3\ntransport_mtu = 16384\n[netdev]\nmtu = 9000\nqueues = 3\n"
    world = bridge("rk3588", text)
    world.run_for(50 * MS)
    for number in range(60):
        world.send("ep", udp(world, number, number, size=5000))
        world.run_for(MS)
    rows = world.device("peer-ep").snapshot()["link"]["queues"]

    assert len(world.delivered["rc"]) == 60
    assert [row["tx_async"] > 0 for row in rows] == [True, True, False]
    assert rows[2]["tx_memcpy"] > 0
    channels = world.device("peer-ep").snapshot()["dma"]
    assert [(one["queue"], one["channel"]) for one in channels] == [(0, "write0"), (1, "write1")]
    assert len(world.events("dma.unavailable", "peer-ep")) == 1
