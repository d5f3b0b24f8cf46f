"""Interrupt backends: how a peer's store can interrupt this side, and how this side interrupts its peer.

A backend points this side's interrupt window (one inbound memory window that carries no frames) at a
word whose store raises an interrupt, and says where in the window the word is and what to store:
the descriptor, which travels to the peer in two scratchpads.  The other way is the same for every
backend: one 32-bit store into the peer's window, so sides with different backends understand each
other.

Here, unlike in the series: the window is translated as a whole, as the MSI library of Linux 6.1 does
it (descriptors lie in its first 32 KiB all the same); ``setup_mws`` may be repeated (HAZARD 11.c);
what a failed ``init`` leaves behind is nothing (HAZARD 11.g).

Source: the RFC of October 2025, patches 12 to 24 (ntb_intr_backend); Linux drivers/ntb/msi.c.
"""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from ntbnet.devices.ntb import MwAlign, NtbDevice
from ntbnet.devices.task import Task
from ntbnet.errors import KernelError
from ntbnet.regs.transport import INVALID_DESCRIPTOR

WINDOW_BYTES = 32 << 10
"""First part of an interrupt window that descriptors may lie in."""
WORD_BYTES = 4


@dataclass(slots=True, eq=False)
class Descriptor:
    """One interrupt as the peer has to know it: store ``data`` at ``addr_offset`` of the window.

    Both are 32-bit words; 0 is legal for either, 0xFFFFFFFF in one of them means there is no interrupt.
    """

    addr_offset: int = INVALID_DESCRIPTOR
    data: int = INVALID_DESCRIPTOR

    @property
    def is_valid(self) -> bool:
        """True when neither word is the marker."""
        return INVALID_DESCRIPTOR not in {self.addr_offset, self.data}

    def invalidate(self) -> None:
        """There is no interrupt (any more)."""
        self.addr_offset = self.data = INVALID_DESCRIPTOR


class IntrBackend(ABC):
    """One way to be interrupted by the peer.

    Args:
        widx: memory window for interrupts, the same one on both sides.
    """

    name: ClassVar[str]

    def __init__(self, widx: int) -> None:
        self._widx = widx
        self._device: NtbDevice | None = None
        self._on_changed: Callable[[], None] = lambda: None
        self._base: int | None = None
        self._accepted = 0
        self.peer_window_bytes = 0

    def init(self, device: NtbDevice, on_descriptor_changed: Callable[[], None]) -> None:
        """Find what the backend needs; nothing is exposed yet.

        Args:
            device: this side's NTB device.
            on_descriptor_changed: called when descriptors that were given out hold other values.

        Raises:
            KernelError: EINVAL: no such window; EFAULT: the peer's window cannot be reached; ENODEV:
                the device has nothing for this backend; what the platform's drivers say.
        """
        if not 0 <= self._widx < device.mw_count(0):
            raise KernelError(errno.EINVAL, f"no memory window {self._widx} for interrupts")
        try:
            self.peer_window_bytes = device.peer_mw_get_addr(self._widx)[1]
        except KernelError as failure:
            raise KernelError(errno.EFAULT, f"window {self._widx} of the peer: {failure}") from None
        self._find(device)
        self._device, self._on_changed = device, on_descriptor_changed

    def setup_mws(self) -> Task[None]:
        """Point the interrupt window at the word; nothing when it is already.

        Raises:
            KernelError: EINVAL: not initialised; ENOTCONN: the link is down; what the device says.
        """
        device = self._initialised()
        if self._base is not None:
            return
        align = yield from device.mw_get_align(0, self._widx)
        size = align.size_max // align.size_align * align.size_align
        self._base = yield from self._expose(device, align, size)
        self._accepted = min(size, WINDOW_BYTES)

    @property
    def is_set_up(self) -> bool:
        """True while the interrupt window leads to the word."""
        return self._base is not None

    def clear_mws(self) -> Task[None]:
        """Let the window lead nowhere; nothing when it does. KernelError as the device's."""
        if self._base is not None:
            self._base = None
            yield from self._hide(self._initialised())

    @abstractmethod
    def request_irq(self, handler: Callable[[], None], name: str, descriptor: Descriptor) -> int:
        """Take an interrupt that runs ``handler``, and fill ``descriptor``.

        Returns:
            Its number, 1 or more; for a descriptor that has an interrupt already, that one's.

        Raises:
            KernelError: EINVAL: the window is not set up; EFAULT: the word is not in it; ENODEV: no
                interrupt is left.
        """

    @abstractmethod
    def free_irq(self, irq: int, descriptor: Descriptor) -> None:
        """Give the interrupt of ``descriptor`` back; the descriptor is invalid then."""

    def peer_trigger(self, pidx: int, descriptor: Descriptor) -> None:
        """Interrupt the peer: one posted 32-bit store behind everything stored before.

        Raises:
            KernelError: EINVAL: not initialised, no such peer, or a word outside the peer's window.
        """
        device, offset = self._initialised(), descriptor.addr_offset
        if pidx or offset % WORD_BYTES or offset + WORD_BYTES > self.peer_window_bytes:
            raise KernelError(errno.EINVAL, f"peer {pidx}, interrupt at {offset:#x} of its window")
        device.peer_mw_write(self._widx, offset, descriptor.data.to_bytes(WORD_BYTES, "little"), "intr.rung")

    # what backends differ in

    @abstractmethod
    def _find(self, device: NtbDevice) -> None:
        """Look the platform's part up. KernelError ENODEV and others."""

    @abstractmethod
    def _word(self) -> int:
        """CPU address of the word that interrupts this side."""

    def _expose(self, device: NtbDevice, align: MwAlign, size: int) -> Task[int]:
        """Translate ``size`` bytes of the window; the CPU address that its first byte leads to."""
        base = self._word() & ~(align.addr_align - 1)
        yield from device.mw_set_trans(0, self._widx, base, size, align.offset)
        return base

    def _hide(self, device: NtbDevice) -> Task[None]:
        """Undo ``_expose``."""
        yield from device.mw_clear_trans(0, self._widx)

    # for backends

    def _initialised(self) -> NtbDevice:
        if self._device is None:
            raise KernelError(errno.EINVAL, f"backend {self.name} is not initialised")
        return self._device

    def _offset_in_window(self) -> int:
        """Where the word lies in the window. KernelError EINVAL before set-up, EFAULT outside."""
        if self._base is None:
            raise KernelError(errno.EINVAL, "the interrupt window is not set up")
        offset = self._word() - self._base
        if not 0 <= offset <= self._accepted - WORD_BYTES:
            first, last = self._base, self._base + self._accepted - 1
            raise KernelError(errno.EFAULT, f"word {self._word():#x} is outside {first:#x}..{last:#x}")
        return offset
