"""Descriptors in scratchpads: a pair of transports, the endpoint of which has an MSI controller."""

from __future__ import annotations

import errno
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntbnet.errors import KernelError
from ntbnet.wire import Irq, IrqSource, MemWrite
from tests.unit.devices.ntb_pair import MS, Client, Pair, Side

ALL_ONES = 0xFFFFFFFF
WINDOW = 0x8000
FIRST = 6
"""Scratchpad of queue 0's offset: 4 and two for the one data window."""


def make(interrupts: tuple[str, str] = ("auto", "auto"), *, queues: int = 1, **changes: Any) -> Pair:
    sizes = ([1 << 20, WINDOW], [1 << 20, WINDOW])
    mtu = 1600 if queues > 1 else 65536
    pair = Pair(sizes, windows=(0,), interrupts=interrupts, clients=(queues, queues), mtu=mtu, **changes)
    for side in pair.sides:
        side.ntb.size_max = 1 << 20
    return pair


def offered(side: Side, queue: int = 0) -> tuple[int, int]:
    at = FIRST + 2 * queue
    return side.ntb.spads[at], side.ntb.spads[at + 1]


def trigger(side: Side, queue: int = 0) -> str:
    rows: Any = side.transport.interrupts_snapshot()["rings"]
    return str(rows[queue]["trigger"])


def reason(side: Side) -> str:
    rows: Any = side.transport.interrupts_snapshot()["rings"]
    return str(rows[0]["reason"])


def send(pair: Pair, client: Client, data: bytes = b"frame") -> list[Any]:
    """Send one frame; the messages it took."""
    client.side.sent.clear()
    assert client.queue.tx_enqueue(data, len(data)) == 0
    pair.flush()
    return client.side.sent


@pytest.mark.covers("EDMA 100", "EDMA 94")
def test_valid_descriptor_is_triggered_by_one_store_behind_the_frame() -> None:
    pair = make()
    rc, ep = pair.start()
    stores = send(pair, rc)

    assert offered(pair.ep) == (0x40, 80)
    assert trigger(pair.rc) == "0x40=0x50"
    assert stores[-1].addr % (1 << 32) == 0x40
    assert bytes(stores[-1].data) == (80).to_bytes(4, "little")
    assert not any(isinstance(message, Irq) for message in stores)
    assert (ep.lengths, ep.queue.interrupts) == ([5], 1)
    assert [widx for widx in range(2) if widx in pair.ep.ntb.trans] == [0, 1]


@pytest.mark.covers("EDMA 97")
def test_host_without_a_vector_offers_the_marker_and_is_rung_by_doorbell() -> None:
    pair = make()
    rc, ep = pair.start()
    messages = send(pair, ep)

    assert offered(pair.rc) == (ALL_ONES, ALL_ONES)
    assert trigger(pair.ep) == "doorbell"
    assert isinstance(messages[-1], Irq)
    assert rc.lengths == [5]


@pytest.mark.parametrize("interrupts", [("false", "auto"), ("auto", "false"), ("false", "false")])
def test_side_that_wants_none_keeps_both_directions_on_doorbells(interrupts: tuple[str, str]) -> None:
    pair = make(interrupts)
    for client in pair.start():
        assert isinstance(send(pair, client)[-1], Irq)

    assert trigger(pair.rc) == trigger(pair.ep) == "doorbell"
    assert (offered(pair.ep) == (ALL_ONES, ALL_ONES)) == (interrupts[1] == "false")
    assert pair.ep.ntb.rings == []


@pytest.mark.covers("EDMA 101")
def test_each_queue_has_its_own_descriptor() -> None:
    pair = make(queues=4)
    for side in pair.sides:
        side.probe()
    both = [[Client(side, 1600, 8) for _ in range(4)] for side in pair.sides]
    for clients in both:
        for client in clients:
            client.side.transport.link_up(client.queue)
    pair.advance(100 * MS)

    assert [offered(pair.ep, queue) for queue in range(4)] == [(0x40, 80 + n) for n in range(4)]
    for number in (2, 0, 3):
        send(pair, both[0][number])
    assert pair.ep.ntb.rings == [82, 80, 83]
    assert [client.queue.interrupts for client in both[1]] == [1, 0, 1, 1]
    assert [len(client.lengths) for client in both[1]] == [1, 0, 1, 1]


