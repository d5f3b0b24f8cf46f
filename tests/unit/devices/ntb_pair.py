"""Two NTB devices joined by bytearrays: effects are queued in order, time moves by hand."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ntbnet.devices.effects import Deliver, Effect, Log, Outbox, Send, SetCarrier, StopQueue
from ntbnet.devices.intr_select import choose
from ntbnet.devices.memory import Allocator, Buffer, Window
from ntbnet.devices.msi_domain import MsiDomain
from ntbnet.devices.ntb import MwAlign, NtbDevice
from ntbnet.devices.queue import Queue
from ntbnet.devices.task import Sleep, Task, Tasks
from ntbnet.devices.tick import Tick
from ntbnet.devices.transport import Transport
from ntbnet.errors import KernelError
from ntbnet.wire import Irq, IrqSource, MemWrite

HZ = 250
MS = 1_000_000
WINDOW_STRIDE = 1 << 32
SPAD_BASE = 1 << 48
MSI_WORD = 0x0802_0040
"""Of the endpoint, in a pair with interrupts: its MSI controller's word."""
DRAM_BYTES = 8 << 20
MOST_STEPS = 20_000


class StuckReports(list[str]):
    """Reasons a transport gave for wanting a new epoch; ``answer`` is called with each, at once."""

    answer: Callable[[str], None] | None = None

    def append(self, reason: str, /) -> None:
        super().append(reason)
        if self.answer is not None:
            self.answer(reason)


