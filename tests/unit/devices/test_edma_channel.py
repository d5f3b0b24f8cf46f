"""The endpoint's driver of eDMA channels, against the engine itself."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntbnet.devices.edma_channel import EdmaChannel, EdmaDriver, State
from ntbnet.devices.effects import Outbox, Send
from ntbnet.devices.task import Tasks
from ntbnet.errors import KernelError
from ntbnet.regs.edma import Direction
from ntbnet.wire import Completion, MemWrite, Message
from tests.unit.devices.edma_bench import CCS, LIST, LLE, RD, STOP, WR, Bench, pattern
from tests.unit.devices.kit import EP_DRAM, RC_DRAM

SOURCE, TARGET = EP_DRAM + 0x20_0000, RC_DRAM + 0x30_0000
TIMEOUT_NS = 500_000_000


class Cpu:
    """A CPU with the driver, wired to an engine; ``holds_irqs`` keeps interrupts from it."""

    def __init__(self, list_bytes: int = 4096, profile: str = "r-car-s4") -> None:
        self.bench = Bench(profile)
        self.outbox = Outbox()
        self.tasks = Tasks(self.outbox, "epc", TIMEOUT_NS)
        self.driver = EdmaDriver(self.bench.config.profile.endpoint, self.outbox)
        self.list_bytes = list_bytes
        self.answers: list[tuple[object, bool]] = []
        self.written: list[tuple[int, int]] = []
        """Register offset and value of each write, in order."""
        self.irqs_seen = 0
        self.holds_irqs = self.is_deaf = False
        self.bench.ep.store("test", 0x20_0000, pattern(0x40000, 1))
        self.bench.rc.store("test", 0x30_0000, pattern(0x40000, 2))

    def channel(self, direction: Direction, region: int = LIST) -> EdmaChannel:
        piece = self.bench.ep.sub(region - EP_DRAM, self.list_bytes, "list")
        return self.driver.request_channel(
            direction, piece, lambda cookie, ok: self.answers.append((cookie, ok))
        )

    def run(self) -> None:
        """Carry messages both ways until nothing is under way."""
        for _ in range(10_000):
            effects = [effect for effect in self.outbox.take() if isinstance(effect, Send)]
            for effect in effects:
                assert effect.dst == "edma"
                self.to_engine(effect.message)
            if not self.holds_irqs and self.irqs_seen < len(self.bench.irqs):
                self.irqs_seen = len(self.bench.irqs)
                for name in ("WR_INT_CLEAR", "RD_INT_CLEAR"):
                    self.driver.write(name, 0)
                self.tasks.spawn("dma", self.driver.interrupt())
            elif not effects:
                if self.bench.answers:
                    self.bench.run_until_idle()
                if not (self.outbox.effects or self.irqs_seen < len(self.bench.irqs)) or self.holds_irqs:
                    return
        raise AssertionError("driver and engine never come to rest")

    def to_engine(self, message: Message) -> None:
        """A register access of the CPU; what it read comes back at once."""
        if isinstance(message, MemWrite):
            offset = message.addr - self.bench.base
            self.written.append((offset, int.from_bytes(message.data, "little")))
        if self.is_deaf:
            return
        effects = self.bench.edma.handle("peer-ep", message, self.bench.now_ns)
        answers = [e for e in effects if isinstance(e, Send) and isinstance(e.message, Completion)]
        self.bench.perform([effect for effect in effects if effect not in answers])
        for answer in answers:
            assert isinstance(answer.message, Completion)
            self.tasks.complete(answer.message)


@pytest.mark.parametrize("direction", list(Direction))
def test_transfers_complete_in_order_with_their_data(direction: Direction) -> None:
    cpu = Cpu()
    channel = cpu.channel(direction)
    source, target = (SOURCE, TARGET) if direction is WR else (TARGET, SOURCE)
    for number in range(5):
        channel.submit(source + 9000 * number, target + 9000 * number, 9000, number)
    channel.issue()
    cpu.run()

    assert cpu.answers == [(number, True) for number in range(5)]
    memory, base = (cpu.bench.rc, RC_DRAM) if direction is WR else (cpu.bench.ep, EP_DRAM)
    assert memory.load(target - base, 45000) == pattern(0x40000, 1 if direction is WR else 2)[:45000]
    assert channel.state is State.IDLE
    assert channel.snapshot()["bytes"] == 45000


def test_first_doorbell_follows_the_kernels_sequence() -> None:
    cpu = Cpu()
    channel = cpu.channel(WR)
    channel.submit(SOURCE, TARGET, 64, None)
    channel.issue()
    block = cpu.bench.block
    cpu.holds_irqs = True
    cpu.run()

    assert cpu.written == [
        (block.offset("WR_ENGINE_EN"), 1),
        (block.offset("WR_INT_MASK"), 0x00FE00FE),
        (block.offset("WR_LINKED_LIST_ERR_EN"), 1),
        (block.offset("WR_CONTROL1"), CCS | LLE),
        (block.offset("WR_LLP_LOW"), LIST),
        (block.offset("WR_LLP_HIGH"), 0),
        (block.offset("WR_DOORBELL"), 0),
    ]


@pytest.mark.covers("EDMA 115", "EDMA 116")
def test_long_queue_runs_as_chunks_of_a_page_with_one_doorbell_each() -> None:
    cpu = Cpu()
    channel = cpu.channel(WR)
    for number in range(400):
        channel.submit(SOURCE + 64 * number, TARGET + 64 * number, 64, number)
    channel.issue()
    cpu.run()
    doorbells = [value for offset, value in cpu.written if offset == cpu.bench.block.offset("WR_DOORBELL")]

    assert len(doorbells) == 3
    assert cpu.answers == [(number, True) for number in range(400)]
    assert cpu.bench.rc.load(TARGET - RC_DRAM, 25600) == pattern(0x40000, 1)[:25600]


def test_what_is_submitted_meanwhile_follows_by_itself() -> None:
    cpu = Cpu()
    channel = cpu.channel(RD)
    cpu.holds_irqs = True
    channel.submit(TARGET, SOURCE, 64, "first")
    channel.issue()
    cpu.run()
    channel.submit(TARGET + 64, SOURCE + 64, 64, "second")
    channel.issue()
    assert cpu.answers == []

    cpu.holds_irqs = False
    cpu.run()

    assert cpu.answers == [("first", True), ("second", True)]
    assert cpu.bench.ep.load(SOURCE - EP_DRAM, 128) == pattern(0x40000, 2)[:128]


@pytest.mark.parametrize("direction", list(Direction))
def test_abort_reports_every_queued_transfer_as_failed_and_the_next_one_works(direction: Direction) -> None:
    cpu = Cpu(list_bytes=24 * 3)
    channel = cpu.channel(direction)
    good, bad = (SOURCE, 0x1000) if direction is WR else (0x1000, SOURCE)
    for number in range(5):
        channel.submit(good, bad, 64, number)
    channel.issue()
    cpu.run()

    assert cpu.answers == [(number, False) for number in range(5)]
    cpu.answers.clear()
    source, target = (SOURCE, TARGET) if direction is WR else (TARGET, SOURCE)
    channel.submit(source, target, 64, "again")
    channel.issue()
    cpu.run()
    assert cpu.answers == [("again", True)]
    assert cpu.bench.edma.lines.level == 0


@pytest.mark.covers("EDMA 120")
def test_terminate_stops_the_engine_before_it_gives_the_buffers_back() -> None:
    cpu = Cpu()
    channel = cpu.channel(RD)
    cpu.bench.answers = False
    for number in range(3):
        channel.submit(TARGET, SOURCE, 64, number)
    channel.issue()
    cpu.run()
    cpu.holds_irqs = True
    cpu.tasks.spawn("terminate", channel.terminate())
    cpu.run()

    assert (cpu.bench.block.offset("RD_DOORBELL"), STOP) in cpu.written
    assert cpu.answers == []
    with pytest.raises(KernelError) as refused:
        next(channel.terminate())
    assert refused.value.errno == errno.EPERM
    cpu.holds_irqs = False
    cpu.run()
    assert cpu.answers == [(number, False) for number in range(3)]
    assert channel.state is State.IDLE


@pytest.mark.covers("EDMA 121")
def test_terminate_of_a_channel_that_is_complete_returns_it_to_idle() -> None:
    cpu = Cpu()
    channel = cpu.channel(WR)
    cpu.holds_irqs = True
    channel.submit(SOURCE, TARGET, 64, "done")
    channel.issue()
    cpu.run()
    channel.submit(SOURCE, TARGET, 64, "waits")
    cpu.tasks.spawn("terminate", channel.terminate())
    cpu.run()

    assert cpu.answers == [("done", True), ("waits", False)]
    assert channel.state is State.IDLE
    assert cpu.bench.get("WR_INT_STATUS") == 0


def test_terminate_of_an_idle_channel_fails_what_was_not_issued() -> None:
    cpu = Cpu()
    channel = cpu.channel(WR)
    channel.submit(SOURCE, TARGET, 64, "queued")
    cpu.tasks.spawn("terminate", channel.terminate())

    assert cpu.answers == [("queued", False)]
    assert cpu.outbox.take() == []


def test_loss_of_the_engine_fails_everything_and_the_next_engine_is_programmed_anew() -> None:
    cpu = Cpu()
    channel = cpu.channel(WR)
    cpu.holds_irqs = True
    channel.submit(SOURCE, TARGET, 64, 1)
    channel.issue()
    cpu.run()
    cpu.driver.lost()
    assert cpu.answers == [(1, False)]

    fresh = Bench()
    fresh.ep.store("test", 0x20_0000, cpu.bench.ep.load(0x20_0000, 64))
    cpu.bench.edma, cpu.irqs_seen, cpu.holds_irqs = fresh.edma, len(cpu.bench.irqs), False
    cpu.bench.edma.engine.set_link(7, bus_master=True)
    channel.submit(SOURCE, TARGET, 64, 2)
    channel.issue()
    assert sum(isinstance(effect, Send) for effect in cpu.outbox.effects) == 7


@pytest.mark.covers("EDMA 123")
def test_channels_of_others_are_left_alone() -> None:
    """A done bit of a channel that somebody else drives is neither cleared nor reported."""
    cpu = Cpu()
    channel = cpu.channel(WR)
    cpu.bench.edma.registers.set("WR_INT_STATUS", 0x00F0_00F0)
    channel.submit(SOURCE, TARGET, 64, "mine")
    channel.issue()
    cpu.run()

    assert cpu.answers == [("mine", True)]
    assert cpu.bench.get("WR_INT_STATUS") == 0x00F0_00F0


def test_engine_that_does_not_answer_is_no_completion() -> None:
    cpu = Cpu()
    channel = cpu.channel(WR)
    channel.submit(SOURCE, TARGET, 64, "lost")
    channel.issue()
    cpu.is_deaf = True
    cpu.tasks.spawn("dma", cpu.driver.interrupt())
    cpu.run()
    cpu.tasks.on_deadline(TIMEOUT_NS)

    assert cpu.answers == []
    assert channel.state is State.BUSY
    cpu.tasks.spawn("terminate", channel.terminate())
    cpu.run()
    cpu.tasks.on_deadline(2 * TIMEOUT_NS)
    assert cpu.answers == [("lost", False)]


def test_more_channels_than_there_are_and_lists_without_room_are_refused() -> None:
    cpu = Cpu(profile="rk3588")
    region = cpu.bench.ep.sub(0x10_0000, 4096, "list")
    for _ in range(2):
        cpu.driver.request_channel(RD, region, lambda _cookie, _ok: None)
    with pytest.raises(KernelError) as refused:
        cpu.driver.request_channel(RD, region, lambda _cookie, _ok: None)
    assert refused.value.errno == errno.EBUSY
    with pytest.raises(KernelError) as refused:
        cpu.driver.request_channel(WR, region.sub(0, 40, "small"), lambda _cookie, _ok: None)
    assert refused.value.errno == errno.EINVAL


@pytest.mark.parametrize(
    ("source", "destination", "length"),
    [(SOURCE, TARGET, 0), (SOURCE, TARGET, 1 << 32), (-1, TARGET, 4), (SOURCE, (1 << 64) - 2, 4)],
)
def test_impossible_transfer_is_refused_at_submission(source: int, destination: int, length: int) -> None:
    channel = Cpu().channel(WR)

    with pytest.raises(KernelError) as refused:
        channel.submit(source, destination, length, None)

    assert refused.value.errno == errno.EINVAL
    assert channel.queued == 0


@given(st.lists(st.tuples(st.integers(1, 3000), st.booleans()), max_size=40), st.integers(2, 6))
@settings(max_examples=30, deadline=None)
def test_any_sequence_of_submissions_is_answered_once_in_order(
    steps: list[tuple[int, bool]], slots: int
) -> None:
    cpu = Cpu(list_bytes=24 * slots)
    channel = cpu.channel(WR)
    offset = 0
    for number, (size, run) in enumerate(steps):
        channel.submit(SOURCE + offset, TARGET + offset, size, number)
        offset += size
        channel.issue()
        if run:
            cpu.run()
    cpu.run()

    assert cpu.answers == [(number, True) for number in range(len(steps))]
    assert cpu.bench.rc.load(TARGET - RC_DRAM, offset) == pattern(0x40000, 1)[:offset]


def test_done_and_abort_at_once_start_nothing_more() -> None:
    cpu = Cpu()
    channel = cpu.channel(WR)
    cpu.holds_irqs = True
    channel.submit(SOURCE, TARGET, 64, 0)
    channel.issue()
    cpu.run()
    channel.submit(SOURCE, TARGET, 64, 1)
    cpu.written.clear()

    channel.on_status(1 | 1 << 16)
    cpu.run()

    assert cpu.answers == [(0, True), (1, False)]
    assert cpu.written == []
    assert channel.state is State.IDLE


def at_work() -> tuple[Cpu, EdmaChannel]:
    """A read channel whose requests nobody has answered yet."""
    cpu = Cpu()
    channel = cpu.channel(RD)
    cpu.bench.answers = False
    channel.submit(TARGET, SOURCE, 0x10000, 0)
    channel.issue()
    cpu.run()
    assert cpu.bench.unanswered
    return cpu, channel


def nothing_lands_later(cpu: Cpu) -> bool:
    """True when the answers that are still under way change no memory."""
    before = cpu.bench.ep.load(SOURCE - EP_DRAM, 0x10000)
    for read in cpu.bench.unanswered:
        cpu.bench.hear(cpu.bench.completion(read))
    cpu.bench.unanswered.clear()
    cpu.bench.answers = True
    cpu.run()
    return cpu.bench.ep.load(SOURCE - EP_DRAM, 0x10000) == before


def test_abandoned_transfers_have_failed_and_the_engine_has_let_go() -> None:
    cpu, channel = at_work()
    ended: list[bool] = []
    cpu.tasks.spawn("abandon", channel.abandon(), ended.append)
    assert cpu.answers == [(0, False)]
    cpu.run()

    assert ended == [True]
    assert nothing_lands_later(cpu)
    assert cpu.answers == [(0, False)]
    channel.submit(TARGET, SOURCE, 64, 1)
    channel.issue()
    cpu.run()
    assert cpu.answers[-1] == (1, True)


def test_idle_channel_is_abandoned_without_a_stop() -> None:
    cpu = Cpu()
    channel = cpu.channel(WR)
    ended: list[bool] = []
    cpu.tasks.spawn("abandon", channel.abandon(), ended.append)
    cpu.run()

    assert ended == [True]
    assert [offset for offset, _ in cpu.written] == [cpu.bench.block.offset("WR_INT_CLEAR")]


def test_engine_that_does_not_answer_may_still_be_at_work() -> None:
    cpu = Cpu()
    channel = cpu.channel(WR)
    channel.submit(SOURCE, TARGET, 64, 0)
    cpu.is_deaf = True
    ended: list[bool] = []
    cpu.tasks.spawn("abandon", channel.abandon(), ended.append)
    cpu.run()
    cpu.tasks.on_deadline(TIMEOUT_NS)

    assert ended == [False]


def test_reset_ends_what_an_earlier_driver_left_running() -> None:
    cpu, _ = at_work()
    cpu.driver.lost()
    cpu.driver.reset()
    cpu.run()

    assert nothing_lands_later(cpu)
    assert [one["state"] for one in cpu.bench.edma.snapshot()["channels"]] == ["stopped"]
