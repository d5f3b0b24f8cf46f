"""DMA copies of a sending ring: payloads wait in a pool of endpoint memory while the eDMA engine takes them.

A payload is copied into a buffer of the pool, because its owner may reuse its memory at once; the engine
copies from there to the bus address behind the outbound window. What the engine fails to copy is copied
by the CPU from the same buffer, but not before nothing of the engine's can arrive any more: an engine that
answers is stopped, and a read through the controller pushes out what it sent; one that does not is fenced
off by the controller, in front of the CPU's own stores. What the controller has forwarded by then is still on
its way to the peer, and a CPU that stores in place would overtake it: it waits for a read behind that
(``CpuBus.barrier``), and without an answer asks for a new link epoch, in which no write of this one counts.
The same holds when the queue goes down: it is not started again before the engine has let go.

Without a free buffer, and for a moment after a failure, ``submit`` refuses, and the CPU copies.

Source: Linux drivers/ntb/ntb_transport.c (ntb_async_tx, ntb_tx_copy_callback).
"""

from __future__ import annotations

import errno
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from ntbnet.address import round_up
from ntbnet.devices.complaints import Once
from ntbnet.devices.edma_channel import ABSENT, EdmaDriver
from ntbnet.devices.effects import Outbox
from ntbnet.devices.memory import Allocator, Buffer, Window
from ntbnet.devices.task import DelayedWork, Read, Sleep, Task, Tasks
from ntbnet.errors import KernelError
from ntbnet.regs.edma import Direction
from ntbnet.wire import Notice

CONTROLLER = "epc"
LIST_BYTES = 4096
POOL_BYTES = 1 << 20
"""Buffers of one queue, together; at least one, at most ``MAX_BUFFERS``."""
MAX_BUFFERS = 64
BUFFER_ALIGN = 64
REST_NS = 10_000_000
"""How long the CPU copies after a failure, before the engine is tried again."""

PATIENCE = 2
"""Completion timeouts without an answer behind the engine's writes, before a new link epoch is asked for."""


class Frame(Protocol):
    """Whose payload is copied."""

    def copied(self) -> None:
        """The payload is at the peer, or on its way in front of any later store of the CPU."""

    def copy(self, payload: memoryview) -> None:
        """The engine failed: store the payload with the CPU; ``copied`` follows."""


@dataclass(slots=True, eq=False)
class _Copy:
    frame: Frame
    buffer: Window
    length: int


