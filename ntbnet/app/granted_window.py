"""The CPU of a host that may store to a window directly, as in fabric ``local``, and nothing around it."""

from __future__ import annotations

from ntbnet.devices.direct import MEMORY, CpuBus, Far, Grant, to_body
from ntbnet.devices.effects import Outbox, Send
from ntbnet.devices.lease import LEASE_BYTES, Lease
from ntbnet.devices.memory import Window
from ntbnet.devices.task import Tasks
from ntbnet.wire import Completion, MemRead, Status

WINDOW_ADDR = 1 << 32
"""Where the CPU finds the window."""
UPSTREAM, MEMORY_IDENT, EPOCH = "rc-host", 1, 1
"""Of a host of its own, which talks to nobody."""


def granted_bus(window: Window) -> CpuBus:
    """The CPU of a host, which may store to all of ``window`` directly."""
    outbox = Outbox(wakes=True)
    tasks = Tasks(outbox, UPSTREAM, 1 << 40)
    lease = Lease(Window(memoryview(bytearray(LEASE_BYTES)), 0, "lease"), "rc")
    bus = CpuBus(outbox, tasks, UPSTREAM, Far(window, MEMORY_IDENT, lease))
    tasks.epoch = EPOCH
    bus.enter(EPOCH)
    grant = Grant(WINDOW_ADDR, window.size, MEMORY, 0)
    bus.grant({"memory": MEMORY_IDENT, "ranges": to_body([grant])})
    for effect in outbox.take():  # the read behind which stores are direct
        if isinstance(effect, Send) and isinstance(effect.message, MemRead):
            tasks.complete(Completion(effect.message.tag, Status.OK, bytes(effect.message.size), EPOCH))
    assert bus.snapshot()["direct"]
    return bus
