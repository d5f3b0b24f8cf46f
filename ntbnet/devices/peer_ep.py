"""The EP's peer process: the NTB device of the endpoint function on its virtual bus.

The device comes from the endpoint controller (``ntb_attach``). Beside its doorbells the host can ring
this side's MSI controller, where a window reaches it, and the eDMA engine's interrupt lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ntbnet.config import Config
from ntbnet.devices.direct import Far
from ntbnet.devices.dw_edma import ENGINE, DwEdma, DwEdmas
from ntbnet.devices.edma_channel import EdmaDriver
from ntbnet.devices.effects import Effect
from ntbnet.devices.endpoint import FUNCTION_REGION_BYTES, MSI_WORD_OFFSET
from ntbnet.devices.memory import Window
from ntbnet.devices.msi_domain import GICV2M_DATA, MsiDomain
from ntbnet.devices.ntb_vntb import NtbVntb
from ntbnet.devices.peer import RETRY_NS, Peer
from ntbnet.devices.task import Call, Sleep, Task
from ntbnet.devices.tx_dma import TxDmaEngine
from ntbnet.errors import KernelError
from ntbnet.wire import Irq, IrqSource, Notice

ENGINE_WAIT_NS = 200_000_000
"""How long the driver is not bound because the engine only starts."""
ENGINE_LOOK_NS = 2_000_000


class EpPeer(Peer):
    """``peer-ep``: the NTB device of the endpoint function on its virtual bus."""

    def __init__(
        self, config: Config, dram: Window, seed: int, far: Far | None = None, *, link_wanted: bool = True
    ) -> None:
        super().__init__(
            config,
            dram,
            node="ep",
            upstream="epc",
            dram_offset=FUNCTION_REGION_BYTES,
            seed=seed,
            far=far,
            link_wanted=link_wanted,
        )
        endpoint = config.profile.endpoint
        self._msi = None
        if endpoint.ep_msi_page and any(window.target == "msi" for window in config.windows):
            self._msi = MsiDomain(endpoint.ep_msi_page + MSI_WORD_OFFSET, GICV2M_DATA)
        self._edma = DwEdma(endpoint, self._outbox, self.counters, is_present=False)
        if config.transport.dw_edma:
            self._edmas = DwEdmas(self._edma)
        self._driver = EdmaDriver(endpoint, self._outbox)
        if config.transport.use_dma and config.transport.dw_edma:
            self._dma = TxDmaEngine(
                self._driver,
                self._tasks,
                self._outbox,
                self._allocator,
                self.counters,
                copy_bytes=config.transport.copy_bytes,
                timeout_ns=config.timing.completion_timeout_ms * 1_000_000,
                barrier=self._cpu.barrier,
                on_stuck=self._ask_for_new_epoch,
            )
        elif config.transport.use_dma:
            self._outbox.log("dma.unavailable", reason="no eDMA driver (transport.dw_edma = false)")

    def on_path(self, peer: str, up: bool, session: int, reason: str, now_ns: int) -> Sequence[Effect]:
        """An engine whose path is lost is gone, and one that comes back is new."""
        if peer == ENGINE and self._edmas is not None:
            self._tasks.now_ns = now_ns
            if up:
                self._find_engine()
            else:
                self._lose_engine()
        return super().on_path(peer, up, session, reason, now_ns)

    def _find_engine(self) -> None:
        self._edma.probe()
        self._on_descriptor_changed()
        if self._dma is not None:
            self._dma.probe()

    def _lose_engine(self) -> None:
        self._edma.remove()
        if self._dma is not None:
            self._dma.lost()

    def _on_upstream_up(self) -> None:
        if not self._leaving:
            self._tasks.spawn("attach", self._attach())

    def _attach(self) -> Task[None]:
        yield from self._await_engine()
        reply: dict[str, Any] | None = None
        while reply is None:
            try:
                reply = yield Call(self._upstream, "ntb_attach")
            except KernelError as failure:
                self._outbox.log("driver.failed", task="attach", reason=str(failure))
                yield Sleep(RETRY_NS)
        device = NtbVntb(
            reply,
            outbox=self._outbox,
            cpu=self._cpu,
            allocator=self._allocator,
            dram=self._dram,
            msi=self._msi,
        )
        device.bound()
        yield from self._bring_up(device)

    def _await_engine(self) -> Task[None]:
        """Give an engine that only starts its time, so that the link begins with its interrupts."""
        until_ns = self._tasks.now_ns + ENGINE_WAIT_NS
        while self._edmas is not None and not self._edma.was_present and self._tasks.now_ns < until_ns:
            yield Sleep(ENGINE_LOOK_NS)

    def _on_notice(self, message: Notice) -> None:
        if message.name == "epoch":
            self._set_epoch(message.epoch)
            if self._transport is not None:
                self._transport.link_lost(f"link epoch {message.epoch}")
        elif message.name == "endpoint_reset":
            self._on_endpoint_reset(message.args.get("memory"))
        elif message.name == "link_event" and self._device is not None:
            self._device.signal_link_event()
        elif message.name == "edma_reached":
            self._edma.run_callbacks()
        elif message.name != "link_event":
            self.counters["unexpected"] += 1

    def _on_endpoint_reset(self, memory: object) -> None:
        """The device and the engine are as after power-on: both are to be bound again."""
        self._set_epoch(0)
        self._drop_device("endpoint reset")
        if self._edma.is_present:
            self._lose_engine()
            self._find_engine()
        self._lose_memory(memory)
        self._on_upstream_up()

    def _on_device_irq(self, message: Irq) -> None:
        device = self._device
        if message.source is IrqSource.DOORBELL_SLOTS and isinstance(device, NtbVntb):
            device.on_doorbells(message.bits)
        elif message.source is IrqSource.MSI_VECTOR:
            self._on_local_msi(message.bits)
        else:
            self._spurious(message.source.name.lower(), message.bits)

    def _on_local_msi(self, data: int) -> None:
        """The host stored a message to the page of this side's MSI controller."""
        if self._msi is not None and self._msi.dispatch(data):
            self.counters["msi_interrupts"] += 1
        else:
            self._spurious("msi", data)

    def _on_edma_line(self, lines: int) -> None:
        if self._edmas is None:
            super()._on_edma_line(lines)
        else:
            self._edma.on_lines(lines)
            if self._dma is not None:
                self._tasks.spawn("dma-interrupt", self._driver.interrupt())