class TxDma:
    """One channel, and the pool of one queue.

    Args:
        engine: made it.
        number: of the queue, for the log.
        buffer_bytes: longest payload.
        count: buffers wanted, 1 or more.
        copy_bytes: shorter payloads are not for the engine.

    Attributes:
        errors: transfers that failed, and were copied by the CPU unless the queue was down.

    Raises:
        KernelError: EBUSY: no channel is left; ENOMEM: no memory.
    """

    def __init__(
        self, engine: TxDmaEngine, number: int, buffer_bytes: int, count: int, copy_bytes: int
    ) -> None:
        self._engine, self._number, self.copy_bytes = engine, number, copy_bytes
        self.buffer_bytes = round_up(buffer_bytes, BUFFER_ALIGN)
        count = max(1, min(count, MAX_BUFFERS, POOL_BYTES // self.buffer_bytes))
        area = engine.allocate(LIST_BYTES + count * self.buffer_bytes, f"queue {number} dma")
        self._channel = engine.driver.request_channel(
            Direction.WRITE, area.sub(0, LIST_BYTES, "dma list"), self._on_done
        )
        self._pool = [
            area.sub(LIST_BYTES + k * self.buffer_bytes, self.buffer_bytes, "dma buffer")
            for k in range(count)
        ]
        self._free = list(self._pool)
        self._running: deque[_Copy] = deque()
        """What the channel has, in its order."""
        self._failed: deque[_Copy] = deque()
        """What waits until the engine can do no more harm, to be copied by the CPU."""
        self._is_resting = False
        """The engine may still be at work on what was taken from it."""
        self._rested_ns = 0
        self._answers = 0
        self._bus: int | None = None
        self._recovery = DelayedWork(engine.tasks, f"queue-{number}-dma", self._recover)
        self._watch = DelayedWork(engine.tasks, f"queue-{number}-dma-watch", self._watch_over)
        self._complaints = Once()
        self.errors = 0

    def is_quiet(self) -> bool:
        """True when the engine does nothing for frames that were dropped; sees to it otherwise."""
        if self._is_resting:
            self._recovery.schedule()
        return not self._is_resting

    def start(self, bus: int | None) -> None:
        """Offset 0 of the window leads to this bus address; None: nobody knows, so the CPU copies."""
        self._bus = bus
        self._complaints.begin_epoch()
        if bus is None and self._complaints.is_first("bus"):
            reason = f"queue {self._number}: bus address of the window unknown"
            self._engine.outbox.log("dma.unavailable", reason=reason)

    def submit(self, offset: int, payload: Buffer, length: int, frame: Frame) -> bool:
        """Have the first ``length`` bytes of ``payload`` copied to ``offset`` of the window.

        Returns:
            False when the CPU is to do it: no buffer is free, the engine is gone, or has just failed.
        """
        engine, bus = self._engine, self._bus
        if not self._free or bus is None or not engine.is_present or self._is_resting:
            return False
        if engine.tasks.now_ns < self._rested_ns:
            return False
        buffer = self._free.pop()
        buffer.store("edma.payload", 0, memoryview(payload)[:length])
        one = _Copy(frame, buffer, length)
        self._running.append(one)
        self._channel.submit(buffer.span.base, bus + offset, length, one)
        self._channel.issue()
        self._watch.schedule()
        return True

    def cancel(self) -> None:
        """The frames are dropped; buffers are free when the engine has let go of them."""
        self._failed.clear()
        if self._running:
            self._running.clear()
            self._rest()

    def _on_done(self, one: _Copy, ok: bool) -> None:
        if not self._running or one is not self._running[0]:
            return  # given up already
        self._answers += 1
        if ok:
            self._running.popleft()
            self._free.append(one.buffer)
            self._engine.counters["dma_copies"] += 1
            one.frame.copied()
        else:
            self._give_up()

    def _give_up(self) -> None:
        """Everything that runs has failed: see to it that it has ended, then copy it."""
        self.errors += len(self._running)
        self._engine.counters["dma_errors"] += len(self._running)
        if self._complaints.is_first("failed"):
            self._engine.outbox.log("dma.failed", queue=self._number, frames=len(self._running))
        self._failed.extend(self._running)
        self._running.clear()
        self._rest()

    def _rest(self) -> None:
        self._is_resting = True
        self._rested_ns = self._engine.tasks.now_ns + REST_NS
        self._recovery.schedule()

    def _recover(self) -> Task[None]:
        engine = self._engine
        if not self._is_resting:
            return
        has_ended = False
        if engine.is_present:
            has_ended = yield from self._channel.abandon()
            if has_ended:
                # through the controller, behind whatever the engine sent there
                pushed: bytes = yield Read(engine.driver.address("WR_INT_STATUS"), 4, CONTROLLER)
                has_ended = int.from_bytes(pushed, "little") != ABSENT
        if not has_ended:
            self._channel.lost()
            engine.outbox.send(CONTROLLER, Notice("edma_fence", {}, engine.tasks.epoch))
        yield from self._await_writes()
        self._is_resting = False
        self._rested_ns = engine.tasks.now_ns + REST_NS
        failed, self._failed = self._failed, deque()
        self._free = list(self._pool)
        for one in failed:
            one.frame.copy(one.buffer.view(0, one.length))
        for one in failed:
            one.frame.copied()

    def _await_writes(self) -> Task[None]:
        """Until what the engine got past the controller is at the peer."""
        engine = self._engine
        patience_ns = engine.tasks.now_ns + PATIENCE * engine.timeout_ns
        while not (yield from engine.barrier()):
            if engine.tasks.now_ns >= patience_ns:
                engine.give_up_epoch(f"queue {self._number}: no answer behind the writes of the DMA engine")
            yield Sleep(REST_NS)

    def _watch_over(self) -> Task[None]:
        """An engine that does not answer for as long as a completion may take has lost its way."""
        while self._running:
            answers = self._answers
            yield Sleep(self._engine.timeout_ns)
            if self._running and self._answers == answers:
                self._give_up()

    def snapshot(self) -> dict[str, Any]:
        """The channel, and how much of the pool is in use."""
        return self._channel.snapshot() | {
            "buffers": len(self._pool),
            "buffers_used": len(self._pool) - len(self._free),
        }


class TxDmaEngine:
    """The engine as the transport of its host uses it; lives as long as the process.

    Args:
        driver: of the engine.
        tasks, outbox: of the process.
        allocator: memory for lists and buffers; what was taken is kept for the next transport.
        counters: gets dma_copies and dma_errors.
        copy_bytes: shorter payloads are copied by the CPU.
        timeout_ns: how long the engine, or the peer, may be silent.
        barrier: of the CPU: later stores are behind what the controller has forwarded; False: no answer yet.
        on_stuck: asks for a new link epoch.

    Attributes:
        is_present: the path to the engine is up.
    """

    def __init__(
        self,
        driver: EdmaDriver,
        tasks: Tasks,
        outbox: Outbox,
        allocator: Allocator,
        counters: Counter[str],
        *,
        copy_bytes: int,
        timeout_ns: int,
        barrier: Callable[[], Task[bool]],
        on_stuck: Callable[[str], None],
    ) -> None:
        self.driver, self.tasks, self.outbox, self.counters = driver, tasks, outbox, counters
        self._allocator = allocator
        self._copy_bytes = copy_bytes
        self.timeout_ns = timeout_ns
        self.barrier = barrier
        self._on_stuck = on_stuck
        self._stuck_epoch = 0
        self.is_present = False
        self._queues: dict[int, TxDma] = {}
        self._refused: set[int] = set()

    def allocate(self, size: int, name: str) -> Window:
        """Memory that the engine reads. KernelError ENOMEM."""
        area = self._allocator.allocate(size, LIST_BYTES, name)
        if area is None:
            raise KernelError(errno.ENOMEM, f"no {size:#x} bytes for DMA")
        return area

    def queue(self, number: int, max_payload: int, max_entry: int) -> TxDma | None:
        """The channel of queue ``number``, the same one each time; None, logged once: there is none."""
        known = self._queues.get(number)
        if known is not None:
            return known if known.buffer_bytes >= max_payload else None
        if number in self._refused:
            return None
        try:
            made = TxDma(self, number, max_payload, max_entry, self._copy_bytes)
        except KernelError as failure:
            self._refused.add(number)
            self.outbox.log("dma.unavailable", reason=f"queue {number}: {failure}")
            return None
        self._queues[number] = made
        return made

    def give_up_epoch(self, reason: str) -> None:
        """Only a new link epoch helps; asked for once in each."""
        if self._stuck_epoch != self.tasks.epoch:
            self._stuck_epoch = self.tasks.epoch
            self._on_stuck(reason)

    def probe(self) -> None:
        """The engine is there, whatever it did before."""
        self.is_present = True
        self.driver.reset()

    def lost(self) -> None:
        """The path to the engine is down: what it had is copied by the CPU."""
        self.is_present = False
        self.driver.lost()

    def snapshot(self) -> list[dict[str, Any]]:
        """Of every queue that has a channel."""
        return [{"queue": number} | queue.snapshot() for number, queue in self._queues.items()]
