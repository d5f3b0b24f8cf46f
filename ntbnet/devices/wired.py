"""What the platform gives a function beside the iATU: register windows wired into BARs, and the eDMA's
registers, which a function may lend to the other host.

Source: Linux pci-epc.h, struct pci_epc_bar_rsvd_region; the embedded doorbell series of March 2026.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass

from ntbnet.address import Span
from ntbnet.errors import KernelError
from ntbnet.profile import EndpointHardware
from ntbnet.regs.edma import edma_block


@dataclass(frozen=True, slots=True)
class WiredRegion:
    """A part of a reserved BAR that reaches ``target`` (a local address) without any inbound window."""

    bar: int
    span: Span
    target: int


@dataclass(frozen=True, slots=True)
class AuxResource:
    """Something of the controller's that a function may lend out.

    Attributes:
        kind: ``dma-control`` (the eDMA registers) or ``doorbell`` (the word that rings the endpoint).
        address: local address.
        size: bytes.
        data: what to write to a doorbell.
        bar: where the hardware wires it into a BAR; None when it does not.
        bar_offset: first byte in that BAR.
    """

    kind: str
    address: int
    size: int
    data: int = 0
    bar: int | None = None
    bar_offset: int = 0


def wired_regions(endpoint: EndpointHardware) -> tuple[WiredRegion, ...]:
    """Every wired region of a platform, by BAR."""
    return tuple(
        WiredRegion(number, region.span, endpoint.edma_base)
        for number, bar in enumerate(endpoint.bars)
        for region in bar.wired
    )


def aux_resources(endpoint: EndpointHardware, room: int | None) -> list[AuxResource]:
    """The eDMA's registers and the doorbell in them.

    Raises:
        KernelError: ENOSPC: there are more than ``room`` (None means any number).
    """
    at = edma_block(endpoint.edma_write_channels, endpoint.edma_read_channels).offset("RD_INT_STATUS")
    base, size = endpoint.edma_base, endpoint.edma_bytes
    found = [AuxResource("dma-control", base, size), AuxResource("doorbell", base + at, 4)]
    for region in wired_regions(endpoint):
        bar, start = region.bar, region.span.base
        found = [
            AuxResource("dma-control", base, min(size, region.span.size), 0, bar, start),
            AuxResource("doorbell", base + at, 4, 0, bar, start + at),
        ]
    if room is not None and room < len(found):
        raise KernelError(errno.ENOSPC, f"room for {room} resources of {len(found)}")
    return found
