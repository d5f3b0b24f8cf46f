"""Bytes that no neighbour of ours sent: counted, refused, survived."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest
import zmq

from ntbnet import topology
from ntbnet.config import shared_identity
from ntbnet.edge.wake import RECORD_BYTES
from ntbnet.wire import HEADER_BYTES, SCHEMA_VERSION, SERVICE_BY_LABEL, Kind, encode_control
from tests.live.bridge import LiveBridge, until
from tests.live.forger import Forger
from tests.live.traffic import TcpTransfer

pytestmark = [pytest.mark.system, pytest.mark.needs_tun]

VICTIMS = [pair for a, b in topology.PATHS for pair in ((a, b), (b, a))]
"""(said to come from, sent to)."""

NONSENSE = {
    "empty frame": b"",
    "one byte": b"\x00",
    "text": b"GET / HTTP/1.1\r\n\r\n",
    "header of zeros": bytes(HEADER_BYTES),
    "header of ones": b"\xff" * HEADER_BYTES,
    "long": random.Random(1).randbytes(1 << 19),
}


@pytest.fixture(params=VICTIMS, ids=lambda pair: f"{pair[0]}-to-{pair[1]}")
def forger(bridge: LiveBridge, request: pytest.FixtureRequest) -> Iterator[Forger]:
    forger = Forger(bridge, *request.param)
    before = bridge.pids()
    yield forger
    forger.close()
    bridge.wait_for_link()
    assert bridge.pids() == before
    assert bridge.complaints() == []


def test_nonsense_is_counted_as_damaged(forger: Forger) -> None:
    for frame in NONSENSE.values():
        forger.expect_refusal("damaged", lambda: forger.send(frame))  # noqa: B023 - called at once
        forger.expect_refusal("damaged", lambda: forger.send(frame, frame))  # noqa: B023 - called at once


def test_cut_and_changed_messages_are_counted_as_damaged(bridge: LiveBridge, forger: Forger) -> None:
    bridge.wait_for_link()
    header, payload = forger.write(0)
    changed = bytearray(payload)
    changed[3] ^= 0x10

    forger.expect_refusal("damaged", lambda: forger.send(header[:-1], payload))
    forger.expect_refusal("damaged", lambda: forger.send(header, payload[:-1]))
    forger.expect_refusal("damaged", lambda: forger.send(header))
    forger.expect_refusal("damaged", lambda: forger.send(header, bytes(changed)))
    forger.expect_refusal("damaged", lambda: forger.send(header, payload + b"\0"))


@pytest.mark.parametrize(
    "forger", [("peer-rc", "rc-host"), ("rc-host", "epc"), ("epc", "peer-ep")], indirect=True
)
class TestWellMadeMessages:
    def test_repeated_message_is_discarded_and_the_session_goes_on(
        self, bridge: LiveBridge, forger: Forger
    ) -> None:
        bridge.wait_for_link()
        session = forger.path()["session"]

        forger.expect_refusal("repeated", lambda: forger.send(*forger.write(0)))

        assert forger.path()["session"] == session

    def test_message_of_an_older_session_is_discarded_and_the_session_goes_on(
        self, bridge: LiveBridge, forger: Forger
    ) -> None:
        bridge.wait_for_link()
        session = forger.path()["session"]

        forger.expect_refusal("stale_session", lambda: forger.send(*forger.write(5, session=session + 7)))

        assert forger.path()["session"] == session

    def test_message_of_another_incarnation_is_discarded_and_the_session_goes_on(
        self, bridge: LiveBridge, forger: Forger
    ) -> None:
        bridge.wait_for_link()
        session = forger.path()["session"]

        forger.expect_refusal("stale_incarnation", lambda: forger.send(*forger.write(5, incarnation=99)))

        assert forger.path()["session"] == session

    def test_message_from_the_future_is_surprise_down_and_a_new_session(
        self, bridge: LiveBridge, forger: Forger
    ) -> None:
        bridge.wait_for_link()
        session = forger.path()["session"]

        forger.expect_refusal("gap", lambda: forger.send(*forger.write(1 << 40)))

        bridge.wait_for_link()
        until(lambda: forger.path()["session"] > session, 5, "a newer session")

    def test_forged_greeting_of_another_bridge_is_refused(self, bridge: LiveBridge, forger: Forger) -> None:
        bridge.wait_for_link()
        path = forger.path()
        src, dst = SERVICE_BY_LABEL[forger.src], SERVICE_BY_LABEL[forger.dst]
        body = {"bridge": "somebody-else", "schema": 1}
        hello = encode_control(Kind.HELLO, src, dst, path["peer_incarnation"], 0, body=body, key=forger.key)

        forger.expect_refusal("identity", lambda: forger.send(*(bytes(frame) for frame in hello)))

    @pytest.mark.covers("HAZARD 11.i")
    def test_greeting_with_another_control_block_layout_is_refused_and_said_so(
        self, bridge: LiveBridge, forger: Forger
    ) -> None:
        bridge.wait_for_link()
        path = forger.path()
        src, dst = SERVICE_BY_LABEL[forger.src], SERVICE_BY_LABEL[forger.dst]
        body = {"bridge": bridge.name, "schema": SCHEMA_VERSION, **shared_identity(bridge.config)}
        body["ctrl_layout"] = "classic"
        hello = encode_control(Kind.HELLO, src, dst, path["peer_incarnation"], 0, body=body, key=forger.key)

        forger.expect_refusal("identity", lambda: forger.send(*(bytes(frame) for frame in hello)))

        said = [line["reason"] for line in bridge.log_lines(forger.dst) if line["event"] == "path.changed"]
        reason = f"refused, ctrl_layout: {forger.src} has 'classic', {forger.dst} has 'rfc1'"
        assert reason in said


@pytest.mark.parametrize("kind", [Kind.HELLO, Kind.OPEN])
def test_highest_numbers_without_the_secret_lock_nobody_out(forger: Forger, kind: Kind) -> None:
    src, dst = SERVICE_BY_LABEL[forger.src], SERVICE_BY_LABEL[forger.dst]
    frames = encode_control(kind, src, dst, 0xFFFF_FFFF, 0xFFFF_FFFF, arg=1, body={})

    forger.expect_refusal("damaged", lambda: forger.send(*frames))


def test_bytes_that_are_not_zeromq_are_survived(bridge: LiveBridge) -> None:
    before = bridge.pids()

    paths = sorted((bridge.run.path / "sockets").iterdir())
    for path in filter(Path.is_socket, paths):
        for junk in (b"\0", b"GET / HTTP/1.1\r\n\r\n", random.Random(2).randbytes(4096)):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stranger:
                stranger.connect(str(path))
                stranger.sendall(junk)
    for path in filter(Path.is_fifo, paths):
        for junk in (b"\0", b"\1" * RECORD_BYTES, random.Random(3).randbytes(40 * RECORD_BYTES)):
            fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
            os.write(fd, junk)
            os.close(fd)

    bridge.wait_for_link()
    assert bridge.pids() == before
    TcpTransfer(bridge, "rc", 1 << 20, seed=1).finish(30)
    assert bridge.complaints() == []


@pytest.mark.parametrize("service", topology.SERVICES)
@pytest.mark.parametrize("frames", [[b""], [b"destroy"], [b"status", b"more"], [b"\xff" * 200]])
def test_unknown_question_gets_an_answer_and_does_no_harm(
    bridge: LiveBridge, service: str, frames: list[bytes]
) -> None:
    context = zmq.Context()
    try:
        question = context.socket(zmq.REQ)
        question.setsockopt(zmq.RCVTIMEO, 5000)
        question.connect(f"ipc://{bridge.run.socket_path(f'ask.{service}')}")
        question.send_multipart(frames)
        answer = msgpack.unpackb(question.recv())
    finally:
        context.destroy(linger=0)

    assert "error" in answer or answer["service"] == service
    assert bridge.service(service)["state"] == "up"


def test_asker_that_leaves_without_its_answer_blocks_nobody(bridge: LiveBridge) -> None:
    for _ in range(20):
        context = zmq.Context()
        question = context.socket(zmq.REQ)
        question.connect(f"ipc://{bridge.run.socket_path('ask.epc')}")
        question.send(b"status")
        context.destroy(linger=100)

    assert bridge.service("epc")["state"] == "up"
