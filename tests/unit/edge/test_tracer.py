"""What a full trace notes of the functions that it stands around."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import count

import pytest

from ntbnet.address import Span
from ntbnet.devices.effects import Effect, Log
from ntbnet.devices.trace_points import NONE
from ntbnet.edge.pending import PendingInterrupts
from ntbnet.edge.trace_ring import writer
from ntbnet.edge.tracer import Tracer
from ntbnet.edge.wake_tracer import MOST_PATTERNS, Handle, TakeWake
from ntbnet.trace_records import (
    HEADER_BYTES,
    RECORD_BYTES,
    Flag,
    Handler,
    Kind,
    Record,
    Result,
    decode_record,
    message_flow,
    number_of,
)
from ntbnet.trace_stored import expanded
from ntbnet.wire import Irq, IrqSource, MemWrite, Message, Service
from tests.frames import encode

CAPACITY = 1024
RC, EP, EDMA, EPC = Service.PEER_RC, Service.PEER_EP, Service.EDMA, Service.EPC


class Registers:
    """A device with registers, as far as a tracer looks at it."""

    register_span = Span(0xE65D5000, 0x1000)

    def __init__(self) -> None:
        self.counters = Counter[str]()


class Frames(Registers):
    """One that has BARs and queues, too."""

    epoch = 7
    queues = ()

    def bar_of(self, addr: int) -> tuple[int, int] | None:
        return 2, addr - 0x30100000


class Traced:
    """A tracer of the eDMA's process on a ring in plain memory, with a clock that ticks."""

    def __init__(self, *, frames: bool = False) -> None:
        self.ring = memoryview(bytearray(HEADER_BYTES + CAPACITY * RECORD_BYTES))
        self.clock = count(1000, 10).__next__
        self.device = Frames() if frames else Registers()
        self.tracer = Tracer("edma", writer(self.ring, CAPACITY, self.clock), self.device, 0, self.clock)
        self.handled: list[Message] = []
        self.pending = PendingInterrupts(self.handle)
        self.performed: list[Effect] = []

    def handle(self, src: str, message: Message, now_ns: int) -> list[Effect]:
        self.handled.append(message)
        return []

    def perform(self, effects: Sequence[Effect], now_ns: int) -> None:
        self.performed += effects

    def take(self, handle: Handle | None = None, *, is_again: bool = False) -> TakeWake:
        handle = handle or self.pending.handle
        return self.tracer.wakes.taker(self.pending, handle, self.perform, is_again=is_again)

    def end_step(self) -> None:
        """As the driver does."""
        run = self.tracer.wakes.around_interrupt(
            lambda src, message: self.perform(self.handle(src, message, self.clock()), 0), self.pending
        )
        for src, message in self.pending.end_step():
            run(src, message)

    def new_records(self) -> list[Record]:
        """Those since the last call; none may be left out."""
        found, self.ring[HEADER_BYTES:] = self.records(), bytes(len(self.ring) - HEADER_BYTES)
        return found

    def records(self) -> list[Record]:
        self.tracer.later.settle()
        slots = range(HEADER_BYTES, len(self.ring), RECORD_BYTES)
        return [*expanded(decode_record(self.ring, at) for at in slots if number_of(self.ring, at))]


def test_wake_is_followed_from_its_arrival_to_the_line_it_raises() -> None:
    traced, woken = Traced(), list[object]()

    def send(dst: str, message: Irq | MemWrite) -> bool:
        is_new = (dst, message) not in woken
        woken.append((dst, message))
        return is_new

    wake = traced.tracer.wakes.around_wake(send)
    store = MemWrite(0xE65D50A0, b"\1\0\0\0", 7)

    def handle(src: str, message: Message, now_ns: int) -> list[Effect]:
        wake("peer-ep", Irq(IrqSource.EDMA_LINE, 1, 7))
        wake("peer-ep", Irq(IrqSource.EDMA_LINE, 1, 7))
        return traced.handle(src, message, now_ns)

    traced.take(handle)("peer-rc", store)
    came, register, line, slice_ = traced.records()

    assert traced.handled == [store]
    assert len(woken) == 2
    assert (came.kind, came.flags, came.source, came.address) == (Kind.MEM_WRITE, Flag.WAKE, RC, 0xE65D50A0)
    assert (register.kind, register.source, register.address) == (Kind.REG_WRITE, RC, 0xA0)
    assert register.data == b"\1\0\0\0"
    assert (line.kind, line.flags, line.source) == (Kind.LINE, Flag.WAKE | Flag.SENT, EP)
    assert (slice_.kind, slice_.slot, slice_.flags) == (Kind.SLICE, Handler.WAKE, Flag.WAKE)
    assert slice_.mono_ns - slice_.amount == came.mono_ns == register.mono_ns < line.mono_ns < slice_.mono_ns
    assert (came.amount, came.translated, slice_.source) == (0, 0, RC)


