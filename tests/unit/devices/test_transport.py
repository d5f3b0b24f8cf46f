from __future__ import annotations

import errno

import pytest

from ntbnet.errors import KernelError
from tests.unit.devices.ntb_pair import MS, Client, Pair, Side

SPAD_VERSION, SPAD_QP_LINKS, SPAD_NUM_QPS, SPAD_NUM_MWS = 0, 1, 2, 3


def open_client(side: Side) -> Client:
    client = Client(side)
    side.transport.link_up(client.queue)
    return client


def probe_error(pair: Pair) -> KernelError:
    with pytest.raises(KernelError) as caught:
        list(pair.rc.transport.probe())
    return caught.value


def exchange(pair: Pair, sender: Client, receiver: Client, data: bytes) -> None:
    """Send one frame and see it arrive last."""
    assert sender.queue.tx_enqueue(data, len(data)) == 0
    pair.flush()
    assert receiver.side.delivered[-1] == data


class TestProbe:
    @pytest.mark.covers("NTB 127")
    def test_fewer_than_six_scratchpads_are_refused(self) -> None:
        assert probe_error(Pair(spads=5)).errno == errno.EINVAL

    @pytest.mark.covers("NTB 127", "NTB 128")
    @pytest.mark.parametrize(("spads", "windows"), [(6, 1), (7, 1), (8, 2), (10, 3), (12, 3)])
    def test_scratchpads_limit_the_windows(self, spads: int, windows: int) -> None:
        sizes = [0x10000] * 3
        pair = Pair((sizes, sizes), spads=spads)

        pair.rc.probe()
        pair.flush()

        assert (SPAD_NUM_MWS, windows) in pair.rc.spad_writes()

    @pytest.mark.covers("NTB 129", "NTB 130")
    @pytest.mark.parametrize(
        ("mask", "windows", "max_num_clients", "queues"),
        [
            (0x7FFF, 1, 0, 1),
            (0xF, 4, 0, 3),
            (0xFFFF, 2, 0, 2),
            (0xFFFF, 1, 4, 4),
            (0x3, 2, 4, 1),
            (0xFFFF, 1, 15, 1),
            (0xFFFF, 1, 14, 14),
        ],
    )
    def test_queue_count(self, mask: int, windows: int, max_num_clients: int, queues: int) -> None:
        sizes = [1 << 20] * windows
        pair = Pair((sizes, sizes), db_mask=mask, clients=(max_num_clients, 0))

        pair.rc.probe()

        assert len(pair.rc.transport.queues) == queues

    @pytest.mark.covers("HAZARD 10.20")
    def test_a_device_without_windows_doorbells_or_room_is_refused(self) -> None:
        for pair in (Pair(([], [])), Pair(db_mask=0), Pair(db_mask=1), Pair(([27], [27]))):
            assert probe_error(pair).errno == errno.EINVAL

    def test_a_claimed_device_is_refused(self) -> None:
        pair = Pair()
        pair.rc.probe()

        assert probe_error(pair).errno == errno.EINVAL

    def test_a_frame_must_have_room_for_a_payload(self) -> None:
        with pytest.raises(ValueError, match="transport_mtu 12"):
            Pair(mtu=12)

    def test_queues_are_handed_out_lowest_first(self) -> None:
        pair = Pair(clients=(2, 2))
        pair.rc.probe()
        first, second = Client(pair.rc), Client(pair.rc)

        assert (first.queue.number, second.queue.number) == (0, 1)
        assert pair.rc.transport.create_queue(first) is None
        pair.rc.transport.free_queue(first.queue)
        assert Client(pair.rc).queue.number == 0
        assert first.queue.rx.pending == 100


