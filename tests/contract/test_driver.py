"""The order in which the driver does what a device asks for, and the stopwatch around it."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path as FilePath
from typing import Any, cast

import pytest

from ntbnet.app.ask import ask
from ntbnet.devices.effects import Deliver, Effect, Log, Poll, Restart, Send, Store, Wake
from ntbnet.devices.memory import Window
from ntbnet.devices.path import Path
from ntbnet.edge.driver import Driver
from ntbnet.edge.packets import SINGLES
from ntbnet.edge.stopwatch import points_from
from ntbnet.edge.tun import Tun
from ntbnet.edge.wake import decode, encode, open_fifo
from ntbnet.log import Logger
from ntbnet.trace_records import message_flow
from ntbnet.wire import Irq, IrqSource, Kind, MemWrite, Message, Service, encode_control
from tests.contract.fabrics import Recorder
from tests.frames import encode as encode_message

PACKET = Deliver(memoryview(b"packet"))


class Story:
    """What the driver did, oldest first: packets delivered, path changes told to the device."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.heard = asyncio.Event()


class StoryTun:
    """In place of the TUN: notes packets."""

    def __init__(self, story: Story) -> None:
        self.story = story
        self.nothing, self.other_end = socket.socketpair()

    def fileno(self) -> int:
        return self.nothing.fileno()

    def readinto(self, buffer: memoryview) -> int:
        return 0

    def write(self, packet: memoryview, offload_header: bytes) -> bool:
        self.story.lines.append(bytes(packet).decode())
        return True


class StoryDevice(Recorder):
    """Notes path changes, and answers them with a packet; from its TUN none ever comes."""

    def __init__(self, story: Story) -> None:
        super().__init__("rc-host")
        self.story = story

    def on_path(self, peer: str, up: bool, session: int, reason: str, now_ns: int) -> Sequence[Effect]:
        self.story.lines.append(f"{'up' if up else 'down'}: {reason}")
        return (Restart(peer, "again"), Deliver(memoryview(b"answer")))

    def handle(self, src: str, message: Message, now_ns: int) -> Sequence[Effect]:
        self.story.heard.set()
        return super().handle(src, message, now_ns)

    def receive_buffer(self) -> memoryview:
        return memoryview(bytearray(64))

    def transmit(self, length: int, now_ns: int) -> Sequence[Effect]:
        return ()

    def end_burst(self, now_ns: int) -> Sequence[Effect]:
        return ()

    def poll(self, now_ns: int) -> Sequence[Effect]:
        return ()


@pytest.fixture
def story() -> Story:
    return Story()


def driver_of(
    story: Story, folder: FilePath, tun: StoryTun, device: StoryDevice | None = None, **wakes: Any
) -> Driver:
    """A driver of ``epc`` whose path to ``rc-host`` is up."""
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
    sockets = {"rc-host": (f"ipc://{folder}/in", f"ipc://{folder}/out")}
    return Driver(device or StoryDevice(story), {"rc-host": path}, sockets, log, cast("Tun", tun), **wakes)


@pytest.fixture
def driver(story: Story, tmp_path: FilePath) -> Iterator[Driver]:
    tun = StoryTun(story)
    driver = driver_of(
        story, tmp_path, tun, service="epc", wake_path=lambda label: tmp_path / f"wake.{label}"
    )
    yield driver
    driver.close()
    tun.nothing.close()
    tun.other_end.close()


def test_what_was_asked_before_a_path_change_is_done_before_it_is_told(driver: Driver, story: Story) -> None:
    driver.perform([PACKET, Restart("rc-host", "test"), PACKET])

    assert story.lines == ["packet", "packet", "down: test", "answer"]


def test_overflow_of_the_backlog_is_told_after_the_rest_of_the_list(driver: Driver, story: Story) -> None:
    write: Any = Send("rc-host", MemWrite(0, bytes(1 << 20)))

    driver.perform([*[write] * 70, PACKET])

    assert story.lines == ["packet", "down: neighbour takes no more messages", "answer"]


