"""Backend ``dw-edma-testirq``: the peer rings the endpoint through the eDMA engine's test interrupt.

For an endpoint whose MSI controller no inbound window may reach.  The window is pointed at the page of
the engine's registers; the descriptor is the read-interrupt status register and 0.  All queues share
that register, so each ring runs every queue's handler (HAZARD 11.h).  Where the hardware wires the
registers into a BAR, the window must be that one, and nothing is translated.

Source: the RFC of October 2025, patch 23 (drivers/ntb/intr_dw_edma.c), and the embedded doorbell series
of March 2026 for wired registers.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from ntbnet.devices.dw_edma import DwEdma, DwEdmas, SelfIrqRegisters
from ntbnet.devices.intr import Descriptor, IntrBackend
from ntbnet.devices.ntb import EpcResource, MwAlign, NtbDevice
from ntbnet.devices.task import Task
from ntbnet.errors import KernelError

IRQ_NUMBER = 1
"""What ``request_irq`` returns: there is one interrupt only."""


class EdmaBackend(IntrBackend):
    """The test interrupt of the engine behind the NTB device's endpoint controller.

    Args:
        edmas: engines that this kernel has drivers for.
    """

    name = "dw-edma-testirq"

    def __init__(self, widx: int, edmas: DwEdmas) -> None:
        super().__init__(widx)
        self._edmas = edmas
        self._engine: DwEdma | None = None
        self._registers = SelfIrqRegisters(0, 0)
        self._wired: EpcResource | None = None
        self._handlers: dict[Descriptor, Callable[[], None]] = {}

    def request_irq(self, handler: Callable[[], None], name: str, descriptor: Descriptor) -> int:
        """Run ``handler`` at each interrupt of the engine; see IntrBackend."""
        if descriptor not in self._handlers:
            offset = self._offset_in_window()
            self._found().register_self_irq(handler, descriptor, lambda: self._on_removed(descriptor))
            self._handlers[descriptor] = handler
            descriptor.addr_offset, descriptor.data = offset, 0
        return IRQ_NUMBER

    def free_irq(self, irq: int, descriptor: Descriptor) -> None:
        """Run it no more; see IntrBackend."""
        handler = self._handlers.pop(descriptor, None)
        if handler is not None:
            self._found().unregister_self_irq(handler, descriptor)
        descriptor.invalidate()

    def _find(self, device: NtbDevice) -> None:
        control = next((one for one in device.get_pci_epc() if one.kind == "dma-control"), None)
        if control is None:
            raise KernelError(errno.ENODEV, f"{device.name} has no endpoint controller with an eDMA")
        engine = self._edmas.find_by_device(control.address)
        if engine is None:
            raise KernelError(errno.ENODEV, f"no driver for the eDMA at {control.address:#x}")
        self._registers = engine.self_irq_registers()
        self._engine = engine
        self._wired = control if control.bar >= 0 else None
        if self._wired is not None and device.mw_bar(self._widx) != control.bar:
            raise KernelError(
                errno.EINVAL,
                f"the hardware wires the eDMA into BAR{control.bar}, the interrupt window is in "
                f"BAR{device.mw_bar(self._widx)}",
            )

    def _word(self) -> int:
        return self._registers.status

    def _expose(self, device: NtbDevice, align: MwAlign, size: int) -> Task[int]:
        if self._wired is None:
            return (yield from super()._expose(device, align, size))
        return self._wired.address + align.offset - self._wired.bar_offset

    def _hide(self, device: NtbDevice) -> Task[None]:
        if self._wired is None:
            yield from super()._hide(device)

    def _found(self) -> DwEdma:
        if self._engine is None:
            raise KernelError(errno.EINVAL, f"backend {self.name} is not initialised")
        return self._engine

    def _on_removed(self, descriptor: Descriptor) -> None:
        """The engine is gone and has freed the callback: the peer must not ring it."""
        del self._handlers[descriptor]
        descriptor.invalidate()
        self._on_changed()
