"""``ntbnet bench throughput``: iperf3 over each fabric and backend, beside veth, in alternating rounds.

One bridge is up at a time, with one fabric, backend and MTU, and a veth pair of that MTU beside it. Each
load goes one way over the bridge, over veth, and the other way, so that the veth run of a turn is right
beside both; a ratio is to that. A round that does not count is in no median.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ntbnet.app import bench_budgets, bench_head
from ntbnet.app.bench_backends import (
    POLLED,
    backend_configs,
    chosen,
    crossing_complaints,
    difference,
    fabrics,
    settled_counts,
    with_fabric,
    write_config,
)
from ntbnet.app.bench_lab import Direction, Lab, Say, require_programs, veth_pair
from ntbnet.app.bench_latency import await_backend
from ntbnet.app.bench_samples import Samples, ratios
from ntbnet.app.bench_traffic import Load, checked_stream, stream, tcp_bounds
from ntbnet.config import Config
from ntbnet.errors import SetupError

DIRECTIONS = ("rc->ep", "ep->rc")
PROTOCOLS = ("tcp", "udp")


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured; an empty choice is everything there is."""

    rounds: int
    seconds: int
    """Of each transfer."""
    fabrics: Sequence[str] = ()
    backends: Sequence[str] = ()
    mtus: Sequence[int] = (1500, 65510)
    protocols: Sequence[str] = PROTOCOLS
    streams: Sequence[int] = (1, 4)
    directions: Sequence[str] = DIRECTIONS
    only_default_backend: bool = False
    """Of several backends, the one that a bridge chooses by itself."""


FULL = Plan(rounds=3, seconds=1)
QUICK = Plan(rounds=1, seconds=1, mtus=(65510,), streams=(1,), only_default_backend=True)


@dataclass(frozen=True, slots=True)
class Setting:
    """One bridge: it has one fabric, one backend RC->EP and one MTU."""

    fabric: str
    backend: str
    mtu: int
    config: Config = field(compare=False)

    def __str__(self) -> str:
        return f"{self.fabric} {self.backend} MTU {self.mtu}"


