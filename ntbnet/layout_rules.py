"""Where BARs and windows may lie: the rules that a layout must keep to run, and what breaks them.

The kernel checks few of them when a value is written: some fail when the function is bound, some
when a window is programmed, and some are never noticed.  Here all of them are found from the
configuration and the profile alone.  What a good arrangement may lack is in ``layout_resources.py``.
"""

from __future__ import annotations

from collections.abc import Iterator

from ntbnet.address import Span, is_aligned
from ntbnet.layout_plan import assign, bar_keys, ctrl_bytes, db_bytes, mode_of, purpose_of, window_span
from ntbnet.profile import Bar, Profile
from ntbnet.schema import Integer, Violation, keys
from ntbnet.sections import MAX_MWS, Ntb

_RULES = {key.name: key.rule for key in keys(Ntb)}


def broken(ntb: Ntb, key: str, rule: str) -> Violation:
    """A violation of section [ntb]."""
    value = getattr(ntb, key)
    how = _RULES[key]
    text = how.written(value) if isinstance(how, Integer) else f'"{value}"'
    return Violation(f"ntb.{key}", value, rule, text)


def arrangement_violations(ntb: Ntb, profile: Profile) -> list[Violation]:
    """What is wrong with where things lie: numbers, BARs, modes, offsets.

    Args:
        ntb: section [ntb], each key in its own range.
        profile: the platform.
    """
    return [*_counts(ntb), *_bars(ntb, profile), *_modes(ntb, profile), *_spans(ntb, profile)]


def _counts(ntb: Ntb) -> Iterator[Violation]:
    for number in range(1, MAX_MWS + 1):
        if number <= ntb.num_mws:
            if not getattr(ntb, f"mw{number}"):
                yield broken(ntb, f"mw{number}", f"must be given: num_mws = {ntb.num_mws}")
        else:
            for key in (f"mw{number}", f"mw{number}_offset"):
                if getattr(ntb, key):
                    yield broken(ntb, key, f"must be 0, num_mws is {ntb.num_mws} (-EINVAL)")


def _bars(ntb: Ntb, profile: Profile) -> Iterator[Violation]:
    """Kinds, collisions, BARs that are left, fixed sizes."""
    bars, assigned = profile.endpoint.bars, assign(ntb, profile)
    usable = ", ".join(str(n) for n, one in enumerate(bars) if one.is_usable)
    ctrl, db = assigned["ctrl_bar"], assigned["db_bar"]
    for key in bar_keys(ntb):
        bar = assigned[key]
        if bar is None:
            yield broken(ntb, key, f"no BAR of profile {profile.name} is left for it")
            continue
        where = f"BAR{bar} of profile {profile.name}"
        if key.startswith("mw"):
            number = int(key[2])
            holder = "ctrl_bar" if bar == ctrl else "db_bar" if bar == db else None
            if holder is not None:
                yield broken(ntb, key, f"must differ from ntb.{holder}")
            if mode_of(ntb, profile, number, bar) == "wired":
                yield from _wired(ntb, number, bars[bar], where)
                continue
        if not bars[bar].is_usable:
            yield broken(ntb, key, f"{where} is {bars[bar].kind}: must be one of {usable}, or -1")
        elif bars[bar].kind == "fixed":
            yield from _fixed(ntb, key, bars[bar], where, behind_ctrl=db == ctrl)


def _fixed(ntb: Ntb, key: str, bar: Bar, where: str, *, behind_ctrl: bool) -> Iterator[Violation]:
    if key == "ctrl_bar":
        needed = ctrl_bytes(ntb) + (db_bytes(ntb) if behind_ctrl else 0)
    elif key == "db_bar":
        needed = 0 if behind_ctrl else db_bytes(ntb)
    else:
        needed = sum(window_span(ntb, int(key[2])))
    if needed > bar.fixed_size:
        yield broken(
            ntb, key, f"{where} is fixed at {bar.fixed_size} bytes: must be one of at least {needed} bytes"
        )


def _wired(ntb: Ntb, number: int, bar: Bar, where: str) -> Iterator[Violation]:
    offset, size = window_span(ntb, number)
    region = next(region for region in bar.wired if region.kind == ntb.mw2_target).span
    if offset != region.base:
        yield broken(
            ntb,
            f"mw{number}_offset",
            f"must be {region.base:#x}: {where} is wired to the {ntb.mw2_target} registers there",
        )
    if size > region.size:
        yield broken(
            ntb, f"mw{number}", f"must be at most {region.size:#x} bytes: {where} is wired for {region}"
        )


