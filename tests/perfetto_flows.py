"""Reads a Perfetto trace back with the published schema; tracks, slices, flows, counters by our own query."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from google.protobuf.unknown_fields import UnknownFieldSet
from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as pb


@dataclass
class Step:
    """One event on a track, its names resolved; ``end_ns`` of an instant is its begin."""

    track: int
    name: str
    begin_ns: int
    end_ns: int
    flows: tuple[int, ...]
    ended_flows: tuple[int, ...]
    notes: dict[str, int | str]


@dataclass
class Track:
    name: str
    parent: int
    pid: int


@dataclass
class Parsed:
    tracks: dict[int, Track] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    counters: dict[int, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))

    def on(self, track_name: str) -> list[Step]:
        """Events of all tracks of that name."""
        return [step for step in self.steps if self.tracks[step.track].name == track_name]

    def counter(self, name: str) -> list[tuple[int, int]]:
        return [
            point
            for uuid, points in self.counters.items()
            for point in points
            if self.tracks[uuid].name == name
        ]

    def frame_flows(self) -> dict[int, list[Step]]:
        """Flow -> its steps in order of time; those that begin with a TUN read and end with a TUN write."""
        steps: dict[int, list[Step]] = defaultdict(list)
        for step in sorted(self.steps, key=lambda one: one.begin_ns):
            for flow in (*step.flows, *step.ended_flows):
                steps[flow].append(step)
        return {
            flow: all_of_it
            for flow, all_of_it in steps.items()
            if all_of_it[0].name == "TUN read" and flow in all_of_it[-1].ended_flows
        }


def parse(data: bytes) -> Parsed:
    """The trace; asserts what a reader relies on.

    Events are on tracks that were described before; names were interned before; slices of a track nest.
    """
    trace = pb.Trace()
    assert trace.ParseFromString(data) == len(data)
    parsed = Parsed()
    names: dict[int, str] = {}
    notes: dict[int, str] = {}
    open_slices: dict[int, list[Step]] = defaultdict(list)
    for number, packet in enumerate(trace.packet):
        assert not UnknownFieldSet(packet)
        assert packet.trusted_packet_sequence_id
        cleared = bool(packet.sequence_flags & pb.TracePacket.SEQ_INCREMENTAL_STATE_CLEARED)
        assert cleared == (number == 0)
        names |= {row.iid: row.name for row in packet.interned_data.event_names}
        notes |= {row.iid: row.name for row in packet.interned_data.debug_annotation_names}
        if packet.HasField("track_descriptor"):
            one = packet.track_descriptor
            assert one.uuid not in parsed.tracks
            assert not one.parent_uuid or one.parent_uuid in parsed.tracks
            name = one.process.process_name or one.thread.thread_name or one.name
            parsed.tracks[one.uuid] = Track(name, one.parent_uuid, one.process.pid or one.thread.pid)
        if packet.HasField("track_event"):
            _event(parsed, packet, names, notes, open_slices)
    assert not any(open_slices.values()), "a slice without an end"
    _check_nesting(parsed)
    return parsed


def _event(
    parsed: Parsed,
    packet: pb.TracePacket,
    names: dict[int, str],
    notes: dict[int, str],
    open_slices: dict[int, list[Step]],
) -> None:
    event = packet.track_event
    track, kind, now = event.track_uuid, event.type, packet.timestamp
    assert track in parsed.tracks
    if kind == pb.TrackEvent.TYPE_COUNTER:
        parsed.counters[track].append((now, event.counter_value))
        return
    if kind == pb.TrackEvent.TYPE_SLICE_END:
        open_slices[track].pop().end_ns = now
        return
    values: dict[str, int | str] = {
        notes[note.name_iid]: note.string_value or note.pointer_value or note.uint_value
        for note in event.debug_annotations
    }
    name = names[event.name_iid] if event.name_iid else event.name
    flows, ended = tuple(event.flow_ids), tuple(event.terminating_flow_ids)
    step = Step(track, name, now, now, flows, ended, values)
    parsed.steps.append(step)
    if kind == pb.TrackEvent.TYPE_SLICE_BEGIN:
        open_slices[track].append(step)
    else:
        assert kind == pb.TrackEvent.TYPE_INSTANT


def _check_nesting(parsed: Parsed) -> None:
    by_track: dict[int, list[Step]] = defaultdict(list)
    for step in parsed.steps:
        by_track[step.track].append(step)
        assert step.begin_ns <= step.end_ns
    for steps in by_track.values():
        around: list[Step] = []
        for step in sorted(steps, key=lambda one: (one.begin_ns, -one.end_ns)):
            while around and around[-1].end_ns <= step.begin_ns:
                around.pop()
            assert not around or step.end_ns <= around[-1].end_ns, "slices of one track overlap"
            if step.end_ns > step.begin_ns:
                around.append(step)
