"""Translation stays off the profile: less than 2 us for an access, with every window in use."""

from __future__ import annotations

from typing import Any

import pytest

from ntbnet.address import BusAddr, CpuAddr
from ntbnet.devices.iatu import Iatu
from tests.sim.world import SMALL, World

LIMIT_US = 2.0
WINDOWS = 16
PAGE = 0x1000


def full_iatu() -> Iatu:
    iatu = Iatu(WINDOWS, WINDOWS, PAGE, 0xFFFFFFFF)
    for n in range(WINDOWS):
        iatu.program_address_match(BusAddr(0x3000_0000 + n * PAGE), CpuAddr(0x4800_0000 + n * PAGE), PAGE)
        iatu.program_outbound(CpuAddr(0xFE00_0000 + n * PAGE), BusAddr(0x8000_0000 + n * PAGE), PAGE)
    return iatu


def median_us(benchmark: Any) -> float:
    return float(benchmark.stats.stats.median) * 1e6


@pytest.mark.parametrize(
    ("profile", "inbound", "bar", "offset"),
    [("r-car-s4", "map", 2, 0x1000), ("generic", "submap", 2, 0x1000), ("rk3588", "bar", 2, 0x1000)],
)
def test_access_from_the_host_through_bar_and_window(
    benchmark: Any, profile: str, inbound: str, bar: int, offset: int
) -> None:
    """The whole way of an access: BAR decode, the windows of a running bridge, the local address."""
    world = World(text=f'bridge.profile = "{profile}"\n{SMALL}').bring_up()
    base = int(world.device("rc-host").snapshot()["bars"][str(bar)][1:].partition(",")[0], 16)
    epc = world.device("epc").epc
    assert world.config.ntb.inbound == inbound

    local = benchmark(epc.inbound_address, base + offset, 64)

    assert local is not None
    assert median_us(benchmark) < LIMIT_US


@pytest.mark.parametrize("window", [0, WINDOWS - 1])
def test_inbound(benchmark: Any, window: int) -> None:
    iatu, offset = full_iatu(), window * PAGE + 0x10

    target = benchmark(iatu.translate_inbound, 2, offset, 0x3000_0000 + offset, 64)

    assert target == 0x4800_0000 + offset
    assert median_us(benchmark) < LIMIT_US


@pytest.mark.parametrize("window", [0, WINDOWS - 1])
def test_outbound(benchmark: Any, window: int) -> None:
    iatu, offset = full_iatu(), window * PAGE + 0x10

    target = benchmark(iatu.translate_outbound, 0xFE00_0000 + offset, 64)

    assert target == 0x8000_0000 + offset
    assert median_us(benchmark) < LIMIT_US
