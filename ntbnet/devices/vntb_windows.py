"""The memory windows of pci-epf-vntb: their BARs, their outbound regions, their inbound translations.

Bind sizes each BAR once, for all windows in it, and translates nothing. A window is translated
when the endpoint's client says where its memory is (after the host placed the BAR), in one of three
ways: a range by address match (``map``), a piece of a submap array (``submap``), or the whole BAR
(``bar``). Windows that the hardware wires need nothing.

In a submap array every byte of the BAR belongs to an entry: what no open window holds is padding, which
leads to local addresses where nothing lives, so that an access there is counted and lost. (The
kernel's users pad with memory.)

Fixed here: HAZARD 11.c (a window that is translated again keeps its iATU window), and the kernel's
mw_clear_trans, which leaves the window on memory that is given back (NTB 75).

Source: Linux pci-epf-vntb.c, epf_ntb_mw_bar_init, vntb_epf_mw_set_trans, with the October 2025 series.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ntbnet.address import hex_address, is_aligned, round_up
from ntbnet.config import Config
from ntbnet.devices.effects import Outbox
from ntbnet.devices.epc_features import EpcFeatures
from ntbnet.devices.inbound import Submap
from ntbnet.errors import KernelError
from ntbnet.layout_plan import WindowPlan

PADDING_BASE = 1 << 48
"""Local address of padding; no platform has anything there."""


class WindowController(Protocol):
    """What the windows ask of the endpoint controller."""

    def get_features(self) -> EpcFeatures:
        """What the controller can do."""

    def set_bar(
        self,
        bar: int,
        size: int,
        target: int | None = None,
        backed: int | None = None,
        *,
        bits64: bool = False,
        submaps: Sequence[Submap] | None = None,
    ) -> None:
        """Size a BAR and translate it. KernelError as the kernel's."""

    def map_inbound(self, bar: int, bar_size: int, offset: int = 0, target: int = 0, size: int = 0) -> None:
        """Translate a part of a BAR; target 0 only sets the BAR up. KernelError as the kernel's."""

    def unmap_inbound(self, bar: int, offset: int, size: int) -> None:
        """Undo ``map_inbound`` of exactly this range."""

    def unmap_bar(self, bar: int) -> None:
        """Let a BAR hit nothing."""

    def allocate_outbound(self, size: int) -> int:
        """Local address of a piece of the outbound aperture. KernelError ENOMEM."""

    def map_addr(self, local: int, bus: int, size: int) -> None:
        """Map a piece of the aperture to the bus."""

    def unmap_addr(self, local: int) -> None:
        """Undo ``map_addr``; unknown addresses are ignored."""


@dataclass(frozen=True, slots=True)
class _Translation:
    """``size`` bytes from ``offset`` of a BAR lead to ``target``."""

    offset: int
    size: int
    target: int