@pytest.mark.covers("HAZARD 11.b")
@pytest.mark.parametrize("spads", [6, 7, 8, 9, 10])
def test_queues_without_scratchpads_keep_doorbells_and_nothing_else_is_written(spads: int) -> None:
    pair = make(queues=2, spads=spads)
    for side in pair.sides:
        side.probe()
    clients = [Client(side, 1600, 8) for side in pair.sides for _ in range(2)]
    for client in clients:
        client.side.transport.link_up(client.queue)
    pair.advance(100 * MS)
    held = (spads - FIRST) // 2

    assert [trigger(pair.rc, queue) != "doorbell" for queue in range(2)] == [
        queue < held for queue in range(2)
    ]
    assert pair.ep.ntb.spads[FIRST + 2 * held :] == [0] * (spads - FIRST - 2 * held)
    for client in clients[:2]:
        send(pair, client)
    assert [len(client.lengths) for client in clients[2:]] == [1, 1]


@pytest.mark.covers("HAZARD 11.a", "EDMA 98")
def test_every_link_work_publishes_real_values_again() -> None:
    pair = make()
    pair.start()
    for _ in range(3):
        pair.set_link(0)
        pair.advance(20 * MS)
        # a cleanup leaves the marker: 0 would be a valid descriptor
        assert offered(pair.ep) == offered(pair.rc) == (ALL_ONES, ALL_ONES)
        assert pair.ep.ntb.spads[0] == 0
        pair.set_link(1)
        pair.advance(100 * MS)
        assert offered(pair.ep) == (0x40, 80)
        assert offered(pair.rc) == (ALL_ONES, ALL_ONES)
        assert (trigger(pair.rc), trigger(pair.ep)) == ("0x40=0x50", "doorbell")


@pytest.mark.covers("EDMA 88", "HAZARD 11.c")
def test_window_is_opened_once_for_a_link_however_long_the_peer_lets_us_wait() -> None:
    pair = make()
    pair.ep.probe()
    pair.advance(500 * MS)

    assert pair.ep.ntb.calls.count("set_trans 1") == 1
    pair.set_link(0)
    pair.advance(20 * MS)
    assert pair.ep.ntb.calls.count("clear_trans 1") == 1


@pytest.mark.covers("HAZARD 11.d")
def test_host_opens_no_window_for_interrupts_it_cannot_take() -> None:
    pair = make()
    pair.start()

    assert pair.rc.ntb.calls.count("set_trans 1") == 0


def test_window_that_cannot_be_opened_is_one_warning_and_doorbells() -> None:
    pair = make()
    pair.ep.ntb.size_max = 1 << 20
    pair.ep.ntb.fail_windows = {1: KernelError(errno.ENOSPC, "no window left")}
    rc, ep = pair.start()

    assert [row["step"] for row in pair.ep.logs("intr.failed")] == ["setup_mws"]
    assert isinstance(send(pair, rc)[-1], Irq)
    assert ep.lengths == [5]
    flap(pair)
    assert len(pair.ep.logs("intr.failed")) == 1
    for failure in ({}, {1: KernelError(errno.ENOSPC, "no window left")}):
        pair.ep.ntb.fail_windows = failure
        flap(pair)
        assert (trigger(pair.rc) == "0x40=0x50") == (not failure)
    assert len(pair.ep.logs("intr.failed")) == 2


def flap(pair: Pair) -> None:
    pair.set_link(0)
    pair.advance(20 * MS)
    pair.set_link(1)
    pair.advance(100 * MS)


@pytest.mark.covers("EDMA 98")
def test_rewritten_descriptor_reaches_the_peer_through_the_spare_doorbell() -> None:
    pair = make()
    rc, ep = pair.start()
    assert pair.ep.ntb.msi is not None
    pair.ep.sent.clear()
    pair.ep.ntb.msi.retarget(1)
    pair.flush()

    changed = [message.bits for message in pair.ep.sent if isinstance(message, Irq)]
    assert changed == [1 << len(pair.ep.transport.queues)]
    assert offered(pair.ep) == (0x40, 81)
    assert trigger(pair.rc) == "0x40=0x51"
    send(pair, rc)
    assert (pair.ep.ntb.rings[-1], ep.lengths) == (81, [5])