class TestHandshake:
    @pytest.mark.covers("NTB 121", "NTB 122")
    def test_announcements_and_their_order(self) -> None:
        pair = Pair(([0x10000, 0x20000], [0x10000, 0x20000]))

        pair.rc.probe()
        pair.flush()

        assert pair.rc.spad_writes() == [(4, 0), (5, 0x10000), (6, 0), (7, 0x20000), (3, 2), (2, 2), (0, 4)]

    def test_size_above_4_gib_uses_both_words_and_max_mw_size_caps_it(self) -> None:
        pair = Pair(([0x2_0010_0000], [0x2_0010_0000]))
        capped = Pair(([0x2_0010_0000], [0x2_0010_0000]), max_mw_size=0x8000)

        for some in (pair, capped):
            some.rc.probe()
            some.flush()

        assert pair.rc.spad_writes()[:2] == [(4, 2), (5, 0x100000)]
        assert capped.rc.spad_writes()[:2] == [(4, 0), (5, 0x8000)]

    @pytest.mark.covers("NTB 123")
    def test_with_the_peer_absent_it_repeats_until_the_link_falls(self) -> None:
        pair = Pair()
        pair.rc.probe()

        pair.advance(200 * MS)
        repeats = [index for index, _ in pair.rc.spad_writes()].count(SPAD_VERSION)
        assert repeats == 1 + 200 // 16
        assert pair.rc.logs("transport.handshake_waiting") == [
            {"reason": "peer announced version 0x0, expected 0x4"}
        ]
        pair.set_link(0)
        pair.advance(20 * MS)
        pair.rc.sent.clear()
        pair.advance(200 * MS)

        assert pair.rc.spad_writes() == []
        assert pair.rc.tasks.next_deadline() is None

    @pytest.mark.covers("NTB 124")
    @pytest.mark.parametrize("first", [0, 1])
    @pytest.mark.parametrize("latency_ns", [0, 3 * MS])
    def test_either_side_may_start_first(self, first: int, latency_ns: int) -> None:
        pair = Pair()
        pair.rc.ntb.latency_ns = latency_ns
        pair.sides[first].probe()
        pair.advance(70 * MS)
        pair.sides[1 - first].probe()
        pair.advance(200 * MS)

        assert pair.rc.transport.link_is_up
        assert pair.ep.transport.link_is_up
        assert pair.ep.logs("transport.link_changed") == [{"up": True, "reason": "handshake done"}]

    @pytest.mark.covers("NTB 125")
    @pytest.mark.parametrize("shape", ["queues", "windows"])
    def test_a_mismatch_never_brings_the_link_up(self, shape: str) -> None:
        shapes = {
            "queues": Pair(clients=(2, 3)),
            "windows": Pair(([0x10000], [0x10000] * 2), clients=(1, 1)),
        }
        pair = shapes[shape]
        for side in pair.sides:
            side.probe()
        pair.advance(500 * MS)

        assert not pair.rc.transport.link_is_up
        assert not pair.ep.transport.link_is_up
        assert any(shape in line["reason"] for line in pair.rc.logs("transport.handshake_waiting"))
        assert pair.rc.tasks.next_deadline() is not None

    @pytest.mark.covers("NTB 126")
    @pytest.mark.parametrize(("high", "low"), [(0, 0), (0, (4 << 20) + 1), (1, 0), (0, 20)])
    def test_an_impossible_size_aborts_without_retry(self, high: int, low: int) -> None:
        pair = Pair()
        pair.rc.probe()
        for _ in range(2):
            for index, value in (
                (4, high),
                (5, low),
                (SPAD_NUM_MWS, 1),
                (SPAD_NUM_QPS, 1),
                (SPAD_VERSION, 4),
            ):
                pair.rc.ntb.spads[index] = value
            pair.advance(100 * MS)

        assert not pair.rc.transport.link_is_up
        assert pair.rc.tasks.next_deadline() is None
        assert len(pair.rc.logs("transport.refused")) == 1
        assert pair.rc.ntb.trans == {}

    @pytest.mark.covers("HAZARD 10.11")
    def test_a_refused_window_gives_up_until_the_next_link_event(self) -> None:
        pair = Pair()
        pair.rc.ntb.set_trans_error = KernelError(errno.EIO, "command failed")
        for side in pair.sides:
            side.probe()
        pair.advance(100 * MS)

        assert not pair.rc.transport.link_is_up
        assert "command failed" in pair.rc.logs("transport.refused")[0]["cause"]
        pair.rc.ntb.set_trans_error = None
        pair.rc.ntb.signal_link_event()
        pair.advance(100 * MS)
        assert pair.rc.transport.link_is_up

    def test_a_window_command_without_answer_is_tried_again(self) -> None:
        pair = Pair()
        pair.rc.ntb.set_trans_error = KernelError(errno.ETIMEDOUT, "no answer")
        for side in pair.sides:
            side.probe()
        pair.advance(100 * MS)
        pair.rc.ntb.set_trans_error = None
        pair.advance(100 * MS)

        assert pair.rc.transport.link_is_up

    def test_a_size_damaged_by_a_cleanup_of_our_own_is_announced_again(self) -> None:
        pair = Pair()
        pair.ep.probe()
        pair.flush()
        pair.rc.ntb.spads[5] = 0
        pair.rc.probe()
        pair.advance(100 * MS)

        assert pair.rc.transport.link_is_up

    def test_no_memory_is_refused(self) -> None:
        pair = Pair(([1 << 20], [16 << 20]))
        pair.rc.ntb.size_max = 16 << 20
        for side in pair.sides:
            side.probe()
        pair.advance(100 * MS)

        assert not pair.rc.transport.link_is_up
        assert "ENOMEM" in pair.rc.logs("transport.refused")[0]["cause"]

    def test_memory_used_up_by_links_of_one_epoch_asks_for_another_epoch(self) -> None:
        pair = Pair()
        pair.start()
        pair.rc.ntb.out_of_memory = True
        pair.set_link(0)
        pair.set_link(1)
        pair.advance(100 * MS)

        assert len(pair.rc.stuck) == 1
        assert "ENOMEM" in pair.rc.logs("transport.queue_stuck")[0]["reason"]

    def test_receive_memory_is_aligned_to_its_size_and_fresh_in_each_epoch(self) -> None:
        pair = Pair(([0xF0000], [0xF0000]))
        pair.start()
        first = pair.rc.ntb.trans[0]
        pair.set_link(0)
        pair.set_link(1)
        pair.advance(100 * MS)
        second = pair.rc.ntb.trans[0]

        assert first[0] % 0x100000 == second[0] % 0x100000 == 0
        assert abs(first[0] - second[0]) >= 0xF0000
        assert first[1] == second[1] == 0xF0000


