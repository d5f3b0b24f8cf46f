from __future__ import annotations

from ntbnet.devices.complaints import MOST_PER_EPOCH, Complaints, Once
from ntbnet.devices.effects import Outbox
from tests.unit.devices.kit import logged


def test_each_cause_is_first_once_until_the_next_epoch() -> None:
    once = Once()

    assert [once.is_first("a"), once.is_first("a", "b"), once.is_first("a")] == [True, True, False]
    once.begin_epoch()
    assert once.is_first("a")


def test_causes_that_a_peer_makes_up_are_bounded() -> None:
    once = Once()

    assert sum(once.is_first(str(number)) for number in range(1000)) == MOST_PER_EPOCH


def test_complaints_of_one_kind_leave_room_for_those_of_another() -> None:
    outbox = Outbox()
    complaints = Complaints(outbox, lambda _reason: None)
    for number in range(100):
        complaints.waiting(f"version {number}")
    complaints.refused("rx_info", 7)
    complaints.refused("rx_info", 8)
    effects = outbox.take()

    assert len(logged(effects, "transport.handshake_waiting")) == MOST_PER_EPOCH
    assert logged(effects, "transport.refused") == [{"cause": "rx_info", "value": "0x7"}]


def test_only_the_first_stuck_queue_asks_for_a_new_epoch() -> None:
    reasons: list[str] = []
    complaints = Complaints(Outbox(), reasons.append)
    for queue in (0, 0, 1):
        complaints.stuck(queue, "rx_info")

    assert reasons == ["queue 0: rx_info"]
