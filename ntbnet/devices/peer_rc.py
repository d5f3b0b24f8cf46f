"""The RC's peer process: ntb_hw_epf on the function that the host's PCI core found.

A probe that fails asks for a new link epoch, and waits longer each time the same reason comes back; one
that met an impossible device stays down until the link restarts by itself.
"""

from __future__ import annotations

import errno
from typing import Any

from ntbnet.config import Config
from ntbnet.devices.memory import Window
from ntbnet.devices.ntb_epf import BarMap, NtbEpf, bar_map_override
from ntbnet.devices.peer import MIN_EPOCH_NS, Peer
from ntbnet.devices.task import Task
from ntbnet.errors import KernelError, PeerError
from ntbnet.wire import Irq, IrqSource, Notice

MAX_PROBE_WAIT_NS = 30_000_000_000
"""Greatest age that a link epoch has to reach before a failed probe asks for another one."""


class RcPeer(Peer):
    """``peer-rc``: ntb_hw_epf on the function the host enumerated."""

    def __init__(self, config: Config, dram: Window, seed: int) -> None:
        super().__init__(config, dram, node="rc", upstream="rc-host", dram_offset=0, seed=seed)
        self._failed_reason = ""
        self._probe_wait_ns = MIN_EPOCH_NS
        if config.transport.use_dma:
            self._outbox.log("dma.unavailable", reason="this host has no DMA engine")

    def _on_upstream_up(self) -> None:
        """The host tells of the device by itself."""

    def _on_notice(self, message: Notice) -> None:
        if message.name == "device_added":
            self._drop_device("replaced")
            self._set_epoch(message.epoch)
            if not self._leaving:
                self._tasks.spawn("probe", self._probe(message.args))
        elif message.name == "device_removed":
            self._set_epoch(0)
            self._drop_device(str(message.args.get("reason", ""))[:120])
        else:
            self.counters["unexpected"] += 1

    def _probe(self, notice: dict[str, Any]) -> Task[None]:
        config, bars = self._config, self._config.bars
        placed = BarMap(config=bars.ctrl, db=bars.db, mws=bars.mws)
        try:
            device = NtbEpf(
                notice,
                outbox=self._outbox,
                tasks=self._tasks,
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
