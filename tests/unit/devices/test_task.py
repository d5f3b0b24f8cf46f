from __future__ import annotations

import errno
from typing import Any

import pytest

from ntbnet.devices.effects import Log, Outbox, Send
from ntbnet.devices.task import (
    Acquire,
    Call,
    CfgRead,
    CfgWrite,
    DelayedWork,
    Mutex,
    Read,
    Release,
    Sleep,
    Task,
    Tasks,
)
from ntbnet.errors import KernelError, PeerError
from ntbnet.wire import CfgRead as CfgReadMessage
from ntbnet.wire import CfgWrite as CfgWriteMessage
from ntbnet.wire import Completion, MemRead, Reply, Status

TIMEOUT_NS = 1000


class Bench:
    """Tasks, and what they sent and logged."""

    def __init__(self) -> None:
        self.outbox = Outbox()
        self.tasks = Tasks(self.outbox, "rc-host", TIMEOUT_NS)
        self.results: list[Any] = []

    def run(self, generator: Any) -> Any:
        return self.tasks.spawn("test", generator, self.results.append)

    def sent(self) -> list[Any]:
        return [effect.message for effect in self.outbox.effects if isinstance(effect, Send)]

    def logged(self) -> list[str]:
        return [effect.event for effect in self.outbox.effects if isinstance(effect, Log)]


def ask(request: Any) -> Task[Any]:
    return (yield request)


def ask_or_errno(request: Any) -> Task[Any]:
    try:
        return (yield request)
    except KernelError as error:
        return error.errno


def test_a_read_is_answered_by_its_completion() -> None:
    bench = Bench()
    bench.run(ask(Read(0x1000, 4)))
    (request,) = bench.sent()
    assert isinstance(request, MemRead)
    assert (request.addr, request.size) == (0x1000, 4)

    bench.tasks.complete(Completion(request.tag, Status.OK, b"abcd"))

    assert bench.results == [b"abcd"]
    assert bench.tasks.next_deadline() is None


@pytest.mark.parametrize(
    ("status", "data"), [(Status.UR, b""), (Status.CA, b""), (Status.OK, b"abc"), (Status.OK, b"abcde")]
)
def test_a_failed_or_short_read_gives_all_ones(status: Status, data: bytes) -> None:
    bench = Bench()
    bench.run(ask(Read(0x1000, 4)))

    bench.tasks.complete(Completion(bench.sent()[0].tag, status, data))

    assert bench.results == [b"\xff" * 4]


def test_a_read_may_go_to_another_service() -> None:
    bench = Bench()
    bench.run(ask(Read(0x1000, 4, "edma")))
    bench.run(ask(Read(0x2000, 4)))

    asked = [(effect.dst, effect.message) for effect in bench.outbox.effects if isinstance(effect, Send)]
    assert asked == [("edma", MemRead(0x1000, 4, 1)), ("rc-host", MemRead(0x2000, 4, 2))]


def test_config_requests() -> None:
    bench = Bench()
    bench.run(ask(CfgRead(0x10, 4)))
    bench.run(ask(CfgWrite(0x10, b"\x01\x00\x00\x00")))
    read, write = bench.sent()
    assert isinstance(read, CfgReadMessage)
    assert isinstance(write, CfgWriteMessage)

    bench.tasks.complete(Completion(write.tag, Status.OK))
    bench.tasks.complete(Completion(read.tag, Status.UR))

    assert bench.results == [b"", b"\xff" * 4]


def test_a_read_without_answer_times_out_and_a_late_answer_is_counted() -> None:
    bench = Bench()
    bench.run(ask(Read(0, 2)))
    assert bench.tasks.next_deadline() == TIMEOUT_NS

    bench.tasks.on_deadline(TIMEOUT_NS - 1)
    assert bench.results == []
    bench.tasks.on_deadline(TIMEOUT_NS)
    bench.tasks.complete(Completion(bench.sent()[0].tag, Status.OK, b"ab"))

    assert bench.results == [b"\xff\xff"]
    assert (bench.tasks.timeouts, bench.tasks.late_completions) == (1, 1)


def test_calls_give_results_errors_and_timeouts() -> None:
    bench = Bench()
    for _ in range(3):
        bench.run(ask_or_errno(Call("epc", "attach", {"a": 1})))
    first, second, _ = bench.sent()

    bench.tasks.complete(Reply(first.tag, 0, {"x": 5}))
    bench.tasks.complete(Reply(second.tag, errno.EBUSY, {"reason": "taken"}))
    bench.tasks.on_deadline(TIMEOUT_NS)

    assert bench.results == [{"x": 5}, errno.EBUSY, errno.ETIMEDOUT]


def test_sleepers_wake_in_order_of_their_deadlines() -> None:
    bench = Bench()

    def sleeper(duration_ns: int) -> Task[int]:
        yield Sleep(duration_ns)
        return duration_ns

    for duration_ns in (30, 10, 20):
        bench.run(sleeper(duration_ns))
    assert bench.tasks.next_deadline() == 10
    bench.tasks.on_deadline(25)
    bench.tasks.on_deadline(30)

    assert bench.results == [10, 20, 30]


