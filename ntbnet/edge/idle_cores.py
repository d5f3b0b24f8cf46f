"""Idle cores of this machine that wait awake instead of halting, while packets are sent.

A message wakes several processes one after the other, and each wake of a core that has halted takes
what the hardware, or the hypervisor below it, takes to start it again.

Source: Linux Documentation/power/pm_qos_interface.rst: the latency that was written to the device, 32 bits
of the machine's byte order, is in force until another one is written or its descriptor is closed.
"""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

CPU_LATENCY = Path("/dev/cpu_dma_latency")
_AWAKE, _ANY = struct.pack("=i", 0), struct.pack("=i", 2_000_000_000)
"""No latency, and what is in force while nobody asks for anything; us."""
QUIET_S = 0.1
"""Without a packet for between one and two of these, cores may halt again."""


class IdleCores:
    """A request of this process.

    Args:
        device: where it is made.

    Raises:
        OSError: the machine has no such device, or keeps it for root.
    """

    def __init__(self, device: Path = CPU_LATENCY) -> None:
        self._fd = os.open(device, os.O_WRONLY | os.O_CLOEXEC)
        self._timer: asyncio.TimerHandle | None = None
        self._has_passed = False
        try:
            os.write(self._fd, _ANY)
        except OSError:
            os.close(self._fd)
            raise

    def stay_awake(self) -> None:
        """Let no idle core halt until ``close``, or the end of this process."""
        os.write(self._fd, _AWAKE)

    def on_packets(self) -> None:
        """Packets pass: let no idle core halt as long as more of them come. In a running event loop."""
        self._has_passed = True
        if self._timer is None:
            self.stay_awake()
            self._timer = asyncio.get_running_loop().call_later(QUIET_S, self._look)

    def _look(self) -> None:
        if self._has_passed:
            self._has_passed = False
            self._timer = asyncio.get_running_loop().call_later(QUIET_S, self._look)
        else:
            self._timer = None
            os.write(self._fd, _ANY)

    def close(self) -> None:
        """Withdraw the request."""
        if self._timer is not None:
            self._timer.cancel()
        os.close(self._fd)


def cpu_latency_us(device: Path = CPU_LATENCY) -> int | None:
    """What is in force: latency of a wake that the machine's cores may have, us; None: not known."""
    with suppress(OSError, struct.error), device.open("rb", buffering=0) as file:
        return int(struct.unpack("=i", file.read(4))[0])
    return None


@contextmanager
def awake(wanted: bool, device: Path = CPU_LATENCY) -> Iterator[None]:
    """No idle core halts within the ``with`` block, if wanted, where the machine lets us."""
    cores = None
    with suppress(OSError):
        cores = IdleCores(device) if wanted else None
    try:
        if cores is not None:
            cores.stay_awake()
        yield
    finally:
        if cores is not None:
            cores.close()
