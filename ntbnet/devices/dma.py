"""What the endpoint may reach of the host's DRAM: ranges that the host's driver mapped for DMA.

As behind the board's IOMMU, everything else is a counted fault. A burst that no range holds as a
whole is looked at request by request.
"""

from __future__ import annotations

import errno
from collections import Counter

from ntbnet.address import Span, hex_address
from ntbnet.devices.complaints import Once
from ntbnet.devices.effects import Outbox
from ntbnet.devices.memory import Buffer, Window
from ntbnet.devices.tlp import split_posted
from ntbnet.errors import KernelError

MAX_DMA_MAPPINGS = 64


class DmaFilter:
    """The mapped ranges of ``dram``.

    Args:
        counters: gets ``dma_write_faults`` and ``dma_read_faults``.

    Attributes:
        base: address of the first byte of DRAM.
    """

    def __init__(self, dram: Window, outbox: Outbox, counters: Counter[str]) -> None:
        self._dram = dram
        self.base = dram.span.base
        self._outbox = outbox
        self._counters = counters
        self._mapped: list[Span] = []
        self._refusals = Once()

    @property
    def mapped(self) -> tuple[Span, ...]:
        """The ranges, oldest first."""
        return tuple(self._mapped)

    def clear(self) -> None:
        """Forget every range."""
        self._mapped.clear()

    def map(self, addr: object, size: object) -> None:
        """Add a range. KernelError: EINVAL it is none of DRAM, ENOSPC there are too many."""
        if type(addr) is not int or type(size) is not int or size < 1 or addr < 0:
            raise KernelError(errno.EINVAL, f"dma_map({addr!r:.40}, {size!r:.40})")
        if not self._dram.span.contains(addr, size):
            raise KernelError(errno.EINVAL, f"[{addr:#x}, {addr + size:#x}) is not RC DRAM")
        if len(self._mapped) >= MAX_DMA_MAPPINGS:
            raise KernelError(errno.ENOSPC, f"{MAX_DMA_MAPPINGS} DMA mappings are in use")
        self._mapped.append(Span(addr, size))

    def unmap(self, addr: object) -> None:
        """Remove the ranges that begin at ``addr``."""
        self._mapped = [span for span in self._mapped if span.base != addr]

    def find(self, addr: int, length: int) -> Span | None:
        """The range that holds all ``length`` bytes; None when none does."""
        for span in self._mapped:
            if span.base <= addr and addr + length <= span.base + span.size:
                return span
        return None

    def store(self, addr: int, data: Buffer) -> None:
        """A write of the endpoint: what is mapped lands, the rest is a fault."""
        base, length = self.base, len(data)
        is_whole = self.find(addr, length) is not None
        for offset, size in ((0, length),) if is_whole else split_posted(addr, length):
            if is_whole or self.find(addr + offset, size):
                part = data if size == length else data[offset : offset + size]
                self._dram.store("dma", addr + offset - base, part)
            else:
                self._fault("write", addr + offset, size)

    def load(self, addr: int, size: int) -> bytes | None:
        """A read of the endpoint; None is a fault."""
        if self.find(addr, size) is None:
            self._fault("read", addr, size)
            return None
        return self._dram.load(addr - self._dram.span.base, size)

    def _fault(self, what: str, addr: int, length: int) -> None:
        self._counters[f"dma_{what}_faults"] += 1
        if self._refusals.is_first(what):
            event = "write.dropped" if what == "write" else "read.refused"
            self._outbox.log(event, cause="not mapped for DMA", addr=hex_address(addr), size_bytes=length)
