"""A driver under a plan of faults: installed, looked at, healed; and free of it all when there is none."""

from __future__ import annotations

import asyncio
import io
import json
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path as FilePath
from typing import Any

import pytest

from ntbnet.app.ask import ask
from ntbnet.devices.effects import Send
from ntbnet.edge.driver import Driver
from ntbnet.edge.fault_files import TOLD_AT, Crash, FaultFolder
from ntbnet.edge.fault_source import FaultSource
from ntbnet.edge.wake import encode
from ntbnet.faults import plan_from
from ntbnet.log import Logger
from ntbnet.wire import MemWrite, Service
from tests.contract.test_driver import PACKET, Story, StoryTun, driver_of

Ask = Callable[[bytes], Awaitable[dict[str, Any]]]
WRITE = Send("rc-host", MemWrite(0, b"data"))
RING = MemWrite(0, bytes(4))


class Rig:
    """A driver of ``epc`` with a fault folder."""

    def __init__(self, folder: FilePath) -> None:
        self.story = Story()
        self.tun = StoryTun(self.story)
        self.folder = FaultFolder(folder / "faults")
        self.memory = folder / "dram"
        self.stream = io.StringIO()
        log = Logger(self.stream, "info", {"service": "epc"})
        self.source = FaultSource(self.folder.path, "epc", log, self.memory)
        self.driver = driver_of(
            self.story,
            folder,
            self.tun,
            service="epc",
            wake_path=lambda label: folder / f"wake.{label}",
            faults=self.source,
        )

    def install(self, *rules: dict[str, Any]) -> None:
        """Keep a plan; the driver is to be told."""
        self.folder.write_plan(plan_from({"seed": 1, "faults": list(rules)}, "test"))

    def logged(self, event: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.stream.getvalue().splitlines()]
        return [line for line in lines if line["event"] == event]

    def count(self, rule: int = 0) -> int:
        return self.folder.injected()["epc"][rule]


@pytest.fixture
def rig(tmp_path: FilePath) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    yield rig
    rig.driver.close()
    rig.tun.nothing.close()
    rig.tun.other_end.close()


@pytest.fixture
async def asked(rig: Rig, tmp_path: FilePath) -> Ask:
    loop = asyncio.get_running_loop()
    rig.driver.start(loop, f"ipc://{tmp_path}/ask", dict)

    async def ask_driver(question: bytes) -> dict[str, Any]:
        answers = await loop.run_in_executor(None, ask, {"epc": tmp_path / "ask"}, 5.0, question)
        return answers["epc"]

    return ask_driver


def callables(driver: Driver) -> dict[str, Any]:
    """Everything that passes through the driver, and where it goes."""
    own: Any = driver
    names = ("_handle", "_send", "_send_now", "_forget", "_flush", "_write_tun", "_wake")
    found = {name: getattr(own, name) for name in names}
    return found | {
        "read": own._packets.read,
        "on_message": own._bus.on_message,
        "on_wake": own._wakes.on_wake,
    }


def bare(rig: Rig) -> dict[str, Any]:
    own: Any = rig.driver
    return {
        "_handle": own._interrupts.handle,
        "_send": own._bus.send,
        "_send_now": own._bus.send_now,
        "_forget": own._bus.forget,
        "_flush": own._hand_over,
        "read": rig.tun.readinto,
        "_write_tun": rig.tun.write,
        "_wake": own._wakes.send,
        "on_message": own._on_message,
        "on_wake": own._on_wake,
    }


async def test_driver_without_a_plan_calls_its_parts_directly(rig: Rig, asked: Ask) -> None:
    assert callables(rig.driver) == bare(rig)
    assert await asked(b"faults") == {}
    assert not rig.folder.exists()


async def test_healed_driver_calls_its_parts_directly_again(rig: Rig, asked: Ask) -> None:
    rig.install({"kind": "drop", "rate": 1})
    assert await asked(b"faults look") == {"ok": True}
    assert callables(rig.driver) != bare(rig)

    rig.folder.remove_plan()
    assert await asked(b"faults look") == {"ok": True}

    assert callables(rig.driver) == bare(rig)
    assert len(rig.logged("chaos.plan_installed")) == len(rig.logged("chaos.plan_healed")) == 1


async def test_fault_is_counted_logged_and_reported(rig: Rig, asked: Ask) -> None:
    rig.install({"kind": "drop", "at": [1]}, {"kind": "slow", "at": [9]})
    await asked(b"faults look")
    rig.driver.perform([WRITE, WRITE, WRITE])

    assert [rig.count(0), rig.count(1)] == [1, 0]
    (line,) = rig.logged("chaos.fault_injected")
    keys = {key: line[key] for key in ("injected", "kind", "rule", "path", "sequence", "under_faults")}
    assert keys == {
        "injected": True,
        "kind": "drop",
        "rule": 0,
        "path": "epc>rc-host",
        "sequence": 1,
        "under_faults": True,
    }
    assert await asked(b"faults") == {"seed": 1, "rules": ["drop", "slow"], "injected": [1, 0]}


