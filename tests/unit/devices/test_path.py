from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from itertools import pairwise, permutations
from struct import pack, unpack_from
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntbnet.devices.path import HELLO_INTERVAL_NS, OPEN_PATIENCE_NS, TAIL_NS, Path
from ntbnet.wire import SERVICE_BY_LABEL, Irq, IrqSource, Kind, MemWrite, encode_control
from tests.frames import encode

MS = 1_000_000
HEARTBEAT_NS, LIVENESS_NS = 200 * MS, 1000 * MS
LATENCY_NS = MS // 10
Frame = tuple[bytes, bytes]


class End:
    """One process on the path: its Path, what it was given, and its history."""

    def __init__(self, pair: Pair, me: str, peer: str, *, initiator: bool, identity: dict[str, Any]) -> None:
        self.pair, self.me, self.peer, self.initiator, self.identity = pair, me, peer, initiator, identity
        self.incarnation = 0
        self.got: list[tuple[int, int, int]] = []
        self.changes: list[tuple[bool, str]] = []
        self.running = False

    def start(self) -> None:
        self.incarnation += 1
        self.running = True
        self.path = Path(
            self.me,
            self.peer,
            initiator=self.initiator,
            incarnation=self.incarnation,
            allocate_session=self.pair.next_session,
            heartbeat_ns=HEARTBEAT_NS,
            liveness_ns=LIVENESS_NS,
            identity=self.identity,
            key=self.pair.key,
        )

    def receive(self, frame: Frame) -> None:
        if not self.running:
            return
        message = self.path.receive(*frame, self.pair.now_ns)
        if isinstance(message, MemWrite):
            session, number = unpack_from("<QQ", message.data)
            self.got.append((self.path.session, session, number))
        self.drain()

    def tick(self) -> None:
        if self.running:
            if self.path.next_deadline() <= self.pair.now_ns:
                self.path.on_deadline(self.pair.now_ns)
            self.drain()

    def drain(self) -> None:
        for header, payload in self.path.outgoing:
            self.pair.carry(self, (header, bytes(payload)))
        self.path.outgoing.clear()
        self.changes += self.path.changes
        self.path.changes.clear()

    def send(self) -> None:
        """Send the next number of this session, if there is one."""
        if self.running and self.path.is_up:
            number = self.pair.count(self)
            frames = self.path.send(MemWrite(0, pack("<QQ", self.path.session, number)), self.pair.now_ns)
            assert frames is not None
            self.pair.carry(self, (frames[0], bytes(frames[1])))


class Pair:
    """Two ends, a FIFO each way, a virtual clock, and a fault layer."""

    def __init__(self, identity_of_b: str = "x", key: int = 0) -> None:
        self.key = key
        self.now_ns = 10**12
        self.session = 0
        self.a = End(self, "rc-host", "epc", initiator=True, identity={"bridge": "x"})
        self.b = End(self, "epc", "rc-host", initiator=False, identity={"bridge": identity_of_b})
        self.flying: deque[tuple[int, End, Frame]] = deque()
        self.fault: Callable[[End, Frame], list[Frame]] = lambda _end, frame: [frame]
        self._sent: dict[tuple[str, int, int], int] = {}

    def next_session(self) -> int:
        self.session += 1
        return self.session

    def count(self, end: End) -> int:
        key = (end.me, end.incarnation, end.path.session)
        self._sent[key] = self._sent.get(key, -1) + 1
        return self._sent[key]

    def carry(self, end: End, frame: Frame) -> None:
        other = self.b if end is self.a else self.a
        self.flying.extend((self.now_ns + LATENCY_NS, other, one) for one in self.fault(end, frame))

    def deliver(self) -> None:
        while self.flying and self.flying[0][0] <= self.now_ns:
            _, end, frame = self.flying.popleft()
            end.receive(frame)

    def run(self, duration_ns: int, step_ns: int = 5 * MS) -> None:
        end_ns = self.now_ns + duration_ns
        while self.now_ns < end_ns:
            self.now_ns += step_ns
            self.deliver()
            self.a.tick()
            self.b.tick()

    def flush(self) -> None:
        """Let everything under way arrive, without a timer."""
        for _ in range(20):
            self.now_ns += LATENCY_NS
            self.deliver()

    @property
    def both_up(self) -> bool:
        if not all(end.running and end.path.is_up for end in (self.a, self.b)):
            return False
        return self.a.path.session == self.b.path.session

    def until_up(self, within_ns: int = 2 * LIVENESS_NS) -> None:
        end_ns = self.now_ns + within_ns
        while not self.both_up:
            assert self.now_ns < end_ns, f"still down: {self.a.path.snapshot()} {self.b.path.snapshot()}"
            self.run(5 * MS)


