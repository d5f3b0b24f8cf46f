"""``ntbnet bench latency``: a ping-pong over each interrupt backend, beside veth, in alternating rounds.

Each backend has a bridge of its own, one at a time, so that nothing of the others runs meanwhile;
the rounds go over all of them and veth, every second one backwards, so that a machine that gets
slower or faster does so for all alike.
"""

from __future__ import annotations

import re
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ntbnet.app import bench_report, bench_sockperf, pingpong
from ntbnet.app.bench_backends import (
    EDMA,
    LOOK_INTERVAL_S,
    POLLED,
    backend_configs,
    complaints,
    difference,
    loss_complaints,
    settled_counts,
    write_config,
)
from ntbnet.app.bench_hops import breakdown, hop_times, route, timed_ping_pong
from ntbnet.app.bench_lab import Direction, Lab, require_programs, run_program, veth_pair
from ntbnet.app.bench_latencies import PUBLISHED, Latencies
from ntbnet.config import Config
from ntbnet.errors import SetupError

MARGIN_S = 20.0
BACKEND_TIMEOUT_S = 2.0
PING_INTERVAL_S = 0.017
"""No multiple of the doorbell poll's period: pings meet it in every phase."""
HOP_TRIPS_TIME_S = 5.0
VETH = "veth"

_PING_TIME = re.compile(r"time=([\d.]+) ms")


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    rounds: int
    seconds: int
    """Of each ping-pong, with what sockperf leaves out."""
    pings: int
    trips: int
    """Round trips a round of which the hops are taken."""


FULL = Plan(rounds=3, seconds=5, pings=50, trips=100)
QUICK = Plan(rounds=1, seconds=1, pings=10, trips=40)


@dataclass(slots=True)
class Tally:
    """What the rounds of one backend, or of veth, have given."""

    samples_us: list[float] = field(default_factory=list)
    dropped: int = 0
    duplicated: int = 0
    out_of_order: int = 0
    pings_sent: int = 0
    pings_ms: list[float] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    messages: int = 0
    invalid: list[str] = field(default_factory=list)
    hops: list[tuple[int, ...]] = field(default_factory=list)
    incomplete: int = 0
    """Trips of which a hop is missing."""
    plain_us: list[float] = field(default_factory=list)
    """Round trips of the program that the hops are taken with, without a stopwatch."""

    def as_json(self) -> dict[str, Any]:
        """Figures of sockperf's report, whether they count, and those of ping."""
        times_ms = self.pings_ms
        return {
            **Latencies(self.samples_us).figures(),
            "valid": not self.invalid,
            "dropped": self.dropped,
            "duplicated": self.duplicated,
            "out_of_order": self.out_of_order,
            "ping": {
                "sent": self.pings_sent,
                "received": len(times_ms),
                "min_ms": min(times_ms, default=None),
                "avg_ms": round(statistics.mean(times_ms), 3) if times_ms else None,
                "max_ms": max(times_ms, default=None),
            },
        }


def choose_tool() -> str:
    """``sockperf`` where it is installed, else ``built-in``."""
    return "sockperf" if shutil.which("sockperf") else "built-in"


def play(tool: str, name: str, way: Direction, seconds: int, tally: Tally) -> int:
    """One ping-pong; its figures go into ``tally``. Messages sent, counted or not.

    Args:
        tool: ``sockperf`` or ``built-in``.
        name: what it is of, for complaints.
        way: from whom to whom.
        seconds: how long.
        tally: of ``name``.

    Raises:
        SetupError: it fails.
    """
    if tool == "sockperf":
        result = bench_sockperf.ping_pong(way, seconds, "udp")
        tally.samples_us += result["samples_us"]
        dropped, duplicated, out_of_order = result["dropped_duplicated_reordered"]
        sent: int = result["sent"]
    else:
        trips = pingpong.ping_pong((way.sender, way.receiver), way.address, seconds=seconds)
        tally.samples_us += trips.latencies_us()
        dropped, duplicated, out_of_order = trips.dropped, trips.duplicated, trips.out_of_order
        sent = trips.sent
    tally.dropped += dropped
    tally.duplicated += duplicated
    tally.out_of_order += out_of_order
    tally.invalid += loss_complaints(name, dropped, duplicated, out_of_order)
    return sent


def ping(way: Direction, count: int, tally: Tally) -> None:
    """The system's own ping; round trips in milliseconds go into ``tally``."""
    command = ["ping", "-n", "-i", str(PING_INTERVAL_S), "-c", str(count), way.address]
    done = run_program(way.sender, command, count * PING_INTERVAL_S + MARGIN_S)
    tally.pings_sent += count
    tally.pings_ms += [float(value) for value in _PING_TIME.findall(done.stdout)]