def _modes(ntb: Ntb, profile: Profile) -> Iterator[Violation]:
    """What the controller and the control block can express."""
    endpoint = profile.endpoint
    if not endpoint.msi:
        # the host's driver needs interrupts, and MSI is what the function raises
        yield broken(ntb, "db_bar", f"profile {profile.name} raises no MSI: doorbells to the host need it")
    if ntb.inbound == "map" and not endpoint.map_inbound:
        yield broken(ntb, "inbound", f"profile {profile.name} has no map_inbound (-EOPNOTSUPP)")
    if ntb.inbound == "submap" and not endpoint.subrange_mapping:
        yield broken(ntb, "inbound", f"profile {profile.name} has no subrange_mapping (-EINVAL)")
    if ntb.mw2_target == "msi" and not endpoint.ep_msi_page and ntb.num_mws > 1:
        yield broken(ntb, "mw2_target", f"profile {profile.name} has no ep_msi_page that a window may reach")
    if ntb.ctrl_layout == "classic":
        for number in range(2, ntb.num_mws + 1):
            if getattr(ntb, f"mw{number}_offset"):
                yield broken(
                    ntb,
                    f"mw{number}_offset",
                    "must be 0: a classic block has no field for it; num_mws = 1 has one window",
                )


def _spans(ntb: Ntb, profile: Profile) -> Iterator[Violation]:
    """Alignment, overlap and range of each window in its BAR."""
    align, limit = profile.endpoint.align, profile.endpoint.region_limit
    assigned = assign(ntb, profile)
    earlier: dict[int, list[tuple[int, Span]]] = {}
    for number in range(1, ntb.num_mws + 1):
        offset, size = window_span(ntb, number)
        bar = assigned[f"mw{number}_bar"]
        if not size or bar is None:
            continue
        span = Span(offset, size)
        others = earlier.setdefault(bar, [])
        mode = mode_of(ntb, profile, number, bar)
        yield from _place(ntb, number, span, mode, align)
        one_each = mode == "bar" or ntb.ctrl_layout == "classic"
        for other, other_span in others:
            if one_each:
                why = 'inbound = "bar"' if mode == "bar" else "a classic control block"
                yield broken(
                    ntb, f"mw{number}_bar", f"BAR{bar} holds mw{other} already: {why} means one window a BAR"
                )
                break
            if span.overlaps(other_span):
                yield broken(
                    ntb,
                    f"mw{number}_offset",
                    f"{span} overlaps mw{other} {other_span} in BAR{bar}: must not overlap",
                )
        others.append((number, span))
        if mode in {"map", "submap"} and span.base ^ span.limit > limit:
            yield broken(ntb, f"mw{number}", f"{span} crosses a multiple of the region limit {limit + 1:#x}")
        elif size - 1 > limit:
            yield broken(ntb, f"mw{number}", f"must be at most {limit + 1:#x} bytes: the region limit")


def _place(ntb: Ntb, number: int, span: Span, mode: str, align: int) -> Iterator[Violation]:
    if span.end > 1 << 32:
        yield broken(
            ntb,
            f"mw{number}_offset",
            f"ends at {span.end:#x}: must end at 0x100000000 or below, the control block holds 32 bits",
        )
    if mode == "bar" and span.base:
        yield broken(ntb, f"mw{number}_offset", 'must be 0: inbound = "bar" translates the whole BAR')
    elif mode in {"map", "submap"}:
        if not is_aligned(span.base, align):
            yield broken(
                ntb, f"mw{number}_offset", f"must be a multiple of {align:#x}, the controller's alignment"
            )
        if not is_aligned(span.size, align):
            yield broken(ntb, f"mw{number}", f"must be a multiple of {align:#x}, the controller's alignment")


def kernel_surprises(ntb: Ntb) -> Iterator[str]:
    """What the kernel would accept and then not do, one line each."""
    for number in range(ntb.num_mws + 1, MAX_MWS + 1):
        if (bar := getattr(ntb, f"mw{number}_bar")) >= 0:
            yield f"ntb.mw{number}_bar = {bar}: not used, num_mws is {ntb.num_mws}"
    last = ntb.num_mws
    if last > 1 and getattr(ntb, f"mw{last}_bar") < 0:
        yield (
            f"ntb.mw{last}_bar = -1: the kernel never assigns the last of several windows a BAR and fails "
            f"later; set it there"
        )
    if last > 2 and purpose_of(ntb, 2) == "interrupt":
        yield (
            f'ntb.mw2_target = "{ntb.mw2_target}": the kernel\'s transport takes the last window, mw{last}, '
            f"for interrupts, not mw2"
        )
