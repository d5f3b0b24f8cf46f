"""What fabric ``local`` promises, judged in every world: no stale store reaches live data.

A store that goes past every message may land only in memory that was handed out before the storing host was
granted it. Memory handed out later was nobody's target when the store was decided on, however long the
process was stopped between its check and its store.

Of the endpoint function's own memory only doorbell words may be stored to: one whole word, its own value, as
``ntb_hw_epf`` rings. Their place never changes, so that a late ring is one too many in a later link epoch,
which drivers have to bear; it must not take one away.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

from ntbnet.devices.endpoint import EndpointController
from ntbnet.devices.memory import Buffer, Window
from ntbnet.devices.peer import Peer
from ntbnet.devices.vntb import Vntb
from ntbnet.regs.ntb_ctrl import DB_ENTRY_SIZE, FIRST_DB_SLOT, MAX_DOORBELLS

Store = Callable[[int, bytes], None]


class FarMemory(Window):
    """The other node's DRAM as a peer stores to it; each direct store is handed to ``on_store``.

    What is put into ``room`` is a store as well: it is handed over in front of the next one.
    """

    __slots__ = ("filled", "on_store", "whole")

    def __init__(self, mem: memoryview, base: int, name: str, on_store: Store) -> None:
        super().__init__(mem, base, name)
        self.on_store = on_store
        self.whole = self
        self.filled: list[tuple[int, bytearray]] = []

    def sub(self, offset: int, size: int, name: str) -> FarMemory:
        self._check(offset, size)
        part = FarMemory(self.whole._u8, self.whole.span.base, name, self.on_store)
        part._start, part.size, part.whole = self._start + offset, size, self.whole
        return part

    def room(self, what: str, offset: int, length: int) -> memoryview:
        filled = bytearray(length)
        self.whole.filled[:] = [(self._check(offset, length), filled)]
        return memoryview(filled)

    def store(self, what: str, offset: int, data: Buffer) -> None:
        at = self._check(offset, len(data))
        filled, self.whole.filled = self.whole.filled, []
        for where, content in filled:
            self.on_store(where, bytes(content))
        self.on_store(at, bytes(data))

    def store_u32(self, what: str, offset: int, value: int) -> None:
        self.store(what, offset, value.to_bytes(4, "little"))

    def land(self, offset: int, data: bytes) -> None:
        """Do at last what ``store`` was asked to."""
        super().store("direct", offset, data)


class Watch:
    """Memory that each node has in use, and the grants each peer holds; in the order they came about."""

    def __init__(self) -> None:
        self._serial = count(1)
        self._pieces: dict[str, list[tuple[int, Window]]] = {"rc": [], "ep": []}
        self.granted = {"rc": 0, "ep": 0}
        """When each host took the grants it has."""
        self.stores = 0
        self.late = 0
        """Stores that were done after the link epoch they were decided in."""
        self.rings = self.late_rings = 0
        """Those of them that were to doorbell words."""
        self._vntb: Vntb | None = None
        self._function_end = 0

    def follow(self, node: str, peer: Peer) -> None:
        """A new process: what the one before had in use is nobody's any more."""
        self._pieces[node] = []
        cpu, allocator = peer._cpu, peer._allocator
        grant, allocate = cpu.grant, allocator.allocate

        def watched_grant(args: dict[str, Any]) -> None:
            grant(args)
            self.granted[node] = next(self._serial)

        def watched_allocate(size: int, alignment: int, name: str) -> Window | None:
            piece = allocate(size, alignment, name)
            if piece is not None:
                self._pieces[node] = [one for one in self._pieces[node] if not one[1].revoked]
                self._pieces[node].append((next(self._serial), piece))
            return piece

        vars(cpu)["grant"] = watched_grant
        vars(allocator)["allocate"] = watched_allocate

    def follow_endpoint(self, controller: EndpointController, function_end: int) -> None:
        """A new endpoint controller, whose function has its memory below ``function_end``."""
        self._vntb = controller.vntb
        self._function_end = function_end

    def forget(self, node: str) -> None:
        """The process that had memory in use is gone."""
        self._pieces[node] = []

    def judge(self, node: str, addr: int, data: bytes, granted: int, *, is_late: bool) -> None:
        """``node`` stores ``data`` at ``addr`` of the other, decided under grants of that moment.

        Raises:
            AssertionError: that is live memory of a later moment, or no way to ring a doorbell.
        """
        self.stores += 1
        self.late += is_late
        for handed_out, piece in self._pieces["ep" if node == "rc" else "rc"]:
            if piece.revoked or not (piece.span.base < addr + len(data) and addr < piece.span.end):
                continue
            assert handed_out < granted, (
                f"{node}: stale store of {len(data)} at {addr:#x} reached {piece.name}"
            )
        if node == "rc" and self._vntb is not None and addr < self._function_end:
            self._judge_ring(self._vntb, addr, data)
            self.rings += 1
            self.late_rings += is_late

    @staticmethod
    def _judge_ring(vntb: Vntb, addr: int, data: bytes) -> None:
        slot, rest = divmod(addr - vntb.doorbells.span.base, DB_ENTRY_SIZE)
        what = f"rc: store of {data.hex()} at {addr:#x}"
        assert not rest, f"{what}: no doorbell word"
        assert FIRST_DB_SLOT <= slot < MAX_DOORBELLS, f"{what}: no doorbell"
        assert data == (slot + 1).to_bytes(DB_ENTRY_SIZE, "little"), f"{what}: no ring"
