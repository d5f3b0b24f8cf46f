"""The endpoint process: endpoint controller, EP address map, vNTB function, and the paths between them.

What comes from the link is decoded by BAR and inbound window into a local address, and lands in EP
DRAM, in another EP device's registers (the eDMA engine), or on the page of the EP's MSI controller. What
the EP's CPU stores into the outbound aperture is translated and goes to the host; what the eDMA engine
sends has a bus address already, and goes to the host while that lets the function be a bus master. A
miss is UR: writes are dropped and counted, reads complete with UR. A burst that no window holds as a
whole is refused request by request (``tlp``), so that the part inside lands.
"""

from __future__ import annotations

import dataclasses
import errno
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ntbnet.address import Span
from ntbnet.config import Config
from ntbnet.devices.command import LOST, lose, unknown
from ntbnet.devices.complaints import Once
from ntbnet.devices.effects import Effect, Outbox, Restart
from ntbnet.devices.epc import Epc
from ntbnet.devices.epc_grants import EpcGrants
from ntbnet.devices.memory import AddressMap, Window
from ntbnet.devices.refusals import Refusals
from ntbnet.devices.tick import Tick
from ntbnet.devices.tlp import split_posted
from ntbnet.devices.vntb import Vntb
from ntbnet.errors import KernelError, PeerError
from ntbnet.regs.ntb_ctrl import FIRST_DB_SLOT
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

ENDPOINT, HOST, DRIVER, CLIENT, EDMA = "epc", "rc-host", "peer-rc", "peer-ep", "edma"
NOBODY = ""
"""Requester of a read whose answer is thrown away."""
APERTURE, MSI_PAGE = "aperture", "msi-page"
MSI_WORD_OFFSET = 0x40
"""Where on the page of the EP's MSI controller an interrupt number is stored. Source: Linux irq-gic-v2m.c."""
MOST_LOCAL_MSI = 1019
"""Highest interrupt number of a GIC."""
_OF_AN_EPOCH = {"mw_set_trans", "peer_mw_bus"}
MOST_KNOWN = 1024
"""Accesses of the host of which it is kept where they lead; with more of them all are looked up anew."""
FUNCTION_REGION_BYTES = 4 << 20
"""First part of EP DRAM: what the function allocates from; the rest is the client's."""


