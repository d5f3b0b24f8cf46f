"""An endpoint controller without its process: what it sends is kept, the host is played by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ntbnet.devices.effects import Effect, Outbox
from ntbnet.devices.epc import Epc
from ntbnet.devices.memory import AddressMap
from ntbnet.profile import EndpointHardware, load_profile, shipped
from tests.unit.devices.kit import EP_DRAM, dram

MSI_CAP, MSIX_CAP, REBAR_CAP = 0x50, 0xB0, 0x100


class Board:
    """A controller of a shipped profile, with changes; ``sent`` holds (what, bus address, data or size)."""

    def __init__(self, profile: str = "r-car-s4", *, passthrough: bool = False, **changes: Any) -> None:
        hardware: EndpointHardware = replace(load_profile(shipped(profile), profile).endpoint, **changes)
        self.hardware = hardware
        self.outbox = Outbox()
        self.dram = dram(EP_DRAM)
        self.sent: list[tuple[str, int, Any]] = []
        local = AddressMap([(self.dram.span, self.dram), (hardware.edma, "edma")])
        self.epc = Epc(hardware, local, self.outbox, self, passthrough=passthrough)

    # the controller's port

    def post(self, bus_addr: int, data: bytes) -> None:
        self.sent.append(("write", bus_addr, data))

    def flush(self, bus_addr: int, size: int) -> None:
        self.sent.append(("read", bus_addr, size))

    # the host

    def read(self, offset: int, size: int = 4) -> int:
        return int.from_bytes(self.epc.config_read(offset, size), "little")

    def write(self, offset: int, value: int, size: int = 4) -> None:
        self.epc.config_write(offset, value.to_bytes(size, "little"))

    def place(self, bar: int, address: int, *, decode: bool = True) -> None:
        """Give a BAR an address, as a host does: memory decode off meanwhile."""
        command = self.read(0x04, 2)
        self.write(0x04, command & ~2, 2)
        self.write(0x10 + 4 * bar, address & 0xFFFFFFFF)
        if self.hardware.bars[bar].bits64:
            self.write(0x14 + 4 * bar, address >> 32)
        self.write(0x04, command | (2 if decode else 0) | 4, 2)

    def enable_msi(self, address: int, vectors_log2: int = 4) -> None:
        self.write(MSI_CAP + 4, address & 0xFFFFFFFF)
        self.write(MSI_CAP + 8, address >> 32)
        self.write(MSI_CAP + 0xC, 0x20, 2)
        self.write(MSI_CAP + 2, 1 | vectors_log2 << 4, 2)
        self.write(0x04, 6, 2)

    # looking

    def hits(self, bus_addr: int, length: int = 4) -> int | None:
        return self.epc.inbound_address(bus_addr, length)

    def effects(self) -> list[Effect]:
        return self.outbox.take()

    def windows_of(self, bar: int) -> list[dict[str, Any]]:
        return [row for row in self.epc.windows() if row["bar"] == bar]

    @property
    def inbound_in_use(self) -> int:
        return sum(window is not None for window in self.epc.iatu.inbound)
