"""pci-epf-vntb: the endpoint function that makes a bridge of an endpoint controller.

It owns the control block and the scratchpads (config BAR) and the polled doorbell words (their own
BAR, or the config BAR behind the scratchpads, found through db_offset), all in endpoint DRAM, and the
memory windows (``vntb_windows``), and runs the command worker and doorbell poll as delayed work on
the kernel tick.

Hazards of the kernel driver that are fixed here: 10.5 (every bit of a doorbell set is raised, 0
is refused), 10.6 (a doorbell word is cleared before its event), 10.11 (window index checked),
10.20, 10.29 (what is raised is what the host enabled, MSI-X or MSI), 10.31 (vectors above the grant).
Doorbell numbering is the repaired one: bit n is slot n + 2 both ways (10.1).

Source: Linux pci-epf-vntb.c; control block of the October 2025 RFC or the classic one.
"""

from __future__ import annotations

import errno
from collections import Counter
from typing import Any, Protocol

from ntbnet.address import round_up
from ntbnet.config import Config
from ntbnet.devices.complaints import Once
from ntbnet.devices.effects import Outbox
from ntbnet.devices.epc_features import EpcHeader
from ntbnet.devices.host_irq import IrqKind
from ntbnet.devices.memory import Allocator, Window
from ntbnet.devices.msix import table_bytes
from ntbnet.devices.tick import Tick
from ntbnet.devices.vntb_windows import MemoryWindows, WindowController
from ntbnet.devices.wired import AuxResource
from ntbnet.errors import KernelError
from ntbnet.regs.cfgspace import MSIX_ENTRY_BYTES
from ntbnet.regs.ntb_ctrl import (
    DB_ENTRY_SIZE,
    FIRST_DB_SLOT,
    LAYOUTS,
    LINK_SLOT,
    LINK_UP,
    Command,
    CommandStatus,
    slot_of_db_bit,
)
from ntbnet.wire import Irq, IrqSource, Notice

CLIENT = "peer-ep"
MEMORY_RAM = 0x0500
"""Class code (memory, RAM), which ntb_hw_epf matches together with the ids."""
NS_PER_MS = 1_000_000


