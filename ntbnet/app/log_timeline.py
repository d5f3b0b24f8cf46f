"""What happened around each failure: fault, detection, restart, link, first packet; ``ntbnet logs timeline``.

A failure is something that a nemesis says it did, or a service's end or silence that nobody explains. Its
steps, each the time since the fault:

detected
    the supervisor noticed, or a neighbour did, whichever was first;
restarted
    the process that takes the place of the old one was started; ``ready`` is when it had its sockets;
link up
    the interfaces of both nodes have their carriers again, the later one counts. A failure that costs no link
    may cost interrupts: then it is when a peer gave its path to the service up, or had it again, whichever
    was last before packets;
first packet
    the first frame on each queue since then; the last of these counts.

A second outage that soon follows is the same failure's, so its link and packets count. Services that fail at
once share link and packets. What is remembered at a time does not grow with the logs; failures that are over
are in a file (``log_settled``).
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Any

from ntbnet.app.log_settled import Settled
from ntbnet.app.logs import Line

LATE_NS = 1_500_000_000
"""What begins later than that after a fault, or after the recovery from it, is not that fault's."""
CALM_NS = 1_000_000_000
"""A process that ends so soon after its start did so for the reason of the one before."""
CROSS_NS = 500_000_000
"""First frames of queues that are in use come within this time of each other."""
GIVE_UP_NS = 60_000_000_000
"""A fault whose packets have not crossed by then gets no more of them."""
PATH_NS = 5_000_000_000
"""Neighbours notice a silent process that long before the supervisor, at most."""
SLACK_NS = 10_000_000
"""A death is seen that long before the time that the nemesis gives it, at most."""
MAX_OPEN = 64
MAX_FAILURES = 100_000
SWEEP = 256
"""Failures in memory, at least, when those that are over are put away."""
NO_FAULT = "rules"
"""Kind that stands for a time of small faults, none of which is a failure by itself."""
UNEXPLAINED = frozenset({"died", "hung"})
SUPERVISOR = "supervisor"
PEERS = frozenset({"peer-rc", "peer-ep"})


@dataclass(slots=True, eq=False)
class Failure:
    """One service that failed. Times are in the merged order; None: not seen."""

    service: str
    kind: str
    """What the nemesis did; ``died`` or ``hung`` without one."""
    run_id: str
    fault_ns: int
    mono_offset_ns: int
    """Time in the merged order minus monotonic time."""
    detected_ns: int | None = None
    detected_by: str | None = None
    """Service that logged it: the supervisor, or a neighbour; None: the next run of the bridge."""
    restarted_ns: int | None = None
    ready_ns: int | None = None
    link_up_ns: int | None = None
    first_packet_ns: int | None = None
    link_lost: bool = False
    path_ns: int | None = None
    """Stands for ``link_up_ns`` where the link is kept."""
    _crossing_ns: int | None = None
    """First crossing since the link came up last."""

    @property
    def is_over(self) -> bool:
        """Packets have crossed."""
        return self.first_packet_ns is not None

    @property
    def usable_ns(self) -> int | None:
        """When packets could cross again."""
        return self.link_up_ns if self.link_lost else self.path_ns

    @property
    def moved_ns(self) -> int:
        """When something was last heard of its recovery."""
        return max(self.fault_ns, self.usable_ns or 0, self.first_packet_ns or 0)

    def waits(self, now_ns: int) -> bool:
        """True when another fault at that time leaves it its own recovery, which has not come yet."""
        if self.usable_ns is None:
            return True
        return self.link_lost and not self.is_over and now_ns - self.moved_ns <= LATE_NS

    def detect(self, now_ns: int, by: str | None) -> None:
        """Somebody noticed; the first one counts."""
        if self.detected_ns is None:
            self.detected_ns, self.detected_by = now_ns, by

    def link_up(self, now_ns: int) -> None:
        """Link, or path, came up."""
        if self.link_up_ns is None or now_ns - self.moved_ns <= LATE_NS:
            self.link_up_ns, self._crossing_ns = now_ns, None

    def path_moved(self, now_ns: int) -> None:
        """A peer lost its path to the service, or has it again."""
        if self._crossing_ns is None:
            self.path_ns = now_ns

    def crossed(self, now_ns: int) -> None:
        """The first frame of a queue came."""
        if self.usable_ns is None:
            return  # what crosses before the failure is felt tells nothing of its end
        if self._crossing_ns is None:
            self._crossing_ns = now_ns
        if now_ns - self._crossing_ns <= CROSS_NS:
            self.first_packet_ns = now_ns

    def to_dict(self) -> dict[str, Any]:
        """For JSON: ``fault_ns`` is monotonic, the others are milliseconds since then."""
        return {
            "service": self.service,
            "kind": self.kind,
            "run_id": self.run_id,
            "fault_ns": self.fault_ns - self.mono_offset_ns,
            "detected_ms": self.ms(self.detected_ns),
            "detected_by": self.detected_by,
            "restarted_ms": self.ms(self.restarted_ns),
            "ready_ms": self.ms(self.ready_ns),
            "link_up_ms": self.ms(self.usable_ns),
            "first_packet_ms": self.ms(self.first_packet_ns),
            "link_lost": self.link_lost,
        }

    def ms(self, time_ns: int | None) -> float | None:
        """Milliseconds from the fault to a time."""
        return None if time_ns is None else round((time_ns - self.fault_ns) / 1e6, 3)


