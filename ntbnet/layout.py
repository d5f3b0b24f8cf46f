"""A layout as people discuss it: BARs, what lies in each, the inbound windows that reach it.

Made from a configuration; nothing here is read from a running bridge.  Which index a window gets
there is decided when it is programmed; the planned numbers are those of the order of events:
control block and doorbells at bind, memory windows when the transport maps them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from ntbnet.address import Span, hex_address, round_up
from ntbnet.config import Config
from ntbnet.layout_plan import CONTROL_BLOCK_BYTES, Plan, WindowPlan, ctrl_bytes, msix_bytes
from ntbnet.layout_resources import holes, inbound_needed
from ntbnet.profile import Bar


@dataclass(frozen=True, slots=True)
class Range:
    """Something that lies in a BAR.

    Attributes:
        name: ctrl, spads, doorbells or mw1 to mw4.
        what: what it is for, in a few words.
        target: dram, edma or msi.
    """

    name: str
    what: str
    offset: int
    size: int
    target: str

    @property
    def span(self) -> Span:
        """Its bytes in the BAR."""
        return Span(self.offset, self.size)


@dataclass(frozen=True, slots=True)
class LayoutBar:
    """One BAR in use.

    Attributes:
        span: bus addresses, as the host would place it: largest first, naturally aligned.
        ranges: what lies in it, ascending.
    """

    number: int
    kind: str
    bits64: bool
    size: int
    span: Span
    ranges: tuple[Range, ...]

    @property
    def holes(self) -> list[Span]:
        """Offsets that nothing lies at."""
        return holes([part.span for part in self.ranges], self.size)


@dataclass(frozen=True, slots=True)
class InboundWindow:
    """One inbound window, planned or programmed.

    Attributes:
        index: of the iATU; -1 for one that the hardware wires.
        mode: bar (whole BAR), map or submap (address match), or wired.
        base: first matched offset in the BAR (planned) or bus address (programmed address match).
        limit: last matched, inclusive.
        what: name of what it serves.
        target: local address; None when it is known only while the bridge runs.
        stale: the host has moved the BAR since it was programmed.
    """

    index: int
    mode: str
    bar: int
    base: int
    limit: int
    what: str
    target: int | None = None
    stale: bool = False

    def as_json(self) -> dict[str, object]:
        """As ``status`` and ``layout`` print it."""
        return {
            "index": self.index,
            "direction": "inbound",
            "mode": self.mode,
            "bar": self.bar,
            "base": hex_address(self.base),
            "limit": hex_address(self.limit),
            "target": None if self.target is None else hex_address(self.target),
            "size": self.limit - self.base + 1,
            "what": self.what,
            "stale": self.stale,
        }


@dataclass(frozen=True, slots=True)
class Layout:
    """Everything of one configuration that decides where an access goes."""

    profile: str
    inbound: str
    inbound_available: int
    bars: tuple[LayoutBar, ...]
    windows: tuple[InboundWindow, ...]

    def bar(self, number: int) -> LayoutBar | None:
        """The BAR with that number; None when it is not in use."""
        return next((bar for bar in self.bars if bar.number == number), None)

    @property
    def inbound_used(self) -> int:
        """Inbound windows taken, those that fill holes included."""
        return sum(window.index >= 0 for window in self.windows)

    def as_json(self) -> dict[str, object]:
        """For ``layout show --json``."""
        return {
            "profile": self.profile,
            "inbound": self.inbound,
            "inbound_windows": {"used": self.inbound_used, "available": self.inbound_available},
            "bars": [
                {
                    "bar": bar.number,
                    "kind": bar.kind,
                    "bits64": bar.bits64,
                    "size": bar.size,
                    "address": hex_address(bar.span.base),
                    "ranges": [
                        {
                            "name": part.name,
                            "what": part.what,
                            "offset": part.offset,
                            "size": part.size,
                            "target": part.target,
                        }
                        for part in bar.ranges
                    ],
                    "holes": [{"offset": hole.base, "size": hole.size} for hole in bar.holes],
                }
                for bar in self.bars
            ],
            "windows": [window.as_json() for window in self.windows],
        }


def layout_of(config: Config) -> Layout:
    """The layout of a checked configuration."""
    endpoint = config.profile.endpoint
    ranges: dict[int, list[Range]] = {bar: [] for bar in config.bar_sizes}
    block = CONTROL_BLOCK_BYTES[config.ntb.ctrl_layout]
    ranges[config.bars.ctrl] += [
        Range("ctrl", "control block", 0, block, "dram"),
        Range("spads", "scratchpads, banks A and B", block, 8 * config.ntb.spad_count, "dram"),
    ]
    if endpoint.msix and (msix := msix_table_offset(config)) is not None:
        size = msix_bytes(endpoint.msi_vectors)
        ranges[config.bars.ctrl].append(Range("msix", "MSI-X table, pending bits", msix, size, "dram"))
    db = config.db_region
    ranges[db.bar].append(Range("doorbells", "polled doorbells", db.offset, db.size, "dram"))
    for window in config.windows:
        ranges[window.bar].append(
            Range(window.name, _what(window), window.offset, window.size, window.target)
        )
    for number, spec in enumerate(endpoint.bars):
        taken = {part.offset for part in ranges.get(number, [])}
        ranges.get(number, []).extend(
            Range(region.kind, "wired by the hardware", region.offset, region.size, region.kind)
            for region in spec.wired
            if region.offset not in taken
        )
    spans = assumed_spans(config)
    bars = tuple(
        _bar(number, endpoint.bars[number], spans[number], ranges[number]) for number in config.bar_sizes
    )
    return Layout(
        config.profile.name,
        config.ntb.inbound,
        endpoint.inbound_windows,
        bars,
        tuple(_windows(config)),
    )


def msix_table_offset(config: Config) -> int | None:
    """Where the MSI-X table lies in the config BAR; None when it has no room there."""
    db = config.db_region
    end = db.offset + db.size if db.bar == config.bars.ctrl else ctrl_bytes(config.ntb)
    at = round_up(end, 8)
    room = config.bar_sizes[config.bars.ctrl]
    return at if at + msix_bytes(config.profile.endpoint.msi_vectors) <= room else None


def assumed_spans(config: Config) -> dict[int, Span]:
    """Bus addresses that the host gives the BARs: the largest first, each at its natural alignment."""
    at = config.profile.rc.mmio_base
    spans = {}
    for number, size in sorted(config.bar_sizes.items(), key=lambda item: -item[1]):
        at = round_up(at, size)
        spans[number] = Span(at, size)
        at += size
    return spans


def _bar(number: int, spec: Bar, span: Span, ranges: list[Range]) -> LayoutBar:
    ordered = tuple(sorted((part for part in ranges if part.size), key=lambda part: part.offset))
    return LayoutBar(number, spec.kind, spec.bits64, span.size, span, ordered)


def _what(window: WindowPlan) -> str:
    return "frames" if window.purpose == "data" else f"interrupts by {window.target}"


def target_address(config: Config, window: WindowPlan) -> int | None:
    """Local address that offset 0 of an interrupt window reaches; None for data.

    The register's address is rounded down to the controller's alignment; a wired window begins at
    the first register.
    """
    endpoint = config.profile.endpoint
    if window.purpose == "data":
        return None
    base = endpoint.edma_base if window.target == "edma" else endpoint.ep_msi_page
    return base if window.mode == "wired" else base & ~(endpoint.align - 1)


def _windows(config: Config) -> Iterator[InboundWindow]:
    sizes = config.bar_sizes
    whole = [(config.bars.ctrl, "ctrl")]
    if config.bars.db != config.bars.ctrl:
        whole.append((config.bars.db, "doorbells"))
    index = 0
    for bar, what in whole:
        yield InboundWindow(index, "bar", bar, 0, sizes[bar] - 1, what)
        index += 1
    # interrupt windows are opened when the host asks for the link, data windows by the transport after it
    order = sorted(config.windows, key=lambda window: (window.mode == "wired", window.purpose == "data"))
    for window in order:
        if window.mode != "submap":
            number = -1 if window.mode == "wired" else index
            yield _inbound(config, number, window)
            index += window.mode != "wired"
    for bar in dict.fromkeys(window.bar for window in config.windows if window.mode == "submap"):
        here = [window for window in config.windows if window.bar == bar]
        parts = [_inbound(config, 0, window) for window in here]
        parts += [
            InboundWindow(0, "submap", bar, hole.base, hole.limit, "padding")
            for hole in holes([window.span for window in here], sizes[bar])
        ]
        # the order of the array is the layout
        for part in sorted(parts, key=lambda part: part.base):
            yield dataclasses.replace(part, index=index)
            index += 1


def _inbound(config: Config, index: int, window: WindowPlan) -> InboundWindow:
    limit = window.offset + window.size - 1
    target = target_address(config, window)
    return InboundWindow(index, window.mode, window.bar, window.offset, limit, window.name, target)


def inbound_windows_needed(config: Config) -> int:
    """How many inbound windows of the iATU the layout takes."""
    return inbound_needed(Plan(config.bars, config.windows, config.db_region, config.bar_sizes))
