"""Leases, and what the allocator makes of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntbnet.devices.lease import LEASE_BYTES, NOTHING, Lease
from ntbnet.devices.memory import Allocator, Window
from ntbnet.errors import WindowLost
from tests.unit.devices.kit import EP_DRAM, dram

PIECE, PIECES = 0x1000, 4


class Hosts:
    """Both hosts over one page, and the allocator of the endpoint's."""

    def __init__(self) -> None:
        self.words = Window(memoryview(bytearray(LEASE_BYTES)), 0, "lease")
        self.rc, self.ep = Lease(self.words, "rc"), Lease(self.words, "ep")
        self.heap = dram(EP_DRAM, PIECES * PIECE)
        self.allocator = Allocator(self.heap, is_over=self.ep.is_over)

    def begin(self, epoch: int) -> None:
        """Both hosts enter a link epoch, the endpoint's first."""
        self.allocator.epoch = epoch
        self.ep.enter(epoch)
        self.rc.enter(epoch)

    def take(self) -> Window | None:
        return self.allocator.allocate(PIECE, PIECE, "piece")

    def take_all(self) -> list[Window]:
        found = []
        while (piece := self.take()) is not None:
            found.append(piece)
        return found


def test_host_that_stores_in_no_epoch_has_left_them_all() -> None:
    hosts = Hosts()

    assert hosts.ep.is_over(0xFFFF_FFFE)
    assert hosts.ep.is_clean(1)
    assert hosts.ep.is_clean(0)


def test_page_nobody_wrote_to_means_nothing() -> None:
    words = Window(memoryview(bytearray(LEASE_BYTES)), 0, "lease")

    assert Lease(words, "ep").is_over(5)
    assert words.load_u32(4) == NOTHING


def test_epoch_is_over_for_the_one_when_the_other_left_it() -> None:
    hosts = Hosts()
    hosts.begin(5)
    assert not hosts.ep.is_over(5)

    hosts.rc.enter(6)
    assert hosts.ep.is_over(5)
    assert not hosts.rc.is_over(5)

    hosts.ep.enter(0)
    assert hosts.rc.is_over(5)
    assert hosts.words.load_u32(4) == NOTHING


@pytest.mark.parametrize(
    ("other", "epoch", "clean"), [(5, 6, False), (6, 6, True), (7, 6, True), (0, 6, True), (5, 0, False)]
)
def test_new_process_waits_for_whoever_stores_in_an_earlier_epoch(
    other: int, epoch: int, clean: bool
) -> None:
    hosts = Hosts()
    hosts.rc.enter(other)

    assert hosts.ep.is_clean(epoch) is clean


def test_replacement_of_a_killed_process_frees_what_it_could_store_to() -> None:
    hosts = Hosts()
    hosts.begin(3)
    piece = hosts.take()
    assert piece is not None
    hosts.allocator.free(piece)
    assert len(hosts.take_all()) == PIECES - 1

    Lease(hosts.words, "rc")

    assert len(hosts.take_all()) == 1


def test_freed_memory_is_handed_out_only_after_the_other_host_left_the_epoch() -> None:
    hosts = Hosts()
    hosts.begin(3)
    pieces = hosts.take_all()
    for piece in pieces:
        hosts.allocator.free(piece)
        with pytest.raises(WindowLost):
            piece.load(0, 4)
    assert hosts.take() is None

    hosts.allocator.epoch = 4
    hosts.ep.enter(4)
    assert hosts.take() is None

    hosts.rc.enter(4)
    assert len(hosts.take_all()) == PIECES


def test_memory_that_is_handed_out_again_is_zero() -> None:
    hosts = Hosts()
    hosts.begin(3)
    for piece in hosts.take_all():
        hosts.allocator.free(piece)
    hosts.heap.store("a late store", PIECE, b"late")
    hosts.rc.enter(4)

    assert all(piece.load(0, PIECE) == bytes(PIECE) for piece in hosts.take_all())


@given(
    st.lists(
        st.tuples(st.sampled_from(("take", "free", "rc", "ep", "replace")), st.integers(0, 3)), max_size=60
    )
)
def test_no_piece_is_handed_out_while_it_may_be_stored_to(steps: list[tuple[str, int]]) -> None:
    """What the host may store to in its epoch: all that was in use since the endpoint was in that epoch.

    A replacement enters later epochs only: the link takes a new one when its path comes up.
    """
    hosts = Hosts()
    hosts.begin(1)
    live: list[Window] = []
    exposed: dict[int, int] = {}
    epoch = rc_epoch = 1
    replaced_in = 0
    for step, number in steps:
        if step == "take" and (piece := hosts.take()) is not None:
            assert exposed.get(piece.span.base, -1) < rc_epoch
            live.append(piece)
        elif step == "free" and live:
            piece = live.pop(number % len(live))
            exposed[piece.span.base] = epoch
            hosts.allocator.free(piece)
        elif step == "ep":
            epoch += 1
            hosts.allocator.epoch = epoch
            hosts.ep.enter(epoch)
        elif step == "rc" and epoch > replaced_in:
            rc_epoch = epoch
            hosts.rc.enter(epoch)
        elif step == "replace":
            Lease(hosts.words, "rc")
            rc_epoch, replaced_in = 1 << 31, epoch
    assert len({piece.span.base for piece in live}) == len(live)
