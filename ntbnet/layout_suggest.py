"""Finding a layout: every arrangement of the windows on the BARs of a platform, the usual ones first.

What counts as a layout is what ``layout_rules`` and ``layout_traffic`` accept; nothing is known
here that is not known there.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ntbnet.address import round_up
from ntbnet.layout_plan import make_plan
from ntbnet.layout_rules import arrangement_violations, resource_violations
from ntbnet.layout_traffic import largest_frame, silent_rings, traffic_violations
from ntbnet.profile import Profile
from ntbnet.schema import Integer, Violation, keys
from ntbnet.sections import HEADERS_BYTES, MAX_MWS, Netdev, Ntb, Transport

_RULES = {key.name: key.rule for key in keys(Ntb)}


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A layout, or why there is none.

    Attributes:
        ntb: section [ntb]; None when no layout exists.
        mtu: what netdev.mtu, and transport.transport_mtu with it, must be lowered to, bytes; None when they
            may stay.
        notes: what differs from what was asked.
        reason: why none exists; empty otherwise.
        tried: arrangements looked at.
    """

    ntb: Ntb | None
    mtu: int | None
    notes: tuple[str, ...]
    reason: str
    tried: int


def suggest(profile: Profile, sizes: Sequence[int], target: str, dram_bytes: int) -> Suggestion:
    """Lay out windows of the given sizes, mw1 first.

    Args:
        profile: the platform.
        sizes: bytes; 1 to 4 of them.
        target: what mw2 is for: none, edma or msi.
        dram_bytes: memory of the smaller node.
    """
    refusal = _unacceptable(sizes)
    if refusal is not None:
        return Suggestion(None, None, (), refusal, 0)
    rounded = [round_up(size, profile.endpoint.align) for size in sizes]
    nearest: tuple[tuple[bool, int], Violation] | None = None
    tried = 0
    for attempt in [list(sizes)] if rounded == list(sizes) else [list(sizes), rounded]:
        for ntb in _arrangements(profile, attempt, target):
            tried += 1
            wrong = arrangement_violations(ntb, profile)
            lacking, mtu = ([], None) if wrong else _judge(ntb, profile, dram_bytes)
            found = wrong or lacking
            if not found:
                notes = () if attempt == list(sizes) else (_rounding(sizes, rounded, profile),)
                return Suggestion(ntb, mtu, notes, "", tried)
            # an arrangement that only lacks something is nearer than one that is wrong
            distance = (bool(wrong), len(found))
            if nearest is None or distance < nearest[0]:
                nearest = distance, found[0]
    return Suggestion(None, None, (), _why(profile, sizes, nearest, tried), tried)


def _unacceptable(sizes: Sequence[int]) -> str | None:
    if not 1 <= len(sizes) <= MAX_MWS:
        return f"{len(sizes)} windows: a control block describes 1 to {MAX_MWS}"
    for number, size in enumerate(sizes, 1):
        rule = _RULES[f"mw{number}"]
        if not rule.accepts(size) or not size:
            shown = rule.shown(size) if isinstance(rule, Integer) else str(size)
            return f"mw{number} = {shown}: must be {rule.allowed()}, and not 0"
    return None


def _rounding(sizes: Sequence[int], rounded: Sequence[int], profile: Profile) -> str:
    changed = [
        f"mw{n} from {old:#x} to {new:#x}"
        for n, (old, new) in enumerate(zip(sizes, rounded, strict=True), 1)
        if old != new
    ]
    return f"rounded up to the alignment of {profile.endpoint.align:#x}: {', '.join(changed)}"


def _judge(ntb: Ntb, profile: Profile, dram_bytes: int) -> tuple[list[Violation], int | None]:
    """What a good arrangement lacks, and the MTU it needs when that is not the default."""
    found = resource_violations(ntb, profile, dram_bytes)
    plan = make_plan(ntb, profile)
    if found or plan is None:
        return found, None
    transport, netdev, mtu = Transport(), Netdev(), None
    frame = largest_frame(ntb, transport, netdev, profile, plan)
    if frame is not None and frame < transport.transport_mtu:
        mtu = frame - HEADERS_BYTES
        transport = dataclasses.replace(transport, transport_mtu=frame)
        netdev = dataclasses.replace(netdev, mtu=mtu)
    wrong = list(traffic_violations(ntb, transport, netdev, profile, plan))
    return wrong or list(silent_rings(ntb, transport, netdev, profile, plan, dram_bytes)), mtu


def _why(profile: Profile, sizes: Sequence[int], nearest: tuple[object, Violation] | None, tried: int) -> str:
    asked = ", ".join(f"{size:#x}" for size in sizes)
    if nearest is None:
        return f"windows of {asked}: profile {profile.name} has too few usable BARs"
    return f"windows of {asked} fit in none of {tried} arrangements; the nearest fails at {nearest[1]}"


def _arrangements(profile: Profile, sizes: Sequence[int], target: str) -> Iterator[Ntb]:
    """Every choice of mode and BARs, the profile's own first; windows in one BAR lie side by side."""
    own, endpoint = profile.ntb, profile.endpoint
    usable = [n for n, bar in enumerate(endpoint.bars) if bar.is_usable]
    wired = [n for n, bar in enumerate(endpoint.bars) if any(r.kind == target for r in bar.wired)]
    can = {"map": endpoint.map_inbound, "submap": endpoint.subrange_mapping, "bar": True}
    modes = [mode for mode in (own.inbound, *(mode for mode in can if mode != own.inbound)) if can[mode]]
    ctrls = _first(own.ctrl_bar, usable)
    for mode, ctrl in itertools.product(modes, ctrls):
        # doorbells of their own where the profile has them, else behind the scratchpads; then the others
        for db in _first(own.db_bar, [*(bar for bar in usable if bar != ctrl), ctrl]):
            left = [bar for bar in usable if bar not in {ctrl, db}]
            choices = [
                _first(getattr(own, f"mw{number}_bar"), left + (wired if number == 2 else []))
                for number in range(1, len(sizes) + 1)
            ]
            for bars in itertools.product(*choices):
                if mode != "bar" or len(set(bars)) == len(bars):
                    yield _arranged(own, sizes, target, mode, ctrl, db, bars, endpoint.align)


def _first(preferred: int, others: Sequence[int]) -> list[int]:
    """The others, with the preferred one in front when it is among them."""
    return [n for n in others if n == preferred] + [n for n in others if n != preferred]


def _arranged(
    own: Ntb,
    sizes: Sequence[int],
    target: str,
    mode: str,
    ctrl: int,
    db: int,
    bars: Sequence[int],
    align: int,
) -> Ntb:
    values: dict[str, object] = {"num_mws": len(sizes), "inbound": mode, "ctrl_bar": ctrl, "db_bar": db}
    values["mw2_target"] = target
    ends: dict[int, int] = {}
    for number in range(1, MAX_MWS + 1):
        if number > len(sizes):
            values |= {f"mw{number}": 0, f"mw{number}_offset": 0, f"mw{number}_bar": -1}
            continue
        bar, size = bars[number - 1], sizes[number - 1]
        offset = round_up(ends.get(bar, 0), align)
        values |= {f"mw{number}": size, f"mw{number}_offset": offset, f"mw{number}_bar": bar}
        ends[bar] = offset + size
    return dataclasses.replace(own, **values)  # type: ignore[arg-type]
