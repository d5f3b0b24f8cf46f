"""What the keys of [ntb] become on a platform: which BAR holds what, how large each BAR is, how each
window is translated.

Nothing is refused here; the rules are in ``layout_rules.py``.  BAR numbers are assigned as the
kernel of the October 2025 series does, with the last window included, which that kernel forgets.

Source: Linux pci-epf-vntb.c, epf_ntb_init_epc_bar, epf_ntb_mw_bar_init.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ntbnet.address import Span, round_up, round_up_pow2
from ntbnet.profile import Profile
from ntbnet.sections import MAX_MWS, Ntb

CONTROL_BLOCK_BYTES = {"rfc1": 336, "classic": 308}
"""Size of each control block; the scratchpads begin right behind it."""

DB_ENTRY_BYTES = 4
"""One polled doorbell: a 32-bit word for each slot."""

MIN_REGION_BYTES = 128
"""Least that is put behind a BAR. Source: Linux pci-epf-core.c, pci_epf_alloc_space."""

MIN_WINDOW_BAR_BYTES = 4096
"""Least size of a BAR that holds windows. Source: RFC of 2025-10-23, pci-epf-vntb.c."""

MIN_RESIZABLE_BYTES = 1 << 20
"""Least size of a resizable BAR. Source: PCI Express 6.0, Resizable BAR capability."""

Purpose = Literal["data", "interrupt"]
Mode = Literal["map", "submap", "bar", "wired"]
"""map: address match; submap: a part of a BAR; bar: BAR match; wired: by the hardware, without a window."""


@dataclass(frozen=True, slots=True)
class WindowPlan:
    """One memory window.

    Attributes:
        index: 0-based; window 0 is key mw1.
        bar: 0..5.
        offset: where it begins in its BAR, bytes.
        size: bytes; what the host is told.
        purpose: data carries frames, interrupt reaches registers of the endpoint.
        mode: how accesses get from the BAR to the target.
        target: dram, edma or msi.
    """

    index: int
    bar: int
    offset: int
    size: int
    purpose: Purpose
    mode: Mode
    target: str

    @property
    def name(self) -> str:
        """Its key: mw1 to mw4."""
        return f"mw{self.index + 1}"

    @property
    def span(self) -> Span:
        """Its bytes in the BAR."""
        return Span(self.offset, self.size)


@dataclass(frozen=True, slots=True)
class BarAssignment:
    """Which BAR holds what, after -1 has been replaced; 0..5."""

    ctrl: int
    db: int
    mws: tuple[int, ...]

    @property
    def mw1(self) -> int:
        """BAR of the first window."""
        return self.mws[0]


@dataclass(frozen=True, slots=True)
class DoorbellRegion:
    """The doorbell words: ``size`` bytes from ``offset`` in ``bar``."""

    bar: int
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Plan:
    """A layout with every BAR number known.

    Attributes:
        bar_sizes: bytes of each BAR in use, wired ones included.
    """

    bars: BarAssignment
    windows: tuple[WindowPlan, ...]
    db_region: DoorbellRegion
    bar_sizes: Mapping[int, int]


def bar_keys(ntb: Ntb) -> dict[str, int]:
    """The BAR key of everything that needs one, in the order of assignment, and its value."""
    keys = {"ctrl_bar": ntb.ctrl_bar, "db_bar": ntb.db_bar}
    return keys | {f"mw{n}_bar": getattr(ntb, f"mw{n}_bar") for n in range(1, ntb.num_mws + 1)}


def assign(ntb: Ntb, profile: Profile) -> dict[str, int | None]:
    """Replace each -1 by the lowest usable BAR that nobody has; None where none is left."""
    wanted = bar_keys(ntb)
    taken = set(wanted.values())
    free = [n for n, bar in enumerate(profile.endpoint.bars) if bar.is_usable and n not in taken]
    return {key: bar if bar >= 0 else (free.pop(0) if free else None) for key, bar in wanted.items()}


def ctrl_bytes(ntb: Ntb) -> int:
    """Control block and both banks of scratchpads."""
    return CONTROL_BLOCK_BYTES[ntb.ctrl_layout] + 2 * 4 * ntb.spad_count


def msix_bytes(vectors: int) -> int:
    """MSI-X table of 16-byte entries, and the pending bits in words of 64 behind it."""
    return 16 * vectors + 8 * -(-vectors // 64)


def db_bytes(ntb: Ntb) -> int:
    """All doorbell words."""
    return DB_ENTRY_BYTES * ntb.db_count


def window_span(ntb: Ntb, number: int) -> tuple[int, int]:
    """Offset and size that the keys give window ``number``, 1..4."""
    return getattr(ntb, f"mw{number}_offset"), getattr(ntb, f"mw{number}")


def bar_size(profile: Profile, bar: int, needed: int) -> int:
    """Size of a BAR that holds ``needed`` bytes: its fixed size, or the next power of two it can have."""
    spec = profile.endpoint.bars[bar]
    if spec.fixed_size:
        return spec.fixed_size
    least = MIN_RESIZABLE_BYTES if spec.kind == "resizable" else MIN_REGION_BYTES
    return round_up_pow2(max(needed, least))


def needed_bytes(ntb: Ntb, assigned: Mapping[str, int | None]) -> dict[int, int]:
    """End of the last byte used in each BAR."""
    ends: dict[int, int] = {}

    def need(bar: int | None, end: int) -> None:
        if bar is not None:
            ends[bar] = max(ends.get(bar, 0), end)

    ctrl, db = assigned["ctrl_bar"], assigned["db_bar"]
    need(ctrl, ctrl_bytes(ntb) + (db_bytes(ntb) if db == ctrl else 0))
    if db != ctrl:
        need(db, db_bytes(ntb))
    for number in range(1, ntb.num_mws + 1):
        offset, size = window_span(ntb, number)
        need(assigned[f"mw{number}_bar"], max(offset + size, MIN_WINDOW_BAR_BYTES))
    return ends


def bar_sizes(ntb: Ntb, profile: Profile, assigned: Mapping[str, int | None]) -> dict[int, int]:
    """Bytes of each BAR in use, wired ones included; what is assigned None takes no room."""
    needed, ctrl = needed_bytes(ntb, assigned), assigned["ctrl_bar"]
    if profile.endpoint.msix and ctrl is not None:
        # behind everything else in the config BAR; a fixed one may have no room for it
        needed[ctrl] = round_up(needed[ctrl], 8) + msix_bytes(profile.endpoint.msi_vectors)
    sizes = {bar: bar_size(profile, bar, end) for bar, end in needed.items()}
    for bar, spec in enumerate(profile.endpoint.bars):
        if spec.kind == "reserved" and spec.fixed_size:
            sizes[bar] = spec.fixed_size
    return dict(sorted(sizes.items()))


def purpose_of(ntb: Ntb, number: int) -> Purpose:
    """What window ``number``, 1..4, is for."""
    return "interrupt" if number == 2 and ntb.mw2_target != "none" else "data"


def mode_of(ntb: Ntb, profile: Profile, number: int, bar: int) -> Mode:
    """How window ``number``, 1..4, in ``bar`` is translated."""
    is_wired = purpose_of(ntb, number) == "interrupt" and any(
        region.kind == ntb.mw2_target for region in profile.endpoint.bars[bar].wired
    )
    mode: Mode = "wired" if is_wired else ntb.inbound  # type: ignore[assignment]
    return mode


def make_plan(ntb: Ntb, profile: Profile) -> Plan | None:
    """The plan; None when a BAR is missing. Whether it can work is not looked at."""
    assigned = assign(ntb, profile)
    numbers = {key: bar for key, bar in assigned.items() if bar is not None}
    if len(numbers) < len(assigned):
        return None
    sizes = bar_sizes(ntb, profile, assigned)
    windows = []
    for number in range(1, ntb.num_mws + 1):
        bar = numbers[f"mw{number}_bar"]
        offset, size = window_span(ntb, number)
        mode = mode_of(ntb, profile, number, bar)
        if ntb.ctrl_layout == "classic" and mode != "wired":
            # a classic block has no place for a size: the host takes what the BAR has
            size = max(sizes[bar] - offset, 0)
        purpose = purpose_of(ntb, number)
        target = ntb.mw2_target if purpose == "interrupt" else "dram"
        windows.append(WindowPlan(number - 1, bar, offset, size, purpose, mode, target))
    ctrl, db = numbers["ctrl_bar"], numbers["db_bar"]
    return Plan(
        BarAssignment(ctrl, db, tuple(window.bar for window in windows)),
        tuple(windows),
        DoorbellRegion(db, ctrl_bytes(ntb) if db == ctrl else 0, db_bytes(ntb)),
        sizes,
    )


def all_window_keys() -> tuple[str, ...]:
    """Every key that belongs to one window."""
    numbers = range(1, MAX_MWS + 1)
    return tuple(f"mw{n}{suffix}" for n in numbers for suffix in ("", "_offset", "_bar"))
