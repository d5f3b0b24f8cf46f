"""When a receiver looks at its rings by itself, instead of being rung.

As NAPI with ``napi_defer_hard_irqs`` and ``gro_flush_timeout``: under load the sender is told not to ring
(``ring.POLLING``), and the rings are looked at with a timer, and whenever the process is awake for a packet
of the node. A burst then costs neither the sender's store that rings, nor the process that turns it into
an interrupt.

``adaptive``: polling begins when interrupts come close together and find several frames each: a ping-pong,
of one frame each way, never polls. It goes on as long as it finds frames: a look that finds none is paid with
what earlier ones found, so that empty looks are a fixed share at most, and nothing is looked at when idle.
Only a receiver whose stores reach the sender in place polls, for only such a store ends it. Where they no
longer do it cannot end: what finds nothing is looked at more and more rarely then.
``always``: from the first frame on. ``never``: every burst rings, as with the kernel's driver.
"""

from __future__ import annotations

from collections.abc import Sequence

from ntbnet.devices.effects import Outbox, Poll
from ntbnet.devices.queue import Queue
from ntbnet.devices.task import Tasks

PERIOD_NS = 100_000
"""Time between two looks: about the time in which a quarter of a ring of the longest frames is filled."""
WEIGHT = 64
"""Most frames of a queue that one look takes (NAPI_POLL_WEIGHT): node, sockets and timers get their turn."""
BATCH_SHARE = 4
"""``rx_info`` is published behind each part of this many of a ring."""
CLOSE_NS = 300_000
"""Interrupts further apart are no load."""
ENTER_CREDIT = 4
MAX_CREDIT = 8
EMPTY_COST = 2
"""What an empty look takes of the credit; each frame found gives 1."""
PATIENCE = 8
"""Looks in a row at whose end the sender could not be told, before the period doubles."""
MAX_PERIOD_NS = 4_000_000
"""The longest it gets: a tick of a kernel with 250 Hz."""


class RxPoll:
    """Polling of the queues of one interface.

    Args:
        mode: ``adaptive``, ``never`` or ``always``.
        queues: all of them are polled, or none.
        outbox: takes Poll effects.
        tasks: tells the time.

    Attributes:
        is_on: the queues are polled.
        looks, empty_looks: made since the start, and those that found nothing.
    """

    def __init__(self, mode: str, queues: Sequence[Queue], outbox: Outbox, tasks: Tasks) -> None:
        self._mode = mode
        self._queues = queues
        self._outbox = outbox
        self._tasks = tasks
        self._credit = 0
        self._last_ns = 0
        self._period_ns = PERIOD_NS
        self._untold = 0
        """Looks since the sender could last have been told, or a frame was found."""
        self.is_on = False
        self.looks = self.empty_looks = 0
        if mode == "never":
            return
        for queue in queues:
            queue.tx.heeds_polling = True
            queue.on_received = self.on_interrupt

    def on_interrupt(self, frames: int) -> None:
        """A ring found ``frames`` frames."""
        if self.is_on or frames < 1:
            return
        now_ns = self._tasks.now_ns
        if now_ns - self._last_ns > CLOSE_NS:
            self._credit = 0
        self._last_ns = now_ns
        self._credit = max(0, self._credit + 2 * frames - 3)
        if (self._credit >= ENTER_CREDIT or self._mode == "always") and self._tell():
            self.is_on = True
            self._credit, self._untold = MAX_CREDIT, 0
            self._set_period(PERIOD_NS)

    def _tell(self) -> bool:
        """Tell the sender of each queue that it need not ring; whether one knows."""
        for queue in self._queues:
            if queue.active and not queue.rx.is_polled:
                queue.rx.begin_polling()
        return any(queue.rx.is_polled for queue in self._queues)

    def _set_period(self, period_ns: int) -> None:
        self._period_ns = period_ns
        self._outbox.add(Poll(period_ns))

    def on_period(self) -> None:
        """Time for a look, unless there was one a moment ago."""
        if self.is_on and self._tasks.now_ns - self._last_ns >= self._period_ns // 2 and not self.look():
            self._credit = max(0, self._credit - EMPTY_COST)
            self.empty_looks += 1
            if self._credit <= 0 and self._mode != "always":
                self._end()

    def look(self) -> int:
        """Receive what is there; how many frames it was."""
        self.looks += 1
        self._last_ns = self._tasks.now_ns
        taken = 0
        for queue in self._queues:
            if queue.active:
                taken += queue.poll(WEIGHT)
        if taken:
            self._credit = min(self._credit + taken, MAX_CREDIT)
            self._untold = 0
            if self._period_ns != PERIOD_NS:
                self._set_period(PERIOD_NS)
            self._tell()
        return taken

    def _end(self) -> None:
        """Have the sender ring again, and look once more: what it sent before it knew is found so."""
        if self._outbox.effects:
            return  # stores may be among them
        told = [queue for queue in self._queues if queue.rx.is_polled]
        answers = [queue.rx.end_polling() for queue in told]
        if not all(answers):
            self._untold += 1
            if self._untold % PATIENCE == 0 and self._period_ns < MAX_PERIOD_NS:
                self._set_period(min(2 * self._period_ns, MAX_PERIOD_NS))
            return
        self.stop()
        for queue in told:
            if queue.active:
                queue.run_rx()

    def snapshot(self) -> dict[str, int]:
        """What ``status`` shows."""
        return {"is_on": int(self.is_on), "rx_looks": self.looks, "rx_empty_looks": self.empty_looks}

    def stop(self) -> None:
        """No more looks; for queues that are down, or told."""
        if self.is_on:
            self.is_on = False
            self._credit = 0
            self._outbox.add(Poll(0))
