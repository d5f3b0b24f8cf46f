"""Where the time of a round trip goes: each process's points, put together into hops.

One message is in flight at a time, so what a process passed last before the next process's point
is what led to it. A route is walked from its end, where the application got its reply, to its start:
each point is the latest of its kind that is not later than the point after it. A trip of which a
point is missing is left out.
"""

from __future__ import annotations

import statistics
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

from ntbnet import topology
from ntbnet.app.ask import ask
from ntbnet.app.bench_lab import Direction
from ntbnet.app.pingpong import Trips, ping_pong
from ntbnet.edge.rundir import RunDir
from ntbnet.edge.stopwatch import MOST_POINTS, SENT, TUN_IN, TUN_OUT, points_from
from ntbnet.errors import SetupError, WireError

TOLERANCE = 0.15
"""How far the hops' sum may be from the round trip of the same program without a stopwatch."""
ANSWER_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class Hop:
    """A part of a round trip; it ends when ``service`` passes ``point``."""

    name: str
    service: str
    point: str


_TO_PEER_RC = Hop("rc: application, IP stack, TUN read", "peer-rc", TUN_IN)
_FROM_PEER_EP = (
    Hop("peer-ep: handler, ring read", "peer-ep", TUN_OUT),
    Hop("ep: TUN write, IP stack, application, TUN read", "peer-ep", TUN_IN),
)
_FROM_PEER_RC = Hop("peer-rc: handler, ring read", "peer-rc", TUN_OUT)
LAST_HOP = "rc: TUN write, IP stack, application"


def _handled(service: str, src: str) -> tuple[Hop, Hop]:
    """An interrupt on its way from ``src`` to a peer."""
    return (
        Hop(f"interrupt to {service}", service, f"arrived {src}"),
        Hop(f"{service}: until its handler", service, f"in {src}"),
    )


_MESSAGE_THERE = (
    _TO_PEER_RC,
    Hop("peer-rc: ring write", "peer-rc", "out epc"),
    Hop("peer-rc: trigger", "peer-rc", SENT),
    Hop("message to epc", "epc", "in peer-rc"),
)
_MESSAGE_BACK = (
    *_FROM_PEER_EP,
    Hop("peer-ep: ring write", "peer-ep", "out epc"),
    Hop("peer-ep: trigger", "peer-ep", SENT),
    Hop("message to epc", "epc", "in peer-ep"),
    Hop("epc: outbound window, MSI", "epc", "out peer-rc"),
    *_handled("peer-rc", "epc"),
    _FROM_PEER_RC,
)
_LOCAL_BACK = (
    *_FROM_PEER_EP,
    Hop("peer-ep: ring write", "peer-ep", "wake peer-rc"),
    Hop("peer-ep: wake written", "peer-ep", SENT),
    *_handled("peer-rc", "peer-ep"),
    _FROM_PEER_RC,
)


def _local_there(owner: str, work: str) -> tuple[Hop, ...]:
    """By a wake of the service that owns the trigger's register."""
    return (
        _TO_PEER_RC,
        Hop("peer-rc: ring write", "peer-rc", f"wake {owner}"),
        Hop("peer-rc: wake written", "peer-rc", SENT),
        Hop(f"trigger to {owner}", owner, "in peer-rc"),
        Hop(f"{owner}: {work}", owner, "wake peer-ep"),
        *_handled("peer-ep", owner),
    )


_ROUTES: dict[tuple[str, str], tuple[Hop, ...]] = {
    ("message", "doorbell"): (
        *_MESSAGE_THERE,
        Hop("epc: store, until the poll finds the doorbell", "epc", "out peer-ep"),
        *_handled("peer-ep", "epc"),
        *_MESSAGE_BACK,
    ),
    ("message", "dw-edma-testirq"): (
        *_MESSAGE_THERE,
        Hop("epc: BAR, inbound window", "epc", "out edma"),
        Hop("message to edma", "edma", "in epc"),
        Hop("edma: test interrupt", "edma", "out peer-ep"),
        *_handled("peer-ep", "edma"),
        *_MESSAGE_BACK,
    ),
    ("message", "msi"): (
        *_MESSAGE_THERE,
        Hop("epc: BAR, inbound window, MSI page", "epc", "out peer-ep"),
        *_handled("peer-ep", "epc"),
        *_MESSAGE_BACK,
    ),
    ("local", "doorbell"): (
        _TO_PEER_RC,
        Hop("peer-rc: ring write, doorbell", "peer-rc", SENT),
        Hop("epc: until the poll finds the doorbell", "epc", "wake peer-ep"),
        *_handled("peer-ep", "epc"),
        *_LOCAL_BACK,
    ),
    ("local", "dw-edma-testirq"): (*_local_there("edma", "test interrupt"), *_LOCAL_BACK),
    ("local", "msi"): (*_local_there("epc", "MSI page"), *_LOCAL_BACK),
}


