"""The RC's peer process: ntb_hw_epf on the function that the host's PCI core found.

A probe that fails asks for a new link epoch, and waits longer each time the same reason comes back; one
that met an impossible device stays down until the link restarts by itself.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Any

from ntbnet.config import Config
from ntbnet.devices.direct import Far
from ntbnet.devices.dma import DmaFilter
from ntbnet.devices.effects import Effect
from ntbnet.devices.memory import Window
from ntbnet.devices.ntb_epf import BarMap, NtbEpf, bar_map_override
from ntbnet.devices.peer import MIN_EPOCH_NS, Peer
from ntbnet.devices.task import Sleep, Task
from ntbnet.errors import KernelError, PeerError
from ntbnet.wire import Completion, Irq, IrqSource, MemRead, MemWrite, Message, Notice, Status

ENDPOINT, EP_CPU = "epc", "peer-ep"
OFFER_PATIENCE_NS = 200_000_000
"""How long a probe waits for the endpoint to offer its path; without it all goes by the host."""
OFFER_POLL_NS = 1_000_000
MAX_PROBE_WAIT_NS = 30_000_000_000
"""Greatest age that a link epoch has to reach before a failed probe asks for another one."""


class RcPeer(Peer):
    """``peer-rc``: ntb_hw_epf on the function the host enumerated."""

    def __init__(
        self, config: Config, dram: Window, seed: int, far: Far | None = None, *, link_wanted: bool = True
    ) -> None:
        super().__init__(
            config,
            dram,
            node="rc",
            upstream="rc-host",
            dram_offset=0,
            seed=seed,
            far=far,
            link_wanted=link_wanted,
        )
        self._failed_reason = ""
        self._probe_wait_ns = MIN_EPOCH_NS
        self._offered = 0
        """Link epoch in which the endpoint takes memory requests without the host's help."""
        self._mapped = DmaFilter(dram, self._outbox, self.counters)
        if config.transport.use_dma:
            self._outbox.log("dma.unavailable", reason="this host has no DMA engine")

    def handle(self, src: str, message: Message, now_ns: int) -> Sequence[Effect]:
        """As every peer, and memory requests of the endpoint."""
        if src != ENDPOINT or isinstance(message, Completion):
            if src == EP_CPU and message.epoch == self._tasks.epoch:
                self.counters["msis"] += 1
            return super().handle(src, message, now_ns)
        self._tasks.now_ns = now_ns
        if isinstance(message, (MemWrite, MemRead)):
            if message.epoch != self._tasks.epoch or not message.epoch:
                self.counters["stale_epoch"] += 1
            elif isinstance(message, MemWrite):
                self._endpoint_write(message.addr, message.data)
            else:
                self._endpoint_read(message)
        elif isinstance(message, Notice) and message.name == "takes_requests":
            self._offered = message.epoch
        else:
            self.counters["unexpected"] += 1
        return self._outbox.take()

    def on_path(self, peer: str, up: bool, session: int, reason: str, now_ns: int) -> Sequence[Effect]:
        """What came over a path that is lost to the endpoint, or did not, ends with the epoch: see there."""
        if peer == ENDPOINT:
            self._offered = 0
        return super().on_path(peer, up, session, reason, now_ns)

    def is_interrupt(self, src: str, message: Message) -> bool:
        """True for an MSI that the endpoint writes straight to this host."""
        device = self._device
        return (
            src == ENDPOINT
            and isinstance(message, MemWrite)
            and isinstance(device, NtbEpf)
            and device.is_msi_target(message.addr, len(message.data))
        )

    def bar_of(self, addr: int) -> tuple[int, int] | None:
        """BAR of the function, and the offset in it; None: in none."""
        return self._device.bar_of(addr) if isinstance(self._device, NtbEpf) else None

    def _endpoint_write(self, addr: int, data: bytes | memoryview) -> None:
        device = self._device
        if not isinstance(device, NtbEpf) or not device.is_msi_target(addr, len(data)):
            self._mapped.store(addr, data)
            return
        vector = device.vector_of(addr, data)
        if vector is None:
            self.counters["msis_refused"] += 1
            if self._refusals.is_first("msi"):
                vector_shown = int.from_bytes(data, "little")
                self._outbox.log("msi.refused", cause="not granted", vector=vector_shown)
        elif not self._leaving:
            self.counters["msis"] += 1
            device.on_vector(vector)

    def _endpoint_read(self, message: MemRead) -> None:
        device = self._device
        if isinstance(device, NtbEpf) and device.is_msi_target(message.addr, message.size):
            # the read that flushes an MSI-X: the register is write-only
            data: bytes | None = bytes(message.size)
        else:
            data = self._mapped.load(message.addr, message.size)
        status = Status.UR if data is None else Status.OK
        self._outbox.send(ENDPOINT, Completion(message.tag, status, data or b"", message.epoch))

    def _set_epoch(self, epoch: int) -> None:
        self._mapped.clear()
        super()._set_epoch(epoch)

    def _on_upstream_up(self) -> None:
        """The host tells of the device by itself."""

    def _on_notice(self, message: Notice) -> None:
        if message.name == "device_added":
            self._drop_device("replaced")
            self._set_epoch(message.epoch)
            if not self._leaving:
                self._tasks.spawn("probe", self._probe(message.args))
        elif message.name == "host_reset":
            self._set_epoch(0)
            self._drop_device("host reset")
            self._lose_memory(message.args.get("memory"))
        elif message.name == "device_removed":
            self._set_epoch(0)
            self._drop_device(str(message.args.get("reason", ""))[:120])
        else:
            self.counters["unexpected"] += 1

    def _probe(self, notice: dict[str, Any]) -> Task[None]:
        config, bars = self._config, self._config.bars
        placed = BarMap(config=bars.ctrl, db=bars.db, mws=bars.mws)
        yield from self._await_offer()
        try:
            device = NtbEpf(
                notice,
                outbox=self._outbox,
                tasks=self._tasks,
                cpu=self._cpu,
                mapped=self._mapped,
                allocator=self._allocator,
                layout=config.ntb.ctrl_layout,
                bar_map=bar_map_override(config.ntb.vendor_id, config.ntb.device_id, placed),
                command_timeout_ns=config.timing.command_timeout_ms * 1_000_000,
                counters=self.counters,
            )
            self._device = device
            yield from device.probe()
            yield from self._bring_up(device)
        except (KernelError, PeerError) as failure:
            self._probe_failed(failure)
        else:
            self._failed_reason = ""

    def _await_offer(self) -> Task[None]:
        """Send memory requests straight to the endpoint, when it says in time that it takes them."""
        deadline = self._tasks.now_ns + OFFER_PATIENCE_NS
        while self._offered != self._tasks.epoch and self._tasks.now_ns < deadline:
            yield Sleep(OFFER_POLL_NS)
        if self._offered == self._tasks.epoch:
            self._cpu.route(ENDPOINT)

    def _probe_failed(self, failure: KernelError | PeerError) -> None:
        """A device that did not answer in time may do so in a new epoch; a wrong one will not."""
        reason = str(failure)
        if isinstance(failure, PeerError) or failure.errno == errno.EINVAL:
            reason = f"{reason}; stays down until the link restarts"
            self._outbox.log("driver.failed", task="probe", reason=reason)
            return
        self._outbox.log("driver.failed", task="probe", reason=reason)
        wait_ns = min(2 * self._probe_wait_ns, MAX_PROBE_WAIT_NS)
        self._probe_wait_ns = wait_ns if reason == self._failed_reason else MIN_EPOCH_NS
        self._failed_reason = reason
        self._ask_for_new_epoch(f"probe: {reason}", self._probe_wait_ns)

    def _unprobe(self) -> Task[None]:
        """TEARDOWN_DOORBELL, and the vectors back."""
        if isinstance(self._device, NtbEpf):
            try:
                yield from self._device.remove()
            except KernelError as failure:
                self._outbox.log("driver.failed", task="remove", reason=str(failure))

    def _on_device_irq(self, message: Irq) -> None:
        device = self._device
        if message.source is IrqSource.MSI_VECTOR and isinstance(device, NtbEpf):
            device.on_vector(message.bits)
        else:
            self._spurious(message.source.name.lower(), message.bits)
