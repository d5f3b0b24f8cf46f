"""Single messages as they are on the wire, under numbers of the test's choice."""

from __future__ import annotations

from ntbnet.wire import Encoder, Message


def encode(
    message: Message,
    src: int,
    dst: int,
    incarnation: int,
    session: int,
    sequence: int,
    timestamp_ns: int,
    key: int = 0,
) -> tuple[bytes, bytes | memoryview]:
    """Header and payload of one message; see ``Encoder``."""
    return Encoder(src, dst, incarnation, session, key).encode(message, sequence, timestamp_ns)
