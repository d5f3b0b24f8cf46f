"""A trace as a pcapng file: every record a packet of our link type, the nodes' own packets as IP interfaces.

All packets have one clock: monotonic time of the machine, put on the wall clock once for the whole file, so
that a step of the wall clock during the run moves nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from ntbnet import pcapng
from ntbnet.pcapng import Direction
from ntbnet.topology import NODE_OF
from ntbnet.trace_link import pack, place_of
from ntbnet.trace_places import Places
from ntbnet.trace_records import DATA_BYTES, SERVICES, Kind, Record, RingHeader

BRIDGE = 0
"""Interface of the records."""
STACKS = {"rc": 1, "ep": 2}
"""Interface of each node's own packets."""

_DIRECTIONS = {int(Kind.TUN_READ): Direction.OUTBOUND, int(Kind.TUN_WRITE): Direction.INBOUND}
"""As the node sees it: what we read from its interface, it sent."""
_IP_VERSIONS = {4, 6}
_MOST = (1 << 64) - 1


class PcapngTrace:
    """Makes the blocks of one file.

    Attributes:
        packets: how many were written, by name of the interface.
        missing: records that the rings had no room for, seen by their numbers.

    Args:
        application: who writes the file, for its header.
        places: names addresses; None: they stay numbers.
        comment: what the file shows, for its header; lines.
    """

    def __init__(self, application: str, places: Places | None = None, comment: str = "") -> None:
        self.packets: Counter[str] = Counter()
        self.missing = 0
        self._application = application
        self._places = places
        self._comment = comment
        self._clock: RingHeader | None = None
        self._last_number: dict[tuple[int, int, int, int], int] = {}
        self._last_ns = 0

    def blocks(self, entries: Iterable[tuple[RingHeader, Record]]) -> Iterator[bytes]:
        """The whole file, block by block; ``entries`` in order of time, from any number of rings."""
        yield pcapng.section(application=self._application, comment=self._comment)
        about = "Records of the bridge's services, header as in docs/trace.md of ntbnet"
        yield pcapng.interface(pcapng.LINKTYPE_USER0, "bridge", about)
        for node in STACKS:
            about = f"IP packets of node {node}, first bytes"
            yield pcapng.interface(pcapng.LINKTYPE_RAW, f"ntb0@{node}", about, snap_bytes=DATA_BYTES)
        for ring, record in entries:
            yield from self._packets(ring, record)
        # a ring that somebody damaged may claim to miss more than a counter holds
        dropped = min(self.missing, _MOST)
        received = min(self.packets["bridge"] + dropped, _MOST)
        yield pcapng.statistics(BRIDGE, self._last_ns, received=received, dropped=dropped)

    def _packets(self, ring: RingHeader, record: Record) -> Iterator[bytes]:
        """A record; behind it the packet of the node's stack that it tells of, its flow as packet id."""
        self._count(ring, record.number)
        if self._clock is None:
            self._clock = ring
        # a moment before 1970 cannot be said: only a ring that nobody vouches for has one
        self._last_ns = wall_ns = max(0, self._clock.wall_ns(record.mono_ns)) & _MOST
        self.packets["bridge"] += 1
        place = place_of(self._places, ring.service, record)
        direction = _DIRECTIONS.get(record.kind)
        if direction is None or not record.data or record.data[0] >> 4 not in _IP_VERSIONS:
            yield pcapng.packet(BRIDGE, wall_ns, pack(ring, record, place))
            return
        yield pcapng.packet(BRIDGE, wall_ns, pack(ring, record._replace(data=b""), place))
        node = NODE_OF[SERVICES[ring.service]]
        self.packets[f"ntb0@{node}"] += 1
        yield pcapng.packet(
            STACKS[node],
            wall_ns,
            record.data,
            whole_bytes=record.length,
            direction=direction,
            packet_id=record.flow,
            queue=record.queue,
        )

    def _count(self, ring: RingHeader, number: int) -> None:
        """Notice a gap in the numbers of a ring; what came before its first record is no gap."""
        key = ring.level, ring.service, ring.pid, ring.incarnation
        before = self._last_number.get(key)
        if before is not None and number > before + 1:
            self.missing += number - before - 1
        self._last_number[key] = number if before is None else max(number, before)