class TestQueueLink:
    @pytest.mark.covers("NTB 141")
    def test_at_link_up_rx_info_is_one_less_than_the_frames_and_headers_are_zero(self) -> None:
        pair = Pair()
        rc, _ = pair.start()
        base, _ = pair.rc.ntb.trans[0]

        assert rc.queue.tx.rx_info == 14
        assert pair.rc.ntb.dram.load_u32(base - pair.rc.ntb.dram.span.base + 0xFFFFC) == 14
        assert rc.queue.rx.run(rc.rx).name == "EMPTY"

    @pytest.mark.covers("NTB 131", "NTB 132")
    def test_a_queue_waits_for_the_peer_and_repeats(self) -> None:
        pair = Pair()
        for side in pair.sides:
            side.probe()
        rc = open_client(pair.rc)
        pair.advance(50 * MS)
        pair.rc.sent.clear()
        pair.advance(160 * MS)

        assert [index for index, _ in pair.rc.spad_writes()].count(SPAD_QP_LINKS) == 160 // 16
        assert rc.events == []
        ep = open_client(pair.ep)
        pair.advance(50 * MS)
        assert rc.queue.link_is_up
        assert ep.queue.link_is_up
        assert (rc.events, ep.events) == ([True], [True])

    @pytest.mark.covers("NTB 133")
    def test_a_client_that_is_early_is_served_when_the_transport_comes_up(self) -> None:
        pair = Pair()
        pair.rc.probe()
        rc = open_client(pair.rc)
        pair.advance(50 * MS)
        pair.ep.probe()
        ep = open_client(pair.ep)
        pair.advance(100 * MS)

        exchange(pair, rc, ep, b"early")

    @pytest.mark.covers("HAZARD 10.13", "NTB 131")
    def test_ready_bits_are_never_echoed(self) -> None:
        pair = Pair(clients=(2, 2))
        for side in pair.sides:
            side.probe()
        rc0, rc1 = Client(pair.rc), Client(pair.rc)
        ep0, ep1 = Client(pair.ep), Client(pair.ep)
        pair.rc.transport.link_up(rc0.queue)
        pair.ep.transport.link_up(ep1.queue)
        pair.advance(200 * MS)

        assert (pair.rc.ntb.spads[SPAD_QP_LINKS], pair.ep.ntb.spads[SPAD_QP_LINKS]) == (0b10, 0b01)
        assert not any(c.queue.link_is_up for c in (rc0, rc1, ep0, ep1))
        pair.rc.transport.link_up(rc1.queue)
        pair.advance(50 * MS)
        assert [c.queue.link_is_up for c in (rc0, rc1, ep0, ep1)] == [False, True, False, True]

    def test_impossible_ready_bits_are_refused(self) -> None:
        pair = Pair()
        for side in pair.sides:
            side.probe()
        pair.advance(50 * MS)
        rc = open_client(pair.rc)
        pair.rc.ntb.spads[SPAD_QP_LINKS] = 0xFFFFFFFF
        pair.advance(100 * MS)

        assert not rc.queue.link_is_up
        assert pair.rc.logs("transport.refused") == [{"cause": "qp_links", "value": "0xffffffff"}]

    @pytest.mark.covers("NTB 156", "NTB 158", "NTB 159", "NTB 143")
    def test_closing_withdraws_the_bit_then_sends_the_link_down_frame(self) -> None:
        pair = Pair()
        rc, ep = pair.start()
        exchange(pair, rc, ep, b"one")
        pair.rc.sent.clear()

        pair.rc.transport.link_down(rc.queue)
        pair.perform(pair.rc)

        spad, header, flags, _doorbell = pair.rc.sent
        assert int.from_bytes(spad.data, "little") == 0
        assert bytes(header.data) == (1).to_bytes(4, "little") + bytes(4)
        assert bytes(flags.data) == (3).to_bytes(4, "little")
        pair.flush()
        assert ep.events == [True, False]
        assert (ep.queue.rx.index, ep.queue.rx.rx_pkts, ep.queue.tx.rx_info) == (0, 0, 14)
        pair.ep.sent.clear()
        pair.advance(160 * MS)
        assert [index for index, _ in pair.ep.spad_writes()].count(SPAD_QP_LINKS) == 160 // 16

    def test_a_closed_queue_opens_again(self) -> None:
        pair = Pair()
        rc, ep = pair.start()
        for number in range(20):
            exchange(pair, rc, ep, b"before %d" % number)
        for closing in (rc, ep, rc):
            closing.side.transport.link_down(closing.queue)
            closing.side.transport.link_up(closing.queue)
            pair.advance(100 * MS)
            for number in range(40):
                exchange(pair, rc, ep, b"rc %d" % number)
                exchange(pair, ep, rc, b"ep %d" % number)
        assert pair.rc.stuck == pair.ep.stuck == []

    def test_frames_in_flight_while_a_queue_closes_are_not_taken_for_new_ones(self) -> None:
        pair = Pair(([4096], [4096]), mtu=512)
        rc, ep = pair.start()
        for _ in range(3):
            ep.queue.tx_enqueue(b"late", 4)

        pair.rc.transport.link_down(rc.queue)
        pair.rc.transport.link_up(rc.queue)
        pair.advance(200 * MS)
        for number in range(20):
            exchange(pair, ep, rc, b"%d" % number)

        assert b"late" not in pair.rc.delivered
        assert pair.rc.stuck == []

    def test_closing_before_the_peer_is_seen_tells_a_peer_that_is_up(self) -> None:
        """The side that finishes first is up before the other has noticed its answer."""
        pair = Pair()
        for side in pair.sides:
            side.probe()
        pair.advance(50 * MS)
        rc, ep = open_client(pair.rc), Client(pair.ep)
        pair.flush()
        pair.ep.transport.link_up(ep.queue)
        pair.flush()
        assert (rc.queue.link_is_up, ep.queue.link_is_up) == (False, True)

        pair.rc.transport.remove(graceful=True)
        pair.flush()
        pair.reload(pair.rc)
        rc = open_client(pair.rc)
        pair.advance(100 * MS)

        assert ep.events == [True, False, True]
        exchange(pair, rc, ep, b"after")

    def test_a_session_the_peer_ended_before_we_came_up_leaves_nothing(self) -> None:
        pair = Pair()
        for side in pair.sides:
            side.probe()
        pair.advance(50 * MS)
        rc, ep = open_client(pair.rc), Client(pair.ep)
        pair.flush()
        pair.ep.transport.link_up(ep.queue)
        pair.flush()
        assert ep.queue.tx_enqueue(b"too early", 9) == 0
        pair.ep.transport.link_down(ep.queue)
        pair.ep.transport.link_up(ep.queue)
        pair.advance(200 * MS)

        exchange(pair, ep, rc, b"fresh")
        exchange(pair, rc, ep, b"and back")
        assert pair.rc.delivered == [b"fresh"]
        assert (rc.events, pair.rc.stuck, pair.ep.stuck) == ([True], [], [])

    def test_both_sides_may_close_at_once(self) -> None:
        pair = Pair()
        rc, ep = pair.start()
        for client in (rc, ep):
            client.side.transport.link_down(client.queue)
        pair.flush()
        for client in (rc, ep):
            client.side.transport.link_up(client.queue)
        pair.advance(400 * MS)

        exchange(pair, rc, ep, b"again")
        exchange(pair, ep, rc, b"and back")

    def test_a_full_ring_delays_the_link_down_frame(self) -> None:
        pair = Pair(([4096], [4096]), mtu=512)
        rc, ep = pair.start()
        ep.repost = False
        while ep.queue.rx.take_pending() is not None:
            pass
        while rc.queue.tx_enqueue(b"x", 1) == 0:
            pass

        pair.rc.transport.link_down(rc.queue)
        pair.advance(50 * MS)
        assert ep.events == [True]
        for _ in range(10):
            ep.queue.rx_enqueue(100)
        pair.advance(200 * MS)

        assert ep.events == [True, False]
        assert len(pair.ep.delivered) == 6

    def test_a_ring_that_stays_full_asks_for_a_new_epoch(self) -> None:
        pair = Pair(([4096], [4096]), mtu=512)
        rc, ep = pair.start()
        ep.repost = False
        while ep.queue.rx.take_pending() is not None:
            pass
        while rc.queue.tx_enqueue(b"x", 1) == 0:
            pass

        pair.rc.transport.link_down(rc.queue)
        pair.advance(2000 * MS)

        assert pair.rc.stuck == ["queue 0: link-down frame not sent"]
        assert not rc.queue.active

    @pytest.mark.covers("NTB 157")
    def test_reset_zeroes_counters_and_indices(self) -> None:
        pair = Pair()
        rc, ep = pair.start()
        exchange(pair, rc, ep, b"x")
        exchange(pair, ep, rc, b"y")

        rc.queue.reset()

        zero = {name for name, value in rc.queue.snapshot().items() if value == 0}
        assert zero >= {
            "rx_bytes", "rx_pkts", "rx_memcpy", "rx_async", "rx_ring_empty", "rx_err_no_buf", "rx_err_oflow",
            "rx_err_ver", "tx_bytes", "tx_pkts", "tx_memcpy", "tx_async", "tx_ring_full", "tx_err_no_buf",
            "rx_index", "tx_index",
        }  # fmt: skip
        assert rc.queue.tx.rx_info == 14


