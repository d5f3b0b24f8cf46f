"""Shared memory as a device sees it: windows, and the one choke point for stores.

Every store into a node's DRAM, by whichever process, goes through ``Window.store``,
``store_u16``, ``store_u32`` or ``zero``; each call carries a name for what it stores, so that
bounds, revocation, tracing and crash points live in one place.  Aligned 16- and 32-bit words
are stored whole (a reader never sees half of one); an unaligned word, as in rings whose frame
size is no multiple of four, is stored as bytes.  Byte order is little-endian; other machines
are refused at import.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from ntbnet.address import Span
from ntbnet.errors import WindowLost

Buffer: TypeAlias = bytes | bytearray | memoryview

if sys.byteorder != "little":  # pragma: no cover - the fabric relies on x86-64 layout and store order
    raise ImportError("ntbnet needs a little-endian machine: shared words have the kernel's layout")


class Window:
    """A named, bounds-checked stretch of memory at CPU address ``span.base``.

    Args:
        mem: writable bytes that back the window, C-contiguous, a multiple of 4 long.
        base: CPU address of ``mem[0]``.
        name: appears in error messages and, later, in traces.

    Every ``offset`` is in bytes from the window's start.  An access that leaves the window is a
    caller's bug (ValueError): whoever takes offsets from a peer checks them first.  After
    ``revoke`` each access raises WindowLost.
    """

    __slots__ = ("_start", "_u8", "_u16", "_u32", "name", "revoked", "size", "span")

    def __init__(self, mem: memoryview, base: int, name: str) -> None:
        self._u8 = mem.cast("B") if mem.format != "B" else mem
        self._u16 = self._u8.cast("H")
        self._u32 = self._u8.cast("I")
        self._start = 0
        self.size = len(self._u8)
        self.span = Span(base, self.size)
        self.name = name
        self.revoked = False

    def sub(self, offset: int, size: int, name: str) -> Window:
        """A window over ``size`` bytes from ``offset``; it shares the memory, not the revocation."""
        self._check(offset, size)
        part = Window.__new__(Window)
        part._u8, part._u16, part._u32 = self._u8, self._u16, self._u32
        part._start = self._start + offset
        part.size = size
        part.span = Span(self.span.base + offset, size)
        part.name = name
        part.revoked = False
        return part

    def revoke(self) -> None:
        """End the window: every later access raises WindowLost."""
        self.revoked = True

    def _check(self, offset: int, length: int) -> int:
        if self.revoked:
            raise WindowLost(f"window {self.name} was revoked")
        if offset < 0 or length < 0 or offset + length > self.size:
            raise ValueError(
                f"{self.name}: access [{offset:#x}, {offset + length:#x}) outside [0, {self.size:#x})"
            )
        return self._start + offset

    def store(self, what: str, offset: int, data: Buffer) -> None:
        """Store ``data`` at ``offset``; 2 and 4 aligned bytes as one word."""
        length = len(data)
        # the check is written out where each frame passes
        if self.revoked or offset < 0 or offset + length > self.size:
            self._check(offset, length)
        at = self._start + offset
        if length == 4 and not at & 3:
            self._u32[at >> 2] = int.from_bytes(data, "little")
        elif length == 2 and not at & 1:
            self._u16[at >> 1] = int.from_bytes(data, "little")
        else:
            self._u8[at : at + length] = data

    def store_u16(self, what: str, offset: int, value: int) -> None:
        """Store a 16-bit word (0..0xFFFF); whole when ``offset`` is even."""
        at = self._check(offset, 2)
        if at & 1:
            self._u8[at : at + 2] = value.to_bytes(2, "little")
        else:
            self._u16[at >> 1] = value

    def store_u32(self, what: str, offset: int, value: int) -> None:
        """Store a 32-bit word (0..0xFFFFFFFF); whole when ``offset`` is a multiple of 4."""
        if self.revoked or offset < 0 or offset + 4 > self.size:
            self._check(offset, 4)
        at = self._start + offset
        if at & 3:
            self._u8[at : at + 4] = value.to_bytes(4, "little")
        else:
            self._u32[at >> 2] = value

    def zero(self, what: str, offset: int = 0, length: int | None = None) -> None:
        """Store zeros over ``length`` bytes (to the end when None)."""
        length = self.size - offset if length is None else length
        at = self._check(offset, length)
        self._u8[at : at + length] = bytes(length)

    def load_u16(self, offset: int) -> int:
        """The 16-bit word at ``offset``, read once."""
        at = self._check(offset, 2)
        return int.from_bytes(self._u8[at : at + 2], "little") if at & 1 else self._u16[at >> 1]

    def load_u32(self, offset: int) -> int:
        """The 32-bit word at ``offset``, read once."""
        if self.revoked or offset < 0 or offset + 4 > self.size:
            self._check(offset, 4)
        at = self._start + offset
        return int.from_bytes(self._u8[at : at + 4], "little") if at & 3 else self._u32[at >> 2]

    def load(self, offset: int, length: int) -> bytes:
        """A copy of ``length`` bytes from ``offset``."""
        at = self._check(offset, length)
        return bytes(self._u8[at : at + length])

    def view(self, offset: int, length: int) -> memoryview:
        """A read-only view of ``length`` bytes from ``offset``; valid until the window's memory is reused."""
        at = self._check(offset, length)
        return self._u8[at : at + length].toreadonly()

    def room(self, what: str, offset: int, length: int) -> memoryview:
        """``length`` writable bytes from ``offset``, for somebody else's copy; to be filled at once.

        ``what`` names the loan, not a store: nothing is stored yet when this returns. Whoever is given
        it may not keep it beyond the step: nothing revokes it.
        """
        at = self._check(offset, length)
        return self._u8[at : at + length]


