"""Registers as data: one table for each block, which both sides of a link read and write through.

A table is checked when it is built, so that a wrong offset is an import error and not a
wrong store at run time.  Values and access rules live in ``file.py``; nothing here has state.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property

WIDTHS = (1, 2, 4, 8)
"""Register widths in bytes that a bus can store whole."""


class Access(Enum):
    """What a bus access may do to a bit; the device itself may always change it."""

    RO = "RO"
    """Reads give the value, writes are ignored."""
    RW = "RW"
    """Reads give the value, writes replace it."""
    WO = "WO"
    """Reads give 0; a write is seen by the hook only and is not kept."""
    RW1C = "RW1C"
    """Reads give the value, a 1 clears the bit, a 0 leaves it."""
    RSVD = "RSVD"
    """Not implemented: a whole register reads the fill value; a bit in a register reads 0."""


RO, RW, WO, RW1C, RSVD = Access.RO, Access.RW, Access.WO, Access.RW1C, Access.RSVD


@dataclass(frozen=True, slots=True)
class Field:
    """``width`` bits of a register from bit ``lsb`` up.

    Attributes:
        reset: value of the field (not shifted) after reset.

    Raises:
        ValueError: lsb is negative, width is below 1, or reset needs more than width bits.
    """

    name: str
    lsb: int
    width: int
    access: Access
    reset: int = 0

    def __post_init__(self) -> None:
        if self.lsb < 0 or self.width < 1:
            raise ValueError(f"field {self.name}: lsb {self.lsb}, width {self.width}")
        if self.reset < 0 or self.reset >> self.width:
            raise ValueError(f"field {self.name}: reset {self.reset:#x} needs more than {self.width} bits")

    @property
    def mask(self) -> int:
        """The field's bits, in place."""
        return ((1 << self.width) - 1) << self.lsb

    def extract(self, value: int) -> int:
        """The field's value out of a register value."""
        return (value & self.mask) >> self.lsb

    def insert(self, value: int, content: int) -> int:
        """A register value with this field replaced by ``content``.

        Raises:
            ValueError: content does not fit the field.
        """
        if content < 0 or content >> self.width:
            raise ValueError(f"field {self.name}: {content:#x} needs more than {self.width} bits")
        return (value & ~self.mask) | (content << self.lsb)


@dataclass(frozen=True, slots=True)
class Register:
    """One register, or an array of ``count`` of them ``stride`` bytes apart.

    Attributes:
        offset: first byte, from the start of the block; a multiple of width_bytes.
        body: the access of all bits, or the fields (bits outside every field are reserved).
        width_bytes: 1, 2, 4 or 8; little-endian.
        reset: value after reset; must stay 0 when the fields carry the resets.
        stride: bytes from one element to the next; 0 means width_bytes.

    Raises:
        ValueError: any of the above does not hold, or fields overlap or leave the register.
    """

    offset: int
    name: str
    body: Access | tuple[Field, ...]
    width_bytes: int = 4
    reset: int = 0
    count: int = 1
    stride: int = 0

    def __post_init__(self) -> None:
        what = f"register {self.name} at {self.offset:#x}"
        if self.width_bytes not in WIDTHS:
            raise ValueError(f"{what}: width {self.width_bytes} is none of {WIDTHS}")
        if self.offset < 0 or self.offset % self.width_bytes or self.stride % self.width_bytes:
            raise ValueError(f"{what}: not aligned to {self.width_bytes}, or stride {self.stride:#x} is not")
        if self.count < 1 or (self.stride and self.stride < self.width_bytes):
            raise ValueError(f"{what}: count {self.count}, stride {self.stride:#x}")
        if self.reset < 0 or self.reset >> self.bits:
            raise ValueError(f"{what}: reset {self.reset:#x} needs more than {self.bits} bits")
        if self.fields and self.reset:
            raise ValueError(f"{what}: resets belong to the fields, or to the register, not to both")
        taken = 0
        for part in self.fields:
            if part.lsb + part.width > self.bits:
                raise ValueError(f"{what}: field {part.name} ends above bit {self.bits - 1}")
            if part.mask & taken:
                raise ValueError(f"{what}: field {part.name} overlaps another")
            taken |= part.mask
        if len({part.name for part in self.fields}) != len(self.fields):
            raise ValueError(f"{what}: two fields of one name")

    @property
    def bits(self) -> int:
        """Width in bits."""
        return self.width_bytes * 8

    @property
    def fields(self) -> tuple[Field, ...]:
        """The fields; empty when one access rules the whole register."""
        return () if isinstance(self.body, Access) else self.body

    @property
    def reset_value(self) -> int:
        """Value of the register after reset."""
        value = self.reset
        for part in self.fields:
            value |= part.reset << part.lsb
        return value

    @property
    def is_reserved(self) -> bool:
        """True when the whole register is declared as a gap."""
        return self.body is Access.RSVD

    def mask(self, access: Access) -> int:
        """The bits that have ``access``; bits in no field are RSVD."""
        whole = (1 << self.bits) - 1
        if isinstance(self.body, Access):
            return whole if self.body is access else 0
        if access is Access.RSVD:
            return whole & ~sum(part.mask for part in self.body if part.access is not Access.RSVD)
        return sum(part.mask for part in self.body if part.access is access)

    def field(self, name: str) -> Field:
        """The field called ``name``.

        Raises:
            KeyError: no such field.
        """
        for part in self.fields:
            if part.name == name:
                return part
        raise KeyError(f"register {self.name} has no field {name}")

    def element_offset(self, index: int) -> int:
        """First byte of element ``index``, from the start of the block.

        Raises:
            IndexError: index is outside 0..count-1.
        """
        if not 0 <= index < self.count:
            raise IndexError(f"{self.name}[{index}]: allowed 0..{self.count - 1}")
        return self.offset + index * (self.stride or self.width_bytes)


