"""A peer process: the NTB driver of its node, the transport on it, and the network device on that.

What both have in common; ``peer_rc`` and ``peer_ep`` know where the device comes from and how it
interrupts. Both are told the link epoch; everything they send carries it, and what comes with another
epoch is dropped.

A transport that cannot go on (a frame with a wrong ``ver``) asks for a new link epoch, at most
once an epoch and not before the epoch is a second old, so that a hostile peer cannot make it
spin.

``shutdown`` ends a peer in the kernel's order of removal, so that the other host learns of it at once
instead of from silence.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from typing import Any

from ntbnet.config import Config, deprecated_keys
from ntbnet.devices.command import LOST, lose, unknown
from ntbnet.devices.complaints import Once
from ntbnet.devices.direct import CpuBus, Far
from ntbnet.devices.dw_edma import DwEdmas
from ntbnet.devices.effects import Effect, Outbox, StopQueue
from ntbnet.devices.framing import VNET_HEADER_BYTES
from ntbnet.devices.intr_select import choose
from ntbnet.devices.memory import Allocator, Window
from ntbnet.devices.netdev import Netdev
from ntbnet.devices.ntb import NtbDevice
from ntbnet.devices.queue import Queue
from ntbnet.devices.task import Call, Sleep, Task, Tasks
from ntbnet.devices.tick import Tick
from ntbnet.devices.transport import Transport
from ntbnet.devices.tx_dma import TxDmaEngine
from ntbnet.errors import KernelError, PeerError
from ntbnet.wire import Completion, Irq, IrqSource, Message, Notice, Reply

MIN_EPOCH_NS = 1_000_000_000
"""Least age of a link epoch before its peer may ask for another one."""
RETRY_NS = 100_000_000
MAX_PACKET_BYTES = VNET_HEADER_BYTES + 65535
LEASE_LOOK_NS = 10_000_000
"""How often a process that begins looks whether the other host has left earlier link epochs."""


def mac_of(node: str) -> bytes:
    """The node's Ethernet address: locally administered, the same at each start (a stated deviation)."""
    return bytes((0x02, 0x6E, 0x74, 0x62, 0x00, 0x01 if node == "rc" else 0x02))


