"""One end of a pump: the least a Python process can do between a TUN and another such process.

It reads packets from its TUN, hands them over, wakes the other end, and writes what the other end handed
over to its TUN. No checks, no ring protocol, no models: what a bridge takes beyond this is the bridge. It
saves the system calls and exceptions that a bridge saves: see ``Burst``.

``python -m ntbnet.app.pump PARENT shm TUN MEMORY OUT IN FIRST`` and ``... zmq TUN PULL PUSH`` run one end
until it is killed or the process PARENT ends, and write a line once it does. TUN, MEMORY, OUT and IN are
inherited descriptors: MEMORY holds two rings (FIRST, 0 or 1, is the one to write), OUT and IN are eventfds.
PULL is bound, PUSH is connected to. Everything comes from the bench that started it; nothing is validated.
"""

from __future__ import annotations

import asyncio
import gc
import mmap
import os
import sys
from collections.abc import Callable, Sequence

import uvloop
import zmq

from ntbnet.app.process_end import end_with

MOST_BYTES = 65535
"""Longest IP packet."""
BATCH = 64
"""Packets taken before the other descriptor gets its turn; no more than a ring has slots."""
SINGLES, LOOK_AGAIN = 4, 16
"""After so many bursts of one packet each no second one is looked for, but every so many bursts."""
SLOTS = 64
SLOT_BYTES = 65536 + 64
"""Room for a packet, which begins at a cache line of its own, behind the word for its length."""
PACKET_AT = 64
HEAD_AT, TAIL_AT = 0, 64
"""Where a ring's counters are: packets that were put in, and packets that were taken out."""
SLOTS_AT = 4096
RING_BYTES = SLOTS_AT + SLOTS * SLOT_BYTES
MEMORY_BYTES = 2 * -(-RING_BYTES // mmap.PAGESIZE) * mmap.PAGESIZE


class Burst:
    """How many packets to look for: after bursts of one no second one is, but for now and then.

    To look for one that is not there costs as much as to be woken once more.
    """

    def __init__(self) -> None:
        self._singles = 0

    def most(self) -> int:
        """Packets to take at once now: 1 or BATCH."""
        return 1 if self._singles >= SINGLES and self._singles % LOOK_AGAIN else BATCH

    def took(self, packets: int) -> None:
        """So many there were."""
        self._singles = self._singles + 1 if packets == 1 else 0


class SharedRing:
    """One producer, one consumer; both counters are whole 64-bit words in cache lines of their own."""

    def __init__(self, memory: memoryview) -> None:
        self._words = memory.cast("Q")
        self._burst = Burst()
        starts = [SLOTS_AT + number * SLOT_BYTES for number in range(SLOTS)]
        self._lengths = [start // 8 for start in starts]
        self._slots = [memory[start + PACKET_AT : start + SLOT_BYTES] for start in starts]

    def fill(self, tun: int) -> bool:
        """Read packets from ``tun`` into the ring; True when there was one."""
        words = self._words
        first = head = words[HEAD_AT // 8]
        last = min(first + self._burst.most(), words[TAIL_AT // 8] + SLOTS)
        try:
            while head < last:
                slot = head % SLOTS
                words[self._lengths[slot]] = os.readv(tun, (self._slots[slot],))
                head += 1
        except BlockingIOError:
            pass
        words[HEAD_AT // 8] = head
        self._burst.took(head - first)
        return head != first

    def empty(self, tun: int) -> None:
        """Write every packet in the ring to ``tun``."""
        words = self._words
        tail = words[TAIL_AT // 8]
        while tail != words[HEAD_AT // 8]:
            slot = tail % SLOTS
            write(tun, self._slots[slot][: words[self._lengths[slot]]])
            tail += 1
            words[TAIL_AT // 8] = tail

    @property
    def is_full(self) -> bool:
        """True when there is no room for a packet."""
        return self._words[HEAD_AT // 8] - self._words[TAIL_AT // 8] >= SLOTS


def write(tun: int, packet: memoryview | bytes) -> None:
    """Hand a packet to the node; one that the kernel refuses is lost, as on any interface."""
    try:
        os.write(tun, packet)
    except OSError:
        return


def pump_shm(loop: asyncio.AbstractEventLoop, arguments: Sequence[str]) -> None:
    """Over shared memory, woken by eventfds."""
    tun, memory_fd, out, into, first = map(int, arguments)
    memory, half = memoryview(mmap.mmap(memory_fd, MEMORY_BYTES)), MEMORY_BYTES // 2
    rings = SharedRing(memory[:half]), SharedRing(memory[half:])
    outgoing, incoming = rings[first], rings[1 - first]

    def on_tun() -> None:
        if outgoing.fill(tun):
            os.eventfd_write(out, 1)
        elif outgoing.is_full:
            loop.remove_reader(tun)
            loop.call_later(0.001, loop.add_reader, tun, on_tun)

    def on_wake() -> None:
        os.eventfd_read(into)
        incoming.empty(tun)

    loop.add_reader(tun, on_tun)
    loop.add_reader(into, on_wake)


def pump_zmq(loop: asyncio.AbstractEventLoop, arguments: Sequence[str]) -> None:
    """Over a ZeroMQ PUSH and PULL of each end; the descriptors are edge-triggered, so both are drained."""
    tun, bind, connect = int(arguments[0]), *arguments[1:]
    context = zmq.Context(io_threads=1)
    pull, push = context.socket(zmq.PULL), context.socket(zmq.PUSH)
    pull.bind(bind)
    push.connect(connect)
    buffer, burst = memoryview(bytearray(MOST_BYTES)), Burst()

    def on_tun() -> None:
        packets = 0
        try:
            for _ in range(burst.most()):
                length = os.readv(tun, (buffer,))
                packets += 1
                push.send(buffer[:length], zmq.NOBLOCK)
        except (BlockingIOError, zmq.Again):
            pass
        burst.took(packets)

    def on_message() -> None:
        # the descriptor may be ready for something else; behind a packet a look at the events is cheaper
        # than to be refused the next one, and arms the descriptor as well
        try:
            while True:
                write(tun, pull.recv(zmq.NOBLOCK))
                if not int(pull.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
                    return
        except zmq.Again:
            return

    loop.add_reader(tun, on_tun)
    loop.add_reader(pull.fileno(), on_message)
    loop.call_soon(on_message)


PUMPS: dict[str, Callable[[asyncio.AbstractEventLoop, Sequence[str]], None]] = {
    "shm": pump_shm,
    "zmq": pump_zmq,
}


def main(parent: str, kind: str, arguments: Sequence[str]) -> None:
    """Run one end, for ever, or until who started it ends."""
    end_with(parent)
    loop = uvloop.new_event_loop()
    PUMPS[kind](loop, arguments)
    gc.collect()
    gc.freeze()
    os.write(sys.stdout.fileno(), b"ready\n")
    loop.run_forever()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
