"""The RC host: root complex, PCI core, MSI target, and the DMA filter of its DRAM.

Initiates the link (its path to ``epc``; the session is the link epoch), enumerates what it
finds, and tells the driver on its node. A driver's loads and stores to the PCI aperture go to
the link unchanged (bus address = CPU address). What the endpoint writes is an MSI when it hits
the MSI target, and lands in DRAM only inside ranges the driver mapped for DMA, as behind the
board's IOMMU: anything else is a counted fault.

The loss of the driver, a new driver, or a driver that asks for it, restarts the link: a new
link epoch in which nothing of the old one is applied. So does moving a BAR: in place first, as a
host does that does not tell the endpoint, then in a new link epoch with the BAR at its new address.
"""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Sequence
from typing import Any

from ntbnet.address import BusAddr, Span, hex_address, round_up
from ntbnet.config import Config
from ntbnet.devices.command import LOST, lose, unknown
from ntbnet.devices.complaints import Once
from ntbnet.devices.direct import MEMORY, Grant, from_body, to_body
from ntbnet.devices.dma import DmaFilter
from ntbnet.devices.effects import Effect, Outbox, Restart
from ntbnet.devices.enumeration import (
    PciFunction,
    disable_vectors,
    enable_msi,
    enable_msix,
    enumerate_function,
    free_place,
    move_bar,
)
from ntbnet.devices.memory import Window
from ntbnet.devices.msi import MsiTarget
from ntbnet.devices.task import Sleep, Task, Tasks
from ntbnet.devices.tlp import split_posted
from ntbnet.errors import KernelError, PeerError
from ntbnet.wire import (
    Call,
    Completion,
    Irq,
    IrqSource,
    MemRead,
    MemWrite,
    Message,
    Notice,
    Reply,
    Status,
)

ENDPOINT, DRIVER = "epc", "peer-rc"
ENUMERATION_RETRY_NS = 100_000_000
"""Wait before the function is looked for again; it doubles each time."""
MAX_ENUMERATION_RETRY_NS = 5_000_000_000
MAX_FORWARDED_READS = 256


