"""Accesses that hit nothing they may hit: each counted, each cause logged once."""

from __future__ import annotations

from collections import Counter

from ntbnet.address import hex_address
from ntbnet.devices.complaints import Once
from ntbnet.devices.effects import Outbox


class Refusals:
    """Of one process.

    Args:
        counters: gets ``writes_dropped_<cause>`` and ``reads_refused_<cause>``.
    """

    def __init__(self, outbox: Outbox, counters: Counter[str]) -> None:
        self._outbox = outbox
        self._counters = counters
        self._once = Once()

    def drop_write(self, cause: str, addr: int, length: int) -> None:
        """A posted write of ``length`` bytes is lost."""
        self._refuse("write.dropped", f"writes_dropped_{cause}", cause, addr, length)

    def refuse_read(self, cause: str, addr: int, length: int) -> None:
        """A read ends in Unsupported Request; the answer is the caller's business."""
        self._refuse("read.refused", f"reads_refused_{cause}", cause, addr, length)

    def _refuse(self, event: str, counter: str, cause: str, addr: int, length: int) -> None:
        self._counters[counter] += 1
        if self._once.is_first(event, cause):
            self._outbox.log(event, cause=cause, addr=hex_address(addr), size_bytes=length)
