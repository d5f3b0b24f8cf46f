"""Records as a Perfetto trace, parsed back with the published schema."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as pb

from ntbnet.config import load_text
from ntbnet.trace_perfetto import PerfettoTrace
from ntbnet.trace_places import Places
from ntbnet.trace_records import Flag, Kind, Record, Result, frame_flow
from ntbnet.wire import Service
from tests.perfetto_flows import Parsed, parse
from tests.trace_samples import (
    MADE_MONO_NS,
    MADE_WALL_NS,
    STEP_NS,
    Entry,
    Notebook,
    packet_over_the_edma,
    packets,
    records,
    ring_of,
)

RC, EP, EDMA = Service.PEER_RC, Service.PEER_EP, Service.EDMA
DEFAULTS = load_text("", "defaults")


def bytes_of(entries: list[Entry]) -> bytes:
    return b"".join(PerfettoTrace(Places(DEFAULTS)).chunks(entries))


def parsed(entries: list[Entry]) -> Parsed:
    return parse(bytes_of(entries))


@settings(max_examples=20)
@given(st.integers(0, 40), st.booleans())
def test_as_many_flows_as_packets_were_sent(count: int, local: bool) -> None:
    flows = parsed(list(packets(count, local=local))).frame_flows()

    assert len(flows) == count
    for steps in flows.values():
        assert [step.name for step in steps] == ["TUN read", "ring write", "trigger", "TUN write"]


def test_the_writer_counts_the_flows_itself() -> None:
    trace = PerfettoTrace()

    data = b"".join(trace.chunks(packets(7)))

    assert (trace.frames_begun, trace.frames_ended) == (7, 7) == (len(parse(data).frame_flows()),) * 2


def test_a_frame_that_was_dropped_has_no_end() -> None:
    entries = [entry for entry in packets(2) if not (entry[1].kind == Kind.TUN_WRITE and entry[1].flow & 1)]
    trace = PerfettoTrace()

    flows = parse(b"".join(trace.chunks(entries))).frame_flows()

    assert (len(flows), trace.frames_begun, trace.frames_ended) == (1, 2, 1)


def test_a_frame_that_the_stack_did_not_take_has_no_end() -> None:
    entries = [
        (ring, record._replace(result=int(Result.DROPPED)) if record.kind == Kind.TUN_WRITE else record)
        for ring, record in packets(1)
    ]

    assert parsed(entries).frame_flows() == {}


def test_an_id_that_comes_again_is_another_flow() -> None:
    """Frames are numbered from 0 with each new link, in the same epoch too."""
    book = Notebook()
    for _ in range(3):
        packet_over_the_edma(book, 0)

    assert len(parsed(book.entries).frame_flows()) == 3


def test_a_store_noted_down_late_is_no_flow_of_its_own() -> None:
    """The receiver polls, and is done before the sender has noted that it stored."""
    entries = list(packets(1))
    late = next(entry for entry in entries if entry[1].kind == Kind.RING_WRITE)
    entries.remove(late)
    entries.append((late[0], late[1]._replace(mono_ns=entries[-1][1].mono_ns + 5)))

    ((steps),) = parsed(entries).frame_flows().values()

    assert [step.name for step in steps] == ["TUN read", "trigger", "TUN write"]


def test_a_frame_in_flight_is_a_slice_of_its_queue() -> None:
    trace = parsed(list(packets(2)))

    flights = trace.on("rc to ep, queue 0")
    read, written = (
        [s.begin_ns for s in trace.steps if s.name == name] for name in ("TUN read", "TUN write")
    )
    assert [(step.begin_ns, step.end_ns) for step in flights] == list(zip(read, written, strict=True))


def test_frames_in_flight_at_the_same_time_lie_side_by_side() -> None:
    """Their tracks have one name; ``parse`` asserts that slices of one track do not overlap."""
    rc, ep = ring_of(RC), ring_of(EP)
    at = MADE_MONO_NS
    sent = [(rc, Record(at + v, Kind.TUN_READ, flow=frame_flow(0, 1, 3, v), queue=1)) for v in range(5)]
    got = [(ep, Record(at + 9 + v, Kind.TUN_WRITE, flow=frame_flow(0, 1, 3, v), queue=1)) for v in range(5)]

    flights = parsed(sent + got).on("rc to ep, queue 1")

    assert len({step.track for step in flights}) == len(flights) == 5


def test_a_handler_is_a_slice_as_long_as_it_took() -> None:
    (handler,) = parsed(list(packets(1))).on("peer-ep handlers")

    assert (handler.name, handler.end_ns - handler.begin_ns) == ("wake from edma", 2500)


@pytest.mark.covers("EDMA 126")
def test_the_interrupt_is_a_flow_from_the_engine_to_the_handler() -> None:
    trace = parsed(list(packets(1)))

    (handler,) = trace.on("peer-ep handlers")
    line = next(step for step in trace.on("accesses") if step.name == "eDMA line" and step.notes.get("to"))
    bell, *_ = (step for step in trace.on("accesses") if step.name == "write RD_INT_STATUS")
    register = next(step for step in trace.on("accesses") if step.name == "register write RD_INT_STATUS")
    assert handler.flows == line.flows
    assert bell.flows == register.flows
    assert (bell.notes["bar"], bell.notes["bar_offset"]) == (2, 0xF00A0)


def test_processes_are_named_and_have_their_tracks() -> None:
    trace = parsed(list(packets(1)))

    processes = {track.name: track.pid for track in trace.tracks.values() if track.pid and not track.parent}
    assert processes == {"rc: peer-rc": 4004, "ep: edma": 4003, "ep: peer-ep": 4005}


def test_a_restarted_service_is_another_process() -> None:
    before = ring_of(EP)
    after = before._replace(pid=9999, incarnation=8)
    entries = [(before, Record(1, Kind.STOP)), (after, Record(2, Kind.START, data=b"1"))]

    names = [track.name for track in parsed(entries).tracks.values() if not track.parent]

    assert names == ["ep: peer-ep", "ep: peer-ep"]


def test_ring_fill_is_a_counter() -> None:
    book = Notebook()
    packet_over_the_edma(book, 0)
    book.note(RC, Kind.RING_FILL, queue=0, amount=9, length=13)

    points = parsed(book.entries).counter("queue 0, frames in the ring")

    assert [value for _, value in points] == [1, 9]


def test_beats_are_counters() -> None:
    record = Record(5, Kind.BEAT, address=10, translated=20, length=3, amount=4, flow=99)

    trace = parsed([(ring_of(RC), record)])

    values = {
        track.name: trace.counters[uuid] for uuid, track in trace.tracks.items() if uuid in trace.counters
    }
    assert values == {
        "messages received": [(5, 10)],
        "messages sent": [(5, 20)],
        "packets sent": [(5, 3)],
        "packets received": [(5, 4)],
    }


def test_events_of_the_log_are_instants() -> None:
    entries = [
        (ring_of(RC), Record(5, Kind.EVENT, amount=1, data=b"link.changed up=True")),
        (ring_of(RC), Record(6, Kind.PATH, int(Flag.UP), source=int(EDMA), data=b"hello")),
    ]

    events = parsed(entries).on("log")

    assert [(step.name, step.notes["text"]) for step in events] == [
        ("link.changed", "up=True"),
        ("path to edma up", "hello"),
    ]


def test_times_are_monotonic_and_the_wall_clock_is_known() -> None:
    trace = pb.Trace.FromString(bytes_of(list(packets(1))))

    first = trace.packet[0]
    assert first.trace_packet_defaults.timestamp_clock_id == pb.BUILTIN_CLOCK_MONOTONIC
    assert {clock.clock_id: clock.timestamp for clock in first.clock_snapshot.clocks} == {
        pb.BUILTIN_CLOCK_MONOTONIC: MADE_MONO_NS,
        pb.BUILTIN_CLOCK_REALTIME: MADE_WALL_NS,
    }
    stamps = [packet.timestamp for packet in trace.packet if packet.HasField("track_event")]
    assert min(stamps) == MADE_MONO_NS + STEP_NS


@settings(max_examples=50)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(Service).map(ring_of),
            # a process does one thing at a time: handlers that overlap are nothing a ring can have
            records().filter(lambda record: record.kind != Kind.SLICE),
        ),
        max_size=60,
    )
)
def test_any_records_make_a_trace_that_can_be_parsed(entries: list[Entry]) -> None:
    entries.sort(key=lambda entry: entry[1].mono_ns)

    parsed(entries)


def test_empty_trace_is_empty() -> None:
    assert bytes_of([]) == b""


def test_memory_does_not_grow_with_the_trace() -> None:
    """Frames that never arrive are forgotten after a while; packets are given out in chunks."""
    trace = PerfettoTrace()
    ring = ring_of(RC)
    lost = ((ring, Record(v + 1, Kind.TUN_READ, flow=frame_flow(0, 0, 3, v))) for v in range(70_000))

    largest = max(map(len, trace.chunks(lost)))

    assert largest < 200_000
    assert trace.open_flights <= 1 << 16
