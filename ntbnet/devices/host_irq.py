"""Interrupts to the host: MSI or MSI-X, whichever the host enabled, through one page of the aperture.

MSI keeps its outbound window between interrupts and moves it only when the host gave another address.
MSI-X maps for each interrupt, because every vector may have its own address: write, read back to
flush the write, unmap. INTx does not exist on this controller.

Source: Linux pcie-designware-ep.c, dw_pcie_ep_raise_msi_irq, dw_pcie_ep_raise_msix_irq,
dw_pcie_ep_raise_intx_irq, dw_pcie_ep_stop.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from enum import Enum
from typing import Protocol

from ntbnet.address import BusAddr, CpuAddr
from ntbnet.devices.iatu import Iatu
from ntbnet.devices.msi import MSI_BYTES, MsiCapability
from ntbnet.devices.msix import MsixCapability
from ntbnet.errors import KernelError
from ntbnet.regs.cfgspace import MSIX_ENTRY_BYTES
from ntbnet.regs.file import RegisterFile


class IrqKind(Enum):
    """Kinds of interrupt that raise_irq knows."""

    INTX = "intx"
    MSI = "msi"
    MSIX = "msix"


class BusPort(Protocol):
    """The endpoint's way onto the link."""

    def post(self, bus_addr: int, data: bytes) -> None:
        """Send a posted write, behind all earlier ones."""

    def flush(self, bus_addr: int, size: int) -> None:
        """Send a read whose answer nobody needs."""


class HostInterrupts:
    """MSI and MSI-X of one function.

    Args:
        space: its configuration space.
        iatu: takes the outbound window.
        page: local address of the page of the aperture kept for interrupts.
        page_bytes: its size, a power of two.
        read_bar: gives ``size`` bytes at an offset of a BAR as the endpoint has them, or None.
        port: where the writes go.
    """

    def __init__(
        self,
        space: RegisterFile,
        iatu: Iatu,
        page: CpuAddr,
        page_bytes: int,
        read_bar: Callable[[int, int, int], bytes | None],
        port: BusPort,
    ) -> None:
        self._iatu = iatu
        self._page = page
        self._page_bytes = page_bytes
        self._read_bar = read_bar
        self._port = port
        self.msi = MsiCapability(space)
        self.msix = MsixCapability(space)
        self._mapped: int | None = None

    def raise_irq(self, kind: IrqKind, number: int) -> None:
        """Raise interrupt ``number`` (1-based) on the host.

        Raises:
            KernelError: EINVAL: the function has no such interrupt, or the host has it off; EPERM: the
                host masked it, and it is lost.
        """
        if kind is IrqKind.MSI:
            self._raise_msi(number)
        elif kind is IrqKind.MSIX:
            self._raise_msix(number)
        else:
            raise KernelError(errno.EINVAL, "this controller cannot raise INTx")

    def ring_msix_doorbell(self, value: int) -> None:
        """A store to the controller's MSI-X doorbell register: function in [28:24], vector - 1 in [10:0].

        Raises:
            KernelError: as ``raise_irq``, and EINVAL for a function other than 0.
        """
        if value >> 24 & 0x1F:
            raise KernelError(errno.EINVAL, f"MSI-X doorbell {value:#x}: there is one function, 0")
        self._raise_msix((value & 0x7FF) + 1)

    def stop(self) -> None:
        """Give back the window that MSI keeps."""
        if self._mapped is not None:
            self._iatu.unmap_outbound(self._page)
            self._mapped = None

    def _raise_msi(self, number: int) -> None:
        composed = self.msi.compose(number)
        if composed is None:
            raise KernelError(errno.EINVAL, "MSI is off at the host")
        self._send(*composed)

    def _raise_msix(self, number: int) -> None:
        bar, offset = self.msix.entry_place(number)
        entry = self._read_bar(bar, offset, MSIX_ENTRY_BYTES)
        if entry is None:
            raise KernelError(errno.EINVAL, f"no memory behind the MSI-X table in BAR{bar}")
        composed = self.msix.compose(entry)
        if composed is None:
            raise KernelError(errno.EINVAL, "MSI-X is off at the host")
        bus = self._send(*composed)
        self._port.flush(bus, MSI_BYTES)
        self.stop()

    def _send(self, address: BusAddr, data: int) -> int:
        target = address & ~(self._page_bytes - 1)
        if self._mapped != target:
            self.stop()
            self._iatu.program_outbound(self._page, BusAddr(target), self._page_bytes)
            self._mapped = target
        bus = self._iatu.translate_outbound(self._page + address - target, MSI_BYTES)
        assert bus is not None, "the page was mapped just now"
        self._port.post(bus, (data & 0xFFFFFFFF).to_bytes(MSI_BYTES, "little"))
        return bus
