"""The EP's own NTB device: the ``ntb_dev`` that pci-epf-vntb registers on its virtual PCI bus.

Control block and scratchpads are memory of the own node, read and written in place; what needs
the endpoint controller (translations, interrupts to the host) is asked of the ``epc`` process.
Index checks are those of the RC's driver, which the kernel leaves out here (10.23).

Source: Linux pci-epf-vntb.c, vntb_epf_ops.
"""

from __future__ import annotations

import errno
from typing import Any

from ntbnet.address import ADDRESS_END, Span
from ntbnet.devices.direct import CpuBus
from ntbnet.devices.effects import Outbox
from ntbnet.devices.memory import Allocator, Buffer, Window
from ntbnet.devices.msi_domain import MsiDomain
from ntbnet.devices.ntb import EpcResource, MwAlign, NtbDevice
from ntbnet.devices.task import Call, Task
from ntbnet.errors import KernelError, PeerError
from ntbnet.regs.ntb_ctrl import FIRST_DB_SLOT, LAYOUTS, LINK_UP, MAX_DOORBELLS, MAX_MWS
from ntbnet.wire import Notice

CONTROLLER = "epc"
ADDR_ALIGN, SIZE_ALIGN = 4096, 1
_EINVAL_READ = 0xFFFFFFEA


def _at_once() -> Task[None]:
    """An operation that needs no bus: a Task that ends without yielding."""
    yield from ()


