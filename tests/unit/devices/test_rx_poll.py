from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntbnet.devices.effects import Poll
from ntbnet.devices.netdev import Netdev
from ntbnet.devices.ring import POLLING
from ntbnet.devices.rx_poll import CLOSE_NS, MAX_CREDIT, MAX_PERIOD_NS, PERIOD_NS, WEIGHT
from ntbnet.devices.tick import Tick
from tests.unit.devices.ntb_pair import HZ, MS, Pair, Side

MACS = {"rc": bytes.fromhex("02aa00000001"), "ep": bytes.fromhex("02bb00000002")}
FRAME, WINDOW = 512, 16384
"""A ring of 31 frames."""


class Bridge:
    """Two interfaces that store to each other in place; steps are taken by hand."""

    def __init__(self, poll: str = "adaptive", queues: int = 1, *, lends: bool = True) -> None:
        self.pair = Pair(([WINDOW], [WINDOW]), mtu=FRAME, clients=(queues, queues))
        self.sent: dict[str, list[bytes]] = {"rc": [], "ep": []}
        self.net: dict[str, Netdev] = {}
        for side in self.pair.sides:
            side.probe()
        for side in self.pair.sides:
            peer = self.pair.peer_of(side)
            self.net[side.name] = Netdev(
                side.transport, side.outbox, side.tasks, Tick(HZ), mtu=400, local_mac=MACS[side.name],
                peer_mac=MACS[peer.name], tx_stop=1, poll=poll, queues=queues, is_local=True,
            )  # fmt: skip
            self.net[side.name].open()
        self.pair.advance(100 * MS)
        for side in self.pair.sides:
            assert self.net[side.name].carrier
            side.ntb.lends = lends
            side.effects.clear()

    def side(self, name: str) -> Side:
        return self.pair.sides[name == "ep"]

    def burst(self, name: str, count: int) -> None:
        """The node of ``name`` sends ``count`` packets at once, as far as they fit."""
        net, side = self.net[name], self.side(name)
        for _ in range(count):
            packet = b"\x45" + len(self.sent[name]).to_bytes(4, "big") + bytes(95)
            net.room()[: len(packet)] = packet
            if net.xmit_in_place(len(packet)):
                self.sent[name].append(packet)
            self.pair.perform(side)
        net.end_burst()
        self.pair.perform(side)

    def receive(self, name: str) -> None:
        """One message, store or interrupt, reaches ``name``."""
        if self.side(name).inbox:
            self.pair.receive_one(self.side(name))

    def period(self, name: str) -> None:
        """A period of the timer passes, if ``name`` has asked for one."""
        self.pass_time(PERIOD_NS)
        if self.net[name].rx_poll.is_on:
            self.net[name].rx_poll.on_period()
            self.pair.perform(self.side(name))

    def pass_time(self, duration_ns: int) -> None:
        for side in self.pair.sides:
            side.tasks.now_ns += duration_ns

    def interrupts(self, name: str) -> int:
        """Rings that wait for ``name``."""
        return len(self.side(name).inbox)

    def polls(self, name: str) -> list[int]:
        return [effect.period_ns for effect in self.side(name).effects if isinstance(effect, Poll)]

    def come_to_rest(self) -> None:
        """Everything that is under way arrives, and timers run as long as somebody wants them."""
        for _ in range(10_000):
            for name in self.net:
                self.receive(name)
                self.period(name)
            idle = not any(net.rx_poll.is_on for net in self.net.values())
            if idle and not any(side.inbox for side in self.pair.sides):
                return
        raise AssertionError("somebody polls an idle ring")

    def start_polling(self, name: str) -> None:
        """Load, until ``name`` polls."""
        other = "rc" if name == "ep" else "ep"
        while not self.net[name].rx_poll.is_on:
            self.burst(other, 4)
            self.receive(name)
            while self.side(other).inbox:
                self.receive(other)


def test_burst_is_read_into_the_ring_and_rings_once() -> None:
    bridge = Bridge()

    bridge.burst("rc", 5)

    assert bridge.interrupts("ep") == bridge.net["rc"].queue.tx.rings == 1
    bridge.receive("ep")
    assert bridge.side("ep").delivered == bridge.sent["rc"]