async def test_faults_beyond_a_hundred_a_second_are_counted_in_the_log(rig: Rig, asked: Ask) -> None:
    rig.install({"kind": "duplicate", "rate": 1_000_000})
    await asked(b"faults look")
    rig.driver.perform([WRITE] * 1000)
    rig.folder.remove_plan()
    await asked(b"faults look")

    one_by_one, counted = rig.logged("chaos.fault_injected"), rig.logged("chaos.faults_counted")
    assert 100 <= len(one_by_one) <= 200
    told = {line["sequence"] for line in one_by_one}
    for line in counted:
        assert (line["injected"], line["kind"], line["rule"]) == (True, "duplicate", 0)
        assert (line["path"], line["under_faults"]) == ("epc>rc-host", True)
        assert line["first_ns"] <= line["last_ns"] <= line["mono_ns"]
        told |= set(range(line["first_sequence"], line["last_sequence"] + 1))
    assert len(one_by_one) + sum(line["count"] for line in counted) == 1000
    assert told == set(range(1000))


async def test_what_was_only_counted_is_told_by_and_by(rig: Rig, asked: Ask) -> None:
    rig.install({"kind": "duplicate", "rate": 1_000_000}, {"kind": "delay", "every": 1, "delay_us": 0})
    await asked(b"faults look")
    rig.driver.perform([WRITE] * 300)

    def told() -> int:
        counted = sum(int(line["count"]) for line in rig.logged("chaos.faults_counted"))
        return counted + len(rig.logged("chaos.fault_injected"))

    async with asyncio.timeout(10):
        while told() < 600:
            await asked(b"faults")
    assert told() == 600
    assert {line["kind"] for line in rig.logged("chaos.faults_counted")} == {"duplicate", "delay"}


async def test_what_a_killed_process_did_not_tell_its_replacement_tells(rig: Rig, asked: Ask) -> None:
    rig.install({"kind": "drop", "rate": 1}, {"kind": "slow", "rate": 1})
    counts = rig.folder.counts("epc")
    counts[0], counts[TOLD_AT] = 40, 25
    await asked(b"faults look")
    await asked(b"faults look")

    (line,) = rig.logged("chaos.faults_counted")
    keys = ("injected", "kind", "rule", "path", "count")
    assert [line[key] for key in keys] == [True, "drop", 0, None, 15]


async def test_frames_are_lost_both_ways(rig: Rig, asked: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = iter((60, 70, 80, 0))
    monkeypatch.setattr(rig.tun, "readinto", lambda _: next(lengths))
    rig.install({"kind": "drop-frame", "at": [1], "of": ["sent", "received"]})
    await asked(b"faults look")
    rig.driver.perform([PACKET] * 3)
    own: Any = rig.driver

    assert [own._packets.read(memoryview(bytearray(100))) for _ in range(3)] == [60, 80, 0]
    assert rig.story.lines == ["packet"] * 2
    assert rig.count() == 2


async def test_name_of_the_memory_goes(rig: Rig, asked: Ask) -> None:
    rig.memory.write_bytes(b"memory")
    rig.install({"kind": "unlink-memory", "at": [0]})
    await asked(b"faults look")
    own: Any = rig.driver
    os.write(own._wakes._fd, encode(Service.PEER_RC, RING))
    async with asyncio.timeout(5):
        await rig.story.heard.wait()

    assert not rig.memory.exists()


async def test_driver_finds_the_plan_of_its_predecessor(rig: Rig, tmp_path: FilePath) -> None:
    rig.install({"kind": "drop", "at": [2]})
    rig.folder.counts("epc")[0] = 4
    rig.driver.start(asyncio.get_running_loop(), f"ipc://{tmp_path}/ask", dict)
    rig.driver.perform([WRITE] * 3)

    assert rig.count() == 5


@pytest.mark.parametrize("content", [b"\xc1", b"\x80\x80", b"\x81\xa4seed\xff"])
async def test_forged_plan_is_refused_logged_and_injects_nothing(
    rig: Rig, asked: Ask, content: bytes
) -> None:
    rig.install({"kind": "drop", "rate": 1_000_000})
    await asked(b"faults look")
    (rig.folder.path / "plan").write_bytes(content)

    answer = await asked(b"faults look")

    assert "plan" in answer["error"]
    assert callables(rig.driver) == bare(rig)
    assert len(rig.logged("chaos.plan_refused")) == 1


@pytest.mark.parametrize("question", [b"faults install", b"faults look now", b"faultslook"])
async def test_unknown_question_about_faults_is_refused(asked: Ask, question: bytes) -> None:
    assert await asked(question) == {"error": "unknown question"}


async def test_plan_that_was_removed_while_the_service_was_stopped_ends_within_a_second(
    rig: Rig, asked: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.install({"kind": "duplicate", "rate": 1_000_000})
    await asked(b"faults look")
    rig.driver.perform([WRITE])
    rig.folder.remove_plan()
    own: Any = rig.driver
    monkeypatch.setattr(own._faults._strikes, "clock", lambda: 1 << 60)
    rig.driver.perform([WRITE] * 5)

    assert rig.count() == 1


async def test_crash_point_that_is_none_is_refused(rig: Rig, asked: Ask) -> None:
    rig.folder.write_crash("epc", Crash("lease"))
    (rig.folder.path / "crash.epc").write_bytes(b"\x80")

    assert "crash.epc" in (await asked(b"faults look"))["error"]
