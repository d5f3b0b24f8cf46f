from __future__ import annotations

import errno
import random
import struct
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntbnet.devices.ring import ring_geometry
from ntbnet.wire import Irq, MemWrite
from tests.unit.devices.ntb_pair import MS, WINDOW_STRIDE, Client, Pair, Side

FRAME = 65536
SMALL = ([4096], [4096])
"""Window whose ring has 7 frames of 512 bytes."""


def small_pair() -> tuple[Pair, Client, Client]:
    pair = Pair(SMALL, mtu=512)
    rc, ep = pair.start()
    return pair, rc, ep


def window_stores(side: Side) -> list[tuple[int, bytes]]:
    """(offset, bytes) of every store through window 0."""
    return [
        (message.addr - WINDOW_STRIDE, bytes(message.data))
        for message in side.sent
        if isinstance(message, MemWrite) and WINDOW_STRIDE <= message.addr < 2 * WINDOW_STRIDE
    ]


def poke(client: Client, offset: int, data: bytes) -> None:
    """Store into the client's own receive memory, as a peer would."""
    addr, _ = client.side.ntb.trans[0]
    client.side.ntb.dram.store("poke", addr - client.side.ntb.dram.span.base + offset, data)


def peek(client: Client, offset: int, length: int) -> bytes:
    addr, _ = client.side.ntb.trans[0]
    return client.side.ntb.dram.load(addr - client.side.ntb.dram.span.base + offset, length)


class TestGeometry:
    @pytest.mark.covers("NTB 137", "NTB 138", "NTB 139")
    @pytest.mark.parametrize(
        ("size", "queues", "frame", "entries", "rx_info"),
        [
            (0x100000, 1, 65536, 15, 0xFFFFC),
            (0xF0000, 1, 65536, 14, 0xEFFFC),
            (0x200000, 1, 65536, 31, 0x1FFFFC),
            (0x100000, 2, 65536, 7, 0x7FFFC),
            (0x100000, 4, 65536, 3, 0x3FFFC),
            (0x20000, 1, 65534, 2, 0x1FFFC),
            (0x8000, 1, 16382, 2, 0x7FFC),
        ],
    )
    def test_table_of_known_windows(
        self, size: int, queues: int, frame: int, entries: int, rx_info: int
    ) -> None:
        ring = ring_geometry(0, queues, 1, size, 65536)

        assert (ring.max_frame, ring.max_entry, ring.rx_info_offset) == (frame, entries, rx_info)
        assert ring.max_payload == frame - 12

    def test_queues_share_windows_round_robin(self) -> None:
        places = [
            (r.widx, r.offset, r.size) for r in (ring_geometry(q, 3, 2, 0x10000, 512) for q in range(3))
        ]

        assert places == [(0, 0, 0x8000), (1, 0, 0x10000), (0, 0x8000, 0x8000)]

    def test_max_mw_size_caps_the_window(self) -> None:
        assert ring_geometry(0, 1, 1, 1 << 20, 65536, 0x80000) == ring_geometry(0, 1, 1, 0x80000, 65536)

    @pytest.mark.covers("HAZARD 10.20")
    @pytest.mark.parametrize(
        ("queue", "queues", "windows", "size"),
        [(0, 1, 0, 4096), (0, 0, 1, 4096), (1, 1, 1, 4096), (0, 1, 1, 27), (0, 1, 1, 1 << 32)],
    )
    def test_impossible_geometry_is_refused(self, queue: int, queues: int, windows: int, size: int) -> None:
        with pytest.raises(ValueError, match="window"):
            ring_geometry(queue, queues, windows, size, 65536)

    @given(
        size=st.integers(64, 1 << 22),
        queues=st.integers(1, 8),
        windows=st.integers(1, 4),
        mtu=st.integers(13, 65536),
    )
    def test_rings_stay_inside_their_window_and_never_overlap(
        self, size: int, queues: int, windows: int, mtu: int
    ) -> None:
        try:
            rings = [ring_geometry(q, queues, windows, size, mtu) for q in range(queues)]
        except ValueError:
            assert size // queues < 64
            return
        for ring in rings:
            assert ring.max_entry >= 2
            assert ring.frame_end(ring.max_entry - 1) <= ring.rx_info_offset
            assert ring.rx_info_offset + 4 <= size
        parts = sorted((ring.widx, ring.offset, ring.offset + ring.size) for ring in rings)
        assert all(a[0] != b[0] or a[2] <= b[1] for a, b in pairwise(parts))