def test_room_is_the_ring_of_the_peer_while_it_is_lent_only() -> None:
    bridge = Bridge()
    net, ntb = bridge.net["rc"], bridge.side("rc").ntb
    in_place = net.room()
    in_place[:4] = b"\x45abc"
    assert bytes(net.tx_room[:4]) != b"\x45abc"

    ntb.lends = False
    ntb.take_back()
    buffer = net.room()
    buffer[:4] = b"\x45def"

    assert bytes(net.tx_room[:4]) == b"\x45def"


def test_lone_frames_never_begin_polling() -> None:
    bridge = Bridge()

    for _ in range(50):
        bridge.burst("rc", 1)
        bridge.receive("ep")

    assert not bridge.polls("ep")


def test_bursts_far_apart_never_begin_polling() -> None:
    bridge = Bridge()

    for _ in range(50):
        bridge.burst("rc", 3)
        bridge.receive("ep")
        bridge.pass_time(CLOSE_NS + 1)

    assert not bridge.polls("ep")


@pytest.mark.parametrize("queues", [1, 2])
def test_under_load_the_sender_does_not_ring_and_frames_are_found(queues: int) -> None:
    bridge = Bridge(queues=queues)
    bridge.start_polling("ep")
    rings = sum(queue.tx.rings for queue in bridge.net["rc"].queues)

    bridge.burst("rc", 3)

    assert not bridge.interrupts("ep")
    assert sum(queue.tx.rings_saved for queue in bridge.net["rc"].queues) == 1
    assert sum(queue.tx.rings for queue in bridge.net["rc"].queues) == rings
    bridge.period("ep")
    assert bridge.side("ep").delivered == bridge.sent["rc"]


def test_polling_ends_soon_after_the_last_frame_and_the_next_one_rings() -> None:
    bridge = Bridge()
    bridge.start_polling("ep")

    for _ in range(MAX_CREDIT):
        bridge.period("ep")
    bridge.burst("rc", 1)

    assert bridge.polls("ep") == [PERIOD_NS, 0]
    assert bridge.interrupts("ep") == 1


def test_doorbells_that_are_polled_never_begin_polling() -> None:
    bridge = Bridge()
    bridge.side("ep").ntb.polls_doorbells = True

    for _ in range(50):
        bridge.burst("rc", 5)
        bridge.receive("ep")
        while bridge.side("rc").inbox:
            bridge.receive("rc")

    assert bridge.side("ep").delivered == bridge.sent["rc"]
    assert not bridge.polls("ep")


def test_always_polls_on_without_a_frame() -> None:
    bridge = Bridge("always")
    bridge.burst("rc", 1)
    bridge.receive("ep")

    for _ in range(1000):
        bridge.period("ep")

    assert bridge.polls("ep") == [PERIOD_NS]


def test_never_rings_for_every_burst_and_publishes_every_frame() -> None:
    bridge = Bridge("never")
    for _ in range(20):
        bridge.burst("rc", 5)
        assert bridge.interrupts("ep") == 1
        bridge.receive("ep")
        assert bridge.interrupts("rc") == 5
        while bridge.side("rc").inbox:
            bridge.receive("rc")

    assert not bridge.polls("ep")


def test_sender_whose_frames_are_messages_rings_whatever_the_receiver_says() -> None:
    bridge = Bridge()
    bridge.start_polling("ep")
    ntb = bridge.side("rc").ntb
    ntb.lends = False
    ntb.take_back()

    bridge.burst("rc", 1)

    assert bridge.interrupts("ep") == 4  # payload, header, flags, ring


def test_receiver_that_cannot_tell_in_place_goes_on_polling() -> None:
    bridge = Bridge()
    bridge.start_polling("ep")
    ntb = bridge.side("ep").ntb
    ntb.lends = False
    ntb.take_back()

    for _ in range(1000):
        bridge.period("ep")
    periods = bridge.polls("ep")
    assert periods == sorted(set(periods))
    assert (periods[0], periods[-1]) == (PERIOD_NS, MAX_PERIOD_NS)
    # the thousand periods of the test are a tenth of a second
    assert bridge.net["ep"].rx_poll.looks < 150
    bridge.burst("rc", 1)
    bridge.pass_time(MAX_PERIOD_NS)
    bridge.period("ep")
    assert bridge.polls("ep")[-1] == PERIOD_NS

    ntb.lends = True
    bridge.come_to_rest()
    assert not bridge.net["ep"].rx_poll.is_on
    assert bridge.side("ep").delivered == bridge.sent["rc"]