def up() -> Pair:
    pair = Pair()
    pair.a.start()
    pair.b.start()
    pair.until_up()
    return pair


def write_of(pair: Pair, end: End, number: int = 0) -> Frame:
    frames = end.path.send(MemWrite(0, pack("<QQ", end.path.session, number)), pair.now_ns)
    assert frames is not None
    return frames[0], bytes(frames[1])


@pytest.mark.parametrize("order", list(permutations("ab")))
@pytest.mark.parametrize("gap_ms", [0, 10, 60, 3000])
def test_session_comes_up_in_every_start_order(order: tuple[str, ...], gap_ms: int) -> None:
    pair = Pair()
    getattr(pair, order[0]).start()
    pair.run(gap_ms * MS)
    getattr(pair, order[1]).start()

    pair.until_up(within_ns=3 * HELLO_INTERVAL_NS)

    assert pair.a.path.session == pair.session
    assert pair.a.changes == pair.b.changes == [(True, "session agreed")]


def test_an_end_that_is_up_stays_up_without_traffic() -> None:
    pair = up()
    pair.run(10 * LIVENESS_NS)

    assert pair.both_up
    assert pair.session == 1


def test_messages_arrive_once_and_in_order() -> None:
    pair = up()
    for _ in range(5):
        pair.a.send()
    pair.flush()

    assert pair.b.got == [(1, 1, n) for n in range(5)]


def test_repeated_message_is_discarded_and_the_session_stays() -> None:
    pair = up()
    frame = write_of(pair, pair.a)
    pair.b.receive(frame)
    pair.b.receive(frame)

    assert len(pair.b.got) == 1
    assert pair.b.path.refused["repeated"] == 1
    assert pair.b.path.is_up


def damaged(frame: Frame) -> Frame:
    return frame[0], b"\xff" + frame[1][1:]


@pytest.mark.parametrize("kind", ["gap", "damaged"])
def test_nothing_more_of_a_session_is_applied_after_a_gap_or_damage(kind: str) -> None:
    """A lost write is never followed by the flag that says it arrived."""
    pair = up()
    first, second, third = (write_of(pair, pair.a, n) for n in range(3))
    pair.b.receive(first)
    if kind == "damaged":
        pair.b.receive(damaged(second))
        pair.b.receive(second)
    pair.b.receive(third)

    assert [number for _, _, number in pair.b.got] == [0]
    assert not pair.b.path.is_up
    assert pair.b.path.refused[kind] == 1
    pair.until_up()
    assert pair.session == 2


def test_message_of_another_incarnation_is_not_applied() -> None:
    pair = up()
    path = pair.a.path
    src, dst = SERVICE_BY_LABEL[path.me], SERVICE_BY_LABEL[path.peer]
    frames = encode(MemWrite(0, bytes(16)), src, dst, 9, path.session, 0, pair.now_ns)
    pair.b.receive((frames[0], bytes(frames[1])))

    assert pair.b.got == []
    assert pair.b.path.refused["stale_incarnation"] == 1


@pytest.mark.parametrize("name", ["a", "b"])
def test_restarted_peer_ends_the_session_at_once(name: str) -> None:
    pair = up()
    restarted: End = getattr(pair, name)
    survivor = pair.b if name == "a" else pair.a
    old = write_of(pair, restarted)
    restarted.start()
    pair.run(10 * MS)

    assert (False, "peer restarted") in survivor.changes
    survivor.receive(old)
    assert survivor.got == []
    pair.until_up(within_ns=3 * HELLO_INTERVAL_NS)
    assert pair.session == 2


