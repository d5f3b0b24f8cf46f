"""Events of a trace made whole: a long one is several records, one behind the other in its ring."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ntbnet.trace_records import EVENT_PARTS, Kind, Record, RingHeader

_EVENT = int(Kind.EVENT)
_Key = tuple[int, int, int, int]


def whole_events(entries: Iterable[tuple[RingHeader, Record]]) -> Iterator[tuple[RingHeader, Record]]:
    """The same entries, the parts of an event as one record at the time of the last of them.

    Parts whose others are missing (overwritten, or the process was killed between them) stay what they are.
    """
    waiting: dict[_Key, list[tuple[RingHeader, Record]]] = {}
    for entry in entries:
        ring, record = entry
        if record.kind != _EVENT and not waiting:
            yield entry
            continue
        key = (ring.level, ring.service, ring.pid, ring.incarnation)
        parts = waiting.get(key)
        if parts is not None and not _is_next(parts, record):
            yield from waiting.pop(key)
            parts = None
        if record.kind != _EVENT or not 1 < record.amount <= EVENT_PARTS or (parts is None and record.slot):
            yield entry
        elif parts is None:
            waiting[key] = [entry]
        else:
            parts.append(entry)
            if len(parts) == record.amount:
                yield ring, _joined([part for _, part in waiting.pop(key)])
    for parts in waiting.values():
        yield from parts


def _is_next(parts: list[tuple[RingHeader, Record]], record: Record) -> bool:
    before = parts[-1][1]
    return (record.kind, record.slot, record.amount, record.number) == (
        _EVENT,
        before.slot + 1,
        before.amount,
        before.number + 1,
    )


def _joined(parts: list[Record]) -> Record:
    data = b"".join(part.data for part in parts)
    return parts[-1]._replace(slot=0, amount=1, data=data)
