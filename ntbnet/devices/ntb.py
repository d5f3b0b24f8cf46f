"""The NTB API: what a client (the transport) may ask of the NTB device of its side.

Plain methods answer at once.  Methods that may need the bus are generators (``Task``), used
with ``yield from``; on the endpoint, whose registers are local memory, they never yield.
Errors are KernelError with the kernel's errno.  Port numbers are 0/0 and there is one peer,
index 0 (Linux drivers/ntb/core.c; topology NTB_TOPO_NONE).
"""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

from ntbnet.devices.memory import Buffer, Window
from ntbnet.devices.msi_domain import MsiDomain
from ntbnet.devices.task import Task
from ntbnet.errors import KernelError


@dataclass(frozen=True, slots=True)
class MwAlign:
    """Constraints of an inbound window: alignments, largest size, where it begins in its BAR; bytes."""

    addr_align: int
    size_align: int
    size_max: int
    offset: int = 0


@dataclass(frozen=True, slots=True)
class EpcResource:
    """Something of the endpoint controller behind a device that may be lent to the peer.

    Attributes:
        kind: ``dma-control`` (the eDMA registers) or ``doorbell`` (a word that rings this side).
        address: CPU address of this side.
        size: bytes.
        data: what rings a doorbell.
        bar: BAR that the hardware wires it into; -1 when it does not.
        bar_offset: first byte in that BAR.
    """

    kind: str
    address: int
    size: int
    data: int
    bar: int
    bar_offset: int


class NtbClient(Protocol):
    """Callbacks of the one client of a device; they run one at a time and must not block."""

    def link_event(self) -> None:
        """The link may have changed: query it."""

    def db_event(self, vector: int) -> None:
        """Doorbell interrupt ``vector`` (0-based) came in."""


