"""The two-process pumps that budgets refer to: two namespaces, a TUN in each, a process at each TUN."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from ntbnet.app.bench_lab import Direction, fresh_namespaces, ip
from ntbnet.app.process_end import process_end
from ntbnet.app.pump import MEMORY_BYTES
from ntbnet.edge.tun import Tun, create_persistent

PUMPS = ("pump_shm", "pump_zmq")
ADDRESSES = ("192.0.2.5", "192.0.2.6")
TUN_NAME = "ntb0"


@contextmanager
def pump(kind: str, bridge: str, mtu: int) -> Iterator[Direction]:
    """A pump runs inside the ``with`` block.

    Args:
        kind: one of PUMPS.
        bridge: the namespaces' names start with it; leftovers of a killed bench go first.
        mtu: bytes, of both TUNs.

    Raises:
        SetupError: a TUN cannot be had, or an end does not start.
    """
    medium = kind.removeprefix("pump_")
    with fresh_namespaces((f"{bridge}-{medium}-a", f"{bridge}-{medium}-b")) as names, ExitStack() as stack:
        tuns = [stack.enter_context(_tun(name, mtu)) for name in names]
        ends = stack.enter_context(_shm_ends(tuns) if medium == "shm" else _zmq_ends(tuns))
        for number, (arguments, fds) in enumerate(ends):
            stack.enter_context(process_end("ntbnet.app.pump", (medium, *arguments), fds))
            ip("-n", names[number], "addr", "add", f"{ADDRESSES[number]}/30", "dev", TUN_NAME)
        for tun in tuns:
            tun.set_carrier(up=True)
        yield Direction(kind, names[0], names[1], ADDRESSES[1])


End = tuple[Sequence[str], Sequence[int]]
"""Arguments of one end behind its kind, and the descriptors it inherits."""


@contextmanager
def _tun(name: str, mtu: int) -> Iterator[Tun]:
    create_persistent(name, TUN_NAME)
    tun = Tun(name, TUN_NAME)
    try:
        ip("-n", name, "link", "set", TUN_NAME, "mtu", str(mtu), "up")
        yield tun
    finally:
        tun.close()


@contextmanager
def _shm_ends(tuns: Sequence[Tun]) -> Iterator[list[End]]:
    memory = os.memfd_create("pump")
    wakes = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in tuns]
    try:
        os.posix_fallocate(memory, 0, MEMORY_BYTES)
        ends: list[End] = []
        for number, tun in enumerate(tuns):
            fds = (tun.fileno(), memory, wakes[number], wakes[1 - number])
            ends.append((tuple(map(str, (*fds, number))), fds))
        yield ends
    finally:
        for fd in (memory, *wakes):
            os.close(fd)


@contextmanager
def _zmq_ends(tuns: Sequence[Tun]) -> Iterator[list[End]]:
    with tempfile.TemporaryDirectory() as folder:
        places = [f"ipc://{folder}/{number}" for number in range(2)]
        yield [
            ((str(tun.fileno()), places[number], places[1 - number]), (tun.fileno(),))
            for number, tun in enumerate(tuns)
        ]
