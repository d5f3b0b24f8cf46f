from __future__ import annotations

import os
from pathlib import Path

import pytest

from ntbnet.edge.idle_cores import keep_polling


def test_latency_of_none_is_asked_for_and_held(tmp_path: Path) -> None:
    device = tmp_path / "cpu_dma_latency"
    device.touch()
    fd = keep_polling(device)

    assert device.read_bytes() == bytes(4)
    assert not os.get_inheritable(fd)
    os.close(fd)


def test_machine_without_the_device_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        keep_polling(tmp_path / "absent")


def test_refused_request_leaves_no_descriptor() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(OSError, match="No space left"):
        keep_polling(Path("/dev/full"))

    assert len(list(Path("/proc/self/fd").iterdir())) == before
