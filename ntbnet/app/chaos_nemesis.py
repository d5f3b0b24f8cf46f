"""The nemesis of a chaos run: a schedule that the seed decides, and the hand that carries it out.

The schedule (what, to whom, after which pause, for how long) depends on scenario and seed alone. When each
step happens depends on how soon the bridge recovers from the one before, unless the scenario says that it
is not waited for.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations, islice
from typing import Any, Protocol

from ntbnet import topology
from ntbnet.app import chaos_faults
from ntbnet.app.bridge import Bridge
from ntbnet.app.chaos_history import FaultRecord
from ntbnet.app.chaos_scenario import HITS, SUPERVISOR, Fault, Scenario, flat
from ntbnet.app.stop_request import pause
from ntbnet.devices.crash_points import CRASH_POINTS, RESET, SETTINGS
from ntbnet.edge.process import ProcessRecord, alive, send_signal
from ntbnet.edge.shm import dram_path
from ntbnet.errors import SetupError

LOOK_S = 0.005
"""Between two looks at other processes."""
CRASH_TIMEOUT_S = 10.0
"""For a store to be reached by the traffic, or by a start."""
NEVER_CAME = "never came to the store"
ALIVE_TIMEOUT_S = 10.0
QUIET_NS = 300_000_000
"""Traffic has recovered when each flow has delivered for that long."""
OUTAGE_NS = 100_000_000
"""What was sent that long ago has been delivered, unless there is an outage."""
CLOCK_SLACK_NS = 8_000_000
"""The time of a change to a file is that of the kernel's last tick."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do.

    Attributes:
        fault: the scenario's entry.
        victims: services, all hit at once; () for the supervisor.
        pause_ms: from the recovery from the step before.
        point: where a crash happens.
        before: whether it happens before that store, or just after it.
    """

    fault: Fault
    victims: tuple[str, ...]
    pause_ms: int
    point: str = ""
    before: bool = True

    @property
    def note(self) -> str:
        """What a record of it says beside kind and victims."""
        return f"{'before' if self.before else 'after'} {self.point}" if self.point else ""

    def told(self) -> str:
        """In words."""
        return f"{self.fault.kind} {' and '.join(self.victims)} {self.note}".rstrip()


def schedule(scenario: Scenario, seed: int, fabric: str) -> Iterator[Step]:
    """The steps of a scenario; endless when its phase repeats them."""
    steps = [
        _steps(scenario, fault, fabric, random.Random(f"{seed}:{number}"))
        for number, fault in enumerate(scenario.faults)
    ]
    counts = [fault.count for fault in scenario.faults]
    if scenario.phases.order == "random":
        return _shuffled(steps, counts, random.Random(f"{seed}:order"))
    if not scenario.phases.is_repeated:
        return chain.from_iterable(islice(one, count) for one, count in zip(steps, counts, strict=True))
    return _rounds(steps, counts)


def _steps(scenario: Scenario, fault: Fault, fabric: str, chance: random.Random) -> Iterator[Step]:
    """Endless steps of one entry."""
    groups = _groups(scenario, fault, fabric)
    order: list[tuple[tuple[str, ...], str]] = []
    while groups:
        if fault.pattern == "random":
            victims, point = chance.choice(groups)
        else:
            order = order or chance.sample(groups, len(groups))
            victims, point = order.pop()
        pause_ms = chance.randint(fault.min_pause_ms, fault.max_pause_ms)
        before = fault.before if fault.point else chance.random() < 0.5
        yield Step(fault, victims, pause_ms, point, before)


def _groups(scenario: Scenario, fault: Fault, fabric: str) -> list[tuple[tuple[str, ...], str]]:
    """Who is hit at once, and at which store."""
    if fault.kind == SUPERVISOR:
        return [((), "")]
    if fault.kind == "crash":
        return [
            ((service,), point)
            for point in crash_points(scenario.config, fabric)
            for service in CRASH_POINTS[point].services
            if service in fault.services and fault.point in {"", point}
        ]
    who = [service for service in fault.services if service in HITS[fault.kind]]
    at_once = {"together": len(who), "pairs": 2}.get(fault.pattern, 1)
    return [(group, "") for group in combinations(who, at_once)]


def crash_points(config: Mapping[str, Any], fabric: str) -> list[str]:
    """The crash points that a bridge comes to.

    Args:
        config: its configuration where that is not the default, nested tables.
        fabric: of the bridge.
    """
    set_ = flat(config)
    return [
        name
        for name, point in CRASH_POINTS.items()
        if point.fabric in {"", fabric}
        and all(set_.get(key) == value for key, value in SETTINGS[point.reached].items())
    ]


def _shuffled(
    steps: Sequence[Iterator[Step]], weights: Sequence[int], chance: random.Random
) -> Iterator[Step]:
    while steps:
        yield next(chance.choices(steps, weights)[0])


def _rounds(steps: Sequence[Iterator[Step]], counts: Sequence[int]) -> Iterator[Step]:
    """Each entry as often as it says, and again from the first."""
    while steps:
        for one, count in zip(steps, counts, strict=True):
            yield from islice(one, count)


class Traffic(Protocol):
    """What the nemesis has to know of the traffic."""

    def flows_since(self, time_ns: int) -> bool:
        """True when each flow has delivered something that was sent after that time."""
        ...


class Nemesis:
    """Carries steps out.

    Args:
        bridge: running.
        traffic: tells when packets cross again.
        note: takes what was done.
        rebirth: starts the bridge and its traffic anew after the supervisor was killed.
        patience_ms: how long a recovery is waited for.
        late_ms: how much later than usual a delivery is read without being an outage.
        idle: called every few milliseconds while nothing is to be done.
    """

    def __init__(
        self,
        bridge: Bridge,
        traffic: Traffic,
        note: Callable[[FaultRecord], None],
        rebirth: Callable[[], None],
        patience_ms: int,
        late_ms: int,
        idle: Callable[[], None],
    ) -> None:
        self._bridge, self._run = bridge, bridge.run
        self._traffic, self._note, self._rebirth, self._idle = traffic, note, rebirth, idle
        self._patience_s = patience_ms / 1000
        self._outage_ns = OUTAGE_NS + late_ms * 1_000_000
        self.done = 0
        self._life = 0

    def rest(self, seconds: float) -> None:
        """Let that much time pass."""
        self._wait(lambda: False, seconds)

    def do(self, step: Step) -> float | None:
        """Carry a step out, and wait for the recovery if the scenario says so.

        Returns:
            Milliseconds until each flow had delivered again, 0 when that is not waited for; None when it
            did not happen in time: whatever is done now tells nothing more.

        Raises:
            SetupError: the step could not be carried out: a victim does not live, a store is never reached.
        """
        self.rest(step.pause_ms / 1000)
        before = {service: self._living(service) for service in step.victims}
        at_ns, until_ns, life = time.monotonic_ns(), 0, self._life
        match step.fault.kind:
            case "kill":
                self._signal(before, signal.SIGKILL)
                # one that still dies looks alive to the next step, which would kill it once more
                self._wait(lambda: not any(map(alive, before.values())), ALIVE_TIMEOUT_S)
            case "stop":
                self._signal(before, signal.SIGSTOP)
                self._wait(lambda: not any(map(alive, before.values())), step.fault.hold_ms / 1000)
                self._signal(before, signal.SIGCONT)
                until_ns = time.monotonic_ns()
            case "crash":
                at_ns = self._crash(step)
            case "unlink":
                for service in step.victims:
                    dram_path(self._run.name, topology.NODE_OF[service]).unlink(missing_ok=True)
                self._signal(before, signal.SIGKILL)
            case "flap":
                for wanted in (False, True):
                    for service in step.victims:
                        self._bridge.want_link(topology.NODE_OF[service], wanted)
                    if not wanted:
                        self.rest(step.fault.hold_ms / 1000)
                until_ns = time.monotonic_ns()
            case "reset":
                for service in step.victims:
                    self._bridge.reset(topology.NODE_OF[service])
            case _:
                self._kill_supervisor()
        ends_life = step.fault.kind == SUPERVISOR
        services = (SUPERVISOR,) if ends_life else step.victims
        self._note(
            FaultRecord(
                self.done, step.fault.kind, services, at_ns, until_ns or at_ns, step.note, life, ends_life
            )
        )
        self.done += 1
        if ends_life:
            self._rebirth()
            self._life += 1
        if not step.fault.await_recovery:
            return 0.0
        return self.await_recovery(at_ns, before if step.fault.kind in {"kill", "unlink", "crash"} else {})

    def await_recovery(self, at_ns: int, dead: dict[str, ProcessRecord]) -> float | None:
        """Wait until the dead are replaced and ready, and each flow delivers again, without an outage.

        A service that is back may interrupt traffic once more, when the link begins a new epoch with it.

        Returns:
            Milliseconds from ``at_ns`` until packets crossed; None when it did not happen in time.
        """
        began_ns = time.monotonic_ns()

        def is_replaced() -> bool:
            if any(self._run.process(service) in {record, None} for service, record in dead.items()):
                return False
            children = self._bridge.children()
            return all(children.get(service, {}).get("state") == "up" for service in dead)

        if not self._wait(is_replaced, self._patience_s):
            return None
        since_ns = max(at_ns, time.monotonic_ns() if dead else 0)
        crossed_ns = 0

        def flows_on() -> bool:
            nonlocal crossed_ns
            now_ns = time.monotonic_ns()
            if not self._traffic.flows_since(max(since_ns, now_ns - self._outage_ns)):
                crossed_ns = 0
                return False
            crossed_ns = crossed_ns or now_ns
            return now_ns - crossed_ns >= QUIET_NS

        left_s = self._patience_s - (time.monotonic_ns() - began_ns) / 1e9
        if not self._wait(flows_on, max(left_s, 1.0)):
            return None
        return (crossed_ns - at_ns) / 1e6

    def _living(self, service: str) -> ProcessRecord:
        """The process of a service, which may be about to start.

        Raises:
            SetupError: there is none for a long time.
        """
        found: list[ProcessRecord] = []

        def lives() -> bool:
            record = self._run.process(service)
            if record is not None and alive(record):
                found.append(record)
            return bool(found)

        if not self._wait(lives, ALIVE_TIMEOUT_S):
            raise SetupError(f"{service} does not live, so it cannot be hit")
        return found[0]

    @staticmethod
    def _signal(victims: dict[str, ProcessRecord], number: signal.Signals) -> None:
        for record in victims.values():
            send_signal(record, number)

    def _crash(self, step: Step) -> int:
        """Have the victim die at a store; the time of the first death."""
        (service,) = step.victims
        is_bring_up = CRASH_POINTS[step.point].is_bring_up
        # a start may come to a store once only: further ones are for who knows the point
        nth = 1 if is_bring_up and not step.fault.point else step.fault.nth
        # a service that dies at once does not answer, which is waited for: the time is taken before
        began_ns = time.monotonic_ns()
        chaos_faults.arm_crash(self._run, service, step.point, nth, before=step.before)
        if is_bring_up:
            # what is stored while a link comes up is reached by a replacement, or beside one
            restarted = CRASH_POINTS[step.point].after or service
            self._signal({restarted: self._living(restarted)}, signal.SIGKILL)
        elif CRASH_POINTS[step.point].reached == RESET:
            self._bridge.reset(topology.NODE_OF[service])
        if not self._wait(lambda: chaos_faults.has_crashed(self._run, service), CRASH_TIMEOUT_S):
            chaos_faults.disarm_crash(self._run, service)
            raise SetupError(f"{service} {NEVER_CAME} {step.point}")
        return began_ns if is_bring_up else max(began_ns, self._died_ns(service))

    def _died_ns(self, service: str) -> int:
        changed = chaos_faults.folder_of(self._run).path.joinpath(f"crashed.{service}").stat().st_ctime_ns
        return changed - (time.time_ns() - time.monotonic_ns()) - CLOCK_SLACK_NS

    def _kill_supervisor(self) -> None:
        record = self._run.read_run()
        if record is None or not send_signal(record.supervisor, signal.SIGKILL):
            raise SetupError("the supervisor does not live, so it cannot be killed")
        services = self._run.processes().values()
        if not self._wait(lambda: not any(map(alive, services)), ALIVE_TIMEOUT_S):
            raise SetupError("services outlived their supervisor")

    def _wait(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """True once the condition holds; False when it does not in time."""
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                return False
            self._idle()
            pause(min(LOOK_S, left_s))  # between looks at other processes; nothing to await
        return True
