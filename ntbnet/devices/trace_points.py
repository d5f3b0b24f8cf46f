"""Where a trace looks into the device models: what no message and no effect shows.

As ``memory.watch_stores`` does, ``watch`` replaces these methods by ones that tell a watcher first, and
``unwatch`` puts the bare ones back: a process that is not watched runs as if this module were not there.
A watcher only looks; it knows the time, the device models do not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from ntbnet.devices.direct import CpuBus, Grant
from ntbnet.devices.edma import Edma
from ntbnet.devices.effects import Deliver
from ntbnet.devices.endpoint import CLIENT, DRIVER, HOST, EndpointController
from ntbnet.devices.host_irq import HostInterrupts
from ntbnet.devices.iatu import IatuWindow
from ntbnet.devices.memory import Buffer
from ntbnet.devices.msi import MsiTarget
from ntbnet.devices.netdev import Subqueue
from ntbnet.devices.ntb_epf import NtbEpf
from ntbnet.devices.tlp import split_posted
from ntbnet.wire import Completion, MemRead

RING_STORES = "ring."
"""Stores that make a frame, and that free it: RING_WRITE and TUN_WRITE stand for them."""
NONE = 0xFFFF
"""No such window, BAR or vector."""


class Watcher(Protocol):
    """What is told; data is as long as the access, and the watcher's only during the call."""

    delivered: deque[tuple[int, int]]
    """Gets queue and ``ver`` of each frame that a Deliver effect was queued for, in their order."""
    stores: deque[tuple[int, int]]
    """Gets each store of this host's CPU to registers of a service, which a wake follows: the CPU's address,
    and there."""

    def translated(
        self,
        addr: int,
        translated: int | None,
        length: int,
        data: Buffer | None,
        *,
        outbound: bool,
        window: int,
        bar: int,
        bar_offset: int,
        epoch: int,
        tag: int,
    ) -> None:
        """The controller translated an access; None: nothing is there. No data: a read."""

    def stored_directly(self, addr: int, translated: int, data: Buffer, epoch: int) -> None:
        """This host's CPU stored to the other host, past every message."""

    def register_read(self, offset: int, data: Buffer, epoch: int) -> None:
        """A register of the eDMA engine was read, by whom the message at hand is from."""

    def msi(self, addr: int, data: int, vector: int, *, sent: bool) -> None:
        """An MSI was sent, or came; ``vector`` NONE: one that is not granted."""


def watch(watcher: Watcher) -> None:
    """Tell ``watcher`` from now on; of all device models of this process."""
    for cls, name, around in _POINTS:
        setattr(cls, name, around(_BARE[cls, name], watcher))


def unwatch() -> None:
    """Undo ``watch``. Idempotent."""
    for (cls, name), bare in _BARE.items():
        setattr(cls, name, bare)


def _around_frame(bare: Callable[..., None], watcher: Watcher) -> Callable[..., None]:
    delivered = watcher.delivered

    def rx(client: Subqueue, frame: memoryview | None, length: int) -> None:
        queue, effects = client.queue, client._netdev._outbox.effects
        ver, before = queue.rx.rx_pkts - 1, len(effects)
        bare(client, frame, length)
        if len(effects) == before:
            return
        if type(effects[before]) is Deliver or any(type(one) is Deliver for one in effects[before:]):
            delivered.append((queue.number, ver))

    return rx


def _around_inbound_write(bare: Callable[..., None], watcher: Watcher) -> Callable[..., None]:
    def inbound_write(controller: EndpointController, addr: int, data: memoryview | bytes) -> None:
        epc = controller.epc
        for offset, size in _pieces(epc.find_inbound, addr, len(data)):
            at = addr + offset
            _tell_inbound(watcher, controller, at, epc.find_inbound(at, size), size, data[offset:], 0)
        bare(controller, addr, data)

    return inbound_write


def _around_outbound_write(bare: Callable[..., None], watcher: Watcher) -> Callable[..., None]:
    def outbound_write(controller: EndpointController, local: int, data: memoryview | bytes) -> None:
        iatu = controller.epc.iatu
        for offset, size in _pieces(iatu.find_outbound, local, len(data)):
            at = local + offset
            _tell_outbound(watcher, controller, at, iatu.find_outbound(at, size), size, data[offset:], 0)
        bare(controller, local, data)

    return outbound_write


def _around_read(bare: Callable[..., None], watcher: Watcher) -> Callable[..., None]:
    def read(controller: EndpointController, requester: str, local: int | None, message: MemRead) -> None:
        addr, size = message.addr, message.size
        if requester in (HOST, DRIVER):
            _tell_inbound(watcher, controller, addr, local, size, None, message.tag)
        elif requester == CLIENT and controller._aperture.contains(addr, size):
            bus = controller.epc.iatu.find_outbound(addr, size)
            _tell_outbound(watcher, controller, addr, bus, size, None, message.tag)
        bare(controller, requester, local, message)

    return read


