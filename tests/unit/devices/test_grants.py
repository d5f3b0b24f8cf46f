"""Grants as messages carry them: what is impossible is refused, and windows cut them to size."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntbnet.devices.direct import MAX_GRANTS, Grant, from_body, to_body, undisputed, within
from ntbnet.devices.effects import Send, Wake
from ntbnet.errors import PeerError
from ntbnet.wire import MemRead
from tests.unit.devices.cpu_bus import FAR_BYTES, IDENT, MEMORY, Cpu, messages, settled
from tests.unit.devices.kit import sent

IMPOSSIBLE: list[Any] = [
    None,
    {},
    [[0, 16, "", 0]] * (MAX_GRANTS + 1),
    [None],
    [[0, 16, ""]],
    [[0, 16, "", 0, 0]],
    [(0, 16, "", 0)],
    [[0, True, "", 0]],
    [[0.0, 16, "", 0]],
    [["0", 16, "", 0]],
    [[0, 16, b"", 0]],
    [[0, 0, "", 0]],
    [[0, -1, "", 0]],
    [[-1, 16, "", 0]],
    [[0, 16, "", -1]],
    [[0, 16, "nobody", 0]],
    [[0, 16, "", FAR_BYTES - 15]],
    [[0, FAR_BYTES + 1, "", 0]],
    [[(1 << 64) - 8, 16, "", 0]],
    [[0, 16, "edma", (1 << 64) - 8]],
]


@pytest.mark.parametrize("ranges", IMPOSSIBLE)
def test_impossible_grants_are_refused_and_end_those_before(ranges: Any) -> None:
    cpu = settled()
    with pytest.raises(PeerError):
        cpu.grant(ranges)
    cpu.bus.write(MEMORY, b"data")

    assert [one.data for one in messages(cpu)] == [b"data"]
    assert cpu.far == bytes(FAR_BYTES)


@pytest.mark.parametrize("ident", [None, IDENT + 1, str(IDENT), [IDENT]])
def test_grants_of_other_memory_are_refused(ident: Any) -> None:
    cpu = settled()
    with pytest.raises(PeerError, match="other memory"):
        cpu.grant(ident=ident)

    assert cpu.bus.snapshot()["grants"] == 0


@pytest.mark.parametrize(
    "doorbells", [[None], [[0]], [[0, True]], [[64, 1]], [[-1, 1]], [[0, -1]], [[0, 2048]]]
)
def test_impossible_doorbells_are_refused(doorbells: Any) -> None:
    cpu = Cpu()
    with pytest.raises(PeerError, match="doorbell"):
        cpu.grant(doorbells=doorbells)

    assert cpu.bus.snapshot()["grants"] == 0


NUMBERS = st.integers(-4, FAR_BYTES + 4) | st.integers(0, (1 << 64) - 1)
LEAVES = st.none() | st.booleans() | NUMBERS | st.floats() | st.text(max_size=4) | st.binary(max_size=4)
ANYTHING = st.recursive(
    LEAVES, lambda part: st.lists(part, max_size=5) | st.dictionaries(st.text(max_size=4), part)
)
ENTRIES = st.tuples(NUMBERS, NUMBERS, st.sampled_from(("", "", "edma", "epc", "x")), NUMBERS).map(list)
BODIES = st.lists(ENTRIES, max_size=6) | ANYTHING


@given(
    ranges=BODIES,
    doorbells=ANYTHING | st.lists(st.lists(NUMBERS, min_size=2, max_size=2)),
    where=st.lists(NUMBERS),
)
def test_no_body_of_grants_does_more_than_be_refused(ranges: Any, doorbells: Any, where: list[int]) -> None:
    """Whatever was granted, each store lands inside the far memory or becomes a message or a wake."""
    cpu = Cpu()
    try:
        cpu.bus.grant({"memory": IDENT, "ranges": ranges, "doorbells": doorbells})
    except PeerError:
        assert cpu.bus.snapshot()["grants"] == 0
    else:
        for message in sent(cpu.effects()):
            assert isinstance(message, MemRead)
            cpu.answer(message)
    bases = (
        [entry[0] for entry in ranges if isinstance(entry, list) and entry]
        if isinstance(ranges, list)
        else []
    )
    for addr in [*where, *(base for base in bases if type(base) is int)]:
        for size in (1, 4, 64):
            cpu.bus.write(max(addr, 0), b"\x5a" * size)
    cpu.bus.doorbell((1 << 64) - 1)

    assert len(cpu.far) == FAR_BYTES
    assert all(isinstance(effect, Send | Wake) for effect in cpu.effects())


# windows

GRANT = st.builds(
    Grant, st.integers(0, 200), st.integers(1, 60), st.sampled_from(("", "edma")), st.integers(0, 200)
)
SPAN = st.tuples(st.integers(0, 200), st.integers(1, 80), st.integers(0, 200))


@given(st.lists(GRANT, max_size=MAX_GRANTS))
def test_grants_are_read_as_they_were_written(grants: list[Grant]) -> None:
    words = [replace(grant, base=4 * grant.base, size=4 * grant.size, at=4 * grant.at) for grant in grants]

    assert from_body(to_body(words), 1 << 64) == tuple(words)


@pytest.mark.parametrize("place", [(0, 1, 0), (0, 3, 0), (2, 8, 0), (0, 8, 2), (0, 6, 0)])
def test_memory_is_granted_in_whole_words(place: tuple[int, int, int]) -> None:
    base, size, at = place

    with pytest.raises(PeerError, match="whole words"):
        from_body([[base, size, "", at]], 1 << 20)


@given(st.lists(GRANT, max_size=4), st.lists(SPAN, max_size=4))
def test_grants_through_windows_lead_where_the_windows_lead(
    grants: list[Grant], spans: list[tuple[int, int, int]]
) -> None:
    """Byte for byte: through the first window that holds it, to where the bytes behind it were granted."""
    allowed = {
        (base + at, grant.owner, grant.at + behind + at - grant.base)
        for base, size, behind in spans
        for at in range(size)
        for grant in grants
        if grant.base <= behind + at < grant.end
    }
    seen = {
        (one.base + at, one.owner, one.at + at) for one in within(grants, spans) for at in range(one.size)
    }

    assert seen == allowed


@given(st.lists(SPAN, max_size=5))
def test_span_that_shares_a_byte_with_an_earlier_one_is_left_out(spans: list[tuple[int, int, int]]) -> None:
    kept = undisputed(spans)

    for index, (base, size, _) in enumerate(spans):
        disputed = any(max(base, other) < min(base + size, other + more) for other, more, _ in spans[:index])
        assert (spans[index] in kept) or disputed
    covered = [at for base, size, _ in kept for at in range(base, base + size)]
    assert len(covered) == len(set(covered))
