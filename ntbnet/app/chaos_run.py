"""One chaos run: a bridge of its own, traffic, faults, recovery; a verdict over what was written down."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ntbnet.app import chaos_checker, chaos_faults, chaos_history, chaos_scenario
from ntbnet.app.bench_lab import Lab
from ntbnet.app.chaos_faults import Injected
from ntbnet.app.chaos_history import (
    FaultLog,
    FaultRecord,
    History,
    Kind,
    Observed,
    Record,
    RuleCount,
    Tail,
)
from ntbnet.app.chaos_judgement import RULES, Judgement, Recovery
from ntbnet.app.chaos_load import PATIENCE_NS, LoadSpec
from ntbnet.app.chaos_nemesis import Nemesis, Step, schedule
from ntbnet.app.chaos_nemesis_log import NemesisLog
from ntbnet.app.chaos_recorder import Recorder
from ntbnet.app.chaos_scenario import CALM, NODES, OUTAGE_MS, Scenario
from ntbnet.app.chaos_services import noticed_and_replaced
from ntbnet.app.forks import child_environment
from ntbnet.app.stop_request import finish
from ntbnet.edge.carrier import CarrierChange
from ntbnet.edge.clock import monotonic_ns
from ntbnet.edge.node import spec_from
from ntbnet.edge.run_root import is_own_folder
from ntbnet.edge.shm import SHM_FOLDER
from ntbnet.errors import ConfigError, SetupError
from ntbnet.faults import REPEATING, FaultPlan, FaultRule

FLOW_TIMEOUT_S = 15.0
LOGS_FOLDER = "logs"
"""Of a history."""
STOP_TIMEOUT_S = PATIENCE_NS / 1e9 + 10
_PREFIX = "ntbnet-chaos-"
"""Of the folder that a history is made in; the process that makes it follows."""
HISTORY_ROOM_BYTES = 1 << 30
"""Free memory of which a history may take its part, bytes; one of ten minutes has some 100 MB."""
HISTORY_BYTES_PER_S = 1 << 20
"""The same for long ones: five times of what a soak writes."""
CONFIG_FILE = "config.toml"
LATE_WORD_NS = 100_000_000
"""By which a change of a carrier is heard of behind packets that crossed, at most."""
PATIENCE_FACTOR = 5
"""A recovery is waited for that many times as long as it may take: how late it was is worth knowing."""
LEAST_PATIENCE_MS = 5_000

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a user asked for.

    Attributes:
        scenario: its fault phase as long as asked for.
        seed: 0..2^53-1.
        fabric: one of the scenario's.
        name: of the bridge.
        config: the user's configuration as nested tables.
        again: the command that repeats it.
    """

    scenario: Scenario
    seed: int
    fabric: str
    name: str
    config: Mapping[str, Any]
    again: str


@dataclass(frozen=True, slots=True)
class Done:
    """A run and what the checker said."""

    wanted: Wanted
    history: History
    judgement: Judgement

    def as_json(self) -> dict[str, Any]:
        """What ``chaos run --json`` prints."""
        return {
            "scenario": self.wanted.scenario.source,
            "seed": self.wanted.seed,
            "fabric": self.wanted.fabric,
            **self.judgement.as_json(),
            "events": [_event(one, self.history.observed) for one in self.judgement.recoveries],
            "repeat": self.wanted.again,
        }


def _event(one: Recovery, observed: Observed) -> dict[str, Any]:
    """A fault, and milliseconds since then; None for what did not happen."""
    fault = one.fault
    detected_ns, restarted_ns = noticed_and_replaced(observed.events, fault)
    back_ns = _carriers_back(one, observed.carriers)
    return {
        "kind": fault.kind,
        "services": list(fault.services),
        "note": fault.note,
        "at_ns": fault.at_ns,
        "detected_ms": None if detected_ns is None else round((detected_ns - fault.at_ns) / 1e6, 1),
        "restarted_ms": None if restarted_ns is None else round((restarted_ns - fault.at_ns) / 1e6, 1),
        "link_up_ms": None if back_ns is None else round((back_ns - fault.at_ns) / 1e6, 1),
        "recovery_ms": None if one.took_ns is None else round(one.took_ns / 1e6, 1),
    }


def _carriers_back(one: Recovery, carriers: Sequence[CarrierChange]) -> int | None:
    """When both nodes had the carriers again that a fault cost them; None when it cost none.

    The kernel's word of them may be read late: they were there when packets crossed.
    """
    fault = one.fault
    since_ns = fault.until_ns if fault.kind == "flap" else fault.at_ns
    until_ns = since_ns + (one.took_ns or 0)
    came = (change.time_ns for change in carriers if change.up)
    back_ns = max(
        (time_ns for time_ns in came if fault.at_ns < time_ns <= until_ns + LATE_WORD_NS), default=None
    )
    return None if back_ns is None else min(back_ns, until_ns)


