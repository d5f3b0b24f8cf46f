"""What an address of a trace is called: which BAR, what lies there, which register.

Made from the configuration, and from the bus addresses that the host gave the BARs, as far as they are known:
nothing here asks a running bridge.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from functools import lru_cache
from typing import NamedTuple

from ntbnet.address import ADDRESS_END, Span
from ntbnet.config import Config
from ntbnet.layout import Range, layout_of, target_address
from ntbnet.regs.cfgspace import BAR_COUNT, MSIX_MAX_VECTORS, config_block, msix_table_block
from ntbnet.regs.edma import MAX_CHANNELS, edma_block
from ntbnet.regs.ntb_ctrl import LAYOUTS
from ntbnet.regs.spec import RegisterBlock

NO_BAR = 0xFF
REMEMBERED = 1 << 16
"""Addresses whose place is kept: rings, registers and pages come again and again."""


class Region(IntEnum):
    """What lies at an address."""

    NONE = 0
    CTRL = 1
    SPADS = 2
    DOORBELLS = 3
    MSIX = 4
    MSI_PAGE = 5
    EDMA = 6
    CONFIG = 7
    MW1 = 9
    MW2 = 10
    MW3 = 11
    MW4 = 12


class RegBlock(IntEnum):
    """Which table names the registers there."""

    NONE = 0
    EDMA = 1
    NTB_RFC1 = 2
    NTB_CLASSIC = 3
    CONFIG = 4
    MSIX_TABLE = 5


BLOCKS: dict[RegBlock, RegisterBlock] = {
    RegBlock.EDMA: edma_block(MAX_CHANNELS, MAX_CHANNELS),
    RegBlock.NTB_RFC1: LAYOUTS["rfc1"],
    RegBlock.NTB_CLASSIC: LAYOUTS["classic"],
    RegBlock.CONFIG: config_block(msi=True, msix=True, resizable=range(BAR_COUNT)),
    RegBlock.MSIX_TABLE: msix_table_block(MSIX_MAX_VECTORS),
}
"""With everything a profile could have: what one of them lacks is never accessed there."""

CTRL_BLOCKS = {"rfc1": RegBlock.NTB_RFC1, "classic": RegBlock.NTB_CLASSIC}


class Place(NamedTuple):
    """What an address is called.

    Attributes:
        bar: 0..5; ``NO_BAR`` when it is in none.
        bar_offset: from the start of that BAR, bytes.
        region: what lies there.
        block: whose registers; NONE for memory.
        offset: from the start of the region, or of the register block where there is one.
    """

    bar: int = NO_BAR
    bar_offset: int = 0
    region: Region = Region.NONE
    block: RegBlock = RegBlock.NONE
    offset: int = 0


NOWHERE = Place()


def register_name(block: RegBlock, offset: int) -> str:
    """Name of the register that holds the byte at ``offset``, with its index in an array; empty for none."""
    table = BLOCKS.get(block)
    element = None if table is None else table.at(offset)
    if element is None:
        return ""
    return element.register.name + (f"[{element.index}]" if element.register.count > 1 else "")


class Places:
    """Looks addresses up.

    Args:
        config: of the bridge that was traced.
        spans: bus addresses of its BARs by number, as the host assigned them; None for those it would assign.
    """

    def __init__(self, config: Config, spans: Mapping[int, Span] | None = None) -> None:
        endpoint = config.profile.endpoint
        self._config = config
        self._bars = {bar.number: bar for bar in layout_of(config).bars}
        self._spans = (
            {number: bar.span for number, bar in self._bars.items()} if spans is None else dict(spans)
        )
        self._edma = endpoint.edma
        self._msi = endpoint.msi_page
        self._targets = {
            window.name: target
            for window in config.windows
            if (target := target_address(config, window)) is not None
        }
        self._in_bar = lru_cache(REMEMBERED)(self._find_in_bar)
        self.of_bus = lru_cache(REMEMBERED)(self._of_bus)
        self.of_local = lru_cache(REMEMBERED)(self._of_local)

    def in_bar(self, bar: int, offset: int, address: int) -> Place:
        """Place of bus address ``address``, which the controller found ``offset`` bytes into ``bar``.

        When that is not where the BAR was taken to be, the host has moved it: it is there from now on.
        """
        span = self._spans.get(bar)
        base = address - offset
        if span is not None and span.base != base and 0 <= base <= ADDRESS_END - span.size:
            self._spans[bar] = Span(base, span.size)
            self.of_bus.cache_clear()
        return self._in_bar(bar, offset)

    def _of_bus(self, address: int) -> Place:
        """Place of a bus address: in a BAR, or ``NOWHERE``."""
        for number, span in self._spans.items():
            if span.contains(address):
                return self._in_bar(number, address - span.base)
        return NOWHERE

    def _of_local(self, address: int) -> Place:
        """Place of a local address of the endpoint: its eDMA, its MSI page, or ``NOWHERE``."""
        if self._edma.contains(address):
            return Place(region=Region.EDMA, block=RegBlock.EDMA, offset=address - self._edma.base)
        if self._msi is not None and self._msi.contains(address):
            return Place(region=Region.MSI_PAGE, offset=address - self._msi.base)
        return NOWHERE

    def _find_in_bar(self, number: int, offset: int) -> Place:
        bar = self._bars.get(number)
        ranges = () if bar is None else bar.ranges
        part = next((part for part in ranges if part.span.contains(offset)), None)
        if part is None:
            return Place(number, offset)
        block, inner = self._registers(part, offset - part.offset)
        return Place(number, offset, REGIONS[part.name], block, inner)

    def _registers(self, part: Range, inner: int) -> tuple[RegBlock, int]:
        """The register block of a range, and where in it the ``inner`` bytes of the range lead."""
        if part.name == "ctrl":
            return CTRL_BLOCKS[self._config.ntb.ctrl_layout], inner
        if part.name == "msix":
            entries = 16 * self._config.profile.endpoint.msi_vectors
            return (RegBlock.MSIX_TABLE if inner < entries else RegBlock.NONE), inner
        if part.target == "edma":
            local = self._targets.get(part.name, self._edma.base) + inner
            if self._edma.contains(local):
                return RegBlock.EDMA, local - self._edma.base
        return RegBlock.NONE, inner


REGIONS = {
    "ctrl": Region.CTRL,
    "spads": Region.SPADS,
    "doorbells": Region.DOORBELLS,
    "msix": Region.MSIX,
    "msi": Region.MSI_PAGE,
    "edma": Region.EDMA,
    "mw1": Region.MW1,
    "mw2": Region.MW2,
    "mw3": Region.MW3,
    "mw4": Region.MW4,
}
"""By the name that a range of the layout has."""
