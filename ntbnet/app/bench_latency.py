"""``ntbnet bench latency``: a ping-pong over each fabric and backend, beside veth and the pumps.

Each of them has a bridge of its own, one at a time, so that nothing of the others runs meanwhile;
the rounds go over all of them and the references, every second one backwards, so that a machine that
gets slower or faster does so for all alike. A ratio is one of a round.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ntbnet.app import bench_budgets, bench_head, bench_sockperf, pingpong
from ntbnet.app.bench_backends import (
    LOOK_INTERVAL_S,
    backend_configs,
    chosen,
    complaints,
    difference,
    fabrics,
    loss_complaints,
    settled_counts,
    with_fabric,
    write_config,
)
from ntbnet.app.bench_hops import hop_times, route, timed_ping_pong
from ntbnet.app.bench_lab import Direction, Lab, Say, require_programs, run_program, veth_pair
from ntbnet.app.bench_latencies import PUBLISHED
from ntbnet.app.bench_pump import PUMPS, pump
from ntbnet.app.bench_tally import REFERENCES, Combination, Tally, summary
from ntbnet.app.bench_traffic import poll_period_ms
from ntbnet.app.ping_output import pinged, times_ms
from ntbnet.app.stop_request import pause
from ntbnet.config import Config
from ntbnet.errors import SetupError

MARGIN_S = 20.0
BACKEND_TIMEOUT_S = 2.0
PING_INTERVAL_S = 0.017
"""No multiple of the doorbell poll's period: pings meet it in every phase."""
LATE_S = 5
"""How late the reply to a ping may be, s; later, it is lost."""
HOP_TRIPS_TIME_S = 5.0


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
        tally.rounds_us.append(result["samples_us"])
        dropped, duplicated, out_of_order = result["dropped_duplicated_reordered"]
        sent: int = result["sent"]
    else:
        trips = pingpong.ping_pong((way.sender, way.receiver), way.address, seconds=seconds)
        tally.rounds_us.append(trips.latencies_us())
        dropped, duplicated, out_of_order = trips.dropped, trips.duplicated, trips.out_of_order
        sent = trips.sent
    tally.dropped += dropped
    tally.duplicated += duplicated
    tally.out_of_order += out_of_order
    tally.invalid += loss_complaints(name, dropped, duplicated, out_of_order)
    return sent


def ping(way: Direction, count: int, tally: Tally) -> None:
    """The system's own ping; round trips in milliseconds go into ``tally``."""
    deadline_s = math.ceil(count * PING_INTERVAL_S) + LATE_S
    command = ["ping", "-n", "-i", str(PING_INTERVAL_S), "-c", str(count), "-w", str(deadline_s), way.address]
    done = run_program(way.sender, command, deadline_s + MARGIN_S)
    tally.pings_sent += pinged(done.stdout, count)
    tally.pings_ms += times_ms(done.stdout).values()


