"""Scenarios of ``ntbnet chaos``: what traffic runs, what is done to the bridge, what has to hold.

A scenario is a TOML file. Those that come with ntbnet lie in ``ntbnet/scenarios`` and are known by
name; a user's own is given by its path. Every key has a default but ``description``: see
``docs/chaos.md``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from ntbnet import profile as profiles
from ntbnet import topology
from ntbnet.devices.crash_points import CRASH_POINTS
from ntbnet.errors import ConfigError
from ntbnet.faults import FaultRule, rules_from
from ntbnet.schema import Boolean, Choice, Integer, TableReader, Text, Words, shown

FABRICS = ("local", "message")
SUPERVISOR = "supervisor"
HITS: dict[str, tuple[str, ...]] = {
    "kill": topology.SERVICES,
    "stop": topology.SERVICES,
    "flap": ("peer-rc", "peer-ep"),
    "reset": ("rc-host", "epc"),
    "crash": topology.SERVICES,
    "unlink": topology.SERVICES,
    SUPERVISOR: (),
}
"""Kind of fault -> the services it can hit."""
CALM = frozenset({"flap", "reset"})
"""Kinds of faults that leave every process alone."""
PATTERNS = ("each", "random", "pairs", "together")
NODES = ("rc", "ep")
KEPT_LOG_BYTES = 1 << 30
"""No log of a run is set aside before: the checker reads them all."""
OUTAGE_MS = 60
"""Five polls of a doorbell."""
SUFFIX = ".toml"

_LINE = r"[^\x00-\x1f\x7f]"


@dataclass(frozen=True, slots=True)
class Workload:
    """Section [workload]: the traffic, which is the same in both directions."""

    flows: Annotated[int, Integer(1, 64, "flows")] = 4
    """UDP flows each way, 1..64; each has a port of its own, so they spread over the queues."""

    interval_ms: Annotated[int, Integer(1, 1000, "ms")] = 10
    """Between two datagrams of a flow, 1..1000 ms."""

    min_bytes: Annotated[int, Integer(48, 60000, "bytes")] = 64
    """Shortest datagram, bytes, 48..60000; the lengths are even over the range."""

    max_bytes: Annotated[int, Integer(48, 60000, "bytes")] = 4000
    """Longest datagram, bytes, 48..60000."""

    tcp_kib_s: Annotated[int, Integer(0, 1 << 20, "KiB/s")] = 1024
    """A TCP transfer each way, KiB a second, 0..1048576; 0 is none."""

    reader_pause_ms: Annotated[int, Integer(0, 1000, "ms")] = 0
    """The receiving programs read that seldom, 0..1000 ms; 0 is at once."""


@dataclass(frozen=True, slots=True)
class Phases:
    """Section [phases]: traffic before the faults, how long faults last, traffic after them."""

    steady_ms: Annotated[int, Integer(100, 60000, "ms")] = 500
    """Traffic without a fault, 100..60000 ms."""

    seconds: Annotated[int, Integer(0, 86400, "s")] = 0
    """Length of the fault phase, 0..86400 s; 0: until every fault of [[faults]] was done."""

    faults: Annotated[int, Integer(0, 100000, "faults")] = 0
    """Least number of faults, 0..100000: the phase goes on beyond its seconds until they were done."""

    calm_percent: Annotated[int, Integer(0, 90, "percent")] = 0
    """Last part of the seconds in which processes are left alone (flaps, resets and rules go on), 0..90."""

    heal_ms: Annotated[int, Integer(100, 60000, "ms")] = 500
    """Traffic after the last fault has healed, 100..60000 ms."""

    order: Annotated[str, Choice(("given", "random"))] = "given"
    """given: one entry of [[faults]] after the other; random: the seed chooses entry by entry, until the
    seconds are over."""

    @property
    def is_repeated(self) -> bool:
        """[[faults]] are done again and again, until the phase has had its length."""
        return self.seconds > 0 or self.faults > 0


@dataclass(frozen=True, slots=True)
class Fault:
    """One entry of [[faults]]: something done to processes, link or memory, once or again and again."""

    kind: Annotated[str, Choice(tuple(HITS))]
    """kill (SIGKILL), stop (SIGSTOP, later SIGCONT), flap (the driver of a node drops the link, later asks
    for it again), reset (of host or endpoint), crash (die at a named store), unlink (remove the memory of the
    service's node, then SIGKILL), supervisor (SIGKILL the supervisor, then up again)."""

    services: Annotated[tuple[str, ...], Words(topology.SERVICES)] = topology.SERVICES
    """Who is hit; for flap the peers among them, for reset rc-host and epc."""

    pattern: Annotated[str, Choice(PATTERNS)] = "each"
    """each: one after the other, every one equally often, in an order of the seed; random: one that the
    seed chooses; pairs: two at once, every pair equally often; together: all at once."""

    count: Annotated[int, Integer(1, 100_000, "times")] = 1
    """How often, 1..100000; with phases.order = "random", how likely beside the other entries."""

    min_pause_ms: Annotated[int, Integer(0, 600_000, "ms")] = 100
    """Least time between the recovery from what was before and this, 0..600000 ms."""

    max_pause_ms: Annotated[int, Integer(0, 600_000, "ms")] = 300
    """Most of that time, 0..600000 ms; the seed chooses."""

    hold_ms: Annotated[int, Integer(0, 600_000, "ms")] = 0
    """How long a stop or a flap lasts, 0..600000 ms."""

    await_recovery: Annotated[bool, Boolean()] = True
    """True: traffic has to flow again, both ways and in each flow, before the next one."""

    point: Annotated[str, Choice(("", *CRASH_POINTS))] = ""
    """Where a crash happens: a name that `ntbnet chaos list --points` shows; "": the seed chooses point,
    service and moment among all that the bridge comes to."""

    nth: Annotated[int, Integer(1, 1_000_000, "stores")] = 1
    """At which store of that name from now on, 1..1000000; where the seed chooses, of those under traffic."""

    before: Annotated[bool, Boolean()] = True
    """True: just before the store; false: just after it. The seed chooses it along with the point."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Section [bounds]: invariants that are numbers. Damage, repetition and disorder are never allowed."""

    recovery_p50_ms: Annotated[int, Integer(0, 600_000, "ms")] = 0
    """Median of the recoveries, from a fault until packets cross again both ways, ms; 0: not judged."""

    recovery_max_ms: Annotated[int, Integer(1, 600_000, "ms")] = 2000
    """Longest recovery, 1..600000 ms."""

    outage_ms: Annotated[int, Integer(OUTAGE_MS, 10_000, "ms")] = OUTAGE_MS
    """No packet one way for that long is an outage, 60..10000 ms; more where rules delay packets."""

    silence_ms: Annotated[int, Integer(OUTAGE_MS, 60_000, "ms")] = 250
    """Longest time without a packet of a flow far from any fault, 60..60000 ms; never less than outage_ms."""

    loss: Annotated[str, Choice(("none", "counted", "injected", "windows"))] = "windows"
    """What may be lost; none: nothing; counted: as many datagrams each way as packets were counted as dropped
    for want of room where they were sent; injected: as many datagrams as faults were injected, each of
    which hits one; windows: what was on its way when a fault came, and what was sent until the recovery."""

    in_flight_ms: Annotated[int, Integer(1, 600_000, "ms")] = 250
    """What was sent that long before a fault counts as on its way, 1..600000 ms."""

    settle_ms: Annotated[int, Integer(0, 60_000, "ms")] = 250
    """What was sent that long after a recovery may still be lost, 0..60000 ms: a queue may follow the
    one that packets crossed on first."""

    delay_ms: Annotated[int, Integer(0, 600_000, "ms")] = 0
    """Longest way of what was sent while no fault of [[faults]] was at work, ms; 0: not judged."""

    must_hang: Annotated[bool, Boolean()] = False
    """True: every stop has to be noticed: the service found hung, killed and replaced."""

    memory_growth_kib: Annotated[int, Integer(0, 1 << 20, "KiB")] = 4096
    """Most by which the anonymous memory of one process may grow in the run, KiB."""

    fd_growth: Annotated[int, Integer(0, 1000, "descriptors")] = 4
    """Most by which open descriptors of one service may have grown at the end, 0..1000."""

    min_injected: Annotated[int, Integer(0, 1 << 30, "faults")] = 0
    """Fewer faults injected by [[rules]] make the run say nothing: the verdict is unknown."""

    min_again: Annotated[int, Integer(0, 1 << 30, "interrupts")] = 0
    """Fewer interrupts that a storm, or spurious ones, had come at whom they interrupt make the run say
    nothing; never more than a rule had to bring."""

    min_handled: Annotated[int, Integer(0, 1 << 30, "runs")] = 0
    """Fewer runs of a handler for those interrupts make the run say nothing: equal ones in a row share runs.
    Never more than half of what a rule had to bring."""

    min_stops: Annotated[int, Integer(0, 1 << 30, "times")] = 0
    """Fewer times that a full ring stopped what a node sends make the run say nothing."""

    min_dropped: Annotated[int, Integer(0, 1 << 30, "packets")] = 0
    """Fewer packets that a node dropped because the bridge took no more make the run say nothing."""


@dataclass(frozen=True, slots=True)
class _Document:
    description: Annotated[str, Text(rf"{_LINE}{{1,200}}", "one line of at most 200 characters")]
    fabrics: Annotated[tuple[str, ...], Words(FABRICS)] = FABRICS
    workload: Workload = Workload()
    phases: Phases = Phases()
    faults: tuple[Fault, ...] = ()
    bounds: Bounds = Bounds()


@dataclass(frozen=True, slots=True)
class Scenario:
    """A checked scenario.

    Attributes:
        source: what the user called it: a shipped name, or a path.
        fabrics: where it may run, the default first.
        rules: what the fault layer does from the steady phase's end until it heals.
        config: keys of the bridge's configuration, nested tables.
    """

    source: str
    description: str
    fabrics: tuple[str, ...]
    workload: Workload
    phases: Phases
    faults: tuple[Fault, ...]
    rules: tuple[FaultRule, ...]
    bounds: Bounds
    config: Mapping[str, Any]

    @property
    def planned(self) -> int:
        """Least number of steps: one round of [[faults]], or what a phase that repeats them says."""
        return self.phases.faults if self.phases.is_repeated else sum(fault.count for fault in self.faults)

    def length(self, seconds: int, faults: int = 0) -> Scenario:
        """The same with a fault phase of ``seconds`` and at least so many faults; 0 changes nothing.

        Raises:
            ConfigError: it has no faults to repeat, or leaves processes alone at the end.
        """
        if faults and (not self.faults or self.phases.calm_percent):
            raise ConfigError(f"{self.source}: no number of faults: without [[faults]], or with calm_percent")
        phases = self.phases
        return replace(
            self, phases=replace(phases, seconds=seconds or phases.seconds, faults=faults or phases.faults)
        )

    def summary(self) -> dict[str, Any]:
        """What ``chaos list`` shows of it."""
        return {
            "scenario": self.source,
            "description": self.description,
            "fabrics": list(self.fabrics),
            "seconds": self.phases.seconds,
            "faults": [f"{fault.count} x {fault.kind} {fault.pattern}" for fault in self.faults]
            + [f"rule {rule.kind}" for rule in self.rules],
        }


def shipped() -> list[str]:
    """Names of the scenarios that come with ntbnet."""
    folder = resources.files("ntbnet").joinpath("scenarios")
    return sorted(
        entry.name.removesuffix(SUFFIX) for entry in folder.iterdir() if entry.name.endswith(SUFFIX)
    )


def load(source: str) -> Scenario:
    """A scenario by shipped name, or by path (it has a '/' or ends in .toml).

    Raises:
        ConfigError: there is none, or it is wrong; one line naming key, value and allowed range.
    """
    if "/" in source or source.endswith(SUFFIX):
        try:
            text = Path(source).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as problem:
            reason = problem.strerror if isinstance(problem, OSError) else "not UTF-8 text"
            raise ConfigError(f"cannot read scenario {source}: {reason}") from None
    elif source in shipped():
        text = resources.files("ntbnet").joinpath("scenarios", source + SUFFIX).read_text(encoding="utf-8")
    else:
        known = ", ".join(shipped())
        raise ConfigError(f"no scenario {shown(source)}: must be one of {known}, or the path of a .toml file")
    return parse(text, source)


def parse(text: str, source: str) -> Scenario:
    """Read and check a scenario.

    Raises:
        ConfigError: one line, beginning with ``source``, naming key, value and allowed range.
    """
    table = profiles.parse(text, source)
    config, rule_tables = table.pop("config", {}), table.pop("rules", [])
    reader = TableReader(source, _Document)
    if not isinstance(config, dict):
        raise reader.error("config", config, "a table")
    document = reader.read(_Document, table, None)
    scenario = Scenario(
        source=source,
        description=document.description,
        fabrics=document.fabrics,
        workload=document.workload,
        phases=document.phases,
        faults=document.faults,
        rules=_rules(rule_tables, source),
        bounds=document.bounds,
        config=config,
    )
    _check(scenario, reader)
    return scenario


def _rules(tables: object, source: str) -> tuple[FaultRule, ...]:
    """A plan calls them faults, a scenario rules."""
    try:
        return rules_from(tables, source)
    except ConfigError as problem:
        raise ConfigError(str(problem).replace(": faults", ": rules", 1)) from None


def _check(scenario: Scenario, reader: TableReader) -> None:
    """Rules that join keys."""
    if not scenario.fabrics:
        raise reader.error("fabrics", [], 'an array with "local", "message" or both')
    work, phases = scenario.workload, scenario.phases
    if work.max_bytes < work.min_bytes:
        raise reader.error("workload.max_bytes", work.max_bytes, f"at least min_bytes, {work.min_bytes}")
    if not scenario.faults and not phases.seconds:
        raise reader.error("phases.seconds", phases.seconds, "at least 1 without [[faults]]")
    if phases.order == "random" and not (phases.seconds and scenario.faults):
        raise reader.error("phases.order", "random", '"given" without [[faults]] or phases.seconds')
    if phases.faults and (not scenario.faults or phases.calm_percent):
        raise reader.error("phases.faults", phases.faults, "0 without [[faults]], or with calm_percent")
    if phases.calm_percent and not (phases.seconds and CALM & {fault.kind for fault in scenario.faults}):
        raise reader.error(
            "phases.calm_percent", phases.calm_percent, "0 without seconds, and a flap or reset"
        )
    for number, fault in enumerate(scenario.faults):
        name = f"faults[{number}]"
        if fault.max_pause_ms < fault.min_pause_ms:
            raise reader.error(
                f"{name}.max_pause_ms", fault.max_pause_ms, f"at least min_pause_ms, {fault.min_pause_ms}"
            )
        who, least = HITS[fault.kind], 2 if fault.pattern == "pairs" else 1
        if who and len(set(who) & set(fault.services)) < least:
            raise reader.error(
                f"{name}.services", list(fault.services), f"at least {least} of {', '.join(who)}"
            )
        if fault.kind in {"stop", "flap"} and not fault.hold_ms:
            raise reader.error(f"{name}.hold_ms", fault.hold_ms, f"at least 1 for kind {fault.kind}")
        if fault.point and fault.kind != "crash":
            raise reader.error(f"{name}.point", fault.point, "left out but for kind crash")
        if fault.kind == "crash" and fault.pattern not in {"each", "random"}:
            raise reader.error(f"{name}.pattern", fault.pattern, '"each" or "random" for kind crash')
        stores = CRASH_POINTS[fault.point].services if fault.point else topology.SERVICES
        if not set(stores) & set(fault.services):
            allowed = " or ".join(stores) or "nobody: no service comes to that point"
            raise reader.error(f"{name}.services", list(fault.services), f"of {allowed}")


def configuration(scenario: Scenario, base: Mapping[str, Any], fabric: str, log_folder: Path) -> str:
    """Text of the bridge's configuration: the user's, over it the scenario's, over it fabric and log folder.

    Args:
        scenario: what to run.
        base: the user's configuration as nested tables; empty for the defaults.
        fabric: one of ``scenario.fabrics``.
        log_folder: absolute; where the services log.

    Raises:
        ConfigError: a value has no place in a configuration.
    """
    keys: dict[str, Any] = {}
    for table in (
        base,
        scenario.config,
        {"bridge": {"fabric": fabric}, "log": {"dir": str(log_folder), "file_bytes": KEPT_LOG_BYTES}},
    ):
        keys.update(flat(table))
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in sorted(keys.items()))


def flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys of nested tables."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            found.update(flat(value, f"{prefix}{key}."))
        elif isinstance(value, bool | int | str):
            found[prefix + key] = value
        else:
            raise ConfigError(f"config.{prefix}{key} = {shown(value)}: must be a word, a number or a boolean")
    return found