class NtbVntb(NtbDevice):
    """The EP's NTB device. Made from the controller's answer to ``ntb_attach``.

    Args:
        attach: that answer.
        cpu: how its stores leave.
        dram: all of EP DRAM; the control block and the scratchpads lie in it.
        msi: messages of this host that the peer's window may reach; None when it reaches none.

    Raises:
        PeerError: the answer is impossible.
    """

    polls_doorbells = True

    def __init__(
        self,
        attach: dict[str, Any],
        *,
        outbox: Outbox,
        cpu: CpuBus,
        allocator: Allocator,
        dram: Window,
        msi: MsiDomain | None = None,
    ) -> None:
        super().__init__("pci-vntb")
        self._msi = msi
        self._outbox = outbox
        self._cpu = cpu
        self._allocator = allocator
        self._db = 0
        try:
            self._block = LAYOUTS[attach["ctrl_layout"]]
            self._spads = int(attach["spad_count"])
            self._db_count = int(attach["db_count"])
            pairs = zip(attach["outbound"], attach["mw_sizes"], strict=True)
            self._mws = [Span(int(addr), int(size)) for addr, size in pairs]
            self._offsets = [int(offset) for offset in attach["mw_offsets"]]
            self._mw_bars = [int(bar) for bar in attach["mw_bars"]]
            self._resources = tuple(_resource(one) for one in attach["resources"])
            self._mw_align = int(attach["mw_align"])
            spad_offset = int(attach["spad_offset"])
            start = int(attach["ctrl_addr"]) - dram.span.base
            self._ctrl = dram.sub(start, spad_offset + 8 * self._spads, "ctrl")
            self._spad_offset = spad_offset
        except (KeyError, TypeError, ValueError, OverflowError) as problem:
            raise PeerError(f"the controller describes an impossible device: {problem}") from None
        if not 1 <= len(self._mws) <= MAX_MWS or self._mw_align < 1 or self._mw_align & (self._mw_align - 1):
            raise PeerError(f"the controller describes {len(self._mws)} windows, align {self._mw_align:#x}")
        if not len(self._offsets) == len(self._mw_bars) == len(self._mws) or not all(
            0 <= at < 1 << 32 for at in self._offsets
        ):
            raise PeerError(f"the controller describes {len(self._mws)} windows at offsets {self._offsets}")
        if not 3 <= self._db_count <= MAX_DOORBELLS or self._spads < 0 or spad_offset < self._block.size:
            raise PeerError("the controller describes an impossible control block")

    def bound(self) -> None:
        """Log what was found."""
        bits = self._db_count - FIRST_DB_SLOT
        mws = len(self._mws)
        self._outbox.log("driver.bound", driver=self.name, mws=mws, spads=self._spads, db_bits=bits)

    # interrupts

    def on_doorbells(self, slots: int) -> None:
        """The poll found these slots rung: slot s is bit s - 2 and vector s - 2 (NTB 88)."""
        slots &= (1 << self._db_count) - 1 & ~((1 << FIRST_DB_SLOT) - 1)
        bits = slots >> FIRST_DB_SLOT
        self._db |= bits
        while bits:
            vector = (bits & -bits).bit_length() - 1
            bits &= bits - 1
            self.signal_db_event(vector)

    # NTB operations

    def _check_mw(self, widx: int) -> None:
        if not 0 <= widx < len(self._mws):
            raise KernelError(errno.EINVAL, f"window {widx}: there are {len(self._mws)}")

    def mw_count(self, pidx: int) -> int:
        """num_mws, whatever the peer index (NTB 67)."""
        return len(self._mws)

    def peer_mw_count(self) -> int:
        """num_mws."""
        return len(self._mws)

    def mw_get_align(self, pidx: int, widx: int) -> Task[MwAlign]:
        """4096, 1, the configured size, and where the window begins in its BAR (NTB 79)."""
        self._check_mw(widx)
        if not (yield from self.link_is_up()):
            raise KernelError(errno.ENOTCONN, "link is down")
        return MwAlign(ADDR_ALIGN, SIZE_ALIGN, self._mws[widx].size, self._offsets[widx])

    def mw_set_trans(self, pidx: int, widx: int, addr: int, size: int, offset: int = 0) -> Task[None]:
        """Have the controller point that part of the BAR at ``addr``."""
        self._check_mw(widx)
        args = {"widx": widx, "addr": addr, "size": size, "offset": offset}
        yield Call(CONTROLLER, "mw_set_trans", args)

    def mw_clear_trans(self, pidx: int, widx: int) -> Task[None]:
        """Have the window hit nothing (the kernel leaves it where it was, NTB 75)."""
        self._check_mw(widx)
        yield Call(CONTROLLER, "mw_clear_trans", {"widx": widx})

    def peer_mw_get_addr(self, widx: int) -> tuple[int, int]:
        """Outbound region and configured size."""
        self._check_mw(widx)
        return self._mws[widx].base, self._mws[widx].size

    def peer_mw_write(self, widx: int, offset: int, data: Buffer, what: str = "direct") -> None:
        """Posted store into the outbound region."""
        span = self._mws[widx]
        if offset < 0 or offset + len(data) > span.size:
            raise ValueError(f"store [{offset:#x}, +{len(data):#x}) leaves window {widx} of {span.size:#x}")
        self._cpu.write(span.base + offset, data, what)

    def peer_mw_lend(self, widx: int, size: int) -> Window | None:
        """In fabric ``local``, while its memory is granted."""
        span = self._mws[widx]
        return self._cpu.lend(span.base, size) if 0 < size <= span.size else None

    def fence(self) -> None:
        """Of this host's CPU."""
        self._cpu.fence()

    def get_pci_epc(self) -> tuple[EpcResource, ...]:
        """What the controller may lend."""
        return self._resources

    def msi_domain(self) -> MsiDomain | None:
        """Messages of the endpoint's MSI controller, where a window may reach it."""
        return self._msi

    def mw_bar(self, widx: int) -> int:
        """As configured."""
        self._check_mw(widx)
        return self._mw_bars[widx]

    def peer_mw_is_open(self, widx: int) -> Task[bool]:
        """Ask the controller whether the host has configured the outbound region."""
        self._check_mw(widx)
        reply = yield Call(CONTROLLER, "peer_mw_is_open", {"widx": widx})
        return reply.get("open") is True

    def peer_mw_bus(self, widx: int) -> Task[tuple[int, int] | None]:
        """Ask the controller where the host wants the outbound region to lead."""
        self._check_mw(widx)
        try:
            reply = yield Call(CONTROLLER, "peer_mw_bus", {"widx": widx})
        except KernelError:
            return None
        bus, size = reply.get("bus"), reply.get("size")
        if type(bus) is not int or type(size) is not int or bus < 0 or not 0 < size <= self._mws[widx].size:
            return None
        return (bus, size) if bus + size <= ADDRESS_END else None

    def alloc_coherent(self, size: int, alignment: int, name: str) -> Window | None:
        """EP DRAM behind the function's own part, aligned to the window's BAR."""
        return self._allocator.allocate(size, max(alignment, self._mw_align), name)

    def free_coherent(self, window: Window) -> None:
        """Give EP DRAM back."""
        self._allocator.free(window)

    def link_is_up(self) -> Task[int]:
        """link_status, bit 0; exactly 1 when up (NTB 57)."""
        yield from _at_once()
        return self._ctrl.load_u16(self._block.offset("link_status")) & LINK_UP

    def link_enable(self) -> Task[None]:
        """Tell the controller; the kernel's function does nothing here (NTB 53)."""
        return self._want_link(True)

    def link_disable(self) -> Task[None]:
        """As ``link_enable``: the link bit falls, and the host gets a link event."""
        return self._want_link(False)

    def _want_link(self, wanted: bool) -> Task[None]:
        self._outbox.send(CONTROLLER, Notice("link_wanted", {"up": wanted}))
        yield from _at_once()

    def db_valid_mask(self) -> int:
        """2^(db_count - 2) - 1 (NTB 97, repaired numbering)."""
        return (1 << (self._db_count - FIRST_DB_SLOT)) - 1

    def db_vector_count(self) -> int:
        """One vector for each bit."""
        return self._db_count - FIRST_DB_SLOT

    def db_vector_mask(self, vector: int) -> int:
        """The bit of that vector; 0 out of range."""
        return 1 << vector if 0 <= vector < self._db_count - FIRST_DB_SLOT else 0

    def db_read(self) -> int:
        """Set bits."""
        return self._db

    def db_clear(self, bits: int) -> None:
        """Clear ``bits``."""
        self._db &= ~bits

    def peer_db_set(self, bits: int) -> None:
        """Have the controller raise an MSI for each bit."""
        if bits <= 0 or bits >> (MAX_DOORBELLS - FIRST_DB_SLOT):
            raise KernelError(errno.EINVAL, f"doorbell bits {bits:#x}")
        self._cpu.doorbell(bits)

    def spad_count(self) -> int:
        """Scratchpads of one bank."""
        return self._spads

    def _spad(self, bank: int, sidx: int) -> int:
        if not 0 <= sidx < self._spads:
            raise KernelError(errno.EINVAL, f"scratchpad {sidx}: there are {self._spads}")
        return self._spad_offset + 4 * (bank * self._spads + sidx)

    def spad_read(self, sidx: int) -> Task[int]:
        """Bank B; 0 when out of range."""
        yield from _at_once()
        return self._ctrl.load_u32(self._spad(1, sidx)) if 0 <= sidx < self._spads else 0

    def spad_write(self, sidx: int, value: int) -> Task[None]:
        """Bank B."""
        yield from _at_once()
        self._ctrl.store_u32("spad.own", self._spad(1, sidx), value)

    def peer_spad_read(self, pidx: int, sidx: int) -> Task[int]:
        """Bank A; -EINVAL as the caller sees it when out of range."""
        yield from _at_once()
        if pidx != 0 or not 0 <= sidx < self._spads:
            return _EINVAL_READ
        return self._ctrl.load_u32(self._spad(0, sidx))

    def peer_spad_write(self, pidx: int, sidx: int, value: int) -> Task[None]:
        """Bank A."""
        yield from _at_once()
        if pidx != 0:
            raise KernelError(errno.EINVAL, f"peer {pidx}")
        self._ctrl.store_u32("spad.peer", self._spad(0, sidx), value)


def _resource(one: dict[str, Any]) -> EpcResource:
    numbers = [int(one[name]) for name in ("address", "size", "data", "bar", "bar_offset")]
    return EpcResource(str(one["kind"])[:32], *numbers)
