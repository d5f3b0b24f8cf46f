"""One end of a ping-pong of interrupts between two processes, each with an event loop of its own.

``python -m ntbnet.app.interrupt_pingpong PARENT eventfd ROLE COUNT OUT IN`` passes wakes through two
inherited eventfds: the least it takes. ``... message ROLE COUNT FOLDER`` passes interrupt messages through
the bridge's own driver, path and sockets, with a device at each end that does nothing but answer; ``local``
does so with wakes. ROLE is ``ask`` or ``answer``; who asks stops after COUNT answers and writes the
nanoseconds of each round trip, in a line of JSON. Both end with the process PARENT, which started them.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path as FilePath

import uvloop

from ntbnet.app.bare_service import BareDevice, bare_driver
from ntbnet.app.process_end import end_with
from ntbnet.devices.effects import Effect, Send, Wake
from ntbnet.devices.path import Path
from ntbnet.edge.clock import monotonic_ns
from ntbnet.wire import Irq, IrqSource, MemWrite, Message

MOST_SECONDS = 60
"""An end whose neighbour is gone ends by itself."""
HEARTBEAT_NS = 300_000_000
LIVENESS_NS = 5_000_000_000
LABELS = {"ask": "edma", "answer": "peer-ep"}
"""The services that the ends stand for; by ``topology.WAKES`` each may wake the other as these do."""


class Trips:
    """Round trips as who asks sees them.

    Args:
        count: answers after which it is over; 0 for who answers.
        finish: called when it is over.
    """

    def __init__(self, count: int, finish: Callable[[], None]) -> None:
        self._left = count
        self._finish = finish
        self._asked_ns = 0
        self.times_ns: list[int] = []

    def is_asking(self) -> bool:
        """True when a question is to be asked now; its time is taken."""
        self._asked_ns = monotonic_ns()
        return self._left > 0

    def answered(self) -> None:
        """The answer came."""
        self.times_ns.append(monotonic_ns() - self._asked_ns)
        self._left -= 1
        if not self._left:
            self._finish()


INTERRUPT, ACKNOWLEDGE = Irq(IrqSource.EDMA_LINE, 1), MemWrite(0, bytes(4))


class Pinger(BareDevice):
    """A device that asks by interrupt, and again at each answer.

    Args:
        trips: of who asks; None for who answers.
        ring: how the other end is interrupted.
    """

    def __init__(self, trips: Trips | None, ring: Send | Wake) -> None:
        self._trips = trips
        self._ring = (ring,)

    def handle(self, src: str, message: Message, now_ns: int) -> Sequence[Effect]:
        """See ``Device``."""
        if self._trips is None:
            return self._ring
        self._trips.answered()
        return self._ring if self._trips.is_asking() else ()

    def on_path(self, peer: str, up: bool, session: int, reason: str, now_ns: int) -> Sequence[Effect]:
        """See ``Device``."""
        return self._ring if up and self._trips is not None and self._trips.is_asking() else ()


def over_eventfd(loop: asyncio.AbstractEventLoop, trips: Trips | None, arguments: Sequence[str]) -> None:
    """Through a pair of eventfds."""
    out, into = map(int, arguments)

    def on_wake() -> None:
        os.eventfd_read(into)
        if trips is not None:
            trips.answered()
            if not trips.is_asking():
                return
        os.eventfd_write(out, 1)

    loop.add_reader(into, on_wake)
    if trips is not None and trips.is_asking():
        os.eventfd_write(out, 1)


def over_messages(loop: asyncio.AbstractEventLoop, trips: Trips | None, arguments: Sequence[str]) -> None:
    """Through the driver of a service, as a message."""
    _over_driver(loop, trips, arguments, Send)


def over_wakes(loop: asyncio.AbstractEventLoop, trips: Trips | None, arguments: Sequence[str]) -> None:
    """Through the driver of a service, as a wake; its path only tells when the other end is there."""
    _over_driver(loop, trips, arguments, Wake)


def _over_driver(
    loop: asyncio.AbstractEventLoop,
    trips: Trips | None,
    arguments: Sequence[str],
    ring: type[Send | Wake],
) -> None:
    (folder,) = arguments
    me, peer = (LABELS["answer"], LABELS["ask"]) if trips is None else (LABELS["ask"], LABELS["answer"])
    path = Path(
        me,
        peer,
        initiator=trips is not None,
        incarnation=1,
        allocate_session=iter(range(1, 1 << 30)).__next__,
        heartbeat_ns=HEARTBEAT_NS,
        liveness_ns=LIVENESS_NS,
        identity={},
    )
    driver = bare_driver(
        Pinger(trips, ring(peer, ACKNOWLEDGE if trips is None else INTERRUPT)),
        path,
        (f"ipc://{folder}/{peer}-{me}", f"ipc://{folder}/{me}-{peer}"),
        lambda label: FilePath(folder, f"wake.{label}"),
    )
    driver.start(loop, f"ipc://{folder}/ask.{me}", dict)


REFERENCE = "eventfd"
MEDIA: dict[str, Callable[[asyncio.AbstractEventLoop, Trips | None, Sequence[str]], None]] = {
    REFERENCE: over_eventfd,
    "local": over_wakes,
    "message": over_messages,
}
"""The reference, and the fabrics."""


def main(parent: str, medium: str, role: str, count: str, *arguments: str) -> None:
    """Run one end until it is over; who answers is killed."""
    end_with(parent)
    signal.alarm(MOST_SECONDS)
    loop = uvloop.new_event_loop()
    trips = Trips(int(count), loop.stop) if role == "ask" else None
    os.write(sys.stdout.fileno(), b"ready\n")
    MEDIA[medium](loop, trips, arguments)
    gc.collect()
    gc.freeze()
    loop.run_forever()
    if trips is not None:
        print(json.dumps(trips.times_ns), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