class TestLinkDown:
    @pytest.mark.covers("NTB 134", "HAZARD 10.16")
    def test_scratchpads_are_zeroed_windows_closed_queues_reset(self) -> None:
        pair = Pair()
        rc, _ = pair.start()

        pair.set_link(0)

        assert pair.rc.ntb.spads == [0] * 16
        assert pair.rc.ntb.trans == {}
        assert rc.events == [True, False]
        assert not pair.rc.transport.link_is_up
        assert pair.rc.logs("transport.link_changed")[-1] == {"up": False, "reason": "link bit is 0"}
        assert pair.rc.logs("transport.queue_changed")[-1] == {"queue": 0, "up": False}

    @pytest.mark.covers("HAZARD 10.16")
    def test_a_client_opening_after_link_loss_works_on_no_freed_memory(self) -> None:
        pair = Pair()
        for side in pair.sides:
            side.probe()
        pair.advance(50 * MS)
        pair.set_link(0)
        client = open_client(pair.rc)
        pair.rc.sent.clear()
        pair.advance(100 * MS)

        assert pair.rc.sent == []
        assert client.queue.tx_free_entry() == 14
        assert client.queue.tx_enqueue(b"x", 1) == -errno.ENOLINK

    @pytest.mark.covers("NTB 135")
    @pytest.mark.parametrize("latency_ns", [0, 2 * MS])
    def test_after_down_and_up_frames_flow_again(self, latency_ns: int) -> None:
        pair = Pair()
        rc, ep = pair.start()
        pair.rc.ntb.latency_ns = latency_ns
        for _ in range(3):
            exchange(pair, rc, ep, b"before")
            pair.set_link(0)
            pair.advance(200 * MS)
            pair.set_link(1)
            pair.advance(300 * MS)
            exchange(pair, ep, rc, b"after")

    @pytest.mark.parametrize("latency_ns", [0, 2 * MS])
    def test_a_flap_too_short_to_be_read_is_told_by_link_lost(self, latency_ns: int) -> None:
        pair = Pair()
        rc, ep = pair.start()
        pair.rc.ntb.latency_ns = latency_ns
        for _ in range(3):
            for side in pair.sides:
                side.transport.link_lost("epoch changed")
            assert rc.queue.link_is_up is False
            pair.advance(400 * MS)
            exchange(pair, rc, ep, b"after")
        assert rc.events == [True, False, False] * 3 + [True]

    def test_an_event_without_a_change_disturbs_nothing(self) -> None:
        pair = Pair()
        rc, ep = pair.start()
        exchange(pair, rc, ep, b"one")
        pair.rc.sent.clear()

        pair.rc.ntb.signal_link_event()
        pair.flush()

        assert pair.rc.sent == []
        exchange(pair, rc, ep, b"two")


