"""What ``ntbnet top`` shows, as data: a pure function of two successive looks at a bridge.

Widgets only draw it, and ``ntbnet top --json`` prints it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ntbnet import topology
from ntbnet.app.interrupts import INTERRUPT_COUNTERS
from ntbnet.app.top_snapshot import Snapshot

NODES = ("rc", "ep")


@dataclass(frozen=True, slots=True)
class ServiceRow:
    """One process of the bridge."""

    name: str
    node: str
    state: str
    """``up``, ``silent``, ``stopped`` (by SIGSTOP), ``down``, or ``elsewhere``: on the other machine."""
    pid: int | None
    restarts: int
    cpu_percent: float | None
    """Of one processor, since the look before; None without one, or of another process."""
    memory_bytes: int | None
    """Resident set, shared memory included."""
    uptime_s: float | None


@dataclass(frozen=True, slots=True)
class Direction:
    """One transport queue in one direction; rates are None without two looks at the same queue."""

    queue: int
    sender: str
    receiver: str
    state: str
    frames_per_s: float | None
    """Frames sent."""
    bits_per_s: float | None
    """Their bytes, as bits."""
    ring_used: int | None
    """Entries of the receiver's ring that are in use, as the sender sees it."""
    ring_entries: int | None
    """Entries that can be."""
    ring_full_per_s: float | None
    """How often the sender found no room."""
    errors: int
    """Frames not sent or not received since the queue's link came up, whatever the cause."""


@dataclass(frozen=True, slots=True)
class InterruptRow:
    """What one node is rung by."""

    node: str
    backend: str | None
    """None while a peer is silent."""
    reason: str | None
    rates: Mapping[str, float | None]
    """Interrupts a second that the node took, by how they came."""


@dataclass(frozen=True, slots=True)
class Latency:
    """How long packets took from one node's stack to the other one's, of those that a trace saw lately."""

    sender: str
    receiver: str
    samples: int
    p50_us: float
    p99_us: float
    most_us: float


@dataclass(frozen=True, slots=True)
class View:
    """A bridge as it is shown."""

    name: str
    state: str
    advice: str
    """What to do, when the bridge is not up; empty otherwise."""
    profile: str
    fabric: str
    peer: str | None
    """The other machine, of a bridge on two."""
    link: str
    link_epoch: int
    link_down_by: tuple[str, ...]
    """Nodes where the link was taken down by command."""
    addresses: Mapping[str, str]
    interval_s: float | None
    """Between the two looks; None after the first one."""
    services: tuple[ServiceRow, ...]
    directions: tuple[Direction, ...]
    interrupts: tuple[InterruptRow, ...]
    latencies: tuple[Latency, ...]
    """Empty without a trace that runs."""
    is_traced: bool
    events: Sequence[Mapping[str, Any]]

    @property
    def is_gone(self) -> bool:
        """True when nothing runs."""
        return self.state == "down"


def view_of(before: Snapshot | None, after: Snapshot) -> View:
    """What to show after a look.

    Args:
        before: the look before it; None for the first one, which has no rates.
        after: the look.
    """
    status = after.status
    link, machine, name = status["link"], status["machine"], status["name"]
    if before is not None and (
        before.status["run_id"] != status["run_id"] or before.taken_ns >= after.taken_ns
    ):
        before = None  # another run under the same name, or no time passed
    rates = _Rates(before, after)
    down_by = tuple(node for node in NODES if not link["wanted"][node])
    return View(
        name=name,
        state=status["state"],
        advice=_advice(status, down_by),
        profile=status["profile"],
        fabric=status["fabric"],
        peer=machine["peer"],
        link=link["state"],
        link_epoch=link["epoch"],
        link_down_by=down_by,
        addresses={node: about["ipv4"].partition("/")[0] for node, about in status["nodes"].items()},
        interval_s=rates.seconds or None,
        services=tuple(_services(before, after, rates.seconds)),
        directions=tuple(_directions(status, rates)),
        interrupts=tuple(_interrupts(status, rates)),
        latencies=tuple(_latencies(after)),
        is_traced=after.is_traced,
        events=after.events,
    )


def _advice(status: Mapping[str, Any], down_by: Sequence[str]) -> str:
    name = status["name"]
    if status["state"] == "down":
        return f"nothing runs under this name; start it: ntbnet up --name {name} --detach"
    if down_by:
        return f"the link is down by command of {' and '.join(down_by)}; l, or ntbnet link up --name {name}"
    if status["machine"]["refusals"]:
        return f"refused: {status['machine']['refusals'][0]}"
    silent = [service["name"] for service in status["services"] if service["state"] != "up"]
    if silent:
        return f"no answer from {', '.join(silent)}; what ends or hangs is replaced within seconds"
    if status["link"]["state"] != "up":
        other = status["machine"]["peer"]
        return f"waiting for the link{f' with {other}' if other else ''}"
    return ""