_watchers: list[tuple[Callable[[str], None], Callable[[str], None]]] = []
"""Who watches, if anybody: one."""
_STORES = {name: Window.__dict__[name] for name in ("store", "store_u16", "store_u32", "zero", "room")}


def watch_stores(before: Callable[[str], None], after: Callable[[str], None]) -> None:
    """Have every store of this process, to any window, call ``before`` and ``after`` with its name.

    Until ``unwatch_stores``; a process that is not watched stores as directly as ever.
    """
    for name, bare in _STORES.items():
        setattr(Window, name, _watched(bare, before, after))
    _watchers[:] = [(before, after)]


def unwatch_stores() -> None:
    """Undo ``watch_stores``. Idempotent."""
    for name, bare in _STORES.items():
        setattr(Window, name, bare)
    _watchers.clear()


def are_stores_watched() -> bool:
    """True between ``watch_stores`` and ``unwatch_stores``."""
    return bool(_watchers)


def store_elsewhere(what: str, store: Callable[..., object], *args: Any) -> None:
    """``store(*args)``, a named store to no window (to registers of another process), watched as such."""
    for before, _ in _watchers:
        before(what)
    store(*args)
    for _, after in _watchers:
        after(what)


def _watched(
    bare: Callable[..., Any], before: Callable[[str], None], after: Callable[[str], None]
) -> Callable[..., Any]:
    def store(window: Window, what: str, *rest: Any) -> Any:
        before(what)
        result = bare(window, what, *rest)
        after(what)
        return result

    return store


class AddressMap:
    """What lies where in one address space of a node: RAM (a Window) or MMIO (its owner's name).

    Raises:
        ValueError: two ranges overlap.
    """

    def __init__(self, ranges: Sequence[tuple[Span, Window | str]]) -> None:
        self._ranges = sorted(ranges, key=lambda entry: entry[0].base)
        for (a, _), (b, _) in zip(self._ranges, self._ranges[1:], strict=False):
            if a.overlaps(b):
                raise ValueError(f"address ranges overlap: {a} and {b}")

    def find(self, addr: int, length: int) -> tuple[Window | str, int] | None:
        """Who holds all ``length`` bytes from ``addr``, and the offset inside; None on a miss (UR)."""
        for span, target in self._ranges:
            if span.base <= addr and addr + length <= span.base + span.size:
                return target, addr - span.base
        return None


class Allocator:
    """Hands out aligned pieces of one DRAM window, reusing freed ones as late as possible.

    Next-fit: the search goes on behind the last piece, so the receive buffers of consecutive
    link epochs are different pages while there is room for both.

    Args:
        window: what is handed out.
        first_offset: where the search begins.
        is_over: whether nobody stores in a link epoch any more; memory freed in an epoch is not
            handed out before that (see ``lease``). None: nobody else stores.

    Attributes:
        epoch: link epoch that memory in use may be stored to in; 0 for none.
    """

    def __init__(
        self, window: Window, first_offset: int = 0, is_over: Callable[[int], bool] | None = None
    ) -> None:
        self._window = window
        self._next = first_offset % window.size
        self._used: dict[int, int] = {}
        self._is_over = is_over or (lambda _: True)
        self._kept: dict[int, int] = {}
        """Offset -> epoch of freed pieces that somebody may still store to; they stay in ``_used``."""
        self.epoch = 0

    def allocate(self, size: int, alignment: int, name: str) -> Window | None:
        """``size`` zeroed bytes at a multiple of ``alignment`` (a power of two, of the CPU address).

        Returns:
            The piece, or None when no gap is large enough (the kernel's -ENOMEM).
        """
        self._let_go()
        for start in (self._next, 0):
            offset = self._fit(start, size, alignment)
            if offset is not None:
                self._used[offset] = size
                self._next = offset + size
                piece = self._window.sub(offset, size, name)
                piece.zero("memory.allocated")
                return piece
        return None

    def free(self, piece: Window) -> None:
        """Give a piece back; every access through it raises WindowLost from now on."""
        offset = piece.span.base - self._window.span.base
        if self._is_over(self.epoch):
            self._used.pop(offset, None)
        elif offset in self._used:
            self._kept[offset] = self.epoch
        piece.revoke()

    def _let_go(self) -> None:
        for offset in [offset for offset, epoch in self._kept.items() if self._is_over(epoch)]:
            del self._kept[offset], self._used[offset]

    def _fit(self, start: int, size: int, alignment: int) -> int | None:
        base = self._window.span.base
        offset = ((base + start + alignment - 1) & ~(alignment - 1)) - base
        for used_offset, used_size in sorted(self._used.items()):
            if used_offset + used_size <= offset:
                continue
            if offset + size <= used_offset:
                break
            offset = ((base + used_offset + used_size + alignment - 1) & ~(alignment - 1)) - base
        return offset if offset + size <= self._window.size else None
