"""The memory windows of a transport: what it announces of them, and the memory behind them.

Source: Linux drivers/ntb/ntb_transport.c (ntb_set_mw, ntb_free_mw, ntb_alloc_mw_buffer).
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ntbnet.address import round_up, round_up_pow2
from ntbnet.devices.memory import Window
from ntbnet.devices.ntb import NtbDevice
from ntbnet.devices.queue import Queue
from ntbnet.devices.ring import RingGeometry, ring_geometry
from ntbnet.devices.task import Task
from ntbnet.errors import KernelError
from ntbnet.regs.transport import mw_size_high, mw_size_low


@dataclass(slots=True)
class _MemoryWindow:
    number: int
    widx: int
    peer_base: int
    peer_size: int
    buffer: Window | None = None


class WindowSet:
    """The windows of a device that carry frames, in both directions.

    The scratchpads and the rings count them 0, 1, ... whatever their index on the device is.

    Args:
        ntb: the device.
        indices: their indices on the device, 1 or more.
        transport_mtu: largest frame with its header, bytes.
        max_mw_size: cap on the bytes used of each outbound window; 0 means none.
    """

    def __init__(self, ntb: NtbDevice, indices: Sequence[int], transport_mtu: int, max_mw_size: int) -> None:
        self._ntb = ntb
        self._transport_mtu = transport_mtu
        self._max_mw_size = max_mw_size
        self._windows = [
            _MemoryWindow(number, widx, *ntb.peer_mw_get_addr(widx)) for number, widx in enumerate(indices)
        ]

    def __len__(self) -> int:
        return len(self._windows)

    def tx_geometry(self, number: int, queue_count: int) -> RingGeometry:
        """Ring of queue ``number`` in its outbound window. KernelError EINVAL when none fits."""
        window = self._windows[number % len(self._windows)]
        geometry = self._geometry(number, queue_count, window.peer_size, self._max_mw_size)
        return replace(geometry, widx=window.widx)

    def tx_base(self, number: int) -> int:
        """CPU address of the outbound window of queue ``number``."""
        return self._windows[number % len(self._windows)].peer_base

    def _geometry(self, number: int, queue_count: int, mw_size: int, cap: int) -> RingGeometry:
        try:
            return ring_geometry(number, queue_count, len(self._windows), mw_size, self._transport_mtu, cap)
        except ValueError as error:
            raise KernelError(errno.EINVAL, str(error)) from error

    def announce(self) -> Task[None]:
        """Write each window's size into the peer's scratchpads, high word first."""
        for window in self._windows:
            size = min(window.peer_size, self._max_mw_size) if self._max_mw_size else window.peer_size
            yield from self._ntb.peer_spad_write(0, mw_size_high(window.number), size >> 32)
            yield from self._ntb.peer_spad_write(0, mw_size_low(window.number), size & 0xFFFFFFFF)

    def open(self, queues: Sequence[Queue]) -> Task[None]:
        """Point each inbound window at fresh memory of the size the peer announced; attach the queues.

        The memory is aligned to its size: a window that matches a BAR needs that, and one that
        matches addresses does no worse.

        Raises:
            KernelError: EINVAL for a size of 0, beyond the window or without room for a frame,
                ENOMEM, or what the device says. Whatever was opened stays open: close it.
        """
        for window in self._windows:
            widx = window.widx
            high = yield from self._ntb.spad_read(mw_size_high(window.number))
            low = yield from self._ntb.spad_read(mw_size_low(window.number))
            size = high << 32 | low
            if not size:
                raise KernelError(errno.EINVAL, f"peer announced window {widx} with size 0")
            align = yield from self._ntb.mw_get_align(0, widx)
            exposed = round_up(size, align.size_align)
            if exposed > align.size_max:
                most = f"{align.size_max:#x}"
                raise KernelError(errno.EINVAL, f"peer announced {size:#x} bytes for window {widx} of {most}")
            sharing = queues[window.number :: len(self._windows)]
            layout = [(queue, self._geometry(queue.number, len(queues), exposed, 0)) for queue in sharing]
            length = round_up(exposed, align.addr_align)
            alignment = max(align.addr_align, round_up_pow2(length))
            window.buffer = self._ntb.alloc_coherent(length, alignment, f"mw{widx}")
            if window.buffer is None:
                raise KernelError(errno.ENOMEM, f"no {length:#x} bytes for window {widx}")
            for queue, geometry in layout:
                queue.attach(window.buffer, geometry)
            yield from self._ntb.mw_set_trans(0, widx, window.buffer.span.base, exposed, align.offset)

    def close(self) -> Task[list[KernelError]]:
        """Close each open window, then free its memory. No queue may be attached any more.

        Returns:
            What went wrong; the memory is free all the same.
        """
        failures = []
        for window in self._windows:
            if window.buffer is not None:
                try:
                    yield from self._ntb.mw_clear_trans(0, window.widx)
                except KernelError as error:
                    failures.append(error)
        self.free()
        return failures

    def free(self) -> None:
        """Free the memory without telling the device."""
        for window in self._windows:
            buffer, window.buffer = window.buffer, None
            if buffer is not None:
                self._ntb.free_coherent(buffer)
