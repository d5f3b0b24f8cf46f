"""The six BARs of a type 0 function: sizes set by the endpoint, addresses assigned by the host.

Models set_bar and clear_bar of the endpoint controller, the BAR registers as the host sees them
(sizing by all ones included) and the decision which BAR claims a bus address.  Left out: I/O
BARs. Submaps are in ``inbound``, the Resizable BAR capability in ``epc``.

Stated deviations: a BAR whose address reads 0 claims nothing (hardware would claim bus address
0), and a BAR wired as 64-bit is 64-bit whatever the caller's flag says.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from ntbnet.address import BusAddr, Span
from ntbnet.errors import KernelError
from ntbnet.regs.cfgspace import BAR_COUNT

MIN_BAR_BYTES = 16
"""Smallest memory BAR: the low four bits of the register are flags."""
RESIZABLE_MIN_BYTES = 1 << 20
RESIZABLE_MAX_BYTES = 1 << 47
"""1 MiB and 128 TiB: what the Resizable BAR capability can name."""
_WORD = 0xFFFFFFFF
_FLAG_64BIT = 0x4
_FLAG_PREFETCH = 0x8


class BarKind(Enum):
    """How a controller implements one BAR slot."""

    PROGRAMMABLE = "programmable"
    """Any power of two."""
    FIXED = "fixed"
    """One size, wired."""
    RESIZABLE = "resizable"
    """1 MiB to 128 TiB, a power of two."""
    RESERVED = "reserved"
    """The platform's; with a fixed size, a wired window the host may use and functions may not."""
    UPPER = "upper"
    """Upper half of the 64-bit BAR below; never used alone."""
    DISABLED = "disabled"
    """Not usable."""


@dataclass(frozen=True, slots=True)
class BarSpec:
    """One BAR slot as the platform profile describes it.

    Attributes:
        fixed_size_bytes: size of a FIXED BAR, or of a RESERVED one with a wired window; else 0.
        only_64bit: the BAR is wired as 64-bit and owns the next slot too.

    Raises:
        ValueError: a FIXED BAR without a size, or a size that is no power of two of 16 or more.
    """

    kind: BarKind
    fixed_size_bytes: int = 0
    only_64bit: bool = False

    def __post_init__(self) -> None:
        size = self.fixed_size_bytes
        if self.kind is BarKind.FIXED and not size:
            raise ValueError("a fixed BAR needs its size")
        if size and (size < MIN_BAR_BYTES or size & (size - 1)):
            raise ValueError(f"fixed size {size:#x}: allowed powers of two from {MIN_BAR_BYTES}")


@dataclass(frozen=True, slots=True)
class BarConfig:
    """What set_bar made of a BAR; ``size`` in bytes, a power of two."""

    size: int
    bits64: bool
    prefetchable: bool = False