def read_tables(config_path: str | None) -> dict[str, Any]:
    """A user's configuration as nested tables; it is checked when the bridge starts.

    Raises:
        ConfigError: it cannot be read, or is no TOML.
    """
    if config_path is None:
        return {}
    try:
        return tomllib.loads(Path(config_path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise ConfigError(f"{config_path}: {problem}") from None


def run(wanted: Wanted, folder: Path, say: Say) -> Done:
    """Run a scenario and judge it.

    Args:
        wanted: what to run.
        folder: empty; the history is written there.
        say: told what happens.

    Raises:
        ConfigError, SetupError: the bridge did not start; what fails later makes the verdict ``unknown``.
    """
    log_folder = folder / LOGS_FOLDER
    log_folder.mkdir()
    config_path = folder / CONFIG_FILE
    text = chaos_scenario.configuration(wanted.scenario, wanted.config, wanted.fabric, log_folder)
    config_path.write_text(text, encoding="utf-8")
    asked = {"scenario": wanted.scenario.source, "seed": wanted.seed, "fabric": wanted.fabric}
    (folder / chaos_history.RUN_FILE).write_text(json.dumps(asked), encoding="utf-8")
    lab = Lab(wanted.name, str(config_path), say)
    recorder = Recorder(lab.bridge, log_folder)
    gaps: list[str] = []
    stderrs: dict[str, str] = {}
    injected = Injected()
    given_up: list[str] = []
    try:
        say(f"starting bridge {wanted.name}, fabric {wanted.fabric}")
        lab.up()
        try:
            phases = _Run(wanted, lab, recorder, folder, say)
            given_up = phases.given_up
            injected = phases.go()
        except (SetupError, OSError, subprocess.SubprocessError) as problem:
            gaps.append(f"the test itself failed: {problem}")
        stderrs = recorder.stderrs()
    finally:
        say("stopping")
        lab.down()
    observed = Observed(
        errors=tuple(recorder.errors(stderrs)),
        injected=injected.by_kind,
        rules=tuple(_counted(wanted.scenario.rules, injected)),
        events=tuple(recorder.events()),
        planned=wanted.scenario.planned,
        given_up=tuple(given_up),
        samples=tuple(recorder.samples),
        nodes=tuple(recorder.nodes),
        carriers=tuple(recorder.carriers),
        leaks=tuple(recorder.leaks()),
        gaps=tuple(gaps),
    )
    chaos_history.write_observed(folder, observed)
    chaos_history.write_waits(folder, recorder.waits.samples)
    history = chaos_history.read(folder)
    return Done(wanted, history, judge(history, wanted.scenario))


def _counted(rules: Sequence[FaultRule], injected: Injected) -> Iterator[RuleCount]:
    """What was injected, by rule; nothing when nothing was counted."""
    counts = injected.by_rule, injected.expected, injected.again, injected.handled
    for rule, times, expected, again, handled in zip(rules, *counts, strict=False):
        wanted = times * rule.parameter("burst") if rule.kind in REPEATING else 0
        yield RuleCount(rule.kind, times, expected, again, wanted, handled)


def judge(history: History, scenario: Scenario) -> Judgement:
    """What the checker says; a checker that fails says nothing, which is no acquittal."""
    try:
        return chaos_checker.check(history, scenario)
    except Exception as problem:  # noqa: BLE001 - any failure of the checker means: unknown
        return Judgement("unknown", [f"the checker failed: {type(problem).__name__}: {problem}"])


class _Load:
    """The process that makes the traffic, and what it has delivered so far."""

    def __init__(self, lab: Lab, wanted: Wanted, path: Path) -> None:
        work, config = wanted.scenario.workload, lab.bridge.config
        sides = (config.node.rc, config.node.ep)
        spec = LoadSpec(
            namespaces=[spec_from(config, lab.name, node).netns for node in NODES],
            addresses=[side.ipv4.partition("/")[0] for side in sides],
            seed=wanted.seed,
            flows=work.flows,
            interval_ms=work.interval_ms,
            min_bytes=work.min_bytes,
            max_bytes=work.max_bytes,
            tcp_kib_s=work.tcp_kib_s,
            reader_pause_ms=work.reader_pause_ms,
        )
        self._tail = Tail(path)
        self._latest = {(way, flow): 0 for way in (0, 1) for flow in range(work.flows)}
        self._child = subprocess.Popen(
            [sys.executable, "-m", "ntbnet.app.chaos_load", spec.as_json(), str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env=child_environment(),
        )

    def flows_since(self, time_ns: int) -> bool:
        """True when each flow has delivered something that was sent after that time.

        Raises:
            SetupError: the process has ended.
        """
        if self._child.poll() is not None:
            raise SetupError(f"the traffic ended: {self._last_words()}")
        for record in self._tail.new():
            self._see(record)
        return min(self._latest.values()) > time_ns

    def _see(self, record: Record) -> None:
        key = (record.way, record.flow)
        if record.kind == Kind.RECEIVED and key in self._latest:
            self._latest[key] = max(self._latest[key], record.extra)

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._child.pid

    def stop(self, *, patient: bool) -> None:
        """Send no more, and wait for what is on its way; not long for TCP unless ``patient``.

        Raises:
            SetupError: it ended before, or does not end.
        """
        try:
            _, said = finish(self._child, STOP_TIMEOUT_S, "stop\n" if patient else "hurry\n")
        except subprocess.TimeoutExpired:
            self.kill()
            raise SetupError("the traffic did not end") from None
        except BrokenPipeError:
            raise SetupError(f"the traffic ended: {self._last_words()}") from None
        if self._child.returncode:
            raise SetupError(f"the traffic ended with {self._child.returncode}: {_last_line(said)}")

    def _last_words(self) -> str:
        return _last_line(self._child.stderr.read() if self._child.stderr else "")

    def kill(self) -> None:
        """End it at once. Idempotent."""
        self._child.kill()
        self._child.communicate()


def _last_line(text: str | None) -> str:
    lines = (text or "").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


class _Run:
    """The phases of a run."""

    def __init__(self, wanted: Wanted, lab: Lab, recorder: Recorder, folder: Path, say: Say) -> None:
        self._wanted, self._scenario = wanted, wanted.scenario
        self._lab, self._recorder, self._folder, self._say = lab, recorder, folder, say
        self._faults = FaultLog(folder)
        self._log = NemesisLog(folder / LOGS_FOLDER)
        self._life = 0
        self.given_up: list[str] = []
        self._load: _Load | None = None
        patience_ms = max(self._scenario.bounds.recovery_max_ms * PATIENCE_FACTOR, LEAST_PATIENCE_MS)
        self._nemesis = Nemesis(
            lab.bridge,
            self,
            self._note,
            self._rebirth,
            patience_ms,
            2 * self._scenario.workload.reader_pause_ms + self._scenario.bounds.outage_ms - OUTAGE_MS,
            recorder.look,
        )

    def _note(self, record: FaultRecord) -> None:
        """Into the history, and into a log beside the services'."""
        self._faults.add(record)
        self._log.note(record)

    def flows_since(self, time_ns: int) -> bool:
        """See chaos_nemesis.Traffic."""
        assert self._load is not None
        return self._load.flows_since(time_ns)

    def go(self) -> Injected:
        """Steady traffic, faults, healing, the last datagram; what the fault layer injected.

        Raises:
            SetupError: a part of the test failed.
        """
        phases, nemesis = self._scenario.phases, self._nemesis
        if self._scenario.rules:
            # services import the fault layer with their first plan, and pass on nothing meanwhile
            chaos_faults.install(self._lab.bridge.run, FaultPlan(self._wanted.seed))
        try:
            self._begin_life()
            self._say(f"steady traffic for {phases.steady_ms} ms")
            nemesis.rest(phases.steady_ms / 1000)
            self._recorder.sample()
            injected = self._harm()
            nemesis.rest(phases.heal_ms / 1000)
            self._recorder.sample()
            self._say("waiting for what is on its way")
            assert self._load is not None
            self._load.stop(patient=not self.given_up)
            self._recorder.end_life(self._life)
            return injected
        finally:
            if self._load is not None:
                self._load.kill()
            self._recorder.close()
            self._log.close()

    def _begin_life(self) -> None:
        self._recorder.begin_life()
        record = self._lab.bridge.run.read_run()
        self._log.begin_life(record.run_id if record else "none")
        path = chaos_history.traffic_path(self._folder, self._life)
        self._load = _Load(self._lab, self._wanted, path)
        self._recorder.traffic_pid = self._load.pid
        began_ns = monotonic_ns()
        if self._nemesis.await_recovery(began_ns, {}) is None:
            raise SetupError("before any fault, packets do not cross in each flow")

    def _rebirth(self) -> None:
        """The supervisor was killed: the traffic's sockets are in nodes that go with the old bridge."""
        assert self._load is not None
        self._load.kill()
        self._life += 1
        self._lab.up()
        self._begin_life()

    def _harm(self) -> Injected:
        """The fault phase, and healing; what was injected."""
        rules, run = self._scenario.rules, self._lab.bridge.run
        began_ns = monotonic_ns()
        if not rules:
            self._act(began_ns)
            return Injected()
        chaos_faults.install(run, FaultPlan(self._wanted.seed, rules))
        self._say(f"injecting: {', '.join(dict.fromkeys(rule.kind for rule in rules))}")
        try:
            self._act(began_ns)
        finally:
            injected = chaos_faults.heal(run)
            healed_ns = monotonic_ns()
            kinds = ", ".join(f"{times} x {kind}" for kind, times in injected.by_kind.items())
            self._note(FaultRecord(self._nemesis.done, RULES, (), began_ns, healed_ns, kinds, self._life))
            self._say(f"healed; injected {kinds or 'nothing'}")
        if self._nemesis.await_recovery(healed_ns, {}) is None:
            self.given_up.append("the healing of all rules")
        return injected

    def _act(self, began_ns: int) -> None:
        """Every step of the schedule, or as many as there is time for."""
        phases, nemesis = self._scenario.phases, self._nemesis
        seconds = phases.seconds
        until_ns = began_ns + seconds * 1_000_000_000
        total = self._scenario.planned
        calm_ns = until_ns - seconds * 10_000_000 * phases.calm_percent
        last: Step | None = None
        for step in schedule(self._scenario, self._wanted.seed, self._wanted.fabric):
            if phases.is_repeated and monotonic_ns() >= until_ns and nemesis.done >= phases.faults:
                break
            if phases.calm_percent and step.fault.kind not in CALM and monotonic_ns() >= calm_ns:
                continue
            took_ms = nemesis.do(step)
            of = (
                f"{(monotonic_ns() - began_ns) / 1e9:.0f} of {seconds} s"
                if seconds and nemesis.done >= phases.faults
                else f"of {total}"
            )
            back = (
                "packets stay away" if took_ms is None else f"back after {took_ms:.0f} ms" if took_ms else ""
            )
            self._say(f"{nemesis.done}, {of}: {step.told()}  {back}")
            if took_ms is None:
                self.given_up.append(f"fault {nemesis.done - 1} ({step.told()})")
                return
            last = step
        is_awaited = last is None or last.fault.await_recovery
        if last is not None and not is_awaited and nemesis.await_recovery(monotonic_ns(), {}) is None:
            self.given_up.append(f"fault {nemesis.done - 1} ({last.told()})")
            return
        if seconds:
            nemesis.rest((until_ns - monotonic_ns()) / 1e9)


@contextmanager
def history_folder(keep: Path | None, seconds: float = 0.0) -> Iterator[Path]:
    """Where a history goes while it is made: a folder in memory where there is room, so that neither services
    nor traffic wait for a disk to take what they tell; in the end it is moved to ``keep``, or removed.

    Args:
        keep: a folder, empty or not there.
        seconds: how long the run is to take, 0 for a few minutes.

    Raises:
        ConfigError: ``keep`` holds something, or cannot be made.
        SetupError: the history cannot be moved there.
    """
    if keep is not None:
        try:
            keep.mkdir(parents=True, exist_ok=True)
            is_empty = not any(keep.iterdir())
        except OSError as problem:
            raise ConfigError(f"--keep {keep}: {problem.strerror}") from None
        if not is_empty:
            raise ConfigError(f"--keep {keep}: must be an empty folder, or none yet")
    _remove_abandoned()
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=_roomy_memory(seconds)))
    try:
        yield folder
    finally:
        try:
            if keep is not None:
                _copy(folder, keep.absolute())
        except OSError as problem:
            raise SetupError(f"--keep {keep}: {problem.strerror or problem}") from None
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _copy(folder: Path, keep: Path) -> None:
    """All that is in the folder; configurations name the new one."""
    for entry in folder.iterdir():
        if entry.is_dir():
            shutil.copytree(entry, keep / entry.name)
        else:
            shutil.copy2(entry, keep / entry.name)
    for config in keep.rglob(CONFIG_FILE):
        config.write_text(
            config.read_text(encoding="utf-8").replace(str(folder), str(keep)), encoding="utf-8"
        )


def _remove_abandoned() -> None:
    """What runs have left in memory that were killed."""
    for folder in SHM_FOLDER.glob(f"{_PREFIX}*-*"):
        pid = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdecimal() and not Path("/proc", pid).exists() and is_own_folder(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _roomy_memory(seconds: float) -> Path | None:
    """Where the DRAM of nodes is, too; None: a history would take too much of it."""
    room, needed = os.statvfs(SHM_FOLDER), max(HISTORY_ROOM_BYTES, int(seconds) * HISTORY_BYTES_PER_S)
    return SHM_FOLDER if room.f_bavail * room.f_frsize >= needed else None