class TestSend:
    @pytest.mark.covers("NTB 140", "NTB 143", "NTB 144")
    def test_stores_are_payload_then_ver_len_then_flags_then_doorbell(self) -> None:
        pair = Pair()
        rc, _ = pair.start()
        rc.side.sent.clear()

        rc.queue.tx_enqueue(b"first", 5)
        rc.queue.tx_enqueue(b"second", 6)
        pair.perform(rc.side)

        assert window_stores(rc.side) == [
            (0, b"first"),
            (FRAME - 12, struct.pack("<II", 0, 5)),
            (FRAME - 4, struct.pack("<I", 1)),
            (FRAME, b"second"),
            (2 * FRAME - 12, struct.pack("<II", 1, 6)),
            (2 * FRAME - 4, struct.pack("<I", 1)),
        ]
        assert [message.bits for message in rc.side.sent if isinstance(message, Irq)] == [1, 1]
        assert isinstance(rc.side.sent[3], Irq)

    @pytest.mark.covers("NTB 142")
    def test_one_frame_stays_unused_then_the_ring_is_full(self) -> None:
        _, rc, _ = small_pair()
        assert rc.queue.tx_free_entry() == 6

        results = [rc.queue.tx_enqueue(b"x", 1) for _ in range(8)]

        assert results == [0] * 6 + [-errno.EAGAIN] * 2
        assert rc.queue.tx.tx_ring_full == 2
        assert rc.queue.tx_free_entry() == 0

    @pytest.mark.covers("NTB 153")
    def test_refused_frames(self) -> None:
        pair, rc, _ = small_pair()

        assert rc.queue.tx_enqueue(b"", 0) == -errno.EINVAL
        assert rc.queue.tx_enqueue(bytes(501), 501) == -errno.EMSGSIZE
        assert rc.queue.tx_enqueue(bytes(500), 500) == 0
        pair.set_link(0)
        assert rc.queue.tx_enqueue(b"x", 1) == -errno.ENOLINK
        assert rc.queue.tx_free_entry() == 6

    @pytest.mark.covers("NTB 154")
    def test_no_free_entry_is_busy(self) -> None:
        _, rc, _ = small_pair()
        rc.queue.tx.entries = 0

        assert rc.queue.tx_enqueue(b"x", 1) == -errno.EBUSY
        assert rc.queue.tx.tx_err_no_buf == 1

    @pytest.mark.covers("NTB 155")
    def test_tx_handler_runs_inside_enqueue_before_the_index_moves(self) -> None:
        _, rc, _ = small_pair()
        seen: list[int] = []
        rc.on_sent = lambda: seen.append(rc.queue.tx.index)

        rc.queue.tx_enqueue(b"abc", 3)

        assert rc.sent == [3]
        assert seen == [0]
        assert (rc.queue.tx.index, rc.queue.tx.tx_bytes, rc.queue.tx.tx_memcpy) == (1, 3, 1)

    def test_only_the_first_bytes_of_a_longer_buffer_are_sent(self) -> None:
        pair, rc, ep = small_pair()

        rc.queue.tx_enqueue(bytearray(b"packet and rest"), 6)
        pair.flush()

        assert ep.side.delivered == [b"packet"]

    @pytest.mark.covers("HAZARD 10.18")
    @pytest.mark.parametrize("value", [7, 0xFFFFFFFF, 0, 5])
    def test_impossible_rx_info_counts_as_full_and_is_told_once(self, value: int) -> None:
        pair, rc, _ = small_pair()
        poke(rc, 4092, struct.pack("<I", value))

        results = [rc.queue.tx_enqueue(b"x", 1) for _ in range(3)]
        pair.flush()

        assert results == [-errno.EAGAIN] * 3
        assert rc.queue.tx.impossible == 3
        assert rc.side.logs("transport.refused") == [{"cause": "queue 0 rx_info", "value": f"{value:#x}"}]
        assert rc.side.stuck == ["queue 0: rx_info"]


