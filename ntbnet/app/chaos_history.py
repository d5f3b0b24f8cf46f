"""What a chaos run writes down, and what its checker reads: nothing else passes between the two.

A history is a folder::

    scenario.toml     the scenario, as it was run
    run.json          seed, fabric, and what was asked for
    traffic-N.bin     what the programs in the nodes sent and received; N counts the lives of the bridge
    faults.jsonl      what was done to the bridge, and when
    observed.json     counters, errors, memory and descriptors, what was left after `down`
    waits.jsonl       how long processes waited for a CPU, sample by sample; not there: nobody knows
    logs/             the services' logs

``traffic-N.bin`` is a row of 32-byte records, little-endian: kind (1 byte, see ``Kind``), way (1; 0 is
rc to ep, 1 ep to rc), flow (2), size (4), sequence (8), time (8, monotonic ns), extra (8). A record cut
short at the end means that its writer was killed.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

from ntbnet.edge.carrier import CarrierChange

RECORD = struct.Struct("<BBHIQQQ")
WAYS = ("rc->ep", "ep->rc")
FAULTS_FILE = "faults.jsonl"
OBSERVED_FILE = "observed.json"
RUN_FILE = "run.json"
WAITS_FILE = "waits.jsonl"
SCENARIO_FILE = "scenario.toml"


CHANGES = frozenset(
    {
        "link.changed",
        "netdev.carrier_changed",
        "path.changed",
        "service.started",
        "supervisor.service_died",
        "supervisor.service_started",
        "transport.queue_changed",
    }
)
"""Events that tell of an outage, or of its end."""
LINK_CHANGES = frozenset({"link.changed", "netdev.carrier_changed"})
"""Those that cost packets."""


class Kind(IntEnum):
    """What a record of traffic tells."""

    SENT = 1
    """A datagram was handed to the node's kernel: flow, size, sequence."""
    RECEIVED = 2
    """A whole datagram came; extra is the time at which it was sent."""
    DAMAGED = 3
    """Bytes came whose checksum, length, flow or way is wrong."""
    TCP_SENT = 4
    """So far that many bytes (in sequence) were handed to TCP."""
    TCP_RECEIVED = 5
    """So far that many bytes came."""
    TCP_SENT_END = 6
    """All that was to be sent; sequence is its length, extra its digest."""
    TCP_RECEIVED_END = 7
    """The stream ended; sequence is its length, extra its digest."""
    TCP_BROKEN = 8
    """TCP gave up; size is the error number."""
    END = 9
    """The writer ended in order; nothing follows."""
    REFUSED = 10
    """The node's kernel refused a datagram (no carrier, a full queue); sequence is that of the next one."""


class Record(NamedTuple):
    """One record of traffic."""

    kind: int
    way: int
    flow: int
    size: int
    sequence: int
    time_ns: int
    extra: int


@dataclass(frozen=True, slots=True)
class FaultRecord:
    """Something that was done to the bridge.

    Attributes:
        number: 0 for the first of the run.
        kind: as in the scenario; ``rules`` for the whole time in which the fault layer was active.
        services: who was hit.
        at_ns: monotonic; for a crash, the death.
        until_ns: when it was over (a stop, a flap, the rules); equal to ``at_ns`` for what has no length.
        note: what else is to be said, such as the crash point.
        life: of the bridge, as in traffic-N.bin.
        ends_life: the bridge was taken down by it; the traffic of that life ends here.
    """

    number: int
    kind: str
    services: tuple[str, ...]
    at_ns: int
    until_ns: int
    note: str = ""
    life: int = 0
    ends_life: bool = False


@dataclass(frozen=True, slots=True)
class LoggedError:
    """An event of level error, or a line on a service's stderr (then without a time)."""

    service: str
    event: str
    time_ns: int | None
    injected: bool
    text: str


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """An event of a service's log that the checker heeds.

    Attributes:
        service: who logged it.
        event: its name.
        time_ns: monotonic.
        kind: of an injected fault; else "".
        name: of the service that the supervisor speaks of; else "".
        path: on which an injected fault struck; else "".
        count: injected faults that it tells of.
        since_ns: monotonic; the first of them.
        until_ns: monotonic; the last of them.
    """

    service: str
    event: str
    time_ns: int
    kind: str = ""
    name: str = ""
    path: str = ""
    count: int = 1
    since_ns: int | None = None
    until_ns: int | None = None


@dataclass(frozen=True, slots=True)
class RuleCount:
    """How often one rule of the fault layer struck.

    Attributes:
        kind: of the fault.
        injected: times.
        expected: times that rate and traffic let expect; None where the traffic it is about is not counted.
        again: interrupts that came again by it at whom they interrupt.
        again_wanted: interrupts that had to come again.
        handled: runs of a handler for those that came again; equal ones in a row share runs.
    """

    kind: str
    injected: int
    expected: int | None = None
    again: int = 0
    again_wanted: int = 0
    handled: int = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """What one process held at one moment.

    Anonymous memory, not private memory: pages that a fork shares with the fork server become private
    to either of them when the other one ends, though nobody took more.
    """

    time_ns: int
    service: str
    pid: int
    anonymous_bytes: int
    descriptors: int


@dataclass(frozen=True, slots=True)
class WaitSample:
    """What was waited since the sample before, and what others ran.

    Attributes:
        time_ns: monotonic.
        waited_ns: process -> time for which that of its threads that waited longest was ready to run and did
            not; who did not wait is left out. The kernel counts a wait when it ends.
        stolen_ns: time in which a CPU of this machine was to run and the machine's host let it not; of the
            CPU that lost most.
        others_ran_ns: time for which the CPUs of this machine, together, ran anything but the processes of
            this run; below 0 where what one of those ran became known later.
    """

    time_ns: int
    waited_ns: Mapping[str, int] = field(default_factory=dict)
    stolen_ns: int = 0
    others_ran_ns: int = 0


