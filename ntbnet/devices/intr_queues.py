"""The interrupts of a transport's queues: what this side offers its peer, and what the peer offered.

Each queue owns two scratchpads behind the window sizes: where its interrupt lies in this side's last
window, and what to store there. The author writes them in its *own* bank and the peer reads them there.
A pair that holds the marker, or cannot be, leaves the queue with doorbells.

Fixed here: descriptors are published on every link work, and the marker stands there whenever there is
no interrupt, also after a cleanup (HAZARD 11.a); scratchpads are counted before any is written (11.b).
The doorbell bit behind the last queue says that descriptors changed; both sides find it from the number
of queues they agreed on, where the kernel finds it from each side's own mask. Who changes the way it
rings rings once the new way: a ring that went the old way may be lost.

Source: the RFC of October 2025, patches 12 and 22 (ntb_transport_setup_qp_intr,
ntb_transport_setup_qp_peer_intr, ntb_transport_intr_desc_changed).
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from ntbnet.devices.complaints import Complaints
from ntbnet.devices.effects import Outbox
from ntbnet.devices.intr import WORD_BYTES, Descriptor, IntrBackend
from ntbnet.devices.intr_select import DOORBELL, Choice
from ntbnet.devices.ntb import NtbDevice
from ntbnet.devices.queue import Queue
from ntbnet.devices.task import DelayedWork, Task, Tasks
from ntbnet.errors import KernelError
from ntbnet.regs.transport import INVALID_DESCRIPTOR, intr_data, intr_offset

LINK_IS_DOWN = "the link is down"
NOTHING_OFFERED = "the peer offers no interrupt"


@dataclass(slots=True, eq=False)
class _Line:
    """One queue's interrupt, both ways."""

    queue: Queue
    offset_spad: int
    data_spad: int
    own: Descriptor = field(default_factory=Descriptor)
    irq: int = 0
    trigger: str = DOORBELL
    reason: str = LINK_IS_DOWN
    said: tuple[str, str] = ("", "")


