"""A peer that forges scratchpads: every word of both banks, and that its descriptors changed."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntbnet.devices.memory import Buffer
from ntbnet.devices.ntb_epf import NtbEpf
from ntbnet.devices.ntb_vntb import NtbVntb
from ntbnet.regs.ntb_ctrl import RFC1
from ntbnet.wire import Irq, IrqSource, MemWrite
from tests.sim.process import MS, SECOND
from tests.sim.test_hostile import DOORBELL_REGION, changed, exposed, inject, value
from tests.sim.test_windows import bridge
from tests.sim.world import World

SPADS = 128
FIRST = 6
CHANGED_BIT = 1
"""Doorbell bit behind the one queue."""
BANKS = {"rc": RFC1.size, "ep": RFC1.size + 4 * SPADS}
"""Where a node's own scratchpads lie in the control block."""
WORD = (
    st.integers(0, 0xFFFFFFFF) | st.integers(0, 0x10000) | st.sampled_from((0xFFFFFFFF, 0xFFFFFFFC, 0x7FFC))
)


def forge(world: World, node: str, sidx: int, word: int) -> None:
    """Write a scratchpad of a node behind its back."""
    at = BANKS[node] + 4 * sidx
    world.dram["ep"][at : at + 4] = word.to_bytes(4, "little")


def say_changed(world: World, node: str) -> None:
    """The node tells its peer that its descriptors changed."""
    if node == "ep":
        target = world.config.profile.rc.msi_target
        data = (CHANGED_BIT + 2).to_bytes(4, "little")
        inject(world, "rc-host", "epc", MemWrite(target, data))
    else:
        at = DOORBELL_REGION + 4 * (CHANGED_BIT + 2)
        world.dram["ep"][at : at + 4] = (4).to_bytes(4, "little")


def trigger(world: World, node: str) -> str:
    rings = world.device(f"peer-{node}").snapshot()["interrupts"]["rings"]
    return str(rings[0]["trigger"])


def other(node: str) -> str:
    return "ep" if node == "rc" else "rc"


@pytest.fixture
def stores(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Offset and length of every store that a peer makes to its outbound interrupt window."""
    seen: list[tuple[int, int]] = []
    for driver in (NtbEpf, NtbVntb):
        write: Any = driver.peer_mw_write

        def record(self: Any, widx: int, offset: int, data: Buffer, what: str, write: Any = write) -> None:
            if widx == 1:
                seen.append((offset, len(data)))
            write(self, widx, offset, data, what)

        monkeypatch.setattr(driver, "peer_mw_write", record)
    return seen


@pytest.mark.covers("EDMA 96", "EDMA 99")
@pytest.mark.parametrize("node", ["rc", "ep"])
@pytest.mark.parametrize(
    "pair", [(0xA1, 0), (0x8000, 0), (0xFFFFFFFC, 0), (0xFFFFFFFF, 0), (0xA0, 0xFFFFFFFF), (1 << 31, 1 << 31)]
)
def test_impossible_descriptor_means_doorbells_and_packets_cross(node: str, pair: tuple[int, int]) -> None:
    world = bridge()
    for sidx, word in enumerate(pair, FIRST):
        forge(world, node, sidx, word)
    say_changed(world, node)
    world.run_for(50 * MS)

    assert trigger(world, other(node)) == "doorbell"
    refusals = world.events("transport.refused", f"peer-{other(node)}")
    assert len(refusals) == (0xFFFFFFFF not in pair)
    world.exchange(5)


@pytest.mark.parametrize("pair", [(0, 0), (0x40, 1), (0x7FFC, 0xFFFFFFFE)])
def test_host_that_forges_a_possible_descriptor_is_rung_by_doorbell_all_the_same(
    pair: tuple[int, int],
) -> None:
    """Its window leads nowhere: it never said where."""
    world = bridge()
    for sidx, word in enumerate(pair, FIRST):
        forge(world, "rc", sidx, word)
    say_changed(world, "rc")
    world.run_for(50 * MS)

    assert trigger(world, "ep") == "doorbell"
    (refusal,) = world.events("transport.refused", "peer-ep")
    assert refusal["cause"] == "queue 0 interrupt in a window that leads nowhere"
    world.exchange(5)


@settings(max_examples=25)
@given(offset=WORD, data=WORD)
def test_any_descriptor_of_the_endpoint_is_stored_to_as_it_is_or_not_at_all(offset: int, data: int) -> None:
    world = bridge()
    forge(world, "ep", FIRST, offset)
    forge(world, "ep", FIRST + 1, data)
    say_changed(world, "ep")
    world.run_for(20 * MS)

    is_good = offset % 4 == 0 and offset + 4 <= 0x8000 and 0xFFFFFFFF not in {offset, data}
    assert trigger(world, "rc") == (f"{offset:#x}={data:#x}" if is_good else "doorbell")
    assert world.epoch == 1


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("node", ["rc", "ep"])
@pytest.mark.parametrize("profile", ["r-car-s4", "generic"])
def test_forged_scratchpads_harm_only_the_forger(
    profile: str, node: str, seed: int, stores: list[tuple[int, int]]
) -> None:
    world, rng = bridge(profile, seed=seed), random.Random(seed)
    before = {name: bytes(dram) for name, dram in world.dram.items()}
    stores.clear()
    world.start_traffic()
    for _ in range(60):
        for _ in range(rng.randrange(4)):
            forge(world, rng.choice(("rc", "ep")), rng.randrange(FIRST + 4), value(rng))
        if rng.random() < 0.5:
            say_changed(world, node)
        if rng.random() < 0.1:
            inject(world, "peer-ep", "epc", Irq(IrqSource.MSI_VECTOR, rng.randrange(1020), world.epoch))
        world.run_for(rng.randrange(8 * MS))
    world.stop_traffic()

    size = world.config.windows[1].size
    assert all(length == 4 and not offset % 4 and offset + 4 <= size for offset, length in stores)
    for name, dram in world.dram.items():
        assert changed(before[name], dram, exposed(world, name)) == []
    world.restart("epc")
    world.run_for(31 * MS)
    world.settle(world.is_up, 5 * SECOND)
    world.check_history()
    world.exchange(3)