def test_effects_of_a_wake_are_performed_before_its_slice_ends() -> None:
    traced = Traced()
    effect = Log("edma.line_raised", {})

    traced.take(lambda *_: [effect])("peer-rc", Irq(IrqSource.EDMA_LINE, 1, 7))

    assert traced.performed == [effect]


@pytest.mark.parametrize(
    ("addr", "is_stale", "registers"), [(0xE65D50A0, False, 1), (0xE65D50A0, True, 0), (0xE65D6000, False, 0)]
)
def test_what_reached_no_register_is_no_write_of_one(addr: int, is_stale: bool, registers: int) -> None:
    traced = Traced()
    store = MemWrite(addr, b"\1\0\0\0", 7)

    def handle(src: str, message: Message, now_ns: int) -> list[Effect]:
        traced.device.counters["stale_epoch"] += is_stale
        return []

    traced.take(handle)("peer-rc", store)
    header, _ = encode(store, EPC, EDMA, 1, 9, 33, 0, 0)

    def act(label: str, message: Message, now_ns: int, _header: bytes) -> None:
        handle(label, message, now_ns)

    traced.tracer.around_act(act, traced.pending)("epc", store, traced.clock(), header)

    written = [record.address for record in traced.records() if record.kind == Kind.REG_WRITE]
    assert written == [0xA0] * 2 * registers


def test_how_a_wake_was_noted_once_is_not_taken_for_another_end_of_it() -> None:
    traced, store = Traced(), MemWrite(0xE65D50A0, b"\1\0\0\0", 7)

    def refuse(src: str, message: Message, now_ns: int) -> list[Effect]:
        traced.device.counters["stale_epoch"] += 1
        return []

    def die(src: str, message: Message, now_ns: int) -> list[Effect]:
        raise InterruptedError

    for handle in (None, refuse, None):
        traced.take(handle)("peer-rc", store)
    with pytest.raises(InterruptedError):
        traced.take(die)("peer-rc", store)
    traced.take(is_again=True)("peer-rc", store)
    records = traced.records()

    came = [(record.flags, record.amount) for record in records if record.kind == Kind.MEM_WRITE]
    slices = [record.slot for record in records if record.kind == Kind.SLICE]
    assert came == [(Flag.WAKE, 0)] * 4 + [(0, 0)]
    assert [record.kind for record in records].count(Kind.REG_WRITE) == 3
    assert slices == [Handler.WAKE] * 3 + [Handler.MESSAGE]


def test_more_kinds_of_wakes_than_are_remembered_are_noted_as_what_they_are() -> None:
    """Nobody keeps their messages."""
    traced = Traced()
    wakes = traced.tracer.wakes
    take, wake = traced.take(), wakes.around_wake(lambda _dst, _message: True)
    seen, epochs = list[Record](), range(2 * MOST_PATTERNS)
    for epoch in epochs:
        traced.handled.clear()
        take("edma", Irq(IrqSource.EDMA_LINE, 1, epoch))
        wake("edma", Irq(IrqSource.EDMA_LINE, 1, epoch))
        wake("edma", MemWrite(0xE65D5000 + epoch * 4, b"\1\0\0\0", epoch))
        seen += traced.new_records()

    kept = (wakes._came[0], wakes._left, wakes._stored)
    assert all(0 < len(known) <= MOST_PATTERNS for known in kept)
    came, sent = (
        [one.epoch for one in seen if one.kind == Kind.LINE and one.flags & Flag.SENT == sent]
        for sent in (0, 1)
    )
    stored = [one.address - 0xE65D5000 for one in seen if one.kind == Kind.MEM_WRITE]
    assert came == sent == [*epochs]
    assert stored == [4 * epoch for epoch in epochs]


def test_wakes_that_differ_in_one_thing_are_noted_with_it() -> None:
    traced = Traced()
    line = Irq(IrqSource.EDMA_LINE, 1, 7)
    interrupts = [line, Irq(IrqSource.MSI_VECTOR, 1, 7), Irq(IrqSource.EDMA_LINE, 2, 7), line]
    stores = [
        MemWrite(0xE65D50A0, b"\1\0\0\0", 7),
        MemWrite(0xE65D50A0, b"\2\0\0\0", 7),
        MemWrite(0xE65D50A4, b"\1\0\0\0", 7),
    ]
    take, wake = traced.take(), traced.tracer.wakes.around_wake(lambda _dst, _message: True)
    for interrupt in interrupts:
        wake("peer-ep", interrupt)
    for dst in ("edma", "epc"):
        for store in stores:
            wake(dst, store)
    for src in ("edma", "epc"):
        take(src, line)
        traced.pending.end_step()
    records = traced.records()

    sent = [(one.slot, one.address) for one in records if one.source == EP]
    written = [(one.source, one.address, one.data) for one in records if one.kind == Kind.MEM_WRITE]
    came = [one.source for one in records if one.kind == Kind.LINE and not one.flags & Flag.SENT]
    assert sent == [(one.source, one.bits) for one in interrupts]
    assert written == [(dst, one.addr, bytes(one.data)) for dst in (EDMA, EPC) for one in stores]
    assert came == [EDMA, EPC]