class MemoryWindows:
    """The function's windows, bound to ``controller``.

    Attributes:
        plans: one for each window, by index.
        outbound: local address of each window's outbound region, by index.
    """

    def __init__(self, config: Config, controller: WindowController, outbox: Outbox) -> None:
        self._controller = controller
        self._outbox = outbox
        self._endpoint = config.profile.endpoint
        self._align = controller.get_features().align
        self._sizes = config.bar_sizes
        self.plans: tuple[WindowPlan, ...] = config.windows
        self.outbound: list[int] = []
        self._open: dict[int, _Translation] = {}
        self._mapped: dict[int, tuple[int, int]] = {}
        """By window, bus address and size that its outbound region leads to."""

    def __len__(self) -> int:
        return len(self.plans)

    def bind(self) -> None:
        """Size the BARs and take the outbound regions; KernelError as the controller's."""
        for bar, mode in {plan.bar: plan.mode for plan in self.plans if plan.mode != "wired"}.items():
            if mode == "map":
                self._controller.map_inbound(bar, self._sizes[bar])
            else:
                self._controller.set_bar(bar, self._sizes[bar])
        self.outbound = [self._controller.allocate_outbound(plan.size) for plan in self.plans]

    def check(self, widx: int) -> WindowPlan:
        """The plan of a window; KernelError EINVAL when there is none (HAZARD 10.11)."""
        if not 0 <= widx < len(self.plans):
            raise KernelError(errno.EINVAL, f"window {widx}: allowed 0..{len(self.plans) - 1}")
        return self.plans[widx]

    @property
    def target_align(self) -> int:
        """Alignment that memory behind every data window satisfies, bytes."""
        aligns = [self._align]
        # a BAR-match window's target is aligned to the BAR, which may be larger than the window
        aligns += [self._sizes[p.bar] for p in self.plans if p.purpose == "data" and p.mode == "bar"]
        return max(aligns)

    def open(self, widx: int, target: int, size: int, offset: int) -> None:
        """Translate ``size`` bytes from ``offset`` of the window's BAR to ``target``, in place.

        Raises:
            KernelError: EINVAL: no such window, the range is not inside it, the window is wired, or what
                the controller says; ENOSPC: too few iATU windows.
        """
        plan = self.check(widx)
        if size < 1 or offset < plan.offset or offset + size > plan.offset + plan.size:
            raise KernelError(
                errno.EINVAL,
                f"mw_set_trans [{offset:#x}, +{size:#x}): window {widx} is "
                f"[{plan.offset:#x}, +{plan.size:#x})",
            )
        new, old = _Translation(offset, size, target), self._open.get(widx)
        if plan.mode == "map":
            if old is not None and old.offset != offset:
                self._close_range(plan, old)
            self._controller.map_inbound(plan.bar, self._sizes[plan.bar], offset, target, size)
        elif plan.mode == "submap":
            self._submap(plan.bar, self._open | {widx: new})
        elif plan.mode == "bar":
            self._controller.set_bar(plan.bar, self._sizes[plan.bar], target, size)
        else:
            raise KernelError(errno.EINVAL, f"window {widx} is wired: it leads where the hardware says")
        self._open[widx] = new
        self._outbox.log("mw.configured", widx=widx, addr=hex_address(target), size_bytes=size)

    def close(self, widx: int) -> None:
        """Let a window hit nothing; its neighbours in the BAR stay. KernelError EINVAL for a bad index."""
        plan = self.check(widx)
        old = self._open.pop(widx, None)
        if old is None:
            return
        if plan.mode == "map":
            self._controller.unmap_inbound(plan.bar, old.offset, old.size)
        elif plan.mode == "submap" and any(self.plans[other].bar == plan.bar for other in self._open):
            self._submap(plan.bar, self._open)
        else:
            self._controller.unmap_bar(plan.bar)
        self._outbox.log("mw.cleared", widx=widx)

    def close_all(self) -> None:
        """The host side is gone: no window hits anything any more."""
        for bar in dict.fromkeys(plan.bar for plan in self.plans if plan.mode != "wired"):
            self._controller.unmap_bar(bar)
        self._open.clear()

    def map_outbound(self, widx: int, bus: int, size: int) -> None:
        """Swap the mapping of an outbound region; one that the controller refuses leaves the old one."""
        local, old = self.outbound[widx], self._mapped.get(widx)
        self.unmap_outbound(widx)
        try:
            self._controller.map_addr(local, bus, size)
        except KernelError:
            if old is not None:
                self._controller.map_addr(local, *old)
                self._mapped[widx] = old
            raise
        self._mapped[widx] = bus, size

    def outbound_is_mapped(self, widx: int) -> bool:
        """True when the host has said where the outbound region leads. KernelError EINVAL."""
        self.check(widx)
        return widx in self._mapped

    def outbound_bus(self, widx: int) -> tuple[int, int]:
        """Bus address and size that the outbound region leads to. KernelError EINVAL; ENOTCONN: nowhere."""
        self.check(widx)
        if widx not in self._mapped:
            raise KernelError(errno.ENOTCONN, f"the host has not configured window {widx}")
        return self._mapped[widx]

    def unmap_outbound(self, widx: int) -> None:
        """Let an outbound region lead nowhere."""
        self._controller.unmap_addr(self.outbound[widx])
        self._mapped.pop(widx, None)

    def _close_range(self, plan: WindowPlan, old: _Translation) -> None:
        self._controller.unmap_inbound(plan.bar, old.offset, old.size)
        del self._open[plan.index]

    def _submap(self, bar: int, translations: dict[int, _Translation]) -> None:
        """Program the whole array of a BAR: its open windows in order, padding between them."""
        align, size = self._align, self._sizes[bar]
        here = [translations[widx] for widx in translations if self.plans[widx].bar == bar]
        pieces: list[Submap] = []
        at = 0
        for one in sorted(here, key=lambda translation: translation.offset):
            if not is_aligned(one.offset, align) or one.offset < at:
                raise KernelError(errno.EINVAL, f"offset {one.offset:#x} is not aligned to {align:#x}")
            if one.offset > at:
                pieces.append(Submap(PADDING_BASE + at, one.offset - at))
            length = round_up(one.size, align)
            pieces.append(Submap(one.target, length, one.size))
            at = one.offset + length
        if at < size:
            pieces.append(Submap(PADDING_BASE + at, size - at))
        self._controller.set_bar(bar, size, submaps=pieces)
