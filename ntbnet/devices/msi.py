"""Message Signaled Interrupts: the endpoint's capability, and the host's target.

``MsiCapability`` turns a vector number into the memory write that raises it; ``MsiTarget`` turns
such a write back into a vector index.  Vector *numbers* count from 1, as raise_irq of the
endpoint API has it; vector *indices* count from 0.  Masking and pending bits are left out; for MSI-X,
which raises vectors by the same kind of write, see ``msix``.

Stated deviation (the DesignWare driver checks neither): a function whose MSI is off, or which
may not master the bus, sends nothing, and a number above what the host granted is refused
instead of hitting a foreign interrupt.
"""

from __future__ import annotations

import errno

from ntbnet.address import BusAddr
from ntbnet.errors import KernelError
from ntbnet.regs.cfgspace import MSI_MAX_VECTORS, config_block
from ntbnet.regs.file import RegisterFile

_CONTROL = config_block(msi=True).register("MSI_CONTROL")
_ENABLE = _CONTROL.field("ENABLE")
_MULTIPLE_ENABLE = _CONTROL.field("MULTIPLE_ENABLE")
_MULTIPLE_CAPABLE = _CONTROL.field("MULTIPLE_CAPABLE")

MSI_BYTES = 4
"""Length of the write that raises an MSI."""


def encode_vectors(count: int) -> int:
    """Field value for ``count`` vectors: log2, rounded up.

    Raises:
        ValueError: count is outside 1..32.
    """
    if not 1 <= count <= MSI_MAX_VECTORS:
        raise ValueError(f"{count} MSI vectors: allowed 1..{MSI_MAX_VECTORS}")
    return (count - 1).bit_length()


class MsiCapability:
    """The MSI capability in a function's configuration space, as the endpoint uses it.

    All state is in the register file, where the host's configuration writes land.
    """

    def __init__(self, config: RegisterFile) -> None:
        """Use the MSI registers of ``config``; without them every raise fails."""
        self._config = config
        self._present = "MSI_CONTROL" in config.block
        self._capable = False

    def set_msi(self, count: int) -> None:
        """Offer ``count`` vectors to the host, rounded up to a power of two.

        Raises:
            KernelError: EINVAL: count is outside 1..32, or the function has no MSI capability.
        """
        if not self._present or not 1 <= count <= MSI_MAX_VECTORS:
            raise KernelError(
                errno.EINVAL, f"set_msi({count}): allowed 1..{MSI_MAX_VECTORS}, with the capability"
            )
        self._config.set_field("MSI_CONTROL", "MULTIPLE_CAPABLE", encode_vectors(count))
        self._capable = True

    def reset(self) -> None:
        """Offer nothing any more, as after PERST#; the register file is reset by its owner."""
        self._capable = False

    @property
    def granted(self) -> int:
        """Vectors the host enabled; 0 while MSI is off. Never more than were offered."""
        if not self._capable:
            return 0
        control = self._config.get("MSI_CONTROL")
        if not _ENABLE.extract(control):
            return 0
        return 1 << min(_MULTIPLE_ENABLE.extract(control), _MULTIPLE_CAPABLE.extract(control))

    def compose(self, vector_number: int) -> tuple[BusAddr, int] | None:
        """The posted 32-bit write that raises a vector.

        Args:
            vector_number: 1 or more.

        Returns:
            (bus address, data); None when the host has MSI or bus mastering off.

        Raises:
            KernelError: EINVAL: no MSI was offered, or the number is above what the host granted.

        Source: Linux pcie-designware-ep.c, dw_pcie_ep_raise_msi_irq.
        """
        if not self._capable:
            raise KernelError(errno.EINVAL, "the function has no MSI")
        if vector_number < 1:
            raise KernelError(errno.EINVAL, f"MSI number {vector_number}: numbers start at 1")
        granted = self.granted
        if not granted or not self._config.get_field("COMMAND", "BUS_MASTER"):
            return None
        if vector_number > granted:
            raise KernelError(errno.EINVAL, f"MSI number {vector_number}: the host granted {granted}")
        config = self._config
        address = config.get("MSI_ADDRESS_HIGH") << 32 | config.get("MSI_ADDRESS_LOW")
        return BusAddr(address), config.get("MSI_DATA") | vector_number - 1


class MsiTarget:
    """The host's side: the address and data it gives to one function, and what a write means.

    Attributes:
        address: where the function writes, a multiple of 4.
        first_data: data of vector index 0; the function changes its low bits.
        granted: vectors given to the function, 0 before ``grant``.
    """

    def __init__(self, address: BusAddr, max_vectors: int, first_data: int = 0) -> None:
        """Offer up to ``max_vectors`` vectors at ``address``.

        Raises:
            ValueError: max_vectors is no power of two of 1..32, address is not a multiple of 4,
                or first_data is not a multiple of max_vectors within 16 bits.
        """
        if not 1 <= max_vectors <= MSI_MAX_VECTORS or max_vectors & (max_vectors - 1):
            raise ValueError(f"{max_vectors} MSI vectors: allowed powers of two to {MSI_MAX_VECTORS}")
        if address < 0 or address % 4:
            raise ValueError(f"MSI address {address:#x} is not a multiple of 4")
        if not 0 <= first_data <= 0xFFFF or first_data % max_vectors:
            raise ValueError(f"MSI data {first_data:#x}: allowed multiples of {max_vectors} in 16 bits")
        self.address = address
        self.first_data = first_data
        self._max_vectors = max_vectors
        self.reset()

    def reset(self) -> None:
        """Take all vectors back."""
        self.granted = 0

    def grant(self, multiple_capable: int) -> int:
        """Decide how many vectors a function gets.

        Args:
            multiple_capable: content of its MULTIPLE_CAPABLE field, 0..5.

        Returns:
            What to write to MULTIPLE_ENABLE.

        Raises:
            ValueError: the field holds a reserved value.
        """
        if not 0 <= multiple_capable <= 5:
            raise ValueError(f"MULTIPLE_CAPABLE {multiple_capable}: allowed 0..5")
        self.granted = min(1 << multiple_capable, self._max_vectors)
        return encode_vectors(self.granted)

    def grant_count(self, count: int) -> int:
        """Give ``count`` vectors, or as many as there are: MSI-X needs no power of two.

        Returns:
            Vectors granted.

        Raises:
            ValueError: count is below 1.
        """
        if count < 1:
            raise ValueError(f"{count} vectors: allowed 1 or more")
        self.granted = min(count, self._max_vectors)
        return self.granted

    def vector_of(self, bus_addr: int, data: int, length: int = MSI_BYTES) -> int | None:
        """Vector index that a memory write raises; None when it is no interrupt of this function."""
        if bus_addr != self.address or length != MSI_BYTES:
            return None
        index = data - self.first_data
        return index if 0 <= index < self.granted else None
