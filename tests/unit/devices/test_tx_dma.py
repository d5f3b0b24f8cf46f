"""DMA copies of a sending ring, message by message: what goes to the controller, and in which order."""

from __future__ import annotations

import errno
from collections import Counter
from typing import Any

import pytest

from ntbnet.devices.edma_channel import EdmaDriver
from ntbnet.devices.effects import Outbox, Send
from ntbnet.devices.memory import Allocator
from ntbnet.devices.ring import RingGeometry
from ntbnet.devices.task import Task, Tasks
from ntbnet.devices.tx_dma import LIST_BYTES, PATIENCE, REST_NS, TxDmaEngine
from ntbnet.devices.tx_ring import TxRing
from ntbnet.regs.edma import ABORT_SHIFT, STATUS_RUNNING, STATUS_STOPPED, edma_block
from ntbnet.regs.transport import FLAG_DESC_DONE, FLAG_LINK_DOWN
from ntbnet.wire import Completion, MemRead, MemWrite, Message, Notice, Status
from tests.unit.devices.kit import EP_DRAM, config, dram, logged, u32

MS = 1_000_000
BUS, FRAME, ENTRIES = 0x8123_0000, 4096, 8
LONG, SHORT = b"L" * 2000, b"s" * 100
DONE, ABORT = 1, 1 << ABORT_SHIFT
_ENDPOINT = config().profile.endpoint
_BLOCK = edma_block(_ENDPOINT.edma_write_channels, _ENDPOINT.edma_read_channels)


class Ntb:
    """An outbound window whose stores go to the controller as they are, and a doorbell."""

    def __init__(self, outbox: Outbox) -> None:
        self.outbox = outbox

    def peer_mw_lend(self, widx: int, size: int) -> None:
        """Nothing is lent."""

    def peer_mw_write(self, widx: int, offset: int, data: Any, what: str = "") -> None:
        self.outbox.send("epc", MemWrite(offset, bytes(data)))

    def peer_db_set(self, bits: int) -> None:
        self.outbox.send("epc", Notice("doorbell", {"bits": bits}))


class Board:
    """A ring with DMA; the engine and the controller are played by the test."""

    def __init__(self, entries: int = ENTRIES, dram_bytes: int = 8 << 20) -> None:
        self.outbox = Outbox()
        self.tasks = Tasks(self.outbox, "epc", 500 * MS)
        self.memory = dram(EP_DRAM, dram_bytes)
        self.counters: Counter[str] = Counter()
        self.reaches_peer = [True]
        """What the next reads behind the controller's writes give; the last one for ever."""
        self.stuck: list[str] = []
        self.driver = EdmaDriver(_ENDPOINT, self.outbox)
        self.engine = TxDmaEngine(
            self.driver,
            self.tasks,
            self.outbox,
            Allocator(self.memory),
            self.counters,
            copy_bytes=1024,
            timeout_ns=500 * MS,
            barrier=self._barrier,
            on_stuck=self.stuck.append,
        )
        self.engine.probe()
        geometry = RingGeometry(0, 0, FRAME * entries + 4, FRAME, entries)
        self.ring = TxRing(Ntb(self.outbox), geometry, 1, lambda _tail: None)  # type: ignore[arg-type]
        self.dma = self.engine.queue(0, geometry.max_payload, entries)
        self.ring.dma = self.dma
        if self.dma is not None:
            self.dma.start(BUS)
        self.answered: list[int] = []
        self.effects: list[Any] = []
        self.take()

    def _barrier(self) -> Task[bool]:
        self.outbox.send("epc", Notice("barrier", {}))
        yield from ()
        return self.reaches_peer.pop(0) if len(self.reaches_peer) > 1 else self.reaches_peer[0]

    def take(self) -> list[tuple[str, Message]]:
        """What was sent since, with its destination."""
        effects = self.outbox.take()
        self.effects.extend(effects)
        return [(effect.dst, effect.message) for effect in effects if isinstance(effect, Send)]

    def send(self, payload: bytes, flags: int = 0) -> int:
        return self.ring.send(payload, len(payload), flags, self.answered.append)

    def answer(self, messages: list[tuple[str, Message]], value: int) -> list[tuple[str, Message]]:
        """Answer the one read among the messages; what comes of that."""
        (read,) = [message for _, message in messages if isinstance(message, MemRead)]
        self.tasks.complete(Completion(read.tag, Status.OK, u32(value)))
        return self.take()

    def interrupt(self, status: int) -> list[tuple[str, Message]]:
        """The engine's line is high with this INT_STATUS of the write channels."""
        self.tasks.spawn("dma", self.driver.interrupt())
        return self.answer(self.take(), status)

    def sleep(self, duration_ns: int) -> None:
        self.tasks.on_deadline(self.tasks.now_ns + duration_ns)