class TestReceive:
    @pytest.mark.covers("NTB 145")
    def test_delivery_comes_before_rx_info_and_flags_are_zero(self) -> None:
        pair, rc, ep = small_pair()
        ep.side.sent.clear()

        rc.queue.tx_enqueue(b"data", 4)
        pair.perform(rc.side)
        for _ in range(len(ep.side.inbox) - 1):
            pair.receive_one(ep.side)
        before = len(ep.side.effects)
        pair.receive_one(ep.side)

        kinds = [type(effect).__name__ for effect in ep.side.effects[before:]]
        assert kinds == ["Deliver", "Send"]
        assert window_stores(ep.side) == [(4092, struct.pack("<I", 0))]
        assert peek(ep, 508, 4) == bytes(4)

    @pytest.mark.covers("NTB 146", "NTB 142")
    def test_rx_info_follows_the_frames_in_order(self) -> None:
        pair, rc, ep = small_pair()
        ep.side.sent.clear()

        for burst in (6, 5):
            for _ in range(burst):
                assert rc.queue.tx_enqueue(b"x", 1) == 0
            pair.flush()

        written = [struct.unpack("<I", data)[0] for _, data in window_stores(ep.side)]
        assert written == [0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3]

    @pytest.mark.covers("NTB 147", "HAZARD 10.10")
    def test_wrong_ver_stops_the_queue_and_asks_for_a_new_epoch_once(self) -> None:
        pair, rc, ep = small_pair()
        rc.queue.tx.tx_pkts = 5

        for _ in range(2):
            rc.queue.tx_enqueue(b"x", 1)
            pair.flush()

        assert ep.side.delivered == []
        runs_per_doorbell = 2
        assert (ep.queue.rx.rx_err_ver, ep.queue.rx.index) == (2 * runs_per_doorbell, 0)
        assert ep.side.stuck == ["queue 0: rx_err_ver"]
        assert ep.side.logs("transport.queue_stuck") == [{"queue": 0, "reason": "rx_err_ver"}]

    def test_a_new_link_epoch_frees_a_stuck_queue(self) -> None:
        pair, rc, ep = small_pair()
        rc.queue.tx.tx_pkts = 5
        rc.queue.tx_enqueue(b"x", 1)
        pair.flush()

        for side in pair.sides:
            side.transport.link_lost("new epoch")
        pair.advance(100 * MS)
        rc.queue.tx_enqueue(b"works", 5)
        pair.flush()

        assert ep.side.delivered == [b"works"]

    @pytest.mark.covers("NTB 148", "HAZARD 10.9")
    def test_oversize_frame_is_refused_and_the_next_one_arrives(self) -> None:
        pair, rc, ep = small_pair()
        while ep.queue.rx.take_pending() is not None:
            pass
        ep.queue.rx_enqueue(10)
        ep.queue.rx_enqueue(100)

        for data in (bytes(11), b"next"):
            rc.queue.tx_enqueue(data, len(data))
            pair.flush()

        assert ep.lengths == [-errno.EIO, 4]
        assert ep.side.delivered == [b"next"]
        assert ep.queue.rx.rx_err_oflow == 1
        assert ep.side.stuck == []

    @pytest.mark.parametrize("length", [501, 0xFFFFFFFF])
    def test_impossible_len_is_refused_logged_once_and_the_queue_goes_on(self, length: int) -> None:
        pair, rc, ep = small_pair()
        for index in range(2):
            end = 512 * (index + 1)
            poke(ep, end - 12, struct.pack("<III", index, length, 1))
            rc.queue.tx.index, rc.queue.tx.tx_pkts = index + 1, index + 1
        rc.queue.tx_enqueue(b"good", 4)
        pair.flush()

        assert ep.lengths == [-errno.EIO, -errno.EIO, 4]
        assert ep.queue.rx.rx_err_oflow == 2
        assert ep.side.logs("transport.refused") == [{"cause": "queue 0 frame_len", "value": f"{length:#x}"}]

    @pytest.mark.covers("NTB 149")
    def test_frame_waits_for_a_buffer(self) -> None:
        pair, rc, ep = small_pair()
        while ep.queue.rx.take_pending() is not None:
            pass

        rc.queue.tx_enqueue(b"patient", 7)
        pair.flush()
        assert (ep.queue.rx.rx_err_no_buf, ep.side.delivered) == (2, [])
        assert ep.queue.rx_enqueue(100) == 0
        pair.flush()

        assert ep.side.delivered == [b"patient"]

    def test_no_more_buffers_than_entries(self) -> None:
        _, rc, _ = small_pair()

        assert rc.queue.rx.pending == 100
        assert rc.queue.rx_enqueue(100) == -errno.ENOMEM

    @pytest.mark.covers("NTB 150")
    def test_empty_ring_counts_one_for_each_run(self) -> None:
        _, rc, _ = small_pair()
        before = rc.queue.rx.rx_ring_empty

        rc.queue.run_rx()
        rc.queue.run_rx()

        assert rc.queue.rx.rx_ring_empty == before + 2

    @pytest.mark.covers("NTB 151")
    def test_one_run_handles_at_most_a_ring_and_then_runs_again(self) -> None:
        _, _, ep = small_pair()
        for index in range(7):
            poke(ep, 512 * (index + 1) - 12, struct.pack("<III", index, 1, 1))
        before = ep.queue.rx.rx_ring_empty

        ep.queue.run_rx()

        assert ep.queue.rx.rx_pkts == 7
        assert ep.queue.rx.rx_ring_empty == before + 1

    @pytest.mark.covers("NTB 152")
    def test_doorbell_found_after_the_run_is_cleared_and_causes_one_more(self) -> None:
        _, _, ep = small_pair()
        before = ep.queue.rx.rx_ring_empty
        ep.side.ntb.db = 0b11

        ep.queue.run_rx()

        assert ep.side.ntb.db == 0b10
        assert ep.queue.rx.rx_ring_empty == before + 2

    @pytest.mark.covers("NTB 160")
    def test_any_doorbell_vector_wakes_every_active_queue(self) -> None:
        pair = Pair(([1 << 20], [1 << 20]), clients=(2, 2))
        for side in pair.sides:
            side.probe()
        clients = [Client(side) for side in pair.sides for _ in range(2)]
        for client in clients:
            client.side.transport.link_up(client.queue)
        pair.advance(100 * MS)
        before = [queue.rx.rx_ring_empty for queue in pair.ep.transport.queues]

        pair.ep.ntb.signal_db_event(9)

        assert [queue.rx.rx_ring_empty for queue in pair.ep.transport.queues] == [n + 1 for n in before]

    @pytest.mark.covers("HAZARD 10.19", "NTB 139")
    def test_unaligned_frames_travel(self) -> None:
        pair = Pair(([0x8000], [0x8000]))
        rc, ep = pair.start()
        assert rc.queue.tx.geometry.max_frame == 16382

        for data in (b"one", bytes(16370), b"three"):
            assert rc.queue.tx_enqueue(data, len(data)) == 0
            pair.flush()

        assert ep.side.delivered == [b"one", bytes(16370), b"three"]

    @pytest.mark.covers("NTB 161", "HAZARD 10.18")
    def test_windows_of_different_size_in_the_two_directions(self) -> None:
        pair = Pair(([8192], [4096]), mtu=512)
        rc, ep = pair.start()

        assert (rc.queue.tx_free_entry(), ep.queue.tx_free_entry()) == (14, 6)
        for sender, receiver in ((rc, ep), (ep, rc)):
            for number in range(40):
                data = f"{sender.side.name} {number}".encode()
                assert sender.queue.tx_enqueue(data, len(data)) == 0
                pair.flush()
            assert len(receiver.side.delivered) == 40

    def test_a_client_that_closes_while_it_takes_a_frame_gets_no_more(self) -> None:
        pair, rc, ep = small_pair()
        ep.repost = False
        rc.queue.tx_enqueue(b"one", 3)
        rc.queue.tx_enqueue(b"two", 3)
        original = ep.rx

        def close_then_take(frame: memoryview | None, length: int) -> None:
            original(frame, length)
            ep.side.transport.link_down(ep.queue)

        ep.rx = close_then_take  # type: ignore[method-assign]  # the client's handler, replaced for this test
        pair.flush()

        assert ep.side.delivered == [b"one"]
        assert not rc.queue.link_is_up


@pytest.mark.covers("NTB 143", "NTB 146")
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), start=st.sampled_from([0, 2**32 - 3, 2**40 - 2]))
def test_any_interleaving_delivers_each_frame_once_and_in_order(seed: int, start: int) -> None:
    chance = random.Random(seed)
    pair, rc, ep = small_pair()
    for client in (rc, ep):
        client.queue.tx.tx_pkts = client.queue.rx.rx_pkts = start
    accepted: dict[str, list[bytes]] = {"rc": [], "ep": []}

    for number in range(120):
        sender = chance.choice((rc, ep))
        data = f"{number}:".encode() * chance.randrange(1, 60)
        if sender.queue.tx_enqueue(data, len(data)) == 0:
            accepted[sender.side.name].append(data)
        pair.perform(sender.side)
        for _ in range(chance.randrange(8)):
            side = chance.choice(pair.sides)
            if side.inbox:
                pair.receive_one(side)
    pair.flush()

    assert ep.side.delivered == accepted["rc"]
    assert rc.side.delivered == accepted["ep"]
    assert rc.queue.tx_free_entry() == ep.queue.tx_free_entry() == 6
