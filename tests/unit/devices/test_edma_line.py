"""The interrupt lines of the eDMA engine against a reference machine, and their choice."""

from __future__ import annotations

import dataclasses
from collections import Counter, deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from ntbnet.devices.edma_line import REPEAT_NS, UNHEARD_NS, InterruptLines, channel_line, first_line
from ntbnet.devices.effects import Outbox
from ntbnet.regs.edma import Direction, edma_block
from ntbnet.regs.file import RegisterFile
from ntbnet.wire import Irq
from tests.unit.devices.edma_bench import RD, WR, Bench
from tests.unit.devices.kit import config, logged, sent

CHANNELS = 2
RK3588 = config(profile="rk3588").profile.endpoint
BLOCK = edma_block(CHANNELS, CHANNELS)
BITS = [*range(CHANNELS), *range(16, 16 + CHANNELS)]


@pytest.mark.parametrize(
    ("lines", "write", "read"),
    [(1, [0, 0], [0, 0]), (2, [0, 0], [1, 1]), (4, [0, 1], [2, 3]), (3, [0, 1], [2, 2])],
)
def test_lines_are_divided_between_the_directions(lines: int, write: list[int], read: list[int]) -> None:
    endpoint = dataclasses.replace(RK3588, edma_lines=lines)

    assert [channel_line(endpoint, WR, channel) for channel in range(2)] == write
    assert [channel_line(endpoint, RD, channel) for channel in range(2)] == read
    assert (first_line(endpoint, WR), first_line(endpoint, RD)) == (write[0], read[0])


class Lines:
    """Lines of an engine with 2 + 2 channels, and what they told the CPU."""

    def __init__(self, count: int, choice: str) -> None:
        self.endpoint = dataclasses.replace(RK3588, edma_lines=count, edma_test_line=choice)
        self.registers = RegisterFile(BLOCK)
        self.outbox = Outbox()
        self.counters: Counter[str] = Counter()
        self.lines = InterruptLines(self.endpoint, self.registers, self.outbox, self.counters)
        self.lines.cpu_changed(up=True)
        self.outbox.take()

    def told(self) -> list[int]:
        """Line sets of the messages since the last call."""
        return [message.bits for message in sent(self.outbox.take()) if isinstance(message, Irq)]

    def set_bit(self, direction: Direction, bit: int) -> None:
        register = direction.register("INT_STATUS")
        self.registers.set(register, self.registers.get(register) | 1 << bit)
        self.lines.status_set(direction, bit)

    def clear(self, direction: Direction, bits: int, now_ns: int = 0) -> None:
        register = direction.register("INT_STATUS")
        self.registers.set(register, self.registers.get(register) & ~bits)
        self.lines.acknowledge(direction, bits, now_ns)


class LineMachine(RuleBasedStateMachine):
    """Counts, for each cause, what the CPU was told of and what not; the lines must behave alike."""

    @initialize(count=st.sampled_from([1, 2, 4]), choice=st.sampled_from(["first", "turn"]))
    def begin(self, count: int, choice: str) -> None:
        self.real = Lines(count, choice)
        self.count, self.choice = count, choice
        self.status = {WR: 0, RD: 0}
        self.mask = {WR: 0, RD: 0}
        self.rings_told = self.rings_untold = 0
        self.ring_line = 0
        self.turn = 0
        self.told_bits: set[tuple[Direction, int]] = set()
        self.level = 0
        self.ring_number = self.last_served = 0
        self.to_cpu: deque[int] = deque()
        self.to_engine: deque[tuple[Direction, int]] = deque()

    def line_of(self, direction: Direction, bit: int) -> int:
        return 1 << channel_line(self.real.endpoint, direction, bit % 16)

    def expected_level(self) -> int:
        level = 1 << self.ring_line if self.rings_told + self.rings_untold else 0
        for direction, bit in self.pending():
            level |= self.line_of(direction, bit)
        return level

    def pending(self) -> set[tuple[Direction, int]]:
        """Unmasked status bits."""
        return {(d, b) for d in Direction for b in BITS if (self.status[d] & ~self.mask[d]) >> b & 1}

    def settle(self, acknowledged: bool = False) -> None:
        """What must have been told after a step."""
        level = self.expected_level()
        self.told_bits &= self.pending()
        has_news = bool(self.rings_untold or self.pending() - self.told_bits)
        tells = bool(level & ~self.level) or (acknowledged and has_news)
        self.level = level
        assert self.real.told() == ([level] if tells else [])
        if tells:
            self.rings_told, self.rings_untold = self.rings_told + self.rings_untold, 0
            self.told_bits = self.pending()
            self.to_cpu.append(self.ring_number)

    @rule(direction=st.sampled_from(Direction))
    def ring(self, direction: Direction) -> None:
        if not self.rings_told + self.rings_untold:
            self.ring_line = first_line(self.real.endpoint, direction)
            if self.choice == "turn":
                self.ring_line, self.turn = self.turn, (self.turn + 1) % self.count
        self.rings_untold += 1
        self.ring_number += 1
        self.real.lines.ring(direction)
        self.settle()

    @rule(direction=st.sampled_from(Direction), bit=st.sampled_from(BITS))
    def complete(self, direction: Direction, bit: int) -> None:
        self.status[direction] |= 1 << bit
        self.told_bits.discard((direction, bit))
        self.real.set_bit(direction, bit)
        self.settle()

    @rule(direction=st.sampled_from(Direction), bits=st.sets(st.sampled_from(BITS)))
    def write_mask(self, direction: Direction, bits: set[int]) -> None:
        self.mask[direction] = sum(1 << bit for bit in bits)
        self.real.registers.set(direction.register("INT_MASK"), self.mask[direction])
        self.real.lines.mask_written(direction)
        self.settle()

    @precondition(lambda self: self.to_cpu)
    @rule()
    def handle_interrupt(self) -> None:
        """The CPU takes a message: it sends two acknowledgements with what is pending, then serves rings."""
        self.to_cpu.popleft()
        for direction in Direction:
            self.to_engine.append((direction, self.status[direction]))
        self.last_served = self.ring_number

    @precondition(lambda self: self.to_engine)
    @rule()
    def acknowledge(self) -> None:
        direction, bits = self.to_engine.popleft()
        self.status[direction] &= ~bits
        self.rings_told = 0
        self.real.clear(direction, bits)
        self.settle(acknowledged=True)

    @invariant()
    def level_is_that_of_the_reference(self) -> None:
        if hasattr(self, "real"):
            assert self.real.lines.level == self.expected_level()
            for direction in Direction:
                assert self.real.registers.get(direction.register("INT_STATUS")) == self.status[direction]

    def teardown(self) -> None:
        """Once everything under way has arrived, no ring is unserved and nothing is pending."""
        if not hasattr(self, "real"):
            return
        for direction in Direction:
            self.write_mask(direction, set())
        while self.to_cpu or self.to_engine:
            self.handle_interrupt() if self.to_cpu else self.acknowledge()
        assert self.last_served == self.ring_number
        assert self.real.lines.level == 0


