"""What a packet costs with more queues, and with more bridges on the machine: part of ``bench micro``.

Small datagrams of several flows go RC->EP at a fixed pace, the same for each bridge, so that each packet
finds its services asleep, and batches do not hide what it costs. Processor time of all services, less what
they use without traffic, is divided by the packets that crossed.
"""

from __future__ import annotations

import contextlib
import socket
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ntbnet.app.bench_backends import EDMA, EXTRA_FRAMES, backend_configs, settled_counts, write_config
from ntbnet.app.bench_cost import run_times_ns, service_pids
from ntbnet.app.bench_lab import Direction, Lab, Say, require_programs
from ntbnet.app.bench_latency import await_backend
from ntbnet.app.bench_samples import Samples
from ntbnet.app.pingpong import udp_inside
from ntbnet.app.stop_request import pause
from ntbnet.config import Config, load_text
from ntbnet.errors import SetupError

FLOWS = 8
"""Of each bridge; they meet on a queue, or not, by the hash of their ports."""
PACKETS_PER_S = 200
"""Of each bridge: ten of them leave two cores idle for a part of the time."""
PAYLOAD = bytes(64)
FRAME_BYTES = 8192
"""Longest frame: a ring of a window that four queues share still has enough of them."""
ARRIVAL_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    rounds: int
    """Each goes over all points, every second one backwards."""
    windows: int
    """Measurements at a point, each time it is visited."""
    seconds: float
    """Of traffic, and of none before it, in each window."""
    queues: Sequence[int]
    bridges: Sequence[int]
    """Rising."""


FULL = Plan(rounds=2, windows=3, seconds=0.8, queues=(1, 2, 3, 4), bridges=(1, 2, 5, 10))
QUICK = Plan(rounds=1, windows=1, seconds=0.3, queues=(1, 4), bridges=(1, 2))


class Traffic:
    """Flows over one bridge.

    Args:
        receiver: bound; it is read without blocking.
        senders: one for each flow, connected to ``receiver``.
    """

    def __init__(self, receiver: socket.socket, senders: Sequence[socket.socket]) -> None:
        receiver.setblocking(False)
        self._receiver = receiver
        self._senders = senders
        self.sent = self.arrived = 0

    def send(self) -> None:
        """One packet of the next flow."""
        self._senders[self.sent % len(self._senders)].send(PAYLOAD)
        self.sent += 1

    def take(self) -> None:
        """Count what has arrived."""
        with contextlib.suppress(BlockingIOError):
            while self._receiver.recv(len(PAYLOAD)):
                self.arrived += 1


def over(way: Direction, stack: ExitStack) -> Traffic:
    """Flows that way, until ``stack`` closes.

    Raises:
        SetupError: a namespace is missing.
    """
    receiver, *senders = (
        stack.enter_context(udp_inside(namespace)) for namespace in (way.receiver, *[way.sender] * FLOWS)
    )
    receiver.bind((way.address, 0))
    for sender in senders:
        sender.connect(receiver.getsockname())
    return Traffic(receiver, senders)


def play(traffics: Sequence[Traffic], packets: int, packets_per_s: float) -> None:
    """That many packets over each bridge at that pace, the bridges taking turns, until all have arrived."""
    interval_s = 1 / (packets_per_s * len(traffics))
    started_s = time.monotonic()
    for number in range(packets * len(traffics)):
        pause_s = started_s + number * interval_s - time.monotonic()
        if pause_s > 0:
            pause(pause_s)  # the pace of the traffic
        traffic = traffics[number % len(traffics)]
        traffic.take()
        traffic.send()
    deadline = time.monotonic() + ARRIVAL_TIMEOUT_S
    while any(traffic.arrived < traffic.sent for traffic in traffics) and time.monotonic() < deadline:
        for traffic in traffics:
            traffic.take()
        pause(0.005)  # between looks at sockets that other processes fill


def complaint(sent: int, arrived: int, frames: int) -> str | None:
    """Why a point does not count; None when every packet arrived, each of them a frame."""
    if arrived != sent:
        return f"{sent} packets sent, {arrived} arrived"
    if not sent <= frames <= sent + EXTRA_FRAMES:
        return f"{sent} packets sent, but {frames} frames from RC to EP"
    return None


def costs_us(labs: Sequence[Lab], windows: int, seconds: float) -> tuple[list[float], str | None]:
    """Microseconds of processor time for each packet over ``labs`` together.

    Args:
        labs: all of them carry traffic.
        windows: how often it is measured.
        seconds: of traffic, and of none before it, in each window.

    Returns:
        The cost in each window, and why they do not count; None when they do.

    Raises:
        SetupError: a service ended, or did not answer.
    """
    pids = [pid for lab in labs for pid in service_pids(lab.bridge.status()).values()]
    costs, packets = [], int(seconds * PACKETS_PER_S)
    with ExitStack() as stack:
        traffics = [over(lab.direction("rc", "ep"), stack) for lab in labs]
        before = _frames(labs)
        for _ in range(windows):
            idle_ns = _used_ns(pids, lambda: pause(seconds))  # what is measured: nothing
            busy_ns = _used_ns(pids, lambda: play(traffics, packets, PACKETS_PER_S))
            rest_ns = busy_ns[0] - idle_ns[0] * busy_ns[1] / idle_ns[1]
            costs.append(rest_ns / (packets * len(labs)) / 1000)
        frames = _frames(labs) - before
        sent = sum(traffic.sent for traffic in traffics)
        arrived = sum(traffic.arrived for traffic in traffics)
    return costs, complaint(sent, arrived, frames)