class TestRemoval:
    @pytest.mark.covers("NTB 136", "HAZARD 10.14")
    @pytest.mark.parametrize("reloaded", [0, 1])
    def test_a_reloaded_transport_finds_the_side_that_had_finished(self, reloaded: int) -> None:
        pair = Pair()
        clients = list(pair.start())
        exchange(pair, clients[0], clients[1], b"before")
        side = pair.sides[reloaded]

        done: list[None] = []
        side.transport.remove(graceful=True, on_done=done.append)
        pair.flush()
        assert done == [None]
        assert side.ntb.spads == [0] * 16
        assert side.ntb.trans == {}
        assert side.ntb.calls[-1] == "link_disable"
        pair.advance(100 * MS)
        pair.reload(side)
        clients[reloaded] = open_client(side)
        pair.advance(200 * MS)

        exchange(pair, clients[0], clients[1], b"after")
        exchange(pair, clients[1], clients[0], b"and back")

    def test_removal_tells_the_peer(self) -> None:
        pair = Pair()
        _, ep = pair.start()

        pair.rc.transport.remove(graceful=True)
        pair.flush()

        assert ep.events == [True, False]
        assert pair.rc.transport.create_queue(ep) is None

    @pytest.mark.parametrize("latency_ns", [0, 1 * MS])
    def test_removal_of_a_device_that_is_gone_touches_nothing(self, latency_ns: int) -> None:
        pair = Pair()
        rc, _ = pair.start()
        pair.rc.ntb.latency_ns = latency_ns
        pair.rc.ntb.gone = True
        pair.rc.sent.clear()

        done: list[None] = []
        pair.rc.transport.remove(graceful=False, on_done=done.append)
        pair.flush()
        pair.rc.transport.link_event()
        pair.rc.transport.link_lost("late news")
        pair.rc.transport.link_down(rc.queue)
        pair.rc.tasks.on_deadline(pair.now_ns + 1000 * MS)
        pair.perform(pair.rc)

        assert done == [None]
        assert pair.rc.sent == []
        assert rc.events == [True, False]
        assert rc.queue.rx.pending == 0
        assert pair.rc.tasks.next_deadline() is None

    def test_removal_in_the_middle_of_the_handshake(self) -> None:
        for stop_ms in range(12):
            pair = Pair()
            pair.rc.ntb.latency_ns = MS
            for side in pair.sides:
                side.probe()
            pair.advance(stop_ms * MS)
            pair.rc.transport.remove(graceful=True)
            pair.advance(100 * MS)
            assert pair.rc.tasks.next_deadline() is None
            assert pair.rc.ntb.trans == {}

    def test_a_queue_closed_from_the_stuck_report_ends_cleanly(self) -> None:
        """The owner may answer ``on_stuck`` at once with a new epoch."""
        pair = Pair()
        rc, ep = pair.start()
        pair.ep.stuck.answer = pair.ep.transport.link_lost
        rc.queue.tx.tx_pkts = 9
        rc.queue.tx_enqueue(b"x", 1)
        pair.flush()
        pair.rc.transport.link_lost("told by the peer")
        pair.advance(200 * MS)

        exchange(pair, rc, ep, b"healed")


