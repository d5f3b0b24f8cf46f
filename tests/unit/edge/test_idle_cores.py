from __future__ import annotations

import asyncio
import os
import struct
from pathlib import Path

import pytest

from ntbnet.edge.idle_cores import CPU_LATENCY, QUIET_S, IdleCores, awake, cpu_latency_us


@pytest.fixture
def device(tmp_path: Path) -> Path:
    """Keeps every value, one behind the other, as a file does."""
    path = tmp_path / "cpu_dma_latency"
    path.touch()
    return path


def requests(device: Path) -> list[int]:
    return [value for (value,) in struct.iter_unpack("=i", device.read_bytes())]


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_nothing_is_asked_for_at_first() -> None:
    assert cpu_latency_us(Path("/dev/zero")) == 0
    assert cpu_latency_us(Path("/absent")) is None


def test_latency_of_none_is_asked_for_until_it_is_closed(device: Path) -> None:
    before = descriptors()
    cores = IdleCores(device)
    cores.stay_awake()

    assert requests(device)[-1] == 0
    assert requests(device)[0] > 1_000_000
    cores.close()
    assert descriptors() == before


def test_cores_wait_awake_while_packets_pass_and_halt_behind_the_last(tmp_path: Path) -> None:
    device = tmp_path / "cpu_dma_latency"
    os.mkfifo(device)
    reader = os.open(device, os.O_RDWR)

    async def next_request() -> int:
        async with asyncio.timeout(5):
            return int(struct.unpack("=i", await asyncio.to_thread(os.read, reader, 4))[0])

    async def run() -> None:
        cores = IdleCores(device)
        any_us = await next_request()
        loop = asyncio.get_running_loop()
        first_s = loop.time()
        for number in range(30):
            loop.call_later(number * QUIET_S / 10, cores.on_packets)
        assert await next_request() == 0
        assert await next_request() == any_us  # one request for all of them
        assert loop.time() - first_s >= 2.9 * QUIET_S + QUIET_S
        cores.on_packets()
        assert await next_request() == 0
        cores.close()

    try:
        asyncio.run(run())
    finally:
        os.close(reader)


def test_machine_without_the_device_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        IdleCores(tmp_path / "absent")


def test_refused_request_leaves_no_descriptor() -> None:
    before = descriptors()
    with pytest.raises(OSError, match="No space left"):
        IdleCores(Path("/dev/full"))

    assert descriptors() == before


def test_block_keeps_cores_awake_where_the_machine_lets_it() -> None:
    before = cpu_latency_us()
    with awake(True):
        within = cpu_latency_us()
    with awake(False):
        unasked = cpu_latency_us()

    assert within == (0 if os.access(CPU_LATENCY, os.W_OK) else before)
    assert unasked == cpu_latency_us()
