"""What is hit by a plan's rules, counted and logged.

Numbers and counts lie in memory that outlives the process; the log takes a bounded number of lines a second.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ntbnet.edge.clock import monotonic_ns
from ntbnet.faults import DEVICE_MESSAGES, KINDS, MAX_RULES, RECEIVER, SERVICE, FaultPlan, FaultRule
from ntbnet.topology import SERVICES

LOGGED_PER_S = 100
"""Faults logged one by one in a second; further ones are counted, and logged by kind once it is over."""
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


class Strikes:
    """The rules of one service.

    Args:
        service: its label.
        plan: all rules.
        counts: WORDS numbers, kept across restarts: injections by rule, then things seen by stream.
        log: gets ``chaos.fault_injected``.
        is_on: asked once a second: False ends it all.
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
        self._rules: dict[tuple[str, str], list[tuple[int, FaultRule]]] = {}
        for index, rule in plan.for_service(service).items():
            for word in sorted(rule.hits):
                self._rules.setdefault((KINDS[rule.kind].place, word), []).append((index, rule))
        self._streams = _PLACES
        self._second = self._logged = 0
        self._unlogged: Counter[str] = Counter()

    def injected(self, rule: int) -> int:
        """How often that rule struck here."""
        return self._counts[rule]

    def number(self, stream: str) -> int:
        """The number of the next thing of a stream."""
        at = self._streams[stream]
        number = self._counts[at]
        self._counts[at] = number + 1
        return number

    def hit_by(self, place: str, word: str, src: str, dst: str, path: str, number: int) -> list[FaultRule]:
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
        for index, rule in self._rules.get((place, word), ()):
            if place != SERVICE and not rule.applies(src, dst):
                continue
            if rule.limit and self._counts[index] >= rule.limit:
                continue
            if rule.strikes(self._seed, path, number) and self._goes_on():
                self._counts[index] += 1
                self._note(rule.kind, index, path, number)
                found.append(rule)
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
        if self._logged > LOGGED_PER_S:
            self._unlogged[kind] += 1
            return
        self._log.emit(
            "chaos.fault_injected", injected=True, kind=kind, rule=rule, path=path, sequence=number
        )

    def tell_unlogged(self) -> None:
        """Log how many faults were not logged one by one; a later second's next one does so, and the end."""
        for kind, count in self._unlogged.items():
            self._log.emit("chaos.faults_counted", injected=True, kind=kind, count=count)
        self._unlogged.clear()
