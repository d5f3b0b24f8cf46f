"""The endpoint controller process: config space, BARs, iATU, MSI, EP address map, vNTB function.

What comes from the link is decoded by BAR and inbound window into a local address, and lands in
EP DRAM or in another EP device's registers (the eDMA engine). What the EP's CPU stores into the
outbound aperture is translated and goes to the host. A miss is UR: writes are dropped and
counted, reads complete with UR.

Source: Linux pcie-designware-ep.c, pci-epc-core.c; hot reset and PERST# as the reference has them.
"""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from ntbnet.address import BusAddr, CpuAddr, Span, hex_address, round_up
from ntbnet.config import Config
from ntbnet.devices.bar import BarKind, BarSet, BarSpec
from ntbnet.devices.effects import Effect, Outbox, Restart
from ntbnet.devices.iatu import Iatu
from ntbnet.devices.memory import AddressMap, Window
from ntbnet.devices.msi import MsiCapability
from ntbnet.devices.tick import Tick
from ntbnet.devices.vntb import Vntb
from ntbnet.errors import KernelError
from ntbnet.regs.cfgspace import config_block
from ntbnet.regs.file import RegisterFile
from ntbnet.wire import (
    Call,
    CfgRead,
    CfgWrite,
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

HOST, CLIENT, EDMA = "rc-host", "peer-ep", "edma"
FUNCTION_REGION_BYTES = 4 << 20
"""First part of EP DRAM: what the function allocates from; the rest is the client's."""
MEMORY_CLASS, RAM_SUBCLASS = 0x05, 0x00
"""Class code 0x0500 (memory, RAM), which ntb_hw_epf matches together with the ids."""


class EndpointController:
    """Sans-IO model of the ``epc`` process.

    Args:
        config: checked configuration.
        dram: all of EP DRAM.
    """

    def __init__(self, config: Config, dram: Window) -> None:
        endpoint, ntb = config.profile.endpoint, config.ntb
        self._config = config
        self._outbox = Outbox()
        self._aperture = Span(endpoint.aperture_base, endpoint.aperture_bytes)
        self._local = AddressMap(
            [
                (dram.span, dram),
                (Span(endpoint.edma_base, endpoint.edma_bytes), EDMA),
                (self._aperture, "aperture"),
            ]
        )
        self.epoch = 0
        self._paths: dict[str, bool] = {}
        self.counters: Counter[str] = Counter()
        self._logged: set[tuple[str, str]] = set()
        self._tag = 0
        self._forwarded: dict[int, tuple[str, str, int]] = {}
        """By tag: who answers, who asked, and the tag it asked with."""
        self._bars = BarSet(
            [BarSpec(BarKind(bar.kind), bar.fixed_size or 0, only_64bit=bar.bits64) for bar in endpoint.bars]
        )
        self._iatu = Iatu(
            endpoint.inbound_windows, endpoint.outbound_windows, endpoint.align, endpoint.region_limit
        )
        self._space = RegisterFile(config_block(msi=True))
        self._space.set("VENDOR_ID", ntb.vendor_id)
        self._space.set("DEVICE_ID", ntb.device_id)
        self._space.set("BASE_CLASS", MEMORY_CLASS)
        self._space.set("SUBCLASS", RAM_SUBCLASS)
        self._space.on_write("COMMAND", self._on_command_write)
        self._msi = MsiCapability(self._space)
        self._msi.set_msi(endpoint.msi_vectors)
        # one page of the aperture is kept for MSI, mapped on demand (Linux dw_pcie_ep_init)
        self._aperture_next = self._aperture.base + endpoint.page_bytes
        self._msi_page = CpuAddr(self._aperture.base)
        self._msi_mapped: int | None = None
        region = dram.sub(0, FUNCTION_REGION_BYTES, "function")
        self.vntb = Vntb(config, region, self, self._outbox, Tick(config.profile.kernel.hz))
        self._calls: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "ntb_attach": self._call_attach,
            "mw_set_trans": self._call_mw_set_trans,
            "mw_clear_trans": self._call_mw_clear_trans,
            "restart_link": self._call_restart_link,
        }

    # the driver's side

    def handle(self, src: str, message: Message, now_ns: int) -> Sequence[Effect]:
        """A checked message from a neighbour."""
        if src == HOST:
            self._from_host(message)
        elif src == CLIENT:
            self._from_client(message)
        elif isinstance(message, Completion):
            self._complete(src, message)
        else:
            self.counters["unexpected"] += 1
        return self._outbox.take()

    def on_path(self, peer: str, up: bool, session: int, reason: str, now_ns: int) -> Sequence[Effect]:
        """The session of the path to the host is the link epoch."""
        self._paths[peer] = up
        if peer == HOST:
            self._on_link(up, session, reason, now_ns)
        elif peer == CLIENT and not up:
            self.vntb.detach_client()
            if self._paths.get(HOST):
                # the client's receive buffers are gone: nothing of this epoch may reach their successors
                self.vntb.reset("client of the endpoint is gone")
                self._outbox.add(Restart(HOST, f"peer-ep: {reason}"))
        elif peer == CLIENT:
            self._tell_client()
        elif peer == EDMA and not up:
            self._forwarded = {tag: entry for tag, entry in self._forwarded.items() if entry[0] != EDMA}
        return self._outbox.take()

    def next_deadline(self) -> int | None:
        """The poll work's."""
        return self.vntb.next_deadline()

    def on_deadline(self, now_ns: int) -> Sequence[Effect]:
        """Run the poll work."""
        due = self.vntb.next_deadline()
        if due is not None and due <= now_ns:
            self.vntb.poll(now_ns)
        return self._outbox.take()

    def start(self, now_ns: int) -> None:
        """Arm the poll work; once, before the first message."""
        self.vntb.start(now_ns)

    def snapshot(self) -> dict[str, Any]:
        """State and counters for ``status``."""
        return {
            "link": {"up": bool(self._paths.get(HOST)), "epoch": self.epoch, "ntb_up": self.vntb.link_is_up},
            "counters": {
                **self.counters,
                **self.vntb.counters,
                "bar_unclaimed": self._bars.unclaimed,
                "inbound_misses": self._iatu.inbound_misses,
                "outbound_misses": self._iatu.outbound_misses,
            },
        }

    # link

    def _on_link(self, up: bool, session: int, reason: str, now_ns: int) -> None:
        if not up:
            self.vntb.reset(f"link down: {reason}")
            self._hot_reset()
            self._outbox.log("link.changed", up=False, link_epoch=self.epoch, reason=reason)
            self.epoch = 0
        else:
            self.epoch = session
            self._outbox.log("link.changed", up=True, link_epoch=session, reason=reason)
        self._tell_client()

    def _tell_client(self) -> None:
        self.vntb.set_client_epoch(self.epoch)
        if self._paths.get(CLIENT):
            self._outbox.send(CLIENT, Notice("epoch", {"epoch": self.epoch}, self.epoch))

    def _hot_reset(self) -> None:
        """What the host wrote is gone: BAR addresses, enables, MSI; BAR sizes and EP memory stay."""
        self._bars.hot_reset()
        self._space.reset_bus_written()
        self._unmap_msi()
        self._forwarded.clear()

    # from the link

    def _from_host(self, message: Message) -> None:
        if isinstance(message, MemWrite):
            local = self._inbound(message.addr, len(message.data))
            if local is None:
                self._drop("no_window", message.addr, len(message.data))
            else:
                self._store(local, message)
        elif isinstance(message, MemRead):
            self._read(HOST, self._inbound(message.addr, message.size), message)
        elif isinstance(message, CfgRead):
            data = self._space.read(message.offset, message.size)
            if 0x10 <= message.offset < 0x28:
                word = self._bars.read_register((message.offset - 0x10) // 4)
                data = word.to_bytes(4, "little")[message.offset % 4 :][: message.size]
            self._outbox.send(HOST, Completion(message.tag, Status.OK, data, self.epoch))
        elif isinstance(message, CfgWrite):
            self._config_write(message)
            self._outbox.send(HOST, Completion(message.tag, Status.OK, b"", self.epoch))
        elif isinstance(message, Completion):
            self._complete(HOST, message)
        else:
            self.counters["unexpected"] += 1

    def _config_write(self, message: CfgWrite) -> None:
        if not 0x10 <= message.offset < 0x28:
            self._space.write(message.offset, message.data)
            return
        bar, shift = divmod(message.offset - 0x10, 4)
        word = bytearray(self._bars.read_register(bar).to_bytes(4, "little"))
        word[shift : shift + len(message.data)] = message.data
        self._bars.write_register(bar, int.from_bytes(word, "little"))

    def _on_command_write(self, _index: int, _old: int, _new: int) -> None:
        self._bars.memory_enabled = bool(self._space.get_field("COMMAND", "MEMORY"))

    def _inbound(self, bus_addr: int, length: int) -> int | None:
        hit = self._bars.decode(bus_addr, length)
        return None if hit is None else self._iatu.translate_inbound(hit[0], hit[1], bus_addr, length)

    def _store(self, local: int, message: MemWrite) -> None:
        found = self._local.find(local, len(message.data))
        if found is None:
            self._drop("nothing_local", local, len(message.data))
        elif isinstance(found[0], Window):
            found[0].store("inbound", found[1], message.data)
        elif found[0] == EDMA:
            self._outbox.send(EDMA, MemWrite(local, message.data))
        else:
            self._drop("aperture_from_link", local, len(message.data))

    def _read(self, requester: str, local: int | None, message: MemRead) -> None:
        found = None if local is None else self._local.find(local, message.size)
        if found is None or local is None:
            self._refuse_read("no_window", message)
            self._outbox.send(requester, Completion(message.tag, Status.UR, b"", message.epoch))
        elif isinstance(found[0], Window):
            data = found[0].load(found[1], message.size)
            self._outbox.send(requester, Completion(message.tag, Status.OK, data, message.epoch))
        elif found[0] == EDMA:
            self._forward_read(EDMA, requester, local, message)
        else:
            may_go_out = requester != HOST and self.epoch and message.epoch == self.epoch
            bus = self._iatu.translate_outbound(local, message.size) if may_go_out else None
            if bus is None:
                self._refuse_read("no_window", message)
                self._outbox.send(requester, Completion(message.tag, Status.UR, b"", message.epoch))
            else:
                self._forward_read(HOST, requester, bus, message)

    def _forward_read(self, dst: str, requester: str, addr: int, message: MemRead) -> None:
        self._tag = (self._tag + 1) & 0xFFFFFFFF
        if len(self._forwarded) >= 256:
            # nobody waits that long: the oldest request has timed out at its requester
            self._forwarded.pop(next(iter(self._forwarded)))
        self._forwarded[self._tag] = (dst, requester, message.tag)
        self._outbox.send(dst, MemRead(addr, message.size, self._tag, self.epoch))

    def _complete(self, src: str, message: Completion) -> None:
        expected = self._forwarded.get(message.tag)
        if expected is None or expected[0] != src:
            self.counters["late_completions"] += 1
            return
        del self._forwarded[message.tag]
        _, requester, tag = expected
        self._outbox.send(requester, Completion(tag, message.status, message.data, self.epoch))

    # from the EP's own CPU

    def _from_client(self, message: Message) -> None:
        if isinstance(message, MemWrite):
            if message.epoch != self.epoch or not self.epoch:
                self.counters["stale_epoch"] += 1
            elif self._aperture.contains(message.addr, len(message.data)):
                self._outbound_write(message.addr, message.data)
            else:
                self._drop("not_in_aperture", message.addr, len(message.data))
        elif isinstance(message, Irq) and message.source is IrqSource.PEER_DOORBELL:
            if message.epoch != self.epoch or not self.epoch:
                self.counters["stale_epoch"] += 1
            else:
                self.vntb.peer_db_set(message.bits)
        elif isinstance(message, MemRead):
            self._read(CLIENT, message.addr, message)
        elif isinstance(message, Call):
            self._call(message)
        else:
            self.counters["unexpected"] += 1

    def _outbound_write(self, local: int, data: bytes | memoryview) -> None:
        bus = self._iatu.translate_outbound(local, len(data))
        if bus is None:
            self._drop("no_outbound_window", local, len(data))
        else:
            self._outbox.send(HOST, MemWrite(bus, data, self.epoch))

    def _call(self, message: Call) -> None:
        try:
            operation = self._calls.get(message.op)
            if operation is None:
                raise KernelError(errno.EOPNOTSUPP, f"no operation {message.op[:32]!r}")
            if message.op == "mw_set_trans" and message.epoch != self.epoch:
                # the memory it names belongs to that epoch, and may be in other use by now
                raise KernelError(errno.ENODEV, "that link epoch is over")
            reply = Reply(message.tag, 0, operation(message.args), message.epoch)
        except KernelError as failure:
            reply = Reply(message.tag, failure.errno, {"reason": str(failure)}, message.epoch)
            self._outbox.log("call.refused", src=CLIENT, op=message.op[:32], reason=str(failure))
        self._outbox.send(CLIENT, reply)

    def _call_attach(self, _args: dict[str, Any]) -> dict[str, Any]:
        return self.vntb.attach_client(self.epoch)

    def _call_mw_set_trans(self, args: dict[str, Any]) -> dict[str, Any]:
        widx, addr, size = (_integer(args, name) for name in ("widx", "addr", "size"))
        self.vntb.mw_set_trans(widx, addr, size)
        return {}

    def _call_mw_clear_trans(self, args: dict[str, Any]) -> dict[str, Any]:
        # the kernel's op does nothing (NTB 75); here the window must not outlive the memory behind it
        _integer(args, "widx")
        self.unmap_bar(self._config.bars.mw1)
        self._outbox.log("mw.cleared", widx=0)
        return {}

    def _call_restart_link(self, args: dict[str, Any]) -> dict[str, Any]:
        reason = str(args.get("reason", ""))[:80]
        self._outbox.log("link.restarted", reason=f"asked by {CLIENT}: {reason}")
        if self._paths.get(HOST):
            self._outbox.add(Restart(HOST, f"{CLIENT}: {reason}"))
        return {}

    # EPC API, for the function

    def set_bar(self, bar: int, size: int, backing: Window | None) -> None:
        """Size a BAR and, with ``backing``, translate it there (BAR match)."""
        self._bars.set_bar(bar, size, bits64=False)
        if backing is not None:
            self.map_bar(bar, backing.span.base, backing.size)

    def map_bar(self, bar: int, addr: int, size: int) -> None:
        """Point an existing BAR at EP DRAM, in place; the target must be DRAM of the node."""
        config = self._bars.config(bar)
        if config is None:
            raise KernelError(errno.EINVAL, f"BAR{bar} is not set up")
        found = self._local.find(addr, size)
        if found is None or not isinstance(found[0], Window):
            raise KernelError(errno.EINVAL, f"[{addr:#x}, {addr + size:#x}) is not endpoint memory")
        index = self._iatu.program_bar_match(bar, CpuAddr(addr), size, config.size)
        self._outbox.log(
            "iatu.region_enabled",
            direction="inbound",
            index=index,
            base=f"BAR{bar}",
            target=hex_address(addr),
            size_bytes=size,
        )

    def unmap_bar(self, bar: int) -> None:
        """Let a BAR hit nothing."""
        index = self._iatu.bar_match_index(bar)
        if index is not None:
            self._iatu.disable_inbound(index)
            self._outbox.log("iatu.region_disabled", direction="inbound", index=index)

    def allocate_outbound(self, size: int) -> int:
        """A naturally aligned piece of the aperture; pieces are never given back."""
        piece = round_up(size, self._config.profile.endpoint.page_bytes)
        order = 1 << (piece - 1).bit_length()
        base = round_up(self._aperture_next, order)
        if base + order > self._aperture.end:
            raise KernelError(errno.ENOMEM, f"outbound aperture {self._aperture} has no {size:#x} bytes left")
        self._aperture_next = base + order
        return base

    def map_addr(self, local: int, bus: int, size: int) -> None:
        """Map a piece of the aperture to the bus."""
        index = self._iatu.program_outbound(CpuAddr(local), BusAddr(bus), size)
        self._outbox.log(
            "iatu.region_enabled",
            direction="outbound",
            index=index,
            base=hex_address(local),
            target=hex_address(bus),
            size_bytes=size,
        )

    def unmap_addr(self, local: int) -> None:
        """Undo ``map_addr``; unknown addresses are ignored."""
        self._iatu.unmap_outbound(CpuAddr(local))

    def raise_msi(self, number: int) -> None:
        """Raise MSI ``number``: one 32-bit posted write through the page kept for it."""
        composed = self._msi.compose(number)
        if composed is None:
            raise KernelError(errno.EINVAL, "MSI is off at the host")
        address, data = composed
        page_bytes = self._config.profile.endpoint.page_bytes
        target = address & ~(page_bytes - 1)
        if self._msi_mapped != target:
            self._unmap_msi()
            self._iatu.program_outbound(self._msi_page, BusAddr(target), page_bytes)
            self._msi_mapped = target
        self._outbound_write(self._msi_page + address - target, data.to_bytes(4, "little"))

    def _unmap_msi(self) -> None:
        if self._msi_mapped is not None:
            self._iatu.unmap_outbound(self._msi_page)
            self._msi_mapped = None

    # refusals

    def _drop(self, cause: str, addr: int, length: int) -> None:
        self.counters[f"writes_dropped_{cause}"] += 1
        if ("write", cause) not in self._logged:
            self._logged.add(("write", cause))
            self._outbox.log("write.dropped", cause=cause, addr=hex_address(addr), size_bytes=length)

    def _refuse_read(self, cause: str, message: MemRead) -> None:
        self.counters[f"reads_refused_{cause}"] += 1
        if ("read", cause) not in self._logged:
            self._logged.add(("read", cause))
            self._outbox.log(
                "read.refused", cause=cause, addr=hex_address(message.addr), size_bytes=message.size
            )


def _integer(args: dict[str, Any], name: str) -> int:
    value = args.get(name)
    if type(value) is not int or not 0 <= value < 1 << 64:
        raise KernelError(errno.EINVAL, f"{name}: {value!r} is no unsigned integer")
    return value
