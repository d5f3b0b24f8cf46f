from __future__ import annotations

import errno
from typing import Any

import pytest

from ntbnet.devices.netdev import COUNTERS, Netdev
from ntbnet.devices.tick import Tick
from ntbnet.errors import KernelError
from tests.unit.devices.ntb_pair import HZ, MS, Pair, Side

MACS = {"rc": bytes.fromhex("02aa00000001"), "ep": bytes.fromhex("02bb00000002")}
IPV4 = b"\x45"
IPV6 = b"\x60"


def make(
    pair: Pair,
    side: Side,
    mtu: int | None = None,
    tx_stop: int = 5,
    queues: int = 1,
    *,
    offloads: bool = False,
) -> Netdev:
    peer = pair.peer_of(side).name
    limit = side.transport.queues[0].max_size - 14
    return Netdev(
        side.transport,
        side.outbox,
        side.tasks,
        Tick(HZ),
        mtu=limit if mtu is None else mtu,
        local_mac=MACS[side.name],
        peer_mac=MACS[peer],
        tx_stop=tx_stop,
        queues=queues,
        offloads=offloads,
    )


def start(pair: Pair, mtu: int | None = None) -> tuple[Netdev, Netdev]:
    for side in pair.sides:
        side.probe()
    devices = make(pair, pair.rc, mtu), make(pair, pair.ep, mtu)
    for device in devices:
        device.open()
    pair.advance(100 * MS)
    assert all(device.carrier for device in devices)
    return devices


def inject(sender: Netdev, frame: bytes) -> None:
    """Send a raw Ethernet frame, as a foreign kernel might."""
    assert sender.queue.tx_enqueue(frame, len(frame)) == 0


@pytest.mark.covers("NTB 166")
def test_default_mtu_and_its_limit() -> None:
    pair = Pair()
    rc, _ = start(pair)

    assert rc.max_mtu == rc.mtu == 65510
    for mtu in (65511, -1):
        with pytest.raises(KernelError) as caught:
            rc.set_mtu(mtu)
        assert caught.value.errno == errno.EINVAL


def test_an_mtu_the_queue_cannot_carry_leaves_the_queue_free() -> None:
    pair = Pair()
    pair.rc.probe()

    with pytest.raises(KernelError, match="65511"):
        make(pair, pair.rc, 65511)
    assert make(pair, pair.rc).queue.number == 0


def test_without_a_free_queue_there_is_no_interface() -> None:
    pair = Pair()
    pair.rc.probe()
    first = make(pair, pair.rc)

    with pytest.raises(KernelError) as caught:
        make(pair, pair.rc)
    assert caught.value.errno == errno.EIO
    first.remove()
    assert make(pair, pair.rc).queue is first.queue


@pytest.mark.parametrize("mac", [b"", bytes(5), bytes(7)])
def test_mac_of_another_length_is_refused(mac: bytes) -> None:
    pair = Pair()
    pair.rc.probe()
    with pytest.raises(ValueError, match="6"):
        Netdev(
            pair.rc.transport,
            pair.rc.outbox,
            pair.rc.tasks,
            Tick(HZ),
            mtu=1,
            local_mac=mac,
            peer_mac=mac,
        )


@pytest.mark.covers("NTB 168")
def test_carrier_follows_the_queue_link() -> None:
    pair = Pair()
    rc, _ = start(pair)
    pair.set_link(0)
    pair.set_link(1)
    pair.advance(100 * MS)
    rc.close()
    pair.flush()

    assert pair.rc.carrier() == [False, True, False, True, False]
    assert pair.ep.carrier() == [False, True, False, True, False]


@pytest.mark.covers("NTB 170", "NTB 173")
@pytest.mark.parametrize("version", [IPV4, IPV6])
def test_packets_of_every_size_cross_unchanged_in_both_directions(version: bytes) -> None:
    pair = Pair()
    devices = start(pair)
    sizes = [1, 20, 60, 1500, 9000, 65509, 65510]

    for sender, receiver in (devices, devices[::-1]):
        receiving = pair.rc if receiver is devices[0] else pair.ep
        for size in sizes:
            packet = version + bytes(n & 0xFF for n in range(size - 1))
            assert sender.xmit(packet)
            pair.flush()
            assert receiving.delivered[-1] == packet
        frames = sum(sizes) + 14 * len(sizes)
        assert (sender.tx_packets, sender.tx_bytes) == (len(sizes), frames)
        assert (receiver.rx_packets, receiver.rx_bytes) == (len(sizes), frames)