def test_event_that_a_message_leads_to_has_its_flow_and_another_one_has_none(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Log("link.restarted", {"reason": "test"})
    said: list[dict[str, Any]] = []
    monkeypatch.setattr(Logger, "emit", lambda _, event, **keys: said.append({"event": event, **keys}))
    monkeypatch.setattr(driver._interrupts, "_handle", lambda *_: [told])

    for sequence in range(2):
        message = encode_message(MemWrite(0, b"1234"), Service.RC_HOST, Service.EPC, 1, 1, sequence, 1)
        driver._on_message("rc-host", *message)
    driver.perform([told])

    flows = [message_flow(Service.RC_HOST, Service.EPC, 1, sequence) for sequence in range(2)]
    about = {"event": "link.restarted", "reason": "test"}
    assert said == [{**about, "flow": f"0x{flow:016x}"} for flow in flows] + [about]


class WatchingTun(StoryTun):
    """Notes what others could see when a packet is delivered: far memory, and whether they are woken."""

    def __init__(self, story: Story, memory: Window, fifo: int) -> None:
        super().__init__(story)
        self.memory, self.fifo = memory, fifo

    def write(self, packet: memoryview, offload_header: bytes) -> bool:
        is_woken = bool(select.select([self.fifo], [], [], 0)[0])
        self.story.lines.append(f"{self.memory.load(0, 8)!r} {'woken' if is_woken else 'asleep'}")
        return True


@pytest.fixture
def watching(story: Story, tmp_path: FilePath) -> Iterator[tuple[Driver, WatchingTun]]:
    """A driver that wakes peer-rc, and a TUN that sees what peer-rc could see."""
    fifo = open_fifo(tmp_path / "wake.peer-rc")
    tun = WatchingTun(story, Window(memoryview(bytearray(8)), 0, "far"), fifo)
    driver = driver_of(story, tmp_path, tun, service="epc", wake_path=lambda name: tmp_path / f"wake.{name}")
    yield driver, tun
    driver.close()
    os.close(fifo)
    tun.nothing.close()
    tun.other_end.close()


def test_wake_is_told_behind_every_store_of_its_step_and_stores_keep_their_place(
    watching: tuple[Driver, WatchingTun], story: Story
) -> None:
    driver, tun = watching
    memory, ring = tun.memory, Irq(IrqSource.MSI_VECTOR, 2, 1)

    driver.perform([Store(memory, 0, b"1234"), Wake("peer-rc", ring), PACKET, Store(memory, 4, b"5678")])
    tun.write(PACKET.packet, b"")

    assert story.lines == [f"{b'1234' + bytes(4)!r} asleep", f"{b'12345678'!r} woken"]
    assert decode(os.read(tun.fifo, 4096)) == ("epc", ring)


Ask = Callable[[bytes], Awaitable[dict[str, Any]]]


@pytest.fixture
async def asked(driver: Driver, tmp_path: FilePath) -> Ask:
    """Asks the driver, as a command does: over its socket."""
    loop = asyncio.get_running_loop()
    driver.start(loop, f"ipc://{tmp_path}/ask", dict)

    async def ask_driver(question: bytes) -> dict[str, Any]:
        answers = await loop.run_in_executor(None, ask, {"epc": tmp_path / "ask"}, 5.0, question)
        return answers["epc"]

    return ask_driver


async def test_stopwatch_notes_what_passes_from_its_start_to_its_stop(driver: Driver, asked: Ask) -> None:
    message = Send("rc-host", MemWrite(0, b"data"))
    driver.perform([PACKET, message])
    assert await asked(b"stopwatch 100") == {"ok": True}
    driver.perform([message, PACKET])

    points = points_from(await asked(b"stopwatch 0"))

    told = [point for point, _ in points]
    assert [point for point in told if point != "sent"] == ["out rc-host", "tun out"]
    assert told[-1] == "sent"
    times = [at_us for _, at_us in points]
    assert times[0] > 0
    assert times == sorted(times)


async def test_stopwatch_notes_wakes_both_ways(
    driver: Driver, story: Story, asked: Ask, tmp_path: FilePath
) -> None:
    await asked(b"stopwatch 100")
    driver.perform([Wake("peer-ep", Irq(IrqSource.MSI_VECTOR, 2, 1))])
    fifo = open_fifo(tmp_path / "wake.epc")
    os.write(fifo, encode(Service.PEER_RC, MemWrite(0, bytes(4), 1)))
    os.close(fifo)
    async with asyncio.timeout(5):
        await story.heard.wait()

    points = [point for point, _ in points_from(await asked(b"stopwatch 0"))]

    assert points[:4] == ["wake peer-ep", "sent", "arrived peer-rc", "in peer-rc"]


async def test_nothing_stands_around_a_driver_whose_stopwatch_was_stopped(
    driver: Driver, story: Story, asked: Ask
) -> None:
    await asked(b"stopwatch 100")
    await asked(b"stopwatch 0")

    driver.perform([PACKET])

    assert story.lines == ["packet"]
    assert await asked(b"stopwatch 0") == {"error": "no stopwatch runs"}


async def test_stopwatch_that_is_started_again_starts_anew(driver: Driver, asked: Ask) -> None:
    await asked(b"stopwatch 100")
    driver.perform([PACKET])
    await asked(b"stopwatch 100")
    driver.perform([PACKET])

    assert [point for point, _ in points_from(await asked(b"stopwatch 0"))] == ["tun out", "sent"]


@pytest.mark.parametrize("question", [b"stopwatch", b"stopwatch -1", b"stopwatch many"])
async def test_stopwatch_of_no_number_is_refused(asked: Ask, question: bytes) -> None:
    assert await asked(question) == {"error": "unknown question"}


class BurstTun(StoryTun):
    """A TUN with packets in it, as a datagram socket has them."""

    def __init__(self, story: Story) -> None:
        super().__init__(story)
        self.nothing.close()
        self.other_end.close()
        self.nothing, self.other_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.nothing.setblocking(False)
        self.reads = 0

    def readinto(self, buffer: memoryview) -> int:
        self.reads += 1
        try:
            return self.nothing.recv_into(buffer)
        except BlockingIOError:
            return 0


class BurstDevice(StoryDevice):
    """Notes packets, ends of bursts and looks."""

    def __init__(self, story: Story, wanted: int) -> None:
        super().__init__(story)
        self.room = bytearray(100)
        self.wanted = wanted
        self.bursts: list[int] = [0]
        self.looks = 0
        self.done = asyncio.Event()

    def receive_buffer(self) -> memoryview:
        return memoryview(self.room)

    def transmit(self, length: int, now_ns: int) -> Sequence[Effect]:
        self.story.lines.append(self.room[:length].decode())
        self.bursts[-1] += 1
        return ()

    def end_burst(self, now_ns: int) -> Sequence[Effect]:
        self.bursts.append(0)
        if sum(self.bursts) == self.wanted:
            self.done.set()
        return ()

    def poll(self, now_ns: int) -> Sequence[Effect]:
        self.looks += 1
        if self.looks == self.wanted:
            self.done.set()
            return (Poll(0),)
        return ()


def run_bursts(story: Story, folder: FilePath, wanted: int, begin: Callable[[Driver, BurstTun], None]) -> Any:
    """Run a driver until its device has had what it wants; the device and the TUN."""

    async def run() -> tuple[BurstDevice, BurstTun]:
        tun = BurstTun(story)
        device = BurstDevice(story, wanted)
        driver = driver_of(story, folder, tun, device)
        driver.start(asyncio.get_running_loop(), f"ipc://{folder}/question", dict)
        begin(driver, tun)
        async with asyncio.timeout(5):
            await device.done.wait()
        driver.close()
        tun.nothing.close()
        tun.other_end.close()
        return device, tun

    return asyncio.run(run())


def test_each_burst_is_told_of(story: Story, tmp_path: FilePath) -> None:
    def begin(driver: Driver, tun: BurstTun) -> None:
        driver.on_packets(lambda: story.lines.append("burst"))
        tun.other_end.send(b"0")
        tun.other_end.send(b"1")

    run_bursts(story, tmp_path, 2, begin)

    assert story.lines == ["burst", "0", "1"]


def test_all_packets_of_one_drain_are_one_burst(story: Story, tmp_path: FilePath) -> None:
    def begin(_driver: Driver, tun: BurstTun) -> None:
        for number in range(5):
            tun.other_end.send(str(number).encode())

    device, _ = run_bursts(story, tmp_path, 5, begin)

    assert device.bursts == [5, 0]
    assert story.lines == list("01234")


def test_after_single_packets_no_second_one_is_looked_for_and_none_is_left(
    story: Story, tmp_path: FilePath
) -> None:
    count = 200

    def begin(driver: Driver, tun: BurstTun) -> None:
        assert driver._packets is not None
        for number in range(count):
            asyncio.get_running_loop().call_soon(tun.other_end.send, str(number).encode())
        driver._packets._singles = SINGLES

    _, tun = run_bursts(story, tmp_path, count, begin)

    assert story.lines == [str(number) for number in range(count)]
    assert tun.reads <= 2 * count


def test_device_that_asks_for_it_is_polled_until_it_asks_no_more(story: Story, tmp_path: FilePath) -> None:
    device, _ = run_bursts(story, tmp_path, 5, lambda driver, _tun: driver.perform([Poll(1_000_000)]))

    assert device.looks == 5
