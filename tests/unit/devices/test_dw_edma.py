from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable
from functools import partial

import pytest

from ntbnet.devices.dw_edma import DwEdma, DwEdmas, MapFormat
from ntbnet.devices.edma import Edma
from ntbnet.devices.effects import Outbox
from ntbnet.errors import KernelError
from ntbnet.wire import MemWrite
from tests.unit.devices.kit import EP_DRAM, config, dram, sent, u32

BASE = 0xE65D_5000
TIMEOUT_NS = 500_000_000


class Engine:
    """A driver instance and what its callbacks noted."""

    def __init__(self, map_format: MapFormat = MapFormat.UNROLL) -> None:
        self.outbox = Outbox()
        self.counters: Counter[str] = Counter()
        hardware = config().profile.endpoint
        self.driver = DwEdma(hardware, self.outbox, self.counters, map_format)
        self.rings: list[str] = []
        self.removed: list[str] = []

    def register(self, name: str, data: object = None) -> Callable[[], None]:
        function = partial(self.rings.append, name)
        self.driver.register_self_irq(function, data, partial(self.removed.append, name))
        return function


def refused(action: Callable[[], object]) -> int:
    with pytest.raises(KernelError) as failure:
        action()
    return failure.value.errno


@pytest.mark.covers("EDMA 104", "NTB 181")
def test_one_ring_runs_every_callback() -> None:
    engine = Engine()
    for name in ("queue-0", "queue-1", "queue-2"):
        engine.register(name)
    engine.driver.on_lines(1)

    assert engine.rings == ["queue-0", "queue-1", "queue-2"]
    assert engine.counters["edma_interrupts"] == 1


@pytest.mark.covers("EDMA 129")
def test_acknowledge_is_0_in_both_clear_registers() -> None:
    engine = Engine()
    engine.driver.on_lines(1)

    assert sent(engine.outbox.take(), "edma") == [
        MemWrite(BASE + 0x58, u32(0)),
        MemWrite(BASE + 0xAC, u32(0)),
    ]


def test_ring_that_collapses_while_the_acknowledge_is_on_its_way_is_not_lost() -> None:
    engine, hardware = Engine(), Edma(config(), dram(EP_DRAM))
    hardware.on_path("peer-ep", True, 1, "", 0)
    memory, seen = [0], [0]
    engine.driver.register_self_irq(lambda: seen.append(memory[0]), None, lambda: None)
    ring = MemWrite(BASE + 0xA0, u32(0))
    for value in (1, 2):
        memory[0] = value
        interrupts = sent(hardware.handle("epc", ring, 0), "peer-ep")
        assert len(interrupts) == (value == 1)
        for _ in interrupts:
            engine.driver.on_lines(1)
    for message in sent(engine.outbox.take(), "edma"):
        for _ in sent(hardware.handle("peer-ep", message, 0), "peer-ep"):
            engine.driver.on_lines(1)

    assert seen[-1] == 2


@pytest.mark.covers("EDMA 129")
def test_acknowledge_leaves_done_and_abort_bits_in_the_engine() -> None:
    engine, hardware = Engine(), Edma(config(), dram(EP_DRAM))
    hardware.registers.set("RD_INT_STATUS", 0x0001_0003)
    engine.driver.on_lines(1)
    for message in sent(engine.outbox.take(), "edma"):
        hardware.handle("peer-ep", message, 0)

    assert hardware.registers.get("RD_INT_STATUS") == 0x0001_0003


@pytest.mark.covers("EDMA 137")
@pytest.mark.parametrize("line", range(4))
def test_ring_is_heard_on_any_line(line: int) -> None:
    engine = Engine()
    engine.register("queue-0")
    engine.driver.on_lines(1 << line)

    assert engine.rings == ["queue-0"]
    assert engine.counters[f"edma_line_{line}"] == 1


@pytest.mark.covers("EDMA 138")
def test_registers_are_found_unless_the_map_has_none() -> None:
    assert Engine().driver.self_irq_registers().status == BASE + 0xA0
    assert Engine().driver.self_irq_registers().clear == BASE + 0xAC
    assert Engine(MapFormat.HDMA_COMPAT).driver.self_irq_registers().status == BASE + 0xA0
    for absent in (MapFormat.LEGACY, MapFormat.HDMA_NATIVE):
        assert refused(Engine(absent).driver.self_irq_registers) == errno.EOPNOTSUPP


@pytest.mark.covers("EDMA 139")
def test_unregister_removes_the_first_exact_match_only() -> None:
    engine, data = Engine(), object()
    function = partial(engine.rings.append, "same")
    for _ in range(2):
        engine.driver.register_self_irq(function, data, lambda: None)
    engine.driver.unregister_self_irq(function, object())
    engine.driver.unregister_self_irq(lambda: None, data)
    engine.driver.on_lines(1)
    assert engine.rings == ["same"] * 2

    engine.driver.unregister_self_irq(function, data)
    engine.driver.on_lines(1)
    assert engine.rings == ["same"] * 3


@pytest.mark.covers("EDMA 139")
def test_removal_of_the_engine_frees_all_and_tells_the_owners() -> None:
    engine = Engine()
    engine.register("a")
    engine.register("b")
    engine.driver.remove()
    engine.driver.on_lines(1)

    assert (engine.rings, engine.removed) == ([], ["a", "b"])
    assert refused(lambda: engine.register("c")) == errno.ENODEV
    engine.driver.probe()
    engine.register("c")
    engine.driver.on_lines(1)
    assert engine.rings == ["c"]


def test_nothing_to_run_is_einval() -> None:
    engine = Engine()

    assert refused(lambda: engine.driver.register_self_irq(None, 1, lambda: None)) == errno.EINVAL


def test_callback_may_unregister_itself_while_it_runs() -> None:
    engine = Engine()

    def once() -> None:
        engine.rings.append("once")
        engine.driver.unregister_self_irq(once, None)

    engine.driver.register_self_irq(once, None, lambda: None)
    engine.register("other")
    engine.driver.on_lines(1)
    engine.driver.on_lines(1)

    assert engine.rings == ["once", "other", "other"]


def test_engine_is_found_by_its_device() -> None:
    driver = Engine().driver
    engines = DwEdmas(driver)

    assert engines.find_by_device(BASE) is driver
    assert engines.find_by_device(BASE + 4) is None
    driver.remove()
    assert engines.find_by_device(BASE) is driver
