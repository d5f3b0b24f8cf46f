"""What must hold in every log, whatever happened to the bridge: ``ntbnet logs check``.

Rules:

``keys``
    Every event is a row of EVENTS, at its level, with the keys of that row, no more and no fewer, beside the
    common ones.
``epochs``
    Numbers that only go up do so within a run: the epoch of a service, with a process of its own each; its
    link epoch; the sessions with each neighbour.
``links``
    Ups and downs take turns. Every down has an up, or an end: of the process, of the bridge, or of what was
    written. A bridge that is still up has ``OPEN_NS`` for it.
``errors``
    No error without a cause: it says its reason, and something that can lead to it came at most ``CAUSE_NS``
    before.

A line that breaks a rule is told once a rule. Memory does not grow with the logs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ntbnet.app.logs import NO_RUN, Line
from ntbnet.log import COMMON_KEYS, EVENTS, UNDER_FAULTS

CAUSE_NS = 10_000_000_000
"""An error comes that soon after what caused it."""
OPEN_NS = 10_000_000_000
"""A down that is so young when the log ends may still get its up."""
MAX_TRACKED = 4096
"""Things whose state is remembered at a time, such as the links of a service; more are not checked."""

LINKS = {
    "path.changed": "peer",
    "link.changed": "",
    "link.status_changed": "",
    "transport.link_changed": "",
    "transport.queue_changed": "queue",
    "netdev.carrier_changed": "",
}
"""Event that tells of an up or a down -> its key that says of what, where there are several."""
BEGINS_DOWN = frozenset({"netdev.carrier_changed"})
"""Told to be down once more when what it belongs to begins anew."""
RISING = {"link.changed": ("link_epoch", ""), "path.changed": ("session", "peer")}
"""Event with a number that only goes up -> key of the number, key that says of what."""
CAUSES = frozenset(
    {
        "chaos.fault_done",
        "chaos.fault_injected",
        "chaos.faults_counted",
        "chaos.crashed",
        "supervisor.service_died",
        "supervisor.service_hung",
        "supervisor.forkserver_died",
        "supervisor.repaired",
        "supervisor.write_failed",
        "host.reset",
        "endpoint.reset",
        "link.administered",
    }
)
"""What may lead to an error."""
SAID = ("reason", "cause")
"""Keys in which an error says its own reason."""
_COMMON_TYPES: dict[str, type] = {"node": str, "pid": int, "epoch": int}
"""Types of the common keys that the reader does not check itself."""


@dataclass(frozen=True, slots=True)
class Breach:
    """A line that breaks a rule."""

    rule: str
    what: str
    line: Line


@dataclass(slots=True)
class _Process:
    """What is known of a service in one run."""

    epoch: int = -1
    pid: int = -1
    downs: dict[tuple[str, str], Line] = field(default_factory=dict)
    """Links that are down -> the line that said so."""
    ups: set[tuple[str, str]] = field(default_factory=set)


class Checker:
    """Checks lines, which come in merged order."""

    def __init__(self) -> None:
        self.lines = 0
        self._processes: dict[tuple[str, str], _Process] = {}
        self._numbers: dict[tuple[str, str, str, str], int] = {}
        self._caused_ns: dict[str, int] = {}
        self._ended: set[str] = set()
        """Runs that came to their end, or whose link is down by command."""
        self._last_ns = 0

    def check_all(self, lines: Iterable[Line]) -> Iterator[Breach]:
        """What is wrong, as it is found; then what is missing at the end."""
        for line in lines:
            yield from self.check(line)
        yield from self.at_end()

    def check(self, line: Line) -> Iterator[Breach]:
        """What is wrong with the next line."""
        self.lines += 1
        self._last_ns = line.time_ns
        fields = line.fields
        wrong = _wrong_keys(fields)
        if wrong:
            yield Breach("keys", wrong, line)
        if fields["run_id"] in NO_RUN or any(type(fields.get(key)) is not int for key in ("pid", "epoch")):
            return  # its processes cannot be told apart
        for rule, what in self._judge(line, fields["event"]):
            yield Breach(rule, what, line)

    def at_end(self) -> Iterator[Breach]:
        """Links that stay down for no reason."""
        for (run_id, service), process in self._processes.items():
            if run_id in self._ended:
                continue
            for (event, of), line in process.downs.items():
                if self._last_ns - line.time_ns > OPEN_NS:
                    yield Breach("links", f"{_named(event, of)} of {service} has no up and no end", line)

    def _judge(self, line: Line, event: str) -> Iterator[tuple[str, str]]:
        fields = line.fields
        run_id, service = fields["run_id"], fields["service"]
        process = self._process(run_id, service)
        if process is None:
            return
        yield from self._epoch(process, fields)
        if event in RISING:
            yield from self._number(fields, *RISING[event])
        if event in LINKS and type(fields.get("up")) is bool:
            yield from self._link(process, line, (event, str(fields.get(LINKS[event], ""))[:64]))
        if event in {"service.stopped", "service.failed"}:
            process.downs.clear()
            process.ups.clear()
        elif event == "supervisor.service_died":
            self._forget(run_id, str(fields.get("name")))
        elif event == "supervisor.stopped" or (event == "link.administered" and not fields.get("up")):
            self._ended.add(run_id)
        elif event == "link.administered":
            self._ended.discard(run_id)
        if fields["level"] == "error":
            yield from self._error(line)
        if event in CAUSES or fields.get(UNDER_FAULTS) is True:
            self._caused_ns[run_id] = line.time_ns

    def _process(self, run_id: str, service: str) -> _Process | None:
        found = self._processes.get((run_id, service))
        if found is None and len(self._processes) < MAX_TRACKED:
            found = self._processes[run_id, service] = _Process()
        return found

    def _forget(self, run_id: str, service: str) -> None:
        """The process of a service ended: its links did."""
        process = self._processes.get((run_id, service))
        if process is not None:
            process.downs.clear()
            process.ups.clear()

    @staticmethod
    def _epoch(process: _Process, fields: dict[str, Any]) -> Iterator[tuple[str, str]]:
        epoch, pid = fields["epoch"], fields["pid"]
        if epoch < process.epoch:
            yield "epochs", f"epoch {epoch} after {process.epoch}"
            return
        if epoch == process.epoch and pid != process.pid:
            yield "epochs", f"process {pid} has epoch {epoch}, as process {process.pid} had"
        if epoch > process.epoch:
            process.downs.clear()
            process.ups.clear()
        process.epoch, process.pid = epoch, pid

    def _number(self, fields: dict[str, Any], key: str, of: str) -> Iterator[tuple[str, str]]:
        number = fields.get(key)
        if type(number) is not int or number == 0 or fields.get("up") is not True:
            return  # of what is down there is no number
        place = (fields["run_id"], fields["service"], key, str(fields.get(of, ""))[:64])
        before = self._numbers.get(place, -1)
        if number < before:
            yield "epochs", f"{key} {number} after {before}"
        elif place in self._numbers or len(self._numbers) < MAX_TRACKED:
            self._numbers[place] = number

    @staticmethod
    def _link(process: _Process, line: Line, link: tuple[str, str]) -> Iterator[tuple[str, str]]:
        if line.fields["up"]:
            if link in process.ups:
                yield "links", f"{_named(*link)} comes up, though it is up"
            process.downs.pop(link, None)
            if len(process.ups) < MAX_TRACKED:
                process.ups.add(link)
            return
        if link in process.downs and link[0] not in BEGINS_DOWN:
            yield "links", f"{_named(*link)} goes down, though it is down"
        process.ups.discard(link)
        if len(process.downs) < MAX_TRACKED:
            process.downs[link] = line

    def _error(self, line: Line) -> Iterator[tuple[str, str]]:
        fields = line.fields
        if not any(fields.get(key) for key in SAID):
            yield "errors", "an error that gives no reason"
        elif (
            fields.get(UNDER_FAULTS) is not True
            and line.time_ns - self._caused_ns.get(fields["run_id"], -CAUSE_NS - 1) > CAUSE_NS
        ):
            yield "errors", f"an error, and nothing led to it in the {CAUSE_NS // 10**9} s before"


def _wrong_keys(fields: dict[str, Any]) -> str:
    """What is wrong with event, level and keys; "" when nothing is."""
    row = EVENTS.get(fields["event"])
    if row is None:
        return "no row of EVENTS"
    if fields["level"] != row.level:
        return f"level {fields['level']} instead of {row.level}"
    missing = [key for key in (*COMMON_KEYS, *row.keys) if key not in fields]
    if missing:
        return f"without {', '.join(missing)}"
    if len(fields) > len(COMMON_KEYS) + len(row.keys):
        known = {*COMMON_KEYS, *row.keys, UNDER_FAULTS}
        more = sorted(fields.keys() - known)
        if more:
            return f"with {', '.join(more)[:200]}"
    for key, kind in _COMMON_TYPES.items():
        if type(fields[key]) is not kind:
            return f"{key} is no {kind.__name__}"
    return ""


def _named(event: str, of: str) -> str:
    return f"{event} {of}".rstrip()
