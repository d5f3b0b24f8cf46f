"""Address translation of a DesignWare endpoint: inbound and outbound iATU windows.

Outbound maps a local CPU access to a bus address; inbound maps a bus access that a BAR claimed
to a local address, either for a whole BAR (BAR match) or for a range of bus addresses (address
match, which goes stale when the host moves the BAR).  The lowest matching index decides, and
``limit`` is inclusive.

Stated deviations, all towards safety: a miss is None, not an untranslated access; an access
that starts in a window and leaves it misses instead of running on; a BAR-match window knows how
many bytes lie behind it and misses beyond them; a window ends exactly where it was asked to,
not at the next multiple of ``region_align``.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass

from ntbnet.address import ADDRESS_END, BusAddr, CpuAddr, is_aligned
from ntbnet.errors import KernelError
from ntbnet.regs.iatu import MAX_WINDOWS, window_block

_TYPE_MEM = 0
_CTRL1 = window_block().register("REGION_CTRL1")
_CTRL2 = window_block().register("REGION_CTRL2")
_WORD = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class IatuWindow:
    """One programmed window.

    Attributes:
        bar: BAR of a BAR-match window; None for address match and outbound.
        base: first matched address: bus (inbound), local (outbound), 0 (BAR match: offset in the BAR).
        limit: last matched address or offset, inclusive.
        target: what base becomes.
    """

    bar: int | None
    base: int
    limit: int
    target: int

    def registers(self) -> dict[str, int]:
        """What a driver writes to the window's registers to program it, by name."""
        is_bar_match = self.bar is not None
        ctrl1 = _CTRL1.field("TYPE").insert(0, _TYPE_MEM)
        crosses_4g = not is_bar_match and self.base >> 32 != self.limit >> 32
        ctrl1 = _CTRL1.field("INCREASE_REGION_SIZE").insert(ctrl1, int(crosses_4g))
        ctrl2 = _CTRL2.field("ENABLE").insert(0, 1)
        ctrl2 = _CTRL2.field("BAR_MATCH").insert(ctrl2, int(is_bar_match))
        ctrl2 = _CTRL2.field("BAR_NUM").insert(ctrl2, self.bar or 0)
        values = {
            "LOWER_TARGET": self.target & _WORD,
            "UPPER_TARGET": self.target >> 32,
            "REGION_CTRL1": ctrl1,
            "REGION_CTRL2": ctrl2,
        }
        if is_bar_match:
            return values
        return {
            "LOWER_BASE": self.base & _WORD,
            "UPPER_BASE": self.base >> 32,
            "LIMIT": self.limit & _WORD,
            "UPPER_LIMIT": self.limit >> 32,
        } | values


