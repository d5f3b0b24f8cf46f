"""Every crash point once: a process dies just before, and just after, each named store to shared memory.

Several crashes share a bridge, one after the other, each with its own recovery. When something is wrong that
no single crash explains, those of that bridge are tried again one by one; what does not show again stays a
problem of the sweep.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ntbnet.app import chaos_run
from ntbnet.app.chaos_nemesis import NEVER_CAME, crash_points
from ntbnet.app.chaos_scenario import Bounds, Fault, Phases, Scenario, Workload
from ntbnet.devices.crash_points import CRASH_POINTS, SETTINGS
from ntbnet.errors import ConfigError

CRASHES_A_BRIDGE = 20
MOST_NTH = 8
"""A store that traffic makes again and again is the end of the process at one of its first so many."""
PHASES = Phases(steady_ms=300, heal_ms=300)
BOUNDS = Bounds(recovery_max_ms=4000, memory_growth_kib=1 << 16)
BACK_SOON = {"restart_backoff_ms": 10, "restart_backoff_max_ms": 50}
"""A service that dies twice for one crash is not to wait the longer for it."""


Run = Callable[[chaos_run.Wanted, Path, Callable[[str], None]], chaos_run.Done]


@dataclass(frozen=True, slots=True)
class Crash:
    """One death at one store."""

    fabric: str
    point: str
    service: str
    before: bool
    nth: int

    def fault(self) -> Fault:
        """As an entry of a scenario."""
        return Fault(
            "crash",
            (self.service,),
            min_pause_ms=0,
            max_pause_ms=50,
            point=self.point,
            nth=self.nth,
            before=self.before,
        )

    def as_json(self) -> dict[str, Any]:
        """What the result says of it."""
        return {
            "fabric": self.fabric,
            "point": self.point,
            "service": self.service,
            "when": "before" if self.before else "after",
            "nth": self.nth,
        }


def crashes(fabric: str, only: Sequence[str], seed: int) -> Iterator[tuple[dict[str, Any], list[Crash]]]:
    """Configuration, as nested tables, and the crashes that a bridge so configured comes to."""
    chance = random.Random(f"{seed}:sweep")
    for reached, settings in SETTINGS.items():
        config = _nested(settings)
        found = [
            Crash(
                fabric,
                point,
                service,
                before,
                1 if CRASH_POINTS[point].is_bring_up else chance.randint(1, MOST_NTH),
            )
            for point in crash_points(config, fabric)
            if CRASH_POINTS[point].reached == reached and (not only or point in only)
            for service in CRASH_POINTS[point].services
            for before in (True, False)
        ]
        if found:
            yield config, found


def sweep(
    fabrics: Sequence[str],
    only: Sequence[str],
    seed: int,
    name: str,
    folder: Path,
    say: Callable[[str], None],
    again: str,
    run: Run = chaos_run.run,
) -> dict[str, Any]:
    """Try every crash.

    Args:
        fabrics: to try them in.
        only: these points; all without it.
        seed: chooses at which of its stores a process dies, and the traffic.
        name: of the bridges.
        folder: empty; takes a history for each bridge.
        say: told what happens.
        again: the command that repeats it.
        run: runs one scenario.

    Returns:
        ``points`` tried, ``survived``, ``failed``, ``results`` of each, ``unreached`` (points that no service
        comes to), ``problems``, ``verdict``.

    Raises:
        ConfigError: no such point.
        SetupError: a bridge does not start.
    """
    unknown = sorted(set(only) - CRASH_POINTS.keys())
    if unknown:
        raise ConfigError(f"--point {unknown[0]}: must be one that `ntbnet chaos list --points` shows")
    results: list[dict[str, Any]] = []
    problems: list[str] = []
    for fabric in fabrics:
        for config, found in crashes(fabric, only, seed):
            _Sweep(config, seed, name, folder, say, run, results, problems).go(found)
    failed = [row for row in results if not row["survived"]]
    tried = {row["point"] for row in results}
    return {
        "seed": seed,
        "fabrics": list(fabrics),
        "repeat": again,
        "points": len(results),
        "survived": len(results) - len(failed),
        "failed": len(failed),
        "verdict": "ok" if results and not failed and not problems else "failed",
        "unreached": [point for point in CRASH_POINTS if point not in tried and (not only or point in only)],
        "problems": problems,
        "results": results,
    }


class _Sweep:
    """The crashes of one configuration, on as many bridges as they need."""

    def __init__(
        self,
        config: Mapping[str, Any],
        seed: int,
        name: str,
        folder: Path,
        say: Callable[[str], None],
        run: Run,
        results: list[dict[str, Any]],
        problems: list[str],
    ) -> None:
        self._config = {**config, "supervisor": BACK_SOON}
        self._seed, self._name, self._folder, self._say, self._run_one = seed, name, folder, say, run
        self._results, self._problems = results, problems

    def go(self, found: Sequence[Crash]) -> None:
        """Try them all."""
        waiting = [list(found[i : i + CRASHES_A_BRIDGE]) for i in range(0, len(found), CRASHES_A_BRIDGE)]
        while waiting:
            group = waiting.pop(0)
            waiting = self._try(group) + waiting

    def _try(self, group: list[Crash]) -> list[list[Crash]]:
        """Try a group on one bridge; groups of those that have to be tried again."""
        done = self._run(group)
        judgement = done.judgement
        tried = list(zip(group, judgement.recoveries, strict=False))
        if judgement.verdict == "ok" and len(tried) == len(group):
            for crash, recovery in tried:
                self._note(crash, recovery.took_ns, [])
            return []
        if len(group) == 1:
            took_ns = judgement.recoveries[0].took_ns if judgement.recoveries else None
            self._note(group[0], took_ns, judgement.problems or ["it was never reached"])
            return []
        self._problems += [
            f"{group[0].point} to {group[-1].point}: {text}"
            for text in judgement.problems
            if NEVER_CAME not in text
        ]
        if judgement.verdict == "unknown" and len(tried) < len(group):
            # the one that was not carried out is the culprit; what came before it is tried again by itself
            at = len(tried)
            return [part for part in (group[:at], [group[at]], group[at + 1 :]) if part]
        return [[crash] for crash in group]

    def _run(self, group: Sequence[Crash]) -> chaos_run.Done:
        scenario = Scenario(
            source="sweep",
            description="crash points",
            fabrics=(group[0].fabric,),
            workload=Workload(tcp_kib_s=512),
            phases=PHASES,
            faults=tuple(crash.fault() for crash in group),
            rules=(),
            bounds=BOUNDS,
            config=self._config,
        )
        folder = self._folder / f"bridge-{sum(1 for _ in self._folder.iterdir())}"
        folder.mkdir()
        wanted = chaos_run.Wanted(scenario, self._seed, group[0].fabric, self._name, {}, "")
        return self._run_one(wanted, folder, self._say)

    def _note(self, crash: Crash, took_ns: int | None, problems: Iterable[str]) -> None:
        found = list(problems)
        took_ms = None if took_ns is None else round(took_ns / 1e6, 1)
        self._results.append(
            {**crash.as_json(), "survived": not found, "recovery_ms": took_ms, "problems": found}
        )


def _nested(keys: Mapping[str, object]) -> dict[str, Any]:
    """Nested tables of dotted keys with one dot."""
    found: dict[str, Any] = {}
    for key, value in keys.items():
        section, _, name = key.partition(".")
        found.setdefault(section, {})[name] = value
    return found
