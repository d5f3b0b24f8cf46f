"""The eDMA engine between both nodes' memories, in the whole bridge, undisturbed and under loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from ntbnet.devices.edma_channel import EdmaChannel, EdmaDriver
from ntbnet.devices.effects import Effect, Restart
from ntbnet.devices.memory import Window
from ntbnet.devices.task import Call, Task
from ntbnet.regs.edma import Direction
from ntbnet.wire import Irq, IrqSource, Message
from tests.sim.process import MS, SECOND
from tests.sim.world import World

AREA_BYTES = 0x20_0000
SIZES = (4, 65536, 1, 9000, 300_001, 4096, 64)


class DmaUser:
    """The endpoint's CPU with a driver of DMA channels beside everything it does anyway."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.peer = world.device("peer-ep")
        self.outbox, self.tasks = self.peer._outbox, self.peer._tasks
        self.driver = EdmaDriver(world.config.profile.endpoint, self.outbox)
        self.ep = self.peer._allocator.allocate(AREA_BYTES, 4096, "dma area")
        self.rc = world.device("peer-rc")._allocator.allocate(AREA_BYTES, 4096, "dma area")
        self.answers: list[tuple[Any, bool]] = []
        self.landed: list[bool] = []
        """For each answer, whether the data was there at that very time."""
        self.channels = {direction: self._channel(direction) for direction in Direction}
        self.patterns = {Direction.WRITE: (self.ep, self.rc), Direction.READ: (self.rc, self.ep)}
        world.processes["peer-ep"].device = self
        self.map_for_dma()

    def _channel(self, direction: Direction) -> EdmaChannel:
        region = self.peer._allocator.allocate(4096, 4096, "dma list")
        return self.driver.request_channel(direction, region, self._on_done)

    def _on_done(self, cookie: Any, ok: bool) -> None:
        source, destination, offset, size = cookie
        self.answers.append((cookie, ok))
        self.landed.append(source.load(offset, size) == destination.load(offset, size))

    def map_for_dma(self) -> None:
        """The host's driver maps its area, as it must in every link epoch."""
        host = self.world.device("peer-rc")

        def mapping() -> Task[None]:
            yield Call("rc-host", "dma_map", {"addr": self.rc.span.base, "size": AREA_BYTES})
            self.world.device("peer-rc")._mapped.map(self.rc.span.base, AREA_BYTES)

        host._tasks.spawn("map", mapping())
        self.world.processes["peer-rc"].perform(host._outbox.take())
        self.world.run_for(2 * MS)

    def submit(self, direction: Direction, begin: int, sizes: Sequence[int]) -> int:
        """Random bytes into the source, and a transfer of each size; where the next may begin."""
        source, destination = self.patterns[direction]
        for size in sizes:
            source.store("test", begin, self.world.random.randbytes(size))
            cookie = (source, destination, begin, size)
            self.channels[direction].submit(
                source.span.base + begin, destination.span.base + begin, size, cookie
            )
            begin += size
        self.channels[direction].issue()
        self.world.processes["peer-ep"].perform(self.outbox.take())
        return begin

    def wait(self, count: int, within_ns: int = SECOND) -> None:
        self.world.settle(lambda: len(self.answers) >= count, within_ns)

    # in the place of the peer

    def handle(self, src: str, message: Message, now_ns: int) -> Sequence[Effect]:
        effects = list(self.peer.handle(src, message, now_ns))
        if isinstance(message, Irq) and message.source is IrqSource.EDMA_LINE:
            self.tasks.spawn("dma", self.driver.interrupt())
            effects += self.outbox.take()
        return effects

    def on_path(self, peer: str, up: bool, session: int, reason: str, now_ns: int) -> Sequence[Effect]:
        if peer == "edma" and not up:
            self.driver.lost()
        effects: Sequence[Effect] = self.peer.on_path(peer, up, session, reason, now_ns)
        return effects

    def __getattr__(self, name: str) -> Any:
        return getattr(self.peer, name)


def dma(seed: int, latency_us: tuple[int, int] = (20, 60)) -> tuple[World, DmaUser]:
    world = World(seed=seed, latency_us=latency_us).bring_up()
    return world, DmaUser(world)


def untouched(window: Window, begin: int) -> bool:
    return window.load(begin, AREA_BYTES - begin) == bytes(AREA_BYTES - begin)


