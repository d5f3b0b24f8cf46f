"""Platform profiles: what a board's hardware allows, as data.

A profile is a TOML file; every key of it must be given.  The shipped ones lie in ``profiles/``,
each value with its source.
"""

from __future__ import annotations

import itertools
import pkgutil
import tomllib
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated

from ntbnet.address import ADDRESS_END, Span, is_aligned
from ntbnet.errors import ConfigError
from ntbnet.schema import Boolean, Choice, Integer, TableReader, Text, shown
from ntbnet.sections import Ntb

SHIPPED = ("r-car-s4", "r-car-s4-db-in-bar0", "generic", "rk3588")
"""Names of the profiles that come with ntbnet, the default first."""

BAR_COUNT = 6

EP_MSI_PAGE_BYTES = 4096
"""Page of the endpoint's MSI controller that holds the word an MSI is written to."""

MSI_TARGET_BYTES = 4
"""A message-signalled interrupt is one 32-bit write."""

_KINDS = ("programmable", "fixed", "resizable", "reserved", "upper", "disabled")
_USABLE = frozenset({"programmable", "fixed", "resizable"})

_ADDRESS = Integer(0, ADDRESS_END - 1, hexadecimal=True)
_LINE = r"[^\x00-\x1f\x7f]"


@dataclass(frozen=True, slots=True)
class Kernel:
    """Timing of the endpoint's kernel."""

    hz: Annotated[int, Integer(100, 1000, "ticks per second")]
    """Timer ticks per second, 100..1000."""

    poll_ms: Annotated[int, Integer(1, 1000, "ms")]
    """Delay of the command and doorbell poll, ms, 1..1000, before rounding up to ticks."""


@dataclass(frozen=True, slots=True)
class WiredRegion:
    """Part of a reserved BAR that the hardware connects to registers, whatever the iATU says.

    Source: Linux pci-epc.h, struct pci_epc_bar_rsvd_region.
    """

    kind: Annotated[str, Choice(("edma",))]
    """What is behind it: edma, the eDMA registers from their first byte on."""

    offset: Annotated[int, Integer(0, 1 << 32, "bytes", multiple_of=4, hexadecimal=True)]
    """Where it begins in the BAR, bytes, a multiple of 4."""

    size: Annotated[int, Integer(4, 1 << 32, "bytes", multiple_of=4, hexadecimal=True)]
    """Bytes, a multiple of 4."""

    @property
    def span(self) -> Span:
        """Its bytes in the BAR."""
        return Span(self.offset, self.size)


@dataclass(frozen=True, slots=True)
class Bar:
    """One of the six base address registers of the endpoint.

    Source: Linux pci-epc.h, enum pci_epc_bar_type; "upper" is the upper half of the 64-bit one below it.
    """

    kind: Annotated[str, Choice(_KINDS)]
    """programmable, fixed, resizable, reserved, upper or disabled."""

    bits64: Annotated[bool, Boolean()]
    """True when it is 64 bits wide and owns the next one too; even numbers only."""

    fixed_size: Annotated[int, Integer(16, 1 << 40, "bytes", power_of_two=True)] = 0
    """Bytes, a power of two from 16: of a fixed one, or of a reserved one with a wired window; else 0."""

    wired: tuple[WiredRegion, ...] = ()
    """Register windows that the hardware connects to a reserved BAR; they need no inbound window."""

    @property
    def is_usable(self) -> bool:
        """True when a function may put something behind it."""
        return self.kind in _USABLE


