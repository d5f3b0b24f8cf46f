"""The DesignWare eDMA engine's registers and its interrupt line.

A write of any value to RD_INT_STATUS or WR_INT_STATUS is the engine's test interrupt: it latches
the line without touching done or abort bits; a write to either INT_CLEAR, of any value, ends it.
The line is a level: it goes to the endpoint's CPU when it rises, and rings collapse while it is
high (EDMA 126-130). Channels have registers and no engine yet: a channel doorbell is counted and
logged, and moves nothing.

Source: Linux dw-edma-v0-regs.h, dw-edma-v0-core.c.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from ntbnet.address import Span, hex_address
from ntbnet.config import Config
from ntbnet.devices.complaints import Once
from ntbnet.devices.effects import Effect, Outbox
from ntbnet.regs.edma import edma_block
from ntbnet.regs.file import RegisterFile
from ntbnet.wire import Completion, Irq, IrqSource, MemRead, MemWrite, Message, Status

CPU = "peer-ep"
LINE = 0
"""The one interrupt line of the r-car-s4 profile (GIC SPI 417, "dma")."""


class Edma:
    """Sans-IO model of the ``edma`` process.

    Attributes:
        registers: the register file.
    """

    def __init__(self, config: Config) -> None:
        endpoint = config.profile.endpoint
        self._span = Span(endpoint.edma_base, endpoint.edma_bytes)
        self._outbox = Outbox()
        self.registers = RegisterFile(edma_block(endpoint.edma_write_channels, endpoint.edma_read_channels))
        for direction in ("WR", "RD"):
            self.registers.on_write(
                f"{direction}_INT_STATUS", self._on_status_write(f"{direction}_INT_STATUS")
            )
            self.registers.on_write(f"{direction}_INT_CLEAR", self._on_clear_write(f"{direction}_INT_STATUS"))
            self.registers.on_write(f"{direction}_DOORBELL", self._on_channel_doorbell)
        self._line_high = False
        self._cpu_up = False
        self.counters: Counter[str] = Counter()
        self._refusals = Once()

    def handle(self, src: str, message: Message, now_ns: int) -> Sequence[Effect]:
        """Register access from the endpoint's CPU or, through an inbound window, from the host."""
        if isinstance(message, MemWrite):
            if self._span.contains(message.addr, len(message.data)):
                self.registers.write(message.addr - self._span.base, message.data)
            else:
                self._ignore("outside the register block", message.addr)
        elif isinstance(message, MemRead):
            if self._span.contains(message.addr, message.size):
                data = self.registers.read(message.addr - self._span.base, message.size)
                completion = Completion(message.tag, Status.OK, data, message.epoch)
            else:
                completion = Completion(message.tag, Status.UR, b"", message.epoch)
            self._outbox.send(src, completion)
        else:
            self.counters["unexpected"] += 1
        return self._outbox.take()

    def on_path(self, peer: str, up: bool, session: int, reason: str, now_ns: int) -> Sequence[Effect]:
        """A CPU that comes back finds the line as it is: a start counts as a ring for everyone."""
        if peer == CPU:
            self._cpu_up = up
            if up:
                self._outbox.send(CPU, Irq(IrqSource.EDMA_LINE, 1 << LINE))
        return self._outbox.take()

    def next_deadline(self) -> int | None:
        """Nothing here happens unasked."""
        return None

    def on_deadline(self, now_ns: int) -> Sequence[Effect]:
        """Nothing is ever due."""
        return ()

    def snapshot(self) -> dict[str, Any]:
        """Line and counters for ``status``."""
        return {"line_high": self._line_high, "counters": dict(self.counters)}

    def _on_status_write(self, register: str) -> Any:
        def hook(_index: int, _old: int, _new: int) -> None:
            self.counters["test_interrupts"] += 1
            if self._line_high:
                self.counters["rings_collapsed"] += 1
                return
            self._line_high = True
            self._outbox.log("edma.line_raised", line=LINE, register=register)
            if self._cpu_up:
                self._outbox.send(CPU, Irq(IrqSource.EDMA_LINE, 1 << LINE))

        return hook

    def _on_clear_write(self, status: str) -> Any:
        def hook(_index: int, _old: int, bits: int) -> None:
            self.counters["clears"] += 1
            self.registers.set(status, self.registers.get(status) & ~bits)
            if self._line_high:
                self._line_high = False
                self._outbox.log("edma.line_lowered", line=LINE)

        return hook

    def _on_channel_doorbell(self, _index: int, _old: int, _new: int) -> None:
        self._ignore("no channel engine in this version", self._span.base)

    def _ignore(self, cause: str, addr: int) -> None:
        self.counters["writes_ignored"] += 1
        if self._refusals.is_first(cause):
            self._outbox.log("edma.write_ignored", cause=cause, addr=hex_address(addr))
