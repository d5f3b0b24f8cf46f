from __future__ import annotations

import asyncio
import io
import json
import os
import struct
from functools import partial
from pathlib import Path

import pytest

from ntbnet.edge import startup
from ntbnet.edge.idle_cores import QUIET_S, IdleCores, awake, cpu_latency_us
from ntbnet.log import Logger


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


def test_what_is_in_force_is_read_where_it_can_be() -> None:
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


def test_block_keeps_cores_awake_if_that_is_wanted(device: Path) -> None:
    before = descriptors()
    with awake(False, device):
        assert device.read_bytes() == b""
    with awake(True, device):
        assert requests(device)[-1] == 0

    assert descriptors() == before


def test_block_runs_where_the_machine_does_not_let_it(tmp_path: Path) -> None:
    with awake(True, tmp_path / "absent"):
        pass


@pytest.mark.parametrize("what", ["auto", "halt", "poll"])
def test_service_opens_the_device_unless_cores_are_to_halt(
    what: str, device: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(startup, "IdleCores", partial(IdleCores, device))
    cores = startup._idle_cores(what, Logger(io.StringIO(), "debug", {}))

    assert (cores is None) == (what == "halt")
    if cores is not None:
        assert (requests(device)[-1] == 0) == (what == "poll")
        cores.close()


@pytest.mark.parametrize(("what", "told"), [("auto", []), ("halt", []), ("poll", ["service.cores_halt"])])
def test_machine_that_refuses_is_told_of_where_it_was_asked_for(
    what: str, told: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(startup, "IdleCores", partial(IdleCores, tmp_path / "absent"))
    lines = io.StringIO()

    assert startup._idle_cores(what, Logger(lines, "debug", {})) is None
    assert [json.loads(line)["event"] for line in lines.getvalue().splitlines()] == told
