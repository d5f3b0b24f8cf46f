"""What a process's sockets do with what nobody should send, and with a neighbour that takes nothing."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop

from ntbnet.edge.bus import MAX_BACKLOG, MAX_BACKLOG_BYTES, MAX_FRAME_BYTES, MAX_QUESTION_BYTES, ZmqBus

MIB = 1 << 20
GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)


def ready(socket_type: bytes) -> bytes:
    """ZMTP 3.0 READY command: who we say we are."""
    body = b"\x05READY" + b"\x0bSocket-Type" + len(socket_type).to_bytes(4, "big") + socket_type
    return bytes((0x04, len(body))) + body


def announce(length: int) -> bytes:
    """Start of a frame of ``length`` bytes, the last one of its message."""
    return b"\x02" + length.to_bytes(8, "big")


def header(length: int) -> bytes:
    """A header as far as the sockets look at it."""
    return bytes(40) + length.to_bytes(4, "little") + bytes(20)


class Sockets:
    """A bus with one neighbour that is not there, and what it received."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.received: list[bytes] = []
        self.loop = uvloop.new_event_loop()
        neighbours = {"epc": (f"ipc://{folder}/in", f"ipc://{folder}/out")}
        self.bus = ZmqBus(neighbours, lambda _label, header, _payload: self.received.append(header), print)
        self.bus.start(self.loop)
        self.bus.serve(f"ipc://{folder}/ask", lambda question: question)

    def close(self) -> None:
        self.bus.close()
        self.loop.close()


@pytest.fixture
def sockets(tmp_path: Path) -> Iterator[Sockets]:
    sockets = Sockets(tmp_path)
    yield sockets
    sockets.close()


def stranger(folder: Path, name: str, socket_type: bytes) -> socket.socket:
    """A connection after ZeroMQ's handshake, by hand."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(5)
    connection.connect(f"{folder}/{name}")
    connection.sendall(GREETING + ready(socket_type))
    answer = b""
    while b"Socket-Type" not in answer:
        answer += connection.recv(4096)
    return connection


def is_ended(connection: socket.socket) -> bool:
    """True when the other side closes; TimeoutError when it goes on listening."""
    try:
        while connection.recv(4096):
            pass
    except ConnectionResetError:
        pass
    return True


@pytest.mark.parametrize(
    ("name", "socket_type", "limit"),
    [("in", b"PUSH", MAX_FRAME_BYTES), ("ask", b"REQ", MAX_QUESTION_BYTES), ("ask", b"REQ", 1 << 62)],
)
def test_announced_frame_above_the_limit_ends_the_connection_before_it_is_read(
    sockets: Sockets, name: str, socket_type: bytes, limit: int
) -> None:
    with stranger(sockets.folder, name, socket_type) as connection:
        connection.sendall(announce(limit + 1))
        assert is_ended(connection)


def test_announced_frame_at_the_limit_is_awaited(sockets: Sockets) -> None:
    with stranger(sockets.folder, "in", b"PUSH") as connection:
        connection.sendall(announce(MAX_FRAME_BYTES))
        connection.settimeout(0.05)
        with pytest.raises(TimeoutError):
            is_ended(connection)


def test_backlog_is_bounded_in_bytes(sockets: Sockets) -> None:
    payload = bytes(MIB)
    taken = 0
    while sockets.bus.send("epc", b"header", payload):
        sockets.bus.flush()
        taken += 1

    assert MAX_BACKLOG_BYTES // MIB - 1 <= taken <= MAX_BACKLOG_BYTES // MIB
    sockets.bus.forget("epc")
    assert sockets.bus.send("epc", b"header", payload)


def test_backlog_is_bounded_in_messages(sockets: Sockets) -> None:
    taken = 0
    while sockets.bus.send("epc", b"header", b""):
        sockets.bus.flush()
        taken += 1

    assert taken == MAX_BACKLOG


def test_waiting_message_keeps_the_bytes_it_was_sent_with(sockets: Sockets, tmp_path: Path) -> None:
    memory = bytearray(b"before")
    sockets.bus.send("epc", header(length=6), memoryview(memory).toreadonly())
    memory[:] = b"after!"
    sockets.bus.flush()

    assert [payload for _, payload in exchange(sockets, tmp_path, 1)] == [b"before"]


def exchange(sockets: Sockets, folder: Path, count: int) -> list[tuple[bytes, bytes]]:
    """What a neighbour that comes now receives, ``count`` messages or what came within 5 s."""
    arrived: list[tuple[bytes, bytes]] = []
    neighbour = ZmqBus(
        {"rc-host": (f"ipc://{folder}/out", f"ipc://{folder}/in")},
        lambda _label, header, payload: arrived.append((header, bytes(payload))),
        lambda _label: sockets.loop.stop() if len(arrived) >= count else None,
    )
    neighbour.start(sockets.loop)
    sockets.loop.call_later(5, sockets.loop.stop)
    sockets.loop.run_forever()
    neighbour.close()
    return arrived


def test_messages_of_one_occasion_arrive_apart_and_in_order(sockets: Sockets, tmp_path: Path) -> None:
    sent = [(header(length), bytes([length]) * length) for length in (3, 0, 0, 70, 1, *range(80))]
    for head, payload in sent:
        sockets.bus.send("epc", head, payload)
    sockets.bus.flush()

    assert exchange(sockets, tmp_path, len(sent)) == sent
    assert sockets.bus.backlog("epc") == 0
