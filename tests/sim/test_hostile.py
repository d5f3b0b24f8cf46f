from __future__ import annotations

import mmap
import random
from collections.abc import Callable
from typing import Any

import pytest

from ntbnet.devices.dma import DmaFilter
from ntbnet.regs.ntb_ctrl import RFC1
from ntbnet.wire import CfgWrite, Completion, Irq, IrqSource, MemRead, MemWrite, Message, Notice, Status
from tests.sim.process import MS, SECOND
from tests.sim.world import World

CTRL_BYTES = RFC1.size + 8 * 128
DOORBELL_REGION = 0x100000
FRAME_BYTES = 65536
SLOT_0_OF_QUEUE_0 = 2


def buffer_of(world: World, node: str) -> tuple[int, int]:
    """Offset in the node's DRAM and size of the receive memory it exposes now."""
    service = "peer-rc" if node == "rc" else "epc"
    base = world.config.profile.rc.dram_base if node == "rc" else world.config.profile.endpoint.dram_base
    keys = world.events("mw.configured", service)[-1]
    return int(keys["addr"], 16) - base, keys["size_bytes"]


def put_frame(world: World, node: str, ver: int, length: int, flags: int = 1) -> None:
    """Complete the next frame of the node's ring by hand, and ring its doorbell."""
    offset, _ = buffer_of(world, node)
    index = world.device(f"peer-{node}").snapshot()["link"]["queues"][0]["rx_index"]
    end = offset + (index + 1) * FRAME_BYTES
    for at, value in ((end - 12, ver), (end - 8, length), (end - 4, flags)):
        world.dram[node][at : at + 4] = value.to_bytes(4, "little")
    if node == "ep":
        world.dram["ep"][DOORBELL_REGION + 4 * SLOT_0_OF_QUEUE_0] = 1
    else:
        target = world.config.profile.rc.msi_target
        inject(world, "rc-host", "epc", MemWrite(target, SLOT_0_OF_QUEUE_0.to_bytes(4, "little")))


def inject(world: World, dst: str, src: str, message: Message) -> None:
    """A message that a neighbour's model would never send, on a sound path."""
    process = world.processes[dst]
    process.perform(process.device.handle(src, message, world.now_ns))
    process.arm()


@pytest.mark.covers("HAZARD 10.10")
@pytest.mark.parametrize("node", ["rc", "ep"])
def test_wrong_ver_is_a_new_link_epoch_and_recovery(node: str) -> None:
    world = World(seed=1).bring_up()
    world.exchange(3)
    put_frame(world, node, ver=0xDEAD, length=64)
    world.settle(lambda: world.epoch == 2 and world.is_up(), 3 * SECOND)

    assert world.events("transport.queue_stuck", f"peer-{node}") == [{"queue": 0, "reason": "rx_err_ver"}]
    world.exchange(5)


def test_peer_that_breaks_the_ring_all_the_time_gets_one_epoch_a_second() -> None:
    world = World(seed=2).bring_up()
    begin_ns = world.now_ns
    for _ in range(5):
        put_frame(world, "ep", ver=0xDEAD, length=64)
        world.until_epoch(world.epoch + 1)

    assert world.now_ns - begin_ns >= 5 * SECOND - 200 * MS
    world.exchange(5)


@pytest.mark.parametrize("length", [FRAME_BYTES - 11, 0xFFFFFFFF, 0, 5])
def test_impossible_frame_length_delivers_nothing_and_stops_nothing(length: int) -> None:
    world = World(seed=3).bring_up()
    put_frame(world, "ep", ver=0, length=length)
    world.run_for(50 * MS)

    assert world.delivered["ep"] == []
    assert world.epoch == 1
    assert world.device("peer-ep").snapshot()["link"]["queues"][0]["rx_index"] == 1


def changed(before: bytes, after: mmap.mmap, allowed: list[tuple[int, int]]) -> list[int]:
    """Offsets of differing 4 KiB pages outside the allowed (offset, size) ranges."""
    old, new = bytearray(before), bytearray(after)
    for offset, size in allowed:
        old[offset : offset + size] = new[offset : offset + size] = bytes(size)
    if old == new:
        return []
    return [at for at in range(0, len(old), 4096) if old[at : at + 4096] != new[at : at + 4096]]


def exposed(world: World, node: str) -> list[tuple[int, int]]:
    """Every range of a node's DRAM that was ever behind a window."""
    service = "peer-rc" if node == "rc" else "epc"
    base = world.config.profile.rc.dram_base if node == "rc" else world.config.profile.endpoint.dram_base
    windows = world.events("mw.configured", service)
    ranges = [(int(keys["addr"], 16) - base, keys["size_bytes"]) for keys in windows]
    # an interrupt window leads to registers, not to memory
    ranges = [(at, size) for at, size in ranges if 0 <= at < len(world.dram[node])]
    if node == "ep":
        ranges += [(0, 0x100000), (DOORBELL_REGION, 256)]
    return ranges