def stores(messages: list[tuple[str, Message]]) -> list[tuple[int, bytes]]:
    """Offset and bytes of every store of the CPU into the window."""
    return [(m.addr, bytes(m.data)) for dst, m in messages if dst == "epc" and isinstance(m, MemWrite)]


def visible(messages: list[tuple[str, Message]]) -> list[int]:
    """Frames that became visible, by index, in order."""
    done = u32(FLAG_DESC_DONE)
    return [addr // FRAME for addr, data in stores(messages) if addr % FRAME == FRAME - 4 and data == done]


def doorbells(messages: list[tuple[str, Message]]) -> list[int]:
    """Channel doorbells."""
    at = _ENDPOINT.edma_base + _BLOCK.offset("WR_DOORBELL")
    return [int.from_bytes(m.data, "little") for _, m in messages if isinstance(m, MemWrite) and m.addr == at]


def kinds(messages: list[tuple[str, Message]]) -> list[str]:
    """Of everything that goes to the controller."""
    return [
        m.name if isinstance(m, Notice) else type(m).__name__.lower() for dst, m in messages if dst == "epc"
    ]


def recover(board: Board, messages: list[tuple[str, Message]]) -> list[tuple[str, Message]]:
    """Answer as an engine that has stopped, until the CPU may copy."""
    messages = board.answer(messages, STATUS_STOPPED << 5)
    messages = board.answer(messages, STATUS_STOPPED << 5)
    return board.answer(messages, 0)


@pytest.mark.covers("NTB 144")
def test_header_and_doorbell_follow_the_payload() -> None:
    board = Board()
    assert board.send(LONG) == 0
    started = board.take()
    assert doorbells(started) == [0]
    assert kinds(started) == []
    assert board.answered == []

    done = board.interrupt(DONE)

    assert kinds(done) == ["memwrite", "memwrite", "doorbell"]
    assert stores(done) == [(FRAME - 12, u32(0, len(LONG))), (FRAME - 4, u32(FLAG_DESC_DONE))]
    assert board.answered == [len(LONG)]
    assert (board.ring.tx_async, board.ring.tx_memcpy, board.ring.tx_bytes) == (1, 0, len(LONG))


def test_engine_is_given_the_buffer_and_the_bus_address_of_the_frame() -> None:
    board = Board()
    for _ in range(2):
        board.send(LONG)
    board.interrupt(DONE)
    board.take()
    (first,) = board.engine.snapshot()
    source = board.memory.load(0, 24)

    assert first["queued"] == 1
    control, size, sar, dar = (
        int.from_bytes(source[a:b], "little") for a, b in ((0, 4), (4, 8), (8, 16), (16, 24))
    )
    assert (size, dar) == (len(LONG), BUS + FRAME)
    assert control
    assert board.memory.load(sar - EP_DRAM, size) == LONG
    assert sar >= EP_DRAM + LIST_BYTES


def test_short_frame_waits_behind_a_long_one() -> None:
    board = Board()
    board.send(LONG)
    board.take()
    board.send(SHORT)
    waiting = board.take()
    assert stores(waiting) == [(FRAME, SHORT)]
    assert board.ring.in_flight == 2

    assert visible(board.interrupt(DONE)) == [0, 1]
    assert board.answered == [len(LONG), len(SHORT)]
    assert (board.ring.tx_async, board.ring.tx_memcpy) == (1, 1)


def test_short_frame_alone_is_copied_at_once() -> None:
    board = Board()
    board.send(SHORT)

    assert visible(board.take()) == [0]
    assert board.answered == [len(SHORT)]


def test_link_down_frame_and_its_flags_wait_as_well() -> None:
    board = Board()
    board.send(LONG)
    board.send(b"", FLAG_LINK_DOWN)
    board.take()
    done = board.interrupt(DONE)

    assert stores(done)[-1] == (2 * FRAME - 4, u32(FLAG_DESC_DONE | FLAG_LINK_DOWN))


def test_full_pool_leaves_the_rest_to_the_cpu_in_order() -> None:
    board = Board(entries=400)
    buffers = board.engine.snapshot()[0]["buffers"]
    for _ in range(buffers + 3):
        assert board.send(LONG) == 0
    board.take()

    assert buffers == 64
    assert (board.ring.tx_async, board.ring.tx_memcpy) == (buffers, 3)
    assert visible(board.interrupt(DONE)) == [0]
    assert visible(board.interrupt(DONE)) == list(range(1, buffers + 3))
    assert board.engine.snapshot()[0]["buffers_used"] == 0


def test_abort_is_copied_by_the_cpu_when_the_engine_has_ended_and_its_writes_are_out() -> None:
    board = Board()
    board.send(LONG)
    board.send(SHORT)
    board.take()

    asked = board.interrupt(ABORT)
    assert kinds(asked) == []
    cleared = board.answer(asked, STATUS_STOPPED << 5)
    pushing = board.answer(cleared, STATUS_STOPPED << 5)
    assert kinds(pushing) == ["memread"]
    copied = board.answer(pushing, 0)

    assert stores(copied)[0] == (0, LONG)
    assert visible(copied) == [0, 1]
    assert board.answered == [len(LONG), len(SHORT)]
    assert board.counters["dma_errors"] == 1
    assert logged(board.effects, "dma.failed") == [{"queue": 0, "frames": 1}]


def test_frame_sent_while_the_engine_is_being_stopped_stays_behind() -> None:
    board = Board()
    board.send(LONG)
    board.take()
    asked = board.interrupt(ABORT)
    board.send(SHORT)
    board.send(LONG)
    assert visible(board.take()) == []

    assert visible(recover(board, asked)) == [0, 1, 2]
    assert (board.ring.tx_async, board.ring.tx_memcpy) == (1, 2)


def test_lost_engine_is_fenced_off_in_front_of_the_cpus_copy() -> None:
    board = Board()
    board.send(LONG)
    board.take()
    board.engine.lost()
    messages = board.take()

    assert kinds(messages) == ["edma_fence", "barrier", "memwrite", "memwrite", "memwrite", "doorbell"]
    assert visible(messages) == [0]
    board.send(LONG)
    assert visible(board.take()) == [1]


def test_nothing_is_copied_and_the_queue_is_not_quiet_before_the_engines_writes_are_at_the_peer() -> None:
    board = Board()
    assert board.dma is not None
    board.reaches_peer = [False, False, True]
    board.send(LONG)
    board.engine.lost()
    assert kinds(board.take()) == ["edma_fence", "barrier"]
    assert not board.dma.is_quiet()

    board.sleep(REST_NS)
    assert kinds(board.take()) == ["barrier"]
    board.sleep(REST_NS)

    assert visible(board.take()) == [0]
    assert board.dma.is_quiet()
    assert board.stuck == []


def test_peer_that_does_not_answer_behind_the_engines_writes_costs_the_link_epoch_once() -> None:
    board = Board()
    board.tasks.epoch = 1
    board.reaches_peer = [False]
    board.send(LONG)
    board.engine.lost()
    asked_at: list[int] = []
    for _ in range(PATIENCE * 500 * MS // REST_NS + 20):
        board.sleep(REST_NS)
        asked_at += [board.tasks.now_ns] * (len(board.stuck) - len(asked_at))

    assert asked_at == [PATIENCE * 500 * MS]
    assert visible(board.take()) == []


def test_engine_that_comes_back_is_switched_off_first_and_used_again() -> None:
    board = Board()
    board.send(LONG)
    board.engine.lost()
    board.take()
    board.sleep(REST_NS)
    board.engine.probe()
    off = board.take()
    board.send(LONG)

    enable = _ENDPOINT.edma_base + _BLOCK.offset("WR_ENGINE_EN")
    assert [bytes(m.data) for _, m in off if isinstance(m, MemWrite) and m.addr == enable] == [u32(0)]
    assert doorbells(board.take()) == [0]
    assert visible(board.interrupt(DONE)) == [1]


def test_failure_is_followed_by_a_rest() -> None:
    board = Board()
    board.send(LONG)
    board.take()
    recover(board, board.interrupt(ABORT))
    board.send(LONG)
    assert visible(board.take()) == [1]

    board.sleep(REST_NS)
    board.send(LONG)
    assert doorbells(board.take()) == [0]


def test_engine_that_is_silent_too_long_is_given_up() -> None:
    board = Board()
    board.send(LONG)
    board.take()
    board.sleep(500 * MS)
    asked = board.take()
    assert [type(m) for _, m in asked] == [MemRead]
    board.sleep(500 * MS)

    assert kinds(board.take()) == ["edma_fence", "barrier", "memwrite", "memwrite", "memwrite", "doorbell"]


def test_late_interrupt_of_a_transfer_given_up_is_not_believed() -> None:
    board = Board()
    board.send(LONG)
    board.take()
    board.sleep(500 * MS)
    asked = board.take()
    board.tasks.spawn("dma", board.driver.interrupt())

    assert board.take() == []
    assert visible(recover(board, asked)) == [0]


def test_reset_drops_what_is_in_flight_and_the_queue_waits_for_a_quiet_engine() -> None:
    board = Board()
    assert board.dma is not None
    board.send(LONG)
    board.send(SHORT)
    board.take()
    board.ring.reset()
    asked = board.take()

    assert board.answered == [-errno.ENOLINK, -errno.ENOLINK]
    assert not board.dma.is_quiet()
    stop = board.answer(asked, STATUS_RUNNING << 5)
    assert doorbells(stop) == [1 << 31]
    pushing = board.answer(stop, STATUS_STOPPED << 5)
    end = board.answer(pushing, 0)
    assert stores(end) == []
    assert board.dma.is_quiet()
    assert board.engine.snapshot()[0]["buffers_used"] == 0
    assert board.ring.entries == ENTRIES
    assert board.ring.index == 0


def test_recovery_whose_task_was_cancelled_is_begun_again_by_who_waits() -> None:
    board = Board()
    assert board.dma is not None
    board.send(LONG)
    board.ring.reset()
    board.tasks.cancel_all()
    board.take()

    assert not board.dma.is_quiet()
    recover(board, board.take())
    assert board.dma.is_quiet()


def test_unknown_bus_address_is_cpu_and_said_once() -> None:
    board = Board()
    assert board.dma is not None
    board.dma.start(None)
    board.send(LONG)

    assert visible(board.take()) == [0]
    assert logged(board.effects, "dma.unavailable") == [
        {"reason": "queue 0: bus address of the window unknown"}
    ]


def test_queues_beyond_the_channels_are_cpu_and_said_once_each() -> None:
    board = Board()
    made = [board.engine.queue(number, 4000, 4) for number in range(1, _ENDPOINT.edma_write_channels + 1)]
    board.take()

    assert [queue is not None for queue in made] == [True] * (_ENDPOINT.edma_write_channels - 1) + [False]
    assert board.engine.queue(_ENDPOINT.edma_write_channels, 4000, 4) is None
    assert len(logged(board.effects, "dma.unavailable")) == 1


def test_no_memory_is_cpu() -> None:
    board = Board(dram_bytes=4096)
    assert board.dma is None
    board.send(LONG)

    assert visible(board.take()) == [0]
    assert "for DMA" in logged(board.effects, "dma.unavailable")[0]["reason"]


def test_channel_and_memory_of_a_queue_are_kept_for_the_next_device() -> None:
    board = Board()

    assert board.engine.queue(0, FRAME - 12, ENTRIES) is board.dma
    assert len(board.driver.channels) == 1
