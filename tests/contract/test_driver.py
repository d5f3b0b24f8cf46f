"""The order in which the driver does what a device asks for."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path as FilePath
from typing import Any, cast

import pytest

from ntbnet.devices.effects import Deliver, Effect, Restart, Send
from ntbnet.devices.path import Path
from ntbnet.edge.driver import Driver
from ntbnet.edge.tun import Tun
from ntbnet.log import Logger
from ntbnet.wire import Kind, MemWrite, encode_control
from tests.contract.fabrics import Recorder

PACKET = Deliver(memoryview(b"packet"))


class Story:
    """What the driver did, oldest first: packets delivered, path changes told to the device."""

    def __init__(self) -> None:
        self.lines: list[str] = []


class StoryTun:
    """In place of the TUN: notes packets."""

    def __init__(self, story: Story) -> None:
        self.story = story

    def readinto(self, buffer: memoryview) -> int:
        return 0

    def write(self, packet: memoryview) -> bool:
        self.story.lines.append(bytes(packet).decode())
        return True


class StoryDevice(Recorder):
    """Notes path changes, and answers them with a packet."""

    def __init__(self, story: Story) -> None:
        super().__init__("rc-host")
        self.story = story

    def on_path(self, peer: str, up: bool, session: int, reason: str, now_ns: int) -> Sequence[Effect]:
        self.story.lines.append(f"{'up' if up else 'down'}: {reason}")
        return (Restart(peer, "again"), Deliver(memoryview(b"answer")))


@pytest.fixture
def story() -> Story:
    return Story()


@pytest.fixture
def driver(story: Story, tmp_path: FilePath) -> Iterator[Driver]:
    path = Path(
        "epc",
        "rc-host",
        initiator=False,
        incarnation=1,
        allocate_session=lambda: 0,
        heartbeat_ns=1 << 40,
        liveness_ns=1 << 60,
        identity={},
    )
    path.receive(*encode_control(Kind.OPEN, 1, 2, 1, 1, arg=1, body={}), 1)
    assert path.is_up
    path.changes.clear()
    log = Logger(sys.stderr, "error", {"run_id": "contract", "node": "ep", "service": "epc", "epoch": 1})
    sockets = {"rc-host": (f"ipc://{tmp_path}/in", f"ipc://{tmp_path}/out")}
    driver = Driver(StoryDevice(story), {"rc-host": path}, sockets, log, cast("Tun", StoryTun(story)))
    yield driver
    driver.close()


def test_what_was_asked_before_a_path_change_is_done_before_it_is_told(driver: Driver, story: Story) -> None:
    driver.perform([PACKET, Restart("rc-host", "test"), PACKET])

    assert story.lines == ["packet", "packet", "down: test", "answer"]


def test_overflow_of_the_backlog_is_told_after_the_rest_of_the_list(driver: Driver, story: Story) -> None:
    write: Any = Send("rc-host", MemWrite(0, bytes(1 << 20)))

    driver.perform([*[write] * 70, PACKET])

    assert story.lines == ["packet", "down: neighbour takes no more messages", "answer"]