class BarSet:
    """BARs of one function.

    Attributes:
        on_change: called when accesses may be claimed differently from now on.
        unclaimed: bus accesses that no BAR claimed.
    """

    def __init__(self, specs: Sequence[BarSpec]) -> None:
        """Take the six slots of a profile, BAR0 first.

        Raises:
            ValueError: not six slots, or a slot wired as 64-bit is odd or has no slot above it.
        """
        if len(specs) != BAR_COUNT:
            raise ValueError(f"{len(specs)} BAR slots: a type 0 function has {BAR_COUNT}")
        for bar, spec in enumerate(specs):
            if spec.only_64bit and bar % 2:
                raise ValueError(f"BAR{bar} cannot be 64-bit: it is odd")
        self.specs = tuple(specs)
        self.on_change: Callable[[], None] = lambda: None
        self.reset()

    def reset(self) -> None:
        """State after PERST#: only wired windows are there, nothing is assigned."""
        self._configs: dict[int, BarConfig] = {}
        for bar, spec in enumerate(self.specs):
            if spec.kind is BarKind.RESERVED and spec.fixed_size_bytes:
                self._configs[bar] = BarConfig(spec.fixed_size_bytes, spec.only_64bit)
        self.unclaimed = 0
        self.hot_reset()

    def hot_reset(self) -> None:
        """Forget what the host wrote, addresses and memory enable; sizes and flags stay."""
        self._words = [0] * BAR_COUNT
        self._memory_enabled = False
        self._rebuild_claims()

    @property
    def memory_enabled(self) -> bool:
        """The command register's memory decode bit; off means that no BAR claims anything."""
        return self._memory_enabled

    @memory_enabled.setter
    def memory_enabled(self, enabled: bool) -> None:
        self._memory_enabled = enabled
        self._rebuild_claims()

    def set_bar(self, bar: int, size: int, bits64: bool, prefetchable: bool = False) -> None:
        """Configure a BAR; repeated with equal arguments it keeps the host's address.

        Args:
            bar: 0..5; a 64-bit BAR is even and takes the next slot too.
            size: bytes, a power of two.
            bits64: the host may place it above 4 GiB.
            prefetchable: the flag the host reads; nothing else changes.

        Raises:
            KernelError: EINVAL, for each rule of the controller that does not hold.

        Source: Linux pci-epc-core.c, pci_epc_set_bar; pcie-designware-ep.c, dw_pcie_ep_set_bar.
        """
        if not 0 <= bar < BAR_COUNT:
            raise KernelError(errno.EINVAL, f"BAR{bar}: allowed 0..{BAR_COUNT - 1}")
        spec = self.specs[bar]
        if spec.kind is BarKind.RESIZABLE and not RESIZABLE_MIN_BYTES <= size <= RESIZABLE_MAX_BYTES:
            raise KernelError(errno.EINVAL, f"BAR{bar} is resizable: {size:#x} is outside 1 MiB..128 TiB")
        if spec.kind is BarKind.FIXED and size != spec.fixed_size_bytes:
            raise KernelError(
                errno.EINVAL, f"BAR{bar} has the fixed size {spec.fixed_size_bytes:#x}, not {size:#x}"
            )
        if size < MIN_BAR_BYTES or size & (size - 1) or size > RESIZABLE_MAX_BYTES:
            raise KernelError(errno.EINVAL, f"BAR{bar}: size {size:#x} is no power of two of 16 B..128 TiB")
        bits64 = bits64 or spec.only_64bit
        if size > _WORD and not bits64:
            raise KernelError(errno.EINVAL, f"BAR{bar}: {size:#x} bytes need a 64-bit BAR")
        if bits64 and bar % 2:
            raise KernelError(errno.EINVAL, f"BAR{bar} cannot be 64-bit: it is odd")
        if spec.kind in (BarKind.RESERVED, BarKind.UPPER, BarKind.DISABLED):
            raise KernelError(errno.EINVAL, f"BAR{bar} is {spec.kind.value}")
        self._check_neighbours(bar, bits64)
        config = BarConfig(size, bits64, prefetchable)
        if self._configs.setdefault(bar, config) != config:
            raise KernelError(errno.EINVAL, f"BAR{bar} is already set up as {self._configs[bar]}")
        self._rebuild_claims()

    def _check_neighbours(self, bar: int, bits64: bool) -> None:
        if bits64 and bar + 1 in self._configs:
            raise KernelError(errno.EINVAL, f"BAR{bar + 1} is in use: BAR{bar} cannot be 64-bit")
        if bits64 and self.specs[bar + 1].kind is BarKind.FIXED:
            raise KernelError(errno.EINVAL, f"BAR{bar + 1} is fixed: BAR{bar} cannot be 64-bit")
        if self._is_upper_half(bar):
            raise KernelError(errno.EINVAL, f"BAR{bar} is the upper half of BAR{bar - 1}")

    def _is_upper_half(self, bar: int) -> bool:
        below = self._configs.get(bar - 1)
        return below is not None and below.bits64

    def clear_bar(self, bar: int) -> None:
        """Undo set_bar; the host's address is lost. No effect on a BAR that is not set up, or reserved."""
        if bar not in self._configs or self.specs[bar].kind is BarKind.RESERVED:
            return
        config = self._configs.pop(bar)
        self._words[bar] = 0
        if config.bits64:
            self._words[bar + 1] = 0
        self._rebuild_claims()

    def config(self, bar: int) -> BarConfig | None:
        """What set_bar made of the BAR; None when it is not set up."""
        return self._configs.get(bar)

    def address(self, bar: int) -> BusAddr | None:
        """Bus address the host assigned; None when it assigned none or the BAR is not set up."""
        config = self._configs.get(bar)
        if config is None:
            return None
        base = self._words[bar] | (self._words[bar + 1] << 32 if config.bits64 else 0)
        return BusAddr(base) if base else None

    def read_register(self, bar: int) -> int:
        """The 32-bit BAR register as the host reads it: address and flags; 0 when not set up.

        Raises:
            IndexError: bar is outside 0..5.
        """
        word = self._words[bar]
        config = self._configs.get(bar)
        if config is None:
            return word
        return word | _FLAG_64BIT * config.bits64 | _FLAG_PREFETCH * config.prefetchable

    def write_register(self, bar: int, value: int) -> None:
        """Let the host write a 32-bit BAR register: only address bits above the size stick.

        Raises:
            IndexError: bar is outside 0..5.
        """
        config = self._configs.get(bar)
        if config is not None:
            mask = -config.size & _WORD
        elif self._is_upper_half(bar):
            mask = (-self._configs[bar - 1].size >> 32) & _WORD
        else:
            mask = 0
        self._words[bar] = value & mask
        self._rebuild_claims()

    def decode(self, bus_addr: int, length: int) -> tuple[int, int] | None:
        """Find the BAR that claims a bus access.

        Args:
            bus_addr: first byte of the access.
            length: bytes, 1 or more; the access must not cross the BAR's end.

        Returns:
            (bar, offset in it); None, which is Unsupported Request, when no BAR claims all of it.

        Raises:
            ValueError: length is below 1.
        """
        hit = self.find(bus_addr, length)
        if hit is None:
            self.unclaimed += 1
        return hit

    def find(self, bus_addr: int, length: int) -> tuple[int, int] | None:
        """As ``decode``, for who only wants to know: a miss is not counted."""
        if length < 1:
            raise ValueError(f"access of {length} bytes")
        for base, end, bar in self._claims:
            if base <= bus_addr and bus_addr + length <= end:
                return bar, bus_addr - base
        return None

    def span(self, bar: int) -> Span | None:
        """Bus addresses of an assigned BAR, memory decode aside; None when unassigned."""
        base = self.address(bar)
        return None if base is None else Span(base, self._configs[bar].size)

    def snapshot(self) -> dict[str, object]:
        """Sizes, flags and addresses by BAR number, and what the counters say."""
        return {
            "memory_enabled": self._memory_enabled,
            "unclaimed": self.unclaimed,
            "bars": {
                bar: {"size": config.size, "bits64": config.bits64, "address": self.address(bar)}
                for bar, config in sorted(self._configs.items())
            },
        }

    def _rebuild_claims(self) -> None:
        spans = {bar: self.span(bar) for bar in sorted(self._configs)} if self._memory_enabled else {}
        self._claims: tuple[tuple[int, int, int], ...] = tuple(
            (span.base, span.end, bar) for bar, span in spans.items() if span is not None
        )
        self.on_change()
