"""Accesses that hit nothing they may hit: each counted, each cause logged once."""

from __future__ import annotations

from collections import Counter

from ntbnet.address import hex_address
from ntbnet.devices.effects import Outbox


class Refusals:
    """Of one process.

    Args:
        counters: gets ``writes_dropped_<cause>`` and ``reads_refused_<cause>``.
    """

    def __init__(self, outbox: Outbox, counters: Counter[str]) -> None:
        self._outbox = outbox
        self._counters = counters

    def drop_write(self, cause: str, addr: int, length: int) -> None:
        """A posted write of ``length`` bytes is lost."""
        if self._is_first(f"writes_dropped_{cause}"):
            self._outbox.log("write.dropped", cause=cause, addr=hex_address(addr), size_bytes=length)

    def refuse_read(self, cause: str, addr: int, length: int) -> None:
        """A read ends in Unsupported Request; the answer is the caller's business."""
        if self._is_first(f"reads_refused_{cause}"):
            self._outbox.log("read.refused", cause=cause, addr=hex_address(addr), size_bytes=length)

    def _is_first(self, counter: str) -> bool:
        self._counters[counter] += 1
        return self._counters[counter] == 1
