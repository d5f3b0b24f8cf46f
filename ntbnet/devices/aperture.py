"""The endpoint's outbound aperture: pieces of local address space that lead onto the link.

Source: Linux pci-epc-mem.c (the page allocator), pcie-designware-ep.c, dw_pcie_ep_map_addr.
"""

from __future__ import annotations

import errno

from ntbnet.address import BusAddr, CpuAddr, Span, hex_address, round_up, round_up_pow2
from ntbnet.devices.effects import Outbox
from ntbnet.devices.iatu import Iatu
from ntbnet.errors import KernelError


class Aperture:
    """Hands out pieces of ``span`` and maps them.

    Args:
        span: local addresses; the first page of it is kept for interrupts.
        page_bytes: unit of allocation, a power of two.
    """

    def __init__(self, span: Span, page_bytes: int, iatu: Iatu, outbox: Outbox) -> None:
        self.span = span
        self._page_bytes = page_bytes
        self._iatu = iatu
        self._outbox = outbox
        self.reset()

    def reset(self) -> None:
        """Take every piece back; the iATU is reset by its owner."""
        self._next = self.span.base + self._page_bytes

    @property
    def interrupt_page(self) -> CpuAddr:
        """The page that is never handed out (Linux dw_pcie_ep_init)."""
        return CpuAddr(self.span.base)

    def allocate(self, size: int) -> int:
        """A naturally aligned piece; pieces are never given back one by one.

        Raises:
            KernelError: ENOMEM.
        """
        order = round_up_pow2(round_up(size, self._page_bytes))
        base = round_up(self._next, order)
        if base + order > self.span.end:
            raise KernelError(errno.ENOMEM, f"outbound aperture {self.span} has no {size:#x} bytes left")
        self._next = base + order
        return base

    def map(self, local: int, bus: int, size: int) -> None:
        """Map a piece to the bus. KernelError EINVAL, also when no window is free."""
        index = self._iatu.program_outbound(CpuAddr(local), BusAddr(bus), size)
        self._outbox.log(
            "iatu.region_enabled",
            direction="outbound",
            index=index,
            base=hex_address(local),
            target=hex_address(bus),
            size_bytes=size,
        )

    def unmap(self, local: int) -> None:
        """Undo ``map``; unknown addresses are ignored."""
        self._iatu.unmap_outbound(CpuAddr(local))
