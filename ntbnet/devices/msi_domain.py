"""The messages of a host's own MSI controller, handed out to drivers one interrupt each.

An interrupt keeps its number (``irq``) for as long as it is requested; the datum that rings it may be
rewritten under way, as when a kernel moves an interrupt to another CPU.  A host whose messages all
belong to a device driver already has a domain without any.

Source: Linux irq-gic-v2m.c (each datum rings one interrupt; all share one address), kernel/irq/msi.c.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ntbnet.errors import KernelError

GICV2M_DATA = range(80, 144)
"""Data of a GICv2m frame's 64 interrupts. Source: boot message of QEMU's virt board, GICv2m SPI[80:143]."""


@dataclass(slots=True)
class _Interrupt:
    data: int
    handler: Callable[[], None]
    on_rewritten: Callable[[], None]


class MsiDomain:
    """Interrupt messages of one host.

    Args:
        address: CPU address that each message is stored to.
        data: 32-bit values, one for each interrupt there is.
    """

    def __init__(self, address: int, data: Iterable[int]) -> None:
        self.address = address
        self._free = sorted(data)
        self._requested: dict[int, _Interrupt] = {}
        self.capacity = len(self._free)

    def request(self, handler: Callable[[], None], on_rewritten: Callable[[], None]) -> int:
        """Take an interrupt.

        Args:
            handler: called when its message arrives.
            on_rewritten: called after its message has changed.

        Returns:
            Its number, 1 or more.

        Raises:
            KernelError: ENODEV: none is left.
        """
        if not self._free:
            raise KernelError(errno.ENODEV, f"none of {self.capacity} MSI vectors is left")
        irq = next(number for number in range(1, self.capacity + 1) if number not in self._requested)
        self._requested[irq] = _Interrupt(self._free.pop(0), handler, on_rewritten)
        return irq

    def release(self, irq: int) -> None:
        """Give an interrupt back. KernelError EINVAL when it is not requested."""
        self._free.append(self._of(irq).data)
        self._free.sort()
        del self._requested[irq]

    def data(self, irq: int) -> int:
        """What rings an interrupt now. KernelError EINVAL when it is not requested."""
        return self._of(irq).data

    def retarget(self, irq: int) -> None:
        """Rewrite an interrupt's message, as a change of its CPU does.

        Raises:
            KernelError: EINVAL: it is not requested; ENOSPC: every message is taken.
        """
        interrupt = self._of(irq)
        if not self._free:
            raise KernelError(errno.ENOSPC, "every message is taken")
        fresh = self._free.pop(0)
        self._free.append(interrupt.data)
        interrupt.data = fresh
        interrupt.on_rewritten()

    def dispatch(self, data: int) -> bool:
        """A message arrived: run its handler; False when nobody requested it."""
        found = next((one for one in self._requested.values() if one.data == data), None)
        if found is not None:
            found.handler()
        return found is not None

    def _of(self, irq: int) -> _Interrupt:
        if irq not in self._requested:
            raise KernelError(errno.EINVAL, f"interrupt {irq} is not requested")
        return self._requested[irq]