class Bench:
    """The rounds of one ``bench latency``.

    Args:
        name: of its bridges.
        configs: one for each combination.
        tool: ``sockperf`` or ``built-in``.
        plan: how much is measured.
        say: told in words what happens.
    """

    def __init__(
        self,
        name: str,
        configs: Mapping[Combination, Config],
        tool: str,
        plan: Plan,
        say: Say,
    ) -> None:
        self._name = name
        self._tool = tool
        self._plan = plan
        self._say = say
        self._configs = configs
        self.tallies = {combination: Tally() for combination in configs}
        self.references = {name: Tally() for name in REFERENCES}

    def run(self, references: Sequence[Direction], folder: Path) -> None:
        """Every round.

        Args:
            references: what to compare with.
            folder: where configurations are written.

        Raises:
            SetupError: something cannot be measured.
        """
        labs = {combination: self._lab(combination, folder) for combination in self._configs}
        everything: list[Combination | Direction] = [*labs, *references]
        for number in range(self._plan.rounds):
            for way in everything if number % 2 == 0 else reversed(everything):
                name = way.name if isinstance(way, Direction) else " ".join(way)
                self._say(f"round {number + 1} of {self._plan.rounds}: {self._tool} over {name}")
                if isinstance(way, Direction):
                    self._measure(way, self.references[way.name])
                    continue
                try:
                    self._measure_bridge(labs[way], way)
                except SetupError as problem:
                    raise SetupError(f"{name}: {problem}") from None
                finally:
                    labs[way].down()

    def _lab(self, combination: Combination, folder: Path) -> Lab:
        return Lab(self._name, write_config(self._configs[combination], folder), self._say)

    def _measure(self, way: Direction, tally: Tally) -> int:
        ping(way, self._plan.pings, tally)
        return play(self._tool, way.name, way, self._plan.seconds, tally)

    def _measure_bridge(self, lab: Lab, combination: Combination) -> None:
        fabric, backend = combination
        lab.up()
        await_backend(lab, backend)
        tally, way = self.tallies[combination], lab.direction("rc", "ep")
        ping(way, self._plan.pings, tally)
        before = settled_counts(lab.bridge.status)
        messages = play(self._tool, f"{fabric} {backend}", way, self._plan.seconds, tally)
        moved = difference(before, settled_counts(lab.bridge.status))
        tally.invalid += [f"{fabric}: {text}" for text in complaints(backend, moved, messages)]
        tally.messages += messages
        tally.counts = {name: tally.counts.get(name, 0) + count for name, count in moved.items()}
        plain_us, trips, points = timed_ping_pong(lab.bridge.run, way, self._plan.trips, HOP_TRIPS_TIME_S)
        hops = hop_times(points, trips.spans, route(fabric, backend))
        tally.plain_us += plain_us
        tally.hops += hops
        tally.incomplete += len(trips.spans) - len(hops)


@contextmanager
def references(name: str, mtu: int) -> Iterator[list[Direction]]:
    """The veth pair and both pumps, there inside the ``with`` block.

    Raises:
        SetupError: one of them cannot be had.
    """
    with ExitStack() as stack:
        veth = stack.enter_context(veth_pair(name, mtu))
        yield [veth, *(stack.enter_context(pump(kind, name, mtu)) for kind in PUMPS)]


def await_backend(lab: Lab, backend: str) -> None:
    """The first frames may still go by doorbell.

    Raises:
        SetupError: the bridge uses another backend; says why.
    """
    deadline = time.monotonic() + BACKEND_TIMEOUT_S
    while (status := lab.bridge.status())["backend"] != backend:
        if time.monotonic() > deadline:
            raise SetupError(f"the bridge uses {status['backend']}: {status['backend_reason']}")
        pause(LOOK_INTERVAL_S)  # between questions to other processes; nothing to await here


def run(
    name: str, config: Config, plan: Plan, say: Say, wanted_fabrics: Sequence[str] = ()
) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """Measure everything; the bridges are down afterwards.

    Args:
        name: of the bridges.
        config: what the others are made from.
        plan: how much is measured.
        say: told in words what happens.
        wanted_fabrics: all there are, when empty.

    Returns:
        What ``--json`` prints, and the latencies in microseconds of everything that was measured.

    Raises:
        ConfigError: the name or a fabric is wrong.
        SetupError: a program is missing, a bridge does not start or work, or its name is taken.
    """
    names = chosen(wanted_fabrics, fabrics(), "fabric")
    require_programs(("ip", "ping"))
    tool = choose_tool()
    if tool == "built-in":
        say("sockperf is not installed: the built-in ping-pong takes its place")
    configs = {
        (fabric, backend): changed
        for fabric in names
        for backend, changed in backend_configs(with_fabric(config, fabric)).items()
    }
    bench = Bench(name, configs, tool, plan, say)
    with (
        bench_head.kept_awake("latency", config) as head,
        tempfile.TemporaryDirectory() as folder,
        references(name, config.netdev.mtu) as compared,
    ):
        bench.run(compared, Path(folder))
    result: dict[str, Any] = {
        **head,
        "fabrics": names,
        "tool": tool,
        "poll_period_ms": poll_period_ms(config),
        "rounds": plan.rounds,
        "seconds": plan.seconds,
        **summary(bench.tallies, bench.references),
        "published": list(PUBLISHED),
    }
    result["budgets"] = bench_budgets.as_json(bench_budgets.latency_rows(result))
    samples_us = {" ".join(combination): tally.samples_us for combination, tally in bench.tallies.items()}
    return result, {**samples_us, **{name: tally.samples_us for name, tally in bench.references.items()}}
