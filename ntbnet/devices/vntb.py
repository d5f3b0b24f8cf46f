"""pci-epf-vntb: the endpoint function that makes a bridge of an endpoint controller.

It owns the control block and the scratchpads (config BAR), the polled doorbell words (doorbell
BAR) and the memory window (its own BAR, and an outbound region for the other direction), all in
endpoint DRAM, and runs the command worker and doorbell poll as delayed work on the kernel tick.

Hazards of the kernel driver that are fixed here: 10.5 (every bit of a doorbell set is raised, 0
is refused), 10.6 (a doorbell word is cleared before its event), 10.11 (window index checked),
10.20, 10.31 (vectors above the grant). Doorbell numbering is the repaired one: bit n is slot
n + 2 both ways (10.1).

Source: Linux pci-epf-vntb.c; control block of the October 2025 RFC or the classic one.
"""

from __future__ import annotations

import errno
from collections import Counter
from typing import Any, Protocol

from ntbnet.address import hex_address, round_up, round_up_pow2
from ntbnet.config import Config
from ntbnet.devices.complaints import Once
from ntbnet.devices.effects import Outbox
from ntbnet.devices.memory import Allocator, Window
from ntbnet.devices.tick import Tick
from ntbnet.errors import KernelError
from ntbnet.regs.ntb_ctrl import (
    DB_ENTRY_SIZE,
    FIRST_DB_SLOT,
    LAYOUTS,
    LINK_UP,
    Command,
    CommandStatus,
    slot_of_db_bit,
)
from ntbnet.wire import Irq, IrqSource, Notice

CLIENT = "peer-ep"
MIN_REGION_BYTES = 128
"""Least a BAR region is allocated with (Linux pci_epf_alloc_space)."""
NS_PER_MS = 1_000_000


class Controller(Protocol):
    """What the function asks of its endpoint controller (the EPC API)."""

    def set_bar(self, bar: int, size: int, backing: Window | None) -> None:
        """Size a BAR and, with ``backing``, translate it there. KernelError as the kernel's."""

    def map_bar(self, bar: int, addr: int, size: int) -> None:
        """Point an existing BAR at local memory, in place."""

    def unmap_bar(self, bar: int) -> None:
        """Let a BAR hit nothing."""

    def allocate_outbound(self, size: int) -> int:
        """Local address of a piece of the outbound aperture. KernelError ENOMEM."""

    def map_addr(self, local: int, bus: int, size: int) -> None:
        """Map a piece of the aperture to the bus."""

    def unmap_addr(self, local: int) -> None:
        """Undo ``map_addr``; unknown addresses are ignored."""

    def raise_msi(self, number: int) -> None:
        """Raise MSI ``number`` (1-based) on the host. KernelError EINVAL."""