@pytest.mark.parametrize("poll", ["adaptive", "always"])
def test_receiver_that_cannot_tell_in_place_does_not_begin_to_poll(poll: str) -> None:
    bridge = Bridge(poll)
    bridge.side("ep").ntb.lends = False
    for _ in range(50):
        bridge.burst("rc", 5)
        bridge.receive("ep")
        while bridge.side("rc").inbox:
            bridge.receive("rc")

    assert bridge.side("ep").delivered == bridge.sent["rc"]
    assert not bridge.polls("ep")

    bridge.side("ep").ntb.lends = True
    bridge.start_polling("ep")
    assert bridge.polls("ep") == [PERIOD_NS]


def test_one_look_takes_no_more_than_its_weight() -> None:
    bridge = Bridge()
    bridge.start_polling("ep")
    queue = bridge.net["ep"].queue
    bridge.burst("rc", 20)

    assert queue.poll(8) == 8
    assert WEIGHT >= 1


def test_mark_of_a_peer_that_did_not_agree_to_it_is_an_impossible_index() -> None:
    bridge = Bridge("never")
    queue = bridge.net["rc"].queue
    addr, _ = bridge.side("rc").ntb.trans[0]
    offset = addr - bridge.side("rc").ntb.dram.span.base + queue.tx.geometry.rx_info_offset

    bridge.side("rc").ntb.dram.store_u32("poke", offset, POLLING)

    assert queue.tx_free_entry() == 0
    assert queue.tx.impossible == 1


def test_frame_that_is_sent_while_polling_ends_is_found_by_the_last_look() -> None:
    bridge = Bridge()
    bridge.start_polling("ep")

    def late() -> None:
        bridge.side("ep").ntb.on_fence = lambda: None
        # the sender loaded the mark before it was cleared: it does not ring
        bridge.net["rc"].queue.tx.trigger = lambda: None
        bridge.burst("rc", 1)

    bridge.side("ep").ntb.on_fence = late
    for _ in range(MAX_CREDIT):
        bridge.period("ep")

    assert bridge.side("ep").delivered == bridge.sent["rc"]


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["burst", "receive", "receive", "period", "idle", "lend", "fence"]),
        st.sampled_from(["rc", "ep"]),
        st.integers(1, 12),
    ),
    max_size=60,
)


def _next(steps: Iterator[tuple[str, str, int]], bridge: Bridge) -> bool:
    found = next(steps, None)
    if found is None:
        return False
    what, name, number = found
    side = bridge.side(name)
    if what == "burst":
        bridge.burst(name, number)
    elif what == "receive":
        for _ in range(number):
            bridge.receive(name)
    elif what == "period":
        bridge.period(name)
    elif what == "idle":
        bridge.pass_time(number * PERIOD_NS)
    elif what == "lend":
        side.ntb.lends = not side.ntb.lends
        side.ntb.take_back()
    else:
        # at the next fence of this side the other one takes a step: between its store and its load
        other = bridge.pair.peer_of(side).name

        def cut_in() -> None:
            side.ntb.on_fence = lambda: None
            if number % 2:
                bridge.burst(other, number)
            else:
                bridge.period(other)

        side.ntb.on_fence = cut_in
    return True


@pytest.mark.parametrize("poll", ["adaptive", "never"])
@given(steps=STEPS)
@settings(max_examples=60, deadline=None)
def test_no_frame_is_lost_doubled_or_overtaken_and_none_is_left_lying(
    poll: str, steps: Sequence[tuple[str, str, int]]
) -> None:
    bridge = Bridge(poll)
    left = iter(steps)

    while _next(left, bridge):
        pass
    for side in bridge.pair.sides:
        side.ntb.lends, side.ntb.on_fence = True, lambda: None
    bridge.come_to_rest()

    for name, other in (("rc", "ep"), ("ep", "rc")):
        assert bridge.side(other).delivered == bridge.sent[name]
        assert not bridge.side(name).stuck
