"""Random closing, opening, flapping and reloading while frames flow: what must hold all the same."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.unit.devices.ntb_pair import MS, Client, Pair

OPERATIONS = (
    "send",
    "send",
    "send",
    "send",
    "move",
    "move",
    "wait",
    "close",
    "open",
    "flap",
    "reload",
    "lost",
)


class Story:
    """One random history of a pair of transports, with numbered frames."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.pair = Pair(([4096], [4096]), mtu=512)
        self.pair.rc.ntb.latency_ns = self.chance.choice((0, MS // 2))
        self.clients: list[Client] = list(self.pair.start())
        self.number = 0
        self.epochs_asked = [0, 0]

    def send(self, index: int) -> None:
        self.number += 1
        data = b"%d" % self.number
        self.clients[index].queue.tx_enqueue(data, len(data))
        self.pair.perform(self.pair.sides[index])

    def move(self, index: int) -> None:
        """Let one side handle a few messages."""
        for _ in range(self.chance.randrange(6)):
            if self.pair.sides[index].inbox:
                self.pair.receive_one(self.pair.sides[index])

    def wait(self, index: int) -> None:
        self.pair.advance(self.chance.randrange(40) * MS)

    def close(self, index: int) -> None:
        self.pair.sides[index].transport.link_down(self.clients[index].queue)
        self.pair.perform(self.pair.sides[index])

    def open(self, index: int) -> None:
        self.pair.sides[index].transport.link_up(self.clients[index].queue)
        self.pair.perform(self.pair.sides[index])

    def flap(self, index: int) -> None:
        """The link goes down and up; the fabric discards what was sent under the old epoch.

        Both sides are told at once: one that reads the link bit slowly would go on announcing.
        """
        for side in self.pair.sides:
            side.ntb.link = 0
        self.lost(index)
        self.pair.advance(self.chance.randrange(30) * MS)
        self.pair.set_link(1)

    def lost(self, index: int) -> None:
        """A new link epoch: what was under way is gone, both sides are told."""
        for side in self.pair.sides:
            side.inbox.clear()
            side.transport.link_lost("new epoch")

    def reload(self, index: int) -> None:
        side = self.pair.sides[index]
        side.transport.remove(graceful=True)
        self.pair.advance(1500 * MS)
        self.pair.reload(side)
        self.clients[index] = Client(side)
        self.open(index)

    def heal(self) -> None:
        """Open both queues and use them; give a stuck pair the new epoch it asks for."""
        for _ in range(3):
            for index in (0, 1):
                self.open(index)
            self.pair.advance(1500 * MS)
            for index in (0, 1):
                self.send(index)
                self.pair.flush()
            if not any(side.stuck for side in self.pair.sides):
                return
            for side in self.pair.sides:
                side.stuck.clear()
            self.lost(0)


@pytest.mark.slow
@pytest.mark.covers("HAZARD 10.10", "HAZARD 10.14", "HAZARD 10.16", "NTB 146", "NTB 159")
@settings(max_examples=60, deadline=None)
@example(seed=240)
@example(seed=1128)
@example(seed=23751)
@example(seed=25158)
@example(seed=81648)
@given(seed=st.integers(0, 2**32 - 1))
def test_frames_stay_in_order_and_unique_and_the_link_heals(seed: int) -> None:
    story = Story(seed)
    for _ in range(60):
        getattr(story, story.chance.choice(OPERATIONS))(story.chance.randrange(2))
    story.heal()

    for sender, receiver in ((0, 1), (1, 0)):
        before = len(story.pair.sides[receiver].delivered)
        for _ in range(20):
            story.send(sender)
            story.pair.flush()
        assert len(story.pair.sides[receiver].delivered) == before + 20
    for side in story.pair.sides:
        numbers = [int(data) for data in side.delivered]
        assert all(a < b for a, b in pairwise(numbers))
