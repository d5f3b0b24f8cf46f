"""The interrupt lines of the eDMA engine: levels, made of channel status and of test interrupts.

A line is high while an unmasked done or abort bit of one of its channels is set, or while a test
interrupt is latched on it. A test interrupt is a write of any value to an INT_STATUS register: it
latches a line and touches no bit; a write of any value to an INT_CLEAR register ends it.

The endpoint's CPU is another process, told by a message when a line rises. What arises while that
message, or the acknowledgement that answers it, is under way may come after the CPU's handler
ran: so an acknowledgement ends only what came before the message. Test interrupts beyond the first
one collapse into one more message, and a ring that meets a completion, or an acknowledgement, is
never lost. A line that is acknowledged and still high with nothing new is told again every
``REPEAT_NS``: a level, without the storm. One that is not acknowledged at all, since the message was
lost, is told again by the next interrupt that would collapse into it, ``UNHEARD_NS`` later or more.

Source: Linux dw-edma-core.c, dw_edma_irq_request and the interrupt emulation of 2026-02-15.
"""

from __future__ import annotations

from collections import Counter

from ntbnet.devices.effects import Effect, Outbox
from ntbnet.profile import EndpointHardware
from ntbnet.regs.edma import ABORT_SHIFT, Direction
from ntbnet.regs.file import RegisterFile
from ntbnet.wire import Irq, IrqSource

CPU = "peer-ep"
REPEAT_NS = 10_000_000
"""After how long a line that was acknowledged and is still high is told again, ns."""
UNHEARD_NS = 100_000_000
"""How long a line that nobody acknowledged is not told again by what collapses into it, ns."""


def first_line(endpoint: EndpointHardware, direction: Direction) -> int:
    """The first line of a direction; both share it when there is one only."""
    return _lines_of(endpoint, direction)[0]


def channel_line(endpoint: EndpointHardware, direction: Direction, channel: int) -> int:
    """The line that a channel raises."""
    lines = _lines_of(endpoint, direction)
    return lines[channel % len(lines)]


def _lines_of(endpoint: EndpointHardware, direction: Direction) -> range:
    if endpoint.edma_lines == 1:
        return range(1)
    write_lines = (endpoint.edma_lines + 1) // 2
    return range(write_lines) if direction is Direction.WRITE else range(write_lines, endpoint.edma_lines)


