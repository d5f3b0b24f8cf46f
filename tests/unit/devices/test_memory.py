from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntbnet.address import Span
from ntbnet.devices.memory import AddressMap, Allocator, Window
from ntbnet.errors import WindowLost

BASE = 0x4800_0000


def window(size: int = 64, base: int = BASE) -> Window:
    return Window(memoryview(bytearray(size)), base, "test")


@given(offset=st.integers(0, 60), value=st.integers(0, 0xFFFFFFFF))
def test_words_are_little_endian_at_any_offset(offset: int, value: int) -> None:
    memory = window()

    memory.store_u32("word", offset, value)
    assert memory.load(offset, 4) == value.to_bytes(4, "little")
    assert memory.load_u32(offset) == value
    memory.store_u16("half", offset, value & 0xFFFF)
    assert memory.load_u16(offset) == value & 0xFFFF


@given(offset=st.integers(0, 63), data=st.binary(max_size=64))
def test_store_then_load_gives_the_bytes_and_leaves_the_rest(offset: int, data: bytes) -> None:
    data = data[: 64 - offset]
    memory = window()

    memory.store("data", offset, data)

    assert memory.load(0, 64) == bytes(offset) + data + bytes(64 - offset - len(data))


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (64, 1), (61, 4), (0, 65)])
def test_access_outside_is_the_callers_bug(offset: int, length: int) -> None:
    memory = window()

    with pytest.raises(ValueError, match="outside"):
        memory.load(offset, length)
    with pytest.raises(ValueError, match="outside"):
        memory.store("data", offset, bytes(length))
    with pytest.raises(ValueError, match="outside"):
        memory.view(offset, length)
    with pytest.raises(ValueError, match="outside"):
        memory.zero("data", offset, length)


def test_a_revoked_window_is_lost() -> None:
    memory = window()
    memory.revoke()

    with pytest.raises(WindowLost):
        memory.load_u32(0)
    with pytest.raises(WindowLost):
        memory.store_u16("half", 0, 1)


def test_a_part_shares_memory_but_not_revocation() -> None:
    memory = window()
    part = memory.sub(16, 8, "part")

    part.store("data", 2, b"abc")
    part.revoke()

    assert memory.load(18, 3) == b"abc"
    assert part.span == Span(BASE + 16, 8)
    with pytest.raises(ValueError, match="outside"):
        memory.sub(60, 8, "too long")


def test_a_part_is_bounded_by_itself() -> None:
    part = window().sub(16, 8, "part")

    with pytest.raises(ValueError, match="outside"):
        part.store_u32("word", 6, 1)


def test_a_view_is_read_only_and_live() -> None:
    memory = window()
    view = memory.view(4, 4)

    memory.store("data", 4, b"live")

    assert bytes(view) == b"live"
    assert view.readonly


def test_zero_reaches_to_the_end() -> None:
    memory = window(16)
    memory.store("data", 0, b"x" * 16)

    memory.zero("tail", 10)

    assert memory.load(0, 16) == b"x" * 10 + bytes(6)


def test_address_map_finds_whole_accesses_only() -> None:
    ram = window()
    space = AddressMap([(ram.span, ram), (Span(0x1000, 0x100), "mmio")])

    assert space.find(BASE + 4, 60) == (ram, 4)
    assert space.find(0x10FF, 1) == ("mmio", 0xFF)
    assert space.find(0x10FF, 2) is None
    assert space.find(0, 1) is None


def test_address_map_refuses_overlap() -> None:
    with pytest.raises(ValueError, match="overlap"):
        AddressMap([(Span(0, 16), "a"), (Span(15, 16), "b")])


@given(
    st.lists(
        st.tuples(st.integers(1, 0x3000), st.sampled_from([1, 4, 0x1000, 0x4000]), st.booleans()), max_size=20
    )
)
def test_allocated_pieces_are_aligned_zero_and_apart(requests: list[tuple[int, int, bool]]) -> None:
    memory = window(0x10000)
    memory.store("dirt", 0, b"\xff" * 0x10000)
    allocator = Allocator(memory)
    live: list[Window] = []

    for size, alignment, free_first in requests:
        if free_first and live:
            allocator.free(live.pop(0))
        piece = allocator.allocate(size, alignment, "piece")
        if piece is None:
            continue
        assert piece.span.base % alignment == 0
        assert piece.load(0, size) == bytes(size)
        assert not any(piece.span.overlaps(other.span) for other in live)
        piece.store("dirt", 0, b"\xff" * size)
        live.append(piece)


def test_allocator_reuses_freed_memory_as_late_as_possible() -> None:
    allocator = Allocator(window(0x3000))
    first = allocator.allocate(0x1000, 0x1000, "a")
    assert first is not None
    allocator.free(first)
    second = allocator.allocate(0x1000, 0x1000, "b")
    assert second is not None

    assert second.span.base != first.span.base
    with pytest.raises(WindowLost):
        first.load_u32(0)
    assert allocator.allocate(0x3000, 4, "too long") is None