class TestStatistics:
    @pytest.mark.covers("NTB 162")
    def test_statistics_have_the_names_of_debugfs_in_its_order(self) -> None:
        pair = Pair()
        rc, ep = pair.start()
        exchange(pair, rc, ep, b"abc")
        (stats,) = pair.rc.transport.snapshot()

        assert list(stats) == [
            "rx_bytes", "rx_pkts", "rx_memcpy", "rx_async", "rx_ring_empty", "rx_err_no_buf", "rx_err_oflow",
            "rx_err_ver", "rx_buff", "rx_index", "rx_max_entry", "rx_alloc_entry", "tx_bytes", "tx_pkts",
            "tx_memcpy", "tx_async", "tx_ring_full", "tx_err_no_buf", "tx_mw", "tx_index", "rx_info",
            "tx_max_entry", "free_tx", "link", "rx_info_impossible", "interrupts", "rings",
            "rings_saved", "polled", "found",
            "tx_in_flight", "dma_errors", "has_client",
        ]  # fmt: skip
        assert (stats["tx_bytes"], stats["tx_pkts"], stats["rx_pkts"], stats["link"]) == (3, 1, 0, "up")

    def test_statistics_of_a_down_queue_say_so(self) -> None:
        pair = Pair()
        pair.rc.probe()

        assert pair.rc.transport.snapshot()[0]["link"] == "down"


