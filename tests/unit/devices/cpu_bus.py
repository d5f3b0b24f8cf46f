"""One host's CPU with its way out, and the other node's memory."""

from __future__ import annotations

from typing import Any

from ntbnet.devices.direct import CpuBus, Far
from ntbnet.devices.effects import Effect, Outbox, Store
from ntbnet.devices.lease import LEASE_BYTES, Lease
from ntbnet.devices.memory import Window
from ntbnet.devices.task import Tasks
from ntbnet.wire import Completion, MemRead, Status
from tests.unit.devices.kit import sent

FAR_BYTES = 0x1000
IDENT, EPOCH = 77, 5
MEMORY, RING, REGISTERS = 0x3010_0000, 0x400, 0x3020_0000
"""Addresses of the granted memory (0x800 bytes, at RING of the far memory), and of granted registers."""
GRANTS: list[list[int | str]] = [[MEMORY, 0x800, "", RING], [REGISTERS, 0x100, "edma", 0xE65D_5000]]
MS = 1_000_000


class Cpu:
    """One host's way out, in a link epoch; ``effects`` since the last look."""

    def __init__(self, *, local: bool = True) -> None:
        self.outbox = Outbox(wakes=local)
        self.tasks = Tasks(self.outbox, "rc-host", 500 * MS)
        self.far = bytearray(FAR_BYTES)
        self.words = Window(memoryview(bytearray(LEASE_BYTES)), 0, "lease")
        memory = Window(memoryview(self.far), 0, "far")
        self.bus = CpuBus(
            self.outbox,
            self.tasks,
            "rc-host",
            Far(memory, IDENT, Lease(self.words, "rc")) if local else None,
            "peer-rc",
        )
        self.enter(EPOCH)

    def enter(self, epoch: int) -> None:
        self.tasks.epoch = epoch
        self.bus.enter(epoch)

    def grant(self, ranges: Any = GRANTS, *, ident: Any = IDENT, doorbells: Any = ()) -> None:
        self.bus.grant({"memory": ident, "ranges": ranges, "doorbells": list(doorbells)})

    def effects(self) -> list[Effect]:
        """What happened since the last look; stores that wait behind it are done, as the driver does them."""
        effects = self.outbox.take()
        for effect in effects:
            if isinstance(effect, Store):
                effect.memory.store("direct", effect.offset, effect.data)
        return [effect for effect in effects if not isinstance(effect, Store)]

    def flush(self) -> MemRead:
        """The read that waits for an answer."""
        reads = [message for message in sent(self.effects()) if isinstance(message, MemRead)]
        assert len(reads) == 1, reads
        return reads[0]

    def answer(self, read: MemRead, data: bytes = bytes(4), status: Status = Status.OK) -> None:
        self.tasks.complete(Completion(read.tag, status, data, self.tasks.epoch))

    def settle(self) -> None:
        self.answer(self.flush())

    def sleep(self, for_ns: int) -> None:
        self.tasks.now_ns += for_ns
        self.tasks.on_deadline(self.tasks.now_ns)


def settled(**granted: Any) -> Cpu:
    cpu = Cpu()
    cpu.grant(**granted)
    cpu.settle()
    assert cpu.bus.snapshot()["direct"]
    return cpu


def messages(cpu: Cpu) -> list[Any]:
    """What was sent, without reads."""
    return [one for one in sent(cpu.effects()) if not isinstance(one, MemRead)]
