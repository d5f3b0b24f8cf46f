"""Blocks of a pcapng file, as bytes: section header, interfaces, packets, interface statistics.

Little-endian; timestamps are nanoseconds since 1970-01-01 UTC. What is not needed here (name resolution,
secrets, simple packets) is left out. A file is one section header, then its interfaces, each before its first
packet, then packets.

Source: draft-ietf-opsawg-pcapng, sections 3, 4.1, 4.2, 4.3, 4.6; link types: draft-ietf-opsawg-pcaplinktype.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from struct import Struct

LINKTYPE_RAW = 101
"""A packet is an IPv4 or IPv6 packet, which its first four bits tell; nothing stands in front of it."""
LINKTYPE_USER0 = 147
"""The first of 16 link types for private use."""
MAX_INTERFACES = 1 << 16
MAX_PACKET_BYTES = 1 << 18
"""Longest packet, bytes: what Wireshark takes of most link types (``WTAP_MAX_PACKET_SIZE_STANDARD``)."""
MAX_OPTION_BYTES = 0xFFFF

_SECTION, _INTERFACE, _STATISTICS, _PACKET = 0x0A0D0D0A, 1, 5, 6
_BYTE_ORDER_MAGIC = 0x1A2B3C4D
_UNKNOWN_LENGTH = (1 << 64) - 1
_NANOSECONDS = b"\x09"

_BLOCK = Struct("<II")
_OPTION = Struct("<HH")
_SECTION_BODY = Struct("<IHHQ")
_INTERFACE_BODY = Struct("<HHI")
_PACKET_HEAD = Struct("<IIIIIII")
_STATISTICS_BODY = Struct("<III")
_U32, _U64 = Struct("<I"), Struct("<Q")

_COMMENT = 1
_SECTION_HARDWARE, _SECTION_OS, _SECTION_APPLICATION = 2, 3, 4
_INTERFACE_NAME, _INTERFACE_ABOUT, _INTERFACE_RESOLUTION = 2, 3, 9
_PACKET_FLAGS, _PACKET_ID, _PACKET_QUEUE = 2, 5, 6
_STATISTICS_RECEIVED, _STATISTICS_DROPPED = 4, 5


class Direction(IntEnum):
    """Of a packet, as its interface sees it; the low two bits of ``epb_flags``."""

    UNKNOWN = 0
    INBOUND = 1
    OUTBOUND = 2


def section(*, hardware: str = "", os: str = "", application: str = "", comment: str = "") -> bytes:
    """The section header, which begins a file; its length is left open, so that it can be written first."""
    options = [
        (_COMMENT, comment.encode()),
        (_SECTION_HARDWARE, hardware.encode()),
        (_SECTION_OS, os.encode()),
        (_SECTION_APPLICATION, application.encode()),
    ]
    return _block(_SECTION, _SECTION_BODY.pack(_BYTE_ORDER_MAGIC, 1, 0, _UNKNOWN_LENGTH) + _options(options))


def interface(link_type: int, name: str, about: str = "", *, snap_bytes: int = 0) -> bytes:
    """An interface; the first of a file is number 0.

    Args:
        link_type: 0..65535, of all its packets.
        name: what a list of interfaces shows, such as ``ntb0``.
        about: one line on what it is; empty for none.
        snap_bytes: longest packet that was kept; 0 for no limit.

    Raises:
        ValueError: a text has more than 65535 bytes.
    """
    options = [
        (_INTERFACE_NAME, name.encode()),
        (_INTERFACE_ABOUT, about.encode()),
        (_INTERFACE_RESOLUTION, _NANOSECONDS),
    ]
    return _block(_INTERFACE, _INTERFACE_BODY.pack(link_type, 0, snap_bytes) + _options(options))


def packet(
    number: int,
    wall_ns: int,
    data: bytes,
    *,
    whole_bytes: int = 0,
    direction: Direction = Direction.UNKNOWN,
    packet_id: int = 0,
    queue: int | None = None,
) -> bytes:
    """One packet (an enhanced packet block) of interface ``number``.

    Args:
        number: interface, 0..65535.
        wall_ns: when, ns since 1970.
        data: the bytes that were kept.
        whole_bytes: bytes the packet had; never taken to be fewer than were kept.
        direction: as the interface sees it.
        packet_id: equal ids, even of different interfaces, are one packet on its way; 0: none.
        queue: of the interface that had it, 0..2^32-1.

    Raises:
        ValueError: ``data`` is longer than MAX_PACKET_BYTES.
    """
    kept = len(data)
    if kept > MAX_PACKET_BYTES:
        raise ValueError(f"packet of {kept} bytes: allowed 0..{MAX_PACKET_BYTES}")
    options = b""
    if direction:
        options = _OPTION.pack(_PACKET_FLAGS, 4) + _U32.pack(direction)
    if packet_id:
        options += _OPTION.pack(_PACKET_ID, 8) + _U64.pack(packet_id)
    if queue is not None:
        options += _OPTION.pack(_PACKET_QUEUE, 4) + _U32.pack(queue)
    if options:
        options += bytes(_OPTION.size)
    room = kept + (-kept & 3)
    length = _PACKET_HEAD.size + room + len(options) + 4
    high, low = wall_ns >> 32, wall_ns & 0xFFFFFFFF
    head = _PACKET_HEAD.pack(_PACKET, length, number, high, low, kept, max(kept, whole_bytes))
    return head + data + bytes(room - kept) + options + _U32.pack(length)


def statistics(number: int, wall_ns: int, *, received: int, dropped: int) -> bytes:
    """How many packets interface ``number`` had up to ``wall_ns``; ``dropped`` of them are not here."""
    options = [(_STATISTICS_RECEIVED, _U64.pack(received)), (_STATISTICS_DROPPED, _U64.pack(dropped))]
    body = _STATISTICS_BODY.pack(number, wall_ns >> 32, wall_ns & 0xFFFFFFFF)
    return _block(_STATISTICS, body + _options(options))


def _block(kind: int, body: bytes) -> bytes:
    length = _BLOCK.size + len(body) + 4
    return _BLOCK.pack(kind, length) + body + _U32.pack(length)


def _options(options: Iterable[tuple[int, bytes]]) -> bytes:
    """Options that hold something, each on a multiple of 4 bytes, and the mark of their end."""
    parts = []
    for code, content in options:
        if len(content) > MAX_OPTION_BYTES:
            raise ValueError(f"option {code} of {len(content)} bytes: allowed 0..{MAX_OPTION_BYTES}")
        if content:
            parts.append(_OPTION.pack(code, len(content)) + content + bytes(-len(content) & 3))
    return b"".join([*parts, bytes(_OPTION.size)]) if parts else b""
