"""Trace records in words, and as JSON."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from ntbnet.trace_kinds import KINDS
from ntbnet.trace_records import (
    SERVICES,
    Entry,
    Flag,
    Handler,
    Kind,
    Level,
    Record,
    Result,
    RingHeader,
    flow_type,
)
from ntbnet.wire import IrqSource

_LAST_WALL_NS = 253_402_300_799_000_000_000
"""The end of the year 9999: datetime knows none behind it."""
_NONE = 0xFFFF


def wall_text(ring: RingHeader, mono_ns: int) -> str:
    """Wall time of a moment as RFC 3339, with microseconds; ``?`` when a damaged ring says what cannot be."""
    wall_ns = ring.wall_ns(mono_ns)
    if not 0 <= wall_ns <= _LAST_WALL_NS:
        return "?"
    moment = datetime.fromtimestamp(wall_ns // 1_000_000_000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{wall_ns // 1000 % 1_000_000:06}Z"


def as_text(entry: Entry) -> str:
    """One line."""
    ring, record = entry
    time = wall_text(ring, record.mono_ns)[11:]
    return f"{time:16} {ring.label:8}#{ring.incarnation:<3} {_printable(words_of(record))}"


def as_object(entry: Entry) -> dict[str, Any]:
    """The same as a JSON object: the fields that the record's kind has, and what it says in words."""
    ring, record = entry
    return {
        "wall": wall_text(ring, record.mono_ns),
        "mono_ns": record.mono_ns,
        "service": ring.label,
        "incarnation": ring.incarnation,
        "pid": ring.pid,
        "kind": _name(Kind, record.kind),
        **_fields(record),
        "text": _printable(words_of(record)),
    }


def _fields(record: Record) -> dict[str, Any]:
    row = KINDS.get(Kind(record.kind)) if record.kind in Kind._value2member_map_ else None
    names = row.fields if row is not None else {}
    found: dict[str, Any] = {}
    for name in names:
        value = getattr(record, name)
        if name == "flags":
            value = [flag.name for flag in Flag if value & flag]
        elif name == "data":
            value = value.hex()
        elif name == "source":
            value = _service(value)
        elif name == "result":
            value = _name(Result, value)
        elif name == "flow":
            value = f"{value:#x}"
        found[name] = value
    if record.kind in (Kind.MEM_READ, Kind.MEM_WRITE):
        bar, offset = found.pop("queue"), found.pop("amount")
        is_known = bool(record.flags & Flag.TRANSLATED) and bar != _NONE
        found |= {"bar": bar if is_known else None, "bar_offset": offset if is_known else None}
    return found


def words_of(record: Record) -> str:
    """What a record says."""
    kind = Kind._value2member_map_.get(record.kind)
    return _WORDS.get(kind, _access)(record) if isinstance(kind, Kind) else f"kind {record.kind}"


def _text(record: Record) -> str:
    return record.data.decode("utf-8", "replace")


def _event(record: Record) -> str:
    return f"{'... ' if record.slot else ''}{_text(record)}"


def _path(record: Record) -> str:
    to = "up" if record.flags & Flag.UP else "down"
    return f"path to {_service(record.source)} {to}, session {record.address}: {_text(record)}"


def _beat(record: Record) -> str:
    return (
        f"so far: messages {record.address} in, {record.translated} out; {record.flow} wakes; "
        f"packets {record.amount} in, {record.length} out"
    )


def _slice(record: Record) -> str:
    of = f" of {_service(record.source)}" if record.source else ""
    return f"{_name(Handler, record.slot)} handler{of} took {record.amount / 1000:.1f} us{_flow(record)}"


def _frame(record: Record) -> str:
    dropped = ", dropped" if record.result else ""
    what = {
        Kind.TUN_READ: "packet from the node",
        Kind.TUN_WRITE: "packet to the node",
        Kind.RING_WRITE: f"frame {record.slot} in the ring, {record.amount} in it",
    }[Kind(record.kind)]
    return f"{what}: queue {record.queue}, {record.length} bytes{dropped}{_flow(record)}"