@dataclass(frozen=True, slots=True)
class EndpointHardware:
    """The endpoint controller and the address map of its host."""

    align: Annotated[int, Integer(16, 1 << 24, "bytes", power_of_two=True)]
    """Alignment of iATU windows, bytes, a power of two."""

    region_limit: Annotated[int, Integer(0xFFF, ADDRESS_END - 1, hexadecimal=True)]
    """Most by which the last address of an iATU window may exceed its first, bytes less one."""

    inbound_windows: Annotated[int, Integer(3, 256, "windows")]
    """Inbound iATU windows, 3..256: control block, doorbells and each memory window take one."""

    map_inbound: Annotated[bool, Boolean()]
    """True when it can map a part of a BAR by address match (map_inbound of the October 2025 series)."""

    dynamic_inbound_mapping: Annotated[bool, Boolean()]
    """True when set_bar may be repeated on a BAR that the host has placed."""

    subrange_mapping: Annotated[bool, Boolean()]
    """True when set_bar takes submaps, which needs dynamic_inbound_mapping too."""

    outbound_windows: Annotated[int, Integer(2, 256, "windows")]
    """Outbound iATU windows, 2..256: memory window and MSI take one each."""

    msi_vectors: Annotated[int, Integer(4, 32, "vectors", power_of_two=True)]
    """MSI vectors the function asks for, 4..32, a power of two; the host's driver needs 4."""

    msi: Annotated[bool, Boolean()]
    """True when the controller can raise MSI."""

    msix: Annotated[bool, Boolean()]
    """True when the controller can raise MSI-X."""

    aperture_base: Annotated[int, _ADDRESS]
    """First CPU address of the outbound aperture."""

    aperture_bytes: Annotated[int, Integer(0x10000, 1 << 40, "bytes", power_of_two=True)]
    """Size of the outbound aperture, bytes, a power of two."""

    page_bytes: Annotated[int, Integer(4096, 65536, "bytes", power_of_two=True)]
    """Page of the aperture's allocator, bytes, a power of two."""

    edma_base: Annotated[int, _ADDRESS]
    """First CPU address of the eDMA registers."""

    edma_bytes: Annotated[int, Integer(0x400, 0x100000, "bytes")]
    """Size of the eDMA registers, bytes."""

    edma_write_channels: Annotated[int, Integer(1, 8, "channels")]
    """eDMA channels from the endpoint's memory to the link, 1..8."""

    edma_read_channels: Annotated[int, Integer(1, 8, "channels")]
    """eDMA channels from the link to the endpoint's memory, 1..8."""

    edma_lines: Annotated[int, Integer(1, 16, "lines")]
    """Interrupt lines of the eDMA, 1..16, no more than it has channels.

    One line is shared by all channels. Several are divided between write and read channels, write first;
    channel j uses line j modulo the lines of its direction.
    Source: Linux dw-edma-core.c, dw_edma_irq_request.
    """

    edma_test_line: Annotated[str, Choice(("first", "turn"))]
    """Line of a test interrupt: first, the first of the direction written to; turn, each of all in turn."""

    dram_base: Annotated[int, _ADDRESS]
    """First CPU address of the memory."""

    ep_msi_page: Annotated[int, _ADDRESS]
    """CPU address of the page of the endpoint's MSI controller that windows may reach; 0 when none may."""

    bars: tuple[Bar, ...]
    """BARs 0 to 5."""

    @property
    def aperture(self) -> Span:
        """The outbound aperture, CPU addresses of the endpoint's host."""
        return Span(self.aperture_base, self.aperture_bytes)

    @property
    def edma(self) -> Span:
        """The eDMA registers, CPU addresses of the endpoint's host."""
        return Span(self.edma_base, self.edma_bytes)

    @property
    def msi_page(self) -> Span | None:
        """The page of the endpoint's MSI controller, CPU addresses; None when windows may not reach it."""
        return Span(self.ep_msi_page, EP_MSI_PAGE_BYTES) if self.ep_msi_page else None

    def dram(self, dram_bytes: int) -> Span:
        """The memory, CPU addresses, when it has ``dram_bytes``."""
        return Span(self.dram_base, dram_bytes)


