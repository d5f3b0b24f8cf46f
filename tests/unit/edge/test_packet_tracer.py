"""What a full trace notes of packets."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest

from ntbnet.devices.effects import Effect
from ntbnet.edge.packet_tracer import PacketTracer
from ntbnet.edge.trace_later import Later
from ntbnet.edge.trace_ring import writer
from ntbnet.trace_records import (
    AMOUNT_MAX,
    HEADER_BYTES,
    RECORD_BYTES,
    Flag,
    Handler,
    Kind,
    Record,
    Result,
    decode_record,
    frame_flow,
    number_of,
)
from ntbnet.trace_stored import expanded

CAPACITY, EPOCH, ENTRIES, FRAME_BYTES, BASE = 64, 7, 32, 0x1000, 0x10000
PACKET = bytes(range(100))


class FakeQueue:
    """As much of a queue as the tracer looks at."""

    def __init__(self, number: int) -> None:
        self.number, self.address, self.link_is_up = number, BASE, True
        geometry = SimpleNamespace(max_frame=FRAME_BYTES, max_entry=ENTRIES)
        self.tx = SimpleNamespace(tx_pkts=10, newest=lambda: (3, 30, False), rings_saved=0, geometry=geometry)


class Rig:
    """The tracer of a peer with two queues, on a ring in plain memory."""

    def __init__(self, *times: int, queues: int = 2) -> None:
        self.queues = [FakeQueue(number) for number in range(queues)]
        self.ring = memoryview(bytearray(HEADER_BYTES + CAPACITY * RECORD_BYTES))
        clock = iter(times).__next__ if times else count(1000, 10).__next__
        self.later = Later(writer(self.ring, CAPACITY, clock), clock)
        self.device: Any = SimpleNamespace(epoch=EPOCH, queues=self.queues, bar_of=lambda _addr: None)
        self.tracer = PacketTracer(self.later, clock, self.device, 0, 0)

        packets: Any = SimpleNamespace(buffer=memoryview(PACKET))
        self._to: int | None = None
        self.looks_by_itself = False
        self._transmit, self.end_burst = self.tracer.around_burst(self._into_ring, self._tell, packets)

    def _into_ring(self, _length: int, _now_ns: int) -> Sequence[Effect]:
        if self._to is not None:
            self.queues[self._to].tx.tx_pkts += 1
        return ()

    def send(self, to: int | None) -> None:
        """A packet comes from the stack, and leaves by that queue, or is dropped."""
        self._to = to
        self._transmit(len(PACKET), 0)

    def _tell(self, _now_ns: int) -> Sequence[Effect]:
        self.queues[0].tx.rings_saved += self.looks_by_itself
        return ()

    def records(self) -> list[Record]:
        self.later.settle()
        slots = range(HEADER_BYTES, len(self.ring), RECORD_BYTES)
        return [*expanded(decode_record(self.ring, at) for at in slots if number_of(self.ring, at))]


@pytest.mark.parametrize(("queues", "queue"), [(1, 0), (2, 0), (2, 1)])
def test_packet_is_noted_as_it_comes_as_a_frame_and_as_told(queues: int, queue: int) -> None:
    rig = Rig(queues=queues)
    rig.send(queue)
    rig.end_burst(0)
    read, frame, trigger, slice_ = rig.records()

    flow = frame_flow(0, queue, EPOCH, 10)
    assert {one.flow for one in (read, frame, trigger, slice_)} == {flow}
    assert (read.kind, read.length, read.data, read.queue) == (Kind.TUN_READ, 100, PACKET[:64], queue)
    assert (frame.kind, frame.flags, frame.address) == (Kind.RING_WRITE, Flag.SENT, BASE + 3 * FRAME_BYTES)
    assert (frame.slot, frame.amount) == (3, ENTRIES - 1 - 30)
    assert (trigger.kind, trigger.queue, trigger.amount, trigger.result) == (Kind.TRIGGER, queue, 1, 0)
    assert (slice_.kind, slice_.slot, slice_.mono_ns - slice_.amount) == (
        Kind.SLICE,
        Handler.TUN,
        read.mono_ns,
    )


def test_frame_of_a_new_link_epoch_has_a_flow_of_it() -> None:
    rig = Rig()
    rig.send(0)
    rig.device.epoch += 1
    rig.send(0)

    flows = [record.flow for record in rig.records() if record.kind == Kind.TUN_READ]
    assert flows == [frame_flow(0, 0, EPOCH, 10), frame_flow(0, 0, EPOCH + 1, 11)]


@pytest.mark.parametrize("queues", [1, 2])
def test_packets_of_a_burst_are_each_noted_and_the_peer_is_told_of_all(queues: int) -> None:
    rig = Rig(queues=queues)
    for _ in range(3):
        rig.send(0)
    rig.end_burst(0)
    records = rig.records()

    flows = [frame_flow(0, 0, EPOCH, ver) for ver in (10, 11, 12)]
    reads, frames = (
        [one for one in records if one.kind == kind] for kind in (Kind.TUN_READ, Kind.RING_WRITE)
    )
    trigger, slice_ = records[-2:]
    assert [one.flow for one in reads] == [one.flow for one in frames] == flows
    assert (trigger.kind, trigger.amount, trigger.flow) == (Kind.TRIGGER, 3, flows[-1])
    assert (slice_.kind, slice_.mono_ns - slice_.amount) == (Kind.SLICE, reads[0].mono_ns)
    assert len(records) == 8


@pytest.mark.parametrize("queues", [1, 2])
def test_bursts_one_after_the_other_have_nothing_of_each_other(queues: int) -> None:
    rig = Rig(queues=queues)
    for burst in ([0], [0], [None, 0, 0, None], [None], [0]):
        for to in burst:
            rig.send(to)
        rig.end_burst(0)
    records = rig.records()

    told = [(one.amount, one.flow & 0xFF) for one in records if one.kind == Kind.TRIGGER]
    slices = [(one.mono_ns - one.amount, one.mono_ns) for one in records if one.kind == Kind.SLICE]
    reads = [one.mono_ns for one in records if one.kind == Kind.TUN_READ and one.result == Result.OK]
    assert told == [(1, 10), (1, 11), (2, 13), (1, 14)]
    assert [began for began, _ in slices] == [reads[0], reads[1], reads[2], reads[4]]
    assert slices == sorted(slices)
    times = [one.mono_ns for one in records]
    assert times == sorted(times)


def test_what_packets_of_a_burst_lead_to_lies_between_them_in_time() -> None:
    rig = Rig()
    for _ in range(3):
        rig.send(0)
        rig.later.note(Kind.MEM_WRITE, Flag.SENT)
    rig.end_burst(0)

    records = rig.records()
    times = [one.mono_ns for one in records]
    assert times == sorted(times)
    assert [one.kind for one in records[:3]] == [Kind.TUN_READ, Kind.RING_WRITE, Kind.MEM_WRITE]


@pytest.mark.parametrize("queues", [1, 2])
def test_peer_that_looks_by_itself_is_not_told(queues: int) -> None:
    rig = Rig(queues=queues)
    rig.queues[0].tx.rings_saved = 5
    for looks_by_itself in (False, True, True, False):
        rig.looks_by_itself = looks_by_itself
        rig.send(0)
        rig.end_burst(0)

    told = [record.result for record in rig.records() if record.kind == Kind.TRIGGER]
    assert told == [Result.OK, Result.DROPPED, Result.DROPPED, Result.OK]


def test_a_burst_longer_than_its_field_has_the_most_it_can_tell() -> None:
    end = AMOUNT_MAX + 1000
    rig = Rig(1, end, end + 10)
    rig.send(0)
    rig.end_burst(0)
    _, frame, trigger, slice_ = rig.records()

    assert (frame.mono_ns, trigger.mono_ns) == (end, end + 10)
    assert (slice_.mono_ns, slice_.amount) == (end + 10, AMOUNT_MAX)


@pytest.mark.parametrize("queues", [1, 2])
def test_packet_that_no_ring_takes_is_dropped_and_nobody_is_told(queues: int) -> None:
    rig = Rig(queues=queues)
    rig.send(None)
    rig.end_burst(0)
    (read,) = rig.records()

    assert (read.kind, read.result, read.length, read.flow) == (Kind.TUN_READ, Result.DROPPED, 100, 0)


def test_packet_for_the_stack_has_the_flow_of_its_frame() -> None:
    rig = Rig()
    write = rig.tracer.around_write(lambda _packet, _offloads: True)
    rig.tracer.delivered.append((1, 42))
    write(memoryview(PACKET), b"")
    write(memoryview(PACKET), b"")
    known, unknown = rig.records()

    assert (known.kind, known.queue, known.flow) == (Kind.TUN_WRITE, 1, frame_flow(1, 1, EPOCH, 42))
    assert (known.epoch, known.data) == (EPOCH, PACKET[:64])
    assert unknown.flow == 0


def test_a_slice_longer_than_its_field_has_the_most_it_can_tell() -> None:
    end = 10 * AMOUNT_MAX
    rig = Rig(1, end)
    effects: list[Any] = [object()]
    rig.tracer.around_poll(lambda _now_ns: effects)(0)
    (slice_,) = rig.records()

    assert (slice_.mono_ns, slice_.amount) == (end, AMOUNT_MAX)