@dataclass(slots=True)
class Cell:
    """The rounds of one load in one direction over one bridge."""

    raw: list[dict[str, Any]] = field(default_factory=list)
    veth: list[dict[str, Any]] = field(default_factory=list)
    """The veth run of the same turn as each of ``raw``."""
    invalid: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Medians and spread of the rounds that count, of all when none does; every raw round."""
        pairs = list(zip(self.raw, self.veth, strict=True))
        counting = [pair for pair in pairs if pair[0]["valid"]]
        speeds, reference = zip(
            *((run["gbit_s"], veth["gbit_s"]) for run, veth in counting or pairs), strict=True
        )
        rounds = {
            "gbit_s": Samples.of(speeds, 4),
            "veth_gbit_s": Samples.of(reference, 4),
            "ratio": Samples.of(ratios(speeds, reference), 4),
        }
        return {
            **{key: round(samples.median, 4) for key, samples in rounds.items()},
            "valid": bool(counting),
            "invalid_rounds": len(pairs) - len(counting),
            "rounds": {key: samples.as_json() for key, samples in rounds.items()},
            "raw": self.raw,
            "veth_raw": self.veth,
        }


def settings(config: Config, plan: Plan) -> Iterator[Setting]:
    """Every bridge of ``plan``, made from ``config``.

    Raises:
        ConfigError: a fabric, backend or MTU is not available.
    """
    for fabric in chosen(plan.fabrics, fabrics(), "fabric"):
        configs = backend_configs(with_fabric(config, fabric))
        backends = chosen(plan.backends, list(configs), "backend")
        for backend in backends[-1:] if plan.only_default_backend else backends:
            for mtu in plan.mtus:
                one = configs[backend]
                yield Setting(fabric, backend, mtu, replace(one, netdev=replace(one.netdev, mtu=mtu)))


Key = tuple[Setting, Load, str]


class Bench:
    """The rounds of one ``bench throughput``.

    Args:
        name: of its bridges.
        places: every bridge, in turn.
        plan: how much is measured.
        say: told in words what happens.
    """

    def __init__(self, name: str, places: Sequence[Setting], plan: Plan, say: Say) -> None:
        self._name = name
        self._places = places
        self._plan = plan
        self._say = say
        self.cells: dict[Key, Cell] = {}
        self.bounds: dict[int, dict[str, float]] = {}
        """By MTU: what polled doorbells and the transmit timer let through, Gbit/s."""

    def run(self, folder: Path) -> None:
        """Every round.

        Args:
            folder: where configurations are written.

        Raises:
            SetupError: something cannot be measured.
        """
        for number in range(self._plan.rounds):
            for place in self._places if number % 2 == 0 else reversed(self._places):
                self._say(f"round {number + 1} of {self._plan.rounds}: iperf3 over {place}")
                lab = Lab(self._name, write_config(place.config, folder), self._say)
                try:
                    with veth_pair(self._name, place.mtu) as veth:
                        lab.up()
                        await_backend(lab, place.backend)
                        self._note_bounds(lab, place)
                        self._turns(lab, veth, place, is_backwards=number % 2 == 1)
                except SetupError as problem:
                    raise SetupError(f"{place}: {problem}") from None
                finally:
                    lab.down()

    def _note_bounds(self, lab: Lab, place: Setting) -> None:
        entries = lab.bridge.status()["link"]["queues"][0]["rc"]["tx_max_entry"]
        self.bounds[place.mtu] = tcp_bounds(place.config, entries)

    def _turns(self, lab: Lab, veth: Direction, place: Setting, *, is_backwards: bool) -> None:
        plan = self._plan
        ways = [lab.direction(*name.split("->")) for name in plan.directions]
        for protocol in plan.protocols:
            for streams in plan.streams:
                load = Load(protocol, streams, place.mtu)
                turn = [*ways[:1], veth, *ways[1:]]
                reference, cells = dict[str, Any](), []
                for way in reversed(turn) if is_backwards else turn:
                    if way is veth:
                        reference = stream(veth, plan.seconds, load)
                    else:
                        cells.append(self._measure(lab, way, place, load))
                for cell in cells:
                    cell.veth.append(reference)

    def _measure(self, lab: Lab, way: Direction, place: Setting, load: Load) -> Cell:
        cell = self.cells.setdefault((place, load, way.name), Cell())
        before = settled_counts(lab.bridge.status)
        result, complaint = checked_stream(lab, way, self._plan.seconds, load)
        moved = difference(before, settled_counts(lab.bridge.status))
        found = [complaint] if complaint else []
        found += crossing_complaints(place.backend, moved)
        what = f"{place} {way.name} {load.protocol} x{load.streams}"
        cell.invalid += [f"{what}: {text}" for text in found]
        cell.raw.append({**result, "valid": not found})
        return cell


def run(name: str, config: Config, plan: Plan, say: Say) -> dict[str, Any]:
    """Measure everything in ``plan``; what ``--json`` prints. The bridges are down afterwards.

    Raises:
        ConfigError: the name or a choice is wrong.
        SetupError: a program is missing, a bridge does not start or work, or its name is taken.
    """
    places = list(settings(config, plan))
    require_programs(("ip", "ping", "iperf3"))
    bench = Bench(name, places, plan, say)
    with bench_head.kept_awake("throughput", config) as head, tempfile.TemporaryDirectory() as folder:
        bench.run(Path(folder))
    result = {
        **head,
        "rounds": plan.rounds,
        "seconds": plan.seconds,
        "results": [
            {
                "fabric": place.fabric,
                "backend": place.backend,
                "mtu": place.mtu,
                "streams": load.streams,
                "direction": direction,
                "protocol": load.protocol,
                **cell.as_json(),
            }
            for (place, load, direction), cell in bench.cells.items()
        ],
        "tcp_bounds_gbit_s": {str(mtu): bounds for mtu, bounds in bench.bounds.items()},
        "invalid": [text for cell in bench.cells.values() for text in cell.invalid],
    }
    result["budgets"] = bench_budgets.as_json(bench_budgets.throughput_rows(result, POLLED))
    return result
