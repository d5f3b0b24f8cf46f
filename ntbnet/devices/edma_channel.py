"""The endpoint's driver of its eDMA engine: channels that copy, in order, with a callback for each transfer.

A channel queues transfers; what is queued when it is idle becomes one linked list (a chunk) in the memory
it was given, and what is queued meanwhile the next one. The last element of a chunk interrupts. Chunks
follow each other in the same memory with alternating cycle bits, so that only the first one programs
the channel. An abort, a STOP or the loss of the engine reports every queued transfer as failed, and the
next transfer programs the channel anew.

Stated deviations: the kernel ends a channel at the next chunk boundary, this driver uses the doorbell's
STOP; and it keeps the mask of interrupts itself instead of reading it back.

Source: Linux dw-edma-core.c, dw-edma-v0-core.c.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable
from enum import Enum
from itertools import islice
from typing import Any

from ntbnet.address import ADDRESS_END
from ntbnet.devices.edma_list import Transfer, capacity, encode_chunk
from ntbnet.devices.effects import Outbox
from ntbnet.devices.memory import Window
from ntbnet.devices.task import Read, Task
from ntbnet.errors import KernelError
from ntbnet.profile import EndpointHardware
from ntbnet.regs.edma import ABORT_SHIFT, MAX_CHANNELS, STATUS_RUNNING, STATUS_STOPPED, Direction, edma_block
from ntbnet.wire import MemWrite

ENGINE = "edma"
ABSENT = 0xFFFFFFFF
"""What a read gives that nobody answered; no value of the registers read here."""
_ALL_MASKED = ((1 << MAX_CHANNELS) - 1) * (1 | 1 << ABORT_SHIFT)

OnDone = Callable[[Any, bool], None]
"""Told of each transfer in the order of submission: its cookie, and whether the data is there."""


class State(Enum):
    """Of a channel, as its driver sees it."""

    IDLE = "idle"
    BUSY = "busy"
    STOPPING = "stopping"


class EdmaChannel:
    """One channel; made by ``EdmaDriver.request_channel``.

    Attributes:
        direction, number: which one.
        state: what it does.
        counters: transfers and bytes done, transfers failed.
    """

    def __init__(
        self, driver: EdmaDriver, direction: Direction, number: int, region: Window, on_done: OnDone
    ) -> None:
        if capacity(region.size) < 1:
            raise KernelError(errno.EINVAL, f"{region.size} bytes hold no list")
        self._driver, self._region, self._on_done = driver, region, on_done
        self.direction, self.number = direction, number
        self.state = State.IDLE
        self._is_configured = False
        self._phase = 1
        self._queued: deque[tuple[Transfer, Any]] = deque()
        self._running = 0
        """How many of the queue, from its head, are in the list."""
        self.transfers = self.bytes = self.failed = 0

    @property
    def bits(self) -> int:
        """Its done and abort bits in INT_STATUS."""
        return (1 | 1 << ABORT_SHIFT) << self.number

    @property
    def queued(self) -> int:
        """Transfers without an answer."""
        return len(self._queued)

    def submit(self, source: int, destination: int, length: int, cookie: Any) -> None:
        """Queue a transfer; ``issue`` starts it.

        Args:
            source: a local address for a write channel, a PCI bus address for a read channel.
            destination: the other way round.
            length: bytes, 1..2^32-1.
            cookie: given to the callback.

        Raises:
            KernelError: EINVAL: a value is out of range.
        """
        if not 1 <= length < 1 << 32:
            raise KernelError(errno.EINVAL, f"transfer of {length} bytes: allowed 1..{(1 << 32) - 1}")
        for addr in (source, destination):
            if addr < 0 or addr + length > ADDRESS_END:
                raise KernelError(errno.EINVAL, f"{addr:#x} + {length} is outside 64 bits")
        self._queued.append((Transfer(source, destination, length), cookie))

    def issue(self) -> None:
        """Start what is queued, unless the channel is at work; then it follows by itself."""
        if self.state is not State.IDLE or not self._queued:
            return
        transfers = [transfer for transfer, _ in islice(self._queued, capacity(self._region.size))]
        if not self._is_configured:
            self._phase = 1
        chunk = encode_chunk(transfers, self._region.span.base, self._phase)
        self._region.store("edma.list", 0, chunk)
        self._running = len(transfers)
        self.state = State.BUSY
        if not self._is_configured:
            self._configure()
        self._driver.write(self.direction.register("DOORBELL"), self.number)

    def _configure(self) -> None:
        self._driver.enable(self.direction)
        control = self._driver.field("WR_CONTROL1", "CCS") | self._driver.field("WR_CONTROL1", "LLE")
        base = self._region.span.base
        for name, value in (("CONTROL1", control), ("LLP_LOW", base & ABSENT), ("LLP_HIGH", base >> 32)):
            self._driver.write(self.direction.register(name), value, self.number)
        self._is_configured = True

    def terminate(self) -> Task[None]:
        """Give up everything queued; the callback is told when the engine has let go of the memory.

        Raises:
            KernelError: EPERM: a stop is under way.
        """
        if self.state is State.STOPPING:
            raise KernelError(errno.EPERM, f"{self.direction} channel {self.number} is being stopped")
        if self.state is State.IDLE:
            self._fail_all()
            return
        self.state = State.STOPPING
        control = yield from self._driver.read(self.direction.register("CONTROL1"), self.number)
        if self.state is not State.STOPPING:
            return  # an interrupt has ended it meanwhile
        if control == ABSENT:
            self._fail_all()
        elif self._driver.extract("WR_CONTROL1", "STATUS", control) == STATUS_STOPPED:
            self._driver.write(self.direction.register("INT_CLEAR"), self.bits)
            self._chunk_done()
        else:
            stop = self._driver.field("WR_DOORBELL", "STOP")
            self._driver.write(self.direction.register("DOORBELL"), stop | self.number)

    def on_status(self, status: int) -> None:
        """INT_STATUS of its direction, from which its bits were cleared."""
        is_aborted = status >> (self.number + ABORT_SHIFT) & 1
        if status >> self.number & 1 and self.state is not State.IDLE:
            # the abort is of what runs, so nothing more may be started before it is seen to
            self._chunk_done(goes_on=not is_aborted)
        if is_aborted:
            self._fail_all()

    def lost(self) -> None:
        """The engine is gone, and what it was told with it."""
        self._fail_all()

    def abandon(self) -> Task[bool]:
        """Fail everything queued at once, then wait until the engine has let go of the memory.

        Nothing may be submitted meanwhile.

        Returns:
            False when the engine did not answer: it may still be at work.
        """
        self._fail_all()
        name = self.direction.register("CONTROL1")
        control = yield from self._driver.read(name, self.number)
        if control == ABSENT:
            return False
        if self._driver.extract("WR_CONTROL1", "STATUS", control) == STATUS_RUNNING:
            stop = self._driver.field("WR_DOORBELL", "STOP")
            self._driver.write(self.direction.register("DOORBELL"), stop | self.number)
        self._driver.write(self.direction.register("INT_CLEAR"), self.bits)
        return (yield from self._driver.read(name, self.number)) != ABSENT

    def _chunk_done(self, goes_on: bool = True) -> None:
        was_stopping = self.state is State.STOPPING
        done = [self._queued.popleft() for _ in range(self._running)]
        self.state, self._running = State.IDLE, 0
        self._phase ^= 1
        self.transfers += len(done)
        self.bytes += sum(transfer.size for transfer, _ in done)
        for _, cookie in done:
            self._on_done(cookie, True)
        if was_stopping:
            self._fail_all()
        elif goes_on:
            self.issue()

    def _fail_all(self) -> None:
        failed, self._queued = self._queued, deque()
        self.state, self._running, self._is_configured = State.IDLE, 0, False
        self.failed += len(failed)
        for _, cookie in failed:
            self._on_done(cookie, False)

    def snapshot(self) -> dict[str, Any]:
        """State and counts for ``status``."""
        return {
            "channel": f"{self.direction.name.lower()}{self.number}",
            "state": self.state.value,
            "queued": self.queued,
            "transfers": self.transfers,
            "bytes": self.bytes,
            "failed": self.failed,
        }


class EdmaDriver:
    """The channels of one engine that this CPU drives; it leaves all others alone.

    Args:
        endpoint: where the registers are, and how many channels there are.
        outbox: takes register writes.
    """

    def __init__(self, endpoint: EndpointHardware, outbox: Outbox) -> None:
        self._base = endpoint.edma_base
        self._block = edma_block(endpoint.edma_write_channels, endpoint.edma_read_channels)
        self._outbox = outbox
        self._counts = {
            Direction.WRITE: endpoint.edma_write_channels,
            Direction.READ: endpoint.edma_read_channels,
        }
        self.channels: list[EdmaChannel] = []
        self._is_servicing = self._is_rung_again = False

    def request_channel(self, direction: Direction, region: Window, on_done: OnDone) -> EdmaChannel:
        """The next channel of a direction.

        Args:
            direction: WRITE copies to the bus, READ from it.
            region: EP DRAM for its list, at least two slots; the channel keeps it.
            on_done: see OnDone.

        Raises:
            KernelError: EBUSY: none is left; EINVAL: the region is too small.
        """
        number = sum(channel.direction is direction for channel in self.channels)
        if number >= self._counts[direction]:
            raise KernelError(errno.EBUSY, f"all {number} {direction} channels are taken")
        channel = EdmaChannel(self, direction, number, region, on_done)
        self.channels.append(channel)
        return channel

    def interrupt(self) -> Task[None]:
        """What the interrupt handler does: ask which of our channels have news, clear that, and act on it.

        Never runs twice at once: an interrupt that comes meanwhile makes it look again.
        """
        self._is_rung_again = True
        if self._is_servicing:
            return
        self._is_servicing = True
        try:
            while self._is_rung_again:
                self._is_rung_again = False
                for direction in Direction:
                    yield from self._service(direction)
        finally:
            self._is_servicing = False

    def _service(self, direction: Direction) -> Task[None]:
        ours = [channel for channel in self.channels if channel.direction is direction]
        if all(channel.state is State.IDLE for channel in ours):
            return
        status = yield from self.read(direction.register("INT_STATUS"))
        mine = status & sum(channel.bits for channel in ours)
        if status == ABSENT or not mine:
            return
        self.write(direction.register("INT_CLEAR"), mine)
        for channel in ours:
            channel.on_status(mine)

    def reset(self) -> None:
        """What a driver's probe does: engine off, so that nothing of an earlier life runs on."""
        for direction, count in self._counts.items():
            every = ((1 << count) - 1) * (1 | 1 << ABORT_SHIFT)
            self.write(direction.register("ENGINE_EN"), 0)
            self.write(direction.register("INT_CLEAR"), every)

    def lost(self) -> None:
        """The engine's process went away: every transfer fails; channels can be used again at once."""
        for channel in self.channels:
            channel.lost()

    def enable(self, direction: Direction) -> None:
        """Engine on, our interrupts unmasked, errors of our lists told."""
        ours = [channel for channel in self.channels if channel.direction is direction]
        bits = sum(channel.bits for channel in ours)
        self.write(direction.register("ENGINE_EN"), 1)
        self.write(direction.register("INT_MASK"), _ALL_MASKED & ~bits)
        self.write(direction.register("LINKED_LIST_ERR_EN"), bits & ((1 << MAX_CHANNELS) - 1))

    def address(self, register: str, index: int = 0) -> int:
        """CPU address of a register."""
        return self._base + self._block.offset(register, index)

    def write(self, register: str, value: int, index: int = 0) -> None:
        """A posted register write."""
        self._outbox.send(ENGINE, MemWrite(self.address(register, index), value.to_bytes(4, "little")))

    def read(self, register: str, index: int = 0) -> Task[int]:
        """A register read, behind every write before it; ABSENT when nobody answers."""
        data: bytes = yield Read(self.address(register, index), 4, ENGINE)
        return int.from_bytes(data, "little")

    def field(self, register: str, name: str) -> int:
        """Mask of a field of a register."""
        return self._block.register(register).field(name).mask

    def extract(self, register: str, name: str, value: int) -> int:
        """A field of a register's value."""
        return self._block.register(register).field(name).extract(value)
