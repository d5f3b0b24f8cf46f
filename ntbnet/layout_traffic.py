"""Whether the transport's queues and frames fit the windows and doorbells of a layout.

The two sides choose their number of queues independently, from their own doorbells, and derive
the geometry of each ring from sizes that are never negotiated.

Source: Linux ntb_transport.c, ntb_transport_probe, ntb_transport_setup_qp_mw; ntb_netdev.c.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from ntbnet.address import round_up
from ntbnet.layout_plan import Plan, WindowPlan
from ntbnet.layout_resources import layout_violations, size_is_known
from ntbnet.layout_rules import broken
from ntbnet.profile import Profile
from ntbnet.schema import Violation
from ntbnet.sections import HEADERS_BYTES, MAX_WINDOW_BYTES, MIN_MTU, Netdev, Ntb, Transport

WAKE_ENTRIES = 11
"""Ring entries below which a stopped queue is woken by its timer only."""

FIXED_SPADS = 4
"""Scratchpads of the transport before those of the windows; each window takes two."""

MW_SIZE_STEP = 4096
"""Unit of transport.max_mw_size, bytes."""

UNUSED_SLOTS = 2
"""Doorbell slots that carry no doorbell bit: the link event and the unused one."""


_QUEUE_KEYS = frozenset({"ntb.num_mws", "ntb.mw2_target", "ntb.spad_count", "transport.max_num_clients"})
"""What the number of queues and their windows depends on, but for ntb.db_count."""

_FRAME_KEYS = frozenset({"transport.transport_mtu", "transport.max_mw_size"})


@dataclass(frozen=True, slots=True)
class Ring:
    """One queue's ring in one direction.

    Attributes:
        share: bytes of the window that belong to the queue, rx_info included.
        frame: largest frame with its header, bytes.
        entries: frames the ring holds; one of them always stays empty.
        sharers: queues in the window.
    """

    queue: int
    window: WindowPlan
    share: int
    frame: int
    entries: int
    sharers: int


def data_windows(ntb: Ntb, plan: Plan) -> list[WindowPlan]:
    """The windows that carry frames: as many as there are scratchpads for."""
    data = [window for window in plan.windows if window.purpose == "data"]
    return data[: (ntb.spad_count - FIXED_SPADS) // 2]


def queue_counts(ntb: Ntb, transport: Transport, profile: Profile, mw_count: int) -> tuple[int, int]:
    """Queues that the RC and the EP would each choose; 0 when the doorbells carry none."""
    vectors = min(profile.endpoint.msi_vectors, profile.rc.msi_vectors)
    asked = transport.max_num_clients

    def queues(slots: int) -> int:
        # the kernel takes log2 of the mask of doorbell bits: one bit fewer than there are
        most = slots - UNUSED_SLOTS - 1
        return asked if 0 < asked < most else max(min(mw_count, most), 0)

    return queues(vectors), queues(ntb.db_count)


def rings(ntb: Ntb, transport: Transport, plan: Plan, queues: int) -> list[Ring]:
    """The ring of each of ``queues`` queues; windows are dealt out to them in turn."""
    windows = data_windows(ntb, plan)
    found = []
    for queue in range(queues):
        widx = queue % len(windows)
        window = windows[widx]
        sharers = queues // len(windows) + (widx < queues % len(windows))
        used = min(window.size, transport.max_mw_size) if transport.max_mw_size else window.size
        share = used // sharers
        frame = max(min(transport.transport_mtu, (share - 4) // 2), 1)
        found.append(Ring(queue, window, share, frame, (share - 4) // frame, sharers))
    return found


def longest_packet(ntb: Ntb, transport: Transport, netdev: Netdev, profile: Profile, plan: Plan) -> int:
    """Longest IP packet that every queue of the network device carries, bytes, however long the MTU is.

    The layout is one without violations.
    """
    queues = queue_counts(ntb, transport, profile, len(data_windows(ntb, plan)))[1]
    used = rings(ntb, transport, plan, queues)[: netdev.queues]
    return min(ring.frame for ring in used) - HEADERS_BYTES


def largest_frame(ntb: Ntb, transport: Transport, netdev: Netdev, profile: Profile, plan: Plan) -> int | None:
    """Largest transport_mtu with which every queue of the network device transmits, bytes, a multiple of 4.

    None when there is no queue.
    """
    queues = queue_counts(ntb, transport, profile, len(data_windows(ntb, plan)))[1]
    if not queues:
        return None
    found = rings(ntb, transport, plan, queues)
    room = min((ring.share - 4) // (netdev.tx_stop + 1) for ring in found[: netdev.queues])
    return max(min(room, *(ring.frame for ring in found)) & ~3, 0)


def traffic_violations(
    ntb: Ntb,
    transport: Transport,
    netdev: Netdev,
    profile: Profile,
    plan: Plan,
    wrong: Collection[str] = (),
) -> Iterator[Violation]:
    """What keeps the transport's handshake from completing, or the network device from its work.

    Args:
        ntb: section [ntb], each key in its own range.
        transport: section [transport].
        netdev: section [netdev].
        profile: the platform.
        plan: of ``ntb``.
        wrong: keys, such as ntb.mw1, that break a rule already; what depends on them is left out.
    """
    if not _QUEUE_KEYS.isdisjoint(wrong):
        return
    windows = data_windows(ntb, plan)
    rc_queues, ep_queues = queue_counts(ntb, transport, profile, len(windows))
    asked = transport.max_num_clients
    wanted = asked or len(windows)
    if "ntb.db_count" in wrong:
        ep_queues = rc_queues
    if rc_queues != ep_queues or not ep_queues:
        slots = wanted + UNUSED_SLOTS + (2 if asked else 1)
        yield broken(
            ntb,
            "db_count",
            f"rc takes {rc_queues} queues and ep {ep_queues}, so the handshake never completes: must be at "
            f"least {slots} slots for {wanted} queues",
        )
        return
    if _FRAME_KEYS.isdisjoint(wrong):
        found = [
            ring
            for ring in rings(ntb, transport, plan, ep_queues)
            if size_is_known(ntb, ring.window.name, wrong)
        ]
        yield from _frame_violations(ntb, netdev, found)
    if netdev.queues > ep_queues:
        yield Violation(
            "netdev.queues",
            netdev.queues,
            f"must be 1..{ep_queues}: the transport has so many queues, one for each data window unless "
            f"transport.max_num_clients says otherwise",
            str(netdev.queues),
        )


def _frame_violations(ntb: Ntb, netdev: Netdev, found: list[Ring]) -> Iterator[Violation]:
    """Windows whose frames hold no packet, and an MTU that the other frames do not hold."""
    small: dict[str, Ring] = {}
    for ring in sorted(found, key=lambda ring: (ring.window.index, ring.frame)):
        if ring.frame < MIN_MTU + HEADERS_BYTES:
            small.setdefault(ring.window.name, ring)
    for name, ring in small.items():
        yield broken(
            ntb,
            name,
            f"a frame has {ring.frame} bytes, less than the {MIN_MTU + HEADERS_BYTES} of the least MTU: "
            f"must be larger, or transport.max_mw_size larger or 0, or transport.max_num_clients smaller",
        )
    rest = [ring for ring in found if ring.window.name not in small]
    if not rest:
        return
    smallest = min(rest, key=lambda ring: ring.frame)
    largest_mtu = smallest.frame - HEADERS_BYTES
    if netdev.mtu > largest_mtu:
        yield Violation(
            "netdev.mtu",
            netdev.mtu,
            f"must be {MIN_MTU}..{largest_mtu} bytes: a frame of {smallest.frame} bytes "
            f"(transport.transport_mtu, at most half of a queue's share of ntb.{smallest.window.name}) less "
            f"its 12-byte frame header and 14-byte Ethernet header",
            str(netdev.mtu),
        )


def silent_rings(
    ntb: Ntb, transport: Transport, netdev: Netdev, profile: Profile, plan: Plan, dram_bytes: int
) -> Iterator[Violation]:
    """Rings on which the network device never sends, and what would help; the kernel accepts them (10.32).

    The link comes up all the same. One entry of a ring is never used. Arguments are those of
    ``traffic_violations``, which must have found nothing, and ``dram_bytes`` of the smaller node.

    Source: Linux ntb_netdev.c, ntb_netdev_start_xmit.
    """
    queues = queue_counts(ntb, transport, profile, len(data_windows(ntb, plan)))[1]
    silent = {
        ring.window.index: _never_transmits(ring, ntb, transport, netdev.tx_stop, profile, dram_bytes)
        for ring in rings(ntb, transport, plan, queues)[: netdev.queues]
        if ring.entries <= netdev.tx_stop
    }
    yield from dict.fromkeys(silent.values())


def _never_transmits(
    ring: Ring, ntb: Ntb, transport: Transport, stop: int, profile: Profile, dram_bytes: int
) -> Violation:
    cap, size = transport.max_mw_size, ring.window.size
    needed = ((stop + 1) * transport.transport_mtu + 4) * ring.sharers
    why = (
        f"nothing is ever sent, a ring of {ring.entries} frames of {ring.frame} bytes never has the {stop} "
        f"free entries of netdev.tx_stop"
    )
    least, capped = round_up(needed, size_unit(ring.window, profile)), round_up(needed, MW_SIZE_STEP)
    if 0 < cap < size and capped <= size:
        rule = f"{why}; {capped:#x}..{size:#x} bytes, or 0, avoid that"
        return Violation("transport.max_mw_size", cap, rule, f"{cap:#x}")
    largest = largest_window(ntb, ring.window, profile, dram_bytes)
    if least <= largest:
        return broken(ntb, ring.window.name, f"{why}; {least:#x}..{largest:#x} bytes avoid that")
    rule = f"{why}; 1..{ring.entries - 1}, or a smaller transport.transport_mtu, avoids that"
    return Violation("netdev.tx_stop", stop, rule, str(stop))


def size_unit(window: WindowPlan, profile: Profile) -> int:
    """What the size of a window is a multiple of, bytes."""
    return 4 if window.mode in {"bar", "wired"} else profile.endpoint.align


def largest_window(ntb: Ntb, window: WindowPlan, profile: Profile, dram_bytes: int) -> int:
    """Largest size of ``window`` that leaves the layout without violations; it is without them now."""
    unit = size_unit(window, profile)
    size: int = getattr(ntb, window.name)
    good, bad = size // unit, MAX_WINDOW_BYTES // unit + 1
    while bad - good > 1:
        middle = (good + bad) // 2
        change: dict[str, Any] = {window.name: middle * unit}
        if layout_violations(dataclasses.replace(ntb, **change), profile, dram_bytes):
            bad = middle
        else:
            good = middle
    return good * unit


def traffic_warnings(
    ntb: Ntb, transport: Transport, netdev: Netdev, profile: Profile, plan: Plan, dram_bytes: int
) -> Iterator[str]:
    """What the kernel accepts silently and what then limps or never moves, one line each."""
    windows = data_windows(ntb, plan)
    left_out = sum(window.purpose == "data" for window in plan.windows) - len(windows)
    if left_out:
        enough = FIXED_SPADS + 2 * (len(windows) + left_out)
        yield (
            f"ntb.spad_count = {ntb.spad_count}: {left_out} of the windows stay unused; "
            f"{enough} scratchpads announce all"
        )
    queues = queue_counts(ntb, transport, profile, len(windows))[1]
    yield from _missing_descriptors(ntb, transport, plan, queues)
    found = rings(ntb, transport, plan, queues)
    used = {ring.window.index: ring for ring in reversed(found[: netdev.queues])}
    yield from map(str, silent_rings(ntb, transport, netdev, profile, plan, dram_bytes))
    for widx in sorted(used):
        if used[widx].entries > netdev.tx_stop:
            unit = size_unit(used[widx].window, profile)
            yield from _ring_warnings(used[widx], transport.transport_mtu, unit)
    frame = min(ring.frame for ring in found)
    if frame % 4:
        yield (
            f"transport.transport_mtu = {transport.transport_mtu}: frames of {frame} bytes, not a multiple "
            "of 4, put frame headers on unaligned addresses"
        )
    if transport.max_num_clients > queues:
        yield (
            f"transport.max_num_clients = {transport.max_num_clients}: more than the doorbells carry, "
            f"so {queues} is used"
        )


def _missing_descriptors(ntb: Ntb, transport: Transport, plan: Plan, queues: int) -> Iterator[str]:
    """Queues whose interrupt descriptor has no scratchpads, two for each queue behind the windows'."""
    if transport.interrupts == "false" or all(window.purpose == "data" for window in plan.windows):
        return
    first = FIXED_SPADS + 2 * len(data_windows(ntb, plan))
    held = max(ntb.spad_count - first, 0) // 2
    if held < queues:
        yield (
            f"ntb.spad_count = {ntb.spad_count}: holds interrupt descriptors of {held} of {queues} queues, "
            f"the others keep doorbells; {first + 2 * queues} scratchpads hold all"
        )


def _ring_warnings(ring: Ring, transport_mtu: int, unit: int) -> Iterator[str]:
    """``unit``: what the size of the window is a multiple of, bytes."""
    name, size = ring.window.name, ring.window.size
    if ring.entries < WAKE_ENTRIES:
        enough = round_up((WAKE_ENTRIES * transport_mtu + 4) * ring.sharers, unit)
        yield (
            f"ntb.{name} = {size:#x}: a ring of {ring.entries} entries that was full is woken by its timer "
            f"only; {enough:#x} bytes avoid that"
        )
