"""Idle cores of this machine that poll instead of halting, for as long as somebody asks for it.

A message wakes several processes one after the other, and each wake of a core that has halted takes
what the hardware, or the hypervisor below it, takes to start it again.

Source: Linux Documentation/power/pm_qos_interface.rst: the latency that was written to the device, 32 bits
of the machine's byte order, is in force until its descriptor is closed.
"""

from __future__ import annotations

import os
from pathlib import Path

CPU_LATENCY = Path("/dev/cpu_dma_latency")
_NONE_US = bytes(4)


def keep_polling(device: Path = CPU_LATENCY) -> int:
    """Let no idle core halt; the descriptor whose end, or the process's, is the end of that.

    Raises:
        OSError: the machine has no such device, or keeps it for root.
    """
    fd = os.open(device, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, _NONE_US)
    except OSError:
        os.close(fd)
        raise
    return fd
