"""One end of a transport ring between two processes: the ring's own code, over shared memory, and no more.

Frames and ``rx_info`` are stored as peers do in fabric ``local``: by the host's CPU (``CpuBus``), which finds
the grant and stores in place. Left out are what lies around a ring: the TUN, ntb_netdev, the event loop, the
interrupt itself, for which an eventfd stands.

``python -m ntbnet.app.ring_rate PARENT ROLE FRAMES MEMORY DATA SPACE``: PARENT is the process
with which it ends, ROLE is ``send`` or ``receive``, MEMORY,
DATA and SPACE are inherited descriptors. MEMORY holds both ends' windows; the sender writes the eventfd
DATA behind each batch of frames, as one interrupt for all of them, and waits for SPACE when the ring is
full. Either end writes a line when it is ready, and one of JSON when all frames have crossed.
"""

from __future__ import annotations

import gc
import json
import mmap
import os
import signal
import sys
from collections.abc import Callable
from typing import cast

from ntbnet.app.granted_window import WINDOW_ADDR, granted_bus
from ntbnet.app.process_end import end_with
from ntbnet.devices.memory import Buffer, Window
from ntbnet.devices.ntb import NtbDevice
from ntbnet.devices.ring import ring_geometry
from ntbnet.devices.rx_ring import RxRing, RxStop
from ntbnet.devices.tx_ring import TxRing
from ntbnet.edge.clock import monotonic_ns

WINDOW_BYTES = 1 << 20
MEMORY_BYTES = 2 * WINDOW_BYTES
"""The receiver's window, then the sender's."""
FRAME_BYTES = 2048
"""Longest frame, header included."""
PAYLOAD_BYTES = 64
BATCH = 64
"""Frames for one interrupt."""
MOST_SECONDS = 60
"""An end whose neighbour is gone ends by itself."""


class Port:
    """The part of an NTB device that a ring uses, for a peer in the same memory."""

    def __init__(self, peer: Window) -> None:
        self._cpu = granted_bus(peer)

    def peer_mw_write(self, widx: int, offset: int, data: Buffer, what: str = "direct") -> None:
        """See ``NtbDevice``; there is one window."""
        self._cpu.write(WINDOW_ADDR + offset, data, what)

    def peer_mw_lend(self, widx: int, size: int) -> Window | None:
        """See ``NtbDevice``; all of it, as in fabric ``local``."""
        return self._cpu.lend(WINDOW_ADDR, size)

    def peer_db_set(self, bits: int) -> None:
        """See ``NtbDevice``; whoever sends wakes the peer behind each batch."""


def _refuse(*found: object) -> None:
    raise ValueError(f"the ring holds what nobody stored: {found}")


GEOMETRY = ring_geometry(0, 1, 1, WINDOW_BYTES, FRAME_BYTES)


def send(memory: memoryview, frames: int, data: int, space: int) -> dict[str, int]:
    """Send ``frames`` frames; monotonic ns of the first."""
    peer, own = _windows(memory)
    ring = TxRing(cast("NtbDevice", Port(peer)), GEOMETRY, 1, _refuse)
    ring.attach(own, GEOMETRY.rx_info_offset)
    payload = bytes(PAYLOAD_BYTES)
    started_ns, left = monotonic_ns(), frames
    while left:
        batch = min(ring.free_entries(), BATCH, left)
        if not batch:
            os.eventfd_read(space)
            continue
        for _ in range(batch):
            ring.send(payload, PAYLOAD_BYTES, 0, None, more=True)
        ring.ring()
        left -= batch
        os.eventfd_write(data, 1)
    return {"frames": ring.tx_pkts, "bytes": ring.tx_bytes, "time_ns": started_ns}


def receive(
    memory: memoryview, frames: int, data: int, space: int, ready: Callable[[], None]
) -> dict[str, int]:
    """Take ``frames`` frames out; ``ready`` is called when they may come. Monotonic ns behind the last."""
    own, peer = _windows(memory)
    ring = RxRing(cast("NtbDevice", Port(peer)), GEOMETRY, _refuse)
    ring.attach(own, GEOMETRY)

    def deliver(_view: memoryview | None, _length: int) -> None:
        ring.post(FRAME_BYTES)

    for _ in range(ring.alloc_entries):
        ring.post(FRAME_BYTES)
    ready()
    while ring.rx_pkts < frames:
        os.eventfd_read(data)
        while ring.run(deliver) is RxStop.BUDGET:
            os.eventfd_write(space, 1)
        os.eventfd_write(space, 1)
    return {"frames": ring.rx_pkts, "bytes": ring.rx_bytes, "time_ns": monotonic_ns()}


def _windows(memory: memoryview) -> tuple[Window, Window]:
    """The receiver's window, and the sender's."""
    whole = Window(memory, 0, "bench")
    return whole.sub(0, WINDOW_BYTES, "receiver"), whole.sub(WINDOW_BYTES, WINDOW_BYTES, "sender")


def _say(text: str) -> None:
    print(text, flush=True)


def main(parent: str, role: str, frames: str, *fds: str) -> None:
    """Run one end until all frames have crossed."""
    end_with(parent)
    signal.alarm(MOST_SECONDS)
    memory_fd, data, space = map(int, fds)
    memory = memoryview(mmap.mmap(memory_fd, MEMORY_BYTES))
    gc.collect()
    gc.freeze()
    if role == "send":
        _say("ready")
        result = send(memory, int(frames), data, space)
    else:
        result = receive(memory, int(frames), data, space, lambda: _say("ready"))
    _say(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
