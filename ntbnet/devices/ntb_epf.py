"""ntb_hw_epf: the RC's driver for the endpoint function, as an NTB device.

Everything it learns comes from the other host and is checked before use: a block of the wrong
layout, impossible counts or a window outside its BAR refuse the device (HAZARD 11.i, 11.e).
Doorbell data and offsets are read once at probe and kept, where the kernel reads them anew for
each ring and trusts them (one non-posted round trip a word). Fixed here: 10.5, 10.8, 10.11,
10.12. The status of a command is polled every 0.5 ms instead of every 5..10 us: each poll is a
message round trip.

Source: Linux ntb_hw_epf.c (6.1.192; BAR map of the October 2025 RFC).
"""

from __future__ import annotations

import errno
import struct
from collections import Counter
from dataclasses import dataclass
from typing import Any

from ntbnet.address import Span, hex_address
from ntbnet.devices.complaints import Once
from ntbnet.devices.direct import CpuBus
from ntbnet.devices.dma import DmaFilter
from ntbnet.devices.effects import Outbox
from ntbnet.devices.memory import Allocator, Buffer, Window
from ntbnet.devices.msi import MSI_BYTES
from ntbnet.devices.msi_domain import MsiDomain
from ntbnet.devices.ntb import MwAlign, NtbDevice
from ntbnet.devices.task import Acquire, Call, Mutex, Read, Release, Sleep, Task, Tasks
from ntbnet.errors import KernelError, PeerError
from ntbnet.regs.ntb_ctrl import (
    FIRST_DB_SLOT,
    LAYOUTS,
    LINK_ABSENT,
    LINK_SLOT,
    LINK_UP,
    MAX_DOORBELLS,
    MAX_MWS,
    MSIX_FLAG,
    UNUSED_SLOT,
    Command,
    CommandStatus,
    slot_of_db_bit,
)

HOST = "rc-host"
LEAST_VECTORS, MOST_VECTORS = 4, 32
"""3 doorbells at least, 31 at most, and the link vector."""
COMMAND_POLL_NS = 500_000
LOOK_AGAIN_NS = 100_000_000
ADDR_ALIGN, SIZE_ALIGN = 4096, 1
MAX_SPADS = 1024
"""Most scratchpads that are believed: as many as an endpoint can be configured with."""
CLASS_MEMORY_RAM = 0x0500
_WORD = 0xFFFFFFFF
_EINVAL_READ = 0xFFFFFFEA
_UNHEARD = b"\0\0\0\0"
"""Doorbell datum of a slot the endpoint does not poll; storing it would ring nothing."""
_U32 = struct.Struct("<I")
_U16 = struct.Struct("<H")


@dataclass(frozen=True, slots=True)
class BarMap:
    """Which BAR holds what, by platform."""

    config: int
    db: int
    mws: tuple[int, ...]


BAR_MAPS = {
    (0x1912, 0x0030): BarMap(config=0, db=4, mws=(2, 2)),
    (0x1957, 0x0809): BarMap(config=0, db=2, mws=(4, 5)),
}
"""Device table: Renesas R-Car (with the RFC's second window) and i.MX8; all of class 0x0500."""


def bar_map_override(vendor_id: int, device_id: int, placed: BarMap) -> BarMap | None:
    """``placed``, where a configuration puts the BARs; None when the device table says so already."""
    known = BAR_MAPS.get((vendor_id, device_id))
    if known is None or (known.config, known.db) != (placed.config, placed.db):
        return placed
    return None if known.mws[: len(placed.mws)] == placed.mws else placed


