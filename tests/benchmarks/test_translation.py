"""Translation stays off the profile: less than 2 us for an access, with every window in use."""

from __future__ import annotations

from typing import Any

import pytest

from ntbnet.address import BusAddr, CpuAddr
from ntbnet.devices.iatu import Iatu

LIMIT_US = 2.0
WINDOWS = 16
PAGE = 0x1000


def full_iatu() -> Iatu:
    iatu = Iatu(WINDOWS, WINDOWS, PAGE, 0xFFFFFFFF)
    for n in range(WINDOWS):
        iatu.program_address_match(BusAddr(0x3000_0000 + n * PAGE), CpuAddr(0x4800_0000 + n * PAGE), PAGE)
        iatu.program_outbound(CpuAddr(0xFE00_0000 + n * PAGE), BusAddr(0x8000_0000 + n * PAGE), PAGE)
    return iatu


def least_us(benchmark: Any) -> float:
    """The fastest round: what the code costs when nothing else has the processor."""
    return float(benchmark.stats.stats.min) * 1e6


@pytest.mark.parametrize("window", [0, WINDOWS - 1])
def test_inbound(benchmark: Any, window: int) -> None:
    iatu, offset = full_iatu(), window * PAGE + 0x10

    target = benchmark(iatu.translate_inbound, 2, offset, 0x3000_0000 + offset, 64)

    assert target == 0x4800_0000 + offset
    assert least_us(benchmark) < LIMIT_US


@pytest.mark.parametrize("window", [0, WINDOWS - 1])
def test_outbound(benchmark: Any, window: int) -> None:
    iatu, offset = full_iatu(), window * PAGE + 0x10

    target = benchmark(iatu.translate_outbound, 0xFE00_0000 + offset, 64)

    assert target == 0x8000_0000 + offset
    assert least_us(benchmark) < LIMIT_US
