"""What a host does to a function it finds on the link: identify it, size, place and move BARs, enable
MSI-X or MSI.

Generators over configuration requests, as the PCI core and pci_alloc_irq_vectors do it. All
values come from the other host and are checked: an absent function reads all ones.

Source: PCI Local Bus Specification 3.0, 6.2.5 (BAR sizing), 6.8 (MSI, MSI-X); Linux pci/probe.c,
pci/setup-res.c, pci/msi/msi.c.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from ntbnet.address import Span, round_up
from ntbnet.devices.msi import MsiTarget
from ntbnet.devices.task import CfgRead, CfgWrite, Task
from ntbnet.errors import PeerError
from ntbnet.regs.cfgspace import (
    BAR_COUNT,
    CAP_ID_MSI,
    CAP_ID_MSIX,
    MSI_CAP_OFFSET,
    MSIX_CAP_OFFSET,
    MSIX_ENTRY_BYTES,
    config_block,
)

_BLOCK = config_block(msi=True, msix=True)
_CONTROL = _BLOCK.register("MSI_CONTROL")
_MSIX_CONTROL = _BLOCK.register("MSIX_CONTROL")
_MSIX_ENTRY = struct.Struct("<QII")
_COMMAND = _BLOCK.register("COMMAND")
_WORD = 0xFFFFFFFF
_MAX_CAPABILITIES = 48
"""Capabilities a 256-byte header has room for; a longer chain is a loop."""


@dataclass(frozen=True, slots=True)
class PciFunction:
    """A function as enumeration left it: ids, class, and the bus span of each BAR it has."""

    vendor_id: int
    device_id: int
    class_code: int
    """Base class and subclass, 16 bits (0x0500 is memory, RAM)."""
    bars: dict[int, Span]
    msi_cap: int
    """Offset of the MSI capability; 0 when there is none."""
    msix_cap: int = 0
    """Offset of the MSI-X capability; 0 when there is none."""
    wide: frozenset[int] = frozenset()
    """The BARs that are 64-bit."""


def _read(offset: int, size: int) -> Task[int]:
    return int.from_bytes((yield CfgRead(offset, size)), "little")


def _read_answered(offset: int) -> Task[int]:
    """A 32-bit read of a register that is never all ones: that is a function which does not answer."""
    value = yield from _read(offset, 4)
    if value == _WORD:
        raise PeerError(f"the function stopped answering (config space {offset:#x} reads all ones)")
    return value


def _write(offset: int, value: int, size: int) -> Task[None]:
    yield CfgWrite(offset, value.to_bytes(size, "little"))


def enumerate_function(aperture: Span, preferred: Mapping[int, int] | None = None) -> Task[PciFunction]:
    """Identify the function and place its BARs in ``aperture``; memory decode on at the end.

    Args:
        aperture: bus addresses for BARs.
        preferred: by BAR, the address it gets if it is free there.

    Raises:
        PeerError: no function answers, or what it reports is impossible.
    """
    ids = yield from _read(_BLOCK.offset("VENDOR_ID"), 4)
    if ids & 0xFFFF in (0, 0xFFFF):
        raise PeerError(f"no function behind the link (ids read {ids:#010x})")
    class_revision = yield from _read_answered(_BLOCK.offset("REVISION_ID"))
    sizes = yield from _size_bars()
    bars = _place_bars({bar: size for bar, (size, _) in sizes.items()}, aperture, preferred or {})
    wide = frozenset(bar for bar, (_, is_64bit) in sizes.items() if is_64bit)
    for bar, span in bars.items():
        yield from _write_bar(bar, span.base, bar in wide)
    msi_cap = yield from _find_capability(CAP_ID_MSI)
    msix_cap = yield from _find_capability(CAP_ID_MSIX)
    command = _COMMAND.field("MEMORY").insert(0, 1)
    yield from _write(_BLOCK.offset("COMMAND"), command, 2)
    return PciFunction(ids & 0xFFFF, ids >> 16, class_revision >> 16, bars, msi_cap, msix_cap, wide)


def free_place(aperture: Span, size: int, taken: Iterable[Span]) -> Span | None:
    """The lowest place of ``size`` bytes (a power of two, naturally aligned) beside ``taken``, if any."""
    spans = list(taken)
    for base in sorted({round_up(start, size) for start in (aperture.base, *(span.end for span in spans))}):
        place = Span(base, size)
        if place.end <= aperture.end and not any(place.overlaps(span) for span in spans):
            return place
    return None


def _place_bars(sizes: dict[int, int], aperture: Span, preferred: Mapping[int, int]) -> dict[int, Span]:
    """Preferred places first, then the largest BARs at the lowest free addresses."""
    bars: dict[int, Span] = {}
    for bar, base in preferred.items():
        size = sizes.get(bar)
        if size is None or base % size or not aperture.contains(base, size):
            continue
        if not any(Span(base, size).overlaps(span) for span in bars.values()):
            bars[bar] = Span(base, size)
    for bar, size in sorted(sizes.items(), key=lambda item: -item[1]):
        if bar not in bars:
            place = free_place(aperture, size, bars.values())
            if place is None:
                raise PeerError(f"BAR{bar} of {size:#x} bytes does not fit the host's aperture {aperture}")
            bars[bar] = place
    return bars


def _write_bar(bar: int, base: int, is_64bit: bool) -> Task[None]:
    yield from _write(_BLOCK.offset("BAR", bar), base & _WORD, 4)
    if is_64bit:
        yield from _write(_BLOCK.offset("BAR", bar + 1), base >> 32, 4)


def move_bar(function: PciFunction, bar: int, base: int) -> Task[PciFunction]:
    """Give a BAR another address, memory decode off meanwhile; the function as it is then."""
    command = yield from _read(_BLOCK.offset("COMMAND"), 2)
    yield from _write(_BLOCK.offset("COMMAND"), _COMMAND.field("MEMORY").insert(command, 0), 2)
    yield from _write_bar(bar, base, bar in function.wide)
    yield from _write(_BLOCK.offset("COMMAND"), command, 2)
    return replace(function, bars=function.bars | {bar: Span(base, function.bars[bar].size)})


def _size_bars() -> Task[dict[int, tuple[int, bool]]]:
    """Sizes in bytes by BAR, and whether it is a 64-bit one; BARs that do not exist are left out."""
    sizes: dict[int, tuple[int, bool]] = {}
    bar = 0
    while bar < BAR_COUNT:
        yield from _write(_BLOCK.offset("BAR", bar), _WORD, 4)
        mask = yield from _read_answered(_BLOCK.offset("BAR", bar))
        is_64bit = mask & 0x6 == 0x4
        step = 2 if is_64bit else 1
        if mask and not mask & 1:
            if is_64bit and bar + 1 >= BAR_COUNT:
                raise PeerError(f"BAR{bar} claims to be 64-bit")
            high = (yield from _size_upper_half(bar + 1)) if is_64bit else _WORD
            size = -(high << 32 | mask & ~0xF) & (1 << 64) - 1
            if size & (size - 1) or not size:
                raise PeerError(f"BAR{bar} has an impossible size mask {high:#x}:{mask:#x}")
            sizes[bar] = (size, is_64bit)
        bar += step
    return sizes


def _size_upper_half(bar: int) -> Task[int]:
    yield from _write(_BLOCK.offset("BAR", bar), _WORD, 4)
    return (yield from _read(_BLOCK.offset("BAR", bar), 4))


def _find_capability(cap_id: int) -> Task[int]:
    offset = (yield from _read(_BLOCK.offset("CAPABILITY_POINTER"), 1)) & ~3
    for _ in range(_MAX_CAPABILITIES):
        if not 0x40 <= offset <= 0xFC:
            return 0
        header = yield from _read(offset, 2)
        if header & 0xFF == cap_id:
            return offset
        offset = header >> 8 & ~3
    raise PeerError("capability list is a loop")


def enable_msi(function: PciFunction, target: MsiTarget, least: int, most: int) -> Task[int]:
    """Give the function MSI vectors at ``target`` and let it master the bus.

    Args:
        function: what enumeration found.
        target: the host's vectors; granted ones are taken from it.
        least: vectors the driver needs.
        most: vectors the driver can use.

    Returns:
        Number of vectors granted; 0 when the function or the host has fewer than ``least``.

    Raises:
        PeerError: the capability offers an impossible number.
    """
    if not function.msi_cap:
        return 0
    shift = function.msi_cap - MSI_CAP_OFFSET
    control_at = _CONTROL.offset + shift
    control = yield from _read(control_at, 2)
    multiple_capable = _CONTROL.field("MULTIPLE_CAPABLE").extract(control)
    if multiple_capable > 5:
        raise PeerError(f"MSI capability offers 2^{multiple_capable} vectors")
    enabled = target.grant(min(multiple_capable, most.bit_length() - 1))
    if target.granted < least:
        target.reset()
        return 0
    yield from _write(_BLOCK.offset("MSI_ADDRESS_LOW") + shift, target.address & _WORD, 4)
    yield from _write(_BLOCK.offset("MSI_ADDRESS_HIGH") + shift, target.address >> 32, 4)
    yield from _write(_BLOCK.offset("MSI_DATA") + shift, target.first_data, 2)
    control = _CONTROL.field("MULTIPLE_ENABLE").insert(control, enabled)
    yield from _write(control_at, _CONTROL.field("ENABLE").insert(control, 1), 2)
    yield from _enable_bus_master()
    return target.granted


def enable_msix(
    function: PciFunction, target: MsiTarget, least: int, most: int, store: Callable[[int, bytes], None]
) -> Task[int]:
    """As ``enable_msi``, with MSI-X: the vectors go into the table behind one of the function's BARs.

    Args:
        function: what enumeration found.
        target: the host's vectors; granted ones are taken from it.
        least: vectors the driver needs.
        most: vectors the driver can use.
        store: posts a write to a bus address, ahead of the requests that follow.

    Raises:
        PeerError: the table lies outside its BAR.
    """
    if not function.msix_cap:
        return 0
    shift = function.msix_cap - MSIX_CAP_OFFSET
    control_at = _MSIX_CONTROL.offset + shift
    control = yield from _read(control_at, 2)
    count = _MSIX_CONTROL.field("TABLE_SIZE").extract(control) + 1
    place = yield from _read(_BLOCK.offset("MSIX_TABLE") + shift, 4)
    span, offset = function.bars.get(place & 7), place & ~7
    if span is None or offset + MSIX_ENTRY_BYTES * count > span.size:
        raise PeerError(f"MSI-X table of {count} vectors at {offset:#x} of BAR{place & 7}: outside the BAR")
    if target.grant_count(min(count, most)) < least:
        target.reset()
        return 0
    control = _MSIX_CONTROL.field("ENABLE").insert(control, 1)
    yield from _write(control_at, _MSIX_CONTROL.field("FUNCTION_MASK").insert(control, 1), 2)
    for vector in range(target.granted):
        entry = _MSIX_ENTRY.pack(target.address, target.first_data + vector, 0)
        store(span.base + offset + MSIX_ENTRY_BYTES * vector, entry)
    yield from _write(control_at, _MSIX_CONTROL.field("FUNCTION_MASK").insert(control, 0), 2)
    yield from _enable_bus_master()
    return target.granted


def _enable_bus_master() -> Task[None]:
    command = _COMMAND.field("MEMORY").insert(_COMMAND.field("BUS_MASTER").insert(0, 1), 1)
    yield from _write(_BLOCK.offset("COMMAND"), command, 2)


def disable_vectors(function: PciFunction) -> Task[None]:
    """Take the vectors back, of whichever kind they are."""
    if function.msix_cap:
        yield from _write(_MSIX_CONTROL.offset + function.msix_cap - MSIX_CAP_OFFSET, 0, 2)
    if function.msi_cap:
        yield from _write(_CONTROL.offset + function.msi_cap - MSI_CAP_OFFSET, 0, 2)
