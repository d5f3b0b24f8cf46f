from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntbnet.regs.file import RegisterFile
from ntbnet.regs.spec import RO, RSVD, RW, RW1C, WO, Field, Register, RegisterBlock

BLOCK = RegisterBlock(
    name="block",
    size=0x30,
    source="test",
    registers=(
        Register(0x00, "PLAIN", RW, reset=0x11223344),
        Register(0x04, "STATUS", RW1C, reset=0xF0F0F0F0),
        Register(0x08, "LOW_HALF", RW, width_bytes=2),
        Register(0x0A, "HIGH_HALF", RW, width_bytes=2),
        Register(0x0C, "CONST", RO, reset=0xCAFE),
        Register(0x10, "WIDE", RW, width_bytes=8),
        Register(0x18, "KICK", WO),
        Register(0x1C, "GAP", RSVD, reset=0x55),
        Register(0x20, "LIST", RW, count=2),
        Register(
            0x28, "MIXED", (Field("RW", 0, 4, RW), Field("RO", 4, 4, RO, 9), Field("W1C", 8, 8, RW1C, 0xFF))
        ),
    ),
)


def word(value: int, size: int = 4) -> bytes:
    return value.to_bytes(size, "little")


def test_reset_values_are_what_the_bus_reads() -> None:
    file = RegisterFile(BLOCK)

    assert file.read(0x00, 4) == word(0x11223344)
    assert file.read(0x0C, 4) == word(0xCAFE)
    assert file.read(0x28, 4) == word(0xFF90)


def test_partial_write_changes_only_its_bytes() -> None:
    file = RegisterFile(BLOCK)

    changes = file.write(0x02, b"\xaa")

    assert file.get("PLAIN") == 0x11AA3344
    assert [(c.name, c.index, c.old, c.new) for c in changes] == [("PLAIN", 0, 0x11223344, 0x11AA3344)]


@pytest.mark.covers("EDMA 167")
def test_two_byte_write_leaves_the_other_half_of_the_dword() -> None:
    file = RegisterFile(BLOCK)
    file.set("HIGH_HALF", 0xBEEF)

    file.write(0x08, word(0x1234, 2))

    assert file.get("HIGH_HALF") == 0xBEEF
    assert file.read(0x08, 4) == word(0xBEEF1234)


def test_one_write_over_two_registers_changes_both() -> None:
    file = RegisterFile(BLOCK)

    changes = file.write(0x08, word(0x00020001))

    assert [(c.name, c.new) for c in changes] == [("LOW_HALF", 1), ("HIGH_HALF", 2)]


def test_two_halves_make_a_64_bit_register() -> None:
    file = RegisterFile(BLOCK)

    file.write(0x10, word(0x89ABCDEF))
    file.write(0x14, word(0x01234567))

    assert file.get("WIDE") == 0x0123456789ABCDEF
    assert file.read(0x10, 8) == word(0x0123456789ABCDEF, 8)


def test_read_only_register_ignores_writes_but_its_hook_sees_them() -> None:
    file = RegisterFile(BLOCK)
    seen: list[tuple[int, int, int]] = []
    file.on_write("CONST", lambda *call: seen.append(call))

    changes = file.write(0x0C, word(0))

    assert file.get("CONST") == 0xCAFE
    assert changes == []
    assert seen == [(0, 0xCAFE, 0xCAFE)]
    assert file.dropped_writes == 0


def test_write_only_register_reads_zero_and_hands_the_value_to_its_hook() -> None:
    file = RegisterFile(BLOCK)
    seen: list[tuple[int, int, int]] = []
    file.on_write("KICK", lambda *call: seen.append(call))

    changes = file.write(0x18, word(7))

    assert file.read(0x18, 4) == word(0)
    assert seen == [(0, 0, 7)]
    assert [(c.name, c.new) for c in changes] == [("KICK", 7)]


def test_write_only_register_reports_even_a_write_of_zero() -> None:
    file = RegisterFile(BLOCK)

    assert [c.name for c in file.write(0x18, word(0))] == ["KICK"]


def test_write_only_register_hides_what_the_device_stored() -> None:
    file = RegisterFile(BLOCK)

    file.set("KICK", 9)

    assert file.get("KICK") == 9
    assert file.read(0x18, 4) == word(0)


def test_array_element_is_named_by_its_index() -> None:
    file = RegisterFile(BLOCK)

    changes = file.write(0x24, word(5))

    assert [(c.name, c.index, c.new) for c in changes] == [("LIST", 1, 5)]
    assert file.snapshot()["LIST"] == (0, 5)


def test_fields_of_one_register_follow_their_own_rules() -> None:
    file = RegisterFile(BLOCK)

    file.write(0x28, word(0x0F05))

    assert file.get_field("MIXED", "RW") == 5
    assert file.get_field("MIXED", "RO") == 9
    assert file.get_field("MIXED", "W1C") == 0xF0