@dataclass(frozen=True, slots=True)
class RootComplexHardware:
    """The root complex and the address map of its host; bus addresses equal CPU addresses."""

    dram_base: Annotated[int, _ADDRESS]
    """First address of the memory."""

    mmio_base: Annotated[int, Integer(0, 0xFFFFFFFF, hexadecimal=True)]
    """First address of the window that BARs are placed in; the window ends below 4 GiB."""

    mmio_bytes: Annotated[int, Integer(0x100000, 1 << 32, "bytes", multiple_of=0x100000, hexadecimal=True)]
    """Size of that window, bytes, a multiple of 1 MiB."""

    msi_target: Annotated[int, Integer(0, ADDRESS_END - 4, multiple_of=4, hexadecimal=True)]
    """Address that an MSI is written to, a multiple of 4."""

    msi_vectors: Annotated[int, Integer(4, 32, "vectors", power_of_two=True)]
    """Most MSI vectors the host grants one function, 4..32, a power of two."""

    @property
    def mmio(self) -> Span:
        """The window that BARs are placed in."""
        return Span(self.mmio_base, self.mmio_bytes)

    @property
    def msi(self) -> Span:
        """The word that an MSI is written to."""
        return Span(self.msi_target, MSI_TARGET_BYTES)

    def dram(self, dram_bytes: int) -> Span:
        """The memory when it has ``dram_bytes``."""
        return Span(self.dram_base, dram_bytes)


@dataclass(frozen=True, slots=True)
class Profile:
    """One platform."""

    name: Annotated[str, Text(r"[a-z0-9][a-z0-9-]{0,31}", "small letters, digits and -, at most 32")]
    description: Annotated[str, Text(rf"{_LINE}{{1,200}}", "one line of at most 200 characters")]
    kernel: Kernel
    endpoint: EndpointHardware
    rc: RootComplexHardware
    ntb: Ntb = Ntb()
    """Defaults of the section [ntb] of a configuration on this platform."""

    @property
    def mw2_target(self) -> str:
        """What memory window 2 is for unless the configuration says otherwise: none, edma or msi."""
        return self.ntb.mw2_target

    def regions(self, rc_dram_bytes: int, ep_dram_bytes: int) -> dict[str, dict[str, Span]]:
        """Everything in each host's address map, by the profile's own names."""
        return {
            "rc": {
                "dram": self.rc.dram(rc_dram_bytes),
                "mmio": self.rc.mmio,
                "msi_target": self.rc.msi,
            },
            "endpoint": {
                "dram": self.endpoint.dram(ep_dram_bytes),
                "aperture": self.endpoint.aperture,
                "edma": self.endpoint.edma,
                **({"ep_msi_page": msi_page} if (msi_page := self.endpoint.msi_page) else {}),
            },
        }

    def check_regions(self, source: str, rc_dram_bytes: int, ep_dram_bytes: int) -> None:
        """Refuse address maps with overlaps.

        Raises:
            ConfigError: two regions of one host overlap, or one ends beyond 64 bits.
        """
        try:
            hosts = self.regions(rc_dram_bytes, ep_dram_bytes)
        except ValueError as error:
            raise ConfigError(f"{source}: a region ends beyond the 64-bit address space: {error}") from None
        for host, regions in hosts.items():
            for (one, span), (other, other_span) in itertools.combinations(regions.items(), 2):
                if span.overlaps(other_span):
                    raise ConfigError(
                        f"{source}: {host}.{one} {span} and {host}.{other} {other_span}: must not overlap"
                    )


def shipped(name: str) -> str:
    """The text of a profile that comes with ntbnet.

    Raises:
        ConfigError: no such profile.
    """
    data = pkgutil.get_data("ntbnet", f"profiles/{name}.toml") if name in SHIPPED else None
    if data is None:
        known = ", ".join(SHIPPED)
        raise ConfigError(f"no profile {shown(name)}: must be one of {known}, or the path of a .toml file")
    return data.decode()