def test_greeting_that_gets_no_answer_is_repeated_soon_and_then_seldom() -> None:
    pair = Pair()
    pair.a.start()
    said: list[int] = []
    for _ in range(8):
        due = pair.a.path.next_deadline()
        said.append(due)
        pair.a.path.on_deadline(max(due, pair.now_ns))

    apart_ms = [(later - earlier) // MS for earlier, later in pairwise(said[1:])]
    assert said[1] - pair.now_ns == 2 * MS
    assert apart_ms == [4, 8, 16, 25, 25, 25]


def test_silence_is_surprise_down() -> None:
    pair = up()
    pair.b.running = False
    pair.run(LIVENESS_NS - HEARTBEAT_NS)
    assert pair.a.changes == [(True, "session agreed")]

    pair.run(2 * HEARTBEAT_NS)
    assert pair.a.changes[1:] == [(False, "peer silent for 1000 ms")]


def test_beat_shows_that_the_last_message_was_lost() -> None:
    pair = up()
    write_of(pair, pair.a)
    pair.run(TAIL_NS + 10 * MS)

    assert pair.b.path.refused["gap"] == 1
    assert pair.b.got == []


def control(kind: Kind, session: int, incarnation: int, arg: int = 0, sequence: int = 0) -> Frame:
    body = {"bridge": "x"} if kind in {Kind.HELLO, Kind.OPEN} else None
    return encode_control(kind, 2, 1, incarnation, session, arg=arg, sequence=sequence, body=body)


@pytest.mark.parametrize(
    "frame",
    [
        control(Kind.ACCEPT, session=99, incarnation=1),
        control(Kind.CLOSE, session=99, incarnation=1),
        control(Kind.CLOSE, session=1, incarnation=2),
        control(Kind.OPEN, session=1, incarnation=1, arg=1),
        control(Kind.HELLO, session=0, incarnation=0),
        control(Kind.BEAT, session=99, incarnation=1, sequence=5),
    ],
    ids=["accept", "close", "close-incarnation", "open-to-initiator", "hello-incarnation", "beat"],
)
def test_stale_control_message_changes_nothing(frame: Frame) -> None:
    pair = up()
    pair.a.receive(frame)
    pair.flush()

    assert pair.both_up
    assert pair.session == 1


def test_stale_open_does_not_open_a_spent_session() -> None:
    pair = up()
    opening = encode_control(Kind.OPEN, 1, 2, 1, 1, arg=1, body={"bridge": "x"})
    pair.b.path.surprise_down("test", pair.now_ns)
    pair.b.receive(opening)

    assert not pair.b.path.is_up
    assert pair.b.path.refused["stale_session"] == 1


def test_open_meant_for_an_earlier_start_is_refused() -> None:
    pair = up()
    pair.b.start()
    pair.b.receive(encode_control(Kind.OPEN, 1, 2, 1, 7, arg=1, body={"bridge": "x"}))

    assert not pair.b.path.is_up


def test_message_before_the_session_is_agreed_is_not_applied() -> None:
    pair = up()
    frame = write_of(pair, pair.b)
    pair.a.path.surprise_down("test", pair.now_ns)
    pair.a.receive(frame)

    assert pair.a.got == []
    assert pair.a.path.refused["stale_session"] == 1


def test_message_for_somebody_else_is_damage() -> None:
    pair = up()
    frames = pair.a.path.send(Irq(IrqSource.MSI_VECTOR, 1), pair.now_ns)
    assert frames is not None
    pair.a.receive((frames[0], b""))

    assert pair.a.changes[-1][0] is False
    assert "src/dst" in pair.a.changes[-1][1]


def test_other_identity_is_refused_by_name_and_told_once() -> None:
    pair = Pair(identity_of_b="y")
    pair.a.start()
    pair.b.start()
    pair.run(2 * LIVENESS_NS)

    assert not pair.a.path.is_up
    assert not pair.b.path.is_up
    assert pair.b.changes == [(False, "refused, bridge: rc-host has 'x', epc has 'y'")]
    assert pair.session == 0


def test_identity_with_a_key_too_many_is_refused() -> None:
    pair = Pair()
    pair.b.identity["layout"] = "classic"
    pair.a.start()
    pair.b.start()
    pair.run(LIVENESS_NS)

    assert not pair.b.path.is_up
    assert pair.a.changes == [(False, "refused, layout: epc has 'classic', rc-host has None")]


def test_open_with_another_identity_is_refused() -> None:
    """A responder does not rely on the initiator having looked."""
    pair = Pair()
    pair.b.start()
    pair.b.receive(encode_control(Kind.OPEN, 1, 2, 1, 1, arg=1, body={"bridge": "z"}))

    assert not pair.b.path.is_up
    assert pair.b.path.refused["identity"] == 1


def test_greeting_of_somebody_else_leaves_the_session_alone() -> None:
    pair = up()
    foreign = encode_control(Kind.HELLO, 2, 1, 0xFFFF_FFFF, 0, body={"bridge": "y"})
    pair.a.receive(foreign)
    pair.a.send()
    pair.flush()

    assert pair.both_up
    assert pair.session == 1
    assert pair.a.path.refused == {"identity": 1}
    assert pair.a.changes[1:] == [(True, "refused, bridge: epc has 'y', rc-host has 'x'")]
    assert pair.b.got == [(1, 1, 0)]


def test_peer_that_restarts_as_somebody_else_is_lost_by_its_silence() -> None:
    pair = up()
    pair.b.identity = {"bridge": "y"}
    pair.b.start()
    pair.run(LIVENESS_NS + HEARTBEAT_NS)

    assert not pair.a.path.is_up
    assert pair.a.changes[-1] == (False, "peer silent for 1000 ms")
    assert pair.session == 1


@pytest.mark.parametrize("key", [0, 7])
@pytest.mark.parametrize("kind", [Kind.HELLO, Kind.OPEN])
def test_numbers_named_without_the_key_are_not_believed(kind: Kind, key: int) -> None:
    """Else one message could lock the rightful peer out for ever."""
    pair = Pair(key=6)
    pair.a.start()
    pair.b.start()
    pair.b.receive(encode_control(kind, 1, 2, 0xFFFF_FFFF, 0xFFFF_FFFF, arg=1, body={"bridge": "x"}, key=key))
    assert pair.b.path.refused == {"damaged": 1}

    pair.until_up()
    assert pair.session == 1


def test_lost_accept_is_asked_for_again() -> None:
    pair = Pair()
    lost: list[Frame] = []

    def fault(end: End, frame: Frame) -> list[Frame]:
        if frame[0][1] == Kind.ACCEPT and not lost:
            lost.append(frame)
            return []
        return [frame]

    pair.fault = fault
    pair.a.start()
    pair.b.start()
    pair.until_up(within_ns=OPEN_PATIENCE_NS)

    assert len(lost) == 1
    assert pair.session == 1


def test_unanswered_open_becomes_a_new_session() -> None:
    pair = Pair()
    pair.fault = lambda _end, frame: [] if frame[0][1] == Kind.ACCEPT else [frame]
    pair.a.start()
    pair.b.start()
    pair.run(OPEN_PATIENCE_NS + 4 * HELLO_INTERVAL_NS)
    assert pair.session >= 2

    pair.fault = lambda _end, frame: [frame]
    pair.until_up(within_ns=2 * OPEN_PATIENCE_NS)


def test_sending_while_down_is_counted() -> None:
    pair = Pair()
    pair.a.start()

    assert pair.a.path.send(MemWrite(0, b"x"), pair.now_ns) is None
    assert pair.a.path.refused["sent_while_down"] == 1


class Faults:
    """A link that loses, repeats, swaps and damages frames, by seed."""

    def __init__(self, seed: int, percent: int) -> None:
        self.random = random.Random(seed)
        self.percent = percent
        self.held: dict[str, Frame] = {}

    def __call__(self, end: End, frame: Frame) -> list[Frame]:
        held = self.held.pop(end.me, None)
        if held is not None:
            return [frame, held]
        if self.random.randrange(100) >= self.percent:
            return [frame]
        kind = self.random.choice(("drop", "repeat", "swap", "damage"))
        if kind == "swap":
            self.held[end.me] = frame
        if kind == "damage":
            whole = bytearray(frame[0] + frame[1])
            whole[self.random.randrange(len(whole))] ^= 1 << self.random.randrange(8)
            return [(bytes(whole[:64]), bytes(whole[64:]))]
        return [frame, frame] if kind == "repeat" else []


ACTIONS = ("send", "send", "restart a", "restart b", "silence", "wait")


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 1 << 32),
    st.integers(1, 60),
    st.lists(st.sampled_from(ACTIONS), min_size=4, max_size=40),
)
def test_every_session_delivers_an_in_order_prefix_and_the_path_comes_up_again(
    seed: int, percent: int, actions: list[str]
) -> None:
    pair = up()
    pair.fault = Faults(seed, percent)
    for action in actions:
        if action == "send":
            pair.a.send()
            pair.b.send()
        elif action == "restart a":
            pair.a.start()
        elif action == "restart b":
            pair.b.start()
        elif action == "silence":
            pair.now_ns += LIVENESS_NS
        pair.run((60 if action == "wait" else 5) * MS)

    pair.fault = lambda _end, frame: [frame]
    # what was lost before may be noticed now: by the next BEAT, or by a frame still under way
    pair.run(2 * HEARTBEAT_NS)
    pair.until_up(within_ns=2 * LIVENESS_NS + 4 * OPEN_PATIENCE_NS)

    for end in (pair.a, pair.b):
        by_session: dict[int, list[int]] = {}
        for session, sent_in, number in end.got:
            assert session == sent_in
            by_session.setdefault(session, []).append(number)
        for numbers in by_session.values():
            assert numbers == list(range(len(numbers)))
    end_of_b = len(pair.b.got)
    pair.a.send()
    pair.flush()
    assert len(pair.b.got) == end_of_b + 1