@pytest.mark.parametrize(("offset", "size"), [(0x1C, 4), (0x2C, 4), (0x30, 8), (0x1000, 1)])
def test_access_to_no_register_reads_the_fill_and_is_counted(offset: int, size: int) -> None:
    file = RegisterFile(BLOCK, fill=0xFF)

    assert file.read(offset, size) == b"\xff" * size
    assert file.write(offset, b"\x01" * size) == []

    assert file.unmapped_reads == 1
    assert file.dropped_writes == 1
    assert file.get("GAP") == 0x55


def test_access_over_the_end_keeps_its_good_bytes_and_is_counted_once() -> None:
    file = RegisterFile(BLOCK)

    file.write(0x28, word(0x3, 8))

    assert file.get_field("MIXED", "RW") == 3
    assert file.dropped_writes == 1
    assert file.read(0x28, 8)[0] == 0x93
    assert file.unmapped_reads == 1


def test_byte_enables_choose_the_bytes() -> None:
    file = RegisterFile(BLOCK)

    file.write(0x00, word(0xAABBCCDD), enables=0b1001)

    assert file.get("PLAIN") == 0xAA2233DD


def test_write_without_enabled_bytes_changes_nothing_and_calls_no_hook() -> None:
    file = RegisterFile(BLOCK)
    seen: list[tuple[int, int, int]] = []
    file.on_write("PLAIN", lambda *call: seen.append(call))

    assert file.write(0x00, word(0), enables=0) == []
    assert seen == []
    assert file.get("PLAIN") == 0x11223344


def test_attaching_to_memory_does_not_reset_it() -> None:
    memory = bytearray(b"\x5a" * 0x30)

    file = RegisterFile(BLOCK, memoryview(memory))

    assert file.get("PLAIN") == 0x5A5A5A5A
    file.write(0x00, word(1))
    assert memory[:4] == word(1)


def test_memory_that_cannot_hold_the_block_is_refused() -> None:
    with pytest.raises(ValueError, match="needs 48 writable bytes"):
        RegisterFile(BLOCK, bytearray(0x2F))
    with pytest.raises(ValueError, match="needs 48 writable bytes"):
        RegisterFile(BLOCK, memoryview(bytes(0x30)))


def test_hook_for_no_register_is_refused() -> None:
    with pytest.raises(KeyError, match="no register PLIAN"):
        RegisterFile(BLOCK).on_write("PLIAN", print)


def test_device_value_that_does_not_fit_is_refused() -> None:
    file = RegisterFile(BLOCK)

    with pytest.raises(ValueError, match="needs more than 16 bits"):
        file.set("LOW_HALF", 0x10000)
    with pytest.raises(ValueError, match="needs more than 4 bits"):
        file.set_field("MIXED", "RW", 16)


def test_hot_reset_keeps_what_only_the_device_writes() -> None:
    file = RegisterFile(BLOCK)
    file.set("CONST", 0xBEEF)
    file.set_field("MIXED", "RO", 4)
    file.write(0x00, word(0))

    file.reset_bus_written()

    assert file.get("CONST") == 0xBEEF
    assert file.get_field("MIXED", "RO") == 4
    assert file.get("PLAIN") == 0x11223344


def test_negative_offset_and_empty_access_are_the_callers_bug() -> None:
    file = RegisterFile(BLOCK)

    with pytest.raises(ValueError, match="no read"):
        file.read(-1, 4)
    with pytest.raises(ValueError, match="no read"):
        file.read(0, 0)
    with pytest.raises(ValueError, match="no write"):
        file.write(0, b"")


@given(offset=st.integers(0, 0x34), data=st.binary(min_size=1, max_size=20))
def test_any_access_equals_the_same_access_byte_by_byte(offset: int, data: bytes) -> None:
    whole, bytewise = RegisterFile(BLOCK), RegisterFile(BLOCK)

    whole.write(offset, data)
    for position, value in enumerate(data):
        bytewise.write(offset + position, bytes([value]))

    assert whole.snapshot() == bytewise.snapshot()
    length = len(data)
    assert whole.read(offset, length) == b"".join(bytewise.read(offset + n, 1) for n in range(length))


@given(
    data=st.binary(min_size=0x30, max_size=0x30),
    offset=st.integers(0, 0x2F),
    value=st.binary(min_size=1, max_size=8),
    enables=st.integers(0, 0xFF),
)
def test_bytes_outside_the_enabled_ones_never_change(
    data: bytes, offset: int, value: bytes, enables: int
) -> None:
    memory = bytearray(data)
    file = RegisterFile(BLOCK, memory)

    file.write(offset, value, enables)

    written = {offset + n for n in range(len(value)) if enables >> n & 1}
    assert {at for at in range(0x30) if memory[at] != data[at]} <= written


@given(start=st.integers(0, 0xFFFFFFFF), written=st.integers(0, 0xFFFFFFFF))
def test_write_one_to_clear_never_sets_a_bit(start: int, written: int) -> None:
    file = RegisterFile(BLOCK)
    file.set("STATUS", start)

    file.write(0x04, word(written))

    assert file.get("STATUS") == start & ~written
