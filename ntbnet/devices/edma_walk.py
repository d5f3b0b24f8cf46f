"""One channel of the eDMA engine: what it does from a doorbell to its end, step by step.

A channel runs one transfer from its context registers, or walks a linked list: it fetches the
element at LLP; follows a link, toggling its cycle state CCS when the link says so (TCB); executes
a data element whose cycle bit equals CCS; stops at any other, with LLP left there, and goes on from
there at the next doorbell. A doorbell while it runs is kept until then.

The channel's state while it runs is its own; the context registers show it, and writes to them take
effect at the next start. Posted writes get no answer, so a channel that wrote reads the last word
back through the same path before it says done: the data is there first, and a word that nobody
claimed shows as Unsupported Request. Earlier writes that missed are lost without a sign here; who
refused them counts them.

Source: Linux dw-edma-v0-core.c for the lists; that links ignore the cycle bit, and where LLP is left,
are chosen.
"""

from __future__ import annotations

from enum import Enum

from ntbnet.address import ADDRESS_END
from ntbnet.devices.edma_list import Element, Transfer, decode
from ntbnet.devices.edma_port import Fault, Port
from ntbnet.devices.memory import Window
from ntbnet.regs.edma import (
    CONTROL_CB,
    CONTROL_LIE,
    CONTROL_RIE,
    CONTROL_TCB,
    ELEMENT_BYTES,
    STATUS_HALTED,
    STATUS_RUNNING,
    STATUS_STOPPED,
    Direction,
    edma_block,
)
from ntbnet.regs.file import RegisterFile

BURST_BYTES = 64 << 10
"""Longest posted write, bytes."""
MAX_UNFLUSHED_BYTES = 512 << 10
MAX_UNFLUSHED_WRITES = 32
"""How much a channel posts before it waits for a read behind it: no neighbour is overrun."""
FLUSH_BYTES = 4
CONTROL_FLAGS = 0x1F
"""CB to RIE: the bits of an element that CONTROL1 shows."""

_CONTROL1 = edma_block(1, 1).register("WR_CONTROL1")
_STATUS, _CCS, _LLE = (_CONTROL1.field(name) for name in ("STATUS", "CCS", "LLE"))


class Phase(Enum):
    """What comes next."""

    STOPPED = 0
    FETCH = 1
    MOVE = 2
    FLUSH = 3
    """A flush is to be sent, or under way."""