class NtbDevice(ABC):
    """One side's ``ntb_dev``. ``widx`` counts memory windows, ``sidx`` scratchpads, ``pidx`` peers."""

    polls_doorbells = False
    """Doorbells are no interrupts: somebody polls them, and that bounds how soon a ring is heard."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._client: NtbClient | None = None
        self.dropped_events = 0

    # client context (Linux ntb_set_ctx, ntb_clear_ctx, ntb_link_event, ntb_db_event)

    def set_ctx(self, client: NtbClient) -> None:
        """Bind the client. EINVAL when one is bound already."""
        if self._client is not None:
            raise KernelError(errno.EINVAL, f"{self.name} has a client already")
        self._client = client

    def clear_ctx(self) -> None:
        """Unbind; no callback runs afterwards."""
        self._client = None

    def signal_link_event(self) -> None:
        """Tell the client, or drop the event when there is none."""
        if self._client is None:
            self.dropped_events += 1
        else:
            self._client.link_event()

    def signal_db_event(self, vector: int) -> None:
        """Tell the client, or drop the event when there is none."""
        if self._client is None:
            self.dropped_events += 1
        else:
            self._client.db_event(vector)

    # memory windows

    @abstractmethod
    def mw_count(self, pidx: int) -> int:
        """Inbound windows for that peer. EINVAL for a peer other than 0."""

    @abstractmethod
    def peer_mw_count(self) -> int:
        """Outbound windows."""

    @abstractmethod
    def mw_get_align(self, pidx: int, widx: int) -> Task[MwAlign]:
        """Constraints of window ``widx``. ENOTCONN while the link is down, EINVAL for a bad index."""

    @abstractmethod
    def mw_set_trans(self, pidx: int, widx: int, addr: int, size: int, offset: int = 0) -> Task[None]:
        """Expose ``size`` bytes of own memory at ``addr`` through window ``widx``.

        ``offset`` in the window's BAR is what mw_get_align gave; a device whose windows fill their
        BARs ignores it.
        """

    @abstractmethod
    def mw_clear_trans(self, pidx: int, widx: int) -> Task[None]:
        """Stop exposing window ``widx``."""

    @abstractmethod
    def peer_mw_get_addr(self, widx: int) -> tuple[int, int]:
        """CPU address and size in bytes of outbound window ``widx``. EINVAL for a bad index."""

    @abstractmethod
    def peer_mw_write(self, widx: int, offset: int, data: Buffer, what: str = "direct") -> None:
        """Posted store of ``data`` at ``offset`` of outbound window ``widx``.

        Stores of one caller arrive in order. The buffer may be reused once the call returned.
        ``what`` names the store where it is a direct one (see ``crash_points``).

        Raises:
            ValueError: the store leaves the window (a caller's bug: nothing is sent).
        """

    def peer_mw_lend(self, widx: int, size: int) -> Window | None:
        """The first ``size`` bytes of outbound window ``widx``, to store in past ``peer_mw_write``.

        None: now they cannot be stored to in place. What is lent is revoked when that ends. Stores made
        there are seen at once, and do not wait for effects that were asked for before.
        """
        return None

    def peer_mw_is_direct(self, widx: int, size: int) -> bool:
        """Stores to the first ``size`` bytes of window ``widx`` go in place, behind effects asked for."""
        return self.peer_mw_lend(widx, size) is not None

    def fence(self) -> None:
        """The peer sees every store to lent memory before a later load of own memory is done."""

    # interrupts that are no doorbells

    def get_pci_epc(self) -> tuple[EpcResource, ...]:
        """Resources of the endpoint controller behind the device; empty when there is none (-ENODEV)."""
        return ()

    def msi_domain(self) -> MsiDomain | None:
        """Messages of the device's MSI controller that clients may request; None: it has no MSI data."""
        return None

    def mw_bar(self, widx: int) -> int:
        """BAR that inbound window ``widx`` lies in; -1 when the driver cannot tell."""
        return -1

    @abstractmethod
    def peer_mw_is_open(self, widx: int) -> Task[bool]:
        """True when a store to outbound window ``widx`` gets to the peer, as far as this side knows."""

    def peer_mw_bus(self, widx: int) -> Task[tuple[int, int] | None]:
        """Bus address and size, bytes, that outbound window ``widx`` leads to in this link epoch.

        For a DMA engine that sends to the bus without an outbound window. None: unknown, or this side
        has no such engine.
        """
        yield from ()
        return None

    # memory a window may be pointed at

    @abstractmethod
    def alloc_coherent(self, size: int, alignment: int, name: str) -> Window | None:
        """Zeroed own DRAM for a window, pages not used in the last epoch; None means ENOMEM."""

    @abstractmethod
    def free_coherent(self, window: Window) -> None:
        """Give it back."""

    # link

    @abstractmethod
    def link_is_up(self) -> Task[int]:
        """Bit mask of peers whose link is up: 0 or 1."""

    @abstractmethod
    def link_enable(self) -> Task[None]:
        """Ask for the link, speed and width AUTO; it is up once both sides have asked."""

    @abstractmethod
    def link_disable(self) -> Task[None]:
        """Drop the link, for both sides."""

    # doorbells

    @abstractmethod
    def db_valid_mask(self) -> int:
        """Usable doorbell bits."""

    def db_vector_count(self) -> int:
        """Doorbell vectors; 1 when the driver has no such operation."""
        return 1

    def db_vector_mask(self, vector: int) -> int:
        """Bits that ``vector`` may stand for; every valid one when the driver does not say."""
        return self.db_valid_mask()

    @abstractmethod
    def db_read(self) -> int:
        """Own doorbell bits that are set."""

    @abstractmethod
    def db_clear(self, bits: int) -> None:
        """Clear exactly ``bits`` of the own doorbell."""

    def db_set_mask(self, bits: int) -> None:
        """Accepted and without effect on this hardware (NTB 100)."""

    def db_clear_mask(self, bits: int) -> None:
        """Accepted and without effect on this hardware (NTB 100)."""

    @abstractmethod
    def peer_db_set(self, bits: int) -> None:
        """Ring every bit of ``bits`` on the peer, behind all earlier stores. EINVAL for 0 or invalid bits."""

    # scratchpads

    @abstractmethod
    def spad_count(self) -> int:
        """Scratchpads of one bank."""

    @abstractmethod
    def spad_read(self, sidx: int) -> Task[int]:
        """Own scratchpad; 0 when out of range (NTB 62)."""

    @abstractmethod
    def spad_write(self, sidx: int, value: int) -> Task[None]:
        """Own scratchpad. EINVAL out of range."""

    @abstractmethod
    def peer_spad_read(self, pidx: int, sidx: int) -> Task[int]:
        """Peer scratchpad; 0xFFFFFFEA (-EINVAL) when out of range (NTB 63)."""

    @abstractmethod
    def peer_spad_write(self, pidx: int, sidx: int, value: int) -> Task[None]:
        """Peer scratchpad. EINVAL out of range."""
