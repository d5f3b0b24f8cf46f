"""The built-in ping-pong, over loopback and against servers that misbehave."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from ntbnet.app.pingpong import MESSAGE_BYTES, Trips, ping_pong
from ntbnet.errors import SetupError


def loopback(_namespace: str) -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


class Misbehaving(socket.socket):
    """A server's socket whose answers a test chooses: for each message, those it sends."""

    answers: Callable[[int, bytes], list[bytes]]

    def sendto(self, data: bytes, address: object) -> int:  # type: ignore[override]  # the one form used
        for reply in self.answers(int.from_bytes(data[:8], "little"), data):
            super().sendto(reply, address)  # type: ignore[call-overload]  # an address, as recvfrom gave it
        return len(data)


def against(answers: Callable[[int, bytes], list[bytes]], reply_timeout_s: float = 0.25) -> Trips:
    def opened(namespace: str) -> socket.socket:
        if namespace == "client":
            return loopback(namespace)
        server = Misbehaving(socket.AF_INET, socket.SOCK_DGRAM)
        server.answers = answers
        return server

    return ping_pong(
        ("client", "server"),
        "127.0.0.1",
        seconds=30,
        warm_up_s=0,
        most=5,
        reply_timeout_s=reply_timeout_s,
        open_socket=opened,
    )


@contextmanager
def threads_as_before() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert threading.active_count() == before


def test_latency_is_half_of_each_round_trip() -> None:
    trips = Trips(spans=[(1000, 7000), (10_000, 14_000)])

    assert trips.latencies_us() == [3.0, 2.0]


def test_messages_go_one_at_a_time_and_all_come_back() -> None:
    with threads_as_before():
        trips = ping_pong(("", ""), "127.0.0.1", seconds=30, warm_up_s=0, most=20, open_socket=loopback)

    assert len(trips.spans) == trips.sent == 20
    assert (trips.dropped, trips.duplicated, trips.out_of_order) == (0, 0, 0)
    assert all(sent < received for sent, received in trips.spans)
    assert all(before[1] <= after[0] for before, after in zip(trips.spans, trips.spans[1:], strict=False))


def test_first_moments_are_not_counted() -> None:
    trips = ping_pong(("", ""), "127.0.0.1", seconds=0.01, warm_up_s=0.02, open_socket=loopback)

    assert 0 < len(trips.spans) < trips.sent


def test_messages_have_the_size_that_sockperf_measures_with() -> None:
    sizes = set()

    def note(number: int, data: bytes) -> list[bytes]:
        sizes.add(len(data))
        return [data]

    against(note)
    assert sizes == {MESSAGE_BYTES} == {14}


def test_an_answer_that_comes_twice_is_counted() -> None:
    trips = against(lambda _, data: [data, data])

    assert (len(trips.spans), trips.dropped) == (5, 0)
    assert trips.duplicated == 4  # that of the last message comes when nobody listens any more


def test_a_message_without_an_answer_is_dropped() -> None:
    trips = against(lambda number, data: [] if number == 2 else [data])

    assert (len(trips.spans), trips.sent, trips.dropped) == (5, 6, 1)


def test_an_overtaken_answer_is_out_of_order_and_not_dropped() -> None:
    kept: list[bytes] = []

    def late(number: int, data: bytes) -> list[bytes]:
        if number == 2:
            kept.append(data)
            return []
        return [*kept, data] if number == 3 else [data]

    trips = against(late)

    assert (trips.dropped, trips.out_of_order, trips.duplicated) == (0, 1, 0)


@pytest.mark.parametrize("junk", [b"x", bytes(63)])
def test_answers_of_another_size_are_no_answers(junk: bytes) -> None:
    trips = against(lambda _, data: [junk, data])

    assert (len(trips.spans), trips.duplicated, trips.out_of_order) == (5, 0, 0)


def test_silence_ends_it_with_an_error_and_without_a_thread() -> None:
    with threads_as_before(), pytest.raises(SetupError, match="8 messages sent, 8 got no answer"):
        against(lambda _number, _data: [], 0.02)
