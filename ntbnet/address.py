"""Addresses and spans of them.

Three address spaces exist and are never mixed: what a CPU of a node sees (``CpuAddr``), what
travels on the PCIe link (``BusAddr``), and an offset inside a BAR, a window or a region (a
plain int whose name ends in ``offset``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NewType

CpuAddr = NewType("CpuAddr", int)
BusAddr = NewType("BusAddr", int)

ADDRESS_END = 1 << 64
"""First value that is no address: addresses are 64-bit, unsigned."""


@dataclass(frozen=True, slots=True)
class Span:
    """``size`` bytes from ``base``, in one address space.

    Raises:
        ValueError: base is negative, size is below 1, or the span ends beyond 64 bits.
    """

    base: int
    size: int

    def __post_init__(self) -> None:
        if self.base < 0 or self.size < 1 or self.base + self.size > ADDRESS_END:
            raise ValueError(f"no span: base {self.base:#x}, size {self.size:#x}")

    @property
    def end(self) -> int:
        """First address behind the span (exclusive)."""
        return self.base + self.size

    @property
    def limit(self) -> int:
        """Last address of the span (inclusive), as iATU LIMIT registers hold it."""
        return self.base + self.size - 1

    def contains(self, addr: int, length: int = 1) -> bool:
        """True when all ``length`` bytes from ``addr`` lie inside."""
        return self.base <= addr and addr + length <= self.base + self.size

    def overlaps(self, other: Span) -> bool:
        """True when at least one address is in both."""
        return self.base < other.end and other.base < self.end

    def __str__(self) -> str:
        return f"[{self.base:#x}, {self.end:#x})"


def is_aligned(value: int, alignment: int) -> bool:
    """True when ``value`` is a multiple of ``alignment`` (a power of two)."""
    return value & (alignment - 1) == 0


def round_up(value: int, alignment: int) -> int:
    """Smallest multiple of ``alignment`` (a power of two) that is not below ``value``."""
    return (value + alignment - 1) & ~(alignment - 1)


def round_up_pow2(value: int) -> int:
    """Smallest power of two that is not below ``value`` (1 for 0 and 1)."""
    return 1 if value <= 1 else 1 << (value - 1).bit_length()


def hex_address(addr: int) -> str:
    """An address for a log line: 0x and 16 digits, because JSON readers round large integers."""
    return f"0x{addr:016x}"