class EndpointController:
    """Sans-IO model of the ``epc`` process.

    Args:
        config: checked configuration.
        dram: all of EP DRAM.
        memory_id: which memory that is, for those who map it too.
    """

    def __init__(self, config: Config, dram: Window, memory_id: int = 0) -> None:
        endpoint = config.profile.endpoint
        self._outbox = Outbox(wakes=config.bridge.fabric == "local")
        self._dram = dram
        self._aperture = endpoint.aperture
        self._edma_base = endpoint.edma_base
        ranges: list[tuple[Span, Window | str]] = [
            (dram.span, dram),
            (endpoint.edma, EDMA),
            (self._aperture, APERTURE),
        ]
        if endpoint.msi_page is not None:
            ranges.append((endpoint.msi_page, MSI_PAGE))
        self._local = AddressMap(ranges)
        # what an interrupt window may be pointed at beside memory: the page that holds its registers
        self._register_pages = {
            target: page & ~(endpoint.align - 1)
            for target, page in (("edma", endpoint.edma_base), ("msi", endpoint.ep_msi_page))
            if page
        }
        self.epoch = 0
        self._paths: dict[str, bool] = {}
        self.counters: Counter[str] = Counter()
        self._refusals = Refusals(self._outbox, self.counters)
        self._complaints = Once()
        self._told_engine: tuple[int, bool] | None = None
        """Link epoch and bus master enable as the engine has them; None while its path is down."""
        self._fence: int | None = None
        """Tag of the read behind which nothing of the engine is old any more; None without a fence."""
        self._tag = 0
        self._forwarded: dict[int, tuple[str, str, int]] = {}
        """By tag: who answers, who asked, and the tag it asked with."""
        self.epc = Epc(endpoint, self._local, self._outbox, self, passthrough=config.ntb.passthrough)
        self._window_changed = False
        self._takes_from_driver = False
        """The host's driver sends memory requests of this epoch here, and so gets ours, all of them."""
        self._known: dict[tuple[int, int], tuple[Window | str, int, int]] = {}
        """Bus address and length of writes -> target, offset in it, local address; while nothing changes."""
        self.epc.iatu.on_change = self._on_window_change
        self.epc.bars.on_change = self._known.clear
        found = self.epc.detected
        self._outbox.log(
            "iatu.detected",
            outbound=found.outbound,
            inbound=found.inbound,
            region_align=found.region_align,
            region_limit=found.region_limit,
        )
        self._config = config
        region = dram.sub(0, FUNCTION_REGION_BYTES, "function")
        self._function_memory = region
        self.vntb = self._bind_function()
        self._is_local = config.bridge.fabric == "local"
        client = Span(region.span.end, dram.span.end - region.span.end)
        registers = [(endpoint.edma, EDMA)]
        if endpoint.msi_page is not None:
            registers.append((endpoint.msi_page, ENDPOINT))
        memory = [client, self.vntb.doorbells.span]
        self._grants = EpcGrants(
            self.epc, dram, memory_id, memory, registers, config.ntb.db_count - FIRST_DB_SLOT
        )
        self._calls: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "ntb_attach": self._call_attach,
            "mw_set_trans": self._call_mw_set_trans,
            "mw_clear_trans": self._call_mw_clear_trans,
            "peer_mw_is_open": self._call_peer_mw_is_open,
            "peer_mw_bus": self._call_peer_mw_bus,
            "restart_link": self._call_restart_link,
        }

    # the driver's side

    def handle(self, src: str, message: Message, now_ns: int) -> Sequence[Effect]:
        """A checked message from a neighbour."""
        if src == DRIVER:
            self._from_driver(message)
        elif src == CLIENT:
            self._from_client(message)
        elif src == HOST:
            self._from_host(message)
        else:
            self._from_engine(message)
        return self._finish()

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
        elif peer == EDMA and up:
            # what was stored to the engine meanwhile is lost, and may have been a ring
            if self._paths.get(CLIENT):
                self._outbox.send(CLIENT, Notice("edma_reached", {}, self.epoch))
            self._tell_engine()
        elif peer == EDMA:
            self._told_engine = self._fence = None
            self._forwarded = {tag: entry for tag, entry in self._forwarded.items() if EDMA not in entry[:2]}
        elif peer == DRIVER and up:
            self._offer_path()
        elif peer == DRIVER and self._takes_from_driver:
            self._takes_from_driver = False
            if self._paths.get(HOST):
                # what was on its way is lost, and something behind it must not arrive by another one
                self._outbox.add(Restart(HOST, f"peer-rc: {reason}"))
        if peer == HOST:
            self._grants.reset()
        elif peer == CLIENT:
            self._grants.forget_client()
        return self._finish()

    def _finish(self) -> Sequence[Effect]:
        """The effects of this step; grants that changed in it go out last."""
        if self._is_local and self.epoch and (self._grants.is_stale or self._window_changed):
            self._window_changed = False
            self._grants.publish(
                partial(self._tell_grants, HOST) if self._paths.get(HOST) else None,
                partial(self._tell_grants, CLIENT) if self._paths.get(CLIENT) else None,
            )
        return self._outbox.take()

    def _tell_grants(self, dst: str, args: dict[str, Any]) -> None:
        self._outbox.send(dst, Notice("grants", args, self.epoch))

    def next_deadline(self) -> int | None:
        """The poll work's."""
        return self.vntb.next_deadline()

    def on_deadline(self, now_ns: int) -> Sequence[Effect]:
        """Run the poll work."""
        due = self.vntb.next_deadline()
        if due is not None and due <= now_ns:
            self.vntb.poll(now_ns)
        return self._finish()

    def _bind_function(self) -> Vntb:
        tick = Tick(self._config.profile.kernel.hz)
        return Vntb(self._config, self._function_memory, self.epc, self._outbox, tick)

    def command(self, words: Sequence[str], now_ns: int) -> Sequence[Effect]:
        """``reset``. KernelError EOPNOTSUPP: other words."""
        if words != ["reset"]:
            raise unknown()
        return self.reset_endpoint(now_ns)

    def reset_endpoint(self, now_ns: int) -> Sequence[Effect]:
        """PERST#: BARs, windows, MSI and the engine's registers are lost, the function is bound again.

        The endpoint's memory is kept or lost, as configured. The client that holds it loses the device.
        """
        memory = self._config.node.ep.dram_on_reset
        self._outbox.log("endpoint.reset", memory=memory)
        self.vntb.reset("endpoint reset")
        self.epc.fundamental_reset()
        counters = self.vntb.counters
        self.vntb = self._bind_function()
        self.vntb.counters = counters
        self.vntb.start(now_ns)
        self._window_changed = True
        if self._paths.get(EDMA):
            self._outbox.send(EDMA, Notice("reset", {}, self.epoch))
        if self._paths.get(CLIENT):
            self._outbox.send(CLIENT, Notice("endpoint_reset", {"memory": memory}, self.epoch))
        elif memory == LOST:
            rest = self._dram.size - FUNCTION_REGION_BYTES
            lose(self._dram.sub(FUNCTION_REGION_BYTES, rest, "client"))
        if self._paths.get(HOST):
            self._outbox.add(Restart(HOST, "endpoint reset"))
        return self._finish()

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
                "bar_unclaimed": self.epc.bars.unclaimed,
                "inbound_misses": self.epc.iatu.inbound_misses,
                "outbound_misses": self.epc.iatu.outbound_misses,
                "windows_went_stale": self.epc.inbound.went_stale,
            },
            "iatu": dataclasses.asdict(self.epc.detected),
            "windows": self.epc.windows(),
        }

    # link

    def _on_link(self, up: bool, session: int, reason: str, now_ns: int) -> None:
        if not up:
            self.vntb.reset(f"link down: {reason}")
            self.epc.hot_reset()
            self._forwarded.clear()
            self._outbox.log("link.changed", up=False, link_epoch=self.epoch, reason=reason)
            self.epoch = 0
            self._takes_from_driver = False
        else:
            self.epoch = session
            self._outbox.log("link.changed", up=True, link_epoch=session, reason=reason)
            self._offer_path()
        self._tell_client()
        self._tell_engine()

    def _tell_client(self) -> None:
        self.vntb.set_client_epoch(self.epoch)
        if self._paths.get(CLIENT):
            self._outbox.send(CLIENT, Notice("epoch", {"epoch": self.epoch}, self.epoch))

    def _tell_engine(self) -> None:
        """Whether the engine may send requests, and under which epoch, when that is news."""
        news = (self.epoch, self._is_bus_master())
        if self._paths.get(EDMA) and news != self._told_engine and self._fence is None:
            self._told_engine = news
            self._outbox.send(EDMA, Notice("link", {"epoch": news[0], "bus_master": news[1]}, self.epoch))

    def _fence_engine(self) -> None:
        """The client has lost the engine: what it still does for the client must not go out.

        It is told that the link is down, which ends every channel, and is not believed before it has
        answered a read behind that.
        """
        if not self._paths.get(EDMA) or self._fence is not None:
            return
        self.counters["edma_fences"] += 1
        self._told_engine = None
        self._outbox.send(EDMA, Notice("link", {"epoch": 0, "bus_master": False}, self.epoch))
        self._tag = (self._tag + 1) & 0xFFFFFFFF
        self._fence = self._tag
        self._outbox.send(EDMA, MemRead(self._edma_base, 4, self._tag, self.epoch))

    def _is_bus_master(self) -> bool:
        return bool(self.epc.space.get_field("COMMAND", "BUS_MASTER"))

    # from the link

    def _from_host(self, message: Message) -> None:
        if isinstance(message, MemWrite):
            self._inbound_write(message.addr, message.data)
        elif isinstance(message, MemRead):
            self._read(HOST, self.epc.inbound_address(message.addr, message.size), message)
        elif isinstance(message, CfgRead):
            data = self.epc.config_read(message.offset, message.size)
            self._outbox.send(HOST, Completion(message.tag, Status.OK, data, self.epoch))
        elif isinstance(message, CfgWrite):
            self.epc.config_write(message.offset, message.data)
            self._window_changed = True
            self._tell_engine()
            self._outbox.send(HOST, Completion(message.tag, Status.OK, b"", self.epoch))
        elif isinstance(message, Completion):
            self._complete(HOST, message)
        elif isinstance(message, Notice) and message.name == "grants":
            try:
                self._grants.on_host(message.args)
            except PeerError as problem:
                self.counters["grants_refused"] += 1
                if self._complaints.is_first(str(problem)):
                    self._outbox.log("grants.refused", reason=str(problem))
        else:
            self.counters["unexpected"] += 1

    def _from_driver(self, message: Message) -> None:
        """Memory requests of the host's driver, by bus address, and answers to those of this side."""
        if isinstance(message, (MemWrite, MemRead)):
            if message.epoch != self.epoch or not self.epoch:
                self.counters["stale_epoch"] += 1
                if isinstance(message, MemRead):
                    self._outbox.send(DRIVER, Completion(message.tag, Status.UR, b"", message.epoch))
                return
            self._takes_from_driver = bool(self._paths.get(DRIVER))
            if isinstance(message, MemWrite):
                self._inbound_write(message.addr, message.data)
            else:
                self._read(DRIVER, self.epc.inbound_address(message.addr, message.size), message)
        elif isinstance(message, Completion):
            self._complete(DRIVER, message)
        else:
            self.counters["unexpected"] += 1

    def _offer_path(self) -> None:
        """Tell the host's driver that its memory requests of this epoch may come straight here."""
        if self.epoch and self._paths.get(DRIVER):
            self._outbox.send(DRIVER, Notice("takes_requests", {}, self.epoch))

    def _host_side(self) -> str:
        """Who gets a memory request of this side: the host's driver, whose memory it is, or the host."""
        return DRIVER if self._takes_from_driver else HOST

    def _inbound_write(self, addr: int, data: bytes | memoryview) -> None:
        known = self._known.get((addr, len(data)))
        if known is not None:
            self._store_at(*known, data)
            return
        local = self.epc.find_inbound(addr, len(data))
        if local is not None:
            found = self._local.find(local, len(data))
            if found is not None:
                if len(self._known) >= MOST_KNOWN:
                    self._known.clear()
                self._known[addr, len(data)] = (*found, local)
            self._store(local, data)
            return
        for offset, size in split_posted(addr, len(data)):
            local = self.epc.inbound_address(addr + offset, size)
            if local is None:
                self._refusals.drop_write("no_window", addr + offset, size)
            else:
                self._store(local, data[offset : offset + size])

    def _store(self, local: int, data: bytes | memoryview) -> None:
        found = self._local.find(local, len(data))
        if found is None:
            self._refusals.drop_write("nothing_local", local, len(data))
        else:
            self._store_at(*found, local, data)

    def _store_at(self, target: Window | str, offset: int, local: int, data: bytes | memoryview) -> None:
        if isinstance(target, Window):
            target.store("inbound", offset, data)
        elif target == EDMA:
            self._outbox.send(EDMA, MemWrite(local, data))
        elif target == MSI_PAGE:
            self._raise_local_msi(offset, data)
        else:
            self._refusals.drop_write("aperture_from_link", local, len(data))

    def _raise_local_msi(self, offset: int, data: bytes | memoryview) -> None:
        """A store to the page of the EP's MSI controller: the number stored is the interrupt's."""
        number = int.from_bytes(data, "little")
        if offset != MSI_WORD_OFFSET or len(data) != 4 or number > MOST_LOCAL_MSI:
            self._refusals.drop_write("no_msi", offset, len(data))
        else:
            self.counters["local_msis"] += 1
            self._outbox.signal(CLIENT, Irq(IrqSource.MSI_VECTOR, number, self.epoch))

    def _read(self, requester: str, local: int | None, message: MemRead) -> None:
        found = None if local is None else self._local.find(local, message.size)
        if found is None or local is None:
            self._refusals.refuse_read("no_window", message.addr, message.size)
            self._outbox.send(requester, Completion(message.tag, Status.UR, b"", message.epoch))
        elif isinstance(found[0], Window):
            data = found[0].load(found[1], message.size)
            self._outbox.send(requester, Completion(message.tag, Status.OK, data, message.epoch))
        elif found[0] == EDMA:
            self._forward_read(EDMA, requester, local, message)
        else:
            may_go_out = requester not in {HOST, DRIVER} and self.epoch and message.epoch == self.epoch
            bus = self.epc.iatu.translate_outbound(local, message.size) if may_go_out else None
            if bus is None:
                self._refusals.refuse_read("no_window", message.addr, message.size)
                self._outbox.send(requester, Completion(message.tag, Status.UR, b"", message.epoch))
            else:
                self._forward_read(self._host_side(), requester, bus, message)

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
        if requester == NOBODY:
            return
        self._outbox.send(requester, Completion(tag, message.status, message.data, self.epoch))

    def _on_window_change(self) -> None:
        """Hardware gives no warning: what a change does to an access on its way is undefined (EDMA 31)."""
        self._window_changed = True
        self._known.clear()
        in_flight = sum(requester not in {NOBODY, EDMA} for _, requester, _ in self._forwarded.values())
        if in_flight:
            self.counters["windows_changed_in_flight"] += 1
            self._outbox.log("iatu.changed_in_flight", reads=in_flight)

    # from the eDMA engine

    def _from_engine(self, message: Message) -> None:
        """Requests under bus addresses, and answers to what was asked of its registers."""
        if isinstance(message, Completion):
            if message.tag == self._fence:
                self._fence = None
                self._tell_engine()
            else:
                self._complete(EDMA, message)
            return
        is_believed = self._fence is None and message.epoch == self.epoch
        may_go_out = self.epoch and is_believed and self._is_bus_master()
        if isinstance(message, MemWrite):
            if may_go_out:
                self._outbox.send(self._host_side(), message)
            else:
                self._refusals.drop_write("no_bus_master", message.addr, len(message.data))
        elif isinstance(message, MemRead):
            if may_go_out:
                dst = self._host_side()
                self._forward_read(dst, EDMA, message.addr, message)
            else:
                self._refusals.refuse_read("no_bus_master", message.addr, message.size)
                self._outbox.send(EDMA, Completion(message.tag, Status.UR, b"", message.epoch))
        else:
            self.counters["unexpected"] += 1

    # from the EP's own CPU

    def _from_client(self, message: Message) -> None:
        if isinstance(message, MemWrite):
            if message.epoch != self.epoch or not self.epoch:
                self.counters["stale_epoch"] += 1
            elif self._aperture.contains(message.addr, len(message.data)):
                self._outbound_write(message.addr, message.data)
            else:
                self._refusals.drop_write("not_in_aperture", message.addr, len(message.data))
        elif isinstance(message, Irq) and message.source is IrqSource.PEER_DOORBELL:
            if message.epoch != self.epoch or not self.epoch:
                self.counters["stale_epoch"] += 1
            else:
                self.vntb.peer_db_set(message.bits)
        elif isinstance(message, MemRead):
            self._read(CLIENT, message.addr, message)
        elif isinstance(message, Call):
            self._call(message)
        elif isinstance(message, Notice) and message.name == "edma_fence":
            self._fence_engine()
        elif isinstance(message, Notice) and message.name == "link_wanted":
            self.vntb.set_client_wants(message.args.get("up") is True)
        else:
            self.counters["unexpected"] += 1

    def _outbound_write(self, local: int, data: bytes | memoryview) -> None:
        bus = self.epc.iatu.find_outbound(local, len(data))
        if bus is not None:
            self._outbox.send(self._host_side(), MemWrite(bus, data, self.epoch))
            return
        for offset, size in split_posted(local, len(data)):
            bus = self.epc.iatu.translate_outbound(local + offset, size)
            if bus is None:
                self._refusals.drop_write("no_outbound_window", local + offset, size)
            else:
                part = MemWrite(bus, data[offset : offset + size], self.epoch)
                self._outbox.send(self._host_side(), part)

    def _call(self, message: Call) -> None:
        try:
            operation = self._calls.get(message.op)
            if operation is None:
                raise KernelError(errno.EOPNOTSUPP, f"no operation {message.op[:32]!r}")
            if message.op in _OF_AN_EPOCH and message.epoch != self.epoch:
                # the memory it is about belongs to that epoch, and may be in other use by now
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
        offset = _integer(args, "offset") if "offset" in args else 0
        plan = self.vntb.windows.check(widx)
        is_its_page = plan.purpose == "interrupt" and addr == self._register_pages.get(plan.target)
        if not is_its_page and not self._dram.span.contains(addr, size):
            raise KernelError(errno.EINVAL, f"[{addr:#x}, {addr + size:#x}) is not endpoint memory")
        self.vntb.mw_set_trans(widx, addr, size, offset)
        return {}

    def _call_mw_clear_trans(self, args: dict[str, Any]) -> dict[str, Any]:
        self.vntb.mw_clear_trans(_integer(args, "widx"))
        return {}

    def _call_peer_mw_is_open(self, args: dict[str, Any]) -> dict[str, Any]:
        return {"open": self.vntb.windows.outbound_is_mapped(_integer(args, "widx"))}

    def _call_peer_mw_bus(self, args: dict[str, Any]) -> dict[str, Any]:
        bus, size = self.vntb.windows.outbound_bus(_integer(args, "widx"))
        return {"bus": bus, "size": size}

    def _call_restart_link(self, args: dict[str, Any]) -> dict[str, Any]:
        reason = str(args.get("reason", ""))[:80]
        self._outbox.log("link.restarted", reason=f"asked by {CLIENT}: {reason}")
        if self._paths.get(HOST):
            self._outbox.add(Restart(HOST, f"{CLIENT}: {reason}"))
        return {}

    # the controller's port to the link

    def post(self, bus_addr: int, data: bytes) -> None:
        """Send a posted write to the host, behind all earlier ones."""
        self._outbox.send(self._host_side(), MemWrite(bus_addr, data, self.epoch))

    def flush(self, bus_addr: int, size: int) -> None:
        """Send a read to the host whose answer nobody needs."""
        dst = self._host_side()
        self._forward_read(dst, NOBODY, bus_addr, MemRead(bus_addr, size, 0, self.epoch))


def _integer(args: dict[str, Any], name: str) -> int:
    value = args.get(name)
    if type(value) is not int or not 0 <= value < 1 << 64:
        raise KernelError(errno.EINVAL, f"{name}: {value!r} is no unsigned integer")
    return value
