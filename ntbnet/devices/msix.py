"""The MSI-X capability of a function, as the endpoint uses it.

The table and the pending bits lie in the memory behind one of the function's BARs, where the host
writes them; the pending bit array follows the table and is never set (a masked interrupt is lost, as
with the DesignWare driver). Vector numbers count from 1, as raise_irq of the endpoint API has it.

Source: PCI Local Bus Specification 3.0, 6.8.2; Linux pcie-designware-ep.c, dw_pcie_ep_set_msix,
dw_pcie_ep_raise_msix_irq.
"""

from __future__ import annotations

import errno
import struct

from ntbnet.address import BusAddr
from ntbnet.errors import KernelError
from ntbnet.regs.cfgspace import BAR_COUNT, MSIX_ENTRY_BYTES, MSIX_MAX_VECTORS, config_block
from ntbnet.regs.file import RegisterFile

_CONTROL = config_block(msi=False, msix=True).register("MSIX_CONTROL")
_ENTRY = struct.Struct("<QII")
_MASKED = 1
_UNIT = 8
"""Table and pending bits begin at multiples of 8 bytes; the registers hold eighths."""


def table_bytes(count: int) -> int:
    """Bytes of a table of ``count`` vectors and of the pending bits behind it."""
    return MSIX_ENTRY_BYTES * count + _UNIT * -(-count // 64)


class MsixCapability:
    """The MSI-X registers of a function's configuration space.

    All state but the number of vectors is in the register file and in the table.
    """

    def __init__(self, config: RegisterFile) -> None:
        """Use the MSI-X registers of ``config``; without them every raise fails."""
        self._config = config
        self._present = "MSIX_CONTROL" in config.block
        self._count = 0

    def set_msix(self, count: int, bar: int, offset: int) -> None:
        """Offer ``count`` vectors whose table is at ``offset`` of ``bar``.

        Raises:
            KernelError: EINVAL: the function has no MSI-X, or an argument is out of range.
        """
        if not self._present or not 1 <= count <= MSIX_MAX_VECTORS:
            raise KernelError(
                errno.EINVAL, f"set_msix({count}): allowed 1..{MSIX_MAX_VECTORS}, with the capability"
            )
        if not 0 <= bar < BAR_COUNT or offset < 0 or offset % _UNIT or offset >> 32:
            raise KernelError(errno.EINVAL, f"MSI-X table at {offset:#x} of BAR{bar}")
        self._count = count
        self._config.set_field("MSIX_CONTROL", "TABLE_SIZE", count - 1)
        for name, at in (("MSIX_TABLE", offset), ("MSIX_PBA", offset + MSIX_ENTRY_BYTES * count)):
            self._config.set_field(name, "BIR", bar)
            self._config.set_field(name, "OFFSET", at // _UNIT)

    def reset(self) -> None:
        """Offer nothing any more, as after PERST#; the register file is reset by its owner."""
        self._count = 0

    @property
    def granted(self) -> int:
        """Vectors the host may use: all of them once it enabled MSI-X, else 0."""
        if not self._count:
            return 0
        control = self._config.get("MSIX_CONTROL")
        return self._count if _CONTROL.field("ENABLE").extract(control) else 0

    def entry_place(self, vector_number: int) -> tuple[int, int]:
        """(BAR, offset in it) of the table entry of a vector.

        Raises:
            KernelError: EINVAL: the number is outside 1..vectors offered.
        """
        if not 1 <= vector_number <= self._count:
            raise KernelError(errno.EINVAL, f"MSI-X number {vector_number}: allowed 1..{self._count}")
        offset = self._config.get_field("MSIX_TABLE", "OFFSET") * _UNIT
        return self._config.get_field("MSIX_TABLE", "BIR"), offset + MSIX_ENTRY_BYTES * (vector_number - 1)

    def compose(self, entry: bytes) -> tuple[BusAddr, int] | None:
        """The posted 32-bit write that ``entry`` (16 bytes of the table) asks for.

        Returns:
            (bus address, data); None when the host has MSI-X or bus mastering off.

        Raises:
            KernelError: EPERM: the vector, or the whole function, is masked; EINVAL: the address is not
                a multiple of 4.
        """
        if not self.granted or not self._config.get_field("COMMAND", "BUS_MASTER"):
            return None
        address, data, control = _ENTRY.unpack(entry)
        if control & _MASKED or self._config.get_field("MSIX_CONTROL", "FUNCTION_MASK"):
            raise KernelError(errno.EPERM, "the vector is masked")
        if address % 4:
            raise KernelError(errno.EINVAL, f"MSI-X address {address:#x} is not a multiple of 4")
        return BusAddr(address), data
