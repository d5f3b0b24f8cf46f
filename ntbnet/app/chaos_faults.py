"""Faults and crash points of a running bridge, from outside: install, look, heal.

The plan lies in the run folder, where a service that starts finds it; a running one is told to look. What
was injected is counted there as well, by each service, across its restarts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ntbnet.app.ask import able_to_answer, ask
from ntbnet.edge.fault_files import AGAIN_AT, HANDLED_AT, Crash, FaultFolder
from ntbnet.edge.process import alive
from ntbnet.edge.rundir import RunDir
from ntbnet.edge.strikes import things_seen
from ntbnet.errors import ConfigError, SetupError
from ntbnet.faults import MILLION, FaultPlan
from ntbnet.topology import SERVICES

ANSWER_TIMEOUT_S = 1.0
LOOK = b"faults look"


@dataclass(frozen=True, slots=True)
class Injected:
    """How often faults were injected since the plan was installed.

    Attributes:
        by_kind: kind -> times.
        by_rule: times, in the order of the plan's rules.
        by_service: service -> times.
        expected: by rule: times that its rate and the traffic let expect; None where that is not counted.
        again: by rule: interrupts that came again at whom they interrupt.
        handled: by rule: runs of a handler that those were worth; equal ones in a row share runs.
    """

    by_kind: dict[str, int] = field(default_factory=dict)
    by_rule: tuple[int, ...] = ()
    by_service: dict[str, int] = field(default_factory=dict)
    expected: tuple[int | None, ...] = ()
    again: tuple[int, ...] = ()
    handled: tuple[int, ...] = ()

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self.by_rule)


def folder_of(run: RunDir) -> FaultFolder:
    """Where the run keeps its faults."""
    return FaultFolder(run.faults_path)


def install(run: RunDir, plan: FaultPlan) -> None:
    """Have every service of the bridge inject ``plan`` from now on, in place of an earlier one.

    A service that does not answer (dead, stopped, restarting) reads the plan when it starts.

    Raises:
        SetupError: there is no such bridge, or the plan cannot be written.
        ConfigError: a service refused the plan; nothing is injected then.
    """
    if not run.exists():
        raise SetupError(f"bridge {run.name} is not up")
    folder_of(run).write_plan(plan)
    try:
        _tell(run)
    except ConfigError:
        folder_of(run).remove_plan()
        _tell(run)
        raise


def heal(run: RunDir) -> Injected:
    """End all faults: what was held back is sent on, armed crash points are disarmed. Idempotent.

    Returns:
        What was injected, for the last time.
    """
    folder = folder_of(run)
    if not folder.exists():
        return Injected()
    before = injected(run)
    plan = folder.read_plan()
    folder.remove_plan()
    for service in SERVICES:
        folder.remove_crash(service)
    _tell(run)
    after = before if plan is None else _injected(folder, plan)
    folder.remove()
    return after


def injected(run: RunDir) -> Injected:
    """What was injected so far; nothing without a plan. Dead services' share is counted, too."""
    folder = folder_of(run)
    plan = folder.read_plan() if folder.exists() else None
    return Injected() if plan is None else _injected(folder, plan)


def _injected(folder: FaultFolder, plan: FaultPlan) -> Injected:
    counts = folder.injected()
    by_rule = tuple(sum(numbers[rule] for numbers in counts.values()) for rule in range(len(plan.faults)))
    by_kind: Counter[str] = Counter()
    for rule, times in zip(plan.faults, by_rule, strict=True):
        by_kind[rule.kind] += times
    return Injected(
        dict(by_kind),
        by_rule,
        {service: sum(numbers[: len(by_rule)]) for service, numbers in counts.items()},
        tuple(_expected(plan, rule, counts) for rule in range(len(by_rule))),
        *(
            tuple(sum(numbers[at + rule] for numbers in counts.values()) for rule in range(len(by_rule)))
            for at in (AGAIN_AT, HANDLED_AT)
        ),
    )


def _expected(plan: FaultPlan, number: int, counts: Mapping[str, Sequence[int]]) -> int | None:
    """How often a rule should have struck; None when what it is about is not counted by itself."""
    rule = plan.faults[number]
    if rule.at or rule.limit:
        return None
    seen = 0
    for service, words in counts.items():
        if number in plan.for_service(service):
            things = things_seen(service, rule, words)
            if things is None:
                return None
            seen += things
    return seen // rule.every if rule.every else seen * rule.rate // MILLION


def arm_crash(run: RunDir, service: str, point: str, nth: int = 1, *, before: bool = True) -> None:
    """Have ``service`` die (SIGKILL) at its ``nth`` store named ``point`` from now on, once.

    A service that does not answer takes note when it starts; its replacement after the crash lives.

    Args:
        run: of the bridge.
        service: who is to die.
        point: a key of CRASH_POINTS.
        nth: 1 or more.
        before: just before the store, else just after it.

    Raises:
        SetupError: there is no such bridge.
        ConfigError: no such service or point, or ``nth`` is out of range.
    """
    if service not in SERVICES:
        raise ConfigError(f"service {service!r:.40}: must be one of {', '.join(SERVICES)}")
    crash = Crash(point, nth, before)
    if not run.exists():
        raise SetupError(f"bridge {run.name} is not up")
    folder_of(run).write_crash(service, crash)
    _tell(run, (service,))


def has_crashed(run: RunDir, service: str) -> bool:
    """True once ``service`` died where ``arm_crash`` said last; ``heal`` forgets it."""
    return folder_of(run).has_crashed(service)


def disarm_crash(run: RunDir, service: str) -> None:
    """Have ``service`` die nowhere. Idempotent."""
    folder = folder_of(run)
    if folder.exists():
        folder.remove_crash(service)
        _tell(run, (service,))


def _tell(run: RunDir, services: tuple[str, ...] = SERVICES) -> None:
    """Have the services that live look into the folder. ConfigError: one of them refused what it found."""
    living = [name for name, record in run.processes().items() if name in services and alive(record)]
    for service, answer in ask(able_to_answer(run, living), ANSWER_TIMEOUT_S, LOOK).items():
        if "error" in answer:
            raise ConfigError(f"{service}: {answer['error']}")