class FakeNtb(NtbDevice):
    """One side. ``latency_ns`` above 0 makes scratchpads and link slow, as over the bus."""

    def __init__(
        self, name: str, outbox: Outbox, mw_sizes: list[int], spads: int, db_mask: int, base: int
    ) -> None:
        super().__init__(name)
        self.outbox = outbox
        self.mw_sizes = mw_sizes
        self.spads = [0] * spads
        self.db_mask = db_mask
        self.db = 0
        self.link = 1
        self.latency_ns = 0
        self.size_max = 4 << 20
        self.out_of_memory = False
        self.offsets = [0] * len(mw_sizes)
        self.dram = Window(memoryview(bytearray(DRAM_BYTES)), base, f"{name}-dram")
        self.allocator = Allocator(self.dram)
        self.trans: dict[int, tuple[int, int]] = {}
        self.set_trans_error: KernelError | None = None
        self.fail_windows: dict[int, KernelError] = {}
        self.calls: list[str] = []
        self.unmapped_stores = 0
        self.gone = False
        self.peer: FakeNtb | None = None
        self.msi: MsiDomain | None = None
        self.rings: list[int] = []
        self.lends = False
        """Stores to the peer are done in place, as in fabric ``local``, while no message is under way."""
        self.on_fence: Callable[[], None] = lambda: None
        self._lent: list[Window] = []
        self._unread: Callable[[], int] = lambda: 0

    def _wait(self) -> Task[None]:
        assert not self.gone, "bus access to a device that is gone"
        if self.latency_ns:
            yield Sleep(self.latency_ns)

    def mw_count(self, pidx: int) -> int:
        return len(self.mw_sizes)

    def peer_mw_count(self) -> int:
        return len(self.mw_sizes)

    def mw_get_align(self, pidx: int, widx: int) -> Task[MwAlign]:
        yield from self._wait()
        if not self.link:
            raise KernelError(errno.ENOTCONN, "link down")
        return MwAlign(4096, 1, self.size_max, self.offsets[widx])

    def mw_set_trans(self, pidx: int, widx: int, addr: int, size: int, offset: int = 0) -> Task[None]:
        yield from self._wait()
        assert offset == self.offsets[widx], "the offset that mw_get_align gave"
        if error := self.set_trans_error or self.fail_windows.get(widx):
            raise error
        self.calls.append(f"set_trans {widx}")
        self.trans[widx] = (addr, size)

    def mw_clear_trans(self, pidx: int, widx: int) -> Task[None]:
        yield from self._wait()
        self.calls.append(f"clear_trans {widx}")
        self.trans.pop(widx, None)

    def peer_mw_get_addr(self, widx: int) -> tuple[int, int]:
        return (widx + 1) * WINDOW_STRIDE, self.mw_sizes[widx]

    def peer_mw_write(self, widx: int, offset: int, data: Buffer, what: str = "direct") -> None:
        assert not self.gone, "bus access to a device that is gone"
        if offset < 0 or offset + len(data) > self.mw_sizes[widx]:
            raise ValueError(f"store at {offset:#x} leaves window {widx}")
        self.take_back()
        self.outbox.send("peer", MemWrite((widx + 1) * WINDOW_STRIDE + offset, bytes(data)))

    def peer_mw_is_direct(self, widx: int, size: int) -> bool:
        return self.lends

    def peer_mw_lend(self, widx: int, size: int) -> Window | None:
        assert self.peer is not None
        addr, mapped = self.peer.trans.get(widx, (0, 0))
        if not self.lends or size > mapped or self.outbox.effects or self._unread():
            return None
        dram = self.peer.dram
        self._lent.append(dram.sub(addr - dram.span.base, size, "lent"))
        return self._lent[-1]

    def take_back(self) -> None:
        """What was lent is lent no more."""
        while self._lent:
            self._lent.pop().revoke()

    def fence(self) -> None:
        self.on_fence()

    def peer_mw_is_open(self, widx: int) -> Task[bool]:
        yield from self._wait()
        return self.peer is not None and widx in self.peer.trans

    def msi_domain(self) -> MsiDomain | None:
        return self.msi

    def alloc_coherent(self, size: int, alignment: int, name: str) -> Window | None:
        return None if self.out_of_memory else self.allocator.allocate(size, alignment, name)

    def free_coherent(self, window: Window) -> None:
        self.allocator.free(window)

    def link_is_up(self) -> Task[int]:
        yield from self._wait()
        return self.link

    def link_enable(self) -> Task[None]:
        self.calls.append("link_enable")
        yield from self._wait()

    def link_disable(self) -> Task[None]:
        self.calls.append("link_disable")
        yield from self._wait()

    def db_valid_mask(self) -> int:
        return self.db_mask

    def db_read(self) -> int:
        return self.db

    def db_clear(self, bits: int) -> None:
        self.db &= ~bits

    def peer_db_set(self, bits: int) -> None:
        assert not self.gone, "bus access to a device that is gone"
        self.outbox.send("peer", Irq(IrqSource.DOORBELL_SLOTS, bits))

    def spad_count(self) -> int:
        return len(self.spads)

    def spad_read(self, sidx: int) -> Task[int]:
        yield from self._wait()
        return self.spads[sidx]

    def spad_write(self, sidx: int, value: int) -> Task[None]:
        yield from self._wait()
        self.spads[sidx] = value

    def peer_spad_read(self, pidx: int, sidx: int) -> Task[int]:
        yield from self._wait()
        assert self.peer is not None
        return self.peer.spads[sidx]

    def peer_spad_write(self, pidx: int, sidx: int, value: int) -> Task[None]:
        assert not self.gone, "bus access to a device that is gone"
        self.outbox.send("peer", MemWrite(SPAD_BASE + 4 * sidx, value.to_bytes(4, "little")))
        yield from ()

    def receive(self, message: Any) -> None:
        """Apply what the peer sent."""
        if isinstance(message, Irq):
            self.db |= message.bits
            self.signal_db_event(0)
        elif message.addr >= SPAD_BASE:
            self.spads[(message.addr - SPAD_BASE) // 4] = int.from_bytes(message.data, "little")
        else:
            widx, offset = divmod(message.addr, WINDOW_STRIDE)
            addr, size = self.trans.get(widx - 1, (0, 0))
            if self.msi is not None and addr + offset == self.msi.address:
                self.rings.append(int.from_bytes(message.data, "little"))
                self.msi.dispatch(self.rings[-1])
                return
            if offset + len(message.data) > size or addr < self.dram.span.base:
                self.unmapped_stores += 1
                return
            self.dram.store("peer", addr - self.dram.span.base + offset, message.data)


class Client:
    """Records what its queue tells it; keeps ``buffers`` of ``buffer_bytes`` posted unless told not to."""

    def __init__(self, side: Side, buffer_bytes: int = 1 << 16, buffers: int = 100) -> None:
        self.side = side
        self.buffer_bytes = buffer_bytes
        self.repost = True
        self.events: list[bool] = []
        self.lengths: list[int] = []
        self.sent: list[int] = []
        self.on_sent: Any = None
        queue = side.transport.create_queue(self)
        assert queue is not None
        self.queue: Queue = queue
        for _ in range(buffers):
            queue.rx_enqueue(buffer_bytes)

    def rx(self, frame: memoryview | None, length: int) -> None:
        self.lengths.append(length)
        if frame is not None:
            self.side.outbox.add(Deliver(frame))
        if self.repost:
            self.queue.rx_enqueue(self.buffer_bytes)

    def tx(self, length: int) -> None:
        self.sent.append(length)
        if self.on_sent:
            self.on_sent()

    def event(self, up: bool) -> None:
        self.events.append(up)


@dataclass
class Side:
    """One side's device, transport and everything its effects did."""

    name: str
    outbox: Outbox
    tasks: Tasks
    ntb: FakeNtb
    transport: Transport
    stuck: StuckReports
    inbox: deque[Any] = field(default_factory=deque)
    delivered: list[bytes] = field(default_factory=list)
    offload_headers: list[bytes] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)
    sent: list[Any] = field(default_factory=list)

    def logs(self, event: str) -> list[dict[str, Any]]:
        """Keys of every log line of ``event`` so far."""
        return [
            dict(effect.keys) for effect in self.effects if isinstance(effect, Log) and effect.event == event
        ]

    def carrier(self) -> list[bool]:
        return [effect.up for effect in self.effects if isinstance(effect, SetCarrier)]

    def stops(self) -> list[bool]:
        return [effect.stopped for effect in self.effects if isinstance(effect, StopQueue)]

    def probe(self) -> None:
        self.tasks.spawn("probe", self.transport.probe())

    def spad_writes(self) -> list[tuple[int, int]]:
        """(index, value) of every scratchpad written at the peer, in order."""
        return [
            ((message.addr - SPAD_BASE) // 4, int.from_bytes(message.data, "little"))
            for message in self.sent
            if isinstance(message, MemWrite) and message.addr >= SPAD_BASE
        ]


class Pair:
    """The two sides, the clock, and the wire between them: two FIFOs."""

    def __init__(
        self,
        mw_sizes: tuple[list[int], list[int]] = ([1 << 20], [1 << 20]),
        *,
        spads: int = 16,
        db_mask: int = 0xFFFF,
        mtu: int = 65536,
        clients: tuple[int, int] = (0, 0),
        max_mw_size: int = 0,
        windows: tuple[int, ...] | None = None,
        interrupts: tuple[str, str] | None = None,
    ) -> None:
        self.now_ns = 0
        self.interrupts = interrupts
        self.mtu = mtu
        self.max_mw_size = max_mw_size
        self.windows = windows
        self.sides = [
            self._make_side(name, mw_sizes[i], spads, db_mask, clients[i], 0x8000_0000 << i)
            for i, name in enumerate(("rc", "ep"))
        ]
        self.rc, self.ep = self.sides
        self.rc.ntb.peer, self.ep.ntb.peer = self.ep.ntb, self.rc.ntb
        for side in self.sides:
            side.ntb._unread = partial(self._stores_under_way, side)

    def _stores_under_way(self, side: Side) -> int:
        return sum(isinstance(message, MemWrite) for message in self.peer_of(side).inbox)

    def _make_side(
        self, name: str, mw_sizes: list[int], spads: int, db_mask: int, clients: int, base: int
    ) -> Side:
        outbox = Outbox()
        tasks = Tasks(outbox, "host", 500 * MS)
        ntb = FakeNtb(name, outbox, mw_sizes, spads, db_mask, base)
        if self.interrupts is not None:
            ntb.msi = MsiDomain(MSI_WORD, range(80, 112) if name == "ep" else ())
        stuck = StuckReports()
        transport = self.make_transport(ntb, tasks, outbox, clients, stuck)
        return Side(name, outbox, tasks, ntb, transport, stuck)

    def make_transport(
        self, ntb: FakeNtb, tasks: Tasks, outbox: Outbox, clients: int, stuck: StuckReports
    ) -> Transport:
        choice = None
        if self.interrupts is not None:
            choice = choose(
                ntb,
                outbox,
                wanted=self.interrupts[ntb.name == "ep"],
                widx=len(ntb.mw_sizes) - 1,
                edmas=None,
                on_descriptor_changed=partial(self.descriptors_changed, ntb.name),
            )
        return Transport(
            ntb,
            tasks,
            outbox,
            Tick(HZ),
            transport_mtu=self.mtu,
            max_num_clients=clients,
            max_mw_size=self.max_mw_size,
            on_stuck=stuck.append,
            windows=self.windows,
            interrupts=choice,
        )

    def reload(self, side: Side) -> None:
        """A new transport on the same device, as after reloading the driver."""
        side.transport = self.make_transport(side.ntb, side.tasks, side.outbox, 0, side.stuck)
        side.probe()

    def descriptors_changed(self, name: str) -> None:
        """The backend of that side says so."""
        self.sides[name == "ep"].transport.descriptors_changed()

    def peer_of(self, side: Side) -> Side:
        return self.ep if side is self.rc else self.rc

    def perform(self, side: Side) -> None:
        """Perform the effects a side has queued, in order."""
        while effects := side.outbox.take():
            side.effects += effects
            for effect in effects:
                if isinstance(effect, Send):
                    side.sent.append(effect.message)
                    self.peer_of(side).inbox.append(effect.message)
                elif isinstance(effect, Deliver):
                    side.delivered.append(bytes(effect.packet))
                    side.offload_headers.append(effect.offload_header)

    def receive_one(self, side: Side) -> None:
        side.ntb.receive(side.inbox.popleft())
        self.perform(side)

    def flush(self) -> None:
        """Deliver messages until none is left; time stands still."""
        for _ in range(MOST_STEPS):
            for side in self.sides:
                self.perform(side)
            busy = [side for side in self.sides if side.inbox]
            if not busy:
                return
            for side in busy:
                self.receive_one(side)
        raise AssertionError(f"not quiet after {MOST_STEPS} steps")

    def advance(self, duration_ns: int) -> None:
        """Let time pass, stopping at each deadline."""
        end_ns = self.now_ns + duration_ns
        for _ in range(MOST_STEPS):
            self.flush()
            due = [d for side in self.sides if (d := side.tasks.next_deadline()) is not None]
            self.now_ns = min([end_ns, *due])
            for side in self.sides:
                side.tasks.on_deadline(self.now_ns)
            if self.now_ns >= end_ns and all(d > end_ns for d in due):
                self.flush()
                return
        raise AssertionError(f"not at {end_ns} after {MOST_STEPS} steps")

    def set_link(self, up: int) -> None:
        """Change the link bit and tell both sides."""
        for side in self.sides:
            side.ntb.link = up
        for side in self.sides:
            side.ntb.signal_link_event()
        self.flush()

    def start(self) -> tuple[Client, Client]:
        """Probe both sides, open queue 0 on each, wait until both are up."""
        for side in self.sides:
            side.probe()
        clients = Client(self.rc), Client(self.ep)
        for client in clients:
            client.side.transport.link_up(client.queue)
        self.advance(100 * MS)
        assert all(client.queue.link_is_up for client in clients)
        return clients
