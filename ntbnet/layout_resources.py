"""What a layout takes from the platform: reach of the interrupt windows, iATU windows, apertures, memory.

A broken value does not hide the others: a rule that depends on one leaves it out.  What is left out
takes nothing, so a limit that is passed all the same is passed whatever the value becomes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from ntbnet.address import Span, is_aligned, round_up, round_up_pow2
from ntbnet.layout_plan import Plan, WindowPlan, assign, bar_sizes, make_plan
from ntbnet.layout_rules import arrangement_violations, broken
from ntbnet.profile import Profile
from ntbnet.schema import Violation
from ntbnet.sections import Ntb

FUNCTION_BYTES = 4 << 20
"""Endpoint memory that control block and doorbells are allocated from."""

EDMA_STATUS_END = 0xA4
"""First byte behind RD_INT_STATUS in the eDMA block: what an interrupt window must reach."""

MSI_WORD_END = 0x44
"""First byte behind the word that an MSI is written to, in its page."""


def layout_violations(ntb: Ntb, profile: Profile, dram_bytes: int) -> list[Violation]:
    """Everything that keeps the layout from running; [] when it runs.

    Args:
        ntb: section [ntb], each key in its own range.
        profile: the platform.
        dram_bytes: memory of the smaller node.
    """
    found = arrangement_violations(ntb, profile)
    return found + resource_violations(ntb, profile, dram_bytes, {violation.key for violation in found})


def resource_violations(
    ntb: Ntb, profile: Profile, dram_bytes: int, wrong: Collection[str] = ()
) -> list[Violation]:
    """What an arrangement lacks: reach, windows, apertures, memory; [] for a plan without BARs.

    Args:
        ntb: section [ntb], each key in its own range.
        profile: the platform.
        dram_bytes: memory of the smaller node.
        wrong: keys, such as ntb.mw1, that break a rule already.
    """
    plan = make_plan(ntb, profile)
    if plan is None:
        return []
    return list(_Resources(ntb, profile, plan, dram_bytes, frozenset(wrong)).violations())


def size_is_known(ntb: Ntb, name: str, wrong: Collection[str]) -> bool:
    """True when the size of window ``name`` depends on no wrong key."""
    # a classic block has no place for a size: it is what the BAR has from the offset on
    parts = ("", "_offset", "_bar") if ntb.ctrl_layout == "classic" else ("",)
    return not any(f"ntb.{name}{part}" in wrong for part in parts)


def inbound_needed(plan: Plan, unknown: Collection[int] = ()) -> int:
    """Inbound windows that a layout takes; the holes of BARs in ``unknown`` are not counted."""
    needed = 1 if plan.bars.db == plan.bars.ctrl else 2
    submapped: dict[int, list[Span]] = {}
    for window in plan.windows:
        if window.mode == "submap" and window.bar not in unknown:
            submapped.setdefault(window.bar, []).append(window.span)
        elif window.mode != "wired":
            needed += 1
    for bar, spans in submapped.items():
        needed += len(spans) + len(holes(spans, plan.bar_sizes[bar]))
    return needed


def holes(spans: list[Span], size: int) -> list[Span]:
    """The parts of ``size`` bytes that no span covers, in order; spans must not overlap."""
    found, at = [], 0
    for span in sorted(spans, key=lambda span: span.base):
        if span.base > at:
            found.append(Span(at, span.base - at))
        at = span.end
    if at < size:
        found.append(Span(at, size - at))
    return found


class _Resources:
    """The rules, on one plan of which some keys are wrong."""

    def __init__(
        self, ntb: Ntb, profile: Profile, plan: Plan, dram_bytes: int, wrong: frozenset[str]
    ) -> None:
        self._ntb = ntb
        self._profile = profile
        self._plan = plan
        self._dram_bytes = dram_bytes
        self._wrong = wrong
        self._sized = [window for window in plan.windows if size_is_known(ntb, window.name, wrong)]
        placed = assign(ntb, profile)
        unplaced = {f"{window.name}_bar": window for window in plan.windows if not self._is_placed(window)}
        self._unknown_bars = {window.bar for window in unplaced.values()}
        left = {key: None if key in unplaced or f"ntb.{key}" in wrong else bar for key, bar in placed.items()}
        # at least so large: what stands at a wrong place takes none of it
        self._bar_sizes = bar_sizes(ntb, profile, left)

    def _is_placed(self, window: WindowPlan) -> bool:
        return not any(f"ntb.{window.name}{part}" in self._wrong for part in ("", "_offset", "_bar"))

    def _is_wrong(self, *keys: str) -> bool:
        return any(f"ntb.{key}" in self._wrong for key in keys)

    def violations(self) -> Iterator[Violation]:
        """Everything that is lacking."""
        if not self._is_wrong("mw2_target"):
            yield from self._targets()
        if not self._is_wrong("num_mws"):
            yield from self._windows()
        if self._sized:
            yield from self._apertures(max(self._sized, key=lambda window: window.size))
        yield from self._function()

    def _targets(self) -> Iterator[Violation]:
        """Whether an interrupt window can reach what it is for."""
        endpoint = self._profile.endpoint
        for window in self._plan.windows:
            if window.purpose == "data" or window.mode == "wired":
                continue
            register = EDMA_STATUS_END if window.target == "edma" else MSI_WORD_END
            base = endpoint.edma_base if window.target == "edma" else endpoint.ep_msi_page
            page = base & ~(endpoint.align - 1)
            reach = base - page + register
            if window in self._sized and window.size < reach:
                rule = f"must be at least {reach:#x} bytes to reach the {window.target} register"
                yield broken(self._ntb, window.name, rule)
            size = self._plan.bar_sizes[window.bar]
            is_known = window.bar not in self._unknown_bars and not self._is_wrong("inbound")
            if is_known and window.mode == "bar" and not is_aligned(page, size):
                rule = (
                    f"BAR{window.bar} has {size:#x} bytes and BAR match needs a target aligned to them: "
                    f"{window.target} is at {page:#x} (-EINVAL)"
                )
                yield broken(self._ntb, f"{window.name}_bar", rule)

    def _windows(self) -> Iterator[Violation]:
        """Inbound and outbound windows of the iATU."""
        endpoint, bars = self._profile.endpoint, self._plan.bar_sizes
        unknown = bars if self._is_wrong("inbound") else self._unknown_bars
        inbound, outbound = inbound_needed(self._plan, unknown), 1 + len(self._plan.windows)
        for needed, direction, has, error in (
            (inbound, "inbound", endpoint.inbound_windows, "-ENOSPC"),
            (outbound, "outbound", endpoint.outbound_windows, "-EINVAL"),
        ):
            if needed > has:
                rule = (
                    f"the layout needs {needed} {direction} windows, profile {self._profile.name} has "
                    f"{has} ({error})"
                )
                yield broken(self._ntb, "num_mws", rule)

    def _apertures(self, largest: WindowPlan) -> Iterator[Violation]:
        """The outbound aperture, the host's window and the nodes' memory."""
        ntb, profile, endpoint = self._ntb, self._profile, self._profile.endpoint
        aperture, page = endpoint.aperture, endpoint.page_bytes
        pieces = [round_up_pow2(round_up(window.size, page)) for window in self._sized]
        # the first page always belongs to MSI
        end = _packed(pieces, aperture.base + page)
        if end > aperture.end:
            rule = (
                f"windows end {end - aperture.end:#x} bytes behind the outbound aperture of profile "
                f"{profile.name}, {aperture.size:#x} bytes, each rounded up to a power of two (-ENOMEM)"
            )
            yield broken(ntb, largest.name, rule)
        end = _packed(sorted(self._bar_sizes.values(), reverse=True), profile.rc.mmio_base)
        if end > profile.rc.mmio.end:
            rule = (
                f"BARs end {end - profile.rc.mmio.end:#x} bytes behind the host's window of profile "
                f"{profile.name}, {profile.rc.mmio_bytes:#x} bytes"
            )
            yield broken(ntb, largest.name, rule)
        data = sum(round_up_pow2(window.size) for window in self._sized if window.purpose == "data")
        is_known = not self._wrong & {"node.rc.dram_bytes", "node.ep.dram_bytes", "ntb.mw2_target"}
        if is_known and data > self._dram_bytes // 4:
            rule = (
                f"data windows need {data:#x} bytes of memory, each rounded up to a power of two: must be at "
                f"most {self._dram_bytes // 4:#x}, a quarter of the smaller node's DRAM"
            )
            yield broken(ntb, largest.name, rule)

    def _function(self) -> Iterator[Violation]:
        """Memory behind control block and doorbells."""
        sizes, bars = self._bar_sizes, self._plan.bars
        regions = {
            bar: key
            for bar, key in ((bars.ctrl, "ctrl_bar"), (bars.db, "db_bar"))
            if bar in sizes and not self._is_wrong(key)
        }
        if _packed([max(sizes[bar], self._profile.endpoint.align) for bar in regions], 0) > FUNCTION_BYTES:
            bar = max(regions, key=lambda bar: sizes[bar])
            rule = f"BAR{bar} has {sizes[bar]:#x} bytes: the function has {FUNCTION_BYTES:#x} for its BARs"
            yield broken(self._ntb, regions[bar], rule)


def _packed(sizes: list[int], base: int) -> int:
    """End of naturally aligned pieces laid one behind the other."""
    for size in sizes:
        base = round_up(base, size) + size
    return base
