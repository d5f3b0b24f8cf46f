"""Fabric ``local``: what a host may store to without a message, and the way there.

The services that translate a store publish where it would land, as *grants*: the endpoint controller for
the host's stores into BARs, the host (through the controller) for the endpoint's stores into its outbound
aperture. A grant covers a stretch of addresses as the storing CPU sees them, and names either memory of
the other node, or registers of a service. Stores to memory are done in place, in order with the other
effects of a step; one 32-bit store to a register becomes a wake of the service that owns it. Everything else
stays a message.

Grants hold for one link epoch and are replaced as a whole whenever BARs, windows or DMA mappings change.
Control block and scratchpads are never granted: they live on across epochs, and a host that was
stopped between its check and its store would write to what the next epoch uses. Receive memory and doorbell
words are granted; see ``lease`` for how memory is kept from being reused too early.

A direct store must not overtake an earlier message: after one, stores wait here until a read behind it was
answered.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ntbnet.address import ADDRESS_END
from ntbnet.devices.complaints import Once
from ntbnet.devices.effects import Outbox, Send, Store
from ntbnet.devices.lease import Lease
from ntbnet.devices.memory import Buffer, Window
from ntbnet.devices.task import Flush, Sleep, Task, Tasks
from ntbnet.errors import PeerError
from ntbnet.wire import SERVICE_BY_LABEL, Irq, IrqSource, MemWrite

MEMORY = ""
"""Owner of a grant of memory."""
MAX_GRANTS = 64
MAX_HELD = 1024
"""Stores that wait for a flush; with more of them everything becomes a message."""
WORD_BYTES = 4
RETRY_NS = 10_000_000
"""Wait before an unanswered flush is tried again."""
FAILED_FLUSHES = 3
"""After how many in a row it is logged, once in a link epoch, that stores wait."""


@dataclass(frozen=True, slots=True)
class Far:
    """What a peer may come to store to directly.

    Attributes:
        memory: all DRAM of the other node.
        ident: which memory that is; grants of another one are refused.
        lease: where this host says in which link epoch it stores.
        fence: returns when all stores made before are seen by the other host, and before any later load.
    """

    memory: Window
    ident: int
    lease: Lease
    fence: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True)
class Grant:
    """``size`` bytes from address ``base`` that may be stored to directly.

    Attributes:
        base: as the storing CPU sees it.
        owner: service whose registers they are; empty for memory.
        at: offset in the other node's DRAM, or local address of the registers at their owner.
    """

    base: int
    size: int
    owner: str
    at: int

    @property
    def end(self) -> int:
        """First address behind it (exclusive)."""
        return self.base + self.size

    def part(self, base: int, size: int) -> Grant | None:
        """What it has in common with ``size`` bytes from ``base``; None for nothing."""
        first, end = max(self.base, base), min(self.end, base + size)
        return Grant(first, end - first, self.owner, self.at + first - self.base) if first < end else None


def to_body(grants: Iterable[Grant]) -> list[list[int | str]]:
    """Grants as a message carries them."""
    return [[grant.base, grant.size, grant.owner, grant.at] for grant in grants]


def from_body(body: object, memory_bytes: int) -> tuple[Grant, ...]:
    """Grants of a message.

    Args:
        body: what ``to_body`` made, as far as the sender can be trusted.
        memory_bytes: size of the DRAM that grants of memory lie in.

    Raises:
        PeerError: anything else, or a grant of memory that is not there.
    """
    if not isinstance(body, list) or len(body) > MAX_GRANTS:
        raise PeerError(f"grants: {body!r:.40}, allowed: a list of at most {MAX_GRANTS}")
    grants = []
    for entry in body:
        if not isinstance(entry, list) or [type(part) for part in entry] != [int, int, str, int]:
            raise PeerError(f"grant {entry!r:.60}: allowed [address, size, owner, place]")
        base, size, owner, at = entry
        limit = ADDRESS_END if owner else memory_bytes
        if owner not in {MEMORY, *SERVICE_BY_LABEL} or size < 1 or base < 0 or at < 0:
            raise PeerError(f"grant {entry!r:.60}: impossible")
        if base + size > ADDRESS_END or at + size > limit:
            raise PeerError(f"grant {entry!r:.60}: leaves [0, {limit:#x})")
        if not owner and (size < WORD_BYTES or (base | at | size) % WORD_BYTES):
            raise PeerError(f"grant {entry!r:.60}: memory is granted in whole words")
        grants.append(Grant(base, size, owner, at))
    return tuple(grants)


class CpuBus:
    """How the posted stores of one host's CPU leave it.

    Args:
        outbox: takes messages and wakes.
        tasks: runs flushes; its epoch is that of the stores.
        upstream: the service that gets messages, unless ``route`` names another one.
        far: the other node's memory; None in fabric ``message``, where everything is a message.
        doorbell_dst: service whose interrupts a granted doorbell bit raises.
    """

    def __init__(
        self,
        outbox: Outbox,
        tasks: Tasks,
        upstream: str,
        far: Far | None = None,
        doorbell_dst: str = "",
    ) -> None:
        self._outbox = outbox
        self._tasks = tasks
        self._upstream = self._via = upstream
        self._far = far
        self._doorbell_dst = doorbell_dst
        self._grants: tuple[Grant, ...] = ()
        self._vectors: dict[int, int] = {}
        self._settled = False
        """No message is under way that a direct store could overtake."""
        self._posted = 0
        self._is_flushing = False
        self._complaints = Once()
        self._era = 0
        """Ends the flushes of earlier epochs."""
        self._lent: list[Window] = []
        self._held: list[tuple[int, bytes, str] | int] = []
        """Stores (address, data, name) and doorbell bits that wait for a flush, oldest first."""
        self.counters: Counter[str] = Counter()

    # stores

    def write(self, addr: int, data: Buffer, what: str = "direct") -> None:
        """Posted store of ``data`` at ``addr``; the buffer may be reused once the call returned.

        ``what`` names it where it is a direct store (see ``crash_points``).
        """
        if not self._grants:
            self.post(addr, data)
            return
        grant = self._find(addr, len(data))
        if grant is None:
            self.post(addr, data)
        elif self._settled:
            self._land(grant, addr, data, what)
        elif self._is_flushing and len(self._held) < MAX_HELD:
            self._held.append((addr, bytes(data), what))
        else:
            self.post(addr, data)

    def lend(self, addr: int, size: int) -> Window | None:
        """``size`` bytes at ``addr`` to store in directly; None unless stores to all of them are direct now.

        It is revoked as soon as they are not.
        """
        grant = self._find(addr, size) if self._settled else None
        if grant is None or grant.owner or self._far is None:
            return None
        window = self._far.memory.sub(grant.at + addr - grant.base, size, "lent")
        self._lent.append(window)
        return window

    def _unsettle(self) -> None:
        self._settled = False
        while self._lent:
            self._lent.pop().revoke()

    def fence(self) -> None:
        """Every direct store made before is seen by the other host before a later load is done."""
        if self._far is not None:
            self._far.fence()

    def doorbell(self, bits: int) -> None:
        """Ring ``bits`` on the other host, behind all earlier stores (the endpoint's side only)."""
        if self._held and len(self._held) < MAX_HELD:
            self._held.append(bits)
            return
        self._post_held()
        left = bits
        while self._settled and left:
            vector = self._vectors.get((left & -left).bit_length() - 1)
            if vector is None:
                break
            self.counters["direct_doorbells"] += 1
            self._outbox.wake(self._doorbell_dst, Irq(IrqSource.MSI_VECTOR, vector, self._tasks.epoch))
            left &= left - 1
        if left:
            self._outbox.send(self._upstream, Irq(IrqSource.PEER_DOORBELL, left, self._tasks.epoch))

    def _find(self, addr: int, length: int) -> Grant | None:
        for grant in self._grants:
            if grant.base <= addr and addr + length <= grant.base + grant.size:
                return grant if not grant.owner or (length == WORD_BYTES and not addr & 3) else None
        return None

    def _land(self, grant: Grant, addr: int, data: Buffer, what: str) -> None:
        at = grant.at + addr - grant.base
        if grant.owner:
            self.counters["direct_rings"] += 1
            self._outbox.wake(grant.owner, MemWrite(at, bytes(data), self._tasks.epoch), what)
        else:
            assert self._far is not None, "grants of memory are taken only where there is memory"
            if self._outbox.effects:
                # what says that a frame was taken must not be seen before the frame was
                self._outbox.add(Store(self._far.memory, at, bytes(data), what))
            else:
                self._far.memory.store(what, at, data)

    def _post_held(self) -> None:
        """What waited becomes messages, which the flush that runs does not cover."""
        held, self._held = self._held, []
        for one in held:
            if isinstance(one, int):
                self._outbox.send(self._upstream, Irq(IrqSource.PEER_DOORBELL, one, self._tasks.epoch))
            else:
                self._outbox.send(self._via, MemWrite(one[0], one[1], self._tasks.epoch))
        if held:
            self._posted += 1

    def post(self, addr: int, data: Buffer) -> None:
        """As ``write``, for what is never granted: a message."""
        if self._held:
            self._post_held()
        # a payload is on its way before its owner gets the buffer back: effects are performed at once
        kept = data if isinstance(data, memoryview) else bytes(data)
        self._outbox.effects.append(Send(self._via, MemWrite(addr, kept, self._tasks.epoch)))
        self._posted += 1
        if self._settled:
            self._unsettle()
        if self._grants:
            self._flush()

    def barrier(self) -> Task[bool]:
        """Let no later store overtake what the upstream service has sent to the other host by now.

        For what others store there for this host: a DMA engine. Direct stores wait for a read behind it
        from the call on, and messages travel behind it anyway.

        Returns:
            False: the read was not answered, and stores wait still.
        """
        memory = self._memory()
        if memory is None:
            return True
        era = self._era
        self._unsettle()
        self._posted += 1
        self._flush()
        is_answered: bool = yield Flush(memory.end - WORD_BYTES, WORD_BYTES)
        return is_answered and self._era == era

    # the way

    def route(self, dst: str) -> None:
        """Memory requests of this epoch, reads too, go to ``dst``; before the first one of the epoch only."""
        self._via = self._tasks.read_dst = dst

    def grant(self, args: dict[str, Any]) -> None:
        """Take what the upstream service grants in place of what was granted before.

        Raises:
            PeerError: it cannot be; nothing is granted then.
        """
        self._grants, self._vectors = (), {}
        self._unsettle()
        self._posted += 1
        if self._far is None:
            raise PeerError("grants: this host's stores are messages")
        if args.get("memory") != self._far.ident:
            raise PeerError("grants: of other memory than this process has mapped")
        vectors = _vectors(args.get("doorbells", []))
        self._grants = from_body(args.get("ranges"), self._far.memory.size)
        self._vectors = vectors
        self.counters["grants_taken"] += 1
        self._flush()

    def enter(self, epoch: int) -> None:
        """A new link epoch, 0 for none: nothing is granted, and what waited is lost with the old one."""
        self._grants, self._vectors = (), {}
        self._unsettle()
        self._held.clear()
        self._outbox.drop_stores()
        self._is_flushing = False
        self._complaints.begin_epoch()
        self._era += 1
        self.route(self._upstream)
        if self._far is not None:
            self._far.lease.enter(epoch)

    def _flush(self) -> None:
        """Settle, once what was posted so far has arrived."""
        if self._grants and not self._is_flushing:
            self._is_flushing = True
            self._tasks.spawn("flush", self._run_flush())

    def _memory(self) -> Grant | None:
        """The granted memory whose last word, harmless to read, is behind every message to the other host."""
        return next((grant for grant in self._grants if not grant.owner), None)

    def _run_flush(self) -> Task[None]:
        era, posted, failed = self._era, -1, 0
        while posted != self._posted:
            posted = self._posted
            memory = self._memory()
            if memory is None:
                # nothing to read behind the messages: they stay messages
                self._grants, self._is_flushing = (), False
                self._post_held()
                return
            is_answered: bool = yield Flush(memory.end - WORD_BYTES, WORD_BYTES)
            if self._era != era:
                return
            if not is_answered:
                self.counters["flushes_failed"] += 1
                posted, failed = -1, failed + 1
                if failed == FAILED_FLUSHES and self._complaints.is_first("flush"):
                    self._outbox.log("stores.waiting", flushes=failed)
                yield Sleep(RETRY_NS)
                if self._era != era:
                    return
        self._is_flushing = False
        self._settled = True
        held, self._held = self._held, []
        for one in held:
            if isinstance(one, int):
                self.doorbell(one)
            else:
                self.write(*one)

    def snapshot(self) -> dict[str, Any]:
        """What ``status`` shows."""
        return {"direct": self._settled, "grants": len(self._grants), **self.counters}


def _vectors(body: object) -> dict[int, int]:
    """Doorbell bit -> interrupt vector of the other host."""
    if not isinstance(body, list) or len(body) > MAX_GRANTS:
        raise PeerError(f"doorbells: {body!r:.40}")
    for entry in body:
        if not isinstance(entry, list) or [type(part) for part in entry] != [int, int]:
            raise PeerError(f"doorbell {entry!r:.40}: allowed [bit, vector]")
        if not (0 <= entry[0] < 64 and 0 <= entry[1] < 2048):
            raise PeerError(f"doorbell {entry!r:.40}: impossible")
    return dict(body)


def undisputed(spans: Iterable[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Those of ``spans`` (base, size, anything) that share no byte with an earlier one.

    Of windows that overlap the first one that holds an access's first byte translates it; a later one is
    left to the messages.
    """
    seen: list[tuple[int, int, int]] = []
    kept = []
    for base, size, behind in spans:
        if all(base + size <= other or other + length <= base for other, length, _ in seen):
            kept.append((base, size, behind))
        seen.append((base, size, behind))
    return kept


def within(grants: Sequence[Grant], spans: Iterable[tuple[int, int, int]]) -> list[Grant]:
    """Grants seen through windows.

    Args:
        grants: in the address space behind the windows.
        spans: of each window: base in front of it, size, base behind it.
    """
    return [
        Grant(base + part.base - behind, part.size, part.owner, part.at)
        for base, size, behind in spans
        for grant in grants
        if (part := grant.part(behind, size)) is not None
    ]