class TestChosenWindows:
    def test_only_chosen_windows_carry_frames_and_their_offsets_are_passed_on(self) -> None:
        """Windows 0 and 2 of three: the one between is for interrupts."""
        sizes = [1 << 20, 0x8000, 1 << 19]
        pair = Pair((sizes, sizes), windows=(0, 2))
        for side in pair.sides:
            side.ntb.offsets = [0, 0x100000, 0x200000]
        clients = pair.start()
        second = [Client(side) for side in pair.sides]
        for client in second:
            client.side.transport.link_up(client.queue)
        pair.advance(100 * MS)

        assert set(pair.rc.ntb.trans) == set(pair.ep.ntb.trans) == {0, 2}
        assert [queue.tx.geometry.widx for queue in pair.rc.transport.queues] == [0, 2]
        for client in (*clients, *second):
            assert client.queue.tx_enqueue(b"x" * 500, 500) == 0
        pair.flush()
        assert (len(pair.rc.delivered), len(pair.ep.delivered)) == (2, 2)
        assert pair.ep.ntb.spads[3:10] == [2, 0, 1 << 20, 0, 1 << 19, 0, 0]

    def test_transport_without_a_data_window_is_refused(self) -> None:
        assert "no memory window" in str(probe_error(Pair(windows=())))

    def test_window_that_the_device_does_not_have_is_left_out(self) -> None:
        pair = Pair(windows=(0, 3))
        pair.rc.probe()

        assert len(pair.rc.transport.queues) == 1
