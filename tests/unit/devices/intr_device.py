"""An NTB device with nothing but interrupt windows, and its two kinds of hardware."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

import pytest

from ntbnet.devices.dw_edma import DwEdma, DwEdmas, MapFormat
from ntbnet.devices.effects import Outbox
from ntbnet.devices.msi_domain import MsiDomain
from ntbnet.devices.ntb import EpcResource, MwAlign
from ntbnet.devices.task import Sleep, Task
from ntbnet.errors import KernelError
from tests.unit.devices.kit import config
from tests.unit.devices.ntb_pair import WINDOW_STRIDE, FakeNtb

T = TypeVar("T")
MSI_WORD = 0x0802_0040
EDMA_BASE = 0xE65D_5000
CONTROL = EpcResource("dma-control", EDMA_BASE, 0x1200, 0, -1, 0)
WIRED = EpcResource("dma-control", EDMA_BASE, 0x2000, 0, 4, 0)


class IntrDevice(FakeNtb):
    """Two windows, the second for interrupts: ``window`` bytes at 0xF0000 of its BAR."""

    def __init__(
        self, *, resources: tuple[EpcResource, ...] = (), msi: MsiDomain | None = None, window: int = 0x8000
    ) -> None:
        super().__init__("device", Outbox(), [0xF0000, window], 16, 0xFF, 0x8000_0000)
        self.resources = resources
        self.msi = msi
        self.bar = 2
        self.align = MwAlign(4096, 1, window, 0xF0000)
        self.offsets = [0, 0xF0000]
        self.set_calls: list[tuple[int, int, int, int]] = []
        self.cleared: list[int] = []
        self.peer_windows = 2

    def get_pci_epc(self) -> tuple[EpcResource, ...]:
        return self.resources

    def peer_mw_get_addr(self, widx: int) -> tuple[int, int]:
        if widx >= self.peer_windows:
            raise KernelError(errno.EINVAL, f"the peer has {self.peer_windows} windows")
        return super().peer_mw_get_addr(widx)

    def mw_bar(self, widx: int) -> int:
        return self.bar

    def mw_get_align(self, pidx: int, widx: int) -> Task[MwAlign]:
        yield from ()
        if not self.link:
            raise KernelError(errno.ENOTCONN, "link is down")
        return self.align

    def mw_set_trans(self, pidx: int, widx: int, addr: int, size: int, offset: int = 0) -> Task[None]:
        yield Sleep(1)
        if self.set_trans_error is not None:
            raise self.set_trans_error
        self.set_calls.append((widx, addr, size, offset))

    def mw_clear_trans(self, pidx: int, widx: int) -> Task[None]:
        yield Sleep(1)
        self.cleared.append(widx)

    def stores(self) -> list[tuple[int, bytes]]:
        """Offset in the peer's interrupt window, and data, of each store since the last look."""
        messages: list[Any] = [effect.message for effect in self.outbox.take()]  # type: ignore[union-attr]
        return [(message.addr - 2 * WINDOW_STRIDE, bytes(message.data)) for message in messages]


def edma_driver(map_format: MapFormat = MapFormat.UNROLL) -> DwEdma:
    outbox = Outbox()
    return DwEdma(config().profile.endpoint, outbox, Counter(), map_format)


def engines(map_format: MapFormat = MapFormat.UNROLL) -> DwEdmas:
    return DwEdmas(edma_driver(map_format))


def run(task: Task[T]) -> T:
    """Run an operation to its end; nothing it waits for takes long."""
    while True:
        try:
            next(task)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]


def refused(action: Callable[[], object]) -> int:
    """The errno of what must fail."""
    with pytest.raises(KernelError) as failure:
        action()
    return failure.value.errno
