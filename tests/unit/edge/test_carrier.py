"""What netlink says of the carrier of an interface; and what is no such message."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntbnet.edge.carrier import carriers_in

NEWLINK, DELLINK, NEWADDR = 16, 17, 20
UP, LOWER_UP, DORMANT = 1, 1 << 16, 1 << 17
INDEX = 3


def message(kind: int = NEWLINK, index: int = INDEX, flags: int = UP, attributes: bytes = b"") -> bytes:
    body = struct.pack("=BxHiII", 0, 0xFFFE, index, flags, 0xFFFFFFFF) + attributes
    length = 16 + len(body)
    return (struct.pack("=IHHII", length, kind, 0, 0, 0) + body).ljust((length + 3) // 4 * 4, b"\0")


def test_flags_of_the_interface_are_told_in_order() -> None:
    told = message(flags=UP | LOWER_UP, attributes=b"ntb0\0") + message(flags=UP | DORMANT)

    assert carriers_in(told, INDEX) == [True, False]


@pytest.mark.parametrize(
    "other",
    [message(kind=DELLINK), message(kind=NEWADDR), message(index=INDEX + 1), message()[:30], b"\0" * 64],
)
def test_other_messages_are_left_out(other: bytes) -> None:
    assert carriers_in(other, INDEX) == []


@given(st.binary(max_size=200))
def test_no_bytes_stop_the_reader(junk: bytes) -> None:
    assert len(carriers_in(junk, INDEX)) <= len(junk) // 16
