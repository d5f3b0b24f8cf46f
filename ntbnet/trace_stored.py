"""What a full trace stores in place of several records, and the records that readers get instead.

A record costs who writes it the same whatever is in it, and other processes wait for who writes it. So what
happens at one go is stored as one:

==============  ==================================================  ==========================================
stored          fields other than those of what it stands for       read as
==============  ==================================================  ==========================================
``FRAME``       those of RING_WRITE; ``tag``: ns since TUN_READ,    TUN_READ, RING_WRITE
                ``data`` its packet's
``BURST``       those of TRIGGER; ``tag``: ns since the burst       TRIGGER, SLICE of ``Handler.TUN``
                began
``SINGLE``      those of ``FRAME``; ``translated``: ns from it      TUN_READ, RING_WRITE; when it was told
                until TRIGGER, ``result`` TRIGGER's: a burst of     TRIGGER, SLICE of ``Handler.TUN``
                one packet
what arrived,   with ``HANDLED``, ``amount``: ns until its          itself, then SLICE when that ended; with
message or      handler ended; with ``REGISTER``, ``translated``:   ``REGISTER`` a REG_WRITE between them
wake            the register it was stored in, ``Block.EDMA``
==============  ==================================================  ==========================================

Of what arrived and whose handler never ended there is no slice.
The records made of one have its number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import IntEnum, IntFlag

from ntbnet.trace_records import AMOUNT_MAX, Block, Flag, Handler, Kind, Record, Result


class Stored(IntEnum):
    """Kinds that only rings have."""

    FRAME = 24
    BURST = 25
    SINGLE = 26


class StoredFlag(IntFlag):
    """Flags that only rings have."""

    HANDLED = 64
    REGISTER = 128


_HANDLED, _REGISTER = int(StoredFlag.HANDLED), int(StoredFlag.REGISTER)
_BOTH = _HANDLED | _REGISTER
_WAKE, _SINGLE = int(Flag.WAKE), int(Stored.SINGLE)
_U64_MAX = (1 << 64) - 1


def expanded(records: Iterable[Record]) -> Iterator[Record]:
    """The records of one ring, in its order, as they are to be read: in order of time as they were before."""
    ended: Sequence[Record] = ()
    """What is to come at the time when something ended that was read already."""
    for record in records:
        if ended and (record.mono_ns >= ended[0].mono_ns or record.kind in _PARTS or record.flags & _HANDLED):
            yield from ended
            ended = ()
        into = _PARTS.get(record.kind)
        if into is not None:
            yield from into(record)
            if record.kind == _SINGLE:
                ended = _burst_of(record)
        elif record.flags & _BOTH:
            flags = record.flags & ~_BOTH
            if not record.flags & _REGISTER:
                yield record._replace(flags=flags, amount=0)
            else:
                yield record._replace(flags=flags, amount=0, translated=0)
                yield _register_write(record)
            if record.flags & _HANDLED:
                ended = (_slice(record),)
        else:
            yield record
    yield from ended


def _slice(record: Record) -> Record:
    is_wake = record.flags & _WAKE
    return Record(
        min(record.mono_ns + record.amount, _U64_MAX),
        Kind.SLICE,
        flags=is_wake,
        source=record.source,
        flow=record.flow,
        slot=Handler.WAKE if is_wake else Handler.MESSAGE,
        amount=record.amount,
        number=record.number,
    )


def _register_write(record: Record) -> Record:
    return Record(
        record.mono_ns,
        Kind.REG_WRITE,
        source=record.source,
        epoch=record.epoch,
        flow=record.flow,
        address=record.translated,
        length=record.length,
        slot=Block.EDMA,
        data=record.data,
        number=record.number,
    )


def _frame(record: Record) -> Iterator[Record]:
    frame = record._replace(result=Result.OK, translated=0, tag=0)
    came_ns = max(0, record.mono_ns - record.tag)
    yield frame._replace(mono_ns=came_ns, kind=Kind.TUN_READ, flags=0, address=0, slot=0, amount=0)
    yield frame._replace(kind=Kind.RING_WRITE, data=b"")


def _burst(record: Record) -> Iterator[Record]:
    yield record._replace(kind=Kind.TRIGGER, tag=0)
    yield record._replace(
        kind=Kind.SLICE, result=Result.OK, epoch=0, queue=0, slot=Handler.TUN, amount=record.tag, tag=0
    )


def _burst_of(single: Record) -> tuple[Record, ...]:
    """What its burst is read as, later than the frame."""
    later = single.translated
    burst = Record(
        min(single.mono_ns + later, _U64_MAX),
        Stored.BURST,
        result=single.result,
        epoch=single.epoch,
        flow=single.flow,
        queue=single.queue,
        amount=1,
        tag=min(single.tag + later, AMOUNT_MAX),
        number=single.number,
    )
    return tuple(_burst(burst))


_PARTS: dict[int, Callable[[Record], Iterator[Record]]] = {
    int(Stored.FRAME): _frame,
    int(Stored.BURST): _burst,
    int(Stored.SINGLE): _frame,
}