@pytest.mark.covers("EDMA 110", "EDMA 130", "EDMA 131")
def test_lines_behave_as_the_reference_machine() -> None:
    run_state_machine_as_test(
        LineMachine, settings=settings(max_examples=60, stateful_step_count=40, deadline=None)
    )


@pytest.mark.covers("EDMA 131")
def test_ring_that_meets_a_completion_is_told_again_after_the_acknowledgement() -> None:
    lines = Lines(1, "first")
    lines.set_bit(WR, 0)
    assert lines.told() == [1]
    lines.lines.ring(RD)
    assert lines.told() == []

    lines.clear(WR, 1)

    assert lines.told() == [1]
    lines.clear(RD, 0)
    assert lines.lines.level == 0


@pytest.mark.covers("EDMA 130")
def test_rings_behind_a_message_are_one_more_message() -> None:
    lines = Lines(1, "first")
    for _ in range(10):
        lines.lines.ring(RD)
    assert lines.told() == [1]

    lines.clear(RD, 0)
    lines.clear(WR, 0)

    assert lines.told() == [1]
    assert lines.lines.level == 0
    assert lines.counters["rings_collapsed"] == 9


@pytest.mark.covers("EDMA 137")
def test_four_lines_take_turns_and_a_listener_on_one_misses_the_others() -> None:
    lines = Lines(4, "turn")
    told = []
    for _ in range(8):
        lines.lines.ring(RD)
        told += lines.told()
        lines.clear(RD, 0)

    assert told == [1, 2, 4, 8, 1, 2, 4, 8]


def test_unserviced_line_is_told_again_later_and_not_at_once() -> None:
    lines = Lines(1, "first")
    lines.set_bit(RD, 1)
    lines.told()

    lines.clear(RD, 0, now_ns=5)
    lines.clear(WR, 0, now_ns=6)

    assert lines.told() == []
    assert lines.lines.next_deadline() == 5 + REPEAT_NS
    lines.lines.on_deadline(5 + REPEAT_NS - 1)
    assert lines.told() == []
    lines.lines.on_deadline(5 + REPEAT_NS)
    assert lines.told() == [1]
    assert lines.counters["irqs_repeated"] == 1
    lines.clear(RD, 2, now_ns=7)
    assert lines.lines.next_deadline() is None


@pytest.mark.parametrize("again", ["ring", "completion"])
def test_line_that_nobody_acknowledged_is_told_again_by_what_collapses_into_it(again: str) -> None:
    """The message that told it may be lost."""
    lines = Lines(1, "first")
    lines.lines.ring(RD)
    assert lines.told() == [1]

    for now_ns, expected in ((UNHEARD_NS - 1, []), (UNHEARD_NS, [1]), (UNHEARD_NS + 1, [])):
        lines.lines.now_ns = now_ns
        if again == "ring":
            lines.lines.ring(RD)
        else:
            lines.set_bit(RD, 1)
        assert lines.told() == expected


def test_cpu_that_comes_is_rung_on_every_line() -> None:
    lines = Lines(4, "turn")
    lines.lines.cpu_changed(up=False)
    lines.lines.ring(WR)
    assert lines.told() == []

    lines.lines.cpu_changed(up=True)

    assert lines.told() == [15]


def test_each_channel_of_a_board_with_four_lines_raises_its_own() -> None:
    bench = Bench("rk3588")
    for direction in Direction:
        for channel in range(2):
            bench.write(direction.register("LINKED_LIST_ERR_EN"), 3)
            bench.start(direction, channel, llp=0)
            bench.write(direction.register("INT_CLEAR"), 1 << (16 + channel))

    assert [irq.bits for irq in bench.irqs] == [1, 2, 4, 8]
    assert [keys["line"] for keys in logged(bench.effects, "edma.line_lowered")] == [0, 1, 2, 3]