class Peer:
    """What both peers have in common; sans-IO.

    Args:
        config: checked configuration.
        dram: all DRAM of the node.
        node: ``rc`` or ``ep``.
        upstream: the service that hands out the device.
        dram_offset: first byte of DRAM this process may allocate from.
        seed: start number of the process; rotates where allocation starts.
        far: the other node's memory, in fabric ``local``.
        link_wanted: False: the link was taken down on this side by command.
    """

    def __init__(
        self,
        config: Config,
        dram: Window,
        *,
        node: str,
        upstream: str,
        dram_offset: int,
        seed: int,
        far: Far | None,
        link_wanted: bool = True,
    ) -> None:
        self._config = config
        self._dram = dram
        self._node = node
        self._upstream = upstream
        self._tick = Tick(config.profile.kernel.hz)
        self._outbox = Outbox(wakes=far is not None)
        self._tasks = Tasks(self._outbox, upstream, config.timing.completion_timeout_ms * 1_000_000)
        self._heap = heap = dram.sub(dram_offset, dram.size - dram_offset, "heap")
        first_offset = seed * (heap.size // 3) % heap.size
        self._allocator = Allocator(heap, first_offset, None if far is None else far.lease.is_over)
        self._lease = None if far is None else far.lease
        self._is_local = far is not None
        self._cpu = CpuBus(self._outbox, self._tasks, upstream, far, "peer-rc" if node == "ep" else "")
        self._link_wanted = link_wanted
        self._upstream_up = False
        self._epoch_since_ns = 0
        self._packet_buffer = memoryview(bytearray(MAX_PACKET_BYTES))
        self._device: NtbDevice | None = None
        self._transport: Transport | None = None
        self._netdev: Netdev | None = None
        self.counters: Counter[str] = Counter()
        self._refusals = Once()
        self._edmas: DwEdmas | None = None
        self._dma: TxDmaEngine | None = None
        self._leaving = self._left = False

    # the driver's side (of the process)

    def handle(self, src: str, message: Message, now_ns: int) -> Sequence[Effect]:
        """A checked message from a neighbour."""
        self._tasks.now_ns = now_ns
        if isinstance(message, Irq):
            self._on_irq(message)
        elif isinstance(message, (Completion, Reply)):
            self._tasks.complete(message)
        elif isinstance(message, Notice) and src == self._upstream:
            if message.name == "grants":
                self._on_grants(message)
            else:
                self._on_notice(message)
        else:
            self.counters["unexpected"] += 1
        return self._outbox.take()

    def on_path(self, peer: str, up: bool, session: int, reason: str, now_ns: int) -> Sequence[Effect]:
        """Without the upstream service there is no device."""
        self._tasks.now_ns = now_ns
        if peer == self._upstream:
            self._upstream_up = up
            if up:
                self._on_upstream_up()
            else:
                self._set_epoch(0)
                self._drop_device(f"{peer}: {reason}")
        if not up and self._netdev is not None:
            self._netdev.tell_first()  # without this neighbour interrupts may have been lost, not the link
        return self._outbox.take()

    def next_deadline(self) -> int | None:
        """Of the driver's waits and timeouts."""
        return self._tasks.next_deadline()

    def on_deadline(self, now_ns: int) -> Sequence[Effect]:
        """Wake what is due."""
        self._tasks.on_deadline(now_ns)
        return self._outbox.take()

    # an orderly end

    def shutdown(self, now_ns: int) -> Sequence[Effect]:
        """Begin to leave: interface, transport, driver, in this order; no device is taken any more.

        Told to the other host: the link-down frame, TEARDOWN_MW, LINK_DOWN, and for the RC's driver
        TEARDOWN_DOORBELL (NTB 108). May take as long as a neighbour is silent, so the caller waits
        for ``is_shut_down`` only so long, and performs what messages and deadlines give meanwhile.
        """
        self._tasks.now_ns = now_ns
        if not self._leaving:
            self._leaving = True
            transport, netdev = self._transport, self._netdev
            if transport is None or netdev is None:
                self._drop_device("shutdown")
            else:
                netdev.close()
                transport.remove(graceful=True, on_done=self._remove_driver)
        return self._outbox.take()

    def is_shut_down(self) -> bool:
        """True once nothing is left to do for a ``shutdown``, or nobody to do it with."""
        return self._left

    def _remove_driver(self, _nothing: None) -> None:
        self._tasks.spawn("remove", self._unprobe(), lambda _: self._drop_device("shutdown"))

    def _unprobe(self) -> Task[None]:
        """Undo what the driver's probe did; best effort."""
        yield from ()

    # commands

    def command(self, words: Sequence[str], now_ns: int) -> Sequence[Effect]:
        """``link up`` or ``link down``: ask for the NTB link, or drop it, until told otherwise.

        Raises:
            KernelError: EOPNOTSUPP: other words.
        """
        if words not in (["link", "up"], ["link", "down"]):
            raise unknown()
        self._tasks.now_ns = now_ns
        wanted = words[1] == "up"
        if wanted != self._link_wanted:
            self._link_wanted = wanted
            self._outbox.log("link.administered", up=wanted)
            if self._transport is not None:
                self._transport.set_link_wanted(wanted)
        return self._outbox.take()

    def _lose_memory(self, memory: object) -> None:
        """This host was reset, and nothing of its memory is in use."""
        if memory == LOST:
            lose(self._heap)

    # what a trace asks for

    @property
    def epoch(self) -> int:
        """Link epoch, 0 for none."""
        return self._tasks.epoch

    @property
    def queues(self) -> Sequence[Queue]:
        """The queues that carry packets, none without a network device."""
        return () if self._netdev is None else self._netdev.queues

    def packet_counts(self) -> tuple[int, int]:
        """Packets sent to the other node and received from it, since the interface was made."""
        netdev = self._netdev
        return (0, 0) if netdev is None else (netdev.tx_packets, netdev.rx_packets)

    def bar_of(self, addr: int) -> tuple[int, int] | None:
        """BAR that an address of this host's CPU lies in, and the offset; None: in none."""
        return None

    # packets

    def receive_buffer(self) -> memoryview:
        """Where the next packet of the node's stack is read into, at once."""
        return self._packet_buffer if self._netdev is None else self._netdev.room()

    def transmit(self, length: int, now_ns: int) -> Sequence[Effect]:
        """Send the packet in the last ``receive_buffer``; without a device it is dropped."""
        self._tasks.now_ns = now_ns
        if self._netdev is None:
            self.counters["tx_dropped_no_device"] += 1
        elif not self._netdev.xmit_in_place(length):
            self.counters["tx_dropped_busy"] += 1
        return self._outbox.take()

    def end_burst(self, now_ns: int) -> Sequence[Effect]:
        """No further packet follows at once: the peer is told of those that were sent."""
        self._tasks.now_ns = now_ns
        if self._netdev is not None:
            self._netdev.end_burst()
        return self._outbox.take()

    def poll(self, now_ns: int) -> Sequence[Effect]:
        """Look for frames, as a Poll effect asked for."""
        self._tasks.now_ns = now_ns
        if self._netdev is not None:
            self._netdev.rx_poll.on_period()
        return self._outbox.take()

    def snapshot(self) -> dict[str, Any]:
        """State and counters for ``status``."""
        transport, netdev = self._transport, self._netdev
        return {
            "link": {
                "epoch": self._tasks.epoch,
                "up": transport is not None and transport.link_is_up,
                "wanted": self._link_wanted,
                "queues": [] if transport is None else transport.snapshot(),
            },
            "interrupts": None if transport is None else transport.interrupts_snapshot(),
            "dma": [] if self._dma is None else self._dma.snapshot(),
            "netdev": None if netdev is None else netdev.snapshot(),
            "polling": None if netdev is None else netdev.rx_poll.snapshot(),
            "stores": self._cpu.snapshot(),
            "driver": None if self._device is None else self._device.name,
            "counters": {
                **self.counters,
                "completion_timeouts": self._tasks.timeouts,
                "late_completions": self._tasks.late_completions,
            },
        }

    # device

    @abstractmethod
    def _on_upstream_up(self) -> None:
        """The path to the upstream service came up."""

    @abstractmethod
    def _on_notice(self, message: Notice) -> None:
        """The upstream service tells of a change."""

    def _set_epoch(self, epoch: int) -> None:
        self._tasks.epoch = epoch
        self._epoch_since_ns = self._tasks.now_ns
        self._cpu.enter(epoch)
        self._allocator.epoch = epoch or self._allocator.epoch

    def _on_grants(self, message: Notice) -> None:
        if message.epoch != self._tasks.epoch or not message.epoch:
            self.counters["stale_epoch"] += 1
            return
        try:
            self._cpu.grant(message.args)
        except PeerError as problem:
            self.counters["grants_refused"] += 1
            if self._refusals.is_first("grants", str(problem)):
                self._outbox.log("grants.refused", reason=str(problem))

    def _bring_up(self, device: NtbDevice) -> Task[None]:
        """Transport and network device on top of ``device``."""
        yield from self._wait_for_memory()
        config = self._config
        self._device = device
        for reason in deprecated_keys(config.transport):
            if self._refusals.is_first("deprecated", reason):
                self._outbox.log("config.deprecated", key="transport.use_msi", reason=reason)
        interrupts = choose(
            device,
            self._outbox,
            wanted=config.transport.interrupts,
            widx=next((one.index for one in config.windows if one.purpose == "interrupt"), None),
            edmas=self._edmas,
            on_descriptor_changed=self._on_descriptor_changed,
        )
        transport = Transport(
            device,
            self._tasks,
            self._outbox,
            self._tick,
            transport_mtu=config.transport.transport_mtu,
            max_num_clients=config.transport.max_num_clients,
            max_mw_size=config.transport.max_mw_size,
            on_stuck=self._ask_for_new_epoch,
            windows=[window.index for window in config.data_windows],
            interrupts=interrupts,
            dma=self._dma,
            look_ns=config.timing.heartbeat_ms * 1_000_000,
            poll_ns=self._tick.expiry(0, config.profile.kernel.poll_ms * 1_000_000),
            link_wanted=self._link_wanted,
        )
        self._transport = transport
        yield from transport.probe()
        self._netdev = Netdev(
            transport,
            self._outbox,
            self._tasks,
            self._tick,
            mtu=config.netdev.mtu,
            local_mac=mac_of(self._node),
            peer_mac=mac_of("ep" if self._node == "rc" else "rc"),
            tx_stop=config.netdev.tx_stop,
            poll=config.netdev.poll,
            queues=config.netdev.queues,
            offloads=config.netdev.offloads,
            is_local=self._is_local,
        )
        self._netdev.open()

    def _wait_for_memory(self) -> Task[None]:
        """Once, before anything is allocated: what an earlier process lent may still be stored to."""
        while self._lease is not None and not self._lease.is_clean(self._tasks.epoch):
            yield Sleep(LEASE_LOOK_NS)
        self._lease = None

    def _on_descriptor_changed(self) -> None:
        if self._transport is not None:
            self._transport.descriptors_changed()

    def _drop_device(self, reason: str) -> None:
        """The device is gone: no bus access, only our own state."""
        self._left = self._leaving
        self._tasks.cancel_all()
        transport, self._transport = self._transport, None
        netdev, self._netdev = self._netdev, None
        if transport is not None:
            transport.remove(graceful=False)
        if netdev is not None:
            netdev.rx_poll.stop()
        if netdev is not None and netdev.stopped:
            self._outbox.add(StopQueue(stopped=False))
        device, self._device = self._device, None
        if device is not None:
            self._outbox.log("driver.removed", driver=device.name, reason=reason)

    def _ask_for_new_epoch(self, reason: str, least_age_ns: int = MIN_EPOCH_NS) -> None:
        self._outbox.log("link.restarted", reason=reason)
        self._tasks.spawn("restart_link", self._restart_link(reason, least_age_ns))

    def _restart_link(self, reason: str, least_age_ns: int) -> Task[None]:
        """Ask until an answer comes or the epoch is over anyway."""
        epoch = self._tasks.epoch
        wait_ns = least_age_ns - (self._tasks.now_ns - self._epoch_since_ns)
        while self._tasks.epoch == epoch:
            if wait_ns > 0:
                yield Sleep(wait_ns)
                wait_ns = 0
                continue
            try:
                yield Call(self._upstream, "restart_link", {"reason": reason})
            except KernelError:
                wait_ns = RETRY_NS
            else:
                return

    # interrupts

    def _on_irq(self, message: Irq) -> None:
        if self._leaving:
            return
        if message.source is IrqSource.EDMA_LINE:
            self._on_edma_line(message.bits)
        elif message.epoch != self._tasks.epoch or not message.epoch:
            self.counters["stale_epoch"] += 1
        else:
            self._on_device_irq(message)

    @abstractmethod
    def _on_device_irq(self, message: Irq) -> None:
        """An interrupt of this link epoch."""

    def _on_edma_line(self, lines: int) -> None:
        self._spurious("edma", lines)

    def _spurious(self, source: str, bits: int) -> None:
        self.counters["irqs_spurious"] += 1
        if self._refusals.is_first(source):
            self._outbox.log("irq.spurious", source=source, bits=bits)