def _pieces(find: Callable[[int, int], int | None], addr: int, length: int) -> Iterator[tuple[int, int]]:
    """How a write is translated: as a whole, or request by request."""
    return iter([(0, length)]) if find(addr, length) is not None else iter(split_posted(addr, length))


def _tell_inbound(
    watcher: Watcher,
    controller: EndpointController,
    addr: int,
    local: int | None,
    length: int,
    data: Buffer | None,
    tag: int,
) -> None:
    bar, offset = controller.epc.bars.find(addr, length) or (NONE, 0)
    window = NONE
    if local is not None:
        window = _index(controller.epc.iatu.inbound, bar, offset, addr)
    watcher.translated(
        addr,
        local,
        length,
        data,
        outbound=False,
        window=window,
        bar=bar,
        bar_offset=offset,
        epoch=controller.epoch,
        tag=tag,
    )


def _tell_outbound(
    watcher: Watcher,
    controller: EndpointController,
    local: int,
    bus: int | None,
    length: int,
    data: Buffer | None,
    tag: int,
) -> None:
    window = NONE if bus is None else _index(controller.epc.iatu.outbound, NONE, 0, local)
    watcher.translated(
        local,
        bus,
        length,
        data,
        outbound=True,
        window=window,
        bar=NONE,
        bar_offset=0,
        epoch=controller.epoch,
        tag=tag,
    )


def _index(windows: list[IatuWindow | None], bar: int, offset: int, addr: int) -> int:
    """The first window that has the access, as the iATU looks for it."""
    for index, window in enumerate(windows):
        if window is None or window.bar not in (None, bar):
            continue
        if window.base <= (addr if window.bar is None else offset) <= window.limit:
            return index
    return NONE


def _around_direct(bare: Callable[..., None], watcher: Watcher) -> Callable[..., None]:
    stores = watcher.stores

    def land(cpu: CpuBus, grant: Grant, addr: int, data: Buffer, what: str) -> None:
        if grant.owner:
            stores.append((addr, grant.at + addr - grant.base))
        elif not what.startswith(RING_STORES) and cpu._far is not None:
            at = cpu._far.memory.span.base + grant.at + addr - grant.base
            watcher.stored_directly(addr, at, data, cpu._tasks.epoch)
        bare(cpu, grant, addr, data, what)

    return land


def _around_register_read(bare: Callable[..., Completion], watcher: Watcher) -> Callable[..., Completion]:
    def read(edma: Edma, message: MemRead) -> Completion:
        answer = bare(edma, message)
        if answer.data:
            watcher.register_read(message.addr - edma._span.base, answer.data, edma.engine.epoch)
        return answer

    return read


def _around_raise(bare: Callable[..., int], watcher: Watcher) -> Callable[..., int]:
    def send(irqs: HostInterrupts, address: int, data: int) -> int:
        bus = bare(irqs, address, data)
        granted = irqs.msi.granted
        watcher.msi(bus, data, data & (granted - 1) if granted else data & NONE, sent=True)
        return bus

    return send


def _around_msi_target(bare: Callable[..., int | None], watcher: Watcher) -> Callable[..., int | None]:
    def vector_of(target: MsiTarget, bus_addr: int, data: int, *rest: int) -> int | None:
        vector = bare(target, bus_addr, data, *rest)
        watcher.msi(bus_addr, data, NONE if vector is None else vector, sent=False)
        return vector

    return vector_of


def _around_driver_msi(bare: Callable[..., int | None], watcher: Watcher) -> Callable[..., int | None]:
    def vector_of(device: NtbEpf, addr: int, data: Buffer) -> int | None:
        vector = bare(device, addr, data)
        watcher.msi(addr, int.from_bytes(data, "little"), NONE if vector is None else vector, sent=False)
        return vector

    return vector_of


_POINTS: tuple[tuple[type, str, Callable[[Callable[..., Any], Watcher], Callable[..., Any]]], ...] = (
    (Subqueue, "rx", _around_frame),
    (EndpointController, "_inbound_write", _around_inbound_write),
    (EndpointController, "_outbound_write", _around_outbound_write),
    (EndpointController, "_read", _around_read),
    (CpuBus, "_land", _around_direct),
    (Edma, "_read", _around_register_read),
    (HostInterrupts, "_send", _around_raise),
    (MsiTarget, "vector_of", _around_msi_target),
    (NtbEpf, "vector_of", _around_driver_msi),
)
_BARE = {(cls, name): cls.__dict__[name] for cls, name, _ in _POINTS}