@dataclass(frozen=True, slots=True)
class Element:
    """One register of a block, arrays taken apart: bytes ``start`` to ``end`` (exclusive)."""

    start: int
    end: int
    register: Register
    index: int


@dataclass(frozen=True)
class RegisterBlock:
    """A named table of registers.

    Attributes:
        size: bytes; offsets at and beyond it do not exist.
        source: where the offsets come from.
        elements: every register with arrays taken apart, in ascending order.

    Raises:
        ValueError: two registers share a name or a byte, or one leaves the block.
    """

    name: str
    size: int
    source: str
    registers: tuple[Register, ...]
    elements: tuple[Element, ...] = field(init=False, repr=False, compare=False)
    _by_name: dict[str, Register] = field(init=False, repr=False, compare=False)
    _by_start: dict[int, Element] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by_name: dict[str, Register] = {}
        elements: list[Element] = []
        for register in self.registers:
            if by_name.setdefault(register.name, register) is not register:
                raise ValueError(f"{self.name}: two registers named {register.name}")
            for index in range(register.count):
                start = register.element_offset(index)
                elements.append(Element(start, start + register.width_bytes, register, index))
        elements.sort(key=lambda element: element.start)
        end = 0
        for element in elements:
            if element.start < end:
                raise ValueError(f"{self.name}: {element.register.name} overlaps at {element.start:#x}")
            end = element.end
        if end > self.size:
            last = elements[-1].register.name
            raise ValueError(f"{self.name}: {last} ends at {end:#x}, beyond {self.size:#x}")
        object.__setattr__(self, "elements", tuple(elements))
        object.__setattr__(self, "_by_name", by_name)
        object.__setattr__(self, "_by_start", {element.start: element for element in elements})

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def register(self, name: str) -> Register:
        """The register called ``name``.

        Raises:
            KeyError: no such register.
        """
        try:
            return self._by_name[name]
        except KeyError:
            raise KeyError(f"{self.name} has no register {name}") from None

    def offset(self, name: str, index: int = 0) -> int:
        """First byte of a register, from the start of the block.

        Raises:
            KeyError: no such register.
            IndexError: no such element of the array.
        """
        return self.register(name).element_offset(index)

    @cached_property
    def masks(self) -> dict[Access, bytes]:
        """Of RW, RW1C and WO the bits that have it, of RSVD the bytes of no register or a reserved one.

        A byte for each byte of the block, little-endian; made once, however many files the block has.
        """
        found = {access: bytearray(self.size) for access in (Access.RW, Access.RW1C, Access.WO)}
        absent = bytearray(b"\xff" * self.size)
        for element in self.elements:
            if element.register.is_reserved:
                continue
            width = element.end - element.start
            absent[element.start : element.end] = bytes(width)
            for access, masks in found.items():
                mask = element.register.mask(access)
                masks[element.start : element.end] = mask.to_bytes(width, "little")
        return {Access.RSVD: bytes(absent)} | {access: bytes(masks) for access, masks in found.items()}

    def at(self, offset: int) -> Element | None:
        """The register that holds the byte at ``offset``; None in a gap or outside."""
        for width in WIDTHS:
            element = self._by_start.get(offset & ~(width - 1))
            if element is not None and offset < element.end:
                return element
        return None

    def to_text(self) -> str:
        """The table for people and golden files: name, offset, width in bytes, access, reset."""
        return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        yield f"{self.name} size {self.size:#x}"
        for register in self.registers:
            shape = f"[{register.count}]+{register.stride or register.width_bytes:#x}"
            name = register.name + (shape if register.count > 1 else "")
            access = register.body.value if isinstance(register.body, Access) else "fields"
            yield f"  {name} {register.offset:#05x} {register.width_bytes} {access} {register.reset_value:#x}"
            for part in register.fields:
                span = f"[{part.lsb + part.width - 1}:{part.lsb}]"
                yield f"    .{part.name} {span} {part.access.value} {part.reset:#x}"