class Bench:
    """The rounds of one ``bench latency``.

    Args:
        name: of its bridges.
        config: what the backends' configurations are made from.
        tool: ``sockperf`` or ``built-in``.
        plan: how much is measured.
        say: told in words what happens.
    """

    def __init__(self, name: str, config: Config, tool: str, plan: Plan, say: Callable[[str], None]) -> None:
        self._name = name
        self._tool = tool
        self._plan = plan
        self._say = say
        self._configs = backend_configs(config)
        self.tallies = {way: Tally() for way in (*self._configs, VETH)}

    def run(self, veth: Direction, folder: Path) -> None:
        """Every round.

        Args:
            veth: the pair to compare with.
            folder: where configurations are written.

        Raises:
            SetupError: something cannot be measured.
        """
        labs = {backend: self._lab(backend, folder) for backend in self._configs}
        for number in range(self._plan.rounds):
            order = list(self.tallies) if number % 2 == 0 else list(reversed(self.tallies))
            for way in order:
                self._say(f"round {number + 1} of {self._plan.rounds}: {self._tool} over {way}")
                if way == VETH:
                    ping(veth, self._plan.pings, self.tallies[VETH])
                    play(self._tool, VETH, veth, self._plan.seconds, self.tallies[VETH])
                    continue
                try:
                    self._measure_bridge(labs[way], way)
                except SetupError as problem:
                    raise SetupError(f"{way}: {problem}") from None
                finally:
                    labs[way].down()

    def _lab(self, backend: str, folder: Path) -> Lab:
        return Lab(self._name, write_config(self._configs[backend], folder), self._say)

    def _measure_bridge(self, lab: Lab, backend: str) -> None:
        lab.up()
        _await_backend(lab, backend)
        tally, way = self.tallies[backend], lab.direction("rc", "ep")
        ping(way, self._plan.pings, tally)
        before = settled_counts(lab.bridge.status)
        messages = play(self._tool, backend, way, self._plan.seconds, tally)
        moved = difference(before, settled_counts(lab.bridge.status))
        tally.invalid += complaints(backend, moved, messages)
        tally.messages += messages
        tally.counts = {name: tally.counts.get(name, 0) + count for name, count in moved.items()}
        plain_us, trips, points = timed_ping_pong(lab.bridge.run, way, self._plan.trips, HOP_TRIPS_TIME_S)
        hops = hop_times(points, trips.spans, route(backend))
        tally.plain_us += plain_us
        tally.hops += hops
        tally.incomplete += len(trips.spans) - len(hops)


def _await_backend(lab: Lab, backend: str) -> None:
    """The first frames may still go by doorbell.

    Raises:
        SetupError: the bridge uses another backend; says why.
    """
    deadline = time.monotonic() + BACKEND_TIMEOUT_S
    while (status := lab.bridge.status())["backend"] != backend:
        if time.monotonic() > deadline:
            raise SetupError(f"the bridge uses {status['backend']}: {status['backend_reason']}")
        time.sleep(LOOK_INTERVAL_S)  # between questions to other processes; nothing to await here


def run(
    name: str, config: Config, plan: Plan, say: Callable[[str], None]
) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """Measure everything; the bridges are down afterwards.

    Returns:
        What ``--json`` prints, and the latencies in microseconds of each backend and of veth.

    Raises:
        ConfigError: the name is wrong.
        SetupError: a program is missing, a bridge does not start or work, or its name is taken.
    """
    from ntbnet import __version__

    require_programs(("ip", "ping"))
    tool = choose_tool()
    if tool == "built-in":
        say("sockperf is not installed: the built-in ping-pong takes its place")
    bench = Bench(name, config, tool, plan, say)
    machine = bench_report.machine()
    with tempfile.TemporaryDirectory() as folder, veth_pair(name, config.netdev.mtu) as veth:
        bench.run(veth, Path(folder))
    machine["loadavg_after"] = bench_report.machine()["loadavg"]
    result = {
        "bench": "latency",
        "version": __version__,
        "wall": time.time(),
        "profile": config.profile.name,
        "fabric": config.bridge.fabric,
        "tool": tool,
        "rounds": plan.rounds,
        "seconds": plan.seconds,
        **summary(bench.tallies),
        "published": list(PUBLISHED),
        "machine": machine,
    }
    return result, {way: tally.samples_us for way, tally in bench.tallies.items()}


def summary(tallies: Mapping[str, Tally]) -> dict[str, Any]:
    """``results``, ``veth``, ``ratio_polled_to_edma`` (None unless both runs count) and ``invalid``."""
    results = []
    for backend, tally in tallies.items():
        if backend == VETH:
            continue
        own: dict[str, Any] = {"messages": tally.messages, "backend_counts": tally.counts}
        round_trip_us = Latencies(tally.plain_us).percentile(0.5)
        own["hops"] = breakdown(tally.hops, tally.incomplete, backend, round_trip_us)
        results.append({"backend": backend, **tally.as_json(), **own})
    averages = {result["backend"]: result["avg_us"] for result in results if result["valid"]}
    ratio = round(averages[POLLED] / averages[EDMA], 3) if {POLLED, EDMA} <= averages.keys() else None
    return {
        "results": results,
        "veth": tallies[VETH].as_json(),
        "ratio_polled_to_edma": ratio,
        "invalid": [text for tally in tallies.values() for text in tally.invalid],
    }