def test_wake_without_room_for_a_value_has_no_record_and_the_others_have() -> None:
    traced = Traced()
    wake = traced.tracer.wakes.around_wake(lambda _dst, _message: True)
    for epoch in (7, 1 << 32, 8):
        wake("peer-ep", Irq(IrqSource.EDMA_LINE, 1, epoch))

    records = traced.records()
    assert [(one.epoch, one.number) for one in records] == [(7, 1), (8, 3)]


def test_an_interrupt_that_comes_again_in_one_step_is_noted_with_the_one_run_for_all() -> None:
    traced = Traced()
    line = Irq(IrqSource.EDMA_LINE, 1, 7)
    take = traced.take()
    for _ in range(3):
        take("edma", line)
    traced.end_step()
    first, slice_, second, third, again = traced.records()

    assert traced.handled == [line, line]
    assert [one.kind for one in (first, second, third)] == [Kind.LINE] * 3
    assert [one.result for one in (first, second, third)] == [Result.OK, Result.MERGED, Result.MERGED]
    assert (slice_.kind, slice_.slot) == (Kind.SLICE, Handler.WAKE)
    assert (again.kind, again.slot, again.flags, again.address) == (Kind.SLICE, Handler.AGAIN, Flag.WAKE, 1)
    assert third.mono_ns < again.mono_ns - again.amount < again.mono_ns


def test_a_message_that_waits_with_others_is_noted_and_the_run_for_it_has_its_flow() -> None:
    traced = Traced()
    line = Irq(IrqSource.EDMA_LINE, 1, 7)

    def handled(label: str, message: Message, now_ns: int, _header: bytes) -> None:
        traced.pending.handle(label, message, now_ns)

    act = traced.tracer.around_act(handled, traced.pending)
    for sequence in (34, 35):
        header, _ = encode(line, EDMA, EP, 1, 9, sequence, 0, 0)
        act("edma", line, traced.clock(), header)
    traced.end_step()

    records = traced.records()
    first, second = (message_flow(EDMA, EP, 9, sequence) for sequence in (34, 35))
    assert [(one.kind, one.result, one.flow) for one in records] == [
        (Kind.LINE, Result.OK, first),
        (Kind.SLICE, Result.OK, first),
        (Kind.LINE, Result.MERGED, second),
        (Kind.SLICE, Result.OK, second),
    ]


def test_store_to_registers_has_the_address_of_the_cpu_and_where_it_leads() -> None:
    traced = Traced(frames=True)
    wake = traced.tracer.wakes.around_wake(lambda _dst, _message: True)
    traced.tracer.stores.append((0x301F00A0, 0xE65D50A0))
    wake("edma", MemWrite(0xE65D50A0, b"\1\0\0\0", 7))

    wake("edma", MemWrite(0xE65D50A0, b"\1\0\0\0", 7))

    by_cpu, by_service = traced.records()

    assert (by_cpu.address, by_cpu.translated) == (0x301F00A0, 0xE65D50A0)
    assert by_cpu.flags == Flag.SENT | Flag.WAKE | Flag.DIRECT | Flag.TRANSLATED
    assert (by_cpu.queue, by_cpu.slot, by_cpu.amount) == (2, NONE, 0xF00A0)
    assert (by_service.address, by_service.flags) == (0xE65D50A0, Flag.SENT | Flag.WAKE)


def test_message_has_the_same_flow_at_both_ends() -> None:
    traced = Traced()
    sent: list[str] = []

    def take(dst: str, _header: bytes, _payload: bytes | memoryview) -> bool:
        sent.append(dst)
        return True

    send = traced.tracer.around_send(take)
    header, payload = encode(MemWrite(0x1000, b"\1\2\3\4", 7), EDMA, EPC, 1, 9, 33, 0, 0)
    assert send("epc", header, payload)
    back = MemWrite(0x2000, b"\5\6\7\x08", 7)
    header, _ = encode(back, EPC, EDMA, 1, 9, 34, 0, 0)
    traced.tracer.around_act(lambda *_: None, traced.pending)("epc", back, traced.clock(), header)
    out, came, slice_ = traced.records()

    assert sent == ["epc"]
    assert (out.flags, out.flow, out.address, out.data) == (
        Flag.SENT,
        message_flow(EDMA, EPC, 9, 33),
        0x1000,
        b"\1\2\3\4",
    )
    assert (came.flags, came.flow, came.epoch, came.length) == (0, message_flow(EPC, EDMA, 9, 34), 7, 4)
    assert slice_.flow == came.flow
