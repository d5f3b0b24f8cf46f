"""The ``edma`` process: the DesignWare eDMA engine behind its registers.

Registers are reached by the endpoint's CPU, and through an inbound window by the host. Channels move
data between EP DRAM, which this process maps itself, and the bus: their link addresses are PCI bus
addresses, which the endpoint controller passes on as they are, without an outbound window. The
controller tells of the link epoch and of the host's bus master enable; a link that ends, or a
controller that does, aborts what runs.

Left out: the legacy viewport map and HDMA. Power enables are registers without effect, as a channel of the
unrolled map needs none.

Source: Linux dw-edma-v0-regs.h, dw-edma-v0-core.c.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

from ntbnet.address import Span, hex_address
from ntbnet.config import Config
from ntbnet.devices.complaints import Once
from ntbnet.devices.edma_engine import CONTROLLER, Engine
from ntbnet.devices.edma_line import CPU, InterruptLines
from ntbnet.devices.effects import Effect, Outbox
from ntbnet.devices.memory import Window
from ntbnet.regs.edma import Direction, edma_block
from ntbnet.regs.file import RegisterFile, WriteHook
from ntbnet.wire import MAX_READ_BYTES, Completion, MemRead, MemWrite, Message, Notice, Status

WORD_BYTES = 4
HOST_CPU = "peer-rc"
"""Its stores come past the controller in fabric ``local``; those of an epoch that is over are dropped."""


class Edma:
    """Sans-IO model of the ``edma`` process.

    Args:
        config: checked configuration.
        dram: all of EP DRAM.
        read_bytes: longest read request (MRRS), a power of two up to 4096.

    Attributes:
        registers: the register file.
        engine: the channels.
        lines: the interrupt lines.
    """

    def __init__(self, config: Config, dram: Window, read_bytes: int = MAX_READ_BYTES) -> None:
        endpoint = config.profile.endpoint
        self._span = Span(endpoint.edma_base, endpoint.edma_bytes)
        self._outbox = Outbox(wakes=config.bridge.fabric == "local")
        self.counters: Counter[str] = Counter()
        self._refusals = Once()
        self.registers = RegisterFile(edma_block(endpoint.edma_write_channels, endpoint.edma_read_channels))
        self.lines = InterruptLines(endpoint, self.registers, self._outbox, self.counters)
        self.engine = Engine(
            config, self.registers, dram, self.lines, self._outbox, self.counters, read_bytes
        )
        self._last_epoch = 0
        block = self.registers.block
        self._rings = {
            block.offset(direction.register("INT_STATUS")): partial(self.lines.ring, direction)
            for direction in Direction
        }
        """Registers that ring, by offset."""
        self._actions = self._rings | {
            block.offset(direction.register("INT_CLEAR")): partial(self.engine.clear, direction)
            for direction in Direction
        }
        """Registers that hold nothing of what is written, by offset: what a write of a whole one does."""
        for direction in Direction:
            self.registers.on_write(direction.register("INT_STATUS"), self._ring_hook(direction))
            self.registers.on_write(direction.register("INT_MASK"), self._mask_hook(direction))

    @property
    def register_span(self) -> Span:
        """Where its registers are, as the endpoint's CPU sees them."""
        return self._span

    def handle(self, src: str, message: Message, now_ns: int) -> Sequence[Effect]:
        """Register access of the CPU or the host; the controller's answers and news."""
        self.engine.now_ns = self.lines.now_ns = now_ns
        if isinstance(message, MemWrite):
            if src == HOST_CPU and self._is_stale(message):
                self.counters["stale_epoch"] += 1
            else:
                self._write(message.addr, message.data)
        elif isinstance(message, MemRead):
            self._outbox.send(src, self._read(message))
        elif isinstance(message, Completion) and src == CONTROLLER:
            self.engine.complete(message)
        elif isinstance(message, Notice) and src == CONTROLLER and message.name == "link":
            self._on_link(message.args)
        elif isinstance(message, Notice) and src == CONTROLLER and message.name == "reset":
            self._reset()
        else:
            self.counters["unexpected"] += 1
        if not self.engine.is_idle:
            self.engine.run()
        return self._outbox.take()

    def on_path(self, peer: str, up: bool, session: int, reason: str, now_ns: int) -> Sequence[Effect]:
        """The controller's path is the way to the link; the CPU's is where interrupts go."""
        self.engine.now_ns = self.lines.now_ns = now_ns
        if peer == CPU:
            self.lines.cpu_changed(up)
        elif peer == CONTROLLER and not up:
            self.engine.set_link(0, bus_master=False)
            self.engine.run()
        return self._outbox.take()

    def next_deadline(self) -> int | None:
        """Of the engine's next turn or timeout, and of a line nobody sees to."""
        lines = self.lines.next_deadline()
        if self.engine.is_idle:
            return lines
        engine = self.engine.next_deadline()
        if engine is None or lines is None:
            return lines if engine is None else engine
        return min(engine, lines)

    def on_deadline(self, now_ns: int) -> Sequence[Effect]:
        """Do what is due."""
        self.engine.now_ns = self.lines.now_ns = now_ns
        self.engine.on_deadline()
        self.lines.on_deadline(now_ns)
        return self._outbox.take()

    def snapshot(self) -> dict[str, Any]:
        """Lines, channels and counters for ``status``."""
        return {
            "line_high": self.lines.level != 0,
            "lines": self.lines.level,
            "link": {"epoch": self.engine.epoch, "open": self.engine.is_open},
            "channels": self.engine.snapshot(),
            "counters": dict(self.counters),
        }

    def _write(self, addr: int, data: bytes | memoryview) -> None:
        offset = addr - self._span.base
        action = self._actions.get(offset)
        if action is not None and len(data) == WORD_BYTES:
            action(int.from_bytes(data, "little"))
        elif self._span.contains(addr, len(data)):
            self.registers.write(offset, data)
        else:
            self._ignore("outside the register block", addr)

    def _read(self, message: MemRead) -> Completion:
        if not self._span.contains(message.addr, message.size):
            return Completion(message.tag, Status.UR, b"", message.epoch)
        data = self.registers.read(message.addr - self._span.base, message.size)
        return Completion(message.tag, Status.OK, data, message.epoch)

    def _is_stale(self, message: MemWrite) -> bool:
        """True for a store of an epoch that is over; while the link is down, a ring still counts as one."""
        epoch = self.engine.epoch
        if epoch or message.epoch > self._last_epoch:
            return message.epoch < epoch
        return message.epoch < self._last_epoch or message.addr - self._span.base not in self._rings

    def _on_link(self, args: dict[str, Any]) -> None:
        epoch, bus_master = args.get("epoch"), args.get("bus_master")
        if type(epoch) is int and 0 <= epoch <= 0xFFFFFFFF and type(bus_master) is bool:
            self._last_epoch = max(epoch, self._last_epoch)
            self.engine.set_link(epoch, bus_master)
        else:
            self.counters["unexpected"] += 1

    def _reset(self) -> None:
        """PERST#: every channel ends, registers are as after power-on; lines follow."""
        self.engine.set_link(0, bus_master=False)
        self.engine.run()
        self.registers.reset()
        for direction in Direction:
            self.lines.mask_written(direction)

    def _ring_hook(self, direction: Direction) -> WriteHook:
        return lambda _index, _old, _new: self.lines.ring(direction)

    def _mask_hook(self, direction: Direction) -> WriteHook:
        return lambda _index, _old, _new: self.lines.mask_written(direction)

    def _ignore(self, cause: str, addr: int) -> None:
        self.counters["writes_ignored"] += 1
        if self._refusals.is_first(cause):
            self._outbox.log("edma.write_ignored", cause=cause, addr=hex_address(addr))