def _frames(labs: Sequence[Lab]) -> int:
    return sum(settled_counts(lab.bridge.status)["frames_rc_to_ep"] for lab in labs)


def _used_ns(pids: Sequence[int], what: Callable[[], None]) -> tuple[int, int]:
    """Processor time of ``pids`` while ``what`` runs, and how long it ran."""
    before, started_ns = [sum(run_times_ns(pid).values()) for pid in pids], time.monotonic_ns()
    what()
    after, ended_ns = [sum(run_times_ns(pid).values()) for pid in pids], time.monotonic_ns()
    return sum(after) - sum(before), ended_ns - started_ns


def config_of(queues: int) -> Config:
    """The default configuration with that many queues, short frames, and eDMA interrupts."""
    base = backend_configs(load_text("", "defaults"))[EDMA]
    transport = replace(base.transport, transport_mtu=FRAME_BYTES, max_num_clients=queues)
    return replace(base, transport=transport, netdev=replace(base.netdev, mtu=1500, queues=queues))


class Curves:
    """Both curves.

    Args:
        name: bridges are named after it.
        plan: how much is measured.
        say: told in words what happens.
    """

    def __init__(self, name: str, plan: Plan, say: Say) -> None:
        self._name = name
        self._plan = plan
        self._say = say
        self._labs: list[Lab] = []
        self._invalid: list[str] = []
        self._visits = 0

    def run(self) -> dict[str, Any]:
        """What ``--json`` has under ``curves``; the bridges are down afterwards.

        Raises:
            SetupError: a program is missing, a bridge does not start or work, or its name is taken.
        """
        require_programs(("ip", "ping"))
        with tempfile.TemporaryDirectory() as folder:
            try:
                queues = self._over_queues(Path(folder))
                self._stop_above(0)
                bridges = self._over_bridges(Path(folder))
            finally:
                self._stop_above(0)
        return {
            "fabric": config_of(1).bridge.fabric,
            "backend": EDMA,
            "packets_per_s": PACKETS_PER_S,
            "flows": FLOWS,
            "queues": _rows("queues", queues),
            "bridges": _rows("bridges", bridges),
            "invalid": self._invalid,
        }

    def _over_queues(self, folder: Path) -> dict[int, list[float]]:
        """All bridges are up, and take turns."""
        taken: dict[int, list[float]] = {count: [] for count in self._plan.queues}
        self._start([config_of(count) for count in taken], folder)
        labs = dict(zip(taken, self._labs, strict=True))
        for number in range(self._plan.rounds):
            for count in taken if number % 2 == 0 else reversed(taken):
                taken[count] += self._visit([labs[count]], f"queues {count}")
        return taken

    def _over_bridges(self, folder: Path) -> dict[int, list[float]]:
        """Up, and down again; those that are not there to be measured do not run."""
        taken: dict[int, list[float]] = {count: [] for count in self._plan.bridges}
        for number in range(self._plan.rounds):
            for count in taken if number % 2 == 0 else reversed(taken):
                self._start([config_of(1)] * (count - len(self._labs)), folder)
                self._stop_above(count)
                taken[count] += self._visit(self._labs, f"bridges {count}")
        return taken

    def _visit(self, labs: Sequence[Lab], what: str) -> list[float]:
        self._visits += 1
        of = self._plan.rounds * (len(self._plan.queues) + len(self._plan.bridges))
        self._say(f"curves, {self._visits} of {of}: {what}")
        costs, why_not = costs_us(labs, self._plan.windows, self._plan.seconds)
        if why_not:
            self._invalid.append(f"{what}: {why_not}")
        return costs

    def _start(self, configs: Sequence[Config], folder: Path) -> None:
        """One more bridge for each, all at the same time."""
        if not configs:
            return
        self._say(f"curves: starting {len(configs)} bridges")
        labs = []
        for config in configs:
            name = f"{self._name}-{len(self._labs)}"
            own = folder / name
            own.mkdir(exist_ok=True)
            labs.append(Lab(name, write_config(config, own), self._say))
            self._labs.append(labs[-1])
        with ThreadPoolExecutor(len(labs)) as threads:
            list(threads.map(_bring_up, labs))

    def _stop_above(self, count: int) -> None:
        """All but the first ``count``, at the same time."""
        rest, self._labs = self._labs[count:], self._labs[:count]
        if rest:
            with ThreadPoolExecutor(len(rest)) as threads:
                list(threads.map(Lab.down, rest))


def _bring_up(lab: Lab) -> None:
    lab.up()
    await_backend(lab, EDMA)
    found = len(lab.bridge.status()["link"]["queues"])
    if found != lab.config.netdev.queues:
        raise SetupError(f"{found} queues instead of {lab.config.netdev.queues}")


def _rows(key: str, taken: dict[int, list[float]]) -> list[dict[str, Any]]:
    """Each count's figures, and their ratio to those of the first one."""
    first = Samples.of(next(iter(taken.values()))).median
    rows = []
    for count, costs in taken.items():
        samples = Samples.of(costs)
        ratio = round(samples.median / first, 3)
        rows.append({key: count, "us_per_packet": samples.as_json(), "ratio_to_first": ratio})
    return rows
