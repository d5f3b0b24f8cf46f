"""When datagrams came: the kernel says it, whenever they are read."""

from __future__ import annotations

import select
import socket
import struct
import time

import pytest

from ntbnet.app import chaos_load
from ntbnet.app.chaos_load import came

SO_TIMESTAMPNS = 35
NOW_NS, WALL_NS = 50_000_000_000, 1_800_000_000_000_000_000


def note(wall_ns: int) -> tuple[int, int, bytes]:
    return socket.SOL_SOCKET, SO_TIMESTAMPNS, struct.pack("=qq", *divmod(wall_ns, 10**9))


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic_ns", lambda: NOW_NS)
    monkeypatch.setattr(time, "time_ns", lambda: WALL_NS)


@pytest.mark.usefixtures("clocks")
@pytest.mark.parametrize(
    ("age_ns", "since_ns", "came_ns"),
    [
        (30_000_000, 0, NOW_NS - 30_000_000),
        (0, 0, NOW_NS),
        (30_000_000, NOW_NS - 1000, NOW_NS - 1000),
        (3600 * 10**9, NOW_NS - 1000, NOW_NS - 1000),  # the wall clock was set forward
        (-3600 * 10**9, 0, NOW_NS),  # and back
    ],
)
def test_datagram_came_as_long_ago_as_its_note_says_within_what_is_known(
    age_ns: int, since_ns: int, came_ns: int
) -> None:
    assert came([note(WALL_NS - age_ns)], since_ns) == came_ns


@pytest.mark.usefixtures("clocks")
@pytest.mark.parametrize("notes", [[], [(socket.SOL_SOCKET, SO_TIMESTAMPNS, b"short")], [(0, 35, bytes(16))]])
def test_without_a_note_it_came_now(notes: list[tuple[int, int, bytes]]) -> None:
    assert came(notes, 0) == NOW_NS


def test_pause_between_the_clocks_makes_it_late_never_early(monkeypatch: pytest.MonkeyPatch) -> None:
    paused_ns = [0]

    def wall() -> int:
        paused_ns[0] += 40_000_000  # behind the first clock that is read
        return WALL_NS + paused_ns[0] - 40_000_000

    def mono() -> int:
        paused_ns[0] += 40_000_000
        return NOW_NS + paused_ns[0] - 40_000_000

    monkeypatch.setattr(time, "time_ns", wall)
    monkeypatch.setattr(time, "monotonic_ns", mono)

    assert came([note(WALL_NS - 1000)], 0) >= NOW_NS - 1000


def test_kernel_tells_of_a_datagram_that_is_read_late() -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        receiver.setsockopt(socket.SOL_SOCKET, chaos_load._SO_TIMESTAMPNS, 1)
        receiver.bind(("127.0.0.1", 0))
        before_ns = time.monotonic_ns()
        sender.sendto(b"x", receiver.getsockname())
        sent_ns = time.monotonic_ns()
        select.select([], [], [], 0.5)  # so long it is not read
        _, notes, _, _ = receiver.recvmsg(64, chaos_load._NOTES_BYTES)

    assert before_ns - 1_000_000 <= came(notes, 0) <= sent_ns + 250_000_000