@pytest.mark.covers("EDMA 108", "EDMA 113", "EDMA 117", "EDMA 132")
def test_data_crosses_both_ways_at_once_and_is_there_when_it_is_said_to_be() -> None:
    world, user = dma(seed=31)
    rings = user.peer.counters["edma_interrupts"]
    end = user.submit(Direction.WRITE, 0, SIZES)
    user.submit(Direction.READ, end, SIZES)
    user.wait(2 * len(SIZES))

    assert all(ok for _, ok in user.answers)
    assert all(user.landed)
    for direction in Direction:
        source, _ = user.patterns[direction]
        mine = [cookie for cookie, _ in user.answers if cookie[0] is source]
        assert [size for *_, size in mine] == list(SIZES)
    assert untouched(user.rc, 2 * end)
    assert untouched(user.ep, 2 * end)
    assert world.epoch == 1
    assert world.events("write.dropped") == []
    assert user.peer.counters["edma_interrupts"] > rings
    channels = world.device("edma").snapshot()["channels"]
    assert [(one["bytes"], one["state"]) for one in channels] == [(sum(SIZES), "done")] * 2


@pytest.mark.parametrize("direction", list(Direction))
def test_engine_killed_in_mid_transfer_fails_what_was_queued_and_the_next_one_works(
    direction: Direction,
) -> None:
    world, user = dma(seed=32)
    user.submit(direction, 0, (1 << 20,))
    world.run_for(MS // 5)
    assert user.answers == []

    world.restart("edma")
    user.wait(1, 3 * SECOND)

    assert [ok for _, ok in user.answers] == [False]
    world.settle(lambda: world.processes["edma"].paths["peer-ep"].is_up, SECOND)
    world.settle(lambda: world.device("edma").engine.is_open, SECOND)
    user.submit(direction, 0, SIZES)
    user.wait(1 + len(SIZES))
    assert all(ok for _, ok in user.answers[1:])
    assert all(user.landed[1:])
    assert world.epoch == 1


@pytest.mark.covers("EDMA 165")
@pytest.mark.parametrize("direction", list(Direction))
@pytest.mark.parametrize("loss", ["link", "peer-rc", "epc"])
def test_link_lost_in_mid_transfer_aborts_it_and_nothing_lands_later(direction: Direction, loss: str) -> None:
    world, user = dma(seed=33)
    user.submit(direction, 0, (1 << 20, 64))
    world.run_for(MS // 5)
    assert user.answers == []

    if loss == "link":
        process = world.processes["epc"]
        process.perform([Restart("rc-host", "test")])
    else:
        world.restart(loss)
    user.wait(2, 3 * SECOND)
    assert [ok for _, ok in user.answers] == [False, False]
    assert [keys["direction"] for keys in world.events("edma.channel_aborted")] == [direction.name.lower()]
    _, destination = user.patterns[direction]
    destination.zero("test")
    world.until_epoch(2)
    assert untouched(destination, 0)

    user.map_for_dma()
    user.submit(direction, 0, SIZES)
    user.wait(2 + len(SIZES))
    assert all(ok for _, ok in user.answers[2:])
    assert all(user.landed[2:])


@pytest.mark.parametrize("direction", list(Direction))
def test_host_lost_in_mid_transfer_leaves_nothing_for_the_next_epoch(direction: Direction) -> None:
    """Memory requests do not go by the host: they go on until the link ends."""
    world, user = dma(seed=36)
    user.submit(direction, 0, (1 << 20, 64))
    world.run_for(MS // 5)
    world.restart("rc-host")
    user.wait(2, 3 * SECOND)
    _, destination = user.patterns[direction]
    world.settle(lambda: world.epoch != 1, 3 * SECOND)
    destination.zero("test")
    world.until_epoch(2)

    assert untouched(destination, 0)
    user.map_for_dma()
    user.submit(direction, 0, SIZES)
    user.wait(2 + len(SIZES))
    assert all(ok for _, ok in user.answers[2:])


@pytest.mark.covers("EDMA 173")
def test_read_throughput_falls_with_the_latency_of_the_link() -> None:
    """A fixed number of reads under way: twice the latency, half the rate."""
    took_ns = []
    for latency_us in (50, 100):
        world, user = dma(seed=35, latency_us=(latency_us, latency_us))
        begin_ns = world.now_ns
        user.submit(Direction.READ, 0, (1 << 20,))
        user.wait(1)
        took_ns.append(world.now_ns - begin_ns)

    assert took_ns[1] / took_ns[0] == pytest.approx(2, rel=0.05)


def test_write_to_memory_the_host_did_not_map_is_an_abort_and_touches_nothing() -> None:
    world, user = dma(seed=34)
    foreign = world.device("peer-rc")._allocator.allocate(4096, 4096, "foreign")
    cookie = (user.ep, user.rc, 0, 4096)
    user.ep.store("test", 0, b"\xff" * 4096)
    user.channels[Direction.WRITE].submit(user.ep.span.base, foreign.span.base, 4096, cookie)
    user.channels[Direction.WRITE].issue()
    world.processes["peer-ep"].perform(user.outbox.take())
    user.wait(1)

    assert user.answers == [(cookie, False)]
    assert foreign.load(0, 4096) == bytes(4096)
    assert world.device("peer-rc").counters["dma_write_faults"] > 0
