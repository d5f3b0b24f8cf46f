"""Packets of a node on their way to its device, a burst at a time, and the looks that a device asks for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from ntbnet.devices.effects import Effect
from ntbnet.edge.clock import Ticker
from ntbnet.edge.tun import Tun

TUN_BATCH = 64
"""Packets taken from the TUN before sockets get their turn."""
SINGLES = 4
"""After so many bursts of one packet each no second one is looked for: that costs as much as a wake-up."""
LOOK_AGAIN = 16
"""But every so many bursts."""


class PacketDevice(Protocol):
    """What a device with a network interface offers."""

    def receive_buffer(self) -> memoryview:
        """Where the next packet from the node's stack is to be read into, at once."""

    def transmit(self, length: int, now_ns: int) -> Sequence[Effect]:
        """The first ``length`` bytes of the last ``receive_buffer`` are a packet to send."""

    def end_burst(self, now_ns: int) -> Sequence[Effect]:
        """No packet follows at once."""

    def poll(self, now_ns: int) -> Sequence[Effect]:
        """What a Poll effect asked to be called for."""


class Packets:
    """Watches a TUN.

    Args:
        device: takes the packets.
        tun: where they come from; it stays its owner's.
        clock: monotonic ns.
        perform: performs effects, at once.
        end_step: called behind each burst, and behind a look that had effects.

    Attributes:
        buffer: what the newest packet was read into.
        read: reads a packet into a buffer; its length, 0 for none.
        transmit, end_burst, poll: the device's.
        on_packets: called at each burst.

    These functions may be replaced while it runs.
    """

    def __init__(
        self,
        device: PacketDevice,
        tun: Tun,
        clock: Callable[[], int],
        perform: Callable[[Sequence[Effect], int], None],
        end_step: Callable[[], None],
    ) -> None:
        self._device = device
        self._tun = tun
        self._clock = clock
        self._perform = perform
        self._end_step = end_step
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ticker: Ticker | None = None
        self._is_stopped = False
        self._singles = 0
        self.buffer = memoryview(b"")
        self.on_packets: Callable[[], None] = _nothing
        self.call_directly()

    def call_directly(self) -> None:
        """Put everything back that was replaced, but for ``on_packets``."""
        self.read: Callable[[memoryview], int] = self._tun.readinto
        self.transmit: Callable[[int, int], Sequence[Effect]] = self._device.transmit
        self.end_burst: Callable[[int], Sequence[Effect]] = self._device.end_burst
        self.poll: Callable[[int], Sequence[Effect]] = self._device.poll

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Watch the TUN from now on."""
        self._loop = loop
        loop.add_reader(self._tun.fileno(), self._on_tun)

    def close(self) -> None:
        """Watch nothing any more."""
        if self._loop is None:
            return
        self._loop.remove_reader(self._tun.fileno())
        if self._ticker is not None:
            self._loop.remove_reader(self._ticker.fd)
            self._ticker.close()
        self._loop = self._ticker = None

    def stop(self, stopped: bool) -> None:
        """Leave packets to the node's stack (True), or take them again."""
        if self._loop is None or stopped == self._is_stopped:
            return
        self._is_stopped = stopped
        if stopped:
            self._loop.remove_reader(self._tun.fileno())
        else:
            self._loop.add_reader(self._tun.fileno(), self._on_tun)

    def poll_every(self, period_ns: int) -> None:
        """Call the device's ``poll`` again and again; 0: no more."""
        if self._loop is None:
            return
        if self._ticker is None:
            self._ticker = Ticker()
            self._loop.add_reader(self._ticker.fd, self._on_tick)
        self._ticker.start(period_ns)

    def _on_tun(self) -> None:
        self.on_packets()
        device, read, transmit = self._device, self.read, self.transmit
        now_ns = self._clock()
        is_single = self._singles >= SINGLES and self._singles % LOOK_AGAIN
        packets = 0
        for _ in range(1 if is_single else TUN_BATCH):
            if self._is_stopped:
                break
            self.buffer = buffer = device.receive_buffer()
            length = read(buffer)
            if not length:
                break
            packets += 1
            effects = transmit(length, now_ns)
            if effects:
                self._perform(effects, now_ns)
        self._singles = self._singles + 1 if packets == 1 else 0
        effects = self.end_burst(now_ns)
        if effects:
            self._perform(effects, now_ns)
        self._end_step()

    def _on_tick(self) -> None:
        if self._ticker is not None and self._ticker.expired():
            now_ns = self._clock()
            effects = self.poll(now_ns)
            if effects:
                self._perform(effects, now_ns)
                self._end_step()


def _nothing() -> None:
    pass
