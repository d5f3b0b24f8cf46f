"""What a host does to a function it finds on the link: identify, size and place BARs, enable MSI.

Generators over configuration requests, as the PCI core and pci_alloc_irq_vectors do it. All
values come from the other host and are checked: an absent function reads all ones.

Source: PCI Local Bus Specification 3.0, 6.2.5 (BAR sizing), 6.8.1 (MSI); Linux pci/probe.c.
"""

from __future__ import annotations

from dataclasses import dataclass

from ntbnet.address import Span, round_up
from ntbnet.devices.msi import MsiTarget
from ntbnet.devices.task import CfgRead, CfgWrite, Task
from ntbnet.errors import PeerError
from ntbnet.regs.cfgspace import BAR_COUNT, CAP_ID_MSI, MSI_CAP_OFFSET, config_block

_BLOCK = config_block(msi=True)
_CONTROL = _BLOCK.register("MSI_CONTROL")
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


def enumerate_function(aperture: Span) -> Task[PciFunction]:
    """Identify the function and place its BARs in ``aperture``; memory decode on at the end.

    Raises:
        PeerError: no function answers, or what it reports is impossible.
    """
    ids = yield from _read(_BLOCK.offset("VENDOR_ID"), 4)
    if ids & 0xFFFF in (0, 0xFFFF):
        raise PeerError(f"no function behind the link (ids read {ids:#010x})")
    class_revision = yield from _read_answered(_BLOCK.offset("REVISION_ID"))
    sizes = yield from _size_bars()
    bars = {}
    next_base = aperture.base
    for bar, (size, bits64) in sorted(sizes.items(), key=lambda item: -item[1][0]):
        base = round_up(next_base, size)
        if base + size > aperture.end:
            raise PeerError(f"BAR{bar} of {size:#x} bytes does not fit the host's aperture {aperture}")
        bars[bar] = Span(base, size)
        next_base = base + size
        yield from _write(_BLOCK.offset("BAR", bar), base & _WORD, 4)
        if bits64:
            yield from _write(_BLOCK.offset("BAR", bar + 1), base >> 32, 4)
    msi_cap = yield from _find_capability(CAP_ID_MSI)
    command = _COMMAND.field("MEMORY").insert(0, 1)
    yield from _write(_BLOCK.offset("COMMAND"), command, 2)
    return PciFunction(ids & 0xFFFF, ids >> 16, class_revision >> 16, bars, msi_cap)


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
    command = _COMMAND.field("MEMORY").insert(_COMMAND.field("BUS_MASTER").insert(0, 1), 1)
    yield from _write(_BLOCK.offset("COMMAND"), command, 2)
    return target.granted


def disable_msi(function: PciFunction) -> Task[None]:
    """Take the vectors back."""
    if function.msi_cap:
        yield from _write(_CONTROL.offset + function.msi_cap - MSI_CAP_OFFSET, 0, 2)
