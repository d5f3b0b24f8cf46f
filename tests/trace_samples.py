"""Records of one packet from the host to the endpoint over the eDMA's test interrupt."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

from ntbnet.trace_records import (
    Block,
    Flag,
    Handler,
    Kind,
    Level,
    Record,
    Result,
    RingHeader,
    frame_flow,
    message_flow,
    wake_flow,
)
from ntbnet.wire import IrqSource, Service

MADE_MONO_NS, MADE_WALL_NS = 1_000_000_000, 1_760_000_000_123_456_789
BAR2 = 0x30100000
"""Bus address that the host gives BAR2 of the default profile."""
BELL = BAR2 + 0xF00A0
STEP_NS = 1000
"""From one record to the next."""
EDMA = 0xE65D5000

SENT, WAKE, DIRECT, TRANSLATED = int(Flag.SENT), int(Flag.WAKE), int(Flag.DIRECT), int(Flag.TRANSLATED)

Entry = tuple[RingHeader, Record]


def ring_of(service: Service, level: Level = Level.FULL) -> RingHeader:
    return RingHeader(level, service, 1024, 4000 + service, 7, MADE_MONO_NS, MADE_WALL_NS, "5f0c9a")


def ip_packet(length: int = 84) -> bytes:
    """An ICMP echo request from 10.0.0.1 to 10.0.0.2."""
    head = struct.pack(
        ">BBHHHBBH4s4s", 0x45, 0, length, 1, 0, 64, 1, 0, bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2])
    )
    return (head + struct.pack(">BBHHH", 8, 0, 0, 0x77, 1)).ljust(length, b"\xa5")


class Notebook:
    """Collects records in order of time and numbers them for each ring."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self._now = MADE_MONO_NS
        self._numbers: dict[Service, int] = {}

    def note(self, service: Service, kind: Kind, **fields: Any) -> None:
        self._now += STEP_NS
        self._numbers[service] = self._numbers.get(service, 0) + 1
        values: dict[str, Any] = {"number": self._numbers[service], **fields}
        self.entries.append((ring_of(service), Record(self._now, int(kind), **values)))

    def lose(self, service: Service, count: int) -> None:
        """Leave out ``count`` numbers of a ring, as if it had no room."""
        self._numbers[service] = self._numbers.get(service, 0) + count


def packet_over_the_edma(book: Notebook, ver: int, *, local: bool = True) -> None:
    """One packet from the host's stack to the endpoint's; with ``local`` False over the paths of messages."""
    rc, ep, edma = Service.PEER_RC, Service.PEER_EP, Service.EDMA
    frame = frame_flow(0, 0, 3, ver)
    way = WAKE if local else 0
    if local:
        store, line = wake_flow(rc, edma, ver), wake_flow(edma, ep, ver)
    else:
        store, line = message_flow(rc, Service.EPC, 9, ver), message_flow(edma, ep, 9, ver)
    packet = ip_packet()
    common = {"epoch": 3, "queue": 0, "flow": frame}
    book.note(rc, Kind.TUN_READ, length=len(packet), data=packet[:64], **common)
    book.note(
        rc,
        Kind.RING_WRITE,
        flags=DIRECT,
        length=len(packet) + 14,
        address=0x1000,
        slot=ver % 13,
        amount=1,
        **common,
    )
    book.note(rc, Kind.TRIGGER, **common)
    bell = {"epoch": 3, "flow": store, "address": BELL, "length": 4, "data": bytes(4)}
    moved = {"translated": EDMA + 0xA0, "queue": 2, "amount": 0xF00A0}
    if local:
        sent = SENT | DIRECT | TRANSLATED | way
        book.note(rc, Kind.MEM_WRITE, flags=sent, source=edma, slot=0xFFFF, **bell, **moved)
        arrived = {**bell, "address": EDMA + 0xA0}
        book.note(edma, Kind.MEM_WRITE, flags=way, source=rc, **arrived)
        requester = rc
    else:
        book.note(rc, Kind.MEM_WRITE, flags=SENT, source=Service.EPC, **bell)
        book.note(Service.EPC, Kind.MEM_WRITE, flags=TRANSLATED, source=rc, slot=2, **bell, **moved)
        arrived = {**bell, "flow": message_flow(Service.EPC, edma, 9, ver), "address": EDMA + 0xA0}
        book.note(Service.EPC, Kind.MEM_WRITE, flags=SENT, source=edma, **arrived)
        requester = Service.EPC
    book.note(edma, Kind.REG_WRITE, source=requester, **{**arrived, "address": 0xA0, "slot": Block.EDMA})
    lines = {"epoch": 3, "flow": line, "address": 1, "slot": IrqSource.EDMA_LINE}
    book.note(edma, Kind.LINE, flags=SENT | way, source=ep, **lines)
    book.note(ep, Kind.LINE, flags=way, source=edma, **lines)
    handler = Handler.WAKE if local else Handler.MESSAGE
    book.note(ep, Kind.TUN_WRITE, length=len(packet), data=packet[:64], **common)
    book.note(ep, Kind.SLICE, flags=way, slot=handler, source=edma, flow=line, amount=2500)


def read_of_a_register(book: Notebook, tag: int, result: Result = Result.OK) -> None:
    """The host's driver reads the control block's command_status through BAR0."""
    rc, epc = Service.PEER_RC, Service.EPC
    asked, answered = message_flow(rc, epc, 9, 100 + tag), message_flow(epc, rc, 9, 100 + tag)
    access = {"epoch": 3, "flow": asked, "length": 2, "tag": tag}
    book.note(rc, Kind.MEM_READ, flags=SENT, source=epc, address=0x30000008, **access)
    book.note(
        epc,
        Kind.MEM_READ,
        flags=TRANSLATED,
        source=rc,
        address=0x30000008,
        translated=0x48000008,
        slot=0,
        queue=0,
        amount=8,
        result=result,
        **access,
    )
    answer = {"epoch": 3, "flow": answered, "length": 2, "tag": tag, "data": b"\x01\x00", "result": result}
    book.note(epc, Kind.COMPLETION, flags=SENT, source=rc, **answer)
    book.note(rc, Kind.COMPLETION, source=epc, **answer)


def packets(count: int, *, local: bool = True) -> Iterator[Entry]:
    """``count`` packets, one after the other."""
    book = Notebook()
    for ver in range(count):
        packet_over_the_edma(book, ver, local=local)
    yield from book.entries


_U8, _U16, _U32, _U64 = (st.integers(0, (1 << bits) - 1) for bits in (8, 16, 32, 64))


def records(**known: st.SearchStrategy[Any]) -> st.SearchStrategy[Record]:
    """Any record that a ring's bytes can make, an unknown kind included; ``known`` fields are as given."""
    fields: dict[str, st.SearchStrategy[Any]] = {
        "mono_ns": _U64,
        "kind": st.sampled_from([int(kind) for kind in Kind]) | _U8,
        "flags": _U8,
        "source": _U8,
        "result": _U8,
        "epoch": _U32,
        "flow": _U64,
        "address": _U64,
        "translated": _U64,
        "length": _U32,
        "queue": _U16 | st.integers(0, 3),
        "slot": _U16 | st.integers(0, 5),
        "amount": _U32 | st.integers(0, 5),
        "tag": _U32,
        "data": st.binary(max_size=64),
        "number": _U64,
    }
    return st.builds(Record, **(fields | known))
