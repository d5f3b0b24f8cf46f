"""Backend ``msi``: the peer rings this side's MSI controller, one message for each queue.

The library of the kernel, with the series' change that every vector of a device is tried.

Source: Linux drivers/ntb/msi.c (ntb_msi_init, ntb_msi_setup_mws, ntbm_msi_request_threaded_irq,
ntb_msi_peer_trigger), as changed by patches 13, 14 and 21 of the RFC of October 2025.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from ntbnet.devices.intr import Descriptor, IntrBackend
from ntbnet.devices.msi_domain import MsiDomain
from ntbnet.devices.ntb import NtbDevice
from ntbnet.errors import KernelError


class MsiBackend(IntrBackend):
    """Messages of the MSI controller that the NTB device belongs to."""

    name = "msi"

    def __init__(self, widx: int) -> None:
        super().__init__(widx)
        self._domain: MsiDomain | None = None
        self._irqs: dict[Descriptor, int] = {}

    def request_irq(self, handler: Callable[[], None], name: str, descriptor: Descriptor) -> int:
        """Take a message; see IntrBackend."""
        if descriptor in self._irqs:
            return self._irqs[descriptor]
        offset = self._offset_in_window()
        domain = self._msi()
        irq = domain.request(handler, lambda: self._on_rewritten(descriptor))
        self._irqs[descriptor] = irq
        descriptor.addr_offset, descriptor.data = offset, domain.data(irq)
        return irq

    def free_irq(self, irq: int, descriptor: Descriptor) -> None:
        """Give the message back; see IntrBackend."""
        if self._irqs.pop(descriptor, None) is not None:
            self._msi().release(irq)
        descriptor.invalidate()

    def _find(self, device: NtbDevice) -> None:
        self._domain = device.msi_domain()
        if self._domain is None:
            raise KernelError(errno.ENODEV, f"{device.name} has no MSI data")

    def _word(self) -> int:
        return self._msi().address

    def _msi(self) -> MsiDomain:
        if self._domain is None:
            raise KernelError(errno.EINVAL, f"backend {self.name} is not initialised")
        return self._domain

    def _on_rewritten(self, descriptor: Descriptor) -> None:
        """The message changed: compute the descriptor anew and say so (Linux ntb_msi_write_msg)."""
        descriptor.data = self._msi().data(self._irqs[descriptor])
        self._on_changed()
