"""A trace as Perfetto's protobuf: for ui.perfetto.dev and its trace processor.

Each process has a track of its handlers (slices), of its accesses and of its log (instants), one for each
queue, and counters. A frame is a flow from TUN_READ through RING_WRITE and TRIGGER to TUN_WRITE, and a slice
of its whole flight on a track of its queue; messages and wakes are flows from who sends to the handler. Flow
ids are the records' own; those of frames are numbered anew, because a record's id may come again.

Source: Perfetto, protos/perfetto/trace/{trace,trace_packet,clock_snapshot}.proto and track_event/*.proto; the
package ``perfetto`` is their published build.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as pb

from ntbnet.topology import NODE_OF
from ntbnet.trace_link import place_of
from ntbnet.trace_places import NO_BAR, Place, Places, RegBlock, Region, register_name
from ntbnet.trace_records import SERVICES, Flag, Handler, Kind, Record, Result, RingHeader, flow_type
from ntbnet.wire import IrqSource

PACKETS_OF_A_CHUNK = 512
SEQUENCE = 1
MAX_OPEN_FLIGHTS = 1 << 16
"""Frames whose end is waited for; of more, the oldest are taken to be lost."""
MAX_LANES = 256
"""Frames of one queue that are shown in flight at the same time."""

_FIRST_PACKET = pb.TracePacket.SEQ_INCREMENTAL_STATE_CLEARED
_EACH_PACKET = pb.TracePacket.SEQ_NEEDS_INCREMENTAL_STATE
_BEGIN, _END = pb.TrackEvent.TYPE_SLICE_BEGIN, pb.TrackEvent.TYPE_SLICE_END
_INSTANT, _COUNTER = pb.TrackEvent.TYPE_INSTANT, pb.TrackEvent.TYPE_COUNTER
_MONOTONIC, _REALTIME = pb.BUILTIN_CLOCK_MONOTONIC, pb.BUILTIN_CLOCK_REALTIME

_FRAME = {
    int(Kind.TUN_READ): "TUN read",
    int(Kind.RING_WRITE): "ring write",
    int(Kind.TRIGGER): "trigger",
    int(Kind.TUN_WRITE): "TUN write",
}
_ACCESS = {
    int(Kind.MEM_WRITE): "write",
    int(Kind.MEM_READ): "read",
    int(Kind.COMPLETION): "completion",
    int(Kind.CFG_READ): "config read",
    int(Kind.CFG_WRITE): "config write",
    int(Kind.REG_READ): "register read",
    int(Kind.REG_WRITE): "register write",
    int(Kind.MSI): "MSI",
    int(Kind.LINE): "eDMA line",
    int(Kind.IRQ): "interrupt",
    int(Kind.OTHER): "message",
}
_LOG = {
    int(Kind.START): "start",
    int(Kind.STOP): "stop",
    int(Kind.LEVEL): "trace level",
    int(Kind.PATH): "path",
}
_WITH_VALUE = {
    int(Kind.MEM_WRITE),
    int(Kind.COMPLETION),
    int(Kind.CFG_WRITE),
    int(Kind.REG_WRITE),
    int(Kind.MSI),
}
_HANDLERS = {int(handler): handler.name.lower() for handler in Handler}
_RESULTS = {int(result): result.name for result in Result}
_SOURCES = {int(source): source.name.lower().replace("_", " ") for source in IrqSource}
_FRAME_FLOW = 1
_MOST = (1 << 63) - 1
"""A counter is signed."""
_SENT, _TRANSLATED = int(Flag.SENT), int(Flag.TRANSLATED)
_COUNT, _HEX, _TEXT = "uint_value", "pointer_value", "string_value"
"""Of an annotation: the field its value is in; a pointer is shown in hex."""


@dataclass(slots=True)
class _Flight:
    """A frame on its way."""

    ident: int
    begun_ns: int | None
    ended: bool = False


@dataclass(slots=True)
class _Lane:
    """A track of frames that do not overlap in time."""

    uuid: int
    free_from_ns: int


class PerfettoTrace:
    """Makes the bytes of one trace.

    Attributes:
        events: track events written.
        frames_begun: frames that were read from a node's stack.
        frames_ended: of these, how many the other node's stack got: as many flows have both ends.

    Args:
        places: names addresses; None: they stay numbers.
    """

    def __init__(self, places: Places | None = None) -> None:
        self.events = 0
        self.frames_begun = 0
        self.frames_ended = 0
        self._places = places
        self._trace = pb.Trace()
        self._packets = self._trace.packet
        self._uuids = 0
        self._tracks: dict[tuple[object, ...], int] = {}
        self._names: dict[str, int] = {}
        self._notes: dict[str, int] = {}
        self._flights: OrderedDict[int, _Flight] = OrderedDict()
        self._lanes: dict[tuple[str, int], deque[_Lane]] = {}

    def chunks(self, entries: Iterable[tuple[RingHeader, Record]]) -> Iterator[bytes]:
        """The whole trace, in pieces that make it when put one behind the other.

        ``entries`` are in order of time, from any number of rings.
        """
        is_first = True
        for ring, record in entries:
            if is_first:
                self._begin(ring)
                is_first = False
            self._add(ring, record)
            if len(self._packets) >= PACKETS_OF_A_CHUNK:
                yield self._take()
        if self._packets:
            yield self._take()

    def _take(self) -> bytes:
        chunk: bytes = self._trace.SerializeToString()
        self._trace = pb.Trace()
        self._packets = self._trace.packet
        return chunk

    @property
    def open_flights(self) -> int:
        """Frames that are remembered."""
        return len(self._flights)

    # packets

    def _packet(self) -> pb.TracePacket:
        return self._packets.add(trusted_packet_sequence_id=SEQUENCE, sequence_flags=_EACH_PACKET)

    def _begin(self, ring: RingHeader) -> None:
        packet = self._packet()
        packet.sequence_flags = _FIRST_PACKET
        packet.trace_packet_defaults.timestamp_clock_id = _MONOTONIC
        snapshot = packet.clock_snapshot
        snapshot.primary_trace_clock = _MONOTONIC
        for clock, now in ((_MONOTONIC, ring.made_mono_ns), (_REALTIME, ring.made_wall_ns)):
            snapshot.clocks.add(clock_id=clock, timestamp=now)

    def _event(self, mono_ns: int, kind: int, track: int, name: str = "") -> pb.TracePacket:
        self.events += 1
        packet = self._packets.add(
            timestamp=mono_ns, trusted_packet_sequence_id=SEQUENCE, sequence_flags=_EACH_PACKET
        )
        event = packet.track_event
        event.type = kind
        event.track_uuid = track
        if name:
            event.name_iid = self._names.get(name) or self._intern(packet, name)
        return packet

    def _intern(self, packet: pb.TracePacket, name: str) -> int:
        """Number of the name of an event, which is written with the packet that has it first."""
        number = self._names[name] = len(self._names) + 1
        packet.interned_data.event_names.add(iid=number, name=name)
        return number

    def _note(self, packet: pb.TracePacket, kind: str, name: str, value: int | str) -> None:
        """One annotation; ``kind`` is the field its value is in."""
        number = self._notes.get(name)
        if number is None:
            number = self._notes[name] = len(self._notes) + 1
            packet.interned_data.debug_annotation_names.add(iid=number, name=name)
        packet.track_event.debug_annotations.add(name_iid=number, **{kind: value})

    # tracks

    def _track(self, key: tuple[object, ...]) -> tuple[int, pb.TrackDescriptor | None]:
        """Number of a track, and, the first time, its descriptor to be filled in."""
        uuid = self._tracks.get(key)
        if uuid is not None:
            return uuid, None
        self._uuids += 1
        self._tracks[key] = self._uuids
        descriptor = self._packet().track_descriptor
        descriptor.uuid = self._uuids
        return self._uuids, descriptor

    def _process(self, ring: RingHeader) -> int:
        uuid, new = self._track((ring.service, ring.pid, ring.incarnation))
        if new is not None:
            new.process.pid = ring.pid
            new.process.process_name = f"{NODE_OF[ring.label]}: {ring.label}"
            new.process.process_labels.extend([f"incarnation {ring.incarnation}", f"run {ring.run_id}"])
        return uuid

    def _handlers(self, ring: RingHeader) -> int:
        process = self._process(ring)
        uuid, new = self._track((process, "handlers"))
        if new is not None:
            new.parent_uuid = process
            new.thread.pid = new.thread.tid = ring.pid
            new.thread.thread_name = f"{ring.label} handlers"
        return uuid

    def _child(self, parent: int, name: str) -> int:
        uuid, new = self._track((parent, name))
        if new is not None:
            new.name = name
            if parent:
                new.parent_uuid = parent
        return uuid

    def _count(self, ring: RingHeader, mono_ns: int, name: str, unit: str, value: int) -> None:
        process = self._process(ring)
        uuid, new = self._track((process, "counter", name))
        if new is not None:
            new.name = name
            new.parent_uuid = process
            new.counter.unit_name = unit
        self._event(mono_ns, _COUNTER, uuid).track_event.counter_value = min(value, _MOST)

    # records

    def _add(self, ring: RingHeader, record: Record) -> None:
        kind, now = record.kind, record.mono_ns
        if kind in _FRAME:
            self._frame(ring, record)
        elif kind == Kind.SLICE:
            self._slice(ring, record)
        elif kind in _ACCESS:
            self._access(ring, record)
        elif kind == Kind.RING_FILL:
            self._fill(ring, record)
        elif kind == Kind.BEAT:
            self._count(ring, now, "messages received", "messages", record.address)
            self._count(ring, now, "messages sent", "messages", record.translated)
            self._count(ring, now, "packets sent", "packets", record.length)
            self._count(ring, now, "packets received", "packets", record.amount)
        elif kind == Kind.EVENT or kind in _LOG:
            self._mark(ring, record)

    def _frame(self, ring: RingHeader, record: Record) -> None:
        track = self._child(self._process(ring), f"queue {record.queue}")
        packet = self._event(record.mono_ns, _INSTANT, track, _FRAME[record.kind])
        self._note(packet, _COUNT, "bytes", record.length)
        self._note(packet, _COUNT, "epoch", record.epoch)
        self._note(packet, _HEX, "flow", record.flow)
        if record.result:
            self._note(packet, _TEXT, "result", _RESULTS.get(record.result, str(record.result)))
        if flow_type(record.flow) == _FRAME_FLOW:
            self._fly(packet.track_event, ring, record)
        if record.kind == Kind.RING_WRITE:
            self._note(packet, _COUNT, "slot", record.slot)
            self._fill(ring, record)

    def _fly(self, event: pb.TrackEvent, ring: RingHeader, record: Record) -> None:
        """Make the event a step of its frame's flow, unless that has ended already.

        A store is noted down behind the store, and the other processor may be done with the frame by then.
        """
        flight = self._flights.get(record.flow)
        if record.kind == Kind.TUN_READ or flight is None:
            begun = record.mono_ns if record.kind == Kind.TUN_READ else None
            self.frames_begun += begun is not None
            ident = _FRAME_FLOW << 60 | self._next_ident()
            flight = self._flights[record.flow] = _Flight(ident, begun)
            self._flights.move_to_end(record.flow)
            if len(self._flights) > MAX_OPEN_FLIGHTS:
                self._flights.popitem(last=False)
        if flight.ended:
            return
        if record.kind != Kind.TUN_WRITE or record.result:
            event.flow_ids.append(flight.ident)
            return
        event.terminating_flow_ids.append(flight.ident)
        flight.ended = True
        if flight.begun_ns is not None:
            self.frames_ended += 1
            self._flight_slice(record, flight.begun_ns)

    def _next_ident(self) -> int:
        self._uuids += 1
        return self._uuids

    def _flight_slice(self, record: Record, begun_ns: int) -> None:
        """The whole way of a frame as a slice, on a track of its queue where nothing else is at that time."""
        node = ("rc to ep", "ep to rc")[record.flow >> 57 & 1]
        lanes = self._lanes.setdefault((node, record.queue), deque())
        lane = next((lane for lane in lanes if lane.free_from_ns <= begun_ns), None)
        if lane is None:
            if len(lanes) >= MAX_LANES:
                return
            name = f"{node}, queue {record.queue}"
            group = self._child(0, "frames in flight")
            uuid, new = self._track(("lane", name, len(lanes)))
            assert new is not None
            new.name = name
            new.parent_uuid = group
            lane = _Lane(uuid, 0)
            lanes.append(lane)
        lane.free_from_ns = record.mono_ns
        packet = self._event(begun_ns, _BEGIN, lane.uuid, "frame")
        self._note(packet, _COUNT, "bytes", record.length)
        self._note(packet, _HEX, "flow", record.flow)
        self._event(record.mono_ns, _END, lane.uuid)

    def _fill(self, ring: RingHeader, record: Record) -> None:
        name = f"queue {record.queue}, frames in the ring"
        self._count(ring, record.mono_ns, name, "frames", record.amount)

    def _slice(self, ring: RingHeader, record: Record) -> None:
        source = _label(record.source)
        name = _HANDLERS.get(record.slot, "handler")
        track = self._handlers(ring)
        begun = max(0, record.mono_ns - record.amount)
        packet = self._event(begun, _BEGIN, track, f"{name} from {source}" if source else name)
        self._join(packet, record)
        self._event(record.mono_ns, _END, track)

    def _access(self, ring: RingHeader, record: Record) -> None:
        place = place_of(self._places, ring.service, record)
        track = self._child(self._process(ring), "accesses")
        packet = self._event(record.mono_ns, _INSTANT, track, _access_name(record, place))
        other = _label(record.source)
        if other:
            self._note(packet, _TEXT, "to" if record.flags & _SENT else "from", other)
        if record.kind == Kind.OTHER:
            self._note(packet, _TEXT, "text", record.data.decode("utf-8", "replace"))
        elif record.kind in (Kind.LINE, Kind.IRQ):
            self._note(packet, _HEX, "bits", record.address)
        else:
            self._note(packet, _HEX, "address", record.address)
            self._note(packet, _COUNT, "bytes", record.length)
        if place.bar != NO_BAR:
            self._note(packet, _COUNT, "bar", place.bar)
            self._note(packet, _HEX, "bar_offset", place.bar_offset)
        if record.flags & _TRANSLATED:
            self._note(packet, _HEX, "translated", record.translated)
            self._note(packet, _COUNT, "window", record.slot)
        if record.kind in _WITH_VALUE and 1 <= len(record.data) <= 8:
            self._note(packet, _HEX, "value", int.from_bytes(record.data, "little"))
        if record.result:
            self._note(packet, _TEXT, "result", _RESULTS.get(record.result, str(record.result)))
        self._join(packet, record)

    def _join(self, packet: pb.TracePacket, record: Record) -> None:
        if record.flow:
            self._note(packet, _HEX, "flow", record.flow)
            flight = self._flights.get(record.flow)
            packet.track_event.flow_ids.append(flight.ident if flight else record.flow)

    def _mark(self, ring: RingHeader, record: Record) -> None:
        track = self._child(self._process(ring), "log")
        text = record.data.decode("utf-8", "replace")
        packet = self._event(record.mono_ns, _INSTANT, track)
        if record.kind == Kind.EVENT:
            name, _, text = text.partition(" ")
        else:
            name = _LOG[record.kind]
            if record.kind == Kind.PATH:
                name = f"{name} to {_label(record.source)} {'up' if record.flags & Flag.UP else 'down'}"
        # not interned: the texts of a long run are many
        packet.track_event.name = name
        if text:
            self._note(packet, _TEXT, "text", text)


def _label(service: int) -> str:
    return SERVICES[service] if service < len(SERVICES) else ""


def _access_name(record: Record, place: Place) -> str:
    """``write RD_INT_STATUS``, ``read spads``, ``interrupt msi vector``."""
    name = _ACCESS[record.kind]
    if record.kind == Kind.IRQ:
        return f"{name} {_SOURCES.get(record.slot, '')}".rstrip()
    if place.block is not RegBlock.NONE:
        return f"{name} {register_name(place.block, place.offset) or place.region.name.lower()}"
    return f"{name} {place.region.name.lower()}" if place.region is not Region.NONE else name
