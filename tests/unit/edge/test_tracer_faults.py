"""A trace while interrupts come again as faults, outside of what brought them first."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from functools import partial
from typing import Any

from ntbnet.edge.fault_files import WORDS
from ntbnet.edge.faulty import FaultLayer
from ntbnet.faults import plan_from
from ntbnet.trace_records import Flag, Kind
from ntbnet.wire import Irq, MemWrite, Service, encode
from tests.sim.faulty_world import FaultLog
from tests.unit.edge.test_tracer import Traced

STORE = MemWrite(0xE65D50A0, b"\1\0\0\0", 7)
BURST = 3


class Soon:
    """An event loop that calls when it is told to."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], object]] = []

    def call_soon(self, callback: Callable[..., object], *args: Any) -> None:
        self.calls.append(partial(callback, *args))

    def call_later(self, _delay: float, callback: Callable[..., object], *args: Any) -> None:
        self.calls.append(partial(callback, *args))

    def run(self) -> None:
        while self.calls:
            self.calls.pop(0)()


def stormy(loop: Soon) -> FaultLayer:
    plan = plan_from(
        {
            "seed": 1,
            "faults": [
                {"kind": "interrupt-storm", "dst": "edma", "every": 1, "limit": 1, "burst": BURST},
            ],
        },
        "test",
    )
    layer = FaultLayer("edma", plan, array("Q", bytes(8 * WORDS)), FaultLog([]))
    layer.attach(lambda: 1, loop, lambda: None, lambda _src, _message: None, {})
    return layer


def test_interrupts_that_come_again_are_noted_without_a_flow() -> None:
    traced, loop = Traced(), Soon()
    handle = traced.tracer.around_handle(traced.handle)
    layer = stormy(loop)

    def on_wake(src: str, message: Irq | MemWrite) -> None:
        handle(src, message, traced.clock())

    def on_message(label: str, _header: bytes, _payload: bytes | memoryview) -> None:
        handle(label, MemWrite(0x2000, b""), traced.clock())

    message = encode(MemWrite(0x2000, b"\5\6\7\x08", 7), Service.EPC, Service.EDMA, 1, 9, 34, 0, 0)
    traced.tracer.around_on_message(on_message)("epc", *message)
    traced.tracer.around_on_wake(layer.around_on_wake(on_wake))("peer-rc", STORE)
    loop.run()
    records = traced.records()

    assert traced.handled[1:] == [STORE] * (1 + BURST)
    assert [(record.kind, record.flags) for record in records] == [
        (Kind.MEM_WRITE, 0),
        (Kind.SLICE, 0),
        (Kind.MEM_WRITE, Flag.WAKE),
        (Kind.SLICE, Flag.WAKE),
        *[(Kind.MEM_WRITE, 0)] * BURST,
    ]
    assert [(record.address, record.flow) for record in records[4:]] == [(STORE.addr, 0)] * BURST