def test_the_frame_on_the_wire_has_an_ethernet_header() -> None:
    pair = Pair()
    rc, _ = start(pair)

    rc.xmit(IPV6 + b"x")
    pair.perform(pair.rc)

    frame = next(message for message in pair.rc.sent[::-1] if len(getattr(message, "data", b"")) == 16)
    assert bytes(frame.data) == MACS["ep"] + MACS["rc"] + b"\x86\xdd" + IPV6 + b"x"


def test_a_packet_put_into_the_buffer_is_sent_from_there() -> None:
    pair = Pair()
    rc, _ = start(pair)
    packet = IPV4 + b" in place"
    room = rc.room()
    room[: len(packet)] = packet

    assert rc.xmit_in_place(len(packet))
    rc.end_burst()
    pair.flush()

    assert pair.ep.delivered == [packet]
    assert len(room) == rc.max_mtu + 1


@pytest.mark.parametrize("packet", [b"", b"\x00abc", b"\x50abc", IPV4 + bytes(1500), IPV4 + bytes(70000)])
def test_what_is_no_ip_packet_or_too_long_is_dropped(packet: bytes) -> None:
    pair = Pair()
    rc, _ = start(pair, mtu=1500)
    pair.rc.sent.clear()

    assert rc.xmit(packet)
    pair.flush()

    assert (rc.tx_dropped, pair.rc.sent) == (1, [])


@pytest.mark.covers("NTB 173")
def test_a_queue_that_is_down_drops() -> None:
    pair = Pair()
    rc, _ = start(pair)
    pair.set_link(0)

    assert rc.xmit(IPV4)
    assert (rc.tx_dropped, rc.tx_packets) == (1, 0)


class TestFlowControl:
    @pytest.mark.covers("NTB 169")
    def test_stops_below_five_free_frames_and_the_timer_wakes_it(self) -> None:
        pair = Pair()
        rc, _ = start(pair)
        pair.rc.effects.clear()

        sent = 0
        while rc.xmit(IPV4):
            sent += 1
        pair.perform(pair.rc)
        assert sent == 14 - 4
        assert pair.rc.stops() == [True]
        assert rc.queue.tx_free_entry() == 4
        pair.advance(10 * MS)

        assert pair.rc.stops() == [True, False]
        assert rc.xmit(IPV4)

    def test_with_a_stop_level_of_one_the_whole_ring_is_used(self) -> None:
        pair = Pair()
        for side in pair.sides:
            side.probe()
        rc, ep = make(pair, pair.rc, tx_stop=1), make(pair, pair.ep)
        rc.open()
        ep.open()
        pair.advance(100 * MS)

        sent = 0
        while rc.xmit(IPV4):
            sent += 1

        assert sent == 14
        assert rc.queue.tx_free_entry() == 0

    @pytest.mark.covers("NTB 169")
    def test_timer_goes_on_while_the_ring_is_full(self) -> None:
        pair = Pair()
        rc, ep = start(pair)
        while ep.queue.rx.take_pending() is not None:
            pass
        while rc.xmit(IPV4):
            pass

        pair.advance(100 * MS)
        pair.perform(pair.rc)
        assert pair.rc.stops()[-1]
        ep.queue.rx_enqueue(100)
        pair.advance(10 * MS)

        assert not pair.rc.stops()[-1]
        assert len(pair.ep.delivered) == 10

    @pytest.mark.covers("NTB 169")
    def test_a_completion_wakes_it_from_ten_free_frames(self) -> None:
        pair = Pair()
        rc, _ = start(pair)
        pair.rc.effects.clear()
        while rc.xmit(IPV4):
            pass
        rc.sent(1)
        pair.perform(pair.rc)
        assert pair.rc.stops() == [True]
        pair.flush()

        rc.sent(1)
        pair.flush()

        assert pair.rc.stops() == [True, False]

    def test_an_aborted_transmission_counts_as_error(self) -> None:
        pair = Pair()
        rc, _ = start(pair)

        rc.sent(-errno.EIO)

        assert (rc.tx_errors, rc.tx_aborted_errors, rc.tx_packets) == (1, 1, 0)

    @pytest.mark.covers("NTB 171", "HAZARD 10.32")
    def test_a_ring_of_five_frames_never_transmits(self) -> None:
        pair = Pair(([5 * 512 + 4], [5 * 512 + 4]), mtu=512)
        rc, _ = start(pair)
        assert rc.queue.tx.geometry.max_entry == 5

        for _ in range(5):
            assert not rc.xmit(IPV4)
            pair.advance(20 * MS)

        assert rc.tx_packets == 0

    def test_link_loss_frees_a_stopped_queue_and_ends_its_timer(self) -> None:
        pair = Pair()
        rc, _ = start(pair)
        while rc.xmit(IPV4):
            pass

        pair.set_link(0)

        assert not rc.stopped
        assert pair.rc.tasks.next_deadline() is None


