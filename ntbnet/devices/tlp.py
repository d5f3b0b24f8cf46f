"""How a burst of stores becomes posted requests on the link.

A message of the fabric carries a whole burst; the rules of the link hold for each request of it.
No request crosses a multiple of 4 KiB, none carries more than the maximum payload, and cuts are
made at multiples of it, as write-combining does. A request is delivered or refused as a whole.

Source: PCI Express Base Specification, 2.2.2 and 2.3.1.
"""

from __future__ import annotations

from collections.abc import Iterator

MAX_PAYLOAD_BYTES = 256
"""Maximum payload of one request; a power of two that divides 4 KiB. Source: R-Car S4, MPSS of type 0."""


def split_posted(addr: int, length: int) -> Iterator[tuple[int, int]]:
    """The requests of a burst of ``length`` bytes at ``addr``: (offset in the burst, bytes), in order."""
    offset = 0
    while offset < length:
        room = MAX_PAYLOAD_BYTES - ((addr + offset) & (MAX_PAYLOAD_BYTES - 1))
        size = min(room, length - offset)
        yield offset, size
        offset += size
