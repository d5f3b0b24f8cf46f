"""The judge of a chaos run: a pure function of its history.

Nothing may arrive damaged, twice, or out of order within a flow. What is lost has to have been on its way
when a fault came, or sent between the fault and the recovery from it: a datagram that a later one of its
flow overtook before the fault was lost on a healthy bridge. Traffic recovers within bounds, in each flow;
TCP loses no byte; the counters of kernel and bridge agree with the history; no service logs an error outside
a fault; nothing leaks.

A history that is no ground for a verdict (the traffic or the nemesis failed) gives ``unknown``, unless what
arrived is wrong: that needs no more ground.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import pairwise
from statistics import median

from ntbnet.app.chaos_flows import Flow, back_ns
from ntbnet.app.chaos_history import (
    CHANGES,
    LINK_CHANGES,
    WAYS,
    FaultRecord,
    History,
    Kind,
    NodeCounters,
    Record,
    Sample,
)
from ntbnet.app.chaos_judgement import RULES, Judgement, Recovery
from ntbnet.app.chaos_scenario import NODES, OUTAGE_MS, SUPERVISOR, Bounds, Scenario
from ntbnet.app.chaos_services import DIED, judge_services
from ntbnet.app.chaos_waits import ON_PATH, RESTARTING, Waits
from ntbnet.app.chaos_windows import INJECTED, Span, Window, covers, merged, parts_outside, pauses, strikes

MOST_PROBLEMS = 20
"""Of one sort; the rest is counted."""

IDLE_INTERVALS = 3
"""Nothing tried in any flow for so many intervals of one: the sending program was not run."""

SILENT = frozenset({"kill", "stop"})
"""Faults that excuse no error: services die and are replaced, and that is all."""

FlowKey = tuple[int, int, int]
"""Life of the bridge, way, flow."""


def check(history: History, scenario: Scenario) -> Judgement:
    """Judge a history by a scenario's bounds. Reads nothing else."""
    judge = _Judge(history, scenario)
    judge.run()
    return judge.result


