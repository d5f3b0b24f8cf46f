"""Faults between processes, injected: stands around the driver's few functions while a plan is installed.

A driver without a plan calls its functions directly, so that this costs nothing when it is not asked for.
Messages are mistreated after their path gave them sequence number and checksum, and before the receiver
checks them: what the receiver makes of a fault is what it would make of a bad wire. Interrupts and answers to
reads are mistreated behind the receiver's checks. Which thing is hit, ``FaultRule.strikes`` says.

What is held back stays in order on its path, the path's own messages behind it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, TypeAlias, TypeGuard

from ntbnet.edge.lane import Frame, Lane, Loop
from ntbnet.edge.strikes import TELL_S, Emitter, Hit, Strikes, Words
from ntbnet.faults import RECEIVER, SENDER, SERVICE, FaultPlan, decide
from ntbnet.wire import Completion, Irq, IrqSource, Kind, MemWrite, Message, Status

if TYPE_CHECKING:
    from ntbnet.devices.effects import Effect
    from ntbnet.devices.path import Path

TURN = 40
"""Interrupts of a storm that come before the event loop gets its turn. Those of a line are handled in two
runs (see ``pending.py``), so that a storm of 100000 is 5000 runs: it is one for the driver, too."""
AGAIN_S = 0.001
"""Distance at which a stuck interrupt comes again."""
SWAP_US = 5_000
"""How long a message waits for the next one that is to overtake it."""

_WORDS = {
    Kind.MEM_WRITE: "write",
    Kind.MEM_READ: "read",
    Kind.COMPLETION: "completion",
    Kind.CFG_READ: "config",
    Kind.CFG_WRITE: "config",
    Kind.IRQ: "interrupt",
    Kind.CALL: "call",
    Kind.REPLY: "call",
    Kind.NOTICE: "call",
}
_KIND_AT, _EPOCH_AT, _ADDRESS_AT = 1, 16, 32
"""Offsets in a header (``wire.py``)."""
Send = Callable[[str, bytes, "bytes | memoryview"], bool]
Handle = Callable[[str, Message, int], "Sequence[Effect]"]
Interrupt: TypeAlias = "Irq | MemWrite"
Wake = Callable[[str, Interrupt], None]
SendWake = Callable[[str, Interrupt], bool]
Again = Callable[[Interrupt], bool]
"""Has an interrupt come once more; False for one that is handled together with another."""


@dataclass(slots=True)
class _Burst:
    """An interrupt that has to come ``left`` times more, for the rule at place ``index`` of the plan."""

    message: Interrupt
    again: Again
    left: int
    index: int


class FaultLayer:
    """What one service injects.

    Args:
        service: its label.
        plan: what to inject.
        counts: WORDS numbers, kept across restarts (see ``fault_files``).
        log: gets ``chaos.fault_injected`` and ``chaos.faults_counted``.
        memory: file of the node's DRAM; None: there is none to unlink.
        sleep: what a slow service does.
        is_on: asked once a second: False ends the injection; a service that was stopped while the plan was
            healed was not told.
    """

    def __init__(
        self,
        service: str,
        plan: FaultPlan,
        counts: Words,
        log: Emitter,
        memory: FilePath | None = None,
        sleep: Callable[[float], None] = time.sleep,
        is_on: Callable[[], bool] = lambda: True,
    ) -> None:
        self.plan = plan
        self._service = service
        self._memory = memory
        self._sleep = sleep
        self._strikes = Strikes(service, plan, counts, log, is_on)
        self._lanes: dict[str, Lane] = {}
        self._bursts: list[_Burst] = []
        """Interrupts that still have to come again."""
        self._is_over = False

    def attach(
        self,
        clock: Callable[[], int],
        loop: Loop,
        flush: Callable[[], None],
        interrupt: Callable[[str, Interrupt], bool],
        paths: dict[str, Path],
        is_interrupt: Callable[[str, Message], bool] = lambda _src, _message: False,
    ) -> None:
        """Take what the driver has, before anything is injected.

        Args:
            clock: monotonic ns.
            loop: of the service.
            flush: ends a step: hands over what was sent, arms the timer.
            interrupt: raises an interrupt of a neighbour at this service's CPU; as Again.
            paths: of the service, by neighbour.
            is_interrupt: True for a message of a neighbour, no Irq, that interrupts this service's CPU.
        """
        self._clock = self._strikes.clock = clock
        self._loop = loop
        self._flush = flush
        self._interrupt = interrupt
        self._paths = paths
        self._is_interrupt = is_interrupt
        self._strikes.remind = lambda: loop.call_later(TELL_S, self._strikes.tell_unlogged)

    # on the way out

    def around_sends(self, send: Send, send_now: Send) -> tuple[Send, Send]:
        """``ZmqBus.send`` and ``send_now``, with faults."""
        for peer in self._paths:
            self._lanes[peer] = Lane(peer, send, send_now, self._clock, self._loop, self._flush)

        def faulty_send(dst: str, header: bytes, payload: bytes | memoryview) -> bool:
            number, path = self._strikes.number(f"to {dst}"), f"{self._service}>{dst}"
            word, lane = _WORDS[Kind(header[_KIND_AT])], self._lanes[dst]
            hits = self._strikes.hit_by(SENDER, word, self._service, dst, path, number)
            taken = lane.send(self._frames((header, payload), hits, path, number), is_own=False)
            for other in self._lanes.values():
                if other is not lane:
                    other.overtaken()
            epoch = int.from_bytes(header[_EPOCH_AT : _EPOCH_AT + 4], "little")
            if (
                word == "write"
                and epoch > 1
                and self._strikes.hit_by(SENDER, "window", self._service, dst, path, number)
            ):
                lane.send(self._stale(dst, header, payload, epoch - 1), is_own=False)
            return taken

        def faulty_send_now(dst: str, header: bytes, payload: bytes | memoryview) -> bool:
            number, path = self._strikes.number(f"own to {dst}"), f"{self._service}>{dst} own"
            hits = self._strikes.hit_by(SENDER, "path", self._service, dst, path, number)
            return self._lanes[dst].send(self._frames((header, payload), hits, path, number), is_own=True)

        return faulty_send, faulty_send_now

    def _frames(self, frame: Frame, hits: list[Hit], path: str, number: int) -> list[Frame]:
        """What becomes of one message: none, one or two."""
        lane = self._lanes[path.partition(">")[2].partition(" ")[0]]
        frames = [frame]
        for rule, _, dice in hits:
            if rule.kind == "drop":
                frames = []
            elif rule.kind == "duplicate":
                frames = frames * 2
            elif rule.kind in {"corrupt", "truncate"}:
                where = decide(self.plan.seed, f"{dice} where", path, number)
                count = rule.parameter("bytes")
                is_cut = rule.kind == "truncate"
                frames = [_truncate(one, count) if is_cut else _corrupt(one, count, where) for one in frames]
            elif rule.kind in {"delay", "stall"}:
                lane.hold_next(rule.parameter("delay_us"))
            elif rule.kind == "reorder":
                lane.hold_next(rule.parameter("delay_us"), overtakers=rule.parameter("burst"))
            elif rule.kind == "swap":
                lane.hold_next(SWAP_US, swap=True)
            elif rule.kind == "cut":
                lane.cut(rule.parameter("delay_us"))
        return frames

    def _stale(self, dst: str, header: bytes, payload: bytes | memoryview, epoch: int) -> list[Frame]:
        """The same write once more, of an older link epoch, with every bit of its data changed."""
        address = int.from_bytes(header[_ADDRESS_AT : _ADDRESS_AT + 8], "little")
        write = MemWrite(address, bytes(byte ^ 0xFF for byte in payload), epoch)
        frames = self._paths[dst].send(write, self._clock())
        return [] if frames is None else [frames]

    def around_forget(self, forget: Callable[[str], None]) -> Callable[[str], None]:
        """``ZmqBus.forget``: what is held back for a session that ended is lost with it."""

        def faulty(dst: str) -> None:
            self._lanes[dst].forget()
            forget(dst)

        return faulty

    def around_wake(self, wake: SendWake) -> SendWake:
        """``Wakes.send``, with stale ones."""

        def faulty(dst: str, message: Irq | MemWrite) -> bool:
            is_new = wake(dst, message)
            if message.epoch > 1:
                number, path = self._strikes.number(f"wake to {dst}"), f"{self._service}>{dst} wake"
                if not self._strikes.hit_by(SENDER, "window", self._service, dst, path, number):
                    return is_new
                if isinstance(message, Irq):
                    wake(dst, Irq(message.source, message.bits, message.epoch - 1))
                else:
                    wake(dst, MemWrite(message.addr, message.data, message.epoch - 1))
            return is_new

        return faulty

    # on the way in

    def around_handle(self, handle: Handle) -> Handle:
        """The device's ``handle``, of a slow service, or one that is told something else."""

        def faulty(src: str, message: Message, now_ns: int) -> Sequence[Effect]:
            for hit in self._strikes.hit_by(
                SERVICE, "handled", "", "", self._service, self._strikes.number("handled")
            ):
                if hit.rule.kind == "slow":
                    self._sleep(hit.rule.parameter("delay_us") / 1e6)
                elif self._memory is not None:
                    with suppress(OSError):  # a service that gave up its privileges may not
                        self._memory.unlink()
            if isinstance(message, Completion):
                message = self._answer(src, message)
            elif self._interrupts(message, src) and self._is_lost(
                src, message, lambda one: self._interrupt(src, one)
            ):
                return ()
            return handle(src, message, now_ns)

        return faulty

    def _interrupts(self, message: Message, src: str) -> TypeGuard[Interrupt]:
        """True for what interrupts this service's CPU, by whatever message."""
        if isinstance(message, Irq):
            return message.source != IrqSource.PEER_DOORBELL
        return isinstance(message, MemWrite) and self._is_interrupt(src, message)

    def _answer(self, src: str, answer: Completion) -> Completion:
        number, path = self._strikes.number(f"answers from {src}"), f"{src}>{self._service} answers"
        for rule, _, _ in self._strikes.hit_by(RECEIVER, "completion", src, self._service, path, number):
            if rule.kind == "all-ones":
                answer = Completion(answer.tag, answer.status, b"\xff" * len(answer.data), answer.epoch)
            else:
                status = Status.UR if rule.kind == "ur" else Status.CA
                answer = Completion(answer.tag, status, b"", answer.epoch)
        return answer

    def around_on_wake(self, on_wake: Wake, again: Wake, lose: Wake = lambda _src, _message: None) -> Wake:
        """What takes wakes that are stores to registers: interrupts of the service that has them.

        Args:
            on_wake: takes one.
            again: takes one that comes again.
            lose: told of one that is lost.
        """

        def comes_again(src: str, message: Interrupt) -> bool:
            again(src, message)
            return True

        def faulty(src: str, message: Irq | MemWrite) -> None:
            if isinstance(message, Irq) or not self._is_lost(src, message, lambda one: comes_again(src, one)):
                on_wake(src, message)
            else:
                lose(src, message)

        return faulty

    def _is_lost(self, src: str, message: Interrupt, again: Again) -> bool:
        """True for an interrupt that does not arrive; has others come again."""
        number, path = self._strikes.number(f"interrupts from {src}"), f"{src}>{self._service} interrupts"
        is_lost = False
        for rule, index, dice in self._strikes.hit_by(
            RECEIVER, "interrupt", src, self._service, path, number
        ):
            if rule.kind == "lost-interrupt":
                is_lost = True
            elif rule.kind == "stuck-doorbell":
                until_ns = self._clock() + rule.parameter("delay_us") * 1000
                self._loop.call_later(AGAIN_S, self._stick, message, again, until_ns, index)
            else:
                one: Interrupt = message
                if rule.kind == "spurious-interrupt" and (
                    isinstance(message, Irq) or self._is_interrupt(src, message)
                ):
                    one = _stranger(message, decide(self.plan.seed, f"{dice} bits", path, number))
                self._storm(one, again, rule.parameter("burst"), index)
        return is_lost

    def _storm(self, message: Interrupt, again: Again, left: int, index: int) -> None:
        """Begin to have an interrupt come ``left`` times more, TURN of them in a turn of the loop."""
        if not self._bursts:
            self._loop.call_soon(self._on_turn)
        self._bursts.append(_Burst(message, again, left, index))

    def _on_turn(self) -> None:
        if self._is_over:
            return
        bursts, self._bursts = self._bursts, []
        for one in bursts:
            for _ in range(min(one.left, TURN)):
                self._strikes.came_again(one.index, handled=one.again(one.message))
            one.left -= min(one.left, TURN)
        self._flush()
        if not self._bursts and any(one.left for one in bursts):
            self._loop.call_soon(self._on_turn)
        self._bursts += [one for one in bursts if one.left]

    def _stick(self, message: Interrupt, again: Again, until_ns: int, index: int) -> None:
        if self._is_over or self._clock() >= until_ns:
            return
        self._strikes.came_again(index, handled=again(message))
        self._flush()
        self._loop.call_later(AGAIN_S, self._stick, message, again, until_ns, index)

    # packets

    def around_read(self, read: Callable[[memoryview], int]) -> Callable[[memoryview], int]:
        """``Tun.readinto``, that passes over packets."""

        def faulty(buffer: memoryview) -> int:
            length = read(buffer)
            while length and self._loses_packet("sent"):
                length = read(buffer)
            return length

        return faulty

    def around_write(self, write: Callable[[memoryview, bytes], bool]) -> Callable[[memoryview, bytes], bool]:
        """``Tun.write``, that loses packets, or takes its time over them."""

        def faulty(packet: memoryview, offload_header: bytes) -> bool:
            return True if self._loses_packet("received") else write(packet, offload_header)

        return faulty

    def _loses_packet(self, word: str) -> bool:
        is_lost = False
        number = self._strikes.number(word)
        for hit in self._strikes.hit_by(SERVICE, word, "", "", f"{self._service} {word}", number):
            if hit.rule.kind == "slow":
                self._sleep(hit.rule.parameter("delay_us") / 1e6)
            else:
                is_lost = True
        return is_lost

    # the end

    def end(self) -> None:
        """Send on what is held back, have come what was to come in this turn, inject nothing any more."""
        while any(one.left <= TURN for one in self._bursts):
            self._on_turn()
        self._is_over = True
        for lane in self._lanes.values():
            lane.release_all()
        self._strikes.tell_unlogged()

    def as_body(self) -> dict[str, object]:
        """The answer to ``faults``: seed, and injections of this service by rule."""
        injected = [self._strikes.injected(index) for index in range(len(self.plan.faults))]
        return {
            "seed": self.plan.seed,
            "rules": [rule.kind for rule in self.plan.faults],
            "injected": injected,
        }