@dataclass(slots=True)
class _Run:
    """What is remembered of one run."""

    open: list[Failure] = field(default_factory=list)
    silent_ns: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Service -> when a neighbour lost its path to it, which has not come back yet, and which one."""
    down: set[str] = field(default_factory=set)
    """Peers whose interface has no carrier."""
    down_ns: int = -1
    """When the link went down last: a nemesis that flaps it tells of that afterwards."""
    down_by: str = ""
    """Who said so."""
    epochs: dict[str, int] = field(default_factory=dict)
    """Service -> start number of its process."""


class Failures:
    """The failures in the lines added."""

    def __init__(self) -> None:
        self.left_out = 0
        self._recent: list[Failure] = []
        self._settled = Settled(attrgetter(*(one.name for one in fields(Failure))), Failure)
        self._sweep_at = SWEEP
        self._runs: dict[str, _Run] = {}
        self._looks: dict[str, Callable[[Line, _Run], None]] = {
            "chaos.fault_done": self._fault_done,
            "supervisor.service_died": self._noticed,
            "supervisor.service_hung": self._noticed,
            "supervisor.service_started": self._restarted,
            "service.started": self._ready,
            "path.changed": self._path,
            "link.changed": self._link,
            "netdev.carrier_changed": self._carrier,
            "netdev.packet_crossed": self._crossed,
            "supervisor.started": self._reborn,
        }

    def add_all(self, lines: Iterable[Line]) -> None:
        """Look at lines, which come in merged order."""
        looks, run_of = self._looks, self._run
        for line in lines:
            look = looks.get(line.fields["event"])
            if look is not None:
                look(line, run_of(line.fields["run_id"]))

    def add(self, line: Line) -> None:
        """Look at the next line."""
        self.add_all((line,))

    def ended(self) -> Sequence[Failure]:
        """All failures, by the time of the fault; no line may follow."""
        self._settle(set())
        return self._settled

    def _run(self, run_id: str) -> _Run:
        if run_id not in self._runs and len(self._runs) >= MAX_OPEN:
            del self._runs[next(iter(self._runs))]
        return self._runs.setdefault(run_id, _Run())

    def _fault_done(self, line: Line, run: _Run) -> None:
        fields = line.fields
        services, at, kind = fields.get("services"), fields.get("at_ns"), fields.get("kind")
        if type(services) is not list or type(at) is not int or type(kind) is not str or kind == NO_FAULT:
            return
        at_ns = line.time_ns - fields["mono_ns"] + at
        for service in filter(lambda one: type(one) is str, services[:MAX_OPEN]):
            seen = next((one for one in reversed(run.open) if one.service == service), None)
            if seen and seen.kind in UNEXPLAINED and at_ns - SLACK_NS <= seen.fault_ns <= line.time_ns:
                seen.kind, seen.fault_ns = kind, min(at_ns, seen.fault_ns)
            else:
                failure = self._fail(run, service, kind, line, at_ns)
                if run.down_ns >= at_ns:
                    failure.detect(run.down_ns, run.down_by)

    def _fail(self, run: _Run, service: str, kind: str, line: Line, at_ns: int) -> Failure:
        failure = Failure(service, kind, line.fields["run_id"], at_ns, line.time_ns - line.fields["mono_ns"])
        failure.link_lost = bool(run.down)
        if len(self._recent) >= self._sweep_at:
            self._settle({id(one) for other in self._runs.values() for one in other.open})
            self._sweep_at = max(SWEEP, 2 * len(self._recent))
        if len(self._settled) + len(self._recent) < MAX_FAILURES:
            self._recent.append(failure)
        else:
            self.left_out += 1
        waiting = [one for one in run.open if one.fault_ns == at_ns or one.waits(at_ns)]
        run.open = waiting[1 - MAX_OPEN :]
        run.open.append(failure)
        return failure

    def _settle(self, still: Container[int]) -> None:
        """Put away what no line can change any more: all but those whose ``id`` is in ``still``."""
        for one in self._recent:
            if id(one) not in still:
                self._settled.add(one.fault_ns, one)
        self._recent = [one for one in self._recent if id(one) in still]

    @staticmethod
    def _affected(run: _Run, now_ns: int) -> list[Failure]:
        """Failures that an event may be about."""
        run.open = [
            one for one in run.open if now_ns - one.moved_ns <= (LATE_NS if one.is_over else GIVE_UP_NS)
        ]
        return run.open

    def _latest(self, run: _Run, service: object, now_ns: int) -> Failure | None:
        return next((one for one in reversed(self._affected(run, now_ns)) if one.service == service), None)

    def _noticed(self, line: Line, run: _Run) -> None:
        """The supervisor saw a service die, or not live."""
        service = line.fields.get("name")
        if type(service) is not str:
            return
        if service in PEERS:
            run.down.add(service)
        failure = self._latest(run, service, line.time_ns)
        if failure is None or (
            failure.ready_ns is not None and (failure.is_over or line.time_ns - failure.ready_ns > CALM_NS)
        ):
            kind = "died" if line.fields["event"] == "supervisor.service_died" else "hung"
            failure = self._unexplained(run, service, kind, line)
        failure.detect(line.time_ns, line.fields["service"])
        failure.restarted_ns = failure.ready_ns = None  # it may die again on its way up

    def _unexplained(self, run: _Run, service: str, kind: str, line: Line) -> Failure:
        """A failure of which only the consequences are known: it was when somebody first noticed it."""
        at_ns, by = run.silent_ns.pop(service, (line.time_ns, line.fields["service"]))
        if line.time_ns - at_ns > PATH_NS:
            at_ns, by = line.time_ns, line.fields["service"]
        failure = self._fail(run, service, kind, line, at_ns)
        failure.detect(at_ns, by)
        return failure

    def _restarted(self, line: Line, run: _Run) -> None:
        failure = self._latest(run, line.fields.get("name"), line.time_ns)
        if failure is not None and failure.restarted_ns is None:
            failure.restarted_ns = line.time_ns

    def _ready(self, line: Line, run: _Run) -> None:
        service, epoch = line.fields["service"], line.fields.get("epoch")
        failure = self._latest(run, service, line.time_ns)
        if type(epoch) is int and len(run.epochs) < MAX_OPEN:
            before = run.epochs.get(service, epoch)
            run.epochs[service] = epoch
            if failure is None and epoch > before:
                failure = self._unexplained(run, service, "died", line)
        if failure is not None and failure.ready_ns is None:
            failure.ready_ns = line.time_ns
            failure.restarted_ns = failure.restarted_ns or line.time_ns  # nobody supervises it

    def _path(self, line: Line, run: _Run) -> None:
        fields, now_ns = line.fields, line.time_ns
        peer, up = fields.get("peer"), fields.get("up")
        failure = self._latest(run, peer, now_ns)
        if failure is not None and fields["service"] in PEERS:
            failure.path_moved(now_ns)
        if up is not True:
            if type(peer) is str and len(run.silent_ns) < MAX_OPEN:
                run.silent_ns.setdefault(peer, (now_ns, fields["service"]))
            if failure is not None:
                failure.detect(now_ns, fields["service"])
            return
        run.silent_ns.pop(str(peer), None)

    def _link(self, line: Line, run: _Run) -> None:
        """What no process ends of, such as a flap, is felt at the link."""
        if line.fields.get("up") is True:
            return
        run.down_ns, run.down_by = line.time_ns, line.fields["service"]
        for failure in self._affected(run, line.time_ns):
            failure.detect(run.down_ns, run.down_by)

    def _carrier(self, line: Line, run: _Run) -> None:
        is_up = line.fields.get("up") is True
        if line.fields["service"] in PEERS:
            (run.down.discard if is_up else run.down.add)(line.fields["service"])
        for failure in self._affected(run, line.time_ns):
            failure.link_lost = failure.link_lost or is_up or not failure.is_over
            if is_up:
                failure.link_up(line.time_ns)

    def _crossed(self, line: Line, run: _Run) -> None:
        for failure in self._affected(run, line.time_ns):
            failure.crossed(line.time_ns)

    def _reborn(self, line: Line, run: _Run) -> None:
        """The next run of a bridge whose supervisor failed goes on with that failure."""
        for other in self._runs.values():
            for failure in other.open:
                if failure.service == SUPERVISOR and failure.restarted_ns is None and other is not run:
                    failure.detect(line.time_ns, None)
                    failure.restarted_ns = failure.ready_ns = line.time_ns
                    run.open.append(failure)
            other.open = [one for one in other.open if one not in run.open or other is run]
