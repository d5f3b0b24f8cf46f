"""What a full trace notes of the functions that it stands around."""

from __future__ import annotations

from itertools import count

from ntbnet.devices.effects import Effect
from ntbnet.edge.trace_ring import writer
from ntbnet.edge.tracer import Tracer
from ntbnet.trace_records import (
    HEADER_BYTES,
    RECORD_BYTES,
    Flag,
    Handler,
    Kind,
    Record,
    decode_record,
    message_flow,
    number_of,
)
from ntbnet.trace_stored import expanded
from ntbnet.wire import Irq, IrqSource, MemWrite, Message, Service, encode

CAPACITY = 1024
RC, EP, EDMA, EPC = Service.PEER_RC, Service.PEER_EP, Service.EDMA, Service.EPC


class Traced:
    """A tracer of the eDMA's process on a ring in plain memory, with a clock that ticks."""

    def __init__(self) -> None:
        self.ring = memoryview(bytearray(HEADER_BYTES + CAPACITY * RECORD_BYTES))
        self.clock = count(1000, 10).__next__
        self.tracer = Tracer("edma", *writer(self.ring, CAPACITY, self.clock), object(), 0, self.clock)
        self.handled: list[Message] = []

    def handle(self, src: str, message: Message, now_ns: int) -> list[Effect]:
        self.handled.append(message)
        return []

    def records(self) -> list[Record]:
        slots = range(HEADER_BYTES, len(self.ring), RECORD_BYTES)
        return [*expanded(decode_record(self.ring, at) for at in slots if number_of(self.ring, at))]


def test_wake_is_followed_from_its_arrival_to_the_line_it_raises() -> None:
    traced, woken = Traced(), list[object]()
    tracer = traced.tracer

    def send(dst: str, message: Irq | MemWrite) -> bool:
        is_new = (dst, message) not in woken
        woken.append((dst, message))
        return is_new

    handle = tracer.around_handle(traced.handle)
    wake = tracer.around_wake(send)
    store = MemWrite(0xE65D50A0, b"\1\0\0\0", 7)

    def on_wake(src: str, message: Irq | MemWrite) -> None:
        handle(src, message, traced.clock())
        tracer.register_written(0xA0, store.data, 7)
        wake("peer-ep", Irq(IrqSource.EDMA_LINE, 1, 7))
        wake("peer-ep", Irq(IrqSource.EDMA_LINE, 1, 7))

    tracer.around_on_wake(on_wake)("peer-rc", store)
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


def test_second_register_of_a_handler_has_a_record_of_its_own() -> None:
    traced = Traced()
    tracer = traced.tracer
    handle = tracer.around_handle(traced.handle)

    def on_wake(src: str, message: Irq | MemWrite) -> None:
        handle(src, message, traced.clock())
        tracer.register_written(0xA0, b"\1\0\0\0", 7)
        tracer.register_written(0xA8, b"\2\0\0\0", 7)

    tracer.around_on_wake(on_wake)("peer-rc", MemWrite(0xE65D50A0, b"\1\0\0\0", 7))
    tracer.register_written(0x58, b"\3\0\0\0", 7)

    written = [(one.address, one.data) for one in traced.records() if one.kind == Kind.REG_WRITE]
    assert written == [(0xA0, b"\1\0\0\0"), (0xA8, b"\2\0\0\0"), (0x58, b"\3\0\0\0")]


def test_store_to_registers_has_the_address_of_the_cpu_and_where_it_leads() -> None:
    traced = Traced()
    wake = traced.tracer.around_wake(lambda _dst, _message: True)
    traced.tracer.stored_by_wake(0x301F00A0, 0xE65D50A0)
    wake("edma", MemWrite(0xE65D50A0, b"\1\0\0\0", 7))

    (record,) = traced.records()

    assert (record.address, record.translated) == (0x301F00A0, 0xE65D50A0)
    assert record.flags == Flag.SENT | Flag.WAKE | Flag.DIRECT | Flag.TRANSLATED


def test_message_has_the_same_flow_at_both_ends() -> None:
    traced = Traced()
    sent: list[str] = []

    def take(dst: str, _header: bytes, _payload: bytes | memoryview) -> bool:
        sent.append(dst)
        return True

    send = traced.tracer.around_send(take)
    header, payload = encode(MemWrite(0x1000, b"\1\2\3\4", 7), EDMA, EPC, 1, 9, 33, 0, 0)
    assert send("epc", header, payload)
    back = encode(MemWrite(0x2000, b"\5\6\7\x08", 7), EPC, EDMA, 1, 9, 34, 0, 0)
    handle = traced.tracer.around_handle(traced.handle)

    def on_message(label: str, _header: bytes, _payload: bytes | memoryview) -> None:
        handle(label, MemWrite(0x2000, b""), traced.clock())

    traced.tracer.around_on_message(on_message)("epc", *back)
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
