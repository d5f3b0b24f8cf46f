"""Which interrupt backend a side uses: MSI, else the eDMA's test interrupt, else doorbells.

The first that the NTB device and the platform offer is taken, and no other is tried when it fails
(EDMA 91).  A side can have a backend and still not be interrupted by it: the host's driver has every
MSI vector for its own doorbells.  It then rings its peer through the backend all the same.

Here ``use_intr = auto`` asks for interrupts by default, where the kernel's default is off.

Source: the RFC of October 2025, patch 20 (ntb_intr_init).
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass

from ntbnet.devices.dw_edma import DwEdmas
from ntbnet.devices.effects import Outbox
from ntbnet.devices.intr import IntrBackend
from ntbnet.devices.intr_edma import EdmaBackend
from ntbnet.devices.intr_msi import MsiBackend
from ntbnet.devices.ntb import NtbDevice
from ntbnet.errors import KernelError

DOORBELL = "doorbell"
"""What remains without a backend."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What a side interrupts with.

    Attributes:
        backend: initialised; None: doorbells only, both ways.
        receives: the peer may interrupt this side through it.
        reason: why this one.
        widx: memory window for interrupts; None when there is none.
    """

    backend: IntrBackend | None
    receives: bool
    reason: str
    widx: int | None = None

    @property
    def name(self) -> str:
        """What the peer is to interrupt this side with."""
        return self.backend.name if self.backend is not None and self.receives else DOORBELL


def choose(
    device: NtbDevice,
    outbox: Outbox,
    *,
    wanted: str,
    widx: int | None,
    edmas: DwEdmas | None,
    on_descriptor_changed: Callable[[], None],
) -> Choice:
    """Choose and initialise a backend; logs what was chosen, and why.

    Args:
        device: this side's NTB device.
        outbox: takes the log events.
        wanted: ``auto``, ``true`` or ``false``; with ``true`` having none is a warning.
        widx: memory window for interrupts; None when there is none.
        edmas: engines with a driver; None when that driver is not built.
        on_descriptor_changed: see IntrBackend.init.
    """
    choice = _chosen(device, outbox, wanted, widx, edmas, on_descriptor_changed)
    if wanted == "true" and choice.backend is None:
        outbox.log("intr.failed", backend=DOORBELL, step="init", reason=choice.reason)
    outbox.log("intr.chosen", backend=choice.name, reason=choice.reason)
    return choice


def _chosen(
    device: NtbDevice,
    outbox: Outbox,
    wanted: str,
    widx: int | None,
    edmas: DwEdmas | None,
    on_descriptor_changed: Callable[[], None],
) -> Choice:
    if wanted == "false":
        return Choice(None, receives=False, reason="transport.use_intr = false")
    if widx is None or device.mw_count(0) < 2:
        return Choice(None, receives=False, reason="no memory window is for interrupts (ntb.mw2_target)")
    domain = device.msi_domain()
    backend: IntrBackend
    if domain is not None:
        backend, reason = MsiBackend(widx), f"{device.name} has MSI data"
    elif edmas is not None:
        backend = EdmaBackend(widx, edmas)
        reason = "no MSI controller that a window reaches; the eDMA has a test interrupt"
    else:
        missing = KernelError(errno.ENODEV, "no MSI controller that a window reaches, and no eDMA driver")
        return Choice(None, receives=False, reason=f"{missing} (transport.dw_edma = false)")
    try:
        backend.init(device, on_descriptor_changed)
    except KernelError as failure:
        if wanted != "true":
            outbox.log("intr.failed", backend=backend.name, step="init", reason=str(failure))
        return Choice(None, receives=False, reason=f"{backend.name} failed: {failure}")
    if domain is not None and not domain.capacity:
        reason = f"no MSI vector is left: {device.name} has every one for its doorbells, which are MSIs"
        return Choice(backend, receives=False, reason=reason, widx=widx)
    return Choice(backend, receives=True, reason=reason, widx=widx)