class Vntb:
    """The function, bound to ``controller``; sans-IO.

    Args:
        memory: DRAM the function allocates its regions from.
    """

    def __init__(
        self, config: Config, memory: Window, controller: Controller, outbox: Outbox, tick: Tick
    ) -> None:
        self._config = config
        self._controller = controller
        self._outbox = outbox
        self._tick = tick
        self._block = LAYOUTS[config.ntb.ctrl_layout]
        self._poll_ns = config.profile.kernel.poll_ms * NS_PER_MS
        self._memory = memory
        self.counters: Counter[str] = Counter()
        self._refusals = Once()
        self._mapped: tuple[int, int] | None = None
        self._client_attached = False
        self._client_epoch = 0
        self._bind()

    # binding

    def _bind(self) -> None:
        ntb, bars = self._config.ntb, self._config.bars
        allocator = Allocator(self._memory)
        self._spad_offset = self._block.size
        ctrl_bytes = self._block.size + 2 * 4 * ntb.spad_count
        self.ctrl = self._allocate(allocator, bars.ctrl, ctrl_bytes, "ctrl")
        self.doorbells = self._allocate(allocator, bars.db, 4 * ntb.db_count, "doorbells")
        first = FIRST_DB_SLOT * DB_ENTRY_SIZE
        self._doorbell_view = self.doorbells.view(first, ntb.db_count * DB_ENTRY_SIZE - first)
        self._silent = bytes(len(self._doorbell_view))
        self._command_at = self._block.offset("command")
        # a BAR-match window's target is aligned to the BAR, which may be larger than the window
        self._mw_align = mw_bar_bytes = self._bar_bytes(bars.mw1, ntb.mw1)
        # a classic block has no place for the size: the host takes the BAR's, so the window fills it
        self._mw_size = ntb.mw1 if "mw_size" in self._block else mw_bar_bytes
        self._fill_control_block()
        self._controller.set_bar(bars.ctrl, self.ctrl.size, self.ctrl)
        self._controller.set_bar(bars.db, self.doorbells.size, self.doorbells)
        self._controller.set_bar(bars.mw1, mw_bar_bytes, None)
        self._outbound = self._controller.allocate_outbound(self._mw_size)
        self._next_poll_ns: int | None = None

    def _bar_bytes(self, bar: int, wanted: int) -> int:
        """Size of a BAR's region: fixed, or the next power of two, at least what the BAR can do."""
        spec = self._config.profile.endpoint.bars[bar]
        size = max(wanted, MIN_REGION_BYTES)
        if spec.kind == "fixed":
            if size > spec.fixed_size:
                raise KernelError(errno.EINVAL, f"BAR{bar} has {spec.fixed_size} bytes, {size} are needed")
            return spec.fixed_size
        if spec.kind == "resizable":
            size = max(size, 1 << 20)
        return round_up_pow2(size)

    def _allocate(self, allocator: Allocator, bar: int, wanted: int, name: str) -> Window:
        size = self._bar_bytes(bar, wanted)
        # the iATU wants a BAR's target aligned to the BAR and to its own region
        align = self._config.profile.endpoint.align
        window = allocator.allocate(round_up(size, align), max(size, align), name)
        if window is None:
            raise KernelError(errno.ENOMEM, f"no endpoint memory for {name}, {size:#x} bytes")
        return window.sub(0, size, name)

    def _fill_control_block(self) -> None:
        ntb, block, ctrl = self._config.ntb, self._block, self.ctrl
        ctrl.store_u32("ctrl.num_mws", block.offset("num_mws"), ntb.num_mws)
        if "mw_size" in block:
            ctrl.store_u32("ctrl.mw_offset", block.offset("mw_offset", 0), 0)
            ctrl.store_u32("ctrl.mw_size", block.offset("mw_size", 0), ntb.mw1 & 0xFFFFFFFF)
        ctrl.store_u32("ctrl.spad_offset", block.offset("spad_offset"), self._spad_offset)
        ctrl.store_u32("ctrl.spad_count", block.offset("spad_count"), ntb.spad_count)
        ctrl.store_u32("ctrl.db_entry_size", block.offset("db_entry_size"), DB_ENTRY_SIZE)
        for slot in range(ntb.db_count):
            ctrl.store_u32("ctrl.db_data", block.offset("db_data", slot), slot + 1)

    def start(self, now_ns: int) -> None:
        """Start the poll, as the end of the kernel's bind does."""
        self._next_poll_ns = self._tick.expiry(now_ns, self._poll_ns)

    # link

    @property
    def link_is_up(self) -> bool:
        """Bit 0 of link_status."""
        return bool(self.ctrl.load_u16(self._block.offset("link_status")) & LINK_UP)

    def _set_link(self, up: bool, reason: str) -> None:
        """Store the link bit and tell the client; the host may have scribbled on it, so always."""
        if up != self.link_is_up:
            self._outbox.log("link.status_changed", up=up, reason=reason)
        self.ctrl.store_u16("ctrl.link_status", self._block.offset("link_status"), LINK_UP if up else 0)
        self._signal_link(up)

    def _signal_link(self, up: bool) -> None:
        if self._client_attached:
            self._outbox.send(CLIENT, Notice("link_event", {"up": up}, self._client_epoch))
        else:
            self.counters["link_events_dropped"] += 1

    def reset(self, reason: str) -> None:
        """The host side is gone: control block, doorbells and scratchpads as after bind.

        The next host must not find what this one scribbled into the block. The window hits nothing
        any more; the EP's client gets its link event (10.15).
        """
        self._set_link(False, reason)
        self.ctrl.zero("ctrl")
        self._fill_control_block()
        self.doorbells.zero("doorbells")
        self._controller.unmap_bar(self._config.bars.mw1)
        self._unmap_outbound()

    # poll: doorbells, then one command

    def next_deadline(self) -> int | None:
        """When the poll work runs next."""
        return self._next_poll_ns

    def poll(self, now_ns: int) -> None:
        """One run of the poll work, in the kernel's order (NTB 50)."""
        self.counters["polls"] += 1
        self._poll_doorbells()
        self._poll_command()
        self._next_poll_ns = self._tick.expiry(now_ns, self._poll_ns)

    def _poll_doorbells(self) -> None:
        words = self.doorbells
        slots = 0
        # one comparison of the whole region decides the usual case, that nothing was rung
        if self._doorbell_view.tobytes() != self._silent:
            for slot in range(FIRST_DB_SLOT, self._config.ntb.db_count):
                if words.load_u32(slot * DB_ENTRY_SIZE):
                    words.store_u32("doorbell.clear", slot * DB_ENTRY_SIZE, 0)
                    slots |= 1 << slot
        if slots:
            self.counters["doorbell_polls_hit"] += 1
            if self._client_attached:
                self._outbox.send(CLIENT, Irq(IrqSource.DOORBELL_SLOTS, slots, self._client_epoch))
            else:
                self.counters["doorbells_dropped"] += 1

    def _poll_command(self) -> None:
        ctrl, block = self.ctrl, self._block
        code = ctrl.load_u32(self._command_at)
        if not code:
            return
        argument = ctrl.load_u32(block.offset("argument"))
        ctrl.store_u32("ctrl.command", block.offset("command"), 0)
        ctrl.store_u32("ctrl.argument", block.offset("argument"), 0)
        self.counters["commands"] += 1
        try:
            command = Command(code)
        except ValueError:
            self.counters["commands_unknown"] += 1
            self._outbox.log("command.unknown", command=code, argument=argument)
            return
        status = CommandStatus.OK
        try:
            self._execute(command, argument)
        except KernelError as failure:
            status = CommandStatus.ERROR
            self._outbox.log("command.failed", command=command.name, reason=str(failure))
        ctrl.store_u16("ctrl.command_status", block.offset("command_status"), status)
        self._outbox.log("command.executed", command=command.name, argument=argument, status=status.name)

    def _execute(self, command: Command, argument: int) -> None:
        if command is Command.CONFIGURE_MW:
            self._check_mw(argument)
            addr, size = self._load_u64("addr"), self._load_u64("size")
            if not 1 <= size <= self._mw_size:
                raise KernelError(errno.EINVAL, f"CONFIGURE_MW size {size:#x}: allowed 1..{self._mw_size:#x}")
            self._map_outbound(addr, size)
        elif command is Command.TEARDOWN_MW:
            self._check_mw(argument)
            self._unmap_outbound()
        elif command is Command.LINK_UP:
            self._set_link(True, "LINK_UP from the RC")
        elif command is Command.LINK_DOWN:
            self._set_link(False, "LINK_DOWN from the RC")

    def _map_outbound(self, addr: int, size: int) -> None:
        """Swap the mapping of the window; one that the controller refuses leaves the old one in force."""
        old = self._mapped
        self._unmap_outbound()
        try:
            self._controller.map_addr(self._outbound, addr, size)
        except KernelError:
            if old is not None:
                self._controller.map_addr(self._outbound, *old)
                self._mapped = old
            raise
        self._mapped = addr, size

    def _unmap_outbound(self) -> None:
        self._controller.unmap_addr(self._outbound)
        self._mapped = None

    def _check_mw(self, widx: int) -> None:
        if not 0 <= widx < self._config.ntb.num_mws:
            raise KernelError(errno.EINVAL, f"window {widx}: allowed 0..{self._config.ntb.num_mws - 1}")

    def _load_u64(self, name: str) -> int:
        offset = self._block.offset(name)
        return self.ctrl.load_u32(offset) | self.ctrl.load_u32(offset + 4) << 32

    # operations of the EP's own NTB device

    def attach_client(self, epoch: int) -> dict[str, Any]:
        """Let the EP's client in; what it needs to know about the device."""
        self._client_attached = True
        self._client_epoch = epoch
        ntb = self._config.ntb
        return {
            "ctrl_addr": self.ctrl.span.base,
            "ctrl_layout": ntb.ctrl_layout,
            "spad_offset": self._spad_offset,
            "spad_count": ntb.spad_count,
            "db_count": ntb.db_count,
            "mw_sizes": [self._mw_size],
            "mw_align": self._mw_align,
            "outbound": [self._outbound],
        }

    def set_client_epoch(self, epoch: int) -> None:
        """The link came up in a new epoch while the client stayed attached."""
        self._client_epoch = epoch

    def detach_client(self) -> None:
        """The EP's client is gone: its events are dropped from now on."""
        self._client_attached = False

    def mw_set_trans(self, widx: int, addr: int, size: int) -> None:
        """Point the inbound window at the client's memory; the BAR keeps size and bus address."""
        self._check_mw(widx)
        if not 1 <= size <= self._mw_size:
            raise KernelError(errno.EINVAL, f"mw_set_trans size {size:#x}: allowed 1..{self._mw_size:#x}")
        self._controller.map_bar(self._config.bars.mw1, addr, size)
        self._outbox.log("mw.configured", widx=widx, addr=hex_address(addr), size_bytes=size)

    def peer_db_set(self, bits: int) -> None:
        """Raise one MSI for each bit: bit n is MSI number n + 3 (NTB 93)."""
        if not bits:
            self._refuse_doorbell("no bit set", 0)
        while bits:
            bit = (bits & -bits).bit_length() - 1
            bits &= bits - 1
            try:
                self._controller.raise_msi(slot_of_db_bit(bit) + 1)
                self.counters["msis_raised"] += 1
            except (KernelError, ValueError) as failure:
                self._refuse_doorbell(str(failure), bit)

    def _refuse_doorbell(self, cause: str, bit: int) -> None:
        self.counters["doorbells_refused"] += 1
        if self._refusals.is_first(cause):
            self._outbox.log("msi.refused", cause=cause, vector=bit + FIRST_DB_SLOT)
