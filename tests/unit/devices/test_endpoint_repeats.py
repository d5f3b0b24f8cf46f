"""Where a store leads is remembered: until anything changes that decides it."""

from __future__ import annotations

import pytest

from ntbnet.devices.endpoint import MOST_KNOWN
from ntbnet.wire import MemWrite
from tests.unit.devices.kit import EP_DRAM, u32
from tests.unit.devices.test_endpoint import BUFFER, DOORBELLS, EPOCH, WINDOW, Controller


def test_repeated_store_follows_its_window_when_that_is_moved_or_closed() -> None:
    controller = Controller()
    other = BUFFER + 0x100000
    for number, target in enumerate((BUFFER, BUFFER, other)):
        controller.call("mw_set_trans", widx=0, addr=target, size=0xF0000)
        for _ in range(2):
            controller.host(MemWrite(WINDOW + 8, u32(number)))
        assert controller.dram.load_u32(target - EP_DRAM + 8) == number
    controller.call("mw_clear_trans", widx=0)
    controller.host(MemWrite(WINDOW + 8, u32(9)))

    assert controller.dram.load_u32(0x500000 + 8) == 1
    assert controller.dram.load_u32(0x600000 + 8) == 2
    assert controller.model.counters["writes_dropped_no_window"] == 1


def test_repeated_store_follows_its_bar_and_memory_decode() -> None:
    controller = Controller()
    controller.host(MemWrite(DOORBELLS + 8, u32(3)))
    controller.cfg_write(0x04, 4, 2)
    controller.host(MemWrite(DOORBELLS + 8, u32(4)))
    controller.cfg_write(0x20, DOORBELLS + 0x100000)
    controller.cfg_write(0x04, 6, 2)
    controller.host(MemWrite(DOORBELLS + 8, u32(5)))
    refused = controller.model.counters["writes_dropped_no_window"]
    controller.host(MemWrite(DOORBELLS + 0x100000 + 8, u32(6)))

    assert refused == 2
    assert controller.dram.load_u32(0x100000 + 8) == 6


@pytest.mark.parametrize("what", ["link down", "reset ep"])
def test_repeated_store_of_the_old_link_epoch_lands_nowhere_until_the_host_places_bars_again(
    what: str,
) -> None:
    """No memory window is set up, so that nothing but the BARs changes."""
    controller = Controller()
    for number in (3, 4):
        controller.host(MemWrite(DOORBELLS + 8, u32(number)))
    if what == "reset ep":
        controller.model.command(["reset"], 0)
    else:
        controller.restart_link(EPOCH + 1)
    before = controller.dram.load_u32(0x100000 + 8)
    controller.host(MemWrite(DOORBELLS + 8, u32(5), controller.model.epoch))

    assert controller.dram.load_u32(0x100000 + 8) == before != 5
    assert controller.model.counters["writes_dropped_no_window"] == 1


def test_no_more_places_of_stores_are_kept_than_allowed() -> None:
    controller = Controller()
    for length in range(1, MOST_KNOWN + 2):
        controller.host(MemWrite(DOORBELLS, bytes(length)))

    assert 0 < len(controller.model._known) <= MOST_KNOWN