class InterruptLines:
    """The lines of one engine.

    Args:
        endpoint: number of lines, channels, and where a test interrupt shows.
        registers: INT_STATUS and INT_MASK are read from it.
        outbox: takes messages to the CPU.
        counters: gets ``test_interrupts``, ``rings_collapsed``, ``irqs`` and ``irqs_repeated``.

    Attributes:
        level: set of lines that are high.
    """

    now_ns = 0
    """Time of what happens; its owner keeps it."""

    def __init__(
        self, endpoint: EndpointHardware, registers: RegisterFile, outbox: Outbox, counters: Counter[str]
    ) -> None:
        self._registers = registers
        self._outbox = outbox
        self._counters = counters
        self._all = (1 << endpoint.edma_lines) - 1
        self._takes_turns = endpoint.edma_test_line == "turn"
        self._next_turn = 0
        self._first = {direction: first_line(endpoint, direction) for direction in Direction}
        channels = {
            Direction.WRITE: endpoint.edma_write_channels,
            Direction.READ: endpoint.edma_read_channels,
        }
        self._lines = {
            direction: [
                1 << channel_line(endpoint, direction, channel) for channel in range(channels[direction])
            ]
            for direction in Direction
        }
        """Line of each channel, as a set."""
        self.level = 0
        self._cpu_up = False
        self._latched = 0
        self._rung_since = False
        """A test interrupt came after the CPU was last told."""
        self._names = {
            direction: (direction.register("INT_STATUS"), direction.register("INT_MASK"))
            for direction in Direction
        }
        self._pending = dict.fromkeys(Direction, 0)
        """Status bits that are set and not masked."""
        self._told = dict.fromkeys(Direction, 0)
        """Of these, which the CPU was told of."""
        self._status_level = dict.fromkeys(Direction, 0)
        """Lines that they raise."""
        self._repeat_ns: int | None = None
        self._news: dict[int, Effect] = {}
        """Set of lines -> what tells the CPU of it."""
        self._told_ns = 0

    def ring(self, direction: Direction, _value: int = 0) -> None:
        """A test interrupt, through the INT_STATUS register of ``direction``; the value does not matter."""
        self._counters["test_interrupts"] += 1
        if self._latched:
            self._counters["rings_collapsed"] += 1
        else:
            self._latched = 1 << self._choose(direction)
        self._rung_since = True
        self._settle_or_remind(direction)

    def status_set(self, direction: Direction, bit: int) -> None:
        """Bit ``bit`` of INT_STATUS was set: done of channel ``bit``, or abort of ``bit`` - 16."""
        self._told[direction] &= ~(1 << bit)
        self._read_status(direction)
        self._settle_or_remind(direction)

    def mask_written(self, direction: Direction) -> None:
        """INT_MASK changed: a pending bit that is unmasked raises its line now."""
        self._read_status(direction)
        self._settle(direction)

    def acknowledge(self, direction: Direction, bits: int, now_ns: int) -> None:
        """INT_CLEAR was written with ``bits``; these are gone from the status already."""
        if bits:
            self._read_status(direction)
        if not self._rung_since:
            self._latched = 0
        is_told = self._settle(direction)
        if not self.level or is_told:
            return
        if self._rung_since or any(self._pending[each] & ~self._told[each] for each in Direction):
            self._tell()
        elif self._repeat_ns is None:
            self._repeat_ns = now_ns + REPEAT_NS

    def cpu_changed(self, up: bool) -> None:
        """The CPU's process came or went; one that comes is rung on every line, whatever happened before."""
        self._cpu_up = up
        if up:
            self._tell(self._all)

    def next_deadline(self) -> int | None:
        """When an unserviced line is told again."""
        return self._repeat_ns

    def on_deadline(self, now_ns: int) -> None:
        """Tell it again, once for each acknowledgement that left it high."""
        if self._repeat_ns is None or now_ns < self._repeat_ns:
            return
        self._repeat_ns = None
        if self.level:
            self._counters["irqs_repeated"] += 1
            self._tell()

    def _choose(self, direction: Direction) -> int:
        if not self._takes_turns:
            return self._first[direction]
        line = self._next_turn
        self._next_turn = (line + 1) % self._all.bit_length()
        return line

    def _read_status(self, direction: Direction) -> None:
        status, mask = self._names[direction]
        pending = self._registers.get(status) & ~self._registers.get(mask)
        self._pending[direction] = pending
        self._told[direction] &= pending
        pending |= pending >> ABORT_SHIFT
        self._status_level[direction] = 0
        for channel, line in enumerate(self._lines[direction]):
            if pending >> channel & 1:
                self._status_level[direction] |= line

    def _settle(self, direction: Direction) -> bool:
        """Bring the level up to date after something of ``direction`` changed; True when the CPU was told."""
        level = self._latched | self._status_level[Direction.WRITE] | self._status_level[Direction.READ]
        if level == self.level:
            return False
        rising, falling, self.level = level & ~self.level, self.level & ~level, level
        changed = rising | falling
        while changed:
            line = (changed & -changed).bit_length() - 1
            if rising >> line & 1:
                self._outbox.log("edma.line_raised", line=line, register=self._names[direction][0])
            else:
                self._outbox.log("edma.line_lowered", line=line)
            changed &= changed - 1
        if not level:
            self._repeat_ns = None
        if rising:
            self._tell()
        return rising != 0

    def _settle_or_remind(self, direction: Direction) -> None:
        told_ns = self._told_ns
        if not self._settle(direction) and self.level and self.now_ns - told_ns >= UNHEARD_NS:
            self._tell()

    def _tell(self, lines: int = 0) -> None:
        """Send the set of lines that are high, or ``lines``."""
        if not self._cpu_up:
            return
        self._counters["irqs"] += 1
        lines = lines or self.level
        news = self._news.get(lines)
        if news is None:
            news = self._news[lines] = self._outbox.signal_of(CPU, Irq(IrqSource.EDMA_LINE, lines))
        self._outbox.effects.append(news)
        self._told.update(self._pending)
        self._rung_since = False
        self._repeat_ns = None
        self._told_ns = self.now_ns
