"""The channels of the eDMA engine together: doorbells, turns, requests on the link, status and errors.

Work is done in turns of at most ``STEPS_PER_TURN`` steps, shared by all channels that can go on, so that a
list without an end keeps nobody from the process. Requests carry the link epoch; when it ends, or the
host takes bus mastering away, what runs is aborted and late answers are dropped.

An abort sets its bit of INT_STATUS, and writes to the abort address when that was programmed, if the
channel's LINKED_LIST_ERR_EN bit (a list) or LIE and RIE of CONTROL1 (a single transfer) ask for it. The error
status registers say more in any case; a bit of them falls with the abort bit. An abort without any
error bit is a STOP, or for a write channel something beyond the link.

Source: Linux dw-edma-v0-core.c; fields of the error status from general knowledge of the core.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from ntbnet.address import ADDRESS_END
from ntbnet.config import Config
from ntbnet.devices.complaints import Once
from ntbnet.devices.edma_line import InterruptLines
from ntbnet.devices.edma_port import FAULT_OF, Fault
from ntbnet.devices.edma_walk import Channel
from ntbnet.devices.effects import Outbox
from ntbnet.devices.memory import Window
from ntbnet.regs.edma import ABORT_SHIFT, CONTROL_LIE, CONTROL_RIE, Direction
from ntbnet.regs.file import RegisterFile, WriteHook
from ntbnet.wire import Completion, MemRead, MemWrite, Status

CONTROLLER = "epc"
STEPS_PER_TURN = 64
TURN_NS = 50_000
"""A turn that used up its steps is followed by the next one this much after its begin, ns."""
MAX_READS = 16
"""Reads of all channels without an answer. Source: R-Car S4, tags of the controller."""
IMWR_BYTES = 4

_ERROR_BITS = {
    (Direction.WRITE, Fault.LOCAL): ("WR_ERR_STATUS", "LOCAL_READ"),
    (Direction.WRITE, Fault.FETCH): ("WR_ERR_STATUS", "LIST_FETCH"),
    (Direction.READ, Fault.LOCAL): ("RD_ERR_STATUS_LOW", "LOCAL_WRITE"),
    (Direction.READ, Fault.FETCH): ("RD_ERR_STATUS_LOW", "LIST_FETCH"),
    (Direction.READ, Fault.UNSUPPORTED): ("RD_ERR_STATUS_HIGH", "UNSUPPORTED"),
    (Direction.READ, Fault.COMPLETER_ABORT): ("RD_ERR_STATUS_HIGH", "COMPLETER_ABORT"),
    (Direction.READ, Fault.TIMEOUT): ("RD_ERR_STATUS_HIGH", "TIMEOUT"),
}
"""Where a fault shows; posted writes have no answer, so for WRITE nothing beyond the link does."""


@dataclass(frozen=True, slots=True)
class _Read:
    channel: Channel
    size: int
    cookie: int
    deadline_ns: int


class Engine:
    """Every channel of one engine; sans-IO. It is the ``Port`` of its channels.

    Args:
        config: channel counts and the completion timeout.
        registers: of the whole block; the engine hooks doorbells, enables and INT_CLEAR.
        memory: EP DRAM.
        lines: told of every status bit that is set.
        outbox: takes requests to the endpoint controller, and log events.
        counters: gets transfers, aborts, refused doorbells and late completions.
        read_bytes: longest read request (MRRS), a power of two up to 4096.

    Attributes:
        channels: by direction, in order of their numbers.
        epoch: link epoch, 0 while the link is down.
        now_ns: set by the caller before anything else.
    """

    def __init__(
        self,
        config: Config,
        registers: RegisterFile,
        memory: Window,
        lines: InterruptLines,
        outbox: Outbox,
        counters: Counter[str],
        read_bytes: int,
    ) -> None:
        endpoint = config.profile.endpoint
        self._registers, self._lines, self._outbox, self.counters = registers, lines, outbox, counters
        self._timeout_ns = config.timing.completion_timeout_ms * 1_000_000
        counts = {
            Direction.WRITE: endpoint.edma_write_channels,
            Direction.READ: endpoint.edma_read_channels,
        }
        self.channels = {
            direction: [
                Channel(direction, n, registers, memory, self, read_bytes) for n in range(counts[direction])
            ]
            for direction in Direction
        }
        self._active: list[Channel] = []
        """Channels that run, or ran in this turn; who comes first changes from turn to turn."""
        self._reads: dict[int, _Read] = {}
        """By tag; in the order of their deadlines, because all wait equally long."""
        self._tag = 0
        self._turn_end_ns = 0
        self._steps = 0
        self.epoch = 0
        self._is_master = False
        self.now_ns = 0
        self._refusals, self._aborts = Once(), Once()
        for direction in Direction:
            registers.on_write(direction.register("DOORBELL"), self._doorbell_hook(direction))
            registers.on_write(direction.register("ENGINE_EN"), self._enable_hook(direction))
            registers.on_write(direction.register("INT_CLEAR"), self._clear_hook(direction))
        self._errors = {
            direction: sorted({where for (each, _), where in _ERROR_BITS.items() if each is direction})
            for direction in Direction
        }

    # the way to the link

    @property
    def is_open(self) -> bool:
        """True while requests may be sent."""
        return self.epoch != 0 and self._is_master

    def set_link(self, epoch: int, bus_master: bool) -> None:
        """The controller told of its link; an end of what was aborts every running channel."""
        was_open, ended = self.is_open, epoch != self.epoch
        if ended:
            self._refusals.begin_epoch()
            self._aborts.begin_epoch()
        self.epoch, self._is_master = epoch, bus_master
        if was_open and (ended or not bus_master):
            self._reads.clear()
            for channel in self._active:
                if channel.is_running:
                    channel.fail(Fault.LINK if channel.direction is Direction.WRITE else Fault.TIMEOUT)

    def post(self, addr: int, data: bytes) -> None:
        """Send a posted write to the bus."""
        self._outbox.send(CONTROLLER, MemWrite(addr, data, self.epoch))

    def has_room(self) -> bool:
        """True while another read may be outstanding."""
        return len(self._reads) < MAX_READS

    def read(self, channel: Channel, addr: int, size: int, cookie: int) -> None:
        """Send a read to the bus for ``channel``."""
        self._tag = (self._tag + 1) & 0xFFFFFFFF
        self._reads[self._tag] = _Read(channel, size, cookie, self.now_ns + self._timeout_ns)
        self._outbox.send(CONTROLLER, MemRead(addr, size, self._tag, self.epoch))

    def forget(self, channel: Channel) -> None:
        """Drop what the channel waits for."""
        self._reads = {tag: read for tag, read in self._reads.items() if read.channel is not channel}

    def complete(self, message: Completion) -> None:
        """An answer from the bus; one that nobody waits for is dropped and counted."""
        read = self._reads.pop(message.tag, None)
        if read is None:
            self.counters["late_completions"] += 1
        elif message.status is not Status.OK:
            read.channel.fail(FAULT_OF[message.status])
        elif len(message.data) != read.size:
            read.channel.fail(Fault.COMPLETER_ABORT)
        else:
            read.channel.on_data(read.cookie, message.data)

    # turns

    @property
    def is_idle(self) -> bool:
        """No channel runs: there is nothing to do in a turn, and no deadline."""
        return not self._active and not self._reads

    def run(self) -> None:
        """Do what can be done, at most the rest of this turn's steps."""
        if not self._active:
            return
        if self.now_ns >= self._turn_end_ns:
            self._steps = STEPS_PER_TURN
            self._turn_end_ns = self.now_ns + TURN_NS
        ready = [channel for channel in self._active if channel.is_ready]
        while ready and self._steps > 0:
            for channel in ready:
                if self._steps > 0 and channel.is_ready:
                    self._steps -= 1
                    channel.step()
            ready = [channel for channel in self._active if channel.is_ready]
        first, *others = self._active
        self._active = [channel for channel in (*others, first) if channel.is_running]

    def next_deadline(self) -> int | None:
        """Of the next turn, or the oldest request's timeout."""
        times = [read.deadline_ns for read in self._reads.values()][:1]
        if any(channel.is_ready for channel in self._active):
            times.append(self._turn_end_ns)
        return min(times, default=None)

    def on_deadline(self) -> None:
        """Give up on requests that are too old; then the next turn."""
        for tag, read in list(self._reads.items()):
            if read.deadline_ns > self.now_ns:
                break
            if tag in self._reads:
                self.counters["completion_timeouts"] += 1
                read.channel.fail(Fault.TIMEOUT)
        self.run()

    # what channels report

    def done(self, channel: Channel, control: int) -> None:
        """Elements with these interrupt bits are complete."""
        if control & CONTROL_LIE:
            self._set_status(channel, channel.number)
        if control & CONTROL_RIE:
            self._imwr(channel, "DONE")

    def aborted(self, channel: Channel, fault: Fault, control: int) -> None:
        """Note the error, and tell whoever asked for it."""
        direction, bit = channel.direction, 1 << channel.number
        self.counters["aborts"] += 1
        where = _ERROR_BITS.get((direction, fault))
        if where is not None:
            self._registers.set_field(*where, self._registers.get_field(*where) | bit)
        if self._aborts.is_first(direction, str(channel.number), fault.value):
            self._outbox.log(
                "edma.channel_aborted",
                direction=direction.name.lower(),
                channel=channel.number,
                cause=fault.value,
            )
        if channel.is_list:
            enabled = self._registers.get_field(direction.register("LINKED_LIST_ERR_EN"), "CHANNELS") & bit
            control = CONTROL_LIE | CONTROL_RIE if enabled else 0
        if control & CONTROL_LIE:
            self._set_status(channel, channel.number + ABORT_SHIFT)
        if control & CONTROL_RIE and self._pair(direction, "ABORT_IMWR"):
            self._imwr(channel, "ABORT")

    def _set_status(self, channel: Channel, bit: int) -> None:
        register = channel.direction.register("INT_STATUS")
        self._registers.set(register, self._registers.get(register) | 1 << bit)
        self._lines.status_set(channel.direction, bit)

    def _imwr(self, channel: Channel, what: str) -> None:
        """The remote interrupt: the channel's 16 bits of data as a posted 32-bit write."""
        direction, number = channel.direction, channel.number
        addr = self._pair(direction, f"{what}_IMWR") & ~(IMWR_BYTES - 1)
        if not self.is_open or addr + IMWR_BYTES > ADDRESS_END:
            self.counters["remote_interrupts_lost"] += 1
            return
        even = number & ~1
        register = direction.register(f"CH{even}{even + 1}_IMWR_DATA")
        data = self._registers.get_field(register, "ODD" if number & 1 else "EVEN")
        self.counters["remote_interrupts"] += 1
        self.post(addr, data.to_bytes(IMWR_BYTES, "little"))

    def _pair(self, direction: Direction, name: str) -> int:
        low, high = (self._registers.get(direction.register(f"{name}_{half}")) for half in ("LOW", "HIGH"))
        return low | high << 32

    # register writes

    def _doorbell_hook(self, direction: Direction) -> WriteHook:
        name = direction.register("DOORBELL")
        number_field, stop_field = (
            self._registers.block.register(name).field(part) for part in ("CHANNEL", "STOP")
        )
        channels = self.channels[direction]

        def hook(_index: int, _old: int, value: int) -> None:
            number = number_field.extract(value)
            is_stop = bool(stop_field.extract(value))
            self.counters["stops" if is_stop else "doorbells"] += 1
            if not self._registers.get(direction.register("ENGINE_EN")):
                self._ignore("engine is not enabled", name)
            elif number >= len(channels):
                self._ignore("no such channel", name)
            elif is_stop:
                if not channels[number].stop():
                    self._ignore("stop of a channel that does not run", name)
            elif not channels[number].ring():
                self._ignore("doorbell of a single transfer under way", name)
            elif channels[number] not in self._active:
                self._active.append(channels[number])

        return hook

    def _enable_hook(self, direction: Direction) -> WriteHook:
        def hook(_index: int, _old: int, value: int) -> None:
            if not value & 1:
                for channel in self.channels[direction]:
                    channel.disable()

        return hook

    def _clear_hook(self, direction: Direction) -> WriteHook:
        return lambda _index, _old, bits: self.clear(direction, bits)

    def clear(self, direction: Direction, bits: int) -> None:
        """INT_CLEAR of ``direction`` was written."""
        self.counters["clears"] += 1
        if bits:
            status = direction.register("INT_STATUS")
            self._registers.set(status, self._registers.get(status) & ~bits)
            for register, part in self._errors[direction]:
                left = self._registers.get_field(register, part) & ~(bits >> ABORT_SHIFT)
                self._registers.set_field(register, part, left)
        self._lines.acknowledge(direction, bits, self.now_ns)

    def _ignore(self, cause: str, register: str) -> None:
        self.counters["doorbells_ignored"] += 1
        if self._refusals.is_first(cause):
            self._outbox.log("edma.doorbell_ignored", cause=cause, register=register)

    def snapshot(self) -> list[dict[str, Any]]:
        """State and counts of every channel that was ever used."""
        return [
            {
                "channel": f"{direction.name.lower()}{channel.number}",
                "state": channel.state,
                "transfers": channel.transfers,
                "bytes": channel.bytes,
                "aborts": channel.aborts,
            }
            for direction, channels in self.channels.items()
            for channel in channels
            if channel.state != "idle"
        ]
