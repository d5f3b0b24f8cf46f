"""The built-in ping-pong, over loopback and against servers that misbehave."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from ntbnet.app.pingpong import MESSAGE_BYTES, Trips, echo_process, ping_pong
from ntbnet.errors import SetupError


def loopback(_namespace: str) -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


Answers = Callable[[int, bytes], list[bytes]]


@contextmanager
def answering(server: socket.socket, answers: Answers) -> Iterator[None]:
    """A server that gives each message the answers that a test chooses."""

    def serve() -> None:
        while True:
            data, sender = server.recvfrom(64)
            if not data:  # shut down
                return
            for reply in answers(int.from_bytes(data[:8], "little"), data):
                with suppress(BrokenPipeError):  # shut down meanwhile
                    server.sendto(reply, sender)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        with suppress(OSError):  # says that the socket is not connected, and wakes who reads it
            server.shutdown(socket.SHUT_RDWR)
        thread.join()


def against(answers: Answers, reply_timeout_s: float = 0.25) -> Trips:
    return ping_pong(
        ("client", "server"),
        "127.0.0.1",
        seconds=30,
        warm_up_s=0,
        most=5,
        reply_timeout_s=reply_timeout_s,
        open_socket=loopback,
        serve=partial(answering, answers=answers),
    )


def test_latency_is_half_of_each_round_trip() -> None:
    trips = Trips(spans=[(1000, 7000), (10_000, 14_000)])

    assert trips.latencies_us() == [3.0, 2.0]


def test_messages_go_one_at_a_time_and_all_come_back() -> None:
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


def test_silence_ends_it_with_an_error() -> None:
    with pytest.raises(SetupError, match="8 messages sent, 8 got no answer"):
        against(lambda _number, _data: [], 0.02)


def test_the_echo_process_ends_with_the_ping_pong() -> None:
    with loopback("") as server:
        server.bind(("127.0.0.1", 0))
        with echo_process(server):
            me = Path(f"/proc/self/task/{threading.get_native_id()}/children")
            (child,) = [pid for pid in me.read_text().split() if b"ntbnet.app.echo" in words_of(pid)]
        assert not Path(f"/proc/{child}").exists()


def words_of(pid: str) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()
