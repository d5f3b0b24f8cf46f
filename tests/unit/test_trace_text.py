"""A record as text and as JSON."""

from __future__ import annotations

import pytest

from ntbnet.app.trace_text import as_object
from ntbnet.trace_records import Entry, Flag, Kind, Record
from ntbnet.wire import Service
from tests.trace_samples import ring_of


@pytest.mark.parametrize(
    ("flags", "queue", "bar", "offset"),
    [
        (Flag.TRANSLATED, 2, 2, 0xF00A0),
        (Flag.TRANSLATED, 0, 0, 0xF00A0),
        (Flag.TRANSLATED, 0xFFFF, None, None),
        (Flag.SENT, 0, None, None),
    ],
)
def test_access_has_its_bar_where_it_is_known(
    flags: Flag, queue: int, bar: int | None, offset: int | None
) -> None:
    record = Record(1, Kind.MEM_WRITE, flags, address=0x301F00A0, length=4, queue=queue, amount=0xF00A0)

    shown = as_object(Entry(ring_of(Service.PEER_RC), record))

    assert (shown["bar"], shown["bar_offset"]) == (bar, offset)
    assert "queue" not in shown
    assert "amount" not in shown


def test_frame_has_its_queue_and_how_full_the_ring_is() -> None:
    record = Record(1, Kind.RING_WRITE, queue=3, amount=7)

    shown = as_object(Entry(ring_of(Service.PEER_RC), record))

    assert (shown["queue"], shown["amount"]) == (3, 7)
    assert "bar" not in shown
