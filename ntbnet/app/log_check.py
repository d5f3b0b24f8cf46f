"""What must hold in every log, whatever happened to the bridge: ``ntbnet logs check``.

Rules:

``keys``
    Every event is a row of EVENTS, at its level, with the keys of that row, no more and no fewer, beside the
    common ones.
``epochs``
    Numbers that only go up do so within a run: the epoch of a service, with a process of its own each; its
    link epoch; the sessions with each neighbour.
``links``
    Ups and downs take turns. Every down has an up, or the end of its process, within ``OPEN_NS`` before the
    bridge stops, or before the last line of its run. A link that is down by command has no need of either,
    until the command is taken back.
``errors``
    No error without a cause: it says its reason, and something that can lead to it came at most ``CAUSE_NS``
    before.

A line that breaks a rule is told once a rule. Memory does not grow with the logs.

Of long runs the oldest lines are gone. What they may have said is no fault of those that are there: an error
has ``CAUSE_NS`` from where a service's lines begin, and a link may be down by command until it is seen up, or
commanded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ntbnet.app.logs import NO_RUN, Line
from ntbnet.log import COMMON_KEYS, EVENTS, FLOW, UNDER_FAULTS

CAUSE_NS = 10_000_000_000
"""An error comes that soon after what caused it."""
OPEN_NS = 10_000_000_000
"""A down that is so young when its run ends, or its log, may still get its up."""
MAX_TRACKED = 4096
"""Things whose state is remembered at a time: runs, processes, links; what comes beyond is not checked."""

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
BEGINS_RUN = frozenset(
    {"supervisor.cleaned", "supervisor.metrics_served", "supervisor.started", "service.started"}
)
"""What a whole log of a run begins with."""
BEGINS_LATE = frozenset({"nemesis"})
"""What writes its first line at any time, and keeps all of them."""
ADMINISTERS = frozenset({"peer-rc", "peer-ep"})
"""Services that take the command to drop the link."""
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
    odd: tuple[int, int] | None = None
    """Epoch and pid of the line before, when that had wrong ones."""
    has_ended: bool = False
    """The supervisor saw it die: the next one may have its pid."""
    links: dict[tuple[str, str], Line | None] = field(default_factory=dict)
    """Link -> the line that said that it is down; None: it is up."""
    numbers: dict[tuple[str, str], int] = field(default_factory=dict)
    """Key of a number that only goes up, and of what it is -> the last one."""


@dataclass(slots=True)
class _Run:
    """What is known of one run of a bridge."""

    processes: dict[str, _Process] = field(default_factory=dict)
    last_ns: int = 0
    caused_ns: int = -CAUSE_NS - 1
    """When something that can lead to an error came last."""
    first_ns: int = 0
    is_whole: bool = False
    """Its first lines are there."""
    cut_ns: int = -CAUSE_NS - 1
    """Where the lines of a service began last whose earlier ones are gone."""
    unwanted: set[str] = field(default_factory=set)
    """Services that dropped the link by command, or may have done so in lines that are gone."""
    wanted_ns: int = 0
    """Since when the link is wanted."""


class Checker:
    """Checks lines, which come in merged order.

    Args:
        since: first ``wall`` of lines that are told when they break a rule; those before are where it begins.

    Attributes:
        lines: how many were checked, from ``since`` on.
    """

    def __init__(self, since: str = "") -> None:
        self.lines = 0
        self._since = since
        self._runs: dict[str, _Run] = {}
        self._tracked = 0
        """Runs, processes, links, numbers and sides together."""

    def check_all(self, lines: Iterable[Line]) -> Iterator[Breach]:
        """What is wrong, as it is found; then what is missing at the end."""
        for line in lines:
            yield from self.check(line)
        yield from self.at_end()

    def check(self, line: Line) -> Iterator[Breach]:
        """What is wrong with the next line."""
        self.lines += line.fields["wall"] >= self._since
        for breach in self._check(line):
            if breach.line.fields["wall"] >= self._since:
                yield breach

    def _check(self, line: Line) -> Iterator[Breach]:
        fields = line.fields
        wrong = _wrong_keys(fields)
        if wrong:
            yield Breach("keys", wrong, line)
        run_id = fields["run_id"]
        if run_id in NO_RUN or any(type(fields.get(key)) is not int for key in ("pid", "epoch")):
            return  # its processes cannot be told apart
        run = self._runs.get(run_id)
        if run is None:
            if not self._has_room():
                return
            is_whole = fields["event"] in BEGINS_RUN
            run = self._runs[run_id] = _Run(first_ns=line.time_ns, is_whole=is_whole)
        run.last_ns = line.time_ns
        for rule, what in self._judge(run, line, fields["event"]):
            yield Breach(rule, what, line)
        if fields["event"] == "supervisor.stopped":
            yield from _missing_ups(run)
            self._tracked -= _size(run)
            del self._runs[run_id]

    def at_end(self) -> Iterator[Breach]:
        """Links that stay down for no reason."""
        for run in self._runs.values():
            for breach in _missing_ups(run):
                if breach.line.fields["wall"] >= self._since:
                    yield breach

    def _has_room(self) -> bool:
        """Take room for one thing more, if there is any."""
        has_room = self._tracked < MAX_TRACKED
        self._tracked += has_room
        return has_room

    def _judge(self, run: _Run, line: Line, event: str) -> Iterator[tuple[str, str]]:
        fields = line.fields
        process = self._process(run, line)
        if process is None:
            return
        yield from self._epoch(process, fields)
        if event in RISING:
            yield from self._number(process, fields, *RISING[event])
        if event in LINKS and type(fields.get("up")) is bool:
            yield from self._link(process, line, (event, str(fields.get(LINKS[event], ""))[:64]))
        if event in {"service.stopped", "service.failed"}:
            self._end_links(process)
        elif event == "supervisor.service_died":
            ended = run.processes.get(str(fields.get("name")))
            if ended is not None:
                self._end_links(ended)
                ended.has_ended = True
        elif event == "link.administered":
            self._administer(run, line)
        elif event == "transport.link_changed" and fields.get("up") is True:
            self._is_wanted(run, fields["service"])
        if fields["level"] == "error":
            yield from _error(run, line)
        if event in CAUSES or fields.get(UNDER_FAULTS) is True:
            run.caused_ns = line.time_ns

    def _process(self, run: _Run, line: Line) -> _Process | None:
        service = line.fields["service"]
        found = run.processes.get(service)
        if found is None and self._has_room():
            found = run.processes[service] = _Process()
            if _is_cut(run, line):
                run.cut_ns = line.time_ns
                if service in ADMINISTERS and self._has_room():
                    run.unwanted.add(service)
        return found

    def _is_wanted(self, run: _Run, service: str) -> None:
        if service in run.unwanted:
            run.unwanted.remove(service)
            self._tracked -= 1

    def _end_links(self, process: _Process) -> None:
        """A process ended: its links did."""
        self._tracked -= len(process.links)
        process.links.clear()

    def _administer(self, run: _Run, line: Line) -> None:
        service = line.fields["service"]
        if line.fields.get("up") is True:
            self._is_wanted(run, service)
            run.wanted_ns = line.time_ns
        elif service not in run.unwanted and self._has_room():
            run.unwanted.add(service)

    def _epoch(self, process: _Process, fields: dict[str, Any]) -> Iterator[tuple[str, str]]:
        """A wrong line is told, those behind it are not: what two lines in a row say is taken for true."""
        epoch, pid = now = fields["epoch"], fields["pid"]
        odd, process.odd = process.odd, None
        if now == (process.epoch, process.pid):
            return
        is_next = epoch > process.epoch and (pid != process.pid or process.has_ended)
        if not is_next and now != odd:
            process.odd = now
            if pid == process.pid:
                yield "epochs", f"process {pid} has epoch {epoch}, it had {process.epoch}"
            elif epoch == process.epoch:
                yield "epochs", f"process {pid} has epoch {epoch}, as process {process.pid} had"
            else:
                yield "epochs", f"epoch {epoch} after {process.epoch}"
            return
        if is_next or pid != process.pid:
            self._end_links(process)
        process.epoch, process.pid, process.has_ended = epoch, pid, False

    def _number(
        self, process: _Process, fields: dict[str, Any], key: str, of: str
    ) -> Iterator[tuple[str, str]]:
        number = fields.get(key)
        if type(number) is not int or number == 0 or fields.get("up") is not True:
            return  # of what is down there is no number
        place = (key, str(fields.get(of, ""))[:64])
        before = process.numbers.get(place, -1)
        if number < before:
            yield "epochs", f"{key} {number} after {before}"
        if place in process.numbers or self._has_room():
            process.numbers[place] = number

    def _link(self, process: _Process, line: Line, link: tuple[str, str]) -> Iterator[tuple[str, str]]:
        is_up, is_known = line.fields["up"], link in process.links
        if is_known and is_up == (process.links[link] is None):
            if is_up:
                yield "links", f"{_named(*link)} comes up, though it is up"
            elif link[0] not in BEGINS_DOWN:
                yield "links", f"{_named(*link)} goes down, though it is down"
        if is_known or self._has_room():
            process.links[link] = None if is_up else line


def _is_cut(run: _Run, line: Line) -> bool:
    """True when earlier lines of the service are gone, of which this is the first."""
    if line.fields["event"] in BEGINS_RUN or line.fields["service"] in BEGINS_LATE:
        return False
    return not run.is_whole or line.time_ns - run.first_ns > CAUSE_NS


def _missing_ups(run: _Run) -> Iterator[Breach]:
    """Links of a run that have been down for long at its end, or at the end of what it wrote."""
    if run.unwanted:
        return  # by command
    for service, process in run.processes.items():
        for (event, of), line in process.links.items():
            if line is not None and run.last_ns - max(line.time_ns, run.wanted_ns) > OPEN_NS:
                yield Breach("links", f"{_named(event, of)} of {service} has no up and no end", line)


def _size(run: _Run) -> int:
    """How much of ``MAX_TRACKED`` it takes."""
    processes = run.processes.values()
    return 1 + len(run.unwanted) + sum(1 + len(one.links) + len(one.numbers) for one in processes)


def _error(run: _Run, line: Line) -> Iterator[tuple[str, str]]:
    fields = line.fields
    if not any(fields.get(key) for key in SAID):
        yield "errors", "an error that gives no reason"
    elif fields.get(UNDER_FAULTS) is not True and line.time_ns - max(run.caused_ns, run.cut_ns) > CAUSE_NS:
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
        known = {*COMMON_KEYS, *row.keys, UNDER_FAULTS, FLOW}
        more = sorted(fields.keys() - known)
        if more:
            return f"with {', '.join(more)[:200]}"
    for key, kind in _COMMON_TYPES.items():
        if type(fields[key]) is not kind:
            return f"{key} is no {kind.__name__}"
    return ""


def _named(event: str, of: str) -> str:
    return f"{event} {of}".rstrip()
