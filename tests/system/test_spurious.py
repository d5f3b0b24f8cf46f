"""Interrupts that nobody waits for, on real processes under traffic: counted, logged once, survived.

They are forged into paths whose rightful sender is silent: an engine that nobody uses.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from ntbnet.devices.edma_line import UNHEARD_NS
from ntbnet.regs.edma import edma_block
from ntbnet.wire import Irq, IrqSource, MemWrite
from tests.conftest import MakeBridge
from tests.live.bridge import LiveBridge, until
from tests.live.forger import Forger
from tests.live.traffic import transfers

pytestmark = [pytest.mark.system, pytest.mark.needs_tun, pytest.mark.slow]

TIMES = 5
UNUSED_VECTOR, UNKNOWN_VECTOR = 1, 0x7F
"""MSI vectors of the host: one that its driver has and does not use, one that it was never granted."""
UNKNOWN_LOCAL_MSI = 999


def counter(bridge: LiveBridge, service: str, name: str) -> int:
    return int(bridge.service(service)["counters"].get(name, 0))


def events(bridge: LiveBridge, service: str, name: str, **keys: object) -> list[dict[str, Any]]:
    lines = [line for line in bridge.log_lines(service) if line["event"] == name]
    return [line for line in lines if all(line[key] == value for key, value in keys.items())]


@contextmanager
def forging(bridge: LiveBridge, src: str, dst: str) -> Iterator[Forger]:
    forger = Forger(bridge, src, dst)
    try:
        yield forger
    finally:
        forger.close()


@contextmanager
def unharmed_traffic(bridge: LiveBridge) -> Iterator[int]:
    """Transfers both ways run meanwhile, and end well in the same link epoch, which it yields."""
    epoch = bridge.wait_for_link()["link"]["epoch"]
    with transfers(bridge, "rc", "ep", seed=3):
        yield epoch
    assert bridge.status()["link"]["epoch"] == epoch
    assert bridge.complaints() == []


def rises(bridge: LiveBridge, service: str, name: str, before: int) -> Callable[[], bool]:
    return lambda: counter(bridge, service, name) >= before + TIMES


def test_unknown_messages_to_both_cpus_are_counted_and_logged_once(make_bridge: MakeBridge) -> None:
    bridge = make_bridge('bridge.profile = "generic"\n')
    target = bridge.config.profile.rc.msi_target
    with unharmed_traffic(bridge) as epoch:
        with forging(bridge, "edma", "peer-ep") as forger:
            for number in range(TIMES):
                forger.inject(Irq(IrqSource.MSI_VECTOR, UNKNOWN_LOCAL_MSI + number, epoch))
        with forging(bridge, "edma", "epc") as forger:
            for vector in (UNUSED_VECTOR, UNKNOWN_VECTOR):
                for _ in range(TIMES):
                    forger.inject(MemWrite(target, vector.to_bytes(4, "little"), epoch))
        until(rises(bridge, "peer-rc", "irqs_spurious", 0), 5, "spurious interrupts of the host")
        until(rises(bridge, "peer-rc", "msis_refused", 0), 5, "refused messages")

    assert counter(bridge, "peer-ep", "irqs_spurious") == TIMES
    assert counter(bridge, "peer-rc", "irqs_spurious") == TIMES
    assert counter(bridge, "peer-rc", "msis_refused") == TIMES
    (at_ep,) = events(bridge, "peer-ep", "irq.spurious")
    (at_rc,) = events(bridge, "peer-rc", "irq.spurious")
    (refused,) = events(bridge, "peer-rc", "msi.refused")
    assert (at_ep["source"], at_ep["bits"]) == ("msi", UNKNOWN_LOCAL_MSI)
    assert (at_rc["source"], at_rc["bits"]) == ("msi", UNUSED_VECTOR)
    assert (refused["cause"], refused["vector"]) == ("not granted", UNKNOWN_VECTOR)


def test_interrupts_of_an_engine_without_a_driver_are_counted_and_logged_once(
    make_bridge: MakeBridge,
) -> None:
    bridge = make_bridge("transport.dw_edma = false\n")
    at_start = counter(bridge, "peer-ep", "irqs_spurious")
    with unharmed_traffic(bridge), forging(bridge, "edma", "peer-ep") as forger:
        for _ in range(TIMES):
            forger.inject(Irq(IrqSource.EDMA_LINE, 1))

    assert counter(bridge, "peer-ep", "irqs_spurious") == at_start + TIMES
    (said,) = events(bridge, "peer-ep", "irq.spurious")
    assert said["source"] == "edma"


@pytest.mark.parametrize("driver", ["true", "false"])
def test_rings_that_nobody_asked_for_end_with_the_handler_and_do_not_storm_without_one(
    make_bridge: MakeBridge, driver: str
) -> None:
    bridge = make_bridge(f"transport.use_intr = false\ntransport.dw_edma = {driver}\n")
    endpoint = bridge.config.profile.endpoint
    block = edma_block(endpoint.edma_write_channels, endpoint.edma_read_channels)
    status = endpoint.edma_base + block.offset("RD_INT_STATUS")
    handled, told = counter(bridge, "peer-ep", "edma_interrupts"), counter(bridge, "edma", "irqs")
    with unharmed_traffic(bridge), forging(bridge, "epc", "edma") as forger:
        begun_ns = time.monotonic_ns()
        for _ in range(TIMES):
            forger.inject(MemWrite(status, bytes(4)))
        until(rises(bridge, "edma", "test_interrupts", 0), 5, "rings")
        reminders = (time.monotonic_ns() - begun_ns) // UNHEARD_NS

    assert counter(bridge, "edma", "test_interrupts") == TIMES
    new_told = counter(bridge, "edma", "irqs") - told
    if driver == "true":
        assert 1 <= new_told <= TIMES
        assert counter(bridge, "peer-ep", "edma_interrupts") - handled == new_told
        assert counter(bridge, "peer-ep", "irqs_spurious") == 0
    else:
        assert 1 <= new_told <= 1 + reminders
        assert counter(bridge, "edma", "rings_collapsed") == TIMES - 1
        assert len(events(bridge, "peer-ep", "irq.spurious")) == 1
