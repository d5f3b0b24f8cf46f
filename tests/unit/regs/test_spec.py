from __future__ import annotations

import pytest

from ntbnet.regs.spec import RO, RSVD, RW, RW1C, WO, Access, Field, Register, RegisterBlock


def block(*registers: Register, size: int = 0x20) -> RegisterBlock:
    return RegisterBlock(name="block", size=size, source="test", registers=registers)


def test_reset_wider_than_its_register_is_refused() -> None:
    with pytest.raises(ValueError, match="needs more than 16 bits"):
        Register(0x0, "A", RW, width_bytes=2, reset=0x10000)


def test_reset_wider_than_its_field_is_refused() -> None:
    with pytest.raises(ValueError, match="needs more than 3 bits"):
        Field("F", 0, 3, RW, reset=8)


def test_misaligned_register_is_refused() -> None:
    with pytest.raises(ValueError, match="not aligned to 4"):
        Register(0x2, "A", RW)


def test_misaligned_stride_is_refused() -> None:
    with pytest.raises(ValueError, match="stride 0x6"):
        Register(0x0, "A", RW, count=2, stride=6)


@pytest.mark.parametrize("width", [0, 3, 16])
def test_width_that_no_bus_stores_whole_is_refused(width: int) -> None:
    with pytest.raises(ValueError, match="width"):
        Register(0x0, "A", RW, width_bytes=width)


def test_overlapping_fields_are_refused() -> None:
    with pytest.raises(ValueError, match="field HIGH overlaps"):
        Register(0x0, "A", (Field("LOW", 0, 5, RW), Field("HIGH", 4, 4, RW)))


def test_field_that_leaves_its_register_is_refused() -> None:
    with pytest.raises(ValueError, match="ends above bit 15"):
        Register(0x0, "A", (Field("F", 12, 5, RW),), width_bytes=2)


def test_overlapping_registers_are_refused() -> None:
    with pytest.raises(ValueError, match="overlaps at 0x4"):
        block(Register(0x0, "WIDE", RW, width_bytes=8), Register(0x4, "B", RW))


def test_array_elements_overlap_like_registers() -> None:
    with pytest.raises(ValueError, match="overlaps at 0x8"):
        block(Register(0x0, "LIST", RW, count=2, stride=8), Register(0x8, "B", RW))


def test_arrays_may_interleave() -> None:
    table = block(Register(0x0, "EVEN", RW, count=2, stride=8), Register(0x4, "ODD", RW, count=2, stride=8))

    assert table.offset("EVEN", 1) == 8
    assert table.offset("ODD", 1) == 12


def test_register_outside_the_block_is_refused() -> None:
    with pytest.raises(ValueError, match="beyond 0x20"):
        block(Register(0x1C, "LIST", RW, count=2))


def test_two_registers_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two registers named A"):
        block(Register(0x0, "A", RW), Register(0x4, "A", RW))


def test_lookup_by_offset_finds_the_register_of_every_byte() -> None:
    table = block(Register(0x2, "HALF", RW, width_bytes=2), Register(0x8, "LIST", RW, count=2, width_bytes=8))

    found = {offset: table.at(offset) for offset in range(0x20)}

    named = {at: (e.register.name, e.index) for at, e in found.items() if e is not None}
    expected = {2: ("HALF", 0), 3: ("HALF", 0)}
    expected |= {at: ("LIST", (at - 8) // 8) for at in range(8, 24)}
    assert named == expected


def test_unknown_name_and_index_are_refused() -> None:
    table = block(Register(0x0, "LIST", RW, count=2))

    with pytest.raises(KeyError, match="no register NONE"):
        table.offset("NONE")
    with pytest.raises(IndexError, match=r"allowed 0\.\.1"):
        table.offset("LIST", 2)
    assert "LIST" in table
    assert "NONE" not in table


def test_bits_in_no_field_are_reserved() -> None:
    register = Register(0x0, "A", (Field("F", 4, 4, RW1C), Field("GAP", 8, 8, RSVD)), width_bytes=2)

    masks = {access: register.mask(access) for access in Access}

    assert masks == {RO: 0, RW: 0, WO: 0, RW1C: 0xF0, RSVD: 0xFF0F}


def test_reset_of_a_register_is_made_of_its_fields() -> None:
    register = Register(0x0, "A", (Field("LOW", 0, 4, RO, reset=3), Field("HIGH", 28, 4, RW, reset=0xA)))

    assert register.reset_value == 0xA0000003


def test_insert_then_extract_is_identity_and_checks_the_width() -> None:
    field = Field("F", 5, 3, RW)

    assert field.insert(0xFFFF, 2) == 0xFF5F
    assert field.extract(0xFF5F) == 2
    with pytest.raises(ValueError, match="needs more than 3 bits"):
        field.insert(0, 8)
