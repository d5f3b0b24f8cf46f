"""What a record of the flight recorder costs: less than a microsecond, most of it the storing itself."""

from __future__ import annotations

from collections import Counter
from io import StringIO
from pathlib import Path
from typing import Any

from ntbnet.address import Span
from ntbnet.edge.clock import monotonic_ns
from ntbnet.edge.pending import PendingInterrupts
from ntbnet.edge.rundir import RunDir
from ntbnet.edge.trace_later import Later
from ntbnet.edge.trace_ring import TraceRing
from ntbnet.edge.trace_rings import read_rings
from ntbnet.edge.trace_source import TraceSource
from ntbnet.edge.wake_tracer import Occasion, WakeTracer
from ntbnet.log import Logger
from ntbnet.trace_records import RECORD, RECORD_BYTES, Kind, Level, Record, decode_record
from ntbnet.wire import Irq, IrqSource, MemWrite

LIMIT_US = 1.0
TAKEN_LIMIT_US = 3.0
"""Of what readers get three records of."""
EVENT_LIMIT_US = 20.0
FIELDS = (1_000_000, Kind.EVENT, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 1, 0, b"link.changed up=True link_epoch=7", 1)


def cost_us(benchmark: Any) -> float:
    """The median of many runs."""
    return float(benchmark.stats.stats.median) * 1e6


def test_bare_store_of_a_record(benchmark: Any) -> None:
    """What the others are to be compared with, on this machine and in this run."""
    room = bytearray(RECORD_BYTES)

    benchmark(RECORD.pack_into, room, 0, *FIELDS)

    assert decode_record(memoryview(room)) == Record(*FIELDS)


def test_one_record(benchmark: Any, tmp_path: Path) -> None:
    note = TraceRing(tmp_path, "peer-rc", 1, Level.COARSE, 4096, "run").note

    benchmark(note, *FIELDS[1:-1])

    assert cost_us(benchmark) < LIMIT_US


class Registers:
    """A device with registers, which does nothing."""

    register_span = Span(0xE65D5000, 0x1000)

    def __init__(self) -> None:
        self.counters = Counter[str]()


def traced(folder: Path) -> tuple[WakeTracer, Later]:
    later = Later(TraceRing(folder, "edma", 1, Level.FULL, 4096, "run").notes, monotonic_ns)
    return WakeTracer(later, monotonic_ns, Registers(), Occasion()), later


def test_one_wake_taken_with_its_handler_and_register(benchmark: Any, tmp_path: Path) -> None:
    """Beside what a driver does anyway: three records for readers."""
    pending = PendingInterrupts(lambda _src, _message, _now_ns: ())
    tracer, later = traced(tmp_path)
    take = tracer.taker(pending, pending.handle, lambda _effects, _now_ns: None)
    store = MemWrite(0xE65D50A0, b"\1\0\0\0", 7)

    def step() -> None:
        take("peer-rc", store)
        later.settle()

    benchmark(step)

    assert cost_us(benchmark) < TAKEN_LIMIT_US
    kinds = [entry.record.kind for entry in read_rings(tmp_path)]
    assert kinds[-3:] == [Kind.MEM_WRITE, Kind.REG_WRITE, Kind.SLICE]


def test_one_wake_sent(benchmark: Any, tmp_path: Path) -> None:
    """What the one that is woken waits for."""
    tracer, later = traced(tmp_path)
    wake = tracer.around_wake(lambda _dst, _message: True)
    line = Irq(IrqSource.EDMA_LINE, 1, 7)

    benchmark.pedantic(wake, ("peer-ep", line), rounds=20, iterations=1000)

    later.settle()
    assert cost_us(benchmark) < LIMIT_US
    assert [entry.record.kind for entry in read_rings(tmp_path)][-1] == Kind.LINE


def test_records_of_a_step_behind_it(benchmark: Any, tmp_path: Path) -> None:
    """Of a hundred wakes: made of what was taken, and stored."""
    tracer, later = traced(tmp_path)
    wake = tracer.around_wake(lambda _dst, _message: True)
    line = Irq(IrqSource.EDMA_LINE, 1, 7)

    def steps() -> tuple[tuple[()], dict[str, Any]]:
        for _ in range(100):
            wake("peer-ep", line)
        return (), {}

    benchmark.pedantic(later.settle, setup=steps, rounds=200)

    assert cost_us(benchmark) / 100 < LIMIT_US


def test_one_event_of_the_log(benchmark: Any, tmp_path: Path) -> None:
    """With its text made, of two records; a service logs some events a second."""
    run = RunDir(tmp_path, "lab")
    run.create()
    log = Logger(StringIO(), "error", {"service": "peer-rc"})
    TraceSource(run, "peer-rc", 1, "run", log, records=4096, packet_at=0)
    tell = log.on_event
    assert tell is not None
    keys = {"up": True, "link_epoch": 7, "reason": "the peer said that it is there, on every queue"}
    try:
        benchmark(tell, "link.changed", keys)
    finally:
        run.remove()

    assert cost_us(benchmark) < EVENT_LIMIT_US
