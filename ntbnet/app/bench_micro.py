"""``ntbnet bench micro``: what the parts of a bridge take, beside what Python can do without them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ntbnet.app import bench_budgets, bench_curves, bench_head, bench_parts, ring_rate
from ntbnet.app.bench_lab import Say, require_programs
from ntbnet.app.bench_latencies import Latencies
from ntbnet.app.bench_latency import choose_tool, play, references
from ntbnet.app.bench_samples import Samples, ratios
from ntbnet.app.bench_tally import REFERENCES, VETH, Tally
from ntbnet.app.interrupt_pingpong import MEDIA, REFERENCE
from ntbnet.config import load_text

BLOCKS_BYTES = (64 << 10, 256 << 10, 1 << 20)


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    rounds: int
    seconds: int
    """Of each ping-pong."""
    store_passes: int
    """How often 16 MiB are stored in blocks of one size, and copied, each round."""
    interrupts: int
    frames: int


FULL = Plan(rounds=5, seconds=1, store_passes=20, interrupts=2000, frames=200_000)
QUICK = Plan(rounds=1, seconds=1, store_passes=5, interrupts=300, frames=20_000)


def run(name: str, plan: Plan, say: Say, curves: bench_curves.Plan | None = None) -> dict[str, Any]:
    """Measure everything in ``plan``; what ``--json`` prints.

    Args:
        name: namespaces are named after it.
        plan: how much is measured.
        say: told in words what happens.
        curves: how much of the cost of packets over queues and bridges; None leaves that out.

    Raises:
        SetupError: a program is missing, or something cannot be measured.
    """
    require_programs(("ip",))
    invalid = list[str]()
    with bench_head.kept_awake("micro", load_text("", "defaults")) as result:
        result |= {
            "rounds": plan.rounds,
            "tool": choose_tool(),
            "ping_pong": _ping_pong(name, plan, say, invalid),
            "stores": _stores(plan, say),
            "interrupts": _interrupts(plan, say),
            "ring": _ring(plan, say, invalid),
            "invalid": invalid,
        }
        if curves is not None:
            found = bench_curves.Curves(name, curves, say).run()
            invalid += found.pop("invalid")
            result["curves"] = found
    result["budgets"] = bench_budgets.as_json(bench_budgets.micro_rows(result))
    return result


def _ping_pong(name: str, plan: Plan, say: Say, invalid: list[str]) -> dict[str, Any]:
    """Of veth and the pumps; what does not count is added to ``invalid``."""
    tool, tallies = choose_tool(), {reference: Tally() for reference in REFERENCES}
    with references(name, load_text("", "defaults").netdev.mtu) as ways:
        for number in range(plan.rounds):
            say(f"round {number + 1} of {plan.rounds}: {tool} over {', '.join(way.name for way in ways)}")
            for way in ways if number % 2 == 0 else reversed(ways):
                play(tool, way.name, way, plan.seconds, tallies[way.name])
    found = {}
    for reference, tally in tallies.items():
        ratio = Samples.of(ratios(tally.p50s_us, tallies[VETH].p50s_us))
        invalid += tally.invalid
        row = tally.as_json()
        del row["ping"]
        row["rounds"]["ratio_to_veth"] = ratio.as_json()
        found[reference] = {"ratio_to_veth": round(ratio.median, 3), **row}
    return found


def _stores(plan: Plan, say: Say) -> list[dict[str, Any]]:
    """Of blocks of each size."""
    stores, rows = bench_parts.Stores(), []
    for block_bytes in BLOCKS_BYTES:
        say(f"stores of {block_bytes >> 10} KiB")
        into_window, plain = stores.measure(block_bytes, plan.rounds * plan.store_passes)
        ratio = Samples.of(ratios(into_window, plain))
        rows.append(
            {
                "bytes": block_bytes,
                "ratio": round(ratio.median, 3),
                "rounds": {  # a pair of passes is one
                    "store_gbyte_s": Samples.of(into_window).as_json(),
                    "memcpy_gbyte_s": Samples.of(plain).as_json(),
                    "ratio": ratio.as_json(),
                },
            }
        )
    return rows


def _interrupts(plan: Plan, say: Say) -> list[dict[str, Any]]:
    """Of each fabric, beside a pair of eventfds."""
    media = list(MEDIA)
    taken: dict[str, list[list[float]]] = {medium: [] for medium in media}
    for number in range(plan.rounds):
        say(f"round {number + 1} of {plan.rounds}: interrupts by {', '.join(media)}")
        for medium in media if number % 2 == 0 else reversed(media):
            taken[medium].append(bench_parts.interrupts(medium, plan.interrupts))
    reference = bench_parts.p50s(taken[REFERENCE])
    rows = []
    for fabric in media[1:]:
        mine = bench_parts.p50s(taken[fabric])
        ratio = Samples.of(ratios(mine, reference))
        rows.append(
            {
                "fabric": fabric,
                "ratio": round(ratio.median, 3),
                "rounds": {
                    "p50_us": Samples.of(mine).as_json(),
                    "eventfd_p50_us": Samples.of(reference).as_json(),
                    "ratio": ratio.as_json(),
                },
                **Latencies(value for one in taken[fabric] for value in one).figures(),
                "eventfd": Latencies(value for one in taken[REFERENCE] for value in one).figures(),
            }
        )
    return rows


def _ring(plan: Plan, say: Say, invalid: list[str]) -> dict[str, Any]:
    """Small frames; what does not count is added to ``invalid``."""
    runs = []
    for number in range(plan.rounds):
        say(f"round {number + 1} of {plan.rounds}: {plan.frames} frames through a ring")
        runs.append(bench_parts.ring_run(plan.frames))
    found = [bench_parts.ring_complaint(one, plan.frames) for one in runs]
    invalid += [complaint for complaint in found if complaint]
    rates = Samples.of([one["frames_per_s"] for one in runs], 1)
    return {
        "payload_bytes": ring_rate.PAYLOAD_BYTES,
        "batch": ring_rate.BATCH,
        "entries": ring_rate.GEOMETRY.max_entry,
        "frames": plan.frames,
        "valid": not any(found),
        "frames_per_s": rates.as_json(),
        "raw": runs,
    }