@dataclass(frozen=True, slots=True)
class NodeCounters:
    """What the kernel of one node, and the bridge's service in it, counted during one life of the bridge.

    Attributes:
        life: of the bridge.
        node: rc or ep.
        udp: of /proc/net/snmp, increase over the life.
        interface: ``rx_packets`` that the bridge gave to the node, ``tx_packets`` that the node gave to the
            bridge, ``tx_dropped`` that the bridge did not take in time; increase over the life.
        netdev: the peer service's own counters, increase over the life; None when it was restarted, or its
            driver was, since those counters begin anew then.
    """

    life: int
    node: str
    udp: Mapping[str, int]
    interface: Mapping[str, int]
    netdev: Mapping[str, int] | None


@dataclass(frozen=True, slots=True)
class Observed:
    """What was seen of the bridge from outside its traffic."""

    errors: tuple[LoggedError, ...] = ()
    injected: Mapping[str, int] = field(default_factory=dict)
    """Faults that the fault layer says it injected, by kind."""
    rules: tuple[RuleCount, ...] = ()
    """The same by rule, in the scenario's order."""
    events: tuple[LoggedEvent, ...] = ()
    """In the order of time."""
    planned: int = 0
    """Steps that the schedule has; 0 when it goes on for a time."""
    given_up: tuple[str, ...] = ()
    """After what a recovery was awaited in vain."""
    samples: tuple[Sample, ...] = ()
    nodes: tuple[NodeCounters, ...] = ()
    carriers: tuple[CarrierChange, ...] = ()
    """Of the nodes' interfaces, as the kernel told it, in the order of time."""
    leaks: tuple[str, ...] = ()
    """What was left on the machine after ``down``."""
    gaps: tuple[str, ...] = ()
    """Why this history is no ground for a verdict: a part of the test itself failed."""


@dataclass(frozen=True, slots=True)
class History:
    """All of it.

    Attributes:
        lives: records of each life of the bridge, in the order they were written.
        faults: in the order of time.
        observed: all but the traffic.
        waits: for CPUs, in the order of time; none where the kernel does not count them.
    """

    lives: Sequence[Sequence[Record]]
    faults: Sequence[FaultRecord]
    observed: Observed
    waits: Sequence[WaitSample] = ()


def pack(kind: Kind, way: int, flow: int, size: int, sequence: int, time_ns: int, extra: int = 0) -> bytes:
    """One record."""
    return RECORD.pack(kind, way, flow, size, sequence, time_ns, extra)


def unpack(data: bytes) -> list[Record]:
    """Whole records of ``data``; a part of one at the end is left out."""
    whole = len(data) - len(data) % RECORD.size
    return [Record(*fields) for fields in RECORD.iter_unpack(memoryview(data)[:whole])]


def traffic_path(folder: Path, life: int) -> Path:
    """File of the traffic of one life of the bridge."""
    return folder / f"traffic-{life}.bin"


class Tail:
    """Records of a file that still grows, each once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def new(self) -> list[Record]:
        """What was written since the last call."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return []
        records = unpack(data)
        self._offset += len(records) * RECORD.size
        return records


class FaultLog:
    """Appends to ``faults.jsonl``; a killed run keeps what was done so far."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FAULTS_FILE
        self.records: list[FaultRecord] = []

    def add(self, record: FaultRecord) -> None:
        """Write one down."""
        self.records.append(record)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(record)) + "\n")


def write_observed(folder: Path, observed: Observed) -> None:
    """Write ``observed.json``."""
    (folder / OBSERVED_FILE).write_text(json.dumps(asdict(observed), indent=1), encoding="utf-8")


def write_waits(folder: Path, waits: Iterable[WaitSample]) -> None:
    """Write ``waits.jsonl``."""
    with (folder / WAITS_FILE).open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(asdict(sample)) + "\n" for sample in waits)


def read(folder: Path) -> History:
    """The history in a folder.

    Raises:
        OSError: a file of it is missing.
        ValueError, TypeError, KeyError: one is damaged.
    """
    faults = []
    if (folder / FAULTS_FILE).exists():
        for line in (folder / FAULTS_FILE).read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            faults.append(FaultRecord(**{**row, "services": tuple(row["services"])}))
    body = json.loads((folder / OBSERVED_FILE).read_text(encoding="utf-8"))
    observed = Observed(
        errors=tuple(LoggedError(**row) for row in body["errors"]),
        injected=body["injected"],
        rules=tuple(RuleCount(**row) for row in body["rules"]),
        events=tuple(LoggedEvent(**row) for row in body["events"]),
        planned=body["planned"],
        given_up=tuple(body["given_up"]),
        samples=tuple(Sample(**row) for row in body["samples"]),
        nodes=tuple(NodeCounters(**row) for row in body["nodes"]),
        carriers=tuple(CarrierChange(**row) for row in body.get("carriers", ())),
        leaks=tuple(body["leaks"]),
        gaps=tuple(body["gaps"]),
    )
    lives = [unpack(path.read_bytes()) for path in _traffic(folder)]
    return History(lives, faults, observed, list(_waits(folder)))


def _waits(folder: Path) -> Iterator[WaitSample]:
    path = folder / WAITS_FILE
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            yield WaitSample(**json.loads(line))


def _traffic(folder: Path) -> Iterator[Path]:
    life = 0
    while (path := traffic_path(folder, life)).exists():
        yield path
        life += 1
