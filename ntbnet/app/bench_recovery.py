"""How long packets stay away when a service is killed."""

from __future__ import annotations

import signal
import socket
import struct
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, Self

from ntbnet.app.bench_lab import Direction, Lab
from ntbnet.app.bench_samples import Samples
from ntbnet.app.bench_traffic import poll_period_ms
from ntbnet.app.stop_request import readable
from ntbnet.edge.netns import inside
from ntbnet.edge.process import send_signal
from ntbnet.errors import SetupError

PROBE_INTERVAL_NS = 5_000_000
PROBE_PORT = 11112
OUTAGE_POLLS = 4
"""A gap between replies counts as an outage when it is longer than that many doorbell polls."""
BEFORE_NS = 300_000_000
"""How long probes must cross before the kill."""
AFTER_NS = 1_500_000_000
"""How long after the replacement started a late outage is still looked for."""
FLOWING_NS = 100_000_000
TIMEOUT_NS = 20_000_000_000

_NUMBER = struct.Struct("<Q")

Reply = tuple[int, int]
"""Monotonic ns at which a probe was sent, and at which its echo came back."""


class EchoProbes:
    """Numbered UDP datagrams to a node that echoes them: a reply shows that both directions work.

    Use as a context manager. One thread does all of it: the sockets keep the namespaces they were
    made in.
    """

    def __init__(self, way: Direction) -> None:
        self._way = way
        self._stack = ExitStack()
        self._sent_ns: list[int] = []
        self._next_ns = 0
        self.replies: list[Reply] = []
        """In the order they came."""

    def __enter__(self) -> Self:
        with self._stack:
            with inside(self._way.receiver):
                self._echo = self._stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                self._echo.bind((self._way.address, PROBE_PORT))
            with inside(self._way.sender):
                self._sender = self._stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                self._sender.connect((self._way.address, PROBE_PORT))
            for end in (self._echo, self._sender):
                end.setblocking(False)
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self, is_done: Callable[[int], bool]) -> None:
        """Probe until ``is_done(now_ns)``, which is asked after each probe."""
        while True:
            now_ns = time.monotonic_ns()
            if now_ns >= self._next_ns:
                self._probe(now_ns)
                if is_done(now_ns):
                    return
            left_s = max(self._next_ns - time.monotonic_ns(), 0) / 1e9
            found = readable([self._echo, self._sender], left_s)
            if self._echo in found:
                self._answer()
            if self._sender in found:
                self._collect()

    def _probe(self, now_ns: int) -> None:
        self._next_ns = max(self._next_ns + PROBE_INTERVAL_NS, now_ns)
        number = len(self._sent_ns)
        self._sent_ns.append(now_ns)
        try:
            self._sender.send(_NUMBER.pack(number))
        except OSError:
            return  # no carrier or a full queue: that probe is lost, as a packet would be

    def _answer(self) -> None:
        try:
            probe, sender = self._echo.recvfrom(_NUMBER.size)
            self._echo.sendto(probe, sender)
        except OSError:
            return

    def _collect(self) -> None:
        try:
            reply = self._sender.recv(_NUMBER.size + 1)
        except OSError:
            return
        if len(reply) == _NUMBER.size:
            number = _NUMBER.unpack(reply)[0]
            if number < len(self._sent_ns):
                self.replies.append((self._sent_ns[number], time.monotonic_ns()))

    def flows(self, now_ns: int) -> bool:
        """True when a reply came lately."""
        return bool(self.replies) and now_ns - self.replies[-1][1] < FLOWING_NS


def recovery_ns(replies: Sequence[Reply], killed_ns: int, outage_ns: int) -> int | None:
    """From the kill to the reply that ended the last outage after it.

    Only probes sent after the kill count. When there was no outage (a gap longer than
    ``outage_ns``), the first reply counts; None when there is none at all.
    """
    last_ns, resumed_ns = killed_ns, None
    for sent_ns, received_ns in replies:
        if sent_ns > killed_ns:
            if resumed_ns is None or received_ns - last_ns > outage_ns:
                resumed_ns = received_ns
            last_ns = received_ns
    return None if resumed_ns is None else resumed_ns - killed_ns


def kill_and_wait(lab: Lab, service: str, probes: EchoProbes) -> float:
    """SIGKILL one service under probes; milliseconds until packets crossed again, for good.

    Raises:
        SetupError: the service does not run, is not replaced, or packets stay away.
    """
    run = lab.bridge.run
    outage_ns = int(OUTAGE_POLLS * poll_period_ms(lab.config) * 1e6)
    began_ns = time.monotonic_ns()

    def too_long(now_ns: int, what: str) -> None:
        if now_ns - began_ns > TIMEOUT_NS:
            raise SetupError(f"{service} was killed: {what} for {TIMEOUT_NS // 10**9} s")

    def flows(now_ns: int) -> bool:
        too_long(now_ns, "before that, no packet crossed")
        return now_ns - began_ns >= BEFORE_NS and probes.flows(now_ns)

    probes.run(flows)
    victim = run.process(service)
    if victim is None or not send_signal(victim, signal.SIGKILL):
        raise SetupError(f"{service} does not run")
    killed_ns = began_ns = time.monotonic_ns()
    replaced_ns = 0

    def settled(now_ns: int) -> bool:
        nonlocal replaced_ns
        too_long(now_ns, "it was not replaced, or no packet crossed")
        if not replaced_ns:
            if run.process(service) not in {victim, None}:
                replaced_ns = now_ns
            return False
        return now_ns - replaced_ns >= AFTER_NS and probes.flows(now_ns)

    probes.run(settled)
    took_ns = recovery_ns(probes.replies, killed_ns, outage_ns)
    assert took_ns is not None, "packets flow, so one crossed after the kill"
    return took_ns / 1e6


def recovery(lab: Lab, services: Sequence[str], rounds: int) -> dict[str, Any]:
    """Kill each service in turn, ``rounds`` times; milliseconds by service and over all."""
    taken: dict[str, list[float]] = {service: [] for service in services}
    for number in range(rounds):
        for service in services:
            lab.say(f"killing {service}, round {number + 1} of {rounds}")
            with EchoProbes(lab.direction("rc", "ep")) as probes:
                taken[service].append(kill_and_wait(lab, service, probes))
            lab.bridge.wait_for_link(TIMEOUT_NS / 1e9)
    every = [value for values in taken.values() for value in values]
    return {
        "all_ms": Samples.of(every, 1).as_json(),
        "service_ms": {service: Samples.of(values, 1).as_json() for service, values in taken.items()},
    }
