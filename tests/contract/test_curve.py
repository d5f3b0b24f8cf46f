"""Keys on real sockets of one loop: who gets in, who does not, and what is said about it."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import zmq

from ntbnet.edge import curve
from ntbnet.edge.bus import ZmqBus
from ntbnet.edge.curve import Guard
from ntbnet.edge.keys import KeyPair, KeyRing
from ntbnet.log import Logger
from tests.live.traffic import free_ports

PATIENCE_S = 10.0


def pair() -> KeyPair:
    public, secret = zmq.curve_keypair()
    return KeyPair(public.decode(), secret.decode())


class Process:
    """A bus of one process on this loop, what came, and what it logged."""

    def __init__(self, neighbours: dict[str, tuple[str, str]], ring: KeyRing | None, label: str) -> None:
        self.stream = io.StringIO()
        self.came: asyncio.Queue[bytes] = asyncio.Queue()
        log = Logger(self.stream, "info", {})
        self.guard = None if ring is None else Guard(ring, [label], 300, log)
        self.bus = ZmqBus(neighbours, self._on_message, lambda _: None, self.guard)
        self.bus.start(asyncio.get_running_loop())

    def _on_message(self, _label: str, header: bytes, payload: bytes | memoryview) -> None:
        self.came.put_nowait(header + bytes(payload))

    def events(self, event: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.stream.getvalue().splitlines()]
        return [line for line in lines if line["event"] == event]


class Lab:
    """An epc that listens, and whoever connects to it."""

    def __init__(self, stack: ExitStack) -> None:
        self.host = "127.0.0.1"
        self._stack = stack
        self.ours, self.theirs = pair(), pair()
        first = free_ports(2)
        self.ports = first, first + 1

    def listen(self, allowed: dict[str, str]) -> Process:
        ends = tuple(f"tcp://{self.host}:{port}" for port in self.ports)
        ring = KeyRing(self.ours, allowed, self.theirs.public)
        return self._keep(Process({"rc-host": (ends[0], ends[1])}, ring, "rc-host"))

    def connect(self, own: KeyPair | None, server: str) -> Process:
        ends = tuple(f"tcp://{self.host}:{port}" for port in self.ports)
        ring = None if own is None else KeyRing(own, {"epc": server}, server)
        return self._keep(Process({"epc": (ends[1], ends[0])}, ring, "epc"))

    def _keep(self, process: Process) -> Process:
        self._stack.callback(process.bus.close)
        return process


@pytest.fixture
def lab() -> Iterator[Lab]:
    with ExitStack() as stack:
        yield Lab(stack)


async def until(condition: Callable[[], object]) -> None:
    """Until libzmq has done something: it wakes the guard and nobody else."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - there is no event of ours to wait for
            await asyncio.sleep(0.01)


async def until_counted(process: Process, counter: str, count: int = 1) -> None:
    """Until the guard has counted that many."""
    guard = process.guard
    assert guard is not None
    await until(lambda: guard.counters[counter] >= count)


async def until_cause(process: Process, direction: str, cause: str) -> None:
    """Until a failed handshake of that direction was logged with that cause, once."""

    def causes() -> list[str]:
        return [
            line["cause"]
            for line in process.events("security.handshake_failed")
            if line["direction"] == direction and cause in line["cause"]
        ]

    await until(causes)
    assert len(causes()) == len(set(causes()))


async def say(process: Process, frame: bytes) -> None:
    """Send until the connection takes it."""
    label = next(iter(process.bus._out))
    await until(lambda: process.bus.send_now(label, frame, b""))


HELLO = bytes(64)


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
async def test_allowed_key_gets_in_both_ways_and_nothing_is_logged(lab: Lab, host: str) -> None:
    lab.host = host
    epc = lab.listen({"lab": lab.theirs.public})
    rc_host = lab.connect(lab.theirs, lab.ours.public)

    await say(rc_host, HELLO)
    await say(epc, HELLO)

    async with asyncio.timeout(PATIENCE_S):
        assert await epc.came.get() == HELLO
        assert await rc_host.came.get() == HELLO
    assert epc.stream.getvalue() == rc_host.stream.getvalue() == ""
    assert epc.guard is not None
    assert epc.guard.snapshot() == {"keys_refused": 0, "handshakes_failed": 0, "reasons": {}}