def route(fabric: str, backend: str) -> tuple[Hop, ...]:
    """Every hop of a round trip from the RC but the last one, by what triggers the EP."""
    return _ROUTES[fabric, backend]


Points = Mapping[str, Sequence[tuple[str, int]]]
"""By service, its points and their times, oldest first."""


def hop_times(points: Points, spans: Sequence[tuple[int, int]], hops: Sequence[Hop]) -> list[tuple[int, ...]]:
    """Nanoseconds of each hop, and of the last one, for each trip that is complete.

    Args:
        points: of every service.
        spans: (sent, received) of each trip as the application saw it, monotonic ns.
        hops: a route.
    """
    times: dict[tuple[str, str], list[int]] = {}
    for service, passed in points.items():
        for point, time_ns in passed:
            times.setdefault((service, point), []).append(time_ns)
    found = []
    for sent_ns, received_ns in spans:
        ends = [received_ns]
        for hop in reversed(hops):
            candidates = times.get((hop.service, hop.point), [])
            number = bisect_right(candidates, ends[-1])
            if not number or candidates[number - 1] < sent_ns:
                break
            ends.append(candidates[number - 1])
        else:
            ends.append(sent_ns)
            ends.reverse()
            found.append(tuple(after - before for before, after in pairwise(ends)))
    return found


def breakdown(
    found: Sequence[tuple[int, ...]], incomplete: int, combination: tuple[str, str], round_trip_us: float
) -> dict[str, Any]:
    """Medians of the hops, in order, and whether their sum is the round trip without a stopwatch.

    Args:
        found: what ``hop_times`` found on the route of ``combination``.
        incomplete: trips that it left out.
        combination: fabric, and backend that triggers the EP.
        round_trip_us: median round trip of the built-in ping-pong without a stopwatch, microseconds.

    Raises:
        SetupError: no trip is complete.
    """
    if not found:
        raise SetupError(f"no round trip of {incomplete} passed every hop of {' '.join(combination)}")
    names = [*(hop.name for hop in route(*combination)), LAST_HOP]
    medians_us = [statistics.median(one[number] for one in found) / 1000 for number in range(len(names))]
    sum_us = sum(medians_us)
    return {
        "hops": [
            {"hop": name, "p50_us": round(median_us, 3)}
            for name, median_us in zip(names, medians_us, strict=True)
        ],
        "trips": len(found),
        "incomplete_trips": incomplete,
        "sum_us": round(sum_us, 3),
        "round_trip_us": round(round_trip_us, 3),
        "agrees": abs(sum_us - round_trip_us) <= TOLERANCE * round_trip_us,
    }


def timed_ping_pong(
    run: RunDir, way: Direction, most: int, seconds: float
) -> tuple[list[float], Trips, Points]:
    """The built-in ping-pong, half of it without a stopwatch, then with one in every service, then without.

    What goes without is what the hops' sum is compared with: another program's round trip would differ by
    what that program does itself, another time's by what the machine does.

    Args:
        run: run folder of the bridge.
        way: RC to EP.
        most: trips to take with a stopwatch, and as many without.
        seconds: after which either ends in any case.

    Returns:
        Round trips without a stopwatch, microseconds; the trips with one, and their points.

    Raises:
        SetupError: a service does not answer, or nothing comes back.
    """
    namespaces = (way.sender, way.receiver)
    play = partial(ping_pong, namespaces, way.address, warm_up_s=0.05)
    halves = [play(seconds=seconds / 2, most=most // 2)]
    _ask_everyone(run, b"stopwatch %d" % MOST_POINTS)
    try:
        trips = play(seconds=seconds, most=most)
    finally:
        answers = _ask_everyone(run, b"stopwatch 0")
    halves.append(play(seconds=seconds / 2, most=most // 2))
    plain_us = [2 * latency_us for half in halves for latency_us in half.latencies_us()]
    try:
        return plain_us, trips, {service: points_from(answer) for service, answer in answers.items()}
    except WireError as problem:
        raise SetupError(str(problem)) from None


def _ask_everyone(run: RunDir, question: bytes) -> dict[str, dict[str, Any]]:
    sockets = {service: run.socket_path(f"ask.{service}") for service in topology.SERVICES}
    answers = ask(sockets, ANSWER_TIMEOUT_S, question)
    silent = [service for service in sockets if "error" in answers.get(service, {"error": ""})]
    if silent:
        raise SetupError(f"{', '.join(silent)}: no stopwatch")
    return answers