@lru_cache(maxsize=8)
def load_profile(text: str, source: str) -> Profile:
    """Read and check a profile; one that was read before is the same object, which nothing can change.

    Raises:
        ConfigError: one line, beginning with ``source``, naming key, value and allowed range.
    """
    profile = TableReader(source, Profile).read(Profile, parse(text, source), None)
    _check_bars(profile.endpoint.bars, source)
    endpoint = profile.endpoint
    for name, value, unit in (
        ("aperture_base", endpoint.aperture_base, max(endpoint.align, endpoint.page_bytes)),
        ("dram_base", endpoint.dram_base, endpoint.align),
        ("ep_msi_page", endpoint.ep_msi_page, max(endpoint.align, EP_MSI_PAGE_BYTES)),
    ):
        if not is_aligned(value, unit):
            raise ConfigError(f"{source}: endpoint.{name} = {value:#x}: must be a multiple of {unit:#x}")
    if endpoint.subrange_mapping and not endpoint.dynamic_inbound_mapping:
        raise ConfigError(
            f"{source}: endpoint.subrange_mapping = true: must be false without dynamic_inbound_mapping"
        )
    if profile.rc.mmio.end > 1 << 32:
        raise ConfigError(f"{source}: rc.mmio_bytes = {profile.rc.mmio_bytes:#x}: must end below 4 GiB")
    # The unrolled eDMA block: 0x200 bytes of global registers, then 0x200 for each pair of channels.
    needed = 0x200 * (1 + max(endpoint.edma_write_channels, endpoint.edma_read_channels))
    if endpoint.edma_bytes < needed:
        raise ConfigError(
            f"{source}: endpoint.edma_bytes = {endpoint.edma_bytes:#x}: must be at least {needed:#x} "
            f"for {endpoint.edma_write_channels} + {endpoint.edma_read_channels} channels"
        )
    channels = endpoint.edma_write_channels + endpoint.edma_read_channels
    if endpoint.edma_lines > channels:
        raise ConfigError(
            f"{source}: endpoint.edma_lines = {endpoint.edma_lines}: must be 1..{channels}, "
            f"no more than there are channels"
        )
    profile.check_regions(source, 1 << 20, 1 << 20)
    return profile


def parse(text: str, source: str) -> dict[str, object]:
    """TOML text to a table.

    Raises:
        ConfigError: no valid TOML; one line with the place.
    """
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ConfigError(f"{source}: nested too deeply to be read") from None
    except ValueError as error:  # TOMLDecodeError, or an integer of thousands of digits
        raise ConfigError(f"{source}: not valid TOML: {' '.join(str(error).split())}") from None


def _check_bars(bars: tuple[Bar, ...], source: str) -> None:
    if len(bars) != BAR_COUNT:
        raise ConfigError(f"{source}: endpoint.bars has {len(bars)} entries: must be {BAR_COUNT}")
    for number, bar in enumerate(bars):
        name = f"{source}: endpoint.bars[{number}]"
        if bar.bits64 and (number % 2 or not bar.is_usable):
            raise ConfigError(f"{name}.bits64 = true: must be false for an odd number or a {bar.kind} BAR")
        follows_wide = number > 0 and bars[number - 1].bits64
        if follows_wide != (bar.kind == "upper"):
            raise ConfigError(
                f"{name}.kind = {bar.kind!r}: must be 'upper' exactly behind a BAR with bits64 = true"
            )
        if bar.kind == "fixed" and not bar.fixed_size:
            raise ConfigError(f"{name}.fixed_size is missing: must be given for kind 'fixed'")
        for i, region in enumerate(bar.wired):
            if bar.kind != "reserved" or region.span.end > bar.fixed_size:
                raise ConfigError(
                    f"{name}.wired[{i}] = {region.span}: must lie in a reserved BAR's fixed_size, "
                    f"here {bar.kind}, {bar.fixed_size:#x} bytes"
                )
        if bar.fixed_size and bar.kind not in {"fixed", "reserved"}:
            raise ConfigError(f"{name}.fixed_size = {bar.fixed_size}: must be left out for kind {bar.kind!r}")
