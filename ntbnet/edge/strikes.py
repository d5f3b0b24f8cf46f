"""What is hit by a plan's rules, counted and logged.

Numbers and counts lie in memory that outlives the process; the log takes a bounded number of lines a second,
and accounts for every fault all the same: by a line of its own, or as one of so many that a line tells of.
What a process that was killed had not told yet, its replacement tells.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from ntbnet.edge.clock import monotonic_ns
from ntbnet.edge.fault_files import AGAIN_AT, HANDLED_AT, TOLD_AT
from ntbnet.faults import DEVICE_MESSAGES, KINDS, MAX_RULES, RECEIVER, SERVICE, FaultPlan, FaultRule
from ntbnet.topology import SERVICES

LOGGED_PER_S = 100
"""Faults logged one by one in a second; further ones are counted, and then logged by rule and path."""
TELL_S = 1.0
"""How long what was only counted may stay untold."""
_STREAMS = ("to", "own to", "wake to", "interrupts from", "answers from")
_OWN_STREAMS = ("handled", "sent", "received")


_PLACES = {
    name: MAX_RULES + at
    for at, name in enumerate(
        (*_OWN_STREAMS, *(f"{what} {peer}" for peer in SERVICES for what in _STREAMS)),
    )
}
"""Stream -> where its count is."""


def things_seen(service: str, rule: FaultRule, words: Sequence[int]) -> int | None:
    """How many things that a rule is about a service has seen; None when no count is of those alone.

    Args:
        service: its label.
        rule: one that the service injects.
        words: WORDS numbers of the service.
    """
    kind = KINDS[rule.kind]
    if kind.place == SERVICE:
        return sum(words[_PLACES[name]] for name in rule.hits)
    if kind.place == RECEIVER:
        what = "interrupts from" if "interrupt" in rule.hits else "answers from"
        return sum(
            words[_PLACES[f"{what} {peer}"]]
            for peer in SERVICES
            if peer != service and rule.applies(peer, service)
        )
    if rule.hits != frozenset(DEVICE_MESSAGES):
        return None
    return sum(
        words[_PLACES[f"to {peer}"]] for peer in SERVICES if peer != service and rule.applies(service, peer)
    )


class Words(Protocol):
    """Whole numbers, by index."""

    def __getitem__(self, index: int, /) -> int: ...

    def __setitem__(self, index: int, value: int, /) -> None: ...


class Emitter(Protocol):
    """What of a Logger is used."""

    def emit(self, event: str, **keys: Any) -> None: ...


class Hit(NamedTuple):
    """A rule that strikes.

    Attributes:
        rule: the rule.
        at: its place in the plan.
        dice: the word that ``decide`` is asked with for it.
    """

    rule: FaultRule
    at: int
    dice: str


@dataclass(slots=True)
class _Untold:
    """Strikes of one rule on one path that were counted only: sequence numbers, and monotonic ns."""

    first: int
    last: int
    first_ns: int
    last_ns: int
    count: int = 1


class Strikes:
    """The rules of one service.

    Args:
        service: its label.
        plan: all rules.
        counts: WORDS numbers, kept across restarts (see ``fault_files``).
        log: gets ``chaos.fault_injected`` and ``chaos.faults_counted``.
        is_on: asked once a second: False ends it all.

    Attributes:
        clock: monotonic ns.
        remind: called when something was counted and not told: ``tell_unlogged`` is due within TELL_S.
    """

    def __init__(
        self,
        service: str,
        plan: FaultPlan,
        counts: Words,
        log: Emitter,
        is_on: Callable[[], bool],
    ) -> None:
        self._seed = plan.seed
        self._counts = counts
        self._log = log
        self._is_on = is_on
        self.clock: Callable[[], int] = monotonic_ns
        self.remind: Callable[[], object] = lambda: None
        self._rules: dict[tuple[str, str], list[Hit]] = {}
        for index, rule in plan.for_service(service).items():
            hit = Hit(rule, index, plan.dice(index))
            for word in sorted(rule.hits):
                self._rules.setdefault((KINDS[rule.kind].place, word), []).append(hit)
            self._tell_of_predecessor(index, rule.kind)
        self._streams = _PLACES
        self._second = self._logged = 0
        self._untold: dict[tuple[int, str, str], _Untold] = {}
        """By place of the rule, kind and path."""

    def injected(self, rule: int) -> int:
        """How often that rule struck here."""
        return self._counts[rule]

    def number(self, stream: str) -> int:
        """The number of the next thing of a stream."""
        at = self._streams[stream]
        number = self._counts[at]
        self._counts[at] = number + 1
        return number

    def came_again(self, index: int, *, handled: bool) -> None:
        """An interrupt came once more, for the rule at that place of the plan.

        Args:
            index: of the rule.
            handled: a handler runs for it, not for it and others together.
        """
        self._counts[AGAIN_AT + index] += 1
        self._counts[HANDLED_AT + index] += handled

    def hit_by(self, place: str, word: str, src: str, dst: str, path: str, number: int) -> list[Hit]:
        """The rules that hit this very thing: counted and logged.

        Args:
            place: see PLACES.
            word: what it is, as ``FaultRule.of`` has it.
            src: service that sends; empty in a service.
            dst: service that receives; empty in a service.
            path: name of the path or service, for ``decide`` and the log.
            number: of the thing on the path.
        """
        found = []
        for hit in self._rules.get((place, word), ()):
            rule, index, dice = hit
            if place != SERVICE and not rule.applies(src, dst):
                continue
            if rule.limit and self._counts[index] >= rule.limit:
                continue
            if rule.strikes(self._seed, path, number, dice) and self._goes_on():
                self._counts[index] += 1
                self._note(rule.kind, index, path, number)
                found.append(hit)
        return found

    def _goes_on(self) -> bool:
        second = self.clock() // 1_000_000_000
        if second != self._second:
            self.tell_unlogged()
            self._second, self._logged = second, 0
            if not self._is_on():
                self._rules = {}
        return bool(self._rules)

    def _note(self, kind: str, rule: int, path: str, number: int) -> None:
        self._logged += 1
        if self._logged <= LOGGED_PER_S:
            self._log.emit(
                "chaos.fault_injected", injected=True, kind=kind, rule=rule, path=path, sequence=number
            )
            self._counts[TOLD_AT + rule] += 1
            return
        if not self._untold:
            self.remind()
        now_ns = self.clock()
        untold = self._untold.get((rule, kind, path))
        if untold is None:
            self._untold[rule, kind, path] = _Untold(number, number, now_ns, now_ns)
        else:
            untold.last, untold.last_ns = number, now_ns
            untold.count += 1

    def tell_unlogged(self) -> None:
        """Log what was not logged one by one: a line for each rule and path that struck."""
        untold, self._untold = self._untold, {}
        for (rule, kind, path), one in untold.items():
            self._log.emit(
                "chaos.faults_counted",
                injected=True,
                kind=kind,
                rule=rule,
                path=path,
                count=one.count,
                first_sequence=one.first,
                last_sequence=one.last,
                first_ns=one.first_ns,
                last_ns=one.last_ns,
            )
            self._counts[TOLD_AT + rule] += one.count

    def _tell_of_predecessor(self, rule: int, kind: str) -> None:
        """What an earlier process of the service injected, and was killed before it told."""
        missing = self._counts[rule] - self._counts[TOLD_AT + rule]
        if missing > 0:
            self._log.emit(
                "chaos.faults_counted",
                injected=True,
                kind=kind,
                rule=rule,
                path=None,
                count=missing,
                first_sequence=None,
                last_sequence=None,
                first_ns=None,
                last_ns=None,
            )
            self._counts[TOLD_AT + rule] += missing