def _trigger(record: Record) -> str:
    told = "peer looks by itself" if record.result else "peer is told"
    return f"{told}: queue {record.queue}, {record.amount} frames{_flow(record)}"


def _fill(record: Record) -> str:
    return f"ring of queue {record.queue}: {record.amount} of {record.length} frames"


def _interrupt(record: Record) -> str:
    source = "line" if record.kind == Kind.LINE else _name(IrqSource, record.slot)
    return f"{_direction(record)}interrupt {source} {record.address:#x}{_flow(record)}"


def _msi(record: Record) -> str:
    vector = "no vector" if record.slot == _NONE else f"vector {record.slot}"
    value = int.from_bytes(record.data[:4], "little")
    sent = "sent" if record.flags & Flag.SENT else "came"
    return f"MSI {sent}: {vector}, {record.address:#x} = {value:#x}{_flow(record)}"


def _register(record: Record) -> str:
    verb = "written" if record.kind == Kind.REG_WRITE else "read"
    value = int.from_bytes(record.data[:8], "little")
    by = f" for {_service(record.source)}" if record.source else ""
    return f"eDMA register +{record.address:#x} {verb}: {value:#x}{by}{_flow(record)}"


def _access(record: Record) -> str:
    what = _name(Kind, record.kind).replace("_", " ")
    text = f"{_direction(record)}{what} {record.address:#x}, {record.length} bytes"
    if record.flags & Flag.TRANSLATED:
        if record.queue != _NONE and not record.flags & Flag.OUTBOUND:
            text += f" (BAR{record.queue}+{record.amount:#x})"
        text += " -> nothing" if record.result else f" -> {record.translated:#x}"
        if record.slot != _NONE:
            text += f" by window {record.slot}"
    if record.result:
        text += f", {_name(Result, record.result)}"
    if record.data and record.length <= 8:
        text += f" = {int.from_bytes(record.data[:8], 'little'):#x}"
    return text + _flow(record)


def _other(record: Record) -> str:
    return f"{_direction(record)}{_text(record) or 'message'}{_flow(record)}"


def _direction(record: Record) -> str:
    who = _service(record.source)
    if record.flags & Flag.DIRECT and not record.flags & Flag.WAKE:
        return "direct "
    if not record.source:
        return ""
    by = "by wake " if record.flags & Flag.WAKE else ""
    return f"{'to' if record.flags & Flag.SENT else 'from'} {who} {by}"


def _flow(record: Record) -> str:
    return f"  [{record.flow:x}]" if flow_type(record.flow) in (1, 2, 3) else ""


def _service(number: int) -> str:
    return SERVICES[number] or "nobody" if number < len(SERVICES) else f"service {number}"


def _name(names: Any, value: int) -> str:
    found = names._value2member_map_.get(value)
    return str(value) if found is None else str(found.name).lower()


def _printable(text: str) -> str:
    """Without what a terminal would obey: a ring may hold anything."""
    return "".join(char if char.isprintable() else "?" for char in text)


_WORDS = {
    Kind.START: lambda record: f"process starts, incarnation {record.amount}, ntbnet {_text(record)}",
    Kind.STOP: lambda _: "process ends in order",
    Kind.LEVEL: lambda record: f"trace level {_name(Level, record.slot)}",
    Kind.PATH: _path,
    Kind.EVENT: _event,
    Kind.BEAT: _beat,
    Kind.SLICE: _slice,
    Kind.TUN_READ: _frame,
    Kind.TUN_WRITE: _frame,
    Kind.RING_WRITE: _frame,
    Kind.TRIGGER: _trigger,
    Kind.RING_FILL: _fill,
    Kind.LINE: _interrupt,
    Kind.IRQ: _interrupt,
    Kind.MSI: _msi,
    Kind.REG_READ: _register,
    Kind.REG_WRITE: _register,
    Kind.OTHER: _other,
}