async def test_key_that_is_not_allowed_is_refused_and_logged_once(lab: Lab) -> None:
    stranger = pair()
    epc = lab.listen({"lab": lab.theirs.public})
    host = lab.connect(stranger, lab.ours.public)

    await until_counted(epc, "keys_refused", 3)
    await until_cause(host, "here to epc", "the other machine does not allow this machine's key")

    (line,) = epc.events("security.key_refused")
    assert (line["key"], line["address"], line["peer"]) == (stranger.public, "127.0.0.1", "rc-host")
    assert not host.bus.send_now("epc", HELLO, b"")
    assert epc.came.empty()


async def test_wrong_key_of_the_listener_ends_the_handshake_before_anything_is_told(lab: Lab) -> None:
    epc = lab.listen({"lab": lab.theirs.public})
    host = lab.connect(lab.theirs, pair().public)

    await until_cause(epc, "rc-host to here", "not made for this machine's key")
    await until_cause(host, "here to epc", "not the one whose key is given")

    assert epc.guard is not None
    assert epc.guard.counters["keys_refused"] == 0
    assert not host.bus.send_now("epc", HELLO, b"")


async def test_plaintext_is_refused(lab: Lab) -> None:
    epc = lab.listen({"lab": lab.theirs.public})
    host = lab.connect(None, "")

    # who finds the mismatch first hangs up, and then that is what the other one sees
    await until_cause(epc, "rc-host to here", "plaintext")

    assert not host.bus.send_now("epc", HELLO, b"")
    assert epc.came.empty()


async def test_reason_is_shown_until_the_other_machine_gets_in(lab: Lab) -> None:
    epc = lab.listen({"lab": lab.theirs.public})
    stranger = lab.connect(pair(), lab.ours.public)
    await until_counted(epc, "keys_refused")
    guard = epc.guard
    assert guard is not None
    assert "is not allowed" in guard.snapshot()["reasons"]["rc-host to here"]
    stranger.bus.close()

    host = lab.connect(lab.theirs, lab.ours.public)
    await say(host, HELLO)
    async with asyncio.timeout(PATIENCE_S):
        await epc.came.get()
    await until(lambda: "rc-host to here" not in guard.snapshot()["reasons"])


async def test_machine_that_was_refused_gets_in_once_it_is_allowed(lab: Lab) -> None:
    """The other machine was started again, with the key allowed; nobody touches the one that was refused."""
    epc = lab.listen({"lab": pair().public})
    host = lab.connect(lab.theirs, lab.ours.public)
    await until_counted(host, "handshakes_failed")
    epc.bus.close()

    again = lab.listen({"lab": lab.theirs.public})
    await say(host, HELLO)

    async with asyncio.timeout(PATIENCE_S):
        assert await again.came.get() == HELLO


async def test_allowed_key_of_another_machine_than_the_peer_is_refused_and_logged(lab: Lab) -> None:
    other = pair()
    epc = lab.listen({"lab": lab.theirs.public, "third": other.public})
    third = lab.connect(other, lab.ours.public)

    await until_counted(epc, "keys_refused")
    await until_counted(third, "handshakes_failed")

    (line,) = epc.events("security.key_refused")
    assert (line["key"], line["peer"]) == (other.public, "rc-host")
    assert line["cause"] == "key of third, which is not the peer of this bridge"
    assert epc.guard is not None
    assert "is that of third" in epc.guard.snapshot()["reasons"]["rc-host to here"]
    third.bus.close()
    rc_host = lab.connect(lab.theirs, lab.ours.public)
    await say(rc_host, HELLO)
    async with asyncio.timeout(PATIENCE_S):
        assert await epc.came.get() == HELLO


def test_refusals_of_many_keys_are_counted_and_only_some_are_logged() -> None:
    stream = io.StringIO()
    ring = KeyRing(pair(), {}, pair().public)
    guard = Guard(ring, ["epc"], 300, Logger(stream, "info", {}))

    for number in range(3 * curve.MAX_LOGGED):
        request = [b"1.0", b"7", b"epc", b"192.0.2.1", b"", b"CURVE", number.to_bytes(32, "little")]
        assert guard._judge(request)[2] == b"400"

    assert len(stream.getvalue().splitlines()) == curve.MAX_LOGGED
    assert guard.snapshot()["keys_refused"] == 3 * curve.MAX_LOGGED
