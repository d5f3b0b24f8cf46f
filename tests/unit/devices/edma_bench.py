"""An eDMA engine on a bench: EP memory, a bus with RC memory behind it, its registers by name."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import cache

from ntbnet.devices.edma import Edma
from ntbnet.devices.edma_list import Transfer, encode_chunk
from ntbnet.devices.effects import Effect, Send
from ntbnet.regs.edma import Direction, edma_block
from ntbnet.wire import Completion, Irq, MemRead, MemWrite, Message, Notice, Status
from tests.unit.devices.kit import EP_DRAM, RC_DRAM, config, dram, logged, u32

EPOCH = 7
MSI = 0xFEE0_0000
LIST = EP_DRAM + 0x10_0000
"""Where lists lie."""
WR, RD = Direction.WRITE, Direction.READ
CCS, LLE, LIE, RIE = 1 << 8, 1 << 9, 1 << 3, 1 << 4
STOP = 1 << 31


class Bench:
    """The engine, with the link up and channels enabled.

    Attributes:
        requests: everything it sent to the controller, in order.
        irqs: everything it sent to the CPU.
        effects: every effect of it.
        answers: False keeps reads unanswered, in ``unanswered``.
    """

    def __init__(self, profile: str = "r-car-s4", read_bytes: int = 4096) -> None:
        self.config = config(profile=profile)
        endpoint = self.config.profile.endpoint
        self.base, self.ep_base = endpoint.edma_base, endpoint.dram_base
        self.block = edma_block(endpoint.edma_write_channels, endpoint.edma_read_channels)
        self.ep, self.rc = dram(endpoint.dram_base), dram(RC_DRAM)
        self.edma = Edma(self.config, self.ep, read_bytes)
        self.now_ns = 0
        self.effects: list[Effect] = []
        self.requests: list[Message] = []
        self.irqs: list[Irq] = []
        self.unanswered: deque[MemRead] = deque()
        self.answers = True
        self.perform(self.edma.on_path("peer-ep", True, 1, "", 0))
        self.irqs.clear()
        self.set_link()
        for direction in Direction:
            self.write(direction.register("ENGINE_EN"), 1)

    def set_link(self, epoch: int = EPOCH, bus_master: bool = True) -> None:
        self.hear(Notice("link", {"epoch": epoch, "bus_master": bus_master}, epoch))

    def hear(self, message: Message, src: str = "epc") -> None:
        self.perform(self.edma.handle(src, message, self.now_ns))

    def write(self, register: str, value: int, index: int = 0, src: str = "peer-ep") -> None:
        self.hear(MemWrite(self.base + self.block.offset(register, index), u32(value)), src)

    def write_pair(self, register: str, value: int, index: int = 0) -> None:
        self.write(f"{register}_LOW", value & 0xFFFFFFFF, index)
        self.write(f"{register}_HIGH", value >> 32, index)

    def get(self, register: str, index: int = 0) -> int:
        return self.edma.registers.get(register, index)

    def status(self, direction: Direction, channel: int = 0) -> int:
        return self.edma.registers.get_field(direction.register("CONTROL1"), "STATUS", channel)

    def perform(self, effects: Sequence[Effect]) -> None:
        self.effects += effects
        waiting = deque(effect for effect in effects if isinstance(effect, Send))
        while waiting:
            effect = waiting.popleft()
            if effect.dst == "epc":
                self.requests.append(effect.message)
                waiting.extend(e for e in self.answer(effect.message) if isinstance(e, Send))
            elif isinstance(effect.message, Irq):
                self.irqs.append(effect.message)

    def answer(self, message: Message) -> Sequence[Effect]:
        """What the bus does: RC memory or Unsupported Request."""
        if isinstance(message, MemWrite):
            if self.rc.span.contains(message.addr, len(message.data)):
                self.rc.store("test", message.addr - RC_DRAM, message.data)
        elif isinstance(message, MemRead):
            if not self.answers:
                self.unanswered.append(message)
                return ()
            effects = self.edma.handle("epc", self.completion(message), self.now_ns)
            self.effects += effects
            return effects
        return ()

    def completion(self, read: MemRead) -> Completion:
        if (read.addr, read.size) == (MSI, 4):
            return Completion(read.tag, Status.OK, bytes(4), read.epoch)
        if not self.rc.span.contains(read.addr, read.size):
            return Completion(read.tag, Status.UR, b"", read.epoch)
        return Completion(read.tag, Status.OK, self.rc.load(read.addr - RC_DRAM, read.size), read.epoch)

    def run_until_idle(self, most: int = 2000) -> None:
        """Let turns pass until the engine waits for nothing."""
        for _ in range(most):
            deadline = self.edma.next_deadline()
            if deadline is None:
                return
            self.now_ns = max(self.now_ns, deadline)
            self.perform(self.edma.on_deadline(self.now_ns))
        raise AssertionError("the engine never comes to rest")

    def put_list(self, data: bytes, addr: int = LIST) -> None:
        self.ep.store("test", addr - self.ep_base, data)

    def start(self, direction: Direction, channel: int = 0, llp: int = LIST) -> None:
        """First doorbell of a list, as a driver does it."""
        self.write(direction.register("LINKED_LIST_ERR_EN"), 0xFF)
        self.write(direction.register("CONTROL1"), CCS | LLE, channel)
        self.write_pair(direction.register("LLP"), llp, channel)
        self.write(direction.register("DOORBELL"), channel)

    def run_list(self, direction: Direction, transfers: Sequence[Transfer], channel: int = 0) -> None:
        """A chunk with the cycle bit 1, from its doorbell until nothing moves any more."""
        self.put_list(encode_chunk(transfers, LIST, 1))
        self.start(direction, channel)
        self.run_until_idle()

    def run_block(self, direction: Direction, transfer: Transfer, control: int = LIE) -> None:
        """A single transfer on channel 0."""
        self.write(direction.register("CONTROL1"), control)
        self.write(direction.register("TRANSFER_SIZE"), transfer.size)
        self.write_pair(direction.register("SAR"), transfer.source)
        self.write_pair(direction.register("DAR"), transfer.destination)
        self.write(direction.register("DOORBELL"), 0)

    def sent(self, kind: type[MemWrite | MemRead]) -> list[MemWrite | MemRead]:
        return [message for message in self.requests if isinstance(message, kind)]

    def aborts(self) -> list[str]:
        """Causes that were logged."""
        return [str(keys["cause"]) for keys in logged(self.effects, "edma.channel_aborted")]


@cache
def pattern(size: int, seed: int = 1) -> bytes:
    """Bytes without a short period."""
    return bytes((i * 7 + seed * 13 + (i >> 8)) & 0xFF for i in range(size))
