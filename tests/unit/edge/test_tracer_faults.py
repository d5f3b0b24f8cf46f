"""A trace while interrupts come again as faults, outside of what brought them first."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from functools import partial
from typing import Any

from ntbnet.edge.fault_files import WORDS
from ntbnet.edge.faulty import FaultLayer
from ntbnet.faults import plan_from
from ntbnet.trace_records import Flag, Kind, Result
from ntbnet.wire import MemWrite
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


def layer_of(loop: Soon, kind: str, **rule: int) -> FaultLayer:
    rules = [{"kind": kind, "dst": "edma", "every": 1, "limit": 1, **rule}]
    plan = plan_from({"seed": 1, "faults": rules}, "test")
    layer = FaultLayer("edma", plan, array("Q", bytes(8 * WORDS)), FaultLog([]))
    layer.attach(lambda: 1, loop, lambda: None, lambda _src, _message: True, {})
    return layer


def test_interrupts_that_come_again_are_noted_without_a_flow() -> None:
    traced, loop = Traced(), Soon()
    layer = layer_of(loop, "interrupt-storm", burst=BURST)

    layer.around_on_wake(traced.take(), traced.take(is_again=True))("peer-rc", STORE)
    loop.run()
    came, *again = [record for record in traced.records() if record.kind == Kind.MEM_WRITE]

    assert traced.handled == [STORE] * (1 + BURST)
    assert (came.flags, came.address) == (Flag.WAKE, STORE.addr)
    assert [(record.flags, record.address, record.flow) for record in again] == [(0, STORE.addr, 0)] * BURST


def test_a_wake_that_a_fault_loses_is_noted_as_lost() -> None:
    """Else readers would take the next one for it."""
    traced = Traced()
    take = traced.take()
    layer = layer_of(Soon(), "lost-interrupt")

    lossy = layer.around_on_wake(take, take, traced.tracer.wakes.note_lost)
    lossy("peer-rc", STORE)
    lossy("peer-rc", STORE)
    lost, came, *_ = traced.records()

    assert traced.handled == [STORE]
    assert (lost.kind, lost.flags, lost.result) == (Kind.MEM_WRITE, Flag.WAKE, Result.DROPPED)
    assert (came.kind, came.flags, came.result) == (Kind.MEM_WRITE, Flag.WAKE, Result.OK)