class Iatu:
    """The windows of one controller, both directions.

    Attributes:
        inbound_misses: bus accesses inside a BAR that no window translated.
        outbound_misses: local accesses that no window translated.
    """

    def __init__(
        self,
        inbound_count: int,
        outbound_count: int,
        region_align: int,
        region_limit: int,
        *,
        bar_target_aligned_to_bar: bool = True,
    ) -> None:
        """Start with every window disabled.

        Args:
            inbound_count: inbound windows, 1..256.
            outbound_count: outbound windows, 1..256.
            region_align: bytes, a power of two; every base and target is a multiple of it.
            region_limit: ones: first and last address of a window differ within these bits only.
            bar_target_aligned_to_bar: a BAR-match target must be aligned to the BAR's size, as
                newer kernels demand.

        Raises:
            ValueError: a count is outside 1..256, or an argument is no power of two, no ones.
        """
        if not (1 <= inbound_count <= MAX_WINDOWS and 1 <= outbound_count <= MAX_WINDOWS):
            raise ValueError(f"windows {inbound_count} + {outbound_count}: allowed 1..{MAX_WINDOWS} each")
        if region_align < 1 or region_align & (region_align - 1):
            raise ValueError(f"region_align {region_align:#x} is no power of two")
        if region_limit < region_align - 1 or region_limit & (region_limit + 1):
            raise ValueError(f"region_limit {region_limit:#x} is not all ones below its top bit")
        self.inbound_count = inbound_count
        self.outbound_count = outbound_count
        self.region_align = region_align
        self.region_limit = region_limit
        self._bar_target_aligned_to_bar = bar_target_aligned_to_bar
        self.on_change: Callable[[], None] = _ignore
        self.reset()

    def reset(self) -> None:
        """Disable every window and forget the counts."""
        self.inbound: list[IatuWindow | None] = [None] * self.inbound_count
        self.outbound: list[IatuWindow | None] = [None] * self.outbound_count
        self.inbound_misses = 0
        self.outbound_misses = 0
        self._rebuild()

    def program_bar_match(self, bar: int, target: CpuAddr, size: int, bar_size: int) -> int:
        """Map a whole BAR, in place when it is mapped already.

        Args:
            bar: 0..5.
            target: local address of the BAR's first byte.
            size: bytes that lie at target, 1 or more; accesses beyond them miss.
            bar_size: size of the BAR in bytes, a power of two.

        Returns:
            Index of the window.

        Raises:
            KernelError: EINVAL: target not aligned, size 0 or above bar_size, or no window is free.

        Source: Linux pcie-designware.c, dw_pcie_prog_ep_inbound_atu.
        """
        self._check_aligned("BAR-match target", target)
        if self._bar_target_aligned_to_bar and not is_aligned(target, bar_size):
            raise KernelError(
                errno.EINVAL, f"BAR{bar}: target {target:#x} is not aligned to its size {bar_size:#x}"
            )
        if not 1 <= size <= bar_size or target + size > ADDRESS_END:
            raise KernelError(errno.EINVAL, f"BAR{bar}: {size:#x} bytes behind a BAR of {bar_size:#x}")
        index = self.bar_match_index(bar)
        if index is None:
            index = self._free(self.inbound)
        if index is None:
            raise KernelError(errno.EINVAL, f"BAR{bar}: all {self.inbound_count} inbound windows are taken")
        self.inbound[index] = IatuWindow(bar, 0, size - 1, target)
        self._rebuild()
        return index

    def program_address_match(
        self, base: BusAddr, target: CpuAddr, size: int, index: int | None = None
    ) -> int:
        """Map ``size`` bytes of bus addresses from ``base``; the same range twice takes two windows.

        Args:
            base: first bus address.
            target: local address of that byte.
            size: bytes, 1 or more.
            index: window to program; None takes the first free one.

        Returns:
            Index of the window.

        Raises:
            KernelError: EINVAL: not aligned, size 0, or crossing region_limit; ENOSPC: no window is free.

        Source: Linux pcie-designware.c, dw_pcie_prog_inbound_atu.
        """
        if index is None:
            index = self._free(self.inbound)
        if index is None:
            raise KernelError(errno.ENOSPC, f"all {self.inbound_count} inbound windows are taken")
        self._check_range(base, target, size)
        self.inbound[index] = IatuWindow(None, base, base + size - 1, target)
        self._rebuild()
        return index

    def program_outbound(self, base: CpuAddr, target: BusAddr, size: int) -> int:
        """Map ``size`` bytes of local addresses from ``base`` to the bus.

        Returns:
            Index of the window.

        Raises:
            KernelError: EINVAL: not aligned, size 0, crossing region_limit, or no window is free.

        Source: Linux pcie-designware-ep.c, dw_pcie_ep_outbound_atu.
        """
        index = self._free(self.outbound)
        if index is None:
            raise KernelError(errno.EINVAL, f"all {self.outbound_count} outbound windows are taken")
        self._check_range(base, target, size)
        self.outbound[index] = IatuWindow(None, base, base + size - 1, target)
        self._rebuild()
        return index

    def place(self, inbound: bool, index: int, window: IatuWindow | None) -> None:
        """Let registers written one by one take effect; None disables the window at once.

        Raises:
            IndexError: no such window.
        """
        (self.inbound if inbound else self.outbound)[index] = window
        self._rebuild()

    def disable_inbound(self, index: int) -> None:
        """Disable one inbound window at once; no effect when it is disabled.

        Raises:
            IndexError: no such window.
        """
        self.inbound[index] = None
        self._rebuild()

    def disable_bar(self, bar: int) -> None:
        """Disable the BAR-match window of a BAR; no effect when it has none."""
        index = self.bar_match_index(bar)
        if index is not None:
            self.disable_inbound(index)

    def unmap_outbound(self, base: CpuAddr) -> bool:
        """Disable the first outbound window at local ``base``; True when there was one."""
        for index, window in enumerate(self.outbound):
            if window is not None and window.base == base:
                self.outbound[index] = None
                self._rebuild()
                return True
        return False

    def bar_match_index(self, bar: int) -> int | None:
        """Index of the BAR-match window of a BAR; None when it has none."""
        for index, window in enumerate(self.inbound):
            if window is not None and window.bar == bar:
                return index
        return None

    def translate_inbound(self, bar: int, bar_offset: int, bus_addr: int, length: int) -> int | None:
        """Map a bus access that a BAR claimed to a local address.

        Args:
            bar: the BAR that claims it.
            bar_offset: first byte of the access, from the start of that BAR.
            bus_addr: the same byte as a bus address.
            length: bytes, 1 or more; the access must not cross the window's limit.

        Returns:
            Local address of the first byte; None when no window translates all of it.

        Raises:
            ValueError: bar_offset is negative or length is below 1.
        """
        local = self.find_inbound(bar, bar_offset, bus_addr, length)
        if local is None:
            self.inbound_misses += 1
        return local

    def find_inbound(self, bar: int, bar_offset: int, bus_addr: int, length: int) -> int | None:
        """As ``translate_inbound``, for who only wants to know: a miss is not counted."""
        if bar_offset < 0 or length < 1:
            raise ValueError(f"no access: BAR offset {bar_offset}, {length} bytes")
        for match_bar, base, limit, target in self._inbound_active:
            at = bus_addr if match_bar is None else bar_offset
            if (match_bar is None or match_bar == bar) and base <= at <= limit:
                return target + at - base if at + length - 1 <= limit else None
        return None

    def translate_outbound(self, local_addr: int, length: int) -> int | None:
        """Map a local access to the bus.

        Args:
            local_addr: first byte of the access.
            length: bytes, 1 or more; the access must not cross the window's limit.

        Returns:
            Bus address of the first byte; None when no window translates all of it.

        Raises:
            ValueError: length is below 1.
        """
        bus = self.find_outbound(local_addr, length)
        if bus is None:
            self.outbound_misses += 1
        return bus

    def find_outbound(self, local_addr: int, length: int) -> int | None:
        """As ``translate_outbound``, for who only wants to know: a miss is not counted."""
        if length < 1:
            raise ValueError(f"access of {length} bytes")
        for base, limit, target in self._outbound_active:
            if base <= local_addr <= limit:
                return target + local_addr - base if local_addr + length - 1 <= limit else None
        return None

    def snapshot(self) -> dict[str, object]:
        """Programmed windows by index, and the counts."""
        return {
            "inbound": {i: w for i, w in enumerate(self.inbound) if w is not None},
            "outbound": {i: w for i, w in enumerate(self.outbound) if w is not None},
            "inbound_misses": self.inbound_misses,
            "outbound_misses": self.outbound_misses,
        }

    def _check_aligned(self, what: str, address: int) -> None:
        if not 0 <= address < ADDRESS_END or not is_aligned(address, self.region_align):
            raise KernelError(errno.EINVAL, f"{what} {address:#x} is not aligned to {self.region_align:#x}")

    def _check_range(self, base: int, target: int, size: int) -> None:
        self._check_aligned("window base", base)
        self._check_aligned("window target", target)
        last = base + size - 1
        if size < 1 or last >= ADDRESS_END or target + size > ADDRESS_END:
            raise KernelError(errno.EINVAL, f"window of {size:#x} bytes at {base:#x}")
        if (base ^ last) & ~self.region_limit:
            raise KernelError(
                errno.EINVAL,
                f"window [{base:#x}, {last:#x}] crosses a boundary of {self.region_limit + 1:#x}",
            )

    @staticmethod
    def _free(windows: list[IatuWindow | None]) -> int | None:
        return windows.index(None) if None in windows else None

    def _rebuild(self) -> None:
        """Flatten the enabled windows for the translate methods, lowest index first, and tell of it."""
        self._inbound_active = tuple((w.bar, w.base, w.limit, w.target) for w in self.inbound if w)
        self._outbound_active = tuple((w.base, w.limit, w.target) for w in self.outbound if w)
        self.on_change()


def _ignore() -> None:
    """Nobody wants to know."""
