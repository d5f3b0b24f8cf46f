"""The kernel's ``ntb_transport``: queues over memory windows, brought up through scratchpads.

Each side announces its window sizes and counts in the peer's scratchpads (VERSION last),
points the inbound windows at fresh memory, and announces each ready queue in QP_LINKS; all of it
is repeated every 10 ms until the peer has answered, so either side may start first.

Differences from the kernel, all on purpose:

* QP_LINKS is written from a set of our own; the peer's bits are never echoed (HAZARD 10.13).
* While a queue waits for the peer, everything is announced again, not only the queue: a peer that
  was loaded anew finds it (HAZARD 10.14).
* ``link_is_up`` falls with the link, and no queue works on freed memory (HAZARD 10.16).
* Closing a queue takes the peer's announcement back too; opening it again waits (for a while)
  until the peer, having seen the link-down frame, announces it anew.  So frames of the two
  sessions do not mix.  A link-down frame that finds the ring full is tried again, and one is
  sent as soon as the queue was announced: the peer may be up already.
* Receive memory is new at every link-up, also when the peer's size has not changed.
* A queue that waits drops a session the peer began and ended before it came up itself.
* A window command without an answer is tried again; any other failure waits for a link event.
* A size that cannot be is believed when announced twice: the first may be what a cleanup of our
  own scratchpads left of a good announcement. VERSION is cleared last, as it is written last.
* The QP_LINKS word of an earlier life is cleared at probe.

* Every ``look_ns`` link and rings are looked at: a lost interrupt delays, and strands nothing.

What a queue is rung with is in ``intr_queues``, and DMA copies are in ``tx_dma``.
Source: Linux drivers/ntb/ntb_transport.c (ntb_transport_probe, ntb_transport_link_work,
ntb_qp_link_work, ntb_transport_link_cleanup).
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence

from ntbnet.devices.complaints import Complaints
from ntbnet.devices.effects import Outbox
from ntbnet.devices.intr_queues import QueueInterrupts
from ntbnet.devices.intr_select import Choice
from ntbnet.devices.ntb import NtbDevice
from ntbnet.devices.queue import Queue, QueueClient
from ntbnet.devices.slow_look import SlowLook
from ntbnet.devices.task import DelayedWork, Sleep, Task, Tasks
from ntbnet.devices.tick import Tick
from ntbnet.devices.tx_dma import TxDmaEngine
from ntbnet.devices.window_set import WindowSet
from ntbnet.errors import KernelError
from ntbnet.regs.transport import (
    HEADER_BYTES,
    MAX_QPS,
    MIN_SPADS,
    SPAD_NUM_MWS,
    SPAD_NUM_QPS,
    SPAD_QP_LINKS,
    SPAD_VERSION,
    VERSION,
    max_mws,
)

RETRY_NS = 10_000_000
"""Period of both handshakes (Linux NTB_LINK_DOWN_TIMEOUT)."""
CLOSE_RETRY_NS = 100_000_000
CLOSE_RETRIES = 10
"""How far apart, and how often, a link-down frame is tried (Linux ntb_send_link_down)."""
SETTLE_ROUNDS = 10
"""Retry periods a queue that is opened again waits for the peer to have noticed that it was closed."""
_LINK_UP = 1


class Transport:
    """Transport over one NTB device, which it claims as the device's client.

    Args:
        ntb: the device.
        tasks: runs the handshakes.
        outbox: takes log events.
        tick: timer tick of this side's kernel.
        transport_mtu: largest frame with its header, bytes, above 12; equal on both sides.
        max_num_clients: queues to make; 0 means one for each memory window.
        max_mw_size: cap on the bytes used of each window; 0 means none.
        windows: indices of the memory windows that carry frames; None means every one.
        on_stuck: called with a reason, at most once for each link epoch, when only a new link
            epoch helps: a queue met a wrong ``ver`` or an impossible ``rx_info``, or a queue
            could not be closed.
        interrupts: what this side interrupts with; None: doorbells, as before the series.
        dma: this side's DMA engine; None: the CPU copies.
        look_ns: how often to look for what a lost interrupt did not tell; 0: never, as the kernel.
        poll_ns: how long a doorbell poll takes to find what was rung.
        link_wanted: False: probe leaves the link down, until ``set_link_wanted``.

    Attributes:
        queues: every queue; empty before ``probe``.
        link_is_up: both sides agreed and own memory is exposed.
    """

    def __init__(
        self,
        ntb: NtbDevice,
        tasks: Tasks,
        outbox: Outbox,
        tick: Tick,
        *,
        transport_mtu: int,
        max_num_clients: int,
        max_mw_size: int,
        on_stuck: Callable[[str], None],
        windows: Sequence[int] | None = None,
        interrupts: Choice | None = None,
        dma: TxDmaEngine | None = None,
        look_ns: int = 0,
        poll_ns: int = 0,
        link_wanted: bool = True,
    ) -> None:
        if transport_mtu <= HEADER_BYTES:
            raise ValueError(f"transport_mtu {transport_mtu}: must be above {HEADER_BYTES}")
        self._ntb = ntb
        self._tasks = tasks
        self._outbox = outbox
        self._tick = tick
        self._transport_mtu = transport_mtu
        self._max_num_clients = max_num_clients
        self._max_mw_size = max_mw_size
        self._dma = dma
        self._link_work = DelayedWork(tasks, "transport-link", self._work_on_link)
        self._wanted_work = DelayedWork(tasks, "transport-wanted", self._work_on_wanted)
        self._link_wanted = link_wanted
        self._chosen = windows
        self._windows = WindowSet(ntb, (), transport_mtu, max_mw_size)
        self.queues: list[Queue] = []
        self.link_is_up = False
        self._announced = 0
        self._unclean = True
        self._doubted = self._has_been_up = False
        self._lost: str | None = None
        self._removed = False
        self._complaints = Complaints(outbox, on_stuck)
        self._interrupts = QueueInterrupts(ntb, tasks, outbox, self._complaints, interrupts)
        self._slow_look = SlowLook(tasks, look_ns, self._look, self._act, poll_ns) if look_ns else None

    # probe and removal

    def probe(self) -> Task[None]:
        """Claim the device, make the queues, ask for the link and start the handshake.

        Raises:
            KernelError: EINVAL when there are too few scratchpads, no window, no doorbell, or a
                window too small for its queues; whatever claiming and enabling give.
        """
        spad_count = self._ntb.spad_count()
        if spad_count < MIN_SPADS:
            raise KernelError(errno.EINVAL, f"{spad_count} scratchpads, the transport needs {MIN_SPADS}")
        there = range(self._ntb.peer_mw_count())
        indices = [widx for widx in (there if self._chosen is None else self._chosen) if widx in there]
        indices = indices[: max_mws(spad_count)]
        mw_count = len(indices)
        if mw_count < 1:
            raise KernelError(errno.EINVAL, "the device has no memory window")
        queue_count = min(self._ntb.db_valid_mask().bit_length() - 1, MAX_QPS)
        if queue_count < 1:
            raise KernelError(errno.EINVAL, f"doorbell mask {self._ntb.db_valid_mask():#x}: no queue fits")
        if 0 < self._max_num_clients < queue_count:
            queue_count = self._max_num_clients
        elif mw_count < queue_count:
            queue_count = mw_count
        windows = WindowSet(self._ntb, indices, self._transport_mtu, self._max_mw_size)
        self.queues = [self._make_queue(windows, number, queue_count) for number in range(queue_count)]
        self._windows = windows
        self._interrupts.bind(self.queues, len(windows))
        self._ntb.set_ctx(self)
        try:
            yield from self._ntb.spad_write(SPAD_QP_LINKS, 0)
            yield from self._want_link(self._link_wanted)
        except KernelError:
            self.remove(graceful=False)
            raise
        self.link_event()
        if self._slow_look is not None:
            self._slow_look.start()

    def set_link_wanted(self, wanted: bool) -> None:
        """Ask for the link, or drop it: ``ntb_link_enable`` or ``ntb_link_disable``.

        What was wanted last counts. A device that does not answer is asked again.
        """
        self._link_wanted = wanted
        if not self._removed:
            self._wanted_work.schedule()

    def _want_link(self, wanted: bool) -> Task[None]:
        yield from (self._ntb.link_enable() if wanted else self._ntb.link_disable())

    def _work_on_wanted(self) -> Task[None]:
        wanted = self._link_wanted
        try:
            yield from self._want_link(wanted)
        except KernelError as error:
            self._complaints.refused(f"link not {'asked for' if wanted else 'dropped'}: {error}", error.errno)
            self._wanted_work.schedule(self._retry_delay())
            return
        self.link_event()
        if wanted != self._link_wanted:
            self._wanted_work.schedule()

    def _make_queue(self, windows: WindowSet, number: int, queue_count: int) -> Queue:
        geometry = windows.tx_geometry(number, queue_count)
        queue = Queue(number, self._ntb, geometry, windows.tx_base(number) + geometry.offset, self)
        if self._dma is not None:
            queue.tx.dma = self._dma.queue(number, geometry.max_payload, geometry.max_entry)
        queue.link_work = DelayedWork(
            self._tasks, f"queue-{number}-link", lambda: self._work_on_queue_link(queue)
        )
        queue.close_work = DelayedWork(self._tasks, f"queue-{number}-close", lambda: self._close(queue))
        return queue

    def remove(self, graceful: bool, on_done: Callable[[None], None] | None = None) -> None:
        """End the transport.

        Args:
            graceful: tell the peer, close the windows and drop the link; False when the device
                is gone: the bus is not touched, memory and queues are just let go.
            on_done: called when all is done; for a removal that is not graceful, at once.
        """
        self._removed = self._complaints.silent = True
        self._ntb.clear_ctx()
        if self._slow_look is not None:
            self._slow_look.stop()
        self._link_work.cancel()
        self._wanted_work.cancel()
        for queue in self.queues:
            queue.link_work.cancel()
            queue.close_work.cancel()
        if graceful:
            self._tasks.spawn("transport-remove", self._leave(), on_done)
            return
        self._stop("the device is gone")
        self._windows.free()
        self._interrupts.release()
        for queue in self.queues:
            queue.release()
        if on_done is not None:
            on_done(None)

    def _leave(self) -> Task[None]:
        for queue in self.queues:
            if queue.client_ready or queue.active:
                queue.client_ready = False
                yield from self._close(queue)
        yield from self._cleanup("removed")
        self._interrupts.release()
        for queue in self.queues:
            queue.release()
        try:
            yield from self._ntb.link_disable()
        except KernelError as error:
            self._complaints.refused(f"link not dropped: {error}", error.errno)

    # callbacks of the device

    def link_event(self) -> None:
        """The link may have changed: look at it, then shake hands or clean up."""
        if not self._removed:
            self._link_work.schedule()

    def link_lost(self, reason: str) -> None:
        """The link was down, whatever it reads now: reset the queues at once and start over.

        To be called for every new link epoch before anything of that epoch is handled; without
        it a side that reads the link bit over the bus goes on announcing under the old one.
        """
        if self._removed:
            return
        self._lost = reason
        self._stop(reason)
        self._link_work.cancel()
        self._link_work.schedule()

    def db_event(self, vector: int) -> None:
        """Doorbell interrupt: run every active queue that ``vector`` may stand for."""
        mask = self._ntb.db_vector_mask(vector)
        for queue in self.queues:
            if queue.active and mask & queue.bit:
                queue.on_doorbell()
        self._interrupts.on_doorbell()

    def descriptors_changed(self) -> None:
        """The interrupt backend's descriptors hold other values than before."""
        self._interrupts.descriptors_changed()

    def _look(self) -> bool:
        """Whether something waits for an interrupt, which may be lost; the link is looked at anyway."""
        if not self.link_is_up:
            self.link_event()
        waiting = [queue.look() for queue in self.queues]
        return any(waiting)

    def _act(self) -> None:
        for queue in self.queues:
            queue.take_overlooked()

    # the queue API

    def create_queue(self, client: QueueClient) -> Queue | None:
        """The lowest free queue, with its doorbell clear and unmasked; None when all are taken."""
        for queue in self.queues:
            if queue.client is None and not self._removed:
                queue.take(client)
                self._ntb.db_clear(queue.bit)
                self._ntb.db_clear_mask(queue.bit)
                return queue
        return None

    def free_queue(self, queue: Queue) -> None:
        """Give a queue back. A link still up is taken down first, as ``link_down`` does."""
        if queue.client is None:
            return
        if queue.client_ready:
            self.link_down(queue)
        self._ntb.db_set_mask(queue.bit)
        queue.release()

    def link_up(self, queue: Queue) -> None:
        """The client is ready: announce the queue, now or when the transport link comes up."""
        queue.client_ready = True
        if self.link_is_up and not queue.close_work.is_pending:
            queue.link_work.schedule(self._retry_delay() if queue.settling else 0)

    def link_down(self, queue: Queue) -> None:
        """The client is no longer ready: withdraw the announcement and tell the peer."""
        queue.client_ready = False
        queue.link_work.cancel()
        if not self._removed:
            queue.close_work.schedule()

    # transport link

    def _work_on_link(self) -> Task[None]:
        is_up = (yield from self._ntb.link_is_up()) == _LINK_UP
        lost, self._lost = self._lost, None
        if (lost or not is_up) and (self._unclean or self.link_is_up):
            yield from self._cleanup(lost or "link bit is 0")
        if not is_up or self.link_is_up:
            return
        self._unclean = True
        # before VERSION, so that a peer which finds it finds descriptors, too
        yield from self._interrupts.announce()
        yield from self._announce()
        waiting = yield from self._missing_answer()
        if waiting is not None:
            self._complaints.waiting(waiting)
            self._link_work.schedule(self._retry_delay())
            return
        try:
            yield from self._windows.open(self.queues)
        except KernelError as error:
            yield from self._close_windows()
            forget = error.errno == errno.EINVAL and not self._doubted
            if forget:
                self._doubted = True
                yield from self._ntb.spad_write(SPAD_VERSION, 0)
            if forget or error.errno == errno.ETIMEDOUT:
                self._complaints.waiting(str(error))
                self._link_work.schedule(self._retry_delay())
            elif error.errno != errno.ENOTCONN:
                self._complaints.refused(f"windows not opened: {error}", error.errno)
                if error.errno == errno.ENOMEM and self._has_been_up:
                    # memory of the windows before is free again in the next link epoch at the latest
                    self._complaints.stuck(0, f"windows not opened: {error}")
            return
        yield from self._interrupts.read_peer()
        self.link_is_up = self._has_been_up = True
        self._outbox.log("transport.link_changed", up=True, reason="handshake done")
        for queue in self.queues:
            if queue.client_ready:
                queue.link_work.schedule()

    def _announce(self) -> Task[None]:
        write = self._ntb.peer_spad_write
        yield from self._windows.announce()
        yield from write(0, SPAD_NUM_MWS, len(self._windows))
        yield from write(0, SPAD_NUM_QPS, len(self.queues))
        yield from write(0, SPAD_VERSION, VERSION)

    def _missing_answer(self) -> Task[str | None]:
        expected = (
            ("version", SPAD_VERSION, VERSION),
            ("queues", SPAD_NUM_QPS, len(self.queues)),
            ("windows", SPAD_NUM_MWS, len(self._windows)),
        )
        for what, sidx, value in expected:
            announced = yield from self._ntb.spad_read(sidx)
            if announced != value:
                return f"peer announced {what} {announced:#x}, expected {value:#x}"
        return None

    def _close_windows(self) -> Task[None]:
        for queue in self.queues:
            queue.detach()
        for error in (yield from self._windows.close()):
            self._complaints.refused(f"window not closed: {error}", error.errno)

    def _cleanup(self, reason: str) -> Task[None]:
        self._stop(reason)
        yield from self._close_windows()
        yield from self._interrupts.close()
        for sidx in reversed(range(self._ntb.spad_count())):
            yield from self._ntb.spad_write(sidx, self._interrupts.resting_value(sidx))
        self._unclean = self._doubted = False
        self._complaints.begin_epoch()

    def _stop(self, reason: str) -> None:
        """Everything down on this side, without a bus access."""
        was_up, self.link_is_up = self.link_is_up, False
        self._announced = 0
        self._interrupts.stop()
        for queue in self.queues:
            queue.link_work.cancel()
            queue.close_work.cancel()
            queue.settling = 0
            queue_was_up = queue.link_is_up
            queue.detach()
            self._report_down(queue, queue_was_up)
        if was_up:
            self._outbox.log("transport.link_changed", up=False, reason=reason)

    # queue link

    def _work_on_queue_link(self, queue: Queue) -> Task[None]:
        theirs = yield from self._ntb.spad_read(SPAD_QP_LINKS)
        if not (self.link_is_up and queue.client_ready) or queue.link_is_up:
            return
        if theirs >> len(self.queues):
            self._complaints.refused("qp_links", theirs)
            theirs = 0
        if queue.settling:
            queue.settling -= 1
            if not theirs & queue.bit and queue.settling:
                queue.link_work.schedule(self._retry_delay())
                return
            queue.settling = 0
            queue.renew()
        if queue.rx.drop_ended_session():
            theirs = 0
        self._announced |= queue.bit
        yield from self._ntb.peer_spad_write(0, SPAD_QP_LINKS, self._announced)
        if not theirs & queue.bit:
            yield from self._announce()
            queue.link_work.schedule(self._retry_delay())
            return
        if not (yield from self._prepare_dma(queue)):
            return
        queue.start()
        self._outbox.log("transport.queue_changed", queue=queue.number, up=True)
        if queue.client is not None:
            queue.client.event(up=True)
        queue.run_rx()

    def _prepare_dma(self, queue: Queue) -> Task[bool]:
        """Find where the queue's window leads; False when the queue is not to be started now."""
        dma, geometry = queue.tx.dma, queue.tx.geometry
        if dma is None:
            return True
        if not dma.is_quiet():
            queue.link_work.schedule(self._retry_delay())
            return False
        found = yield from self._ntb.peer_mw_bus(geometry.widx)
        if not (self.link_is_up and queue.client_ready) or queue.link_is_up:
            return False
        bus, size = found or (0, 0)
        dma.start(bus if size >= geometry.frame_end(geometry.max_entry - 1) else None)
        return True

    def _close(self, queue: Queue) -> Task[None]:
        was_active, queue.link_is_up = queue.active, False
        was_announced = bool(self._announced & queue.bit)
        self._announced &= ~queue.bit
        if self.link_is_up:
            yield from self._ntb.peer_spad_write(0, SPAD_QP_LINKS, self._announced)
        if was_active or was_announced:
            theirs = yield from self._ntb.spad_read(SPAD_QP_LINKS)
            yield from self._ntb.spad_write(SPAD_QP_LINKS, theirs & ~queue.bit)
            tries = 1
            while queue.tx_link_down():
                if tries == CLOSE_RETRIES:
                    self.queue_stuck(queue, "link-down frame not sent")
                    break
                tries += 1
                yield Sleep(self._tick.delay(self._tasks.now_ns, CLOSE_RETRY_NS))
                if not queue.active:
                    break
            queue.settling = SETTLE_ROUNDS
        queue.reset()
        if was_active:
            self._outbox.log("transport.queue_changed", queue=queue.number, up=False)
        if queue.client_ready and self.link_is_up:
            queue.link_work.schedule(self._retry_delay())

    def queue_peer_down(self, queue: Queue) -> None:
        """The peer closed the queue: reset it, and announce it until the peer is back."""
        was_up = queue.link_is_up
        queue.reset()
        if was_up:
            self._report_down(queue, was_up)
            queue.link_work.cancel()
            queue.link_work.schedule(self._retry_delay())

    def _report_down(self, queue: Queue, was_up: bool) -> None:
        if was_up:
            self._outbox.log("transport.queue_changed", queue=queue.number, up=False)
        if queue.client is not None:
            queue.client.event(up=False)

    # trouble

    def queue_refused(self, queue: Queue, cause: str, value: int) -> None:
        """A queue met a value that cannot be; logged once per cause and link epoch."""
        self._complaints.refused(f"queue {queue.number} {cause}", value)

    def queue_stuck(self, queue: Queue, reason: str) -> None:
        """A queue cannot go on: log it once, ask for a new link epoch once."""
        self._complaints.stuck(queue.number, reason)

    def _retry_delay(self) -> int:
        return self._tick.delay(self._tasks.now_ns, RETRY_NS)

    def snapshot(self) -> list[dict[str, int | str]]:
        """Statistics of every queue, by number (names of debugfs, and ``link``)."""
        return [queue.snapshot() for queue in self.queues]

    def interrupts_snapshot(self) -> dict[str, object]:
        """What this side offers to be interrupted with, and how it rings each queue."""
        return self._interrupts.snapshot()