class _Judge:
    """One run of the checker."""

    def __init__(self, history: History, scenario: Scenario) -> None:
        self._history = history
        self._scenario = scenario
        self._bounds: Bounds = scenario.bounds
        self._has_tcp = scenario.workload.tcp_kib_s > 0
        self._gaps: list[str] = list(history.observed.gaps)
        self._excess: Counter[str] = Counter()
        self._lost: list[tuple[FlowKey, int, int]] = []
        self._flows: dict[FlowKey, Flow] = {}
        self._acts: list[Window] = []
        self._recovered: list[Span] = []
        self._strikes = strikes(history.observed.events, scenario)
        told = sorted(history.observed.events, key=lambda event: event.time_ns)
        self._changes_ns = [event.time_ns for event in told if event.event in CHANGES]
        self._link_lost_ns = [event.time_ns for event in told if event.event in LINK_CHANGES]
        self._waits = Waits(history.waits)
        idle_ns = IDLE_INTERVALS * scenario.workload.interval_ms * 1_000_000
        self._not_run = [merged(pauses(records, idle_ns)) for records in history.lives]
        """Of each life, when the program that sends and receives was not run."""
        self._no_begin = [[(start - idle_ns, end) for start, end in spans] for spans in self._not_run]
        """The same with what last came before."""
        self.result = Judgement(waits=self._waits.totals())

    def run(self) -> None:
        self._read_traffic()
        self._recover()
        self._judge_loss()
        self._judge_delays()
        self._judge_flows()
        self._judge_outages()
        self._judge_services()
        self._judge_tcp()
        self._judge_counters()
        self._judge_errors()
        self._judge_leaks()
        self._judge_injection()
        self._judge_pressure()
        self._judge_log()
        result = self.result
        result.allowed_for_waits = self._waits.allowed
        result.problems += [f"{text} (and {more} more)" for text, more in self._excess.items()]
        if result.damaged or result.duplicated or result.misordered:
            result.verdict = "failed"
        elif self._gaps:
            result.verdict = "unknown"
        elif result.problems:
            result.verdict = "failed"
        result.problems[:0] = self._gaps

    def _problem(self, sort: str, text: str) -> None:
        if sum(problem.startswith(sort) for problem in self.result.problems) < MOST_PROBLEMS:
            self.result.problems.append(f"{sort}: {text}")
        else:
            self._excess[sort] += 1

    def _limit(
        self, sort: str, span: Span, limit_ms: int, text: str, among: frozenset[str] = ON_PATH
    ) -> None:
        """A problem when a time is longer than its limit and what was waited for a CPU in it."""
        excess = self._waits.excess([span], limit_ms, among)
        if excess:
            self._problem(sort, f"{text}, {excess}")

    # traffic

    def _read_traffic(self) -> None:
        cut = {fault.life for fault in self._history.faults if fault.ends_life}
        for life, records in enumerate(self._history.lives):
            for record in records:
                if record.kind in _OF_FLOWS:
                    key = (life, record.way, record.flow)
                    flow = self._flows.get(key)
                    if flow is None:
                        flow = self._flows[key] = Flow()
                    wrong = flow.take(record)
                    if wrong:
                        self._count(wrong, key, record)
            if life not in cut and not any(record.kind == Kind.END for record in records[-3:]):
                self._gaps.append("the traffic ended too early")
        result = self.result
        for key, flow in self._flows.items():
            result.sent += len(flow.sent)
            result.delivered += len(flow.received)
            self._lost += [(key, sequence, flow.sent[sequence][0]) for sequence in flow.close()]
        result.lost = len(self._lost)
        if not result.sent:
            self._gaps.append("nothing was sent")
        elif not result.delivered:
            self._problem("loss", "nothing at all was delivered")

    def _count(self, wrong: str, key: FlowKey, record: Record) -> None:
        setattr(self.result, wrong, getattr(self.result, wrong) + 1)
        self._problem(wrong, f"datagram {record.sequence} of {_name(key)}")

    # recovery

    def _recover(self) -> None:
        faults = sorted(self._history.faults, key=lambda fault: fault.at_ns)
        acts = [fault for fault in faults if fault.kind != RULES]
        for number, fault in enumerate(acts):
            next_ns = acts[number + 1].at_ns if number + 1 < len(acts) else None
            since_ns = fault.until_ns if fault.kind == "flap" else fault.at_ns
            crossed_ns, missing = self._back(fault, since_ns, next_ns, self._bounds.outage_ms)
            if missing:
                self._problem("recovery", f"no packet crossed after {_told(fault)}: {missing}")
                took_ns = None
                self._acts.append((fault.at_ns, 1 << 63, fault))
            else:
                took_ns = crossed_ns - since_ns
                # what is no outage beside rules that delay packets may cost some all the same
                felt_ns, _ = self._back(fault, since_ns, next_ns, OUTAGE_MS)
                self._acts.append((fault.at_ns, max(crossed_ns, felt_ns, fault.until_ns), fault))
                text = f"{took_ns / 1e6:.0f} ms after {_told(fault)}"
                self._recovered.append((since_ns, crossed_ns))
                self._limit(
                    "recovery", (since_ns, crossed_ns), self._bounds.recovery_max_ms, text, RESTARTING
                )
            self.result.recoveries.append(Recovery(fault, took_ns))
        for fault in faults:
            if fault.kind == RULES:
                self.result.recoveries.append(Recovery(fault, None))
        for reason in self._history.observed.given_up:
            self._problem("recovery", f"awaited in vain after {reason}")
        self._judge_median()

    def _judge_median(self) -> None:
        limit_ms = self._bounds.recovery_p50_ms
        if limit_ms and self._recovered:
            excess = self._waits.excess(self._recovered, limit_ms, RESTARTING)
            if excess:
                self._problem("recovery", f"median {self.result.recovery_ms()['p50']} ms, {excess}")

    def _back(
        self, fault: FaultRecord, since_ns: int, next_ns: int | None, outage_ms: int
    ) -> tuple[int, str]:
        """When the last flow was back; and one that never was, or ""."""
        life = fault.life + 1 if fault.ends_life else fault.life
        crossed_ns, missing = (
            since_ns,
            "" if any(key[0] == life for key in self._flows) else "there is no flow",
        )
        for key, flow in self._flows.items():
            if key[0] == life:
                outage_ns = outage_ms * 1_000_000
                is_felt = partial(self._is_felt, outage_ns, flow)
                end_ns = back_ns(flow.came, since_ns, next_ns, outage_ns, is_felt, self._no_begin[life])
                crossed_ns = max(crossed_ns, end_ns or 0)
                missing = missing or (_name(key) if end_ns is None else "")
        return crossed_ns, missing

    def _is_felt(self, outage_ns: int, flow: Flow, before_ns: int, came_ns: int) -> bool:
        """True for a time without packets that is more than what some process waited for a CPU.

        As with other limits that is measured, and extends what is no outage at most to twice itself. One that
        is shorter is felt when the link was lost in it, and a packet with it.
        """
        misses = flow.misses(before_ns, came_ns)
        if came_ns - before_ns <= outage_ns:
            return misses and _is_within(self._link_lost_ns, before_ns, came_ns)
        if misses or _is_within(self._changes_ns, before_ns - outage_ns, came_ns):
            return True
        waited_ns = min(self._waits.within(before_ns, came_ns, RESTARTING), outage_ns)
        return came_ns - before_ns - waited_ns > outage_ns

    def _is_excused(self, time_ns: int, before_ns: int, windows: Iterable[Window]) -> bool:
        """True in the time of a fault, ``before_ns`` before it or ``settle_ms`` after it."""
        settle_ns = self._bounds.settle_ms * 1_000_000
        return any(start - before_ns <= time_ns <= end + settle_ns for start, end, _ in windows)

    # what may be lost, and how late it may come

    def _judge_loss(self) -> None:
        bounds, result = self._bounds, self.result
        if bounds.loss == "none":
            if result.lost:
                self._problem("loss", f"{result.lost} datagrams, allowed is none")
            return
        if bounds.loss == "counted":
            self._judge_counted_loss()
            return
        injected = sum(self._history.observed.injected.values())
        if bounds.loss == "injected" and result.lost > injected:
            self._problem(
                "loss", f"{result.lost} datagrams, more than the {injected} injected faults explain"
            )
        settle_ns = bounds.settle_ms * 1_000_000
        windows = (*self._acts, *self._strikes)
        during = merged((start, end + settle_ns) for start, end, fault in windows if not fault.ends_life)
        for key, sequence, sent_ns in self._lost:
            # most are, and to ask each fault about each of them took longer than a soak
            if covers(during, sent_ns):
                continue
            reason = self._unexcused(key, sequence, sent_ns)
            if reason:
                self._problem("loss", f"datagram {sequence} of {_name(key)}: {reason}")

    def _judge_counted_loss(self) -> None:
        """Each loss is a packet that the sending node counts, each drop a loss; none is lost on the way."""
        lost = Counter((life, way) for (life, way, _), _, _ in self._lost)
        counted = {
            (node.life, NODES.index(node.node)): _dropped(node) for node in self._history.observed.nodes
        }
        for life, way in lost.keys() | counted.keys():
            number, dropped = lost[life, way], counted.get((life, way), 0)
            # without TCP all packets are datagrams of ours
            if number > dropped or (number < dropped and not self._has_tcp):
                self._problem(
                    "loss",
                    f"{number} datagrams {WAYS[way]}, but {NODES[way]} counts {dropped} dropped packets",
                )
        drivers = {(node.life, node.node): node.netdev for node in self._history.observed.nodes}
        for (life, node), sender in drivers.items():
            receiver = drivers.get((life, NODES[1 - NODES.index(node)]))
            if sender is not None and receiver is not None and sender["tx_packets"] != receiver["rx_packets"]:
                self._problem(
                    "loss",
                    f"the driver of {node} sent {sender['tx_packets']} packets, "
                    f"{receiver['rx_packets']} arrived at the other one",
                )

    def _unexcused(self, key: FlowKey, sequence: int, sent_ns: int) -> str:
        """Why the loss of a datagram is nobody's fault; "" when it is somebody's."""
        before_ns, settle_ns = self._bounds.in_flight_ms * 1_000_000, self._bounds.settle_ms * 1_000_000
        overtaken = False
        for start_ns, end_ns, fault in (*self._acts, *self._strikes):
            if fault.ends_life and key[0] > fault.life:
                continue
            last_ns = 1 << 63 if fault.ends_life else end_ns + settle_ns
            if not start_ns - before_ns <= sent_ns <= last_ns:
                continue
            if sent_ns < start_ns and self._flows[key].had_come(sequence, start_ns):
                overtaken = True
                continue
            return ""
        return "a later one had arrived before the fault" if overtaken else "no fault was near"

    def _judge_delays(self) -> None:
        limit_ns = self._bounds.delay_ms * 1_000_000
        if not limit_ns:
            return
        for key, flow in self._flows.items():
            for sequence, came_ns in flow.received.items():
                sent_ns = flow.sent[sequence][0]
                if came_ns - sent_ns > limit_ns and not self._is_excused(sent_ns, limit_ns, self._acts):
                    text = f"datagram {sequence} of {_name(key)} took {(came_ns - sent_ns) / 1e6:.0f} ms"
                    self._limit("delay", (sent_ns, came_ns), self._bounds.delay_ms, text)

    def _judge_flows(self) -> None:
        """After the last fault every flow goes on: none is stranded."""
        last = len(self._history.lives) - 1
        healed_ns = max((end_ns for _, end_ns, _ in self._acts), default=0)
        healed_ns = max(healed_ns, *(fault.until_ns for fault in self._history.faults), 0)
        healed_ns += self._bounds.settle_ms * 1_000_000
        for key, flow in self._flows.items():
            if key[0] == last and healed_ns < flow.last_sent_ns and flow.last_came_ns < healed_ns:
                self._problem("stranded", f"{_name(key)} delivers nothing after the last fault")

    def _judge_outages(self) -> None:
        """Far from any fault packets flow all the time, or the sending program did not run."""
        bounds, work = self._bounds, self._scenario.workload
        limit_ms = max(bounds.silence_ms, bounds.outage_ms) + 2 * work.reader_pause_ms
        limit_ns = limit_ms * 1_000_000
        settle_ns = bounds.settle_ms * 1_000_000
        near = [(start, end + settle_ns) for start, end, _ in (*self._acts, *self._strikes)]
        excused = [merged([*near, *not_run]) for not_run in self._not_run]
        for key, flow in self._flows.items():
            times = [came_ns for came_ns, _ in flow.came]
            times += [flow.last_tried_ns] if times and flow.last_tried_ns > times[-1] else []
            for before_ns, after_ns in pairwise(times):
                if after_ns - before_ns <= limit_ns:
                    continue
                for part in parts_outside(before_ns, after_ns, excused[key[0]]):
                    silent_ms = (part[1] - part[0]) / 1e6
                    text = f"{_name(key)} was silent for {silent_ms:.0f} ms and no fault was near"
                    self._limit("outage", part, limit_ms, text)

    def _judge_services(self) -> None:
        loses_memory = any(rule.kind == "unlink-memory" for rule in self._scenario.rules)
        events, must_hang = self._history.observed.events, self._bounds.must_hang
        if any(event.service == SUPERVISOR for event in events):
            for text in judge_services(events, self._acts, loses_memory=loses_memory, must_hang=must_hang):
                self._problem("services", text)
        elif must_hang:
            self._gaps.append("the supervisor's log tells nothing")

    def _judge_tcp(self) -> None:
        if not self._has_tcp:
            return
        cut = {fault.life for fault in self._history.faults if fault.ends_life}
        self.result.tcp_ok = True
        for life, records in enumerate(self._history.lives):
            for way, name in enumerate(WAYS):
                ends = {
                    record.kind: record for record in records if record.way == way and record.kind in _OF_TCP
                }
                sent, got = ends.get(Kind.TCP_SENT_END), ends.get(Kind.TCP_RECEIVED_END)
                if got is not None:
                    self.result.tcp_bytes += got.sequence
                if life in cut:
                    continue
                if Kind.TCP_BROKEN in ends:
                    reason = f"gave up, error {ends[Kind.TCP_BROKEN].size}"
                elif sent is None or got is None:
                    reason = "did not end"
                elif (sent.sequence, sent.extra) != (got.sequence, got.extra):
                    reason = f"{got.sequence} of {sent.sequence} bytes, or other bytes"
                elif not got.sequence:
                    reason = "carried nothing"
                else:
                    continue
                self.result.tcp_ok = False
                self._problem("tcp", f"transfer {name}: {reason}")

    # what else was seen

    def _judge_counters(self) -> None:
        cut = {fault.life for fault in self._history.faults if fault.ends_life}
        for node in self._history.observed.nodes:
            if node.life not in cut:
                self._judge_node(node)

    def _judge_node(self, node: NodeCounters) -> None:
        away = NODES.index(node.node)
        flows = {key: flow for key, flow in self._flows.items() if key[0] == node.life}
        sent = sum(len(flow.sent) for key, flow in flows.items() if key[1] == away)
        came = sum(flow.arrivals for key, flow in flows.items() if key[1] != away)
        udp, interface = node.udp, node.interface
        if udp["InCsumErrors"]:
            self.result.damaged += udp["InCsumErrors"]
            self._problem(
                "damaged", f"{udp['InCsumErrors']} datagrams that the kernel of {node.node} refused"
            )
        if udp["RcvbufErrors"]:
            self._gaps.append(f"the receiving program in {node.node} did not keep up: {udp['RcvbufErrors']}")
        out = udp["OutDatagrams"] + udp["SndbufErrors"]
        rows = [
            (out == sent, f"the kernel of {node.node} sent {out} datagrams, the history says {sent}"),
            (
                udp["InDatagrams"] == came,
                f"the kernel of {node.node} received {udp['InDatagrams']} datagrams, the history says {came}",
            ),
            (
                interface["rx_packets"] >= came,
                f"{node.node} got {interface['rx_packets']} packets, but {came} datagrams",
            ),
        ]
        netdev = node.netdev
        if netdev is not None:
            given = netdev["rx_packets"] - netdev["rx_dropped"] - netdev["tun_write_drops"]
            rows.append(
                (
                    0
                    <= given - interface["rx_packets"]
                    <= self._history.observed.injected.get("drop-frame", 0),
                    f"peer-{node.node} gave its node {given} packets, which saw {interface['rx_packets']}",
                )
            )
        for agrees, text in rows:
            if not agrees:
                self._problem("counters", text)

    def _judge_errors(self) -> None:
        # who dies of a signal, or sees others die, has nothing to say that is an error
        near = [*(act for act in self._acts if act[2].kind not in SILENT), *self._strikes]
        for error in self._history.observed.errors:
            excused = error.time_ns is not None and self._is_excused(error.time_ns, 0, near)
            if not error.injected and not excused:
                self._problem("error", f"{error.service}: {error.text}")

    def _judge_leaks(self) -> None:
        observed, bounds = self._history.observed, self._bounds
        for leak in observed.leaks:
            self._leak(f"left after down: {leak}")
        by_service: dict[str, list[Sample]] = {}
        by_process: dict[tuple[str, int], list[Sample]] = {}
        for sample in observed.samples:
            by_service.setdefault(sample.service, []).append(sample)
            by_process.setdefault((sample.service, sample.pid), []).append(sample)
        for service, samples in by_service.items():
            more = samples[-1].descriptors - samples[0].descriptors
            if more > bounds.fd_growth:
                self._leak(f"{service} has {more} more descriptors than at first, allowed {bounds.fd_growth}")
        for service in by_service:
            # what replaces a process is forked anew: it starts no larger than the one before
            sizes = [
                max(sample.anonymous_bytes for sample in samples)
                for (name, _), samples in by_process.items()
                if name == service
            ]
            half = len(sizes) // 2
            more = int(median(sizes[-half:]) - median(sizes[:half])) // 1024 if half > 1 else 0
            if more > bounds.memory_growth_kib:
                self._leak(
                    f"later processes of {service} are {more} KiB larger than earlier ones, "
                    f"allowed {bounds.memory_growth_kib} KiB"
                )
        for (service, pid), samples in by_process.items():
            # a process allocates while it starts: its first sample is no ground when there are others
            base = samples[min(1, len(samples) - 2) if len(samples) > 1 else 0]
            more = (samples[-1].anonymous_bytes - base.anonymous_bytes) // 1024
            if more > bounds.memory_growth_kib:
                self._leak(f"{service} ({pid}) grew by {more} KiB, allowed {bounds.memory_growth_kib} KiB")

    def _leak(self, text: str) -> None:
        self.result.leaks += 1
        self._problem("leak", text)

    def _judge_pressure(self) -> None:
        """That the bridge took less than the nodes sent, when the run is about that."""
        bounds, nodes = self._bounds, self._history.observed.nodes
        stops = sum(node.netdev.get("tx_stops", 0) for node in nodes if node.netdev is not None)
        dropped = sum(map(_dropped, nodes))
        for number, least, what in (
            (stops, bounds.min_stops, "times a full ring stopped a sender"),
            (dropped, bounds.min_dropped, "packets were dropped for want of room"),
        ):
            if number < least:
                self._gaps.append(f"only {number} {what}, at least {least} make a test")

    def _judge_log(self) -> None:
        """The log accounts for every injected fault, unless who injected it was killed before it told."""
        observed = self._history.observed
        if self._scenario.faults or any(event.event == DIED for event in observed.events):
            return
        told: Counter[str] = Counter()
        for event in observed.events:
            if event.event in INJECTED:
                told[event.kind] += event.count
        for kind, times in observed.injected.items():
            if told[kind] < times:
                self._gaps.append(f"the logs tell of {told[kind]} of {times} faults {kind}")

    def _judge_injection(self) -> None:
        observed = self._history.observed
        injected = self.result.injected = sum(observed.injected.values())
        self.result.rules = observed.rules
        for number, rule in enumerate(observed.rules):
            least = max((rule.expected or 0) // 2, 1)
            if rule.injected < least:
                self._gaps.append(
                    f"rule {number} ({rule.kind}) struck {rule.injected} times, at least {least} make a test"
                )
            least = min(rule.again_wanted, self._bounds.min_again)
            if rule.again < least:
                self._gaps.append(
                    f"rule {number} ({rule.kind}) had interrupts come {rule.again} times again, "
                    f"at least {least} make a test"
                )
            least = min(rule.again_wanted // 2, self._bounds.min_handled)
            if rule.handled < least:
                self._gaps.append(
                    f"rule {number} ({rule.kind}) had a handler run {rule.handled} times, "
                    f"at least {least} make a test"
                )
        if self._scenario.rules and len(observed.rules) != len(self._scenario.rules):
            self._gaps.append("nothing was counted of what the rules did")
        done = sum(fault.kind != RULES for fault in self._history.faults)
        if not observed.given_up and done < observed.planned:
            self._gaps.append(f"only {done} of {observed.planned} faults were done")
        if injected < self._bounds.min_injected:
            self._gaps.append(
                f"only {injected} faults were injected, at least {self._bounds.min_injected} make a test"
            )
        if not self._history.faults:
            self._gaps.append("no fault happened")


_OF_FLOWS = frozenset({Kind.SENT, Kind.RECEIVED, Kind.DAMAGED, Kind.REFUSED})
_OF_TCP = frozenset({Kind.TCP_SENT_END, Kind.TCP_RECEIVED_END, Kind.TCP_BROKEN})


def _name(key: FlowKey) -> str:
    return f"flow {key[2]} {WAYS[key[1]]}"


def _dropped(node: NodeCounters) -> int:
    """Packets that a node wanted to send and the bridge did not take."""
    netdev = node.netdev or {}
    return (
        node.interface.get("tx_dropped", 0) + netdev.get("tx_dropped", 0) + netdev.get("tx_dropped_busy", 0)
    )


def _told(fault: FaultRecord) -> str:
    words = [fault.kind, "of", " and ".join(fault.services), fault.note]
    return f"fault {fault.number} ({' '.join(word for word in words if word)})"


def _is_within(times_ns: Sequence[int], from_ns: int, until_ns: int) -> bool:
    """True when one of ``times_ns``, which are in order, is then."""
    at = bisect_left(times_ns, from_ns)
    return at < len(times_ns) and times_ns[at] <= until_ns