class TestReceive:
    @pytest.mark.parametrize(
        ("frame", "counter"),
        [
            (b"short", "rx_length_errors"),
            (bytes(14), "rx_length_errors"),
            (MACS["rc"] + MACS["rc"] + b"\x08\x00" + IPV4, "rx_dropped"),
            (MACS["ep"] + MACS["rc"] + b"\x08\x06" + IPV4, "rx_dropped"),
            (MACS["ep"] + MACS["rc"] + b"\x08\x00" + IPV6, "rx_dropped"),
            (MACS["ep"] + MACS["rc"] + b"\x86\xdd" + IPV4, "rx_dropped"),
            (MACS["ep"] + MACS["rc"] + b"\x08\x00\x00", "rx_dropped"),
        ],
    )
    def test_foreign_frames_are_counted_and_not_delivered(self, frame: bytes, counter: str) -> None:
        pair = Pair()
        rc, ep = start(pair)

        inject(rc, frame)
        pair.flush()

        assert pair.ep.delivered == []
        assert ep.snapshot()[counter] == 1
        assert ep.queue.rx.pending == 100

    @pytest.mark.parametrize("destination", [b"\xff" * 6, bytes.fromhex("333300000001"), MACS["ep"]])
    def test_group_frames_and_other_senders_are_taken(self, destination: bytes) -> None:
        pair = Pair()
        rc, _ = start(pair)

        inject(rc, destination + bytes.fromhex("020202020202") + b"\x86\xdd" + IPV6 + b"nd")
        pair.flush()

        assert pair.ep.delivered == [IPV6 + b"nd"]

    def test_a_frame_longer_than_the_receivers_mtu_is_an_error_and_the_next_arrives(self) -> None:
        pair = Pair()
        for side in pair.sides:
            side.probe()
        rc, ep = make(pair, pair.rc), make(pair, pair.ep, 1500)
        rc.open()
        ep.open()
        pair.advance(100 * MS)

        for packet in (IPV4 + bytes(1500), IPV4 + bytes(1499)):
            rc.xmit(packet)
        pair.flush()

        assert (ep.rx_errors, ep.rx_length_errors, ep.rx_packets) == (1, 1, 1)
        assert pair.ep.delivered == [IPV4 + bytes(1499)]

    def test_a_buffer_that_cannot_be_posted_again_counts(self) -> None:
        pair = Pair()
        rc, _ = start(pair)

        client = rc.queue.client
        assert client is not None
        client.rx(None, -errno.EIO)

        assert (rc.rx_errors, rc.rx_fifo_errors) == (2, 1)


class TestLife:
    @pytest.mark.covers("NTB 172")
    def test_open_posts_a_hundred_buffers_and_close_leaves_none(self) -> None:
        pair = Pair()
        rc, ep = start(pair)
        assert rc.queue.rx.pending == 100

        rc.close()
        rc.close()
        pair.flush()

        assert rc.queue.rx.pending == 0
        assert not ep.carrier
        rc.open()
        rc.open()
        pair.advance(200 * MS)
        assert rc.queue.rx.pending == 100
        assert rc.carrier
        assert ep.carrier

    def test_mtu_can_change_while_open(self) -> None:
        pair = Pair()
        devices = start(pair, mtu=1500)
        for mtu in (9000, 1280, 65510):
            for device in devices:
                device.set_mtu(mtu)
                pair.advance(300 * MS)
            assert all(device.carrier for device in devices)
            packet = IPV4 + bytes(mtu - 1)
            devices[0].xmit(packet)
            pair.flush()
            assert pair.ep.delivered[-1] == packet
        assert devices[1].rx_errors == 0

    def test_snapshot_names_every_counter(self) -> None:
        pair = Pair()
        rc, _ = start(pair)

        assert tuple(rc.snapshot()) == COUNTERS


def flow(number: int, length: int = 100) -> bytes:
    """A packet of UDP flow ``number``: the ports are the flow."""
    head = bytes((0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0)) + bytes((10, 77, 0, 1, 10, 77, 0, 2))
    return head + number.to_bytes(4, "big") + bytes(length - 24)