@pytest.mark.parametrize("failure", [KernelError(errno.EIO, "broken"), PeerError("broken")])
def test_a_failed_driver_is_logged_and_ends(failure: Exception) -> None:
    bench = Bench()

    def fails() -> Task[None]:
        yield Sleep(1)
        raise failure

    bench.run(fails())
    bench.tasks.on_deadline(1)

    assert bench.logged() == ["driver.failed"]
    assert bench.results == []


def test_a_mutex_serves_waiters_in_order_and_a_cancelled_holder_gives_it_back() -> None:
    bench = Bench()
    mutex = Mutex()
    order: list[str] = []

    def user(name: str) -> Task[None]:
        yield Acquire(mutex)
        order.append(name)
        yield Sleep(10)
        yield Release(mutex)

    holder = bench.run(user("a"))
    skipped = bench.run(user("b"))
    bench.run(user("c"))
    bench.run(user("d"))
    bench.tasks.cancel(skipped)
    bench.tasks.cancel(holder)
    assert order == ["a", "c"]
    bench.tasks.on_deadline(10)

    assert order == ["a", "c", "d"]
    bench.tasks.on_deadline(20)
    assert not mutex.locked


def test_cancelling_forgets_requests_and_runs_finally_blocks() -> None:
    bench = Bench()
    ended: list[bool] = []

    def careful() -> Task[None]:
        try:
            yield Read(0, 4)
        finally:
            ended.append(True)

    bench.run(careful())
    bench.tasks.cancel_all()
    bench.tasks.complete(Completion(bench.sent()[0].tag, Status.OK, b"abcd"))

    assert ended == [True]
    assert bench.tasks.late_completions == 1
    assert bench.results == []
    assert bench.tasks.next_deadline() is None


def test_a_task_that_cancels_itself_ends_where_it_next_waits() -> None:
    bench = Bench()
    steps: list[str] = []

    def suicidal() -> Task[None]:
        yield Sleep(1)
        bench.tasks.cancel(task)
        steps.append("after cancel")
        yield Sleep(1)
        steps.append("never")

    task = bench.run(suicidal())
    bench.tasks.on_deadline(1)
    bench.tasks.on_deadline(2)

    assert steps == ["after cancel"]
    assert bench.results == []
    assert bench.tasks.next_deadline() is None


@pytest.mark.parametrize("ending", ["return", "fail"])
def test_a_task_that_cancels_itself_and_ends_reports_nothing(ending: str) -> None:
    bench = Bench()

    def suicidal() -> Task[None]:
        yield Sleep(1)
        bench.tasks.cancel(task)
        if ending == "fail":
            raise KernelError(errno.EIO, "broken")

    task = bench.run(suicidal())
    bench.tasks.on_deadline(1)

    assert bench.results == []
    assert bench.logged() == []


class TestDelayedWork:
    @staticmethod
    def make(bench: Bench, duration_ns: int = 0) -> tuple[DelayedWork, list[int]]:
        runs: list[int] = []

        def function() -> Task[None]:
            runs.append(bench.tasks.now_ns)
            if duration_ns:
                yield Sleep(duration_ns)

        return DelayedWork(bench.tasks, "work", function), runs

    def test_scheduling_while_pending_does_nothing(self) -> None:
        bench = Bench()
        work, runs = self.make(bench)

        work.schedule(10)
        work.schedule(0)
        assert work.is_pending
        bench.tasks.on_deadline(10)
        bench.tasks.on_deadline(100)

        assert runs == [10]
        assert not work.is_pending

    def test_scheduling_while_running_runs_once_more(self) -> None:
        bench = Bench()
        work, runs = self.make(bench, duration_ns=5)

        work.schedule()
        work.schedule(10)
        work.schedule(10)
        for now_ns in (5, 15, 20, 100):
            bench.tasks.on_deadline(now_ns)

        assert runs == [0, 15]

    def test_cancel_ends_a_pending_and_a_running_one(self) -> None:
        bench = Bench()
        work, runs = self.make(bench, duration_ns=5)

        work.schedule(10)
        work.cancel()
        work.schedule()
        work.schedule(1)
        work.cancel()
        bench.tasks.on_deadline(100)

        assert runs == [0]
        assert not work.is_pending

    def test_it_can_cancel_and_schedule_itself(self) -> None:
        bench = Bench()
        runs: list[int] = []

        def function() -> Task[None]:
            runs.append(bench.tasks.now_ns)
            if len(runs) < 3:
                work.cancel()
                work.schedule(10)
            yield Sleep(1)

        work = DelayedWork(bench.tasks, "work", function)
        work.schedule()
        for now_ns in range(1, 60):
            bench.tasks.on_deadline(now_ns)

        assert runs == [0, 10, 20]
        assert not work.is_pending


def test_cancelling_all_wakes_nobody() -> None:
    bench = Bench()
    mutex = Mutex()
    entered: list[int] = []

    def user(number: int) -> Task[None]:
        yield Acquire(mutex)
        entered.append(number)
        yield Sleep(10)

    for number in range(3):
        bench.run(user(number))
    bench.tasks.cancel_all()
    bench.tasks.on_deadline(100)

    assert entered == [0]
    assert not mutex.locked