def test_side_that_rings_another_way_rings_once_at_once() -> None:
    """A frame that was rung the old way, and lost, is not stranded."""
    pair = make()
    rc, ep = pair.start()
    assert pair.ep.ntb.msi is not None
    pair.ep.ntb.msi.retarget(1)
    rc.queue.tx_enqueue(b"lost", 4)
    pair.advance(5 * MS)

    assert ep.lengths == [4]


def test_spare_doorbell_is_no_queue_and_means_nothing_without_interrupts() -> None:
    pair = make(("false", "false"))
    pair.start()
    pair.rc.ntb.receive(Irq(IrqSource.DOORBELL_SLOTS, 1 << 1))
    pair.flush()

    assert trigger(pair.rc) == "doorbell"


# a peer that lies


WORDS = st.integers(0, ALL_ONES) | st.integers(0, 2 * WINDOW) | st.just(ALL_ONES)


def lie(pair: Pair, offset: int, data: int) -> None:
    """The endpoint forges queue 0's descriptor and says that it changed."""
    pair.ep.ntb.spads[FIRST : FIRST + 2] = [offset, data]
    pair.rc.ntb.receive(Irq(IrqSource.DOORBELL_SLOTS, 1 << len(pair.rc.transport.queues)))
    pair.flush()


@pytest.mark.covers("EDMA 95")
def test_zeroes_are_a_descriptor() -> None:
    pair = make()
    pair.start()
    lie(pair, 0, 0)

    assert trigger(pair.rc) == "0x0=0x0"


@pytest.mark.covers("EDMA 96", "EDMA 99")
@pytest.mark.parametrize(
    ("offset", "data", "cause"),
    [
        (0x41, 1, "queue 0 interrupt offset is no multiple of 4"),
        (WINDOW, 1, "queue 0 interrupt offset is outside the window"),
        (0xFFFFFFFC, 1, "queue 0 interrupt offset is outside the window"),
        (ALL_ONES, 0, None),
        (0x40, ALL_ONES, None),
    ],
)
def test_impossible_descriptor_is_refused_once_and_rung_by_doorbell(
    offset: int, data: int, cause: str | None
) -> None:
    pair = make()
    rc, ep = pair.start()
    for _ in range(3):
        lie(pair, offset, data)

    assert [row["cause"] for row in pair.rc.logs("transport.refused")] == ([cause] if cause else [])
    assert trigger(pair.rc) == "doorbell"
    assert len(pair.rc.logs("intr.trigger_changed")) == 2
    assert isinstance(send(pair, rc)[-1], Irq)
    assert ep.lengths == [5]


def test_descriptor_in_a_window_that_leads_nowhere_is_refused() -> None:
    pair = make()
    _, ep = pair.start()
    pair.rc.ntb.spads[FIRST : FIRST + 2] = [0x40, 1]
    pair.ep.ntb.receive(Irq(IrqSource.DOORBELL_SLOTS, 1 << len(pair.ep.transport.queues)))
    pair.flush()

    assert reason(pair.ep) == "interrupt offset 0x40 is in a window that leads nowhere"
    assert isinstance(send(pair, ep)[-1], Irq)


@settings(max_examples=60)
@given(pairs=st.lists(st.tuples(WORDS, WORDS), max_size=4))
def test_no_descriptor_makes_the_host_store_outside_the_interrupt_window(
    pairs: list[tuple[int, int]],
) -> None:
    pair = make()
    rc, _ = pair.start()
    for offset, data in pairs:
        lie(pair, offset, data)
        stores = [one for one in send(pair, rc) if isinstance(one, MemWrite) and one.addr >> 32 == 2]
        is_good = offset % 4 == 0 and offset + 4 <= WINDOW and data != ALL_ONES
        expected = [(offset, data.to_bytes(4, "little"))] if is_good else []
        assert [(one.addr & ALL_ONES, bytes(one.data)) for one in stores] == expected


# the end


def test_removed_transport_gives_its_interrupts_back() -> None:
    pair = make()
    pair.start()
    pair.ep.transport.remove(graceful=True)
    pair.advance(100 * MS)

    assert pair.ep.ntb.msi is not None
    assert pair.ep.ntb.msi.request(lambda: None, lambda: None) == 1
    assert pair.ep.ntb.trans == {}
