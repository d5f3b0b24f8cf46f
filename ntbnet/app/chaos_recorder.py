"""What a chaos run sees of its bridge beside the traffic: counters, memory, waits, logs, leaks."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

from ntbnet import topology
from ntbnet.app.bridge import Bridge
from ntbnet.app.chaos_history import CHANGES, LoggedError, LoggedEvent, NodeCounters, Sample
from ntbnet.app.chaos_scenario import NODES, SUPERVISOR
from ntbnet.app.chaos_schedstat import WaitSampler
from ntbnet.app.chaos_waits import FORK_SERVER, TRAFFIC
from ntbnet.app.forks import MODULE as FORK_SERVER_MODULE
from ntbnet.edge.carrier import CarrierChange, CarrierWatch
from ntbnet.edge.log_rotation import place_of
from ntbnet.edge.netns import inside, netns_inode
from ntbnet.edge.node import spec_from
from ntbnet.edge.process import ProcessRecord, alive, record_of
from ntbnet.edge.shm import SHM_FOLDER

UDP_KEYS = ("InDatagrams", "OutDatagrams", "SndbufErrors", "RcvbufErrors", "InCsumErrors")
SAMPLE_INTERVAL_NS = 2_000_000_000
RECORDER = "recorder"
GROWN_S = 2.0
"""A younger process still imports and allocates."""
MOST_ERRORS = 1000
HEEDED = (
    *sorted(CHANGES),
    "chaos.fault_injected",
    "chaos.faults_counted",
    "supervisor.service_hung",
)
"""Events that the checker is told of."""
_TEXT_CHARACTERS = 300


class Recorder:
    """Looks at a running bridge.

    Args:
        bridge: started anew, perhaps, in the course of the run.
        log_folder: where its services log.
    """

    def __init__(self, bridge: Bridge, log_folder: Path) -> None:
        self._bridge = bridge
        self._log_folder = log_folder
        self._before: dict[str, dict[str, Any]] = {}
        self._seen: dict[str, ProcessRecord] = {}
        self._next_ns = 0
        self.samples: list[Sample] = []
        self.nodes: list[NodeCounters] = []
        self.carriers: list[CarrierChange] = []
        self._watch: CarrierWatch | None = None
        self.waits = WaitSampler()
        self._fork_server: ProcessRecord | None = None
        self.traffic_pid: int | None = None

    def look(self) -> None:
        """Sample what is due."""
        now_ns = time.monotonic_ns()
        if self.waits.is_due(now_ns):
            self.sample_waits()
        if now_ns >= self._next_ns:
            self.sample()

    # carriers

    def _watch_carriers(self) -> None:
        config, name = self._bridge.config, self._bridge.run.name
        specs = [spec_from(config, name, node) for node in NODES]
        self._watch = CarrierWatch({spec.node: (spec.netns, spec.tun) for spec in specs})

    def close(self) -> None:
        """Watch carriers no more. Idempotent."""
        if self._watch is not None:
            self._watch.close()
            self.carriers += self._watch.changes
            self._watch = None

    # counters

    def begin_life(self) -> None:
        """Before the first datagram."""
        self.close()  # the nodes of an earlier life are gone
        self._watch_carriers()
        self._before = self._counters()

    def end_life(self, life: int) -> None:
        """After the last one."""
        self.sample_waits()
        after = self._counters()
        for node, now in after.items():
            then = self._before[node]
            lived_on = then["netdev"] is not None and now["netdev"] is not None and then["who"] == now["who"]
            self.nodes.append(
                NodeCounters(
                    life,
                    node,
                    _increase(then["udp"], now["udp"]),
                    _increase(then["interface"], now["interface"]),
                    _increase(then["netdev"], now["netdev"]) if lived_on else None,
                )
            )

    def _counters(self) -> dict[str, dict[str, Any]]:
        answers, config = self._bridge.answers(), self._bridge.config
        found = {}
        for node in NODES:
            service = f"peer-{node}"
            answer = answers.get(service, {})
            netdev = answer.get("netdev")
            with inside(spec_from(config, self._bridge.run.name, node).netns):
                udp = Path("/proc/thread-self/net/snmp").read_text(encoding="ascii")
                interfaces = Path("/proc/thread-self/net/dev").read_text(encoding="ascii")
            found[node] = {
                "udp": _snmp(udp, "Udp"),
                "interface": _interface(interfaces, config.netdev.tun),
                "netdev": netdev
                and {
                    **netdev,
                    "tun_write_drops": answer.get("tun_write_drops", 0),
                    "tx_dropped_busy": answer.get("counters", {}).get("tx_dropped_busy", 0),
                },
                # the driver's counters begin anew with each start of the service and each link epoch
                "who": (self._bridge.run.process(service), answer.get("link", {}).get("epoch")),
            }
        return found

    # waits for a CPU

    def sample_waits(self) -> None:
        """How long each process of this run waited since the last time; what ours runs is not of others."""
        run = self._bridge.run
        record = run.read_run()
        found = {name: run.process(name) for name in topology.SERVICES}
        found[SUPERVISOR] = record.supervisor if record else None
        found[FORK_SERVER] = self._fork_server
        pids = {name: process.pid for name, process in found.items() if process is not None}
        if self.traffic_pid is not None:
            pids[TRAFFIC] = self.traffic_pid
        self.waits.sample({**pids, RECORDER: os.getpid()})

    # memory and descriptors

    def sample(self) -> None:
        """What every process holds that is not just starting."""
        time_ns = time.monotonic_ns()
        self._next_ns = time_ns + SAMPLE_INTERVAL_NS
        run = self._bridge.run
        record = run.read_run()
        processes = {name: run.process(name) for name in topology.SERVICES}
        processes[SUPERVISOR] = record.supervisor if record else None
        processes[FORK_SERVER] = self._fork_server = min(
            _named(run.name, {FORK_SERVER_MODULE.encode()}), key=lambda one: one.start_ticks, default=None
        )
        for name, process in processes.items():
            if process is None or not alive(process) or _age_s(process) < GROWN_S:
                continue
            self._seen[f"{name} {process.pid}"] = process
            try:
                held = _anonymous_bytes(process.pid)
                descriptors = sum(1 for _ in Path(f"/proc/{process.pid}/fd").iterdir())
            except OSError:
                continue  # it has just ended
            self.samples.append(Sample(time_ns, name, process.pid, held, descriptors))

    # the end

    def leaks(self) -> list[str]:
        """What is on the machine of the bridge, in words, once it is down."""
        run, config = self._bridge.run, self._bridge.config
        modules = {words[0].encode() for words in topology.MODULES.values()} | {FORK_SERVER_MODULE.encode()}
        spaces = [spec_from(config, run.name, node).netns for node in NODES]
        found = [f"namespace {space}" for space in spaces if netns_inode(space) is not None]
        found += [f"memory {path}" for path in sorted(SHM_FOLDER.glob(f"ntbnet.{run.name}.*"))]
        found += [f"run folder {run.path}"] if run.exists() else []
        found += [f"process {name}" for name, process in self._seen.items() if alive(process)]
        found += [f"process {record.pid}" for record in _named(run.name, modules)]
        return found

    def errors(self, stderrs: Mapping[str, str]) -> list[LoggedError]:
        """Events of level error, and what was said on stderr.

        Args:
            stderrs: service -> text, kept before the run folder went.
        """
        found = []
        for path in sorted(self._log_folder.glob("*.jsonl")):
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                if '"level":"error"' not in line and line.startswith("{"):
                    continue
                found.append(_logged(place_of(path)[0], line))
        for service, text in stderrs.items():
            found += [
                LoggedError(service, "stderr", None, False, line[:_TEXT_CHARACTERS])
                for line in text.splitlines()
            ]
        return found[:MOST_ERRORS]

    def events(self) -> list[LoggedEvent]:
        """What the checker heeds of the logs, in the order of time."""
        found = []
        for path in sorted(self._log_folder.glob("*.jsonl")):
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                if any(event in line for event in HEEDED):
                    found += _event(place_of(path)[0], line)
        return sorted(found, key=lambda event: event.time_ns)

    def stderrs(self) -> dict[str, str]:
        """What each service has said on stderr so far."""
        found = {}
        for service in topology.SERVICES:
            path = self._bridge.run.stderr_path(service)
            found[service] = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        return found


def _event(service: str, line: str) -> list[LoggedEvent]:
    try:
        fields = json.loads(line)
    except ValueError:
        return []  # half a line of a killed process
    if fields.get("event") not in HEEDED:
        return []
    kind, name, path = (str(fields.get(key) or "") for key in ("kind", "name", "path"))
    return [
        LoggedEvent(
            service,
            str(fields["event"]),
            int(fields.get("mono_ns", 0)),
            kind,
            name,
            path,
            count=int(fields.get("count", 1)),
            since_ns=fields.get("first_ns"),
            until_ns=fields.get("last_ns"),
        )
    ]


def _logged(service: str, line: str) -> LoggedError:
    try:
        fields = json.loads(line)
    except ValueError:
        # a killed process may leave half a line; the next one of the file begins behind it
        return LoggedError(service, "half a line", 0, True, line[:_TEXT_CHARACTERS])
    keys = {key: value for key, value in fields.items() if key not in {"wall", "run_id", "node", "level"}}
    return LoggedError(
        service,
        str(fields.get("event")),
        int(fields.get("mono_ns", 0)),
        bool(fields.get("injected")),
        json.dumps(keys)[:_TEXT_CHARACTERS],
    )


def _age_s(process: ProcessRecord) -> float:
    """Since its start. Source: proc(5), /proc/uptime and the start time in clock ticks."""
    uptime_s = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
    return uptime_s - process.start_ticks / os.sysconf("SC_CLK_TCK")


def _anonymous_bytes(pid: int) -> int:
    """Memory of a process that no file backs, shared by fork or not.

    Raises:
        OSError: the process ended.

    Source: proc(5), /proc/<pid>/smaps_rollup, Anonymous.
    """
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
        key, _, rest = line.partition(":")
        if key == "Anonymous":
            return int(rest.split()[0]) * 1024
    raise ProcessLookupError(pid)


def _increase(then: Mapping[str, int], now: Mapping[str, int]) -> dict[str, int]:
    return {key: now[key] - then[key] for key in then}


def _snmp(text: str, protocol: str) -> dict[str, int]:
    """Counters of a protocol. Source: proc(5), /proc/net/snmp: a line of names, a line of numbers."""
    names, numbers = (line.split()[1:] for line in text.splitlines() if line.startswith(f"{protocol}:"))
    found = dict(zip(names, map(int, numbers), strict=True))
    return {key: found.get(key, 0) for key in UDP_KEYS}


def _interface(text: str, name: str) -> dict[str, int]:
    """Packets of an interface. Source: proc(5), /proc/net/dev: 8 numbers received, 8 sent."""
    for line in text.splitlines():
        label, _, numbers = line.partition(":")
        if label.strip() == name:
            fields = numbers.split()
            found = {"rx_packets": fields[1], "tx_packets": fields[9], "tx_dropped": fields[11]}
            return {key: int(value) for key, value in found.items()}
    return {"rx_packets": 0, "tx_packets": 0, "tx_dropped": 0}


def _named(name: str, modules: AbstractSet[bytes]) -> Iterator[ProcessRecord]:
    """Living processes of the bridge of that name that run one of those modules."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if modules & set(words) and name.encode() in words:
            record = record_of(int(entry.name))
            if record is not None:
                yield record