def _stranger(interrupt: Interrupt, chance: int) -> Interrupt:
    """The same interrupt, or, every other time, another one of its kind."""
    if chance & 1:
        return interrupt
    number = chance >> 8 & 31
    if isinstance(interrupt, MemWrite):
        # a message-signalled one: the low bits of what is written say which
        data = int.from_bytes(interrupt.data, "little") & ~31 | number
        return MemWrite(interrupt.addr, data.to_bytes(len(interrupt.data), "little"), interrupt.epoch)
    bits = number if interrupt.source is IrqSource.MSI_VECTOR else 1 << number
    return Irq(interrupt.source, bits, interrupt.epoch)


def _corrupt(frame: Frame, count: int, where: int) -> Frame:
    """``count`` bytes changed in a row, in header or payload."""
    header, payload = frame
    whole = bytearray(header) + bytes(payload)
    for at in range(where % len(whole), min(where % len(whole) + count, len(whole))):
        whole[at] ^= 1 + (where >> 8) % 255
    return bytes(whole[: len(header)]), bytes(whole[len(header) :])


def _truncate(frame: Frame, count: int) -> Frame:
    """Without the last ``count`` bytes, but at least one byte long."""
    header, payload = frame
    whole = header + bytes(payload)
    whole = whole[: max(len(whole) - count, 1)]
    return whole[: len(header)], whole[len(header) :]
