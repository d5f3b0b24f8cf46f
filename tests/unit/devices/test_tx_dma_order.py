"""Whatever the engine does, frames become visible in order, once, and with their payload in place."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ntbnet.devices.edma_channel import State
from ntbnet.devices.edma_list import decode
from ntbnet.devices.memory import Window
from ntbnet.devices.ring import RingGeometry
from ntbnet.devices.tx_dma import CONTROLLER, REST_NS
from ntbnet.devices.tx_ring import TxRing
from ntbnet.regs.edma import ELEMENT_BYTES, STATUS_STOPPED
from ntbnet.regs.transport import FLAG_DESC_DONE
from ntbnet.wire import Completion, MemRead, MemWrite, Status
from tests.unit.devices.cpu_bus import MEMORY, RING, Cpu, settled
from tests.unit.devices.kit import EP_DRAM, sent, u32
from tests.unit.devices.test_tx_dma import ABORT, BUS, DONE, ENTRIES, FRAME, Board

ACTIONS = ("long", "short", "done", "abort", "lost", "probe", "rest", "consume")


class Link:
    """The far end of the window, an engine that copies when it is told to, and a peer that looks on."""

    def __init__(self) -> None:
        self.board = Board()
        self.board.ring.attach(self.board.memory.sub(7 << 20, 4096, "rx_info"), 0)
        self.window = bytearray(FRAME * ENTRIES + 4)
        self.sent: list[bytes] = []
        self.seen = 0
        self.status = 0

    def settle(self) -> None:
        """Carry what was sent; reads are answered at once."""
        while messages := self.board.take():
            for dst, message in messages:
                if isinstance(message, MemWrite) and dst == CONTROLLER:
                    self.store(message.addr, message.data)
                elif isinstance(message, MemRead):
                    self.read(dst, message)

    def read(self, dst: str, message: MemRead) -> None:
        name_at = message.addr - self.board.driver.address("WR_INT_STATUS")
        if dst == CONTROLLER:
            value = 0
        elif name_at == 0:
            value, self.status = self.status, 0
        else:
            value = STATUS_STOPPED << 5
        self.board.tasks.complete(Completion(message.tag, Status.OK, u32(value)))

    def store(self, offset: int, data: Any) -> None:
        self.window[offset : offset + len(data)] = data
        if offset % FRAME == FRAME - 4 and bytes(data) == u32(FLAG_DESC_DONE):
            expected = self.sent[self.seen]
            begin = self.seen % ENTRIES * FRAME
            assert offset == begin + FRAME - 4, "out of order"
            header = self.window[offset - 8 : offset]
            assert header == u32(self.seen, len(expected))
            assert self.window[begin : begin + len(expected)] == expected, "before its payload"
            self.seen += 1

    def copy(self) -> None:
        """The engine executes the list of the channel."""
        at = 0
        while (element := decode(self.board.memory.load(at, ELEMENT_BYTES))).transfer is not None:
            one = element.transfer
            data = self.board.memory.load(one.source - EP_DRAM, one.size)
            self.window[one.destination - BUS : one.destination - BUS + one.size] = data
            at += ELEMENT_BYTES

    def act(self, action: str) -> None:
        board, channel = self.board, self.board.driver.channels[0]
        if action in {"long", "short"}:
            payload = len(self.sent).to_bytes(4, "little") * (500 if action == "long" else 20)
            if board.send(payload) == 0:
                self.sent.append(payload)
        elif action in {"done", "abort"} and channel.state is State.BUSY:
            if action == "done":
                self.copy()
            self.status = DONE if action == "done" else ABORT
            board.tasks.spawn("dma", board.driver.interrupt())
        elif action == "lost":
            board.engine.lost()
        elif action == "probe" and not board.engine.is_present:
            board.engine.probe()
        elif action == "rest":
            board.sleep(REST_NS)
        elif action == "consume":
            board.memory.store_u32("test", 7 << 20, (self.seen - 1) % ENTRIES)
        self.settle()


@settings(max_examples=300)
@given(st.lists(st.sampled_from(ACTIONS), max_size=120))
def test_frames_become_visible_in_order_once_and_complete(actions: list[str]) -> None:
    link = Link()
    for action in actions:
        link.act(action)
    for action in ("probe", "lost"):
        link.act(action)

    assert link.seen == len(link.sent)
    assert link.board.answered == [len(payload) for payload in link.sent]
    assert link.board.ring.entries == ENTRIES
    assert link.board.ring.tx_async + link.board.ring.tx_memcpy == len(link.sent)
    assert link.board.engine.snapshot()[0]["buffers_used"] == 0


class LentNtb:
    """An outbound window in granted memory, which the CPU stores to in place while that is allowed."""

    def __init__(self, cpu: Cpu) -> None:
        self._bus = cpu.bus

    def peer_mw_lend(self, widx: int, size: int) -> Window | None:
        return self._bus.lend(MEMORY, size)

    def peer_mw_write(self, widx: int, offset: int, data: Any, what: str) -> None:
        self._bus.write(MEMORY + offset, data, what)

    def peer_db_set(self, bits: int) -> None:
        self._bus.doorbell(bits)


class FailingDma:
    """Takes every payload and copies none; the test has the CPU do it."""

    copy_bytes = 1

    def __init__(self) -> None:
        self.taken: list[tuple[Any, bytes]] = []

    def submit(self, offset: int, payload: bytes, length: int, frame: Any) -> bool:
        self.taken.append((frame, payload[:length]))
        return True


def test_payload_the_cpu_copies_is_in_place_before_its_header_whatever_else_its_step_did() -> None:
    """The window is lent anew behind the barrier, and the step has something to send already."""
    cpu, dma, size = settled(), FailingDma(), 0x100
    geometry = RingGeometry(0, 0, size * 4 + 4, size, 4)
    ring = TxRing(LentNtb(cpu), geometry, 1, lambda _tail: None)  # type: ignore[arg-type]
    ring.dma = dma  # type: ignore[assignment]
    for payload in (b"first", b"second"):
        assert ring.send(payload, len(payload), 0, None) == 0
    cpu.tasks.spawn("test", cpu.bus.barrier())
    for read in [message for message in sent(cpu.effects()) if isinstance(message, MemRead)]:
        cpu.answer(read)
    cpu.outbox.log("dma.failed", queue=0, frames=2)
    for frame, data in dma.taken:
        frame.copy(memoryview(data))
    for frame, _ in dma.taken:
        frame.copied()

    far = cpu.far[RING:]
    for index, payload in enumerate((b"first", b"second")):
        end = (index + 1) * size
        if far[end - 4 : end] == u32(FLAG_DESC_DONE):
            assert far[index * size : index * size + len(payload)] == payload
    cpu.effects()
    assert cpu.far[RING + 2 * size - 4 : RING + 2 * size] == u32(FLAG_DESC_DONE)
