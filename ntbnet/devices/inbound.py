"""Which part of which BAR leads where: BAR-match windows, ranges by address match, and submaps.

A range matches the bus address that the host had given the BAR when the range was programmed.
When the host moves the BAR, the range is *stale*: nothing tells the endpoint, every access misses,
and programming the range again is the only cure. BAR-match windows follow the BAR.

Added to what the October 2025 series checks: a range lies inside its BAR, does not overlap another one,
needs an assigned address, and asking for it again programs the window it has instead of taking another.
Windows of a BAR are torn down by their indices, so a moved BAR leaks none.

Source: Linux pcie-designware-ep.c, dw_pcie_ep_set_bar, dw_pcie_ep_ib_atu_addr; the series' map_inbound.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ntbnet.address import BusAddr, CpuAddr, hex_address, is_aligned
from ntbnet.devices.bar import BarConfig, BarSet
from ntbnet.devices.effects import Outbox
from ntbnet.devices.iatu import Iatu
from ntbnet.errors import KernelError


@dataclass(frozen=True, slots=True)
class Submap:
    """One entry of a BAR's submap array: ``size`` bytes at local address ``target``.

    The order of the array is the layout: the first entry is at offset 0, each next one right behind.

    Attributes:
        backed: bytes that really lie at ``target``; accesses beyond them miss. None means all.
    """

    target: int
    size: int
    backed: int | None = None


@dataclass(slots=True)
class InboundRange:
    """One address-match window of a BAR.

    Attributes:
        offset: first byte, from the start of the BAR.
        size: bytes.
        base: bus address of that byte when the window was programmed.
        target: local address of that byte.
        index: of the iATU window.
        mode: ``map`` or ``submap``.
        stale: the BAR is elsewhere now.
    """

    bar: int
    offset: int
    size: int
    base: int
    target: int
    index: int
    mode: str
    stale: bool = False

    @property
    def end(self) -> int:
        """First offset behind it (exclusive)."""
        return self.offset + self.size


class InboundMap:
    """The inbound windows of one function.

    Attributes:
        ranges: address-match windows in use, oldest first.
        went_stale: ranges that a move of their BAR made stale, since the start.
    """

    def __init__(self, bars: BarSet, iatu: Iatu, outbox: Outbox) -> None:
        self._bars = bars
        self._iatu = iatu
        self._outbox = outbox
        self.ranges: list[InboundRange] = []
        self.went_stale = 0

    def reset(self) -> None:
        """Forget the ranges; the iATU is reset by its owner."""
        self.ranges.clear()

    # whole BARs

    def point_bar(self, bar: int, target: int, size: int) -> None:
        """Translate a whole BAR to ``size`` bytes at ``target``, in place; its ranges go.

        Raises:
            KernelError: EINVAL, also when no window is free.
        """
        config = self._configured(bar)
        self._drop_ranges(bar)
        index = self._iatu.program_bar_match(bar, CpuAddr(target), size, config.size)
        self._tell_enabled(index, f"BAR{bar}", target, size)

    def unmap_bar(self, bar: int) -> None:
        """Let a BAR hit nothing."""
        self._drop_ranges(bar)
        index = self._iatu.bar_match_index(bar)
        if index is not None:
            self._disable(index)

    # parts of a BAR

    def map_range(self, bar: int, offset: int, target: int, size: int) -> None:
        """Translate ``size`` bytes from ``offset`` of a placed BAR to ``target``.

        A range that begins at the same offset is programmed anew, in the window it has.

        Raises:
            KernelError: EINVAL: the BAR is not set up, not placed or translated as a whole, the range
                leaves it, overlaps another one, or is not aligned; ENOSPC: no window is free.
        """
        config = self._configured(bar)
        if offset < 0 or size < 1 or offset + size > config.size:
            raise KernelError(
                errno.EINVAL, f"BAR{bar}: [{offset:#x}, +{size:#x}) is outside its {config.size:#x} bytes"
            )
        if self._iatu.bar_match_index(bar) is not None:
            raise KernelError(errno.EINVAL, f"BAR{bar} is translated as a whole")
        known = None
        for other in self._of_bar(bar):
            if other.offset == offset:
                known = other
            elif offset < other.end and other.offset < offset + size:
                raise KernelError(
                    errno.EINVAL,
                    f"BAR{bar}: [{offset:#x}, +{size:#x}) overlaps [{other.offset:#x}, +{other.size:#x})",
                )
        base = self._address(bar) + offset
        index = self._program(base, target, size, known)
        if known is not None:
            self.ranges.remove(known)
        self.ranges.append(InboundRange(bar, offset, size, base, target, index, "map"))

    def unmap_range(self, bar: int, offset: int, size: int) -> bool:
        """Undo ``map_range`` of exactly this range; False, and no effect, when there is none."""
        for known in self._of_bar(bar):
            if (known.offset, known.size) == (offset, size):
                self.ranges.remove(known)
                self._disable(known.index)
                return True
        return False

    def map_submaps(self, bar: int, submaps: Sequence[Submap]) -> None:
        """Translate a placed BAR piece by piece; whatever translated it before goes.

        Raises:
            KernelError: EINVAL: the BAR is not set up or not placed, a piece is empty or not aligned, or
                the pieces are not exactly as long as the BAR; ENOSPC: too few windows are free. After
                ENOSPC no window of the BAR is left.
        """
        self.check_submaps(bar, submaps)
        address = self._address(bar)
        self.unmap_bar(bar)
        offset = 0
        try:
            for piece in submaps:
                base, size = address + offset, piece.size if piece.backed is None else piece.backed
                index = self._program(base, piece.target, size, None)
                self.ranges.append(InboundRange(bar, offset, size, base, piece.target, index, "submap"))
                offset += piece.size
        except KernelError:
            self.unmap_bar(bar)
            raise

    def check_submaps(self, bar: int, submaps: Sequence[Submap]) -> None:
        """The rules of a submap array; KernelError EINVAL names the one that is broken."""
        size, align = self._configured(bar).size, self._iatu.region_align
        if not submaps:
            raise KernelError(errno.EINVAL, f"BAR{bar}: a submap array without entries")
        if not is_aligned(size, align):
            raise KernelError(errno.EINVAL, f"BAR{bar}: {size:#x} bytes are no multiple of {align:#x}")
        for number, piece in enumerate(submaps):
            backed = piece.size if piece.backed is None else piece.backed
            if not 1 <= backed <= piece.size or not is_aligned(piece.size | piece.target, align):
                raise KernelError(
                    errno.EINVAL,
                    f"BAR{bar}: submap {number}, {piece.size:#x} bytes at {piece.target:#x}, "
                    f"is not aligned to {align:#x}",
                )
        total = sum(piece.size for piece in submaps)
        if total != size:
            raise KernelError(errno.EINVAL, f"BAR{bar}: submaps of {total:#x} bytes for {size:#x}")

    # what the host does

    def host_moved(self) -> None:
        """The host wrote BARs: find the ranges that match their BAR no more, and tell."""
        for known in self.ranges:
            address = self._bars.address(known.bar)
            was_stale, known.stale = known.stale, address is None or address + known.offset != known.base
            if known.stale and not was_stale:
                self.went_stale += 1
                self._outbox.log(
                    "iatu.region_stale",
                    index=known.index,
                    bar=known.bar,
                    base=hex_address(known.base),
                    address=hex_address(0 if address is None else address + known.offset),
                )

    def snapshot(self) -> list[dict[str, Any]]:
        """Every enabled inbound window by index, as ``status`` shows it."""
        by_index = {known.index: known for known in self.ranges}
        rows = []
        for index, window in enumerate(self._iatu.inbound):
            if window is None:
                continue
            known = by_index.get(index)
            rows.append(
                {
                    "index": index,
                    "direction": "inbound",
                    "mode": "bar" if known is None else known.mode,
                    "bar": window.bar if known is None else known.bar,
                    "base": hex_address(window.base),
                    "limit": hex_address(window.limit),
                    "target": hex_address(window.target),
                    "size": window.limit - window.base + 1,
                    "stale": known is not None and known.stale,
                }
            )
        return rows

    # parts

    def _configured(self, bar: int) -> BarConfig:
        config = self._bars.config(bar)
        if config is None:
            raise KernelError(errno.EINVAL, f"BAR{bar} is not set up")
        return config

    def _address(self, bar: int) -> int:
        address = self._bars.address(bar)
        if address is None:
            raise KernelError(errno.EINVAL, f"BAR{bar} has no address yet: the host has not placed it")
        return address

    def _of_bar(self, bar: int) -> list[InboundRange]:
        return [known for known in self.ranges if known.bar == bar]

    def _program(self, base: int, target: int, size: int, known: InboundRange | None) -> int:
        index = self._iatu.program_address_match(
            BusAddr(base), CpuAddr(target), size, None if known is None else known.index
        )
        self._tell_enabled(index, hex_address(base), target, size)
        return index

    def _drop_ranges(self, bar: int) -> None:
        for known in self._of_bar(bar):
            self.ranges.remove(known)
            self._disable(known.index)

    def _disable(self, index: int) -> None:
        self._iatu.disable_inbound(index)
        self._outbox.log("iatu.region_disabled", direction="inbound", index=index)

    def _tell_enabled(self, index: int, base: str, target: int, size: int) -> None:
        self._outbox.log(
            "iatu.region_enabled",
            direction="inbound",
            index=index,
            base=base,
            target=hex_address(target),
            size_bytes=size,
        )
