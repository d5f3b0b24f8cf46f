"""Records of a trace as packets of a link type of our own: what is between the blocks of the capture file.

A packet is a header, then ``Record.data``: the first bytes of what was stored or read, or text. ``FIELDS`` is
the header, in order, without gaps; integers are little-endian. The link type is one of those for private use,
``pcapng.LINKTYPE_USER0``. Fields are those of ``trace_records``; ``trace_kinds`` says what each kind means by
them. What is added says who wrote the record and what the address is called. A reader takes the data from
``header_bytes`` on, so that later versions can have more fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct
from typing import Any, NamedTuple

from ntbnet.regs.cfgspace import BAR_COUNT
from ntbnet.topology import NODE_OF
from ntbnet.trace_places import BLOCKS, NO_BAR, NOWHERE, Place, Places, RegBlock, Region
from ntbnet.trace_records import SERVICES, Block, Flag, Handler, Kind, Level, Record, Result, RingHeader
from ntbnet.wire import IrqSource

VERSION = 1
NO_SLOT = 0xFFFF


class HeaderField(NamedTuple):
    """One field: its name, its bytes (1, 2, 4 or 8), and what it holds."""

    name: str
    size: int
    meaning: str


FIELDS = (
    HeaderField("version", 1, "of this header: 1"),
    HeaderField("header_bytes", 1, "where the data begin"),
    HeaderField("kind", 1, "what happened: `Kind`"),
    HeaderField("flags", 1, "`Flag` bits"),
    HeaderField("service", 1, "who wrote the record"),
    HeaderField("other", 1, "the other service: receiver of what was sent, else sender; 0: none"),
    HeaderField(
        "result",
        1,
        "0: successful; 1: unsupported request; 4: completer abort; 253: handled with others; 254: dropped; "
        "255: timeout",
    ),
    HeaderField("bar", 1, "BAR that the address is in; 255: none"),
    HeaderField("epoch", 4, "link epoch; 0: none"),
    HeaderField("length", 4, "bytes accessed, or of the frame"),
    HeaderField("flow", 8, "equal in all records of one frame, message or wake; 0: none"),
    HeaderField("address", 8, "as the requester gave it; offset, interrupt bits or session: by kind"),
    HeaderField("translated", 8, "the address behind the translation; by flag"),
    HeaderField("bar_offset", 8, "from the start of the BAR"),
    HeaderField("queue", 2, "transport queue"),
    HeaderField("slot", 2, "translation window (65535: none), interrupt vector, frame of the ring: by kind"),
    HeaderField("tag", 4, "matches a completion to its request"),
    HeaderField("amount", 4, "frames in the ring, duration in ns: by kind"),
    HeaderField("offset", 4, "from the start of the region, or of the register block where there is one"),
    HeaderField("region", 1, "what lies at the address: `Region`; 0: unknown"),
    HeaderField("block", 1, "which register block: `RegBlock`; 0: none"),
    HeaderField("level", 1, "of the ring it is from: 1 coarse, 2 full"),
    HeaderField("reserved", 1, "0"),
    HeaderField("pid", 4, "process of the service"),
    HeaderField("incarnation", 4, "start number of that process"),
    HeaderField("mono_ns", 8, "when, monotonic clock of the machine: the `mono_ns` of the logs"),
    HeaderField("number", 8, "of the record in its ring, from 1: a gap is what the ring had no room for"),
)

_CODES = {1: "B", 2: "H", 4: "I", 8: "Q"}
_HEADER = Struct("<" + "".join(_CODES[field.size] for field in FIELDS))
HEADER_BYTES = _HEADER.size

_CONFIG = frozenset({int(Kind.CFG_READ), int(Kind.CFG_WRITE)})
_REGISTERS = frozenset({int(Kind.REG_READ), int(Kind.REG_WRITE)})
_MEMORY = frozenset({int(Kind.MEM_WRITE), int(Kind.MEM_READ)})
_ON_RC = frozenset(number for number, label in enumerate(SERVICES) if NODE_OF.get(label) == "rc")
_SENT, _TRANSLATED, _OUTBOUND = int(Flag.SENT), int(Flag.TRANSLATED), int(Flag.OUTBOUND)

SERVICE_NAMES = dict(enumerate(SERVICES))
RESULT_NAMES = {
    Result.OK: "successful",
    Result.UR: "unsupported request",
    Result.CA: "completer abort",
    Result.MERGED: "handled with others",
    Result.DROPPED: "dropped",
    Result.TIMEOUT: "timeout",
}


def offsets() -> dict[str, int]:
    """Where each field of the header begins, bytes."""
    found = {}
    at = 0
    for field in FIELDS:
        found[field.name] = at
        at += field.size
    return found


def place_of(places: Places | None, service: int, record: Record) -> Place:
    """What the address of a record is called; ``NOWHERE`` for none, or without ``places``."""
    kind = record.kind
    if kind in _CONFIG:
        return Place(region=Region.CONFIG, block=RegBlock.CONFIG, offset=record.address & 0xFFF)
    if kind in _REGISTERS:
        if record.slot != Block.EDMA or record.address >> 32:
            return NOWHERE
        return Place(region=Region.EDMA, block=RegBlock.EDMA, offset=record.address)
    if places is None or kind not in _MEMORY or record.flags & _OUTBOUND:
        return NOWHERE
    if record.flags & _TRANSLATED and record.queue < BAR_COUNT:
        return places.in_bar(record.queue, record.amount, record.address)
    requester = service if record.flags & _SENT else record.source
    place = places.of_bus(record.address) if requester in _ON_RC else NOWHERE
    if place is NOWHERE:
        place = places.of_local(record.address)
    if place is NOWHERE and record.flags & _TRANSLATED:
        place = places.of_local(record.translated)
    return place


def pack(ring: RingHeader, record: Record, place: Place = NOWHERE) -> bytes:
    """The packet of a record.

    Args:
        ring: header of the ring it is from.
        record: with its numbers in the ranges of the ring's format; ``data`` may be longer than there.
        place: what its address is called.
    """
    return (
        _HEADER.pack(
            VERSION,
            HEADER_BYTES,
            record.kind,
            record.flags,
            ring.service,
            record.source,
            record.result,
            place.bar,
            record.epoch,
            record.length,
            record.flow,
            record.address,
            record.translated,
            place.bar_offset,
            record.queue,
            record.slot,
            record.tag,
            record.amount,
            place.offset & 0xFFFFFFFF,
            place.region,
            place.block,
            ring.level,
            0,
            ring.pid,
            ring.incarnation,
            record.mono_ns,
            record.number,
        )
        + record.data
    )


def unpack(packet: bytes) -> tuple[dict[str, int], bytes]:
    """Fields and data of a packet, for who has no dissector.

    Raises:
        ValueError: too short, or another version.
    """
    if len(packet) < HEADER_BYTES or packet[0] != VERSION or not HEADER_BYTES <= packet[1] <= len(packet):
        raise ValueError(f"packet of {len(packet)} bytes, begins {packet[:2].hex()}: no version {VERSION}")
    values = _HEADER.unpack_from(packet)
    return {field.name: value for field, value in zip(FIELDS, values, strict=True)}, packet[packet[1] :]


def fields_as_markdown() -> str:
    """The header as the table of docs/trace.md."""
    at = offsets()
    rows = [f"| {at[field.name]} | {field.size} | `{field.name}` | {field.meaning} |" for field in FIELDS]
    return "\n".join(["| Offset | Bytes | Field | Content |", "|---|---|---|---|", *rows]) + "\n"


def dissector_tables() -> str:
    """The part of the Lua dissector that is data: fields, names of numbers, registers."""
    at = offsets()
    lines = ["local LAYOUT = {"]
    lines += [f"  {field.name} = {{{at[field.name]}, {field.size}}}," for field in FIELDS]
    lines.append("}")
    lines += _names("SERVICES", SERVICE_NAMES)
    lines += _names("KINDS", {kind: kind.name.lower().replace("_", " ") for kind in Kind})
    lines += _names("RESULTS", RESULT_NAMES)
    lines += _names("HANDLERS", {handler: handler.name.lower() for handler in Handler})
    lines += _names("IRQ_SOURCES", {source: source.name.lower().replace("_", " ") for source in IrqSource})
    lines += _names("LEVELS", {level: level.name.lower() for level in Level if level})
    lines += _names("REGIONS", {region: region.name.lower() for region in Region if region})
    lines += _names("BLOCKS", {block: block.name.lower() for block in RegBlock if block})
    lines += ["local KIND = {", *[f"  {kind.name} = {kind.value}," for kind in Kind], "}"]
    lines += ["local REGION = {", *[f"  {region.name} = {region.value}," for region in Region], "}"]
    lines += ["local FLAG = {", *[f"  {flag.name} = 0x{flag.value:02x}," for flag in Flag], "}"]
    lines += [f"local VERSION, NO_BAR, NO_SLOT = {VERSION}, {NO_BAR}, {NO_SLOT}"]
    lines += ["local REGISTERS = {"]
    for block, table in BLOCKS.items():
        lines.append(f"  [{block.value}] = {{ -- {table.source}")
        for one in table.registers:
            stride = one.stride or one.width_bytes
            parts = "".join(
                f', {{"{part.name}", {part.lsb}, {part.width}}}' for part in one.fields if part.width <= 32
            )
            shape = f"0x{one.offset:03x}, {one.width_bytes}, {one.count}, 0x{stride:x}"
            lines.append(f'    {{{shape}, "{one.name}"{parts}}},')
        lines.append("  },")
    lines.append("}")
    return "\n".join(lines) + "\n"


def _names(table: str, names: Mapping[Any, str]) -> list[str]:
    rows = [f'  [{int(number)}] = "{name}",' for number, name in names.items() if name]
    return [f"local {table} = {{", *rows, "}"]
