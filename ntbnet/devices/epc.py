"""The endpoint controller: configuration space, BARs, iATU, outbound aperture, interrupts to the host.

Two sides: what the host does to the function (configuration requests, accesses to BARs, resets), and the
controller API that an endpoint function programs it with. Errors are KernelError with the kernel's errno.

Stated deviations: one function; a BAR set up without a target hits nothing, where the kernel's would hit
local address 0; a BAR access that no window translates is UR, not forwarded untranslated, unless
``passthrough`` asks for that.

Source: Linux pci-epc-core.c, pcie-designware-ep.c; map_inbound of the October 2025 series.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Any

from ntbnet.address import Span, hex_address
from ntbnet.devices.aperture import Aperture
from ntbnet.devices.atu_block import AtuBlock, AtuFeatures, discover
from ntbnet.devices.bar import BarKind, BarSet, BarSpec
from ntbnet.devices.direct import undisputed
from ntbnet.devices.effects import Outbox
from ntbnet.devices.epc_features import EpcFeatures, EpcHeader, features_of
from ntbnet.devices.host_irq import BusPort, HostInterrupts, IrqKind
from ntbnet.devices.iatu import Iatu
from ntbnet.devices.inbound import InboundMap, Submap
from ntbnet.devices.memory import AddressMap, Window
from ntbnet.devices.wired import AuxResource, aux_resources, wired_regions
from ntbnet.errors import KernelError
from ntbnet.profile import EndpointHardware
from ntbnet.regs.cfgspace import BAR_COUNT, REBAR_BASE_LOG2, config_block
from ntbnet.regs.file import RegisterFile
from ntbnet.regs.iatu import MAX_WINDOWS, WINDOW_STRIDE

_BARS = range(0x10, 0x10 + 4 * BAR_COUNT)
"""Offsets of the BAR registers."""


class Epc:
    """One endpoint controller with one function.

    Args:
        endpoint: the hardware, from the profile.
        local: the endpoint's address map (for the MSI-X table).
        outbox: takes log events.
        port: where writes to the host go.
        passthrough: forward an unmatched BAR access with its bus address as local address.

    Attributes:
        bars, iatu, atu, inbound, aperture, irqs, space: its parts.
        detected: what the iATU's registers say that it has, asked before any window was programmed.
    """

    def __init__(
        self,
        endpoint: EndpointHardware,
        local: AddressMap,
        outbox: Outbox,
        port: BusPort,
        *,
        passthrough: bool = False,
    ) -> None:
        self._endpoint = endpoint
        self._local = local
        self._passthrough = passthrough
        self.bars = BarSet(
            [BarSpec(BarKind(bar.kind), bar.fixed_size or 0, only_64bit=bar.bits64) for bar in endpoint.bars]
        )
        self._resizable = [n for n, bar in enumerate(endpoint.bars) if bar.kind == "resizable"]
        self._wired = wired_regions(endpoint)
        self._wired_bars = frozenset(region.bar for region in self._wired)
        self.iatu = Iatu(
            endpoint.inbound_windows, endpoint.outbound_windows, endpoint.align, endpoint.region_limit
        )
        self.atu = AtuBlock(self.iatu)
        self.detected: AtuFeatures = discover(self.atu.read, self.atu.write, MAX_WINDOWS * WINDOW_STRIDE)
        self.inbound = InboundMap(self.bars, self.iatu, outbox)
        self.space = RegisterFile(
            config_block(msi=endpoint.msi, msix=endpoint.msix, resizable=self._resizable)
        )
        self.space.on_write("COMMAND", self._on_command_write)
        self.aperture = Aperture(endpoint.aperture, endpoint.page_bytes, self.iatu, outbox)
        page = self.aperture.interrupt_page
        self.irqs = HostInterrupts(self.space, self.iatu, page, endpoint.page_bytes, self._read_bar, port)
        self._advertise_sizes()

    # what the host does

    def config_read(self, offset: int, size: int) -> bytes:
        """A configuration read of 1, 2 or 4 bytes, aligned to its size."""
        if offset not in _BARS:
            return self.space.read(offset, size)
        bar, shift = divmod(offset - _BARS.start, 4)
        return self.bars.read_register(bar).to_bytes(4, "little")[shift : shift + size]

    def config_write(self, offset: int, data: bytes | memoryview) -> None:
        """A configuration write; one to a placed BAR moves it."""
        if offset not in _BARS:
            self.space.write(offset, data)
            return
        bar, shift = divmod(offset - _BARS.start, 4)
        word = bytearray(self.bars.read_register(bar).to_bytes(4, "little"))
        word[shift : shift + len(data)] = data
        self.bars.write_register(bar, int.from_bytes(word, "little"))
        if self.bars.memory_enabled:
            self.inbound.host_moved()

    def _on_command_write(self, _index: int, _old: int, _new: int) -> None:
        self.bars.memory_enabled = bool(self.space.get_field("COMMAND", "MEMORY"))
        if self.bars.memory_enabled:
            self.inbound.host_moved()

    def inbound_address(self, bus_addr: int, length: int) -> int | None:
        """Local address of a bus access; None is Unsupported Request, and counted."""
        hit = self.bars.decode(bus_addr, length)
        if hit is None:
            return None
        local = self._behind_bar(hit, bus_addr, length)
        if local is None:
            self.iatu.inbound_misses += 1
            return bus_addr if self._passthrough else None
        return local

    def find_inbound(self, bus_addr: int, length: int) -> int | None:
        """As ``inbound_address``, but a miss is not counted: the caller asks again in pieces."""
        hit = self.bars.find(bus_addr, length)
        return None if hit is None else self._behind_bar(hit, bus_addr, length)

    def _behind_bar(self, hit: tuple[int, int], bus_addr: int, length: int) -> int | None:
        bar, offset = hit
        if bar in self._wired_bars:
            for region in self._wired:
                if region.bar == bar and region.span.contains(offset, length):
                    return region.target + offset - region.span.base
        return self.iatu.find_inbound(bar, offset, bus_addr, length)

    def inbound_ranges(self) -> list[tuple[int, int, int]]:
        """Where bus accesses lead now: bus address, bytes and local address of each translated range."""
        found = []
        for region in self._wired:
            bar = self.bars.span(region.bar)
            if bar is not None:
                found.append((bar.base + region.span.base, region.span.size, region.target))
        for window in self.iatu.inbound:
            if window is None:
                continue
            base, size = window.base, window.limit - window.base + 1
            if window.bar is not None:
                bar = self.bars.span(window.bar)
                if bar is None or window.bar in self._wired_bars:
                    continue
                base, size = bar.base + base, min(size, bar.size - base)
            found.append((base, size, window.target))
        # a BAR that moved away, or is not decoded, leaves its ranges behind
        return [
            (base, size, local)
            for base, size, local in undisputed(found)
            if self.find_inbound(base, size) == local and self.find_inbound(base + size - 1, 1) is not None
        ]

    def hot_reset(self) -> None:
        """What the host wrote is gone: BAR addresses, enables, MSI; BAR sizes and iATU windows stay."""
        self.bars.hot_reset()
        self.space.reset_bus_written()
        self.irqs.stop()
        self._advertise_sizes()
        self.inbound.host_moved()

    def fundamental_reset(self) -> None:
        """PERST#: everything as after power-on; the function has to set it all up again."""
        self.bars.reset()
        self.iatu.reset()
        self.inbound.reset()
        self.irqs.stop()
        self.irqs.msi.reset()
        self.irqs.msix.reset()
        self.space.reset()
        self.aperture.reset()
        self._advertise_sizes()

    # the controller API: header and BARs

    def get_features(self) -> EpcFeatures:
        """What this controller can do."""
        return features_of(self._endpoint, self.bars.specs, self.detected.region_align)

    def write_header(self, header: EpcHeader) -> None:
        """Fill in the read-only part of the configuration header."""
        self.space.set("VENDOR_ID", header.vendor_id)
        self.space.set("DEVICE_ID", header.device_id)
        self.space.set("REVISION_ID", header.revision_id)
        self.space.set("BASE_CLASS", header.class_code >> 8)
        self.space.set("SUBCLASS", header.class_code & 0xFF)
        self.space.set("SUBSYSTEM_VENDOR_ID", header.subsystem_vendor_id)
        self.space.set("SUBSYSTEM_ID", header.subsystem_id)

    def set_bar(
        self,
        bar: int,
        size: int,
        target: int | None = None,
        backed: int | None = None,
        *,
        bits64: bool = False,
        submaps: Sequence[Submap] | None = None,
    ) -> None:
        """Size a BAR and translate it; repeated, only the translation changes.

        Args:
            bar: 0..5.
            size: bytes, a power of two the BAR can have.
            target: local address the whole BAR leads to; None leaves its translation as it is.
            backed: bytes that lie there, at most ``size``; accesses beyond them miss. None means all.
            bits64: the host may place it above 4 GiB.
            submaps: instead of ``target``, the pieces of a BAR that was set up and placed before.

        Raises:
            KernelError: EINVAL for each rule that does not hold; ENOSPC: too few windows for the submaps.
        """
        if submaps is not None:
            if not (self._endpoint.dynamic_inbound_mapping and self._endpoint.subrange_mapping):
                raise KernelError(errno.EINVAL, "the controller has no submaps")
            if self.bars.config(bar) is None:
                raise KernelError(errno.EINVAL, f"BAR{bar}: submaps before the BAR is set up")
        self.bars.set_bar(bar, size, bits64)
        self._advertise_sizes()
        if submaps is not None:
            self.inbound.map_submaps(bar, submaps)
        elif target is not None:
            self.inbound.point_bar(bar, target, size if backed is None else backed)

    def clear_bar(self, bar: int) -> None:
        """Undo set_bar and map_inbound; the host's address is lost."""
        if bar not in range(BAR_COUNT) or self.bars.specs[bar].kind is BarKind.RESERVED:
            return
        self.inbound.unmap_bar(bar)
        self.bars.clear_bar(bar)
        self._advertise_sizes()

    def unmap_bar(self, bar: int) -> None:
        """Let a BAR hit nothing; it keeps size and address."""
        self.inbound.unmap_bar(bar)

    def map_inbound(self, bar: int, bar_size: int, offset: int = 0, target: int = 0, size: int = 0) -> None:
        """Translate a part of a BAR by address match; the first call sets the BAR up.

        Args:
            bar: 0..5.
            bar_size: size of the whole BAR, the same in every call.
            offset: first byte, from the start of the BAR.
            target: local address of that byte; 0 only sets the BAR up.
            size: bytes.

        Raises:
            KernelError: EOPNOTSUPP: the controller cannot; EINVAL: a rule does not hold, or the host has
                not placed the BAR; ENOSPC: no window is free.
        """
        if not self._endpoint.map_inbound:
            raise KernelError(errno.EOPNOTSUPP, "the controller has no map_inbound")
        self.bars.set_bar(bar, bar_size, bits64=False)
        self._advertise_sizes()
        if target:
            self.inbound.map_range(bar, offset, target, size)

    def unmap_inbound(self, bar: int, offset: int, size: int) -> None:
        """Undo map_inbound of exactly this range; others, and a controller without it, are not touched."""
        self.inbound.unmap_range(bar, offset, size)

    def _advertise_sizes(self) -> None:
        """Each resizable BAR offers one size: the one it was given, or 1 MiB."""
        for bar in self._resizable:
            config = self.bars.config(bar)
            code = config.size.bit_length() - 1 - REBAR_BASE_LOG2 if config is not None else 0
            self.space.set_field(f"REBAR{bar}_CAP", "SIZES", 1 << code)
            self.space.set_field(f"REBAR{bar}_CONTROL", "BAR_SIZE", code)

    # the controller API: outbound

    def allocate_outbound(self, size: int) -> int:
        """Local address of a piece of the aperture. KernelError ENOMEM."""
        return self.aperture.allocate(size)

    def map_addr(self, local: int, bus: int, size: int) -> None:
        """Map a piece of the aperture to the bus. KernelError EINVAL, also when no window is free."""
        self.aperture.map(local, bus, size)

    def unmap_addr(self, local: int) -> None:
        """Undo ``map_addr``; unknown addresses are ignored."""
        self.aperture.unmap(local)

    # the controller API: interrupts and resources

    def set_msi(self, count: int) -> None:
        """Offer 1..32 MSI vectors. KernelError EINVAL."""
        self.irqs.msi.set_msi(count)

    def get_msi(self) -> int:
        """Vectors the host enabled; 0 while MSI is off."""
        return self.irqs.msi.granted

    def set_msix(self, count: int, bar: int, offset: int) -> None:
        """Offer 1..2048 MSI-X vectors, table at ``offset`` of ``bar``. KernelError EINVAL."""
        self.irqs.msix.set_msix(count, bar, offset)

    def get_msix(self) -> int:
        """Vectors the host enabled; 0 while MSI-X is off."""
        return self.irqs.msix.granted

    def raise_irq(self, kind: IrqKind, number: int) -> None:
        """Raise interrupt ``number`` (1-based). KernelError EINVAL, EPERM when the host masked it."""
        self.irqs.raise_irq(kind, number)

    def stop(self) -> None:
        """Stop the link: the window that MSI keeps is given back."""
        self.irqs.stop()

    def get_aux_resources(self, room: int | None = None) -> list[AuxResource]:
        """What the controller owns and may lend: its eDMA registers and the doorbell in them.

        Raises:
            KernelError: ENOSPC: there are more than ``room`` (None means any number).
        """
        return aux_resources(self._endpoint, room)

    def windows(self) -> list[dict[str, Any]]:
        """Every way through the controller that is open, for ``status``: wired, inbound, outbound."""
        wired = [
            _row(-1, "inbound", "wired", region.bar, region.span, region.target) for region in self._wired
        ]
        outbound = [
            _row(index, "outbound", "map", None, Span(one.base, one.limit - one.base + 1), one.target)
            for index, one in enumerate(self.iatu.outbound)
            if one is not None
        ]
        return [*wired, *self.inbound.snapshot(), *outbound]

    def _read_bar(self, bar: int, offset: int, size: int) -> bytes | None:
        address = self.bars.address(bar) or 0
        local = self.iatu.find_inbound(bar, offset, address + offset, size)
        found = None if local is None else self._local.find(local, size)
        if found is None or not isinstance(found[0], Window):
            return None
        return found[0].load(found[1], size)


def _row(index: int, direction: str, mode: str, bar: int | None, span: Span, target: int) -> dict[str, Any]:
    return {
        "index": index,
        "direction": direction,
        "mode": mode,
        "bar": bar,
        "base": hex_address(span.base),
        "limit": hex_address(span.limit),
        "target": hex_address(target),
        "size": span.size,
        "stale": False,
    }
