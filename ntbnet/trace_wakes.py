"""Flows of wakes: which one that was sent is which one that arrived.

A wake carries no number. Both ends of one FIFO see the same wakes in the same order, and note all of them. So
the oldest one that was sent, is the same and was not taken yet is the one that arrives, and those sent before
it that did not arrive never will. A process that begins takes none that were sent before. What a killed
process sent last may have no record: then it has no flow where it arrived.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from ntbnet.trace_records import (
    SERVICES,
    Entry,
    Flag,
    Handler,
    Kind,
    Record,
    Result,
    wake_flow,
)

PAIR_NS = 1_000_000_000
"""A wake that nobody took within this time is lost."""
MOST_WAITING = 8192
"""Wakes between two services that were sent and not taken: more than a FIFO holds and its writer keeps."""
MOST_MERGED = 1024
"""Interrupts that wait for one run of their handler; rings have one for each line or vector."""
_LED_TO = {int(Kind.REG_READ), int(Kind.REG_WRITE), int(Kind.MSI)}
_WAKES = {int(Kind.IRQ), int(Kind.LINE), int(Kind.MEM_WRITE)}
_SENT, _WAKE, _TRANSLATED = int(Flag.SENT), int(Flag.WAKE), int(Flag.TRANSLATED)
_SLICE, _AGAIN = int(Kind.SLICE), int(Handler.AGAIN)
_MERGED, _DROPPED, _OK = int(Result.MERGED), int(Result.DROPPED), int(Result.OK)
_What = tuple[int, int, int, int]
"""Kind, address at the receiver, slot, epoch."""


class _Waiting:
    """Wakes from one service to another that were sent and not taken. Each costs the same, however many."""

    __slots__ = ("_by_what", "_order", "_taken")

    def __init__(self) -> None:
        self._order: deque[tuple[int, int, _What]] = deque()
        """Count, time and what it was, oldest first; some are taken already."""
        self._by_what: dict[_What, deque[tuple[int, int]]] = {}
        """Count and flow, oldest first."""
        self._taken = 0
        """Count of the newest that was taken."""

    def add(self, what: _What, mono_ns: int, counted: int, flow: int) -> None:
        order = self._order
        while order and (mono_ns - order[0][1] > PAIR_NS or len(order) >= MOST_WAITING):
            self._forget(*order.popleft())
        order.append((counted, mono_ns, what))
        self._by_what.setdefault(what, deque()).append((counted, flow))

    def _forget(self, counted: int, _mono_ns: int, what: _What) -> None:
        equal = self._by_what.get(what)
        if equal is not None and equal[0][0] == counted:
            self._pop(what, equal)

    def _pop(self, what: _What, equal: deque[tuple[int, int]]) -> tuple[int, int]:
        first = equal.popleft()
        if not equal:
            del self._by_what[what]
        return first

    def drop(self, what: _What) -> int:
        """Flow of one that goes no further: of equal ones any, since one stands for all."""
        equal = self._by_what.get(what)
        return 0 if equal is None else self._pop(what, equal)[1]

    def take(self, what: _What) -> int:
        """Flow of the one that arrived; 0: its sending was not noted."""
        while (equal := self._by_what.get(what)) is not None:
            counted, flow = self._pop(what, equal)
            if counted > self._taken:  # else one sent behind it arrived before: it is lost
                self._taken = counted
                return flow
        return 0


def with_wake_flows(entries: Iterable[Entry]) -> Iterator[Entry]:
    """The same entries; a wake that was sent, that wake as it arrived, its handler's slice, and the register
    accesses that the handler made of it share a flow. So do the first of the interrupts that waited for one
    run of their handler, and the slice of that.
    """
    sent: dict[tuple[int, int], _Waiting] = {}
    handled: dict[tuple[int, int], int] = {}
    merged: dict[tuple[int, int, int, int], int] = {}
    incarnations: dict[int, int] = {}
    counted = 0
    for entry in entries:
        ring, record = entry
        if incarnations.setdefault(ring.service, ring.incarnation) < ring.incarnation:
            incarnations[ring.service] = ring.incarnation
            for sender in range(len(SERVICES)):
                sent.pop((sender, ring.service), None)
        kind, ends = record.kind, (ring.service, record.source)
        flow = 0
        if kind == _SLICE:
            if record.flags & _WAKE:
                is_again = record.slot == _AGAIN
                flow = (
                    merged.pop((*ends, record.address, record.tag), 0) if is_again else handled.pop(ends, 0)
                )
        elif not record.flags & _WAKE or kind not in _WAKES:
            if kind in _LED_TO and not record.flow:
                flow = handled.get(ends, 0)
        elif record.flags & _SENT:
            if record.result == _DROPPED:
                waiting = sent.get(ends)
                flow = 0 if waiting is None else waiting.drop(_sent_what(record))
            elif record.source < len(SERVICES):
                counted += 1
                flow = wake_flow(ring.service, record.source, counted)
                sent.setdefault(ends, _Waiting()).add(_sent_what(record), record.mono_ns, counted, flow)
        else:
            waiting = sent.get((record.source, ring.service))
            if waiting is not None:
                flow = waiting.take((kind, record.address, record.slot, record.epoch))
            if record.result == _MERGED:
                if len(merged) < MOST_MERGED:
                    merged.setdefault((*ends, record.address, record.slot), flow)
            elif record.result == _OK:
                handled[ends] = flow
        yield Entry(ring, record._replace(flow=flow)) if flow else entry


def _sent_what(record: Record) -> _What:
    """What will arrive."""
    if record.flags & _TRANSLATED:
        return record.kind, record.translated, 0, record.epoch
    return record.kind, record.address, record.slot, record.epoch
