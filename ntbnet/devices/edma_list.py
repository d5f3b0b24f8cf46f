"""Linked lists of the eDMA engine: the elements, as bytes in endpoint memory.

A slot is 24 bytes, little-endian. A data element is control (32 bits), size (32), source (64),
destination (64); a link is control, 32 bits that nobody reads, the pointer (64), and 8 spare bytes.
Engine and driver share this one description.

Source: Linux dw-edma-v0-regs.h, dw-edma-v0-core.c (dw_edma_v0_core_write_chunk).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from struct import Struct

from ntbnet.regs.edma import CONTROL_CB, CONTROL_LIE, CONTROL_LLP, CONTROL_TCB, ELEMENT_BYTES

_DATA = Struct("<IIQQ")
_LINK = Struct("<IIQ8x")


@dataclass(frozen=True, slots=True)
class Transfer:
    """What one data element asks for.

    Attributes:
        source, destination: one is a local address, the other a PCI bus address, by direction.
        size: bytes, 1..2^32-1.
    """

    source: int
    destination: int
    size: int


@dataclass(frozen=True, slots=True)
class Element:
    """A decoded slot.

    Attributes:
        control: the CONTROL_* bits, and whatever else was there.
        transfer: None for a link.
        pointer: of a link, where the list goes on; else 0.
    """

    control: int
    transfer: Transfer | None
    pointer: int = 0


def decode(slot: bytes) -> Element:
    """Decode the 24 bytes of a slot; every content is some element."""
    control, size, source, destination = _DATA.unpack(slot)
    if control & CONTROL_LLP:
        return Element(control, None, source)
    return Element(control, Transfer(source, destination, size))


def encode_data(control: int, transfer: Transfer) -> bytes:
    """A data element, 24 bytes."""
    return _DATA.pack(control, transfer.size, transfer.source, transfer.destination)


def encode_link(control: int, pointer: int) -> bytes:
    """A link, 24 bytes; sets LLP itself."""
    return _LINK.pack(control | CONTROL_LLP, 0, pointer)


def encode_chunk(transfers: Sequence[Transfer], base: int, phase: int, last: int = CONTROL_LIE) -> bytes:
    """A list as a driver writes it: data elements, then the link back to the start.

    Args:
        transfers: 1 or more.
        base: address the list will lie at.
        phase: cycle bit of the chunk, 0 or 1; the next chunk in the same memory has the other one.
        last: interrupt bits of the last data element.
    """
    cycle = CONTROL_CB if phase else 0
    slots = [encode_data(cycle, transfer) for transfer in transfers[:-1]]
    slots.append(encode_data(cycle | last, transfers[-1]))
    slots.append(encode_link(CONTROL_TCB | (cycle ^ CONTROL_CB), base))
    return b"".join(slots)


def capacity(region_bytes: int) -> int:
    """Data elements that a region of that size holds beside its link: 169 in 4 KiB."""
    return region_bytes // ELEMENT_BYTES - 1