class Channel:
    """State and work of one channel; sans-IO.

    Args:
        direction, number: which one.
        registers: its engine's.
        memory: EP DRAM.
        port: its engine.
        read_bytes: longest read request, a power of two up to 4096.
    """

    def __init__(
        self,
        direction: Direction,
        number: int,
        registers: RegisterFile,
        memory: Window,
        port: Port,
        read_bytes: int,
    ) -> None:
        self.direction, self.number = direction, number
        self._registers, self._memory, self._port = registers, memory, port
        self._read_bytes = read_bytes
        self.transfers = self.bytes = self.aborts = 0
        self._ended = "idle"
        self.reset()

    def reset(self) -> None:
        """Forget what runs; the registers keep their content."""
        self.phase = Phase.STOPPED
        self._is_list = False
        self._rung_again = False
        self._llp = self._ccs = self._control = self._due = 0
        self._source = self._destination = self._left = 0
        self._in_transfer = False
        self._outstanding = 0
        """Bytes of a read channel's requests without an answer."""
        self._flush_sent = False
        self._unflushed_bytes = self._unflushed_writes = 0
        self._last_word = (0, 0)
        """Address and size of what a flush reads: the end of the last posted write."""

    @property
    def is_running(self) -> bool:
        """From doorbell to stop or abort."""
        return self.phase is not Phase.STOPPED

    @property
    def state(self) -> str:
        """``running``; ``done``, ``stopped`` or ``aborted``, as the last run ended; ``idle`` before any."""
        return "running" if self.is_running else self._ended

    @property
    def is_ready(self) -> bool:
        """True when ``step`` can do something without waiting for an answer."""
        if self.phase is Phase.MOVE:
            return self.direction is Direction.WRITE or (self._left > 0 and self._port.has_room())
        if self.phase is Phase.FLUSH:
            return not self._flush_sent and self._port.has_room()
        return self.phase is Phase.FETCH

    def ring(self) -> bool:
        """The channel's doorbell; False when it is of no use: a single transfer runs already."""
        if self.is_running:
            self._rung_again = self._is_list
            return self._is_list
        self.reset()
        control = self._get("CONTROL1")
        self._is_list = bool(_LLE.extract(control))
        self._ccs = _CCS.extract(control)
        self._control = control & CONTROL_FLAGS
        self._llp, self._source, self._destination = map(self._get_pair, ("LLP", "SAR", "DAR"))
        self._left = self._get("TRANSFER_SIZE")
        if self._is_list:
            self.phase = Phase.FETCH
            self._show(STATUS_RUNNING)
        else:
            self._begin(self._control, Transfer(self._source, self._destination, self._left))
        return True

    def stop(self) -> bool:
        """The doorbell's STOP bit; False when nothing runs."""
        if not self.is_running:
            return False
        self.fail(Fault.STOPPED)
        return True

    def disable(self) -> None:
        """The engine is switched off: the transfer ends here, and nobody is told."""
        if self.is_running:
            self._port.forget(self)
            self._show(STATUS_STOPPED)
            self.reset()
            self._ended = "stopped"

    def fail(self, fault: Fault) -> None:
        """End early: elements that were complete are reported, then the abort."""
        self._port.forget(self)
        due, self._due, control, is_list = self._due, 0, self._control, self._is_list
        self._show(STATUS_STOPPED if fault is Fault.STOPPED else STATUS_HALTED)
        self.reset()
        self._is_list = is_list
        self._ended = "stopped" if fault is Fault.STOPPED else "aborted"
        self.aborts += 1
        if due:
            self._port.done(self, due)
        self._port.aborted(self, fault, control)

    @property
    def is_list(self) -> bool:
        """True when the last doorbell started a list."""
        return self._is_list

    def step(self) -> None:
        """One element, one burst or one request; only when ``is_ready``."""
        if self.phase is Phase.FETCH:
            self._fetch()
        elif not self._port.is_open:
            self.fail(Fault.UNSUPPORTED if self.direction is Direction.READ else Fault.LINK)
        elif self.phase is Phase.FLUSH:
            self._flush_sent = True
            self._port.read(self, *self._last_word, -1)
        elif self.direction is Direction.WRITE:
            self._write_burst()
        else:
            self._request()

    def on_data(self, cookie: int, data: bytes | memoryview) -> None:
        """A read was answered: with data for local address ``cookie``, or a flush (-1)."""
        if cookie < 0:
            self._flush_sent = False
            self._unflushed_bytes = self._unflushed_writes = 0
            if not self._in_transfer:
                self._finish()
            elif self._left:
                self.phase = Phase.MOVE
            else:
                self._element_done()
            return
        self._memory.store("edma.data", cookie - self._memory.span.base, data)
        self.bytes += len(data)
        self._outstanding -= len(data)
        if not self._left and not self._outstanding:
            self._element_done()

    # the list

    def _fetch(self) -> None:
        if not self._memory.span.contains(self._llp, ELEMENT_BYTES):
            self.fail(Fault.FETCH)
            return
        element = decode(self._memory.load(self._llp - self._memory.span.base, ELEMENT_BYTES))
        if element.transfer is None:
            self._follow(element)
        elif element.control & CONTROL_CB != self._ccs:
            self._finish()
        else:
            self._report()
            self._llp += ELEMENT_BYTES
            self._begin(element.control & CONTROL_FLAGS, element.transfer)

    def _follow(self, link: Element) -> None:
        self._llp = link.pointer
        if link.control & CONTROL_TCB:
            self._ccs ^= 1

    def _finish(self) -> None:
        """Nothing more to do. A driver reads the status as soon as it is told, so that comes first."""
        if self._unflushed_writes:
            self.phase = Phase.FLUSH
            return
        self._show(STATUS_STOPPED)
        self.phase, self._ended = Phase.STOPPED, "done"
        self._report()
        if self._rung_again:
            self._rung_again = False
            self.phase = Phase.FETCH
            self._show(STATUS_RUNNING)

    def _report(self) -> None:
        due, self._due = self._due, 0
        if due:
            self._port.done(self, due)

    # one transfer

    def _begin(self, control: int, transfer: Transfer) -> None:
        self._control = control
        self._source, self._destination, self._left = transfer.source, transfer.destination, transfer.size
        self._in_transfer = True
        self._show(STATUS_RUNNING)
        is_write = self.direction is Direction.WRITE
        local, remote = self._source, self._destination
        if not is_write:
            local, remote = remote, local
        if not self._left or not self._memory.span.contains(local, self._left):
            self.fail(Fault.LOCAL)
        elif remote + self._left > ADDRESS_END:
            self.fail(Fault.UNSUPPORTED)
        else:
            self.phase = Phase.MOVE

    def _write_burst(self) -> None:
        size = min(self._left, BURST_BYTES)
        data = self._memory.load(self._source - self._memory.span.base, size)
        self._port.post(self._destination, data)
        self._source += size
        self._destination += size
        self._left -= size
        self.bytes += size
        self._unflushed_bytes += size
        self._unflushed_writes += 1
        word = min(FLUSH_BYTES, size)
        self._last_word = (self._destination - word, word)
        wants_to_tell = not self._left and self._control & (CONTROL_LIE | CONTROL_RIE)
        if (
            wants_to_tell
            or self._unflushed_bytes >= MAX_UNFLUSHED_BYTES
            or self._unflushed_writes >= MAX_UNFLUSHED_WRITES
        ):
            self.phase = Phase.FLUSH
        elif not self._left:
            self._element_done()

    def _request(self) -> None:
        size = min(self._left, self._read_bytes - self._source % self._read_bytes)
        source, destination = self._source, self._destination
        self._source += size
        self._destination += size
        self._left -= size
        self._outstanding += size
        self._port.read(self, source, size, destination)

    def _element_done(self) -> None:
        self._in_transfer = False
        self.transfers += 1
        self._due |= self._control & (CONTROL_LIE | CONTROL_RIE)
        if self._is_list:
            self.phase = Phase.FETCH
        else:
            self._finish()

    # registers

    def _show(self, status: int) -> None:
        """Bring the context registers up to date."""
        control = _STATUS.insert(_LLE.insert(self._control, self._is_list), status)
        self._set("CONTROL1", _CCS.insert(control, self._ccs))
        self._set("TRANSFER_SIZE", self._left)
        for name, value in (("SAR", self._source), ("DAR", self._destination), ("LLP", self._llp)):
            self._set(f"{name}_LOW", value & 0xFFFFFFFF)
            self._set(f"{name}_HIGH", value >> 32 & 0xFFFFFFFF)

    def _get(self, name: str) -> int:
        return self._registers.get(self.direction.register(name), self.number)

    def _get_pair(self, name: str) -> int:
        return self._get(f"{name}_LOW") | self._get(f"{name}_HIGH") << 32

    def _set(self, name: str, value: int) -> None:
        self._registers.set(self.direction.register(name), value, self.number)