class NtbEpf(NtbDevice):
    """The RC's NTB device. Made for one device-added notice; gone with its link epoch.

    Args:
        notice: arguments of ``device_added``.
        layout: ``rfc1`` or ``classic``.
        cpu: how its stores leave.
        mapped: told of the memory that the endpoint may reach.
        bar_map: takes the place of the device table (the configuration may place BARs elsewhere).
        counters: gets ``irqs_spurious`` and ``doorbells_unheard``.

    Raises:
        PeerError: another class, ids that no BAR map is known for, or BARs that cannot be.
    """

    def __init__(
        self,
        notice: dict[str, Any],
        *,
        outbox: Outbox,
        tasks: Tasks,
        cpu: CpuBus,
        mapped: DmaFilter,
        allocator: Allocator,
        layout: str,
        bar_map: BarMap | None = None,
        command_timeout_ns: int,
        counters: Counter[str],
    ) -> None:
        super().__init__("ntb_hw_epf")
        self._outbox = outbox
        self._tasks = tasks
        self._cpu = cpu
        self._mapped = mapped
        self._msi_target = (0, 0)
        self._allocator = allocator
        self._block = LAYOUTS[layout]
        self._layout = layout
        self._map = bar_map or self._bar_map_of(notice)
        self._command_timeout_ns = command_timeout_ns
        self._mutex = Mutex()
        self.counters = counters
        self._refusals = Once()
        self._bars = self._checked_bars(notice)
        self._ctrl = self._bars[self._map.config].base
        self._db = 0
        self._vectors = self._vectors_argument = 0
        self._mws: list[Span] = []
        self._spads = 0
        self._spad_offset = 0
        self._looks_again = False
        self._rings: list[tuple[int, bytes]] = []
        # the driver requests each vector that the host grants, so none is left for a client
        self._msi = MsiDomain(0, ())

    # probe and remove

    @staticmethod
    def _bar_map_of(notice: dict[str, Any]) -> BarMap:
        ids = notice.get("vendor_id"), notice.get("device_id")
        for known, bar_map in BAR_MAPS.items():
            if known == ids:
                return bar_map
        raise PeerError(f"no BAR map for a device {ids[0]!r:.20}, {ids[1]!r:.20}: set BARs for its ids")

    def _checked_bars(self, notice: dict[str, Any]) -> dict[int, Span]:
        if notice.get("class_code") != CLASS_MEMORY_RAM:
            raise PeerError(f"class code {notice.get('class_code')!r}, expected {CLASS_MEMORY_RAM:#06x}")
        try:
            bars = {int(bar): Span(int(base), int(size)) for bar, base, size in notice["bars"]}
        except (KeyError, TypeError, ValueError, OverflowError) as problem:
            raise PeerError(f"BARs are malformed: {problem}") from None
        for bar in (self._map.config, self._map.db, self._map.mws[0]):
            if bar not in bars:
                raise PeerError(f"the function has no BAR{bar}")
        if bars[self._map.config].size < self._block.size:
            raise PeerError(f"BAR{self._map.config} is too small for a control block")
        return bars

    def bar_of(self, addr: int) -> tuple[int, int] | None:
        """BAR that a bus address lies in, and the offset; None: in none."""
        for bar, span in self._bars.items():
            if span.contains(addr):
                return bar, addr - span.base
        return None

    def probe(self) -> Task[None]:
        """Bring the device up, in the driver's order (NTB 103-107).

        Raises:
            PeerError: what the device reports is impossible.
            KernelError: too few vectors, a command failed, or ENODEV: the device does not answer.
        """
        block = self._block
        spad_count = yield from self._probed("spad_count")
        spad_offset = yield from self._probed("spad_offset")
        num_mws = yield from self._probed("num_mws")
        room = self._bars[self._map.config].size
        if not 1 <= num_mws <= MAX_MWS:
            raise PeerError(f"num_mws {num_mws:#x}: allowed 1..{MAX_MWS}")
        if spad_count > MAX_SPADS:
            raise PeerError(f"spad_count {spad_count:#x}: allowed 0..{MAX_SPADS}")
        if spad_offset < block.size or spad_offset % 4 or spad_offset + 8 * spad_count > room:
            raise PeerError(
                f"spad_offset {spad_offset:#x}, spad_count {spad_count:#x}: impossible for layout "
                f"{self._layout} in a BAR of {room:#x} bytes; is the other layout in use?"
            )
        self._spads, self._spad_offset = spad_count, spad_offset
        yield from self._find_mws(num_mws)
        reply = yield Call(HOST, "alloc_vectors", {"least": LEAST_VECTORS, "most": MOST_VECTORS})
        vectors = reply.get("vectors")
        if type(vectors) is not int or not LEAST_VECTORS <= vectors <= MOST_VECTORS:
            allowed = f"{LEAST_VECTORS}..{MOST_VECTORS}"
            raise PeerError(f"the host granted {vectors!r:.40} vectors: allowed {allowed}")
        self._vectors = vectors
        self._msi_target = _target_of(reply)
        self._vectors_argument = vectors | (MSIX_FLAG if reply.get("kind") == "msix" else 0)
        yield from self._read_doorbells()
        yield from self._command(Command.CONFIGURE_DOORBELL, self._vectors_argument)
        bits = self.db_valid_mask().bit_count()
        self._outbox.log("driver.bound", driver=self.name, mws=num_mws, spads=spad_count, db_bits=bits)

    def _find_mws(self, num_mws: int) -> Task[None]:
        """Bus spans of the outbound windows: BAR start plus offset, clipped to the BAR (NTB 78)."""
        for widx in range(num_mws):
            bar = self._bars.get(self._map.mws[widx]) if widx < len(self._map.mws) else None
            if bar is None:
                raise PeerError(f"window {widx} has no BAR on this platform")
            offset = size = 0
            if "mw_size" in self._block:
                offset = yield from self._probed("mw_offset", widx)
                size = yield from self._probed("mw_size", widx)
            elif not widx:
                # a classic block has an offset for the first window only (NTB 77)
                offset = yield from self._probed("mw1_offset")
            if offset >= bar.size or offset % 4:
                raise PeerError(f"mw_offset[{widx}] {offset:#x} is outside its BAR of {bar.size:#x} bytes")
            size = min(size or bar.size, bar.size - offset)
            self._mws.append(Span(bar.base + offset, size))

    def _read_doorbells(self) -> Task[None]:
        """Where and what to store for each slot; a slot the endpoint does not hear has data 0."""
        block, bar = self._block, self._bars[self._map.db]
        entry_size = yield from self._probed("db_entry_size")
        size = 4 * MAX_DOORBELLS
        data = yield Read(self._ctrl + block.offset("db_data"), size)
        offsets = yield Read(self._ctrl + block.offset("db_offset"), size)
        absent = b"\xff" * size
        if absent in {data, offsets}:
            raise KernelError(errno.ENODEV, "doorbell table reads all ones: the device does not answer")
        for slot in range(self._vectors):
            at = entry_size * slot + _U32.unpack_from(offsets, 4 * slot)[0]
            value = data[4 * slot : 4 * slot + 4]
            if at % 4 or at + 4 > bar.size:
                if value != _UNHEARD:
                    raise PeerError(f"doorbell slot {slot} lies at {at:#x}, its BAR has {bar.size:#x} bytes")
                at = 0
            self._rings.append((bar.base + at, value))

    def remove(self) -> Task[None]:
        """Undo probe, after the client is gone (NTB 108)."""
        yield from self._command(Command.TEARDOWN_DOORBELL, self._vectors_argument)
        yield Call(HOST, "free_vectors")

    # registers and commands

    def _read_u32(self, addr: int) -> Task[int]:
        return int.from_bytes((yield Read(addr, 4)), "little")

    def _probed(self, name: str, index: int = 0) -> Task[int]:
        """A register of the block; all ones is a device that does not answer (now)."""
        value = yield from self._read_u32(self._ctrl + self._block.offset(name, index))
        if value == _WORD:
            raise KernelError(errno.ENODEV, f"{name} reads all ones: the device does not answer")
        return value

    def _store_u32(self, offset: int, value: int) -> None:
        self._cpu.post(self._ctrl + offset, _U32.pack(value))

    def _store_status(self, value: int) -> None:
        self._cpu.post(self._ctrl + self._block.offset("command_status"), _U16.pack(value))

    def _command(
        self, command: Command, argument: int, parameters: tuple[int, int] | None = None
    ) -> Task[None]:
        """Send one command and wait for its status; ``parameters`` are addr and size.

        Raises:
            KernelError: EINVAL the endpoint answered ERROR, ETIMEDOUT it did not answer.
        """
        yield Acquire(self._mutex)
        block = self._block
        # a late answer to a command that timed out must not answer this one (10.12)
        self._store_status(CommandStatus.PENDING)
        if parameters is not None:
            for name, value in zip(("addr", "size"), parameters, strict=True):
                self._store_u32(block.offset(name), value & _WORD)
                self._store_u32(block.offset(name) + 4, value >> 32)
        self._store_u32(block.offset("argument"), argument)
        self._store_u32(block.offset("command"), command)
        deadline = self._tasks.now_ns + self._command_timeout_ns
        status = int(CommandStatus.PENDING)
        while True:
            is_last = self._tasks.now_ns >= deadline
            raw = yield Read(self._ctrl + block.offset("command_status"), 2)
            status = _U16.unpack(raw)[0]
            if status in (CommandStatus.OK, CommandStatus.ERROR) or is_last:
                break
            yield Sleep(COMMAND_POLL_NS)
        if status not in (CommandStatus.OK, CommandStatus.ERROR):
            # withdrawn: served after all, it could answer for the next command
            self._store_u32(block.offset("command"), Command.NONE)
        self._store_status(CommandStatus.PENDING)
        yield Release(self._mutex)
        if status == CommandStatus.OK:
            return
        code = errno.EINVAL if status == CommandStatus.ERROR else errno.ETIMEDOUT
        failure = KernelError(code, f"{command.name}({argument}): status {status:#x}")
        self._outbox.log("command.failed", command=command.name, reason=str(failure))
        raise failure

    # interrupts

    def is_msi_target(self, addr: int, size: int) -> bool:
        """True for the word that an MSI is written to."""
        return bool(self._vectors) and (addr, size) == (self._msi_target[0], MSI_BYTES)

    def vector_of(self, addr: int, data: Buffer) -> int | None:
        """Vector that a write of the endpoint raises; None when it is none, or one that was not granted."""
        if not self.is_msi_target(addr, len(data)):
            return None
        vector = int.from_bytes(data, "little") - self._msi_target[1]
        return vector if 0 <= vector < self._vectors else None

    def on_vector(self, vector: int) -> None:
        """MSI vector came in: 0 is the link event, 1 is unused, v rings bit v - 2 (NTB 94)."""
        if vector == LINK_SLOT:
            self.signal_link_event()
            return
        bit = vector - FIRST_DB_SLOT
        if vector == UNUSED_SLOT or not 0 <= bit < self._vectors - FIRST_DB_SLOT:
            self.counters["irqs_spurious"] += 1
            if self._refusals.is_first("vector"):
                self._outbox.log("irq.spurious", source="msi", bits=vector)
            return
        self._db |= 1 << bit
        self.signal_db_event(bit)

    # NTB operations

    def _check_mw(self, pidx: int, widx: int) -> None:
        if pidx != 0 or not 0 <= widx < len(self._mws):
            raise KernelError(errno.EINVAL, f"peer {pidx}, window {widx}: there are {len(self._mws)} windows")

    def mw_count(self, pidx: int) -> int:
        """Windows of the device. EINVAL for a peer other than 0."""
        if pidx != 0:
            raise KernelError(errno.EINVAL, f"peer {pidx}")
        return len(self._mws)

    def peer_mw_count(self) -> int:
        """Windows of the device."""
        return len(self._mws)

    def mw_get_align(self, pidx: int, widx: int) -> Task[MwAlign]:
        """4096, 1, the BAR's length, and offset 0: this side's windows are outbound (NTB 69, HAZARD 11.d)."""
        self._check_mw(pidx, widx)
        if not (yield from self.link_is_up()):
            raise KernelError(errno.ENOTCONN, "link is down")
        return MwAlign(ADDR_ALIGN, SIZE_ALIGN, self._bars[self._map.mws[widx]].size)

    def mw_set_trans(self, pidx: int, widx: int, addr: int, size: int, offset: int = 0) -> Task[None]:
        """Map the memory for DMA and have the endpoint point its outbound region at it; no offset there."""
        self._check_mw(pidx, widx)
        if size > self._bars[self._map.mws[widx]].size:
            raise KernelError(errno.EINVAL, f"mw_set_trans: {size:#x} bytes, BAR is smaller")
        yield Call(HOST, "dma_map", {"addr": addr, "size": size})
        self._mapped.map(addr, size)
        yield from self._command(Command.CONFIGURE_MW, widx, (addr, size))
        self._outbox.log("mw.configured", widx=widx, addr=hex_address(addr), size_bytes=size)

    def mw_clear_trans(self, pidx: int, widx: int) -> Task[None]:
        """Have the endpoint unmap its outbound region; what was mapped for DMA ends with the buffer."""
        self._check_mw(pidx, widx)
        yield from self._command(Command.TEARDOWN_MW, widx)
        self._outbox.log("mw.cleared", widx=widx)

    def peer_mw_get_addr(self, widx: int) -> tuple[int, int]:
        """Bus address (equal to the CPU address here) and size of a window."""
        self._check_mw(0, widx)
        return self._mws[widx].base, self._mws[widx].size

    def peer_mw_write(self, widx: int, offset: int, data: Buffer, what: str = "direct") -> None:
        """Posted store into the window."""
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

    def peer_mw_is_open(self, widx: int) -> Task[bool]:
        """A part of a BAR always is: what lies behind it is the endpoint's business."""
        yield from ()
        return 0 <= widx < len(self._mws)

    def msi_domain(self) -> MsiDomain | None:
        """MSI data, and no vector that is not a doorbell."""
        return self._msi

    def mw_bar(self, widx: int) -> int:
        """As the platform's table says."""
        self._check_mw(0, widx)
        return self._map.mws[widx]

    def alloc_coherent(self, size: int, alignment: int, name: str) -> Window | None:
        """RC DRAM."""
        return self._allocator.allocate(size, alignment, name)

    def free_coherent(self, window: Window) -> None:
        """Give RC DRAM back and end its DMA mapping."""
        self._mapped.unmap(window.span.base)
        if self._tasks.epoch:
            self._tasks.spawn("dma_unmap", self._dma_unmap(window.span.base))
        self._allocator.free(window)

    def _dma_unmap(self, addr: int) -> Task[None]:
        try:
            yield Call(HOST, "dma_unmap", {"addr": addr})
        except KernelError:
            # the epoch ended meanwhile, and all its mappings with it
            return

    def link_is_up(self) -> Task[int]:
        """Bit 0 of link_status; all ones is a device that is gone, not a link (EDMA 163).

        One that is only slow must be looked at again: no interrupt tells of its return.
        """
        raw = yield Read(self._ctrl + self._block.offset("link_status"), 2)
        status = int.from_bytes(raw, "little")
        if status != LINK_ABSENT:
            return status & LINK_UP
        if not self._looks_again:
            self._looks_again = True
            self._tasks.spawn("look_again", self._look_again())
        return 0

    def _look_again(self) -> Task[None]:
        yield Sleep(LOOK_AGAIN_NS)
        self._looks_again = False
        self.signal_link_event()

    def link_enable(self) -> Task[None]:
        """LINK_UP command."""
        yield from self._command(Command.LINK_UP, 0)

    def link_disable(self) -> Task[None]:
        """LINK_DOWN command."""
        yield from self._command(Command.LINK_DOWN, 0)

    def db_valid_mask(self) -> int:
        """2^(vectors - 2) - 1: the link vector and the unused one carry no bit (NTB 97)."""
        return (1 << max(self._vectors - FIRST_DB_SLOT, 0)) - 1

    def db_read(self) -> int:
        """Set bits."""
        return self._db

    def db_clear(self, bits: int) -> None:
        """Clear ``bits`` (NTB 96)."""
        self._db &= ~bits

    def peer_db_set(self, bits: int) -> None:
        """Store each bit's datum at its place in the doorbell BAR (NTB 83)."""
        if bits == 0 or bits & ~self.db_valid_mask():
            raise KernelError(errno.EINVAL, f"doorbell bits {bits:#x}, valid {self.db_valid_mask():#x}")
        while bits:
            bit = (bits & -bits).bit_length() - 1
            bits &= bits - 1
            addr, value = self._rings[slot_of_db_bit(bit)]
            if value == _UNHEARD:
                self.counters["doorbells_unheard"] += 1
                if self._refusals.is_first("unheard"):
                    self._outbox.log("doorbell.unheard", bits=1 << bit)
                continue
            self._cpu.write(addr, value, "doorbell.rung")

    def spad_count(self) -> int:
        """Scratchpads of one bank, as read at probe."""
        return self._spads

    def _spad_address(self, bank: int, sidx: int) -> Task[int]:
        """Address of a scratchpad; the block's spad_offset is read every time (NTB 12).

        A device that does not answer keeps the one it was probed with: its scratchpad will not
        answer either, and the caller tries again.
        """
        offset = yield from self._read_u32(self._ctrl + self._block.offset("spad_offset"))
        if offset == _WORD:
            offset = self._spad_offset
        room = self._bars[self._map.config].size
        if offset < self._block.size or offset % 4 or offset + 8 * self._spads > room:
            raise KernelError(errno.EIO, f"spad_offset {offset:#x} is outside the BAR")
        return self._ctrl + offset + 4 * (bank * self._spads + sidx)

    def spad_read(self, sidx: int) -> Task[int]:
        """Bank A; 0 when out of range."""
        if not 0 <= sidx < self._spads:
            return 0
        return (yield from self._read_u32((yield from self._spad_address(0, sidx))))

    def spad_write(self, sidx: int, value: int) -> Task[None]:
        """Bank A."""
        yield from self._spad_store(0, sidx, value)

    def peer_spad_read(self, pidx: int, sidx: int) -> Task[int]:
        """Bank B; -EINVAL as the caller sees it when out of range."""
        if pidx != 0 or not 0 <= sidx < self._spads:
            return _EINVAL_READ
        return (yield from self._read_u32((yield from self._spad_address(1, sidx))))

    def peer_spad_write(self, pidx: int, sidx: int, value: int) -> Task[None]:
        """Bank B."""
        if pidx != 0:
            raise KernelError(errno.EINVAL, f"peer {pidx}")
        yield from self._spad_store(1, sidx, value)

    def _spad_store(self, bank: int, sidx: int, value: int) -> Task[None]:
        if not 0 <= sidx < self._spads:
            raise KernelError(errno.EINVAL, f"scratchpad {sidx}: there are {self._spads}")
        addr = yield from self._spad_address(bank, sidx)
        self._cpu.post(addr, _U32.pack(value))


def _target_of(reply: dict[str, Any]) -> tuple[int, int]:
    """Address and first datum of the vectors that the host granted."""
    address, first = reply.get("address"), reply.get("first_data")
    if type(address) is not int or type(first) is not int:
        raise PeerError(f"the host granted vectors at {address!r:.40}, from {first!r:.40}")
    return address, first