class RootComplex:
    """Sans-IO model of the ``rc-host`` process.

    Args:
        config: checked configuration.
        dram: all of RC DRAM.
        memory_id: which memory that is, for those who map it too.
    """

    def __init__(self, config: Config, dram: Window, memory_id: int = 0) -> None:
        rc = config.profile.rc
        self._aperture = Span(rc.mmio_base, rc.mmio_bytes)
        self._outbox = Outbox()
        timeout_ns = config.timing.completion_timeout_ms * 1_000_000
        self._tasks = Tasks(self._outbox, ENDPOINT, timeout_ns, first_tag=1 << 31)
        self._msi = MsiTarget(BusAddr(rc.msi_target), 1 << (rc.msi_vectors.bit_length() - 1))
        self._function: PciFunction | None = None
        self._places: dict[int, int] = {}
        """By BAR, the address it was moved to."""
        self.epoch = 0
        self._driver_up = False
        self._tag = 0
        self._forwarded: dict[int, int] = {}
        self.counters: Counter[str] = Counter()
        self._dram = dram
        self._dram_on_reset = config.node.rc.dram_on_reset
        self._dma = DmaFilter(dram, self._outbox, self.counters)
        self._refusals, self._failures = Once(), Once()
        self._is_local = config.bridge.fabric == "local"
        self._memory_id = memory_id
        self._grants: dict[str, Any] | None = None
        """What the endpoint granted last in this epoch."""

    # the driver's side (of the process)

    def handle(self, src: str, message: Message, now_ns: int) -> Sequence[Effect]:
        """A checked message from a neighbour."""
        self._tasks.now_ns = now_ns
        if src == ENDPOINT:
            self._from_endpoint(message)
        else:
            self._from_driver(message)
        return self._outbox.take()

    def on_path(self, peer: str, up: bool, session: int, reason: str, now_ns: int) -> Sequence[Effect]:
        """The path to the endpoint is the link; the path to the driver is its life."""
        self._tasks.now_ns = now_ns
        if peer == ENDPOINT:
            self._on_link(up, session, reason)
        else:
            self._driver_up = up
            if not up and self.epoch:
                self._outbox.add(Restart(ENDPOINT, f"{DRIVER}: {reason}"))
            elif up and self._function is not None:
                self._announce()
        return self._outbox.take()

    def next_deadline(self) -> int | None:
        """Of requests in flight and enumeration retries."""
        return self._tasks.next_deadline()

    def on_deadline(self, now_ns: int) -> Sequence[Effect]:
        """Time out or retry."""
        self._tasks.on_deadline(now_ns)
        return self._outbox.take()

    def snapshot(self) -> dict[str, Any]:
        """State and counters for ``status``."""
        function = self._function
        return {
            "link": {"up": self.epoch != 0, "epoch": self.epoch, "enumerated": function is not None},
            "bars": {} if function is None else {str(bar): str(span) for bar, span in function.bars.items()},
            "counters": {**self.counters, "completion_timeouts": self._tasks.timeouts},
        }

    # link

    def _on_link(self, up: bool, session: int, reason: str) -> None:
        self._tasks.cancel_all()
        self._forwarded.clear()
        self._dma.clear()
        self._msi.reset()
        self._grants = None
        if self._function is not None:
            self._function = None
            self._notify("device_removed", {"reason": reason})
        self.epoch = self._tasks.epoch = session if up else 0
        self._outbox.log("link.changed", up=up, link_epoch=session, reason=reason)
        self._failures.begin_epoch()
        if up:
            self._tasks.spawn("enumerate", self._enumerate())

    def _enumerate(self) -> Task[None]:
        function: PciFunction | None = None
        wait_ns = ENUMERATION_RETRY_NS
        while function is None:
            try:
                function = yield from enumerate_function(self._aperture, self._places)
            except PeerError as problem:
                self.counters["enumeration_failures"] += 1
                if self._failures.is_first(str(problem)):
                    self._outbox.log("pci.failed", reason=str(problem))
                yield Sleep(wait_ns)
                wait_ns = min(2 * wait_ns, MAX_ENUMERATION_RETRY_NS)
        self._function = function
        bars = {f"BAR{bar}": str(span) for bar, span in function.bars.items()}
        vendor, device = f"{function.vendor_id:#06x}", f"{function.device_id:#06x}"
        self._outbox.log("pci.enumerated", vendor=vendor, device=device, bars=bars)
        self._announce()

    def command(self, words: Sequence[str], now_ns: int) -> Sequence[Effect]:
        """``move_bar N`` or ``reset``.

        Raises:
            KernelError: as ``reassign_bar``; EOPNOTSUPP: other words.
        """
        if words == ["reset"]:
            return self.reset_host(now_ns)
        if len(words) == 2 and words[0] == "move_bar" and words[1].isdecimal():
            return self.reassign_bar(int(words[1]), now_ns)
        raise unknown()

    def reset_host(self, now_ns: int) -> Sequence[Effect]:
        """The host boots anew: its driver and its placing of BARs are gone, the function gets a hot reset.

        Its memory is kept or lost, as configured. The driver that holds the memory loses it.
        """
        self._tasks.now_ns = now_ns
        self._outbox.log("host.reset", memory=self._dram_on_reset)
        self._places.clear()
        if self._driver_up:
            self._notify("host_reset", {"memory": self._dram_on_reset})
        elif self._dram_on_reset == LOST:
            lose(self._dram)
        self._outbox.add(Restart(ENDPOINT, "host reset"))
        return self._outbox.take()

    def reassign_bar(self, bar: int, now_ns: int) -> Sequence[Effect]:
        """Move a BAR to another place of the aperture, under whatever traffic there is.

        Raises:
            KernelError: ENODEV: no function is enumerated; EINVAL: it has no such BAR; ENOSPC: the
                aperture has no other place for it.
        """
        function = self._function
        if function is None:
            raise KernelError(errno.ENODEV, "no function is enumerated")
        if bar not in function.bars:
            raise KernelError(errno.EINVAL, f"BAR{bar}: the function has {sorted(function.bars)}")
        size, spans = function.bars[bar].size, list(function.bars.values())
        behind = Span(round_up(max(span.end for span in spans), size), size)
        place = behind if behind.end <= self._aperture.end else free_place(self._aperture, size, spans)
        if place is None:
            raise KernelError(errno.ENOSPC, f"{self._aperture} has no other place for {size:#x} bytes")
        self._tasks.now_ns = now_ns
        self._tasks.spawn("reassign_bar", self._reassign(function, bar, place))
        return self._outbox.take()

    def _reassign(self, function: PciFunction, bar: int, place: Span) -> Task[None]:
        self._function = yield from move_bar(function, bar, place.base)
        self._places[bar] = place.base
        old = hex_address(function.bars[bar].base)
        self._outbox.log("pci.bar_moved", bar=bar, old=old, new=hex_address(place.base))
        self._outbox.add(Restart(ENDPOINT, f"BAR{bar} was moved"))

    def _announce(self) -> None:
        function = self._function
        assert function is not None
        args = {
            "vendor_id": function.vendor_id,
            "device_id": function.device_id,
            "class_code": function.class_code,
            "bars": [[bar, span.base, span.size] for bar, span in sorted(function.bars.items())],
            "epoch": self.epoch,
        }
        self._notify("device_added", args)
        self._forward_grants()

    def _notify(self, name: str, args: dict[str, Any]) -> None:
        if self._driver_up:
            self._outbox.send(DRIVER, Notice(name, args, self.epoch))

    # direct stores (fabric ``local``)

    def _forward_grants(self) -> None:
        """Tell the driver where the endpoint lets it store, as far as that lies in the function's BARs."""
        function = self._function
        if self._grants is None or function is None:
            return
        try:
            # the size of its memory is the driver's to check, which maps it
            offered = from_body(self._grants.get("ranges"), 1 << 64)
        except PeerError as problem:
            offered = ()
            self.counters["grants_refused"] += 1
            if self._refusals.is_first(str(problem)):
                self._outbox.log("grants.refused", reason=str(problem))
        # a BAR that is being moved is granted at its new place before the function is announced there
        grants = [grant for grant in offered if self._in_a_bar(grant.base, grant.size)]
        self.counters["grants_outside_bars"] += len(offered) - len(grants)
        self._notify("grants", {"memory": self._grants.get("memory"), "ranges": to_body(grants)})

    def _tell_grants(self) -> None:
        """Tell the endpoint which memory is mapped for it, and what interrupts this host."""
        if self.epoch:
            base = self._dma.base
            ranges = [Grant(span.base, span.size, MEMORY, span.base - base) for span in self._dma.mapped]
            msi = [self._msi.address, self._msi.first_data, self._msi.granted]
            args = {"memory": self._memory_id, "ranges": to_body(ranges), "msi": msi}
            self._outbox.send(ENDPOINT, Notice("grants", args, self.epoch))

    # from the link

    def _from_endpoint(self, message: Message) -> None:
        if isinstance(message, MemWrite):
            self._endpoint_write(message)
        elif isinstance(message, Completion):
            tag = self._forwarded.pop(message.tag, None)
            if tag is None:
                self._tasks.complete(message)
            else:
                completion = Completion(tag, message.status, message.data, self.epoch)
                self._outbox.send(DRIVER, completion)
        elif isinstance(message, MemRead) and (message.addr, message.size) == (self._msi.address, 4):
            # the read that flushes an MSI-X: the register is write-only
            self._outbox.send(ENDPOINT, Completion(message.tag, Status.OK, bytes(4), self.epoch))
        elif isinstance(message, MemRead):
            data = self._dma.load(message.addr, message.size)
            status = Status.UR if data is None else Status.OK
            self._outbox.send(ENDPOINT, Completion(message.tag, status, data or b"", self.epoch))
        elif isinstance(message, Notice) and message.name == "grants" and self._is_local:
            self._grants = message.args
            self._forward_grants()
        else:
            self.counters["unexpected"] += 1

    def _endpoint_write(self, message: MemWrite) -> None:
        addr, data = message.addr, message.data
        if addr == self._msi.address and len(data) == 4:
            vector = self._msi.vector_of(addr, int.from_bytes(data, "little"))
            if vector is not None:
                self.counters["msis"] += 1
                self._outbox.send(DRIVER, Irq(IrqSource.MSI_VECTOR, vector, self.epoch))
                return
            self.counters["msis_refused"] += 1
            if self._refusals.is_first("msi"):
                vector_shown = int.from_bytes(data, "little")
                self._outbox.log("msi.refused", cause="not granted", vector=vector_shown)
            return
        self._dma.store(addr, data)

    # from the driver

    def _from_driver(self, message: Message) -> None:
        if isinstance(message, Call):
            self._call(message)
        elif message.epoch != self.epoch or not self.epoch:
            self.counters["stale_epoch"] += 1
            if isinstance(message, MemRead):
                self._outbox.send(DRIVER, Completion(message.tag, Status.UR, b"", message.epoch))
        elif isinstance(message, MemWrite):
            self._driver_write(message)
        elif isinstance(message, MemRead):
            self._driver_read(message)
        else:
            self.counters["unexpected"] += 1

    def _driver_write(self, message: MemWrite) -> None:
        addr, data = message.addr, message.data
        if self._in_a_bar(addr, len(data)):
            self._outbox.send(ENDPOINT, message)
            return
        for offset, size in split_posted(addr, len(data)):
            if self._in_a_bar(addr + offset, size):
                part = data[offset : offset + size]
                self._outbox.send(ENDPOINT, MemWrite(addr + offset, part, message.epoch))
                continue
            self.counters["writes_unclaimed"] += 1
            if self._refusals.is_first("bar"):
                at = hex_address(addr + offset)
                self._outbox.log("write.dropped", cause="no BAR there", addr=at, size_bytes=size)

    def _in_a_bar(self, addr: int, length: int) -> bool:
        function = self._function
        if function is None:
            return False
        return any(span.contains(addr, length) for span in function.bars.values())

    def _driver_read(self, message: MemRead) -> None:
        if not self._in_a_bar(message.addr, message.size):
            self.counters["reads_unclaimed"] += 1
            self._outbox.send(DRIVER, Completion(message.tag, Status.UR, b"", self.epoch))
            return
        if len(self._forwarded) >= MAX_FORWARDED_READS:
            # nobody waits that long: the oldest request has timed out at its requester
            self._forwarded.pop(next(iter(self._forwarded)))
        # the upper half of the tags belongs to the host's own requests
        self._tag = (self._tag + 1) & 0x7FFFFFFF
        self._forwarded[self._tag] = message.tag
        self._outbox.send(ENDPOINT, MemRead(message.addr, message.size, self._tag, self.epoch))

    def _call(self, message: Call) -> None:
        try:
            if message.op == "restart_link":
                self._restart_link(message)
                body: dict[str, Any] = {}
            elif message.epoch != self.epoch or not self.epoch:
                raise KernelError(errno.ENODEV, "that link epoch is over")
            elif message.op == "alloc_vectors":
                self._alloc_vectors(message)
                return
            elif message.op == "free_vectors":
                self._free_vectors()
                body = {}
            elif message.op == "dma_map":
                self._dma.map(message.args.get("addr"), message.args.get("size"))
                self._tell_grants()
                body = {}
            elif message.op == "dma_unmap":
                self._dma.unmap(message.args.get("addr"))
                self._tell_grants()
                body = {}
            else:
                raise KernelError(errno.EOPNOTSUPP, f"no operation {message.op[:32]!r}")
        except KernelError as failure:
            self._reply_failure(message, failure)
            return
        self._outbox.send(DRIVER, Reply(message.tag, 0, body, message.epoch))

    def _reply_failure(self, message: Call, failure: KernelError) -> None:
        self._outbox.log("call.refused", src=DRIVER, op=message.op[:32], reason=str(failure))
        self._outbox.send(DRIVER, Reply(message.tag, failure.errno, {"reason": str(failure)}, message.epoch))

    def _restart_link(self, message: Call) -> None:
        reason = str(message.args.get("reason", ""))[:80]
        self._outbox.log("link.restarted", reason=f"asked by {DRIVER}: {reason}")
        if self.epoch:
            self._outbox.add(Restart(ENDPOINT, f"{DRIVER}: {reason}"))

    def _alloc_vectors(self, message: Call) -> None:
        least, most = message.args.get("least"), message.args.get("most")
        if type(least) is not int or type(most) is not int or not 1 <= least <= most <= 32:
            raise KernelError(errno.EINVAL, f"vectors {least!r}..{most!r}: allowed 1..32")
        if self._function is None:
            raise KernelError(errno.ENODEV, "no function is enumerated")

        self._tasks.spawn("enable_vectors", self._enable_vectors(message, self._function, least, most))

    def _enable_vectors(self, message: Call, function: PciFunction, least: int, most: int) -> Task[None]:
        """MSI-X first, then MSI, as the driver asks for them (Linux ntb_epf_init_isr)."""
        kind = "msix"
        try:
            granted = yield from enable_msix(function, self._msi, least, most, self._store)
            if not granted:
                kind = "msi"
                granted = yield from enable_msi(function, self._msi, least, most)
        except PeerError as problem:
            self._reply_failure(message, KernelError(errno.EIO, str(problem)))
            return
        if granted:
            self._tell_grants()
            self._outbox.log("msi.granted", vectors=granted, address=hex_address(self._msi.address))
            body = {"vectors": granted, "kind": kind}
            body |= {"address": self._msi.address, "first_data": self._msi.first_data}
            self._outbox.send(DRIVER, Reply(message.tag, 0, body, message.epoch))
        else:
            self._reply_failure(message, KernelError(errno.ENOSPC, f"fewer than {least} vectors"))

    def _store(self, bus_addr: int, data: bytes) -> None:
        self._outbox.send(ENDPOINT, MemWrite(bus_addr, data, self.epoch))

    def _free_vectors(self) -> None:
        self._msi.reset()
        self._tell_grants()
        if self._function is not None:
            self._tasks.spawn("disable_vectors", disable_vectors(self._function))
