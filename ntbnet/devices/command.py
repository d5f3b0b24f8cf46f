"""What people may tell a device of a running bridge, as words: ``move_bar 2``, ``reset``, ``link down``."""

from __future__ import annotations

import errno

from ntbnet.devices.memory import Window
from ntbnet.errors import KernelError

KEPT, LOST = "kept", "lost"
"""What becomes of a host's memory at its reset."""
_PIECE_BYTES = 1 << 20


def unknown() -> KernelError:
    """What a device says to words it does not know."""
    return KernelError(errno.EOPNOTSUPP, "unknown question")


def lose(memory: Window) -> None:
    """Zero memory whose contents a reset loses, for everybody who maps it. Nothing in it is in use."""
    for offset in range(0, memory.size, _PIECE_BYTES):
        memory.zero("reset", offset, min(_PIECE_BYTES, memory.size - offset))