class TestSeveralQueues:
    @staticmethod
    def start(count: int = 3, **shape: Any) -> tuple[Pair, Netdev, Netdev]:
        pair = Pair(([1 << 20] * count, [1 << 20] * count), **shape)
        for side in pair.sides:
            side.probe()
        rc, ep = (make(pair, side, queues=count) for side in pair.sides)
        for device in (rc, ep):
            device.open()
        pair.advance(100 * MS)
        return pair, rc, ep

    def test_all_queues_come_up_and_carry(self) -> None:
        pair, rc, ep = self.start()
        for number in range(30):
            assert rc.xmit(flow(number))
            pair.flush()

        assert all(queue.link_is_up for device in (rc, ep) for queue in device.queues)
        assert len(pair.ep.delivered) == 30
        assert all(queue.rx.rx_pkts for queue in ep.queues)
        assert rc.snapshot()["tx_packets"] == ep.snapshot()["rx_packets"] == 30

    def test_first_frame_of_each_queue_is_told_after_a_link_up_and_when_it_is_asked_for(self) -> None:
        pair, rc, ep = self.start()

        def told() -> list[int]:
            for number in range(30):
                rc.xmit(flow(number))
                pair.flush()
            return sorted(keys["queue"] for keys in pair.ep.logs("netdev.packet_crossed"))

        assert told() == [0, 1, 2]
        assert told() == [0, 1, 2]
        ep.tell_first()
        assert told() == [0, 0, 1, 1, 2, 2]
        assert told() == [0, 0, 1, 1, 2, 2]

    def test_packets_of_one_flow_stay_on_one_queue_in_order(self) -> None:
        pair, rc, ep = self.start()
        for length in range(100, 110):
            rc.xmit(flow(7, length))
        pair.flush()

        assert sorted(queue.rx.rx_pkts for queue in ep.queues) == [0, 0, 10]
        assert [len(packet) for packet in pair.ep.delivered] == list(range(100, 110))

    def test_a_flow_changes_its_queue_behind_what_it_sent_through_the_other_one(self) -> None:
        pair, rc, ep = self.start(2)
        _, second = rc.queues
        number = next(n for n in range(99) if rc._queue_for(memoryview(flow(n)), 100) is second)
        second.link_is_up = False
        rc.queue_changed()
        pair.advance(20 * MS)
        for queue in ep.queues:
            queue.active = False  # a peer that is late
        assert rc.xmit(flow(number, 100))
        pair.perform(pair.rc)

        second.link_is_up = True
        rc.queue_changed()
        pair.perform(pair.rc)
        assert pair.rc.stops()[-1]
        assert not rc.xmit(flow(number, 101))

        for queue in ep.queues:
            queue.active = True
            queue.run_rx()
        pair.advance(20 * MS)
        assert not pair.rc.stops()[-1]
        assert rc.xmit(flow(number, 102))
        pair.flush()
        assert [len(packet) for packet in pair.ep.delivered] == [100, 102]
        assert [queue.rx.rx_pkts for queue in ep.queues] == [1, 1]

    def test_carrier_is_up_while_any_queue_is(self) -> None:
        pair, rc, ep = self.start()
        pair.ep.transport.link_down(ep.queues[0])
        pair.advance(20 * MS)
        assert [queue.link_is_up for queue in rc.queues] == [False, True, True]
        assert rc.carrier
        before = len(pair.ep.delivered)
        for number in range(20):
            rc.xmit(flow(number))
            pair.flush()
        assert len(pair.ep.delivered) == before + 20

        pair.set_link(0)
        assert not rc.carrier

    def test_one_full_ring_stops_the_interface_until_it_has_room(self) -> None:
        pair, rc, ep = self.start()
        for queue in ep.queues:
            while queue.rx.take_pending() is not None:
                pass
        while rc.xmit(flow(1)):
            pass
        pair.perform(pair.rc)
        assert pair.rc.stops()[-1]
        assert not rc.xmit(flow(2))
        for queue in ep.queues:
            for _ in range(30):
                queue.rx_enqueue(2000)
        pair.advance(20 * MS)

        assert not pair.rc.stops()[-1]
        assert rc.xmit(flow(2))

    def test_interface_uses_the_queues_that_are_free(self) -> None:
        pair = Pair(([1 << 20] * 3, [1 << 20] * 3))
        for side in pair.sides:
            side.probe()
        first = make(pair, pair.rc)
        rest = make(pair, pair.rc, queues=8)

        assert (len(first.queues), len(rest.queues)) == (1, 2)
        rest.remove()
        assert [queue.client is None for queue in pair.rc.transport.queues] == [False, True, True]

    def test_refused_mtu_gives_every_queue_back(self) -> None:
        pair = Pair(([1 << 20] * 3, [1 << 20] * 3))
        pair.rc.probe()
        with pytest.raises(KernelError):
            make(pair, pair.rc, 65511, queues=3)

        assert all(queue.client is None for queue in pair.rc.transport.queues)
