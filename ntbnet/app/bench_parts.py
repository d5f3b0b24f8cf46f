"""Parts of a bridge by themselves: stores into windows, interrupts, small frames through a ring.

Each is measured beside the least that Python can do for the same, one after the other in each round.
"""

from __future__ import annotations

import json
import mmap
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import IO, Any

from ntbnet.app import ring_rate
from ntbnet.app.bench_latencies import Latencies
from ntbnet.app.granted_window import WINDOW_ADDR, granted_bus
from ntbnet.app.interrupt_pingpong import REFERENCE
from ntbnet.app.process_end import process_end
from ntbnet.app.stop_request import check, readable
from ntbnet.devices.memory import Window
from ntbnet.errors import SetupError

STORE_BYTES = 16 << 20
"""Of each mapping: more than fits a cache of one core."""
ENDS = "ntbnet.app.interrupt_pingpong"
WARM_UP = 200
"""Interrupts that are not counted."""


class Stores:
    """Shared mappings, touched once, to store into as a peer does in fabric ``local`` and to copy into."""

    def __init__(self) -> None:
        self._source = memoryview(mmap.mmap(-1, STORE_BYTES))
        self._plain = memoryview(mmap.mmap(-1, STORE_BYTES))
        self._mapped = memoryview(mmap.mmap(-1, STORE_BYTES))
        for memory in (self._source, self._plain, self._mapped):
            memory[:] = bytes(STORE_BYTES)
        self._bus = granted_bus(Window(self._mapped, WINDOW_ADDR, "bench"))

    def measure(self, block_bytes: int, passes: int) -> tuple[list[float], list[float]]:
        """Gigabytes a second of a CPU's stores into a window, and of slice assignments to a plain mapping.

        Each pass goes over all of a mapping. Passes come in pairs, one of each kind, every second pair the
        other way round: what else runs on the machine makes single ones several times slower, but
        seldom one of a pair alone.

        Returns:
            One of each for every pair, in order.

        Raises:
            SetupError: the stores did not land.
        """
        self._source[:] = os.urandom(STORE_BYTES)
        starts = range(0, STORE_BYTES, block_bytes)
        blocks = [(at, self._source[at : at + block_bytes]) for at in starts]
        stores, copies = list[float](), list[float]()
        kinds = [(self._store, stores), (self._copy, copies)]
        for number in range(passes):
            check()
            for kind, rates in kinds if number % 2 == 0 else reversed(kinds):
                began_ns = time.monotonic_ns()
                kind(blocks)
                rates.append(STORE_BYTES / (time.monotonic_ns() - began_ns))
        if bytes(self._mapped) != bytes(self._source):
            raise SetupError("what was stored is not in the window")
        return stores, copies

    def _store(self, blocks: Sequence[tuple[int, memoryview]]) -> None:
        write = self._bus.write
        for at, data in blocks:
            write(WINDOW_ADDR + at, data)

    def _copy(self, blocks: Sequence[tuple[int, memoryview]]) -> None:
        plain = self._plain
        for at, data in blocks:
            plain[at : at + len(data)] = data


def interrupts(medium: str, count: int) -> list[float]:
    """Microseconds of interrupts between two processes, each half of a round trip.

    Args:
        medium: a key of ``interrupt_pingpong.MEDIA``.
        count: how many are counted.

    Raises:
        SetupError: an end fails.
    """
    total = str(count + WARM_UP)
    with ExitStack() as stack:
        if medium == REFERENCE:
            one, other = (stack.enter_context(eventfd(os.EFD_NONBLOCK)) for _ in range(2))
            fds: tuple[int, ...] = (one, other)
            arguments: list[tuple[str, ...]] = [(str(one), str(other)), (str(other), str(one))]
        else:
            fds = ()
            arguments = [(stack.enter_context(tempfile.TemporaryDirectory()),)] * 2
        stack.enter_context(process_end(ENDS, (medium, "answer", total, *arguments[1]), fds))
        out = stack.enter_context(process_end(ENDS, (medium, "ask", total, *arguments[0]), fds))
        return [time_ns / 2000 for time_ns in _answer(out, f"interrupts by {medium}")[WARM_UP:]]


def ring_run(frames: int) -> dict[str, Any]:
    """Small frames from one process to another through a ring.

    Returns:
        ``frames_per_s``, and what either end counted: ``sent``, ``received``, ``bytes_sent`` and
        ``bytes_received``.

    Raises:
        SetupError: an end fails.
    """
    with ExitStack() as stack:
        memory = os.memfd_create("ring")
        stack.callback(os.close, memory)
        os.posix_fallocate(memory, 0, ring_rate.MEMORY_BYTES)
        fds = (memory, *(stack.enter_context(eventfd()) for _ in range(2)))
        ends = [
            stack.enter_context(process_end("ntbnet.app.ring_rate", (role, str(frames), *map(str, fds)), fds))
            for role in ("receive", "send")
        ]
        received, sent = (_answer(end, "ring_rate") for end in ends)
    seconds = (received["time_ns"] - sent["time_ns"]) / 1e9
    return {
        "frames_per_s": round(received["frames"] / seconds, 1),
        "sent": sent["frames"],
        "received": received["frames"],
        "bytes_sent": sent["bytes"],
        "bytes_received": received["bytes"],
    }


def ring_complaint(run: dict[str, Any], frames: int) -> str | None:
    """Why a run does not count; None when every frame that was sent arrived, whole."""
    if not run["sent"] == run["received"] == frames:
        return f"ring: {frames} frames to send, {run['sent']} sent, {run['received']} received"
    if not run["bytes_sent"] == run["bytes_received"] == frames * ring_rate.PAYLOAD_BYTES:
        return f"ring: {run['bytes_sent']} bytes sent, {run['bytes_received']} received"
    return None


@contextmanager
def eventfd(flags: int = 0) -> Iterator[int]:
    """An eventfd, closed behind the ``with`` block."""
    fd = os.eventfd(0, flags | os.EFD_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def p50s(rounds: Sequence[Sequence[float]]) -> list[float]:
    """Median of each round."""
    return [Latencies(values).percentile(0.5) for values in rounds]


def _answer(out: IO[bytes], what: str) -> Any:
    """The JSON that an end writes when it is done.

    Raises:
        SetupError: it ended without.
    """
    readable([out], None)
    line = out.readline()
    if not line:
        raise SetupError(f"{what} did not finish")
    return json.loads(line)
