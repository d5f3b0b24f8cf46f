"""The iATU's registers as software on the endpoint sees them, and how that software finds out what it has.

Unroll layout: each window has its own block of registers. A window works while CTRL2.ENABLE is
set, with whatever the other registers hold then. Registers of windows that do not exist read 0
and keep nothing. The viewport of older controllers is absent, so its register reads all ones.

Stated deviation: a window that was programmed through the API may end between two multiples of
the alignment; its LIMIT register reads as hardware's would, with the low bits ones.

Source: Linux pcie-designware.c, dw_pcie_iatu_detect; pcie-designware.h, the unroll layout.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ntbnet.devices.iatu import Iatu, IatuWindow
from ntbnet.regs.file import RegisterFile
from ntbnet.regs.iatu import MAX_WINDOWS, WINDOW_BYTES, WINDOW_STRIDE, window_block

VIEWPORT_OFFSET = 0x900
"""In the controller's own registers (DBI), not in the ATU block."""
DEFAULT_ATU_BYTES = 0x1000
"""What software assumes when the platform names no size: eight windows each way."""
_PROBE = 0x11110000
_WORD = 0xFFFFFFFF
_LEAST_ALIGN, _MOST_ALIGN = 0x1000, 0x10000


class AtuBlock:
    """Register access to the windows of ``iatu``; offsets are from the start of the ATU block."""

    def __init__(self, iatu: Iatu) -> None:
        self._iatu = iatu
        self._align = min(max(iatu.region_align, _LEAST_ALIGN), _MOST_ALIGN)
        self._table = window_block(self._align, max(iatu.region_limit, _WORD))
        self._files: dict[tuple[bool, int], RegisterFile] = {}

    def read(self, offset: int) -> int:
        """The 32-bit register at ``offset``; 0 where there is none."""
        found = self._find(offset)
        if found is None:
            return 0
        registers, _, _, at = found
        return int.from_bytes(registers.read(at, 4), "little")

    def write(self, offset: int, value: int) -> None:
        """Store a 32-bit register; a window that is or becomes enabled changes at once."""
        found = self._find(offset)
        if found is None:
            return
        registers, is_inbound, index, at = found
        registers.write(at, value.to_bytes(4, "little"))
        self._iatu.place(is_inbound, index, self._window(registers, is_inbound))

    @staticmethod
    def viewport() -> int:
        """The viewport register, which an unrolled controller does not have."""
        return _WORD

    def _find(self, offset: int) -> tuple[RegisterFile, bool, int, int] | None:
        index, inside = divmod(offset, WINDOW_STRIDE)
        is_inbound, at = divmod(inside, WINDOW_BYTES)
        windows = self._iatu.inbound if is_inbound else self._iatu.outbound
        if offset < 0 or at % 4 or index >= len(windows):
            return None
        key = bool(is_inbound), index
        registers = self._files.get(key)
        if registers is None:
            registers = self._files[key] = RegisterFile(self._table)
        self._refresh(registers, windows[index])
        return registers, bool(is_inbound), index, at

    def _refresh(self, registers: RegisterFile, window: IatuWindow | None) -> None:
        if window is None:
            registers.set_field("REGION_CTRL2", "ENABLE", 0)
            return
        for name, value in window.registers().items():
            registers.set(name, value | (self._align - 1 if name == "LIMIT" else 0))

    @staticmethod
    def _window(registers: RegisterFile, is_inbound: bool) -> IatuWindow | None:
        if not registers.get_field("REGION_CTRL2", "ENABLE"):
            return None
        target = registers.get("UPPER_TARGET") << 32 | registers.get("LOWER_TARGET")
        if is_inbound and registers.get_field("REGION_CTRL2", "BAR_MATCH"):
            # hardware adds the offset in the BAR, whatever the BAR's size: the limit is the BAR's own
            return IatuWindow(registers.get_field("REGION_CTRL2", "BAR_NUM"), 0, (1 << 63) - 1, target)
        base = registers.get("UPPER_BASE") << 32 | registers.get("LOWER_BASE")
        high = registers.get("UPPER_LIMIT") or base >> 32
        return IatuWindow(None, base, high << 32 | registers.get("LIMIT"), target)


@dataclass(frozen=True, slots=True)
class AtuFeatures:
    """What software found: windows each way, alignment in bytes, and the region limit (all ones)."""

    outbound: int
    inbound: int
    region_align: int
    region_limit: int


def discover(
    read: Callable[[int], int], write: Callable[[int, int], None], block_bytes: int = DEFAULT_ATU_BYTES
) -> AtuFeatures:
    """Find out what an unrolled iATU has, by writing its registers and reading them back.

    Only for a controller without enabled windows: the probes overwrite registers.

    Args:
        read: reads a 32-bit register of the ATU block.
        write: stores one.
        block_bytes: size of the ATU block.

    Raises:
        ValueError: there is no window at all.
    """
    table = window_block()
    most = min(block_bytes // WINDOW_STRIDE, MAX_WINDOWS)
    target, limit, upper = (table.offset(name) for name in ("LOWER_TARGET", "LIMIT", "UPPER_LIMIT"))

    def count(first: int) -> int:
        for index in range(most):
            at = first + index * WINDOW_STRIDE + target
            write(at, _PROBE)
            if read(at) != _PROBE:
                return index
        return most

    outbound, inbound = count(0), count(WINDOW_BYTES)
    if not outbound and not inbound:
        raise ValueError("the controller has no iATU window")
    first = 0 if outbound else WINDOW_BYTES
    write(first + limit, 0)
    region_align = 1 << read(first + limit).bit_length()
    write(first + upper, _WORD)
    return AtuFeatures(outbound, inbound, region_align, read(first + upper) << 32 | _WORD)
