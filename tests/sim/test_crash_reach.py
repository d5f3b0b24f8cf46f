"""Who reaches which crash point, in which set-up and fabric: what CRASH_POINTS says of it is so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ntbnet.devices.crash_points import (
    BRING_UP,
    CLASSIC,
    CRASH_POINTS,
    DMA,
    MSIX,
    POLLED,
    RESET,
    SETTINGS,
    TRAFFIC,
)
from ntbnet.devices.endpoint import EndpointController
from ntbnet.devices.memory import unwatch_stores, watch_stores
from ntbnet.devices.root_complex import RootComplex
from tests.sim.process import MS, Process
from tests.sim.watch import FarMemory
from tests.sim.world import POLLED as POLLED_TEXT
from tests.sim.world import SMALL, World

TEXTS = {
    TRAFFIC: SMALL,
    POLLED: SMALL + POLLED_TEXT,
    DMA: SMALL + "[transport]\nuse_dma = true\n",
    CLASSIC: SMALL + '[ntb]\nnum_mws = 1\nmw2 = 0\nmw2_offset = 0\nctrl_layout = "classic"\nmw1 = 0x100000\n',
    MSIX: SMALL + '[bridge]\nprofile = "rk3588"\n',
    RESET: SMALL.replace("]\n", ']\ndram_on_reset = "lost"\n'),
}

REACHES = {
    TRAFFIC: {TRAFFIC, BRING_UP},
    POLLED: {POLLED, BRING_UP},
    DMA: {DMA, TRAFFIC, BRING_UP},
    CLASSIC: {CLASSIC, TRAFFIC},
    MSIX: {MSIX, TRAFFIC, BRING_UP},
    RESET: {RESET, TRAFFIC, BRING_UP},
}
"""Which rows a set-up leads to."""

Reached = set[tuple[str, str]]
"""(name, service) of stores."""


@pytest.fixture
def reached(monkeypatch: pytest.MonkeyPatch) -> Iterator[Reached]:
    """Fills with what is stored, as the test goes on."""
    found: Reached = set()
    acting = [""]

    def note(what: str) -> None:
        if what not in {"", "direct"}:  # how a far store lands that was noted already
            found.add((what, acting[-1]))

    def attributed(function: Callable[..., Any], name_of: Callable[..., str]) -> Callable[..., Any]:
        def act(*args: Any, **keys: Any) -> Any:
            acting.append(name_of(*args))
            try:
                return function(*args, **keys)
            finally:
                acting.pop()

        return act

    for method in ("receive", "receive_wake", "on_timer", "settle", "perform", "pump", "poll"):
        bare = getattr(Process, method)
        monkeypatch.setattr(Process, method, attributed(bare, lambda process, *_: process.name))
    for device, name in ((RootComplex, "rc-host"), (EndpointController, "epc")):
        monkeypatch.setattr(device, "command", attributed(device.command, lambda *_, name=name: name))
    monkeypatch.setattr(World, "_make", attributed(World._make, lambda _, name: name))
    far_store = FarMemory.store

    def store_far(memory: FarMemory, what: str, *rest: Any) -> None:
        note(what)
        far_store(memory, what, *rest)

    monkeypatch.setattr(FarMemory, "store", store_far)
    watch_stores(note, lambda _: None)
    yield found
    unwatch_stores()


WITHOUT = {(CLASSIC, "intr.rung")}
"""Set-up with one window only, which carries frames: interrupts are doorbells."""
LENT = "ring.payload_lent"
"""Far memory of the model lends nothing: only the sweep of a real bridge comes there."""


@pytest.mark.parametrize("set_up", TEXTS)
def test_table_says_who_stores_what_and_when(reached: Reached, fabric: str, set_up: str) -> None:
    world = World(seed=2, text=TEXTS[set_up]).bring_up()
    world.restart("rc-host")
    world.run_for(31 * MS)
    world.settle(world.is_up, 3_000 * MS)
    at_bring_up = set(reached)
    reached.clear()
    for size in (100, 3000, 60_000):
        world.exchange(20, size=size)
    if set_up == RESET:
        for service in ("rc-host", "epc"):
            process = world.processes[service]
            process.perform(process.device.command(["reset"], world.now_ns))  # type: ignore[attr-defined]
            process.arm()
            world.run_for(31 * MS)
            world.settle(world.is_up, 3_000 * MS)
    in_traffic = set(reached)

    rows = {name: row for name, row in CRASH_POINTS.items() if row.fabric in {"", fabric}}
    for name, service in at_bring_up | in_traffic:
        assert service in rows[name].services
    for name, row in rows.items():
        if row.reached in REACHES[set_up] and name != LENT and (set_up, name) not in WITHOUT:
            seen = at_bring_up if row.is_bring_up else in_traffic
            assert {service for what, service in seen if what == name} == set(row.services), name


def test_every_set_up_is_tried() -> None:
    assert set().union(*REACHES.values()) == SETTINGS.keys()