class Controller(WindowController, Protocol):
    """What the function asks of its endpoint controller (the EPC API)."""

    def write_header(self, header: EpcHeader) -> None:
        """Fill in the configuration header."""

    def set_msi(self, count: int) -> None:
        """Offer MSI vectors. KernelError EINVAL."""

    def set_msix(self, count: int, bar: int, offset: int) -> None:
        """Offer MSI-X vectors, table at ``offset`` of ``bar``. KernelError EINVAL."""

    def get_msix(self) -> int:
        """MSI-X vectors the host enabled."""

    def raise_irq(self, kind: IrqKind, number: int) -> None:
        """Raise interrupt ``number`` (1-based) on the host. KernelError EINVAL, EPERM."""

    def get_aux_resources(self, room: int | None = None) -> list[AuxResource]:
        """What the controller owns and may lend."""


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
        self.windows = MemoryWindows(config, controller, outbox)
        self.counters: Counter[str] = Counter()
        self._refusals = Once()
        self._client_attached = False
        self._client_epoch = 0
        self._client_wants = True
        self._host_wants = False
        self._bind()

    # binding

    def _bind(self) -> None:
        config, controller = self._config, self._controller
        ntb, bars, region = config.ntb, config.bars, config.db_region
        endpoint = config.profile.endpoint
        allocator = Allocator(self._memory)
        self._spad_offset = self._block.size
        used = self._block.size + 2 * 4 * ntb.spad_count
        self.ctrl = self._allocate(allocator, bars.ctrl, "ctrl")
        if region.bar == bars.ctrl:
            self.doorbells = self.ctrl.sub(region.offset, region.size, "doorbells")
            used = region.offset + region.size
        else:
            self.doorbells = self._allocate(allocator, region.bar, "doorbells")
        first = FIRST_DB_SLOT * DB_ENTRY_SIZE
        self._doorbell_view = self.doorbells.view(first, ntb.db_count * DB_ENTRY_SIZE - first)
        self._silent = bytes(len(self._doorbell_view))
        self._command_at = self._block.offset("command")
        self._msix_table = self._place_msix_table(used)
        self._fill_control_block()
        controller.set_bar(bars.ctrl, self.ctrl.size, self.ctrl.span.base)
        if endpoint.msi:
            controller.set_msi(endpoint.msi_vectors)
        if self._msix_table is not None:
            controller.set_msix(endpoint.msi_vectors, bars.ctrl, self._msix_table)
        if region.bar != bars.ctrl:
            controller.set_bar(region.bar, self.doorbells.size, self.doorbells.span.base)
        self.windows.bind()
        controller.write_header(EpcHeader(ntb.vendor_id, ntb.device_id, MEMORY_RAM))
        self._next_poll_ns: int | None = None

    def _allocate(self, allocator: Allocator, bar: int, name: str) -> Window:
        """Memory for a whole BAR; the iATU wants it aligned to the BAR and to its own region."""
        size, align = self._config.bar_sizes[bar], self._controller.get_features().align
        window = allocator.allocate(round_up(size, align), max(size, align), name)
        if window is None:
            raise KernelError(errno.ENOMEM, f"no endpoint memory for {name}, {size:#x} bytes")
        return window.sub(0, size, name)

    def _place_msix_table(self, used: int) -> int | None:
        """Offset of the MSI-X table in the config BAR, behind everything else; None without MSI-X or room."""
        endpoint, at = self._config.profile.endpoint, round_up(used, 8)
        room = at + table_bytes(endpoint.msi_vectors) <= self.ctrl.size
        return at if endpoint.msix and room else None

    def _fill_control_block(self) -> None:
        ntb, block, ctrl = self._config.ntb, self._block, self.ctrl
        ctrl.store_u32("ctrl.num_mws", block.offset("num_mws"), ntb.num_mws)
        for plan in self.windows.plans:
            if "mw_size" in block:
                at = plan.index
                ctrl.store_u32("ctrl.mw_offset", block.offset("mw_offset", at), plan.offset & 0xFFFFFFFF)
                ctrl.store_u32("ctrl.mw_size", block.offset("mw_size", at), plan.size & 0xFFFFFFFF)
            elif not plan.index:
                ctrl.store_u32("ctrl.mw1_offset", block.offset("mw1_offset"), plan.offset & 0xFFFFFFFF)
        ctrl.store_u32("ctrl.spad_offset", block.offset("spad_offset"), self._spad_offset)
        ctrl.store_u32("ctrl.spad_count", block.offset("spad_count"), ntb.spad_count)
        ctrl.store_u32("ctrl.db_entry_size", block.offset("db_entry_size"), DB_ENTRY_SIZE)
        for slot in range(ntb.db_count):
            ctrl.store_u32("ctrl.db_data", block.offset("db_data", slot), slot + 1)
            offset = self._config.db_region.offset
            ctrl.store_u32("ctrl.db_offset", block.offset("db_offset", slot), offset)
        if self._msix_table is not None:
            for vector in range(self._config.profile.endpoint.msi_vectors):
                control = self._msix_table + MSIX_ENTRY_BYTES * (vector + 1) - 4
                ctrl.store_u32("ctrl.msix_mask", control, 1)

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

    def set_client_wants(self, wanted: bool) -> None:
        """The EP's client asks for the link or drops it: the bit is up while both sides want it.

        A change is told to the host by its link interrupt.
        """
        self._client_wants = wanted
        up = wanted and self._host_wants
        if up == self.link_is_up:
            return
        self._set_link(up, f"link {'asked for' if wanted else 'dropped'} by the endpoint")
        try:
            self._controller.raise_irq(self._irq_kind(), LINK_SLOT + 1)
        except (KernelError, ValueError) as failure:
            self._refuse_doorbell(str(failure), LINK_SLOT - FIRST_DB_SLOT)

    def _irq_kind(self) -> IrqKind:
        return IrqKind.MSIX if self._controller.get_msix() else IrqKind.MSI

    def _signal_link(self, up: bool) -> None:
        if self._client_attached:
            self._outbox.send(CLIENT, Notice("link_event", {"up": up}, self._client_epoch))
        else:
            self.counters["link_events_dropped"] += 1

    def reset(self, reason: str) -> None:
        """The host side is gone: control block, doorbells and scratchpads as after bind.

        The next host must not find what this one scribbled into the block. The windows hit nothing
        any more; the EP's client gets its link event (10.15).
        """
        self._host_wants = False
        self._set_link(False, reason)
        self.ctrl.zero("ctrl.reset")
        self._fill_control_block()
        self.doorbells.zero("doorbell.reset")
        self.windows.close_all()
        for widx in range(len(self.windows)):
            self.windows.unmap_outbound(widx)

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
                    words.store_u32("doorbell.cleared", slot * DB_ENTRY_SIZE, 0)
                    slots |= 1 << slot
        if slots:
            self.counters["doorbell_polls_hit"] += 1
            if self._client_attached:
                self._outbox.signal(CLIENT, Irq(IrqSource.DOORBELL_SLOTS, slots, self._client_epoch))
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
            largest = self.windows.check(argument).size
            addr, size = self._load_u64("addr"), self._load_u64("size")
            if not 1 <= size <= largest:
                raise KernelError(errno.EINVAL, f"CONFIGURE_MW size {size:#x}: allowed 1..{largest:#x}")
            self.windows.map_outbound(argument, addr, size)
        elif command is Command.TEARDOWN_MW:
            self.windows.check(argument)
            self.windows.unmap_outbound(argument)
        elif command is Command.LINK_UP:
            self._host_wants = True
            self._set_link(self._client_wants, "LINK_UP from the RC")
        elif command is Command.LINK_DOWN:
            self._host_wants = False
            self._set_link(False, "LINK_DOWN from the RC")

    def _load_u64(self, name: str) -> int:
        offset = self._block.offset(name)
        return self.ctrl.load_u32(offset) | self.ctrl.load_u32(offset + 4) << 32

    # operations of the EP's own NTB device

    def attach_client(self, epoch: int) -> dict[str, Any]:
        """Let the EP's client in; what it needs to know about the device."""
        self._client_attached = self._client_wants = True
        self._client_epoch = epoch
        ntb = self._config.ntb
        return {
            "ctrl_addr": self.ctrl.span.base,
            "ctrl_layout": ntb.ctrl_layout,
            "spad_offset": self._spad_offset,
            "spad_count": ntb.spad_count,
            "db_count": ntb.db_count,
            "mw_sizes": [plan.size for plan in self.windows.plans],
            "mw_offsets": [plan.offset for plan in self.windows.plans],
            "mw_bars": [plan.bar for plan in self.windows.plans],
            "mw_align": self.windows.target_align,
            "outbound": list(self.windows.outbound),
            "resources": [
                {"kind": one.kind, "address": one.address, "size": one.size, "data": one.data}
                | {"bar": -1 if one.bar is None else one.bar, "bar_offset": one.bar_offset}
                for one in self._controller.get_aux_resources()
            ],
        }

    def set_client_epoch(self, epoch: int) -> None:
        """The link came up in a new epoch while the client stayed attached."""
        self._client_epoch = epoch

    def detach_client(self) -> None:
        """The EP's client is gone: its events are dropped from now on."""
        self._client_attached = False

    def mw_set_trans(self, widx: int, addr: int, size: int, offset: int) -> None:
        """Point ``size`` bytes from ``offset`` of the window's BAR at the client's memory."""
        self.windows.open(widx, addr, size, offset)

    def mw_clear_trans(self, widx: int) -> None:
        """Let the window hit nothing: it must not outlive the memory behind it (NTB 75)."""
        self.windows.close(widx)

    def peer_db_set(self, bits: int) -> None:
        """Raise one interrupt for each bit: bit n is MSI or MSI-X number n + 3 (NTB 93)."""
        kind = self._irq_kind()
        if not bits:
            self._refuse_doorbell("no bit set", 0)
        while bits:
            bit = (bits & -bits).bit_length() - 1
            bits &= bits - 1
            try:
                self._controller.raise_irq(kind, slot_of_db_bit(bit) + 1)
                self.counters["msis_raised"] += 1
            except (KernelError, ValueError) as failure:
                self._refuse_doorbell(str(failure), bit)

    def _refuse_doorbell(self, cause: str, bit: int) -> None:
        self.counters["doorbells_refused"] += 1
        if self._refusals.is_first(cause):
            self._outbox.log("msi.refused", cause=cause, vector=bit + FIRST_DB_SLOT)
