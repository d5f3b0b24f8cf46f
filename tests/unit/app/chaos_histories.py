"""Histories of chaos runs, made by hand: healthy ones, and what can be wrong with one."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ntbnet.app.chaos_history import FaultRecord, History, Kind, LoggedEvent, NodeCounters, Observed, Record
from ntbnet.app.chaos_scenario import Bounds, Scenario, Workload, parse

MS = 1_000_000
STEP_NS = 5 * MS
DELAY_NS = MS
SIZE = 100


def scenario(**bounds: object) -> Scenario:
    """A scenario of one kill, with those bounds."""
    plain = parse('description = "by hand"\n[[faults]]\nkind = "kill"\n', "by hand")
    return replace(plain, bounds=replace(Bounds(), **bounds), workload=Workload())  # type: ignore[arg-type]


def kill(at_ms: int, service: str = "epc", number: int = 0) -> FaultRecord:
    """A service killed at that time."""
    return FaultRecord(number, "kill", (service,), at_ms * MS, at_ms * MS)


def strike(at_ms: int, kind: str) -> LoggedEvent:
    """What the fault layer logged at that time."""
    return LoggedEvent("peer-rc", "chaos.fault_injected", at_ms * MS, kind, "", "peer-rc>epc")


def told(at_ms: int, event: str, name: str) -> LoggedEvent:
    """What the supervisor logged of a service at that time."""
    return LoggedEvent("supervisor", f"supervisor.{event}", at_ms * MS, "", name)


def without(made: Made, start_ms: int, end_ms: int, way: int = 0, flow: int = 0) -> Made:
    """The same, but what comes to one flow in a time is lost."""
    made.records = [
        one
        for one in made.records
        if not (
            (one.kind, one.way, one.flow) == (Kind.RECEIVED, way, flow)
            and start_ms * MS <= one.time_ns <= end_ms * MS
        )
    ]
    return made


def delayed(made: Made, start_ms: int, end_ms: int, way: int = 0) -> Made:
    """The same, but what comes one way in a time comes at its end."""
    records = [
        one._replace(time_ns=end_ms * MS)
        if (one.kind, one.way) == (Kind.RECEIVED, way) and start_ms * MS <= one.time_ns <= end_ms * MS
        else one
        for one in made.records
    ]
    made.records = sorted(records, key=lambda one: one.time_ns)
    return made


@dataclass
class Made:
    """A history in the making: two flows each way, a datagram every 5 ms in each, for ``length_ms``.

    Attributes:
        outages: from and until when what is sent is lost, ms.
    """

    length_ms: int = 2000
    outages: list[tuple[float, float]] = field(default_factory=lambda: [(500.0, 650.0)])
    faults: list[FaultRecord] = field(default_factory=lambda: [kill(500)])
    observed: Observed = field(default_factory=Observed)
    records: list[Record] = field(default_factory=list)

    def __post_init__(self) -> None:
        arriving = []
        for number in range(self.length_ms * MS // STEP_NS):
            sent_ns = number * STEP_NS + 1
            for way in (0, 1):
                for flow in (0, 1):
                    self.records.append(Record(Kind.SENT, way, flow, SIZE, number, sent_ns, 0))
                    came_ns = sent_ns + DELAY_NS
                    if not any(start * MS <= came_ns <= end * MS for start, end in self.outages):
                        arriving.append(Record(Kind.RECEIVED, way, flow, SIZE, number, came_ns, sent_ns))
        self.records += arriving
        self.records.sort(key=lambda record: record.time_ns)
        end_ns = (self.length_ms + 300) * MS
        for way in (0, 1):
            for kind in (Kind.TCP_SENT_END, Kind.TCP_RECEIVED_END):
                self.records.append(Record(kind, way, 0, 0, 1 << 20, end_ns, 77))
        self.records.append(Record(Kind.END, 0, 0, 0, 0, end_ns, 0))

    def history(self) -> History:
        """What the checker is given."""
        return History([self.records], self.faults, self.observed)

    def at(self, kind: Kind, time_ms: float, way: int = 0, flow: int = 0) -> int:
        """Index of the first such record from then on."""
        return next(
            i
            for i, one in enumerate(self.records)
            if (one.kind, one.way, one.flow) == (kind, way, flow) and one.time_ns >= time_ms * MS
        )


def counters(made: Made, node: str) -> NodeCounters:
    """What kernel and bridge count in a node when they agree with the history."""
    away = ("rc", "ep").index(node)
    sent = sum(one.kind == Kind.SENT and one.way == away for one in made.records)
    came = sum(one.kind in {Kind.RECEIVED, Kind.DAMAGED} and one.way != away for one in made.records)
    udp = {"InDatagrams": came, "OutDatagrams": sent, "SndbufErrors": 0, "RcvbufErrors": 0, "InCsumErrors": 0}
    interface = {"rx_packets": came + 10, "tx_packets": sent + 10}
    netdev = {"rx_packets": came + 12, "rx_dropped": 2, "tun_write_drops": 0}
    return NodeCounters(0, node, udp, interface, netdev)