class _Rates:
    """Counts of two looks, by their place in the status, as rates."""

    def __init__(self, before: Snapshot | None, after: Snapshot) -> None:
        self.seconds = 0.0 if before is None else (after.taken_ns - before.taken_ns) / 1e9
        self._before = {} if before is None else _counts(before.status)
        self._after = _counts(after.status)

    def __call__(self, *place: object) -> float | None:
        """How much a count goes up each second; None when one of the two looks has none."""
        old, new = self._before.get(place), self._after.get(place)
        if old is None or new is None or self.seconds <= 0:
            return None
        # a count that went down began anew at zero in between
        return (new - old if new >= old else new) / self.seconds


def _counts(status: Mapping[str, Any]) -> dict[tuple[object, ...], int]:
    """Counts of queues by (number, node, counter), of services by (service, incarnation, counter)."""
    found: dict[tuple[object, ...], int] = {}
    for queue in status["link"]["queues"]:
        for node in NODES:
            counts = {key: value for key, value in queue[node].items() if type(value) is int}
            found.update({(queue["queue"], node, key): value for key, value in counts.items()})
    for service in status["services"]:
        if service["uptime_s"] is None:  # it did not answer
            continue
        unheard = {counter: 0 for _, _, by, counter in INTERRUPT_COUNTERS if by == service["name"]}
        counters = {**unheard, **service["counters"]}
        found.update({(service["name"], service["epoch"], key): value for key, value in counters.items()})
    return found


def _services(before: Snapshot | None, after: Snapshot, seconds: float) -> Sequence[ServiceRow]:
    here = {service["name"]: service for service in after.status["services"]}
    old = {} if before is None else {row["name"]: row["pid"] for row in before.status["services"]}
    rows = []
    for name in topology.SERVICES:
        service, used = here.get(name), after.usage.get(name)
        if service is None:
            rows.append(ServiceRow(name, topology.NODE_OF[name], "elsewhere", None, 0, None, None, None))
            continue
        cpu = None
        if before is not None and used is not None and name in before.usage and old[name] == service["pid"]:
            cpu = max(0.0, used.cpu_s - before.usage[name].cpu_s) / seconds * 100
        is_stopped = used is not None and used.is_stopped
        rows.append(
            ServiceRow(
                name,
                service["node"],
                "stopped" if is_stopped else service["state"],
                service["pid"],
                service["restarts"],
                cpu,
                None if used is None else used.resident_bytes,
                service["uptime_s"],
            )
        )
    return rows


_ERRORS = {
    "tx": ("tx_err_no_buf", "dma_errors"),
    "rx": ("rx_err_no_buf", "rx_err_oflow", "rx_err_ver"),
}


def _directions(status: Mapping[str, Any], rates: _Rates) -> Sequence[Direction]:
    rows = []
    for queue in status["link"]["queues"]:
        if queue["state"] == "idle":  # the network device takes fewer queues than there are
            continue
        for sender, receiver in (("rc", "ep"), ("ep", "rc")):
            tx, rx, number = queue[sender], queue[receiver], queue["queue"]
            entries = max(0, tx["tx_max_entry"] - 1) if "tx_max_entry" in tx else None
            bytes_per_s = rates(number, sender, "tx_bytes")
            frames_per_s = rates(number, sender, "tx_pkts")
            if not tx:  # the sender is on the other machine, or silent: what arrives is what is known
                bytes_per_s, frames_per_s = (
                    rates(number, receiver, "rx_bytes"),
                    rates(number, receiver, "rx_pkts"),
                )
            rows.append(
                Direction(
                    number,
                    sender,
                    receiver,
                    queue["state"],
                    frames_per_s,
                    None if bytes_per_s is None else bytes_per_s * 8,
                    None if entries is None else max(0, entries - tx["free_tx"]),
                    entries,
                    rates(number, sender, "tx_ring_full"),
                    sum(tx.get(key, 0) for key in _ERRORS["tx"])
                    + sum(rx.get(key, 0) for key in _ERRORS["rx"]),
                )
            )
    return rows


def _latencies(after: Snapshot) -> Sequence[Latency]:
    rows = []
    for sender, receiver in (("rc", "ep"), ("ep", "rc")):
        taken = sorted(after.latencies_ns.get(sender, ()))
        if taken:
            p50, p99 = (taken[min(len(taken) - 1, len(taken) * percent // 100)] for percent in (50, 99))
            rows.append(Latency(sender, receiver, len(taken), p50 / 1e3, p99 / 1e3, taken[-1] / 1e3))
    return rows


def _interrupts(status: Mapping[str, Any], rates: _Rates) -> Sequence[InterruptRow]:
    incarnations = {service["name"]: service["epoch"] for service in status["services"]}
    rows = []
    for node, suffix in (("ep", ""), ("rc", "_ep_to_rc")):
        backend = status[f"backend{suffix}"]
        found = {
            how: rates(service, incarnations.get(service), counter)
            for at, how, service, counter in INTERRUPT_COUNTERS
            if at == node
        }
        rows.append(InterruptRow(node, backend, status[f"backend{suffix}_reason"], found))
    return rows
