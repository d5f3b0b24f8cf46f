"""Values of a register block, and what a bus access of any width does to them.

The rules of ``spec.Access`` are applied here and nowhere else.  The values live in a writable
buffer, which may be memory shared with another process: each aligned 1, 2, 4 or 8 byte piece
of an access is stored whole, and bytes outside the access are never stored, so that the two
16-bit halves of one dword can have different writers.  RW1C and registers with fields are read,
changed and stored, which is safe for one writer only.

Words are little-endian because the machine is; a big-endian machine would need byte swaps here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ntbnet.regs.spec import Access, Element, Field, Register, RegisterBlock

WriteHook = Callable[[int, int, int], None]
"""Called as hook(index, old, new) after a write, changed or not; ``new`` has written WO bits."""


@dataclass(frozen=True, slots=True)
class Change:
    """A register that a write changed; a written WO register always counts as changed."""

    name: str
    index: int
    old: int
    new: int


@dataclass(frozen=True, slots=True)
class _Piece:
    """One aligned piece of an access: where it is stored, and the masks that rule it."""

    view: memoryview[int]
    slot: int
    start: int
    width: int
    rw: int
    w1c: int
    wo: int
    absent: int
    elements: tuple[Element, ...]


class RegisterFile:
    """A block's values with bus access (read, write) and device access (get, set).

    Attributes:
        unmapped_reads: reads that touched a byte of no register, or of a reserved one.
        dropped_writes: writes that did; their other bytes were still written.
    """

    def __init__(
        self, block: RegisterBlock, memory: bytearray | memoryview | None = None, *, fill: int = 0
    ) -> None:
        """Put ``block`` on ``memory``, or on memory of its own in reset state.

        Args:
            block: the table; shared with every other file of that block.
            memory: at least block.size writable bytes, 8-byte aligned when shared; the caller
                owns it and its content is kept (an attacher must not reset a live block).
            fill: byte that unmapped offsets read as, 0..255.

        Raises:
            ValueError: memory is too short or read-only, or fill is no byte.
        """
        if not 0 <= fill <= 0xFF:
            raise ValueError(f"fill {fill:#x}: allowed 0..0xff")
        view = memoryview(bytearray(block.size) if memory is None else memory).cast("B")
        if view.readonly or len(view) < block.size:
            raise ValueError(f"{block.name} needs {block.size} writable bytes, got {len(view)}")
        self.block = block
        self._fill = fill
        self._views: dict[int, memoryview[int]] = {
            1: view[: block.size],
            2: view[: block.size & -2].cast("H"),
            4: view[: block.size & -4].cast("I"),
            8: view[: block.size & -8].cast("Q"),
        }
        self._with_wo = {register.name for register in block.registers if register.mask(Access.WO)}
        self._pieces: dict[tuple[int, int], tuple[_Piece, ...]] = {}
        self._places: dict[tuple[str, int], tuple[memoryview[int], int]] = {}
        self._fields: dict[tuple[str, str], Field] = {}
        self._hooks: dict[str, WriteHook] = {}
        self.unmapped_reads = 0
        self.dropped_writes = 0
        if memory is None:
            self.reset()

    def on_write(self, name: str, hook: WriteHook) -> None:
        """Call ``hook`` after every bus write that touches register ``name``; one for each name.

        Raises:
            KeyError: no such register.
        """
        self._hooks[self.block.register(name).name] = hook

    def read(self, offset: int, size: int) -> bytes:
        """What a bus read of ``size`` bytes at ``offset`` gives; never fails.

        Raises:
            ValueError: offset is negative or size is below 1.
        """
        if offset < 0 or size < 1:
            raise ValueError(f"no read: offset {offset}, size {size}")
        data = bytearray()
        holes = offset + size > self.block.size
        for piece in self._cut(offset, size):
            value = piece.view[piece.slot] & ~piece.wo & ~piece.absent
            if piece.absent:
                holes = True
                value |= piece.absent & int.from_bytes(bytes([self._fill]) * piece.width, "little")
            data += value.to_bytes(piece.width, "little")
        if holes:
            self.unmapped_reads += 1
            data += bytes([self._fill]) * (size - len(data))
        return bytes(data)

    def write(
        self, offset: int, data: bytes | bytearray | memoryview, enables: int | None = None
    ) -> list[Change]:
        """Do a bus write; bytes of no register are dropped and counted.

        Args:
            offset: first byte, from the start of the block.
            data: 1 or more bytes.
            enables: bit n lets byte n of ``data`` be written; None enables all.

        Returns:
            The registers that changed, in ascending order.

        Raises:
            ValueError: offset is negative or data is empty.
        """
        if offset < 0 or not len(data):
            raise ValueError(f"no write: offset {offset}, {len(data)} bytes")
        if enables is None:
            return self._write_run(offset, data)
        changes: list[Change] = []
        start = 0
        while start < len(data):
            end = start
            while end < len(data) and enables >> end & 1:
                end += 1
            if end > start:
                changes += self._write_run(offset + start, data[start:end])
            start = end + 1
        return changes

    def get(self, name: str, index: int = 0) -> int:
        """Value of a register as the device sees it, access rules aside."""
        place = self._places.get((name, index)) or self._find(name, index)
        return place[0][place[1]]

    def _find(self, name: str, index: int) -> tuple[memoryview[int], int]:
        """Where an element is: view and slot; looked for once."""
        register = self.block.register(name)
        width = register.width_bytes
        place = self._views[width], register.element_offset(index) // width
        self._places[name, index] = place
        return place

    def set(self, name: str, value: int, index: int = 0) -> None:
        """Store a register as the device does: access rules aside, no hook.

        Raises:
            ValueError: the value needs more bits than the register has.
        """
        register = self.block.register(name)
        if value < 0 or value >> register.bits:
            raise ValueError(f"{name}: {value:#x} needs more than {register.bits} bits")
        self._views[register.width_bytes][register.element_offset(index) // register.width_bytes] = value

    def get_field(self, name: str, field: str, index: int = 0) -> int:
        """Value of one field of a register."""
        part = self._fields.get((name, field))
        if part is None:
            part = self._fields[name, field] = self.block.register(name).field(field)
        return part.extract(self.get(name, index))

    def set_field(self, name: str, field: str, value: int, index: int = 0) -> None:
        """Replace one field of a register, as the device does.

        Raises:
            ValueError: the value does not fit the field.
        """
        part = self.block.register(name).field(field)
        self.set(name, part.insert(self.get(name, index), value), index)

    def reset(self) -> None:
        """Give every register its reset value and forget the counts; hooks stay."""
        for register in self.block.registers:
            for index in range(register.count):
                self.set(register.name, register.reset_value, index)
        self.unmapped_reads = 0
        self.dropped_writes = 0

    def reset_bus_written(self) -> None:
        """Reset only the bits that a bus write can change, as a hot reset does."""
        for register in self.block.registers:
            writable = register.mask(Access.RW) | register.mask(Access.RW1C)
            for index in range(register.count):
                kept = self.get(register.name, index) & ~writable
                self.set(register.name, kept | register.reset_value & writable, index)

    def snapshot(self) -> dict[str, int | tuple[int, ...]]:
        """Values by register name; arrays as tuples."""
        return {register.name: self._values(register) for register in self.block.registers}

    def _values(self, register: Register) -> int | tuple[int, ...]:
        if register.count == 1:
            return self.get(register.name)
        return tuple(self.get(register.name, index) for index in range(register.count))

    def _write_run(self, offset: int, data: bytes | bytearray | memoryview) -> list[Change]:
        dropped = offset + len(data) > self.block.size
        touched: list[Change] = []
        for piece in self._cut(offset, len(data)):
            dropped |= piece.absent != 0
            at = piece.start - offset
            self._write_piece(piece, int.from_bytes(data[at : at + piece.width], "little"), touched)
        if dropped:
            self.dropped_writes += 1
        for change in touched:
            hook = self._hooks.get(change.name)
            if hook is not None:
                hook(change.index, change.old, change.new)
        return [change for change in touched if change.old != change.new or change.name in self._with_wo]

    def _write_piece(self, piece: _Piece, value: int, touched: list[Change]) -> None:
        before = [self._load(element) for element in piece.elements]
        clear = piece.w1c & value
        new = piece.view[piece.slot] & ~piece.rw & ~clear | value & piece.rw
        if piece.rw or clear:
            piece.view[piece.slot] = new
        seen = new & ~piece.wo | value & piece.wo
        start, end = piece.start, piece.start + piece.width
        for element, old in zip(piece.elements, before, strict=True):
            first, last = max(start, element.start), min(end, element.end)
            written = ((1 << 8 * (last - first)) - 1) << 8 * (first - element.start)
            shift = 8 * (element.start - start)
            placed = seen >> shift if shift >= 0 else seen << -shift
            merged = old & ~written | placed & written
            touched.append(Change(element.register.name, element.index, old, merged))

    def _load(self, element: Element) -> int:
        width = element.register.width_bytes
        return self._views[width][element.start // width]

    def _cut(self, offset: int, size: int) -> tuple[_Piece, ...]:
        """The part of an access inside the block, in naturally aligned 8, 4, 2 and 1 byte pieces."""
        pieces = self._pieces.get((offset, size))
        if pieces is None:
            spans = _aligned_spans(offset, min(offset + size, self.block.size))
            pieces = tuple(self._piece(start, width) for start, width in spans)
            if size <= 8 and pieces:
                self._pieces[offset, size] = pieces
        return pieces

    def _piece(self, start: int, width: int) -> _Piece:
        held = {self.block.at(offset): None for offset in range(start, start + width)}
        return _Piece(
            view=self._views[width],
            slot=start // width,
            start=start,
            width=width,
            rw=self._mask(Access.RW, start, width),
            w1c=self._mask(Access.RW1C, start, width),
            wo=self._mask(Access.WO, start, width),
            absent=self._mask(Access.RSVD, start, width),
            elements=tuple(e for e in held if e is not None and not e.register.is_reserved),
        )

    def _mask(self, access: Access, start: int, width: int) -> int:
        return int.from_bytes(self.block.masks[access][start : start + width], "little")


def _aligned_spans(offset: int, end: int) -> Iterator[tuple[int, int]]:
    """Cut ``offset`` to ``end`` (exclusive) into naturally aligned 8, 4, 2 and 1 byte pieces."""
    while offset < end:
        width = 8
        while offset & (width - 1) or offset + width > end:
            width >>= 1
        yield offset, width
        offset += width