def value(rng: random.Random) -> int:
    return rng.choice((0, 1, 2, 4, 0xFFFFFFFF, 0x7FFFFFFF, rng.randrange(64), rng.getrandbits(32)))


def host_scribbles(world: World, rng: random.Random) -> None:
    """Anything a host can do to the function: stores, reads, configuration, forged completions."""
    bar = rng.choice((0x3000_0000, 0x3010_0000, 0x3020_0000))
    span = {0x3000_0000: CTRL_BYTES, 0x3010_0000: 0x100000, 0x3020_0000: 64}[bar]
    if rng.random() < 0.1:
        bar, span = rng.choice((0x2FFF_F000, 0x3020_0100, 0x4800_0000, (1 << 64) - 0x1000)), 0x1000
    addr = bar + rng.randrange(0, span, 4)
    word = value(rng).to_bytes(4, "little")
    message: Message = rng.choice(
        (
            MemWrite(addr, word),
            MemWrite(addr, word),
            MemWrite(min(addr + rng.randrange(4), (1 << 64) - 64), rng.randbytes(rng.randrange(1, 64))),
            MemRead(addr, 4, rng.getrandbits(32)),
            Completion(rng.getrandbits(32), Status.OK, rng.randbytes(4)),
            Irq(rng.choice(list(IrqSource)), rng.getrandbits(64)),
            Notice("epoch", {"epoch": rng.getrandbits(32)}),
        )
    )
    if rng.random() < 0.02:
        size = rng.choice((1, 2, 4))
        message = CfgWrite(rng.randrange(0, 256, 4), rng.randbytes(size), rng.getrandbits(32))
    inject(world, "epc", "rc-host", message)


def endpoint_scribbles(world: World, rng: random.Random) -> None:
    """Anything an endpoint can do to its host: its own memory, stores, MSIs, forged messages."""
    if rng.random() < 0.5:
        at = rng.randrange(0, CTRL_BYTES, 4)
        world.dram["ep"][at : at + 4] = value(rng).to_bytes(4, "little")
        return
    base = world.config.profile.rc.dram_base
    addr = base + rng.randrange(0, len(world.dram["rc"]) + 0x10000, 4)
    windows = world.events("mw.configured", "peer-rc")
    if windows and rng.random() < 0.3:
        addr = int(windows[-1]["addr"], 16) + rng.randrange(0, windows[-1]["size_bytes"], 4)
    if rng.random() < 0.2:
        addr = world.config.profile.rc.msi_target
    message: Message = rng.choice(
        (
            MemWrite(addr, value(rng).to_bytes(4, "little")),
            MemWrite(addr, rng.randbytes(rng.randrange(1, 64))),
            MemRead(addr, 64, rng.getrandbits(32)),
            Completion(rng.getrandbits(32), Status.OK, rng.randbytes(4)),
            Irq(rng.choice(list(IrqSource)), rng.getrandbits(64)),
        )
    )
    inject(world, "rc-host", "epc", message)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("scribble", [host_scribbles, endpoint_scribbles])
def test_hostile_side_harms_only_itself(
    scribble: Callable[[World, random.Random], None], seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random values everywhere the other side can write: no exception, no store outside the windows."""
    mapped: list[tuple[int, int]] = []
    map_for_dma = DmaFilter.map

    def record(dma: DmaFilter, addr: Any, size: Any) -> None:
        map_for_dma(dma, addr, size)
        mapped.append((addr - world.config.profile.rc.dram_base, size))

    monkeypatch.setattr(DmaFilter, "map", record)
    world, rng = World(seed), random.Random(seed)
    if seed % 2:
        world.bring_up()
    else:
        world.start()
    before = {node: bytes(dram) for node, dram in world.dram.items()}
    for _ in range(300):
        for _ in range(rng.randrange(4)):
            scribble(world, rng)
        for _ in range(rng.randrange(20)):
            world.step()

    for node, dram in world.dram.items():
        # memory is mapped for DMA before its window is configured, and stays so when that fails
        allowed = exposed(world, node) + (mapped if node == "rc" else [])
        assert changed(before[node], dram, allowed) == []
    world.restart("epc")
    world.run_for(31 * MS)
    world.settle(world.is_up, 5 * SECOND)
    for packets in world.delivered.values():
        packets.clear()
    world.exchange(3)
