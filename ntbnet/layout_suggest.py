"""Finding a layout: every arrangement of the windows on the BARs of a platform, the usual ones first.

What counts as a layout is what ``layout_rules``, ``layout_resources`` and ``layout_traffic`` accept;
nothing is known here that is not known there.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ntbnet.address import round_up
from ntbnet.layout_plan import make_plan
from ntbnet.layout_resources import resource_violations
from ntbnet.layout_rules import arrangement_violations
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

    def to_toml(self, profile: str) -> str | None:
        """The layout as a configuration on ``profile``; None when there is none."""
        if self.ntb is None:
            return None
        lines = ["[bridge]", f"profile = {json.dumps(profile, ensure_ascii=False)}", "", "[ntb]"]
        numbers = range(1, self.ntb.num_mws + 1)
        names = ["inbound", "num_mws", *(f"mw{n}{part}" for n in numbers for part in ("", "_offset", "_bar"))]
        for name in (*names, "mw2_target", "ctrl_bar", "db_bar"):
            rule, value = _RULES[name], getattr(self.ntb, name)
            lines.append(
                f"{name} = {rule.written(value) if isinstance(rule, Integer) else json.dumps(value)}"
            )
        if self.mtu is not None:
            lines += ["", "[netdev]", f"mtu = {self.mtu}"]
            lines += ["", "[transport]", f"transport_mtu = {self.mtu + HEADERS_BYTES}"]
        return "\n".join(lines) + "\n"


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
    nearest: tuple[tuple[bool, int], Violation] | None = None
    tried = 0
    is_rounding_needed = any(round_up(size, profile.endpoint.align) != size for size in sizes)
    for unit in (1, profile.endpoint.align) if is_rounding_needed else (1,):
        for ntb in _arrangements(profile, sizes, target, unit):
            tried += 1
            wrong = arrangement_violations(ntb, profile)
            lacking, mtu = ([], None) if wrong else _judge(ntb, profile, dram_bytes)
            found = wrong or lacking
            if not found:
                return Suggestion(ntb, mtu, tuple(_rounding(sizes, ntb, profile)), "", tried)
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


def _rounding(sizes: Sequence[int], ntb: Ntb, profile: Profile) -> Iterator[str]:
    changed = [
        f"mw{n} from {old:#x} to {getattr(ntb, f'mw{n}'):#x}"
        for n, old in enumerate(sizes, 1)
        if old != getattr(ntb, f"mw{n}")
    ]
    if changed:
        yield f"rounded up to the alignment of {profile.endpoint.align:#x}: {', '.join(changed)}"


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


def _arrangements(profile: Profile, sizes: Sequence[int], target: str, unit: int) -> Iterator[Ntb]:
    """Every choice of mode and BARs, the profile's own first; windows in one BAR lie side by side.

    Sizes are rounded up to ``unit``, but for that of a wired window.
    """
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
                    places = _places(profile, sizes, target, bars, unit)
                    yield _arranged(own, places, target, mode, ctrl, db)


def _first(preferred: int, others: Sequence[int]) -> list[int]:
    """The others, with the preferred one in front when it is among them."""
    return [n for n in others if n == preferred] + [n for n in others if n != preferred]


def _places(
    profile: Profile, sizes: Sequence[int], target: str, bars: Sequence[int], unit: int
) -> Iterator[tuple[int, int, int]]:
    """Size, offset and BAR of each window."""
    ends: dict[int, int] = {}
    for number, (bar, size) in enumerate(zip(bars, sizes, strict=True), 1):
        wired = [region.span for region in profile.endpoint.bars[bar].wired if region.kind == target]
        if number == 2 and wired:
            # the hardware decides where it lies
            yield size, wired[0].base, bar
            continue
        offset, rounded = round_up(ends.get(bar, 0), profile.endpoint.align), round_up(size, unit)
        ends[bar] = offset + rounded
        yield rounded, offset, bar


def _arranged(
    own: Ntb, places: Iterator[tuple[int, int, int]], target: str, mode: str, ctrl: int, db: int
) -> Ntb:
    values: dict[str, object] = {"inbound": mode, "ctrl_bar": ctrl, "db_bar": db, "mw2_target": target}
    for number in range(1, MAX_MWS + 1):
        values |= {f"mw{number}": 0, f"mw{number}_offset": 0, f"mw{number}_bar": -1}
    for number, (size, offset, bar) in enumerate(places, 1):
        values |= {f"mw{number}": size, f"mw{number}_offset": offset, f"mw{number}_bar": bar}
        values["num_mws"] = number
    return dataclasses.replace(own, **values)  # type: ignore[arg-type]