class QueueInterrupts:
    """Interrupts of the queues of one transport.

    Args:
        ntb: the device.
        tasks: runs publications that follow a change.
        outbox: takes log events.
        complaints: takes what the peer did wrong.
        choice: what this side interrupts with; None: scratchpads and doorbell bit are left alone.
    """

    def __init__(
        self, ntb: NtbDevice, tasks: Tasks, outbox: Outbox, complaints: Complaints, choice: Choice | None
    ) -> None:
        self._ntb = ntb
        self._outbox = outbox
        self._complaints = complaints
        self._choice = choice
        self._lines: list[_Line] = []
        self._changed_bit = 0
        self._offered = False
        self._failure = ""
        self._said = ""
        """The failure that was logged; each link meets the same one again."""
        self._publish_work = DelayedWork(tasks, "interrupts-publish", self._publish_again)
        self._read_work = DelayedWork(tasks, "interrupts-read", self._read_again)

    def bind(self, queues: Sequence[Queue], mw_count: int) -> None:
        """Take the queues; ``mw_count`` windows announce their sizes in front of the descriptors."""
        if self._choice is None:
            return
        self._lines = [
            _Line(queue, intr_offset(mw_count, queue.number), intr_data(mw_count, queue.number))
            for queue in queues
        ]
        if self._choice.backend is not None:
            self._changed_bit = 1 << len(queues) & self._ntb.db_valid_mask()
            self._ntb.db_clear_mask(self._changed_bit)

    # what this side offers

    def announce(self) -> Task[None]:
        """Open the interrupt window and publish every descriptor; part of each link work.

        A backend that fails is logged, once while it fails the same way, and the queues keep doorbells
        until the next link. What only has to start yet (EAGAIN) is no failure: ``snapshot`` has the reason.
        """
        backend = self._receiving()
        if backend is not None:
            try:
                yield from backend.setup_mws()
            except KernelError as failure:
                self._fail(backend, "setup_mws", failure)
        yield from self._publish()
        if not self._failure:
            self._said = ""
        self._offered = True

    def _publish(self) -> Task[None]:
        for line in self._lines:
            if line.data_spad >= self._ntb.spad_count():
                continue
            if not self._is_offered(line):
                yield from self._store(line, INVALID_DESCRIPTOR, INVALID_DESCRIPTOR)
                self._request(line)
            if self._is_offered(line):
                yield from self._store(line, line.own.addr_offset, line.own.data)

    def _store(self, line: _Line, offset: int, data: int) -> Task[None]:
        yield from self._ntb.spad_write(line.offset_spad, offset)
        yield from self._ntb.spad_write(line.data_spad, data)

    def _is_offered(self, line: _Line) -> bool:
        """True when the peer may ring this queue by its interrupt."""
        backend = None if self._choice is None else self._choice.backend
        return line.own.is_valid and backend is not None and backend.is_set_up

    def _request(self, line: _Line) -> None:
        backend, queue = self._receiving(), line.queue
        if backend is None or line.own.is_valid:
            return
        try:
            line.irq = backend.request_irq(queue.on_interrupt, f"queue-{queue.number}", line.own)
        except KernelError as failure:
            self._fail(backend, "request_irq", failure)

    def _receiving(self) -> IntrBackend | None:
        """The backend that this side is to be interrupted by; None while it has failed."""
        choice = self._choice
        return choice.backend if choice is not None and choice.receives and not self._failure else None

    def _fail(self, backend: IntrBackend, step: str, failure: KernelError) -> None:
        self._failure = f"{backend.name} failed in {step}: {failure}"
        # EAGAIN: what is missing only starts later, and has the descriptors published again when it comes
        if failure.errno != errno.EAGAIN and self._failure != self._said:
            self._said = self._failure
            self._outbox.log("intr.failed", backend=backend.name, step=step, reason=str(failure))

    def descriptors_changed(self) -> None:
        """The backend's descriptors hold other values: publish them and tell the peer."""
        self._failure = ""
        if self._offered:
            self._publish_work.schedule()

    def _publish_again(self) -> Task[None]:
        yield from self.announce()
        if self._changed_bit:
            self._ntb.peer_db_set(self._changed_bit)

    # what the peer offers

    def read_peer(self) -> Task[None]:
        """Read what the peer offers for each queue, and ring it that way from now on."""
        for line in self._lines:
            try:
                descriptor, reason = yield from self._offer(line)
            except KernelError as failure:
                descriptor, reason = None, str(failure)
            self._use(line, descriptor, reason)

    def _offer(self, line: _Line) -> Task[tuple[Descriptor | None, str]]:
        """The peer's descriptor and where it is from, or None and why there is none."""
        choice = self._choice
        if choice is None or choice.backend is None or choice.widx is None:
            return None, choice.reason if choice is not None else NOTHING_OFFERED
        if line.data_spad >= self._ntb.spad_count():
            return None, f"{self._ntb.spad_count()} scratchpads hold no descriptor of this queue"
        offset = yield from self._ntb.peer_spad_read(0, line.offset_spad)
        data = yield from self._ntb.peer_spad_read(0, line.data_spad)
        found, number = Descriptor(offset, data), line.queue.number
        if not found.is_valid:
            return None, NOTHING_OFFERED
        if offset % WORD_BYTES:
            self._complaints.refused(f"queue {number} interrupt offset is no multiple of 4", offset)
            return None, f"interrupt offset {offset:#x} is no multiple of 4"
        if offset + WORD_BYTES > choice.backend.peer_window_bytes:
            self._complaints.refused(f"queue {number} interrupt offset is outside the window", offset)
            size = choice.backend.peer_window_bytes
            return None, f"interrupt offset {offset:#x} is outside the window of {size:#x} bytes"
        if not (yield from self._ntb.peer_mw_is_open(choice.widx)):
            self._complaints.refused(f"queue {number} interrupt in a window that leads nowhere", offset)
            return None, f"interrupt offset {offset:#x} is in a window that leads nowhere"
        return found, f"the peer offers {data:#x} at {offset:#x} of window {choice.widx}"

    def _use(self, line: _Line, descriptor: Descriptor | None, reason: str) -> None:
        backend = None if self._choice is None else self._choice.backend
        if descriptor is None or backend is None:
            line.queue.tx.ring_doorbells()
            line.trigger = DOORBELL
        else:
            line.queue.tx.trigger = partial(backend.peer_trigger, 0, descriptor)
            line.trigger = f"{descriptor.addr_offset:#x}={descriptor.data:#x}"
        line.reason = reason
        said = line.trigger, reason
        if said != line.said:
            line.said = said
            self._outbox.log(
                "intr.trigger_changed", queue=line.queue.number, trigger=line.trigger, reason=reason
            )

    def on_doorbell(self) -> None:
        """A doorbell came: is it the one that says that the peer's descriptors changed?"""
        if self._ntb.db_read() & self._changed_bit:
            self._ntb.db_clear(self._changed_bit)
            self._read_work.schedule()

    def _read_again(self) -> Task[None]:
        yield from self.read_peer()
        for line in self._lines:
            if line.queue.link_is_up:
                line.queue.tx.ring_anyway()

    # the end

    def stop(self) -> None:
        """The link is down on this side: doorbells until it is back. Without a bus access."""
        self._offered = False
        self._failure = ""
        self._publish_work.cancel()
        self._read_work.cancel()
        for line in self._lines:
            line.queue.tx.ring_doorbells()
            line.trigger, line.reason = DOORBELL, LINK_IS_DOWN

    def close(self) -> Task[None]:
        """Let the interrupt window lead nowhere."""
        backend = None if self._choice is None else self._choice.backend
        if backend is not None:
            try:
                yield from backend.clear_mws()
            except KernelError as failure:
                self._complaints.refused(f"interrupt window not closed: {failure}", failure.errno)

    def resting_value(self, sidx: int) -> int:
        """What a cleanup leaves in scratchpad ``sidx`` of the own bank: the marker in a descriptor's."""
        is_one = any(sidx in {line.offset_spad, line.data_spad} for line in self._lines)
        return INVALID_DESCRIPTOR if is_one else 0

    def release(self) -> None:
        """Give every interrupt back."""
        backend = None if self._choice is None else self._choice.backend
        for line in self._lines:
            if backend is not None and line.irq:
                backend.free_irq(line.irq, line.own)
                line.irq = 0

    # what people see

    def snapshot(self) -> dict[str, object]:
        """What this side offers, and how it rings each queue that somebody uses."""
        offers = {"backend": DOORBELL, "reason": NOTHING_OFFERED}
        if self._choice is not None:
            works = any(self._is_offered(line) for line in self._lines)
            offers = {
                "backend": self._choice.name if works else DOORBELL,
                "reason": self._failure or self._choice.reason,
            }
        return {
            "offers": offers,
            "rings": [
                {"queue": line.queue.number, "trigger": line.trigger, "reason": line.reason}
                for line in self._lines
                if line.queue.client is not None
            ],
        }
