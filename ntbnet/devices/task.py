"""Device drivers as generators: what a kernel driver does by sleeping, without an event loop.

A driver yields ``Read`` or ``Flush`` (a non-posted read on the bus), ``Call`` (a request to a neighbouring
service), ``Sleep`` or ``Acquire`` and is resumed with the answer.  ``Tasks`` runs any number of
them sans-IO: it is told of completions and deadlines and emits ``Send`` effects.

``DelayedWork`` is the kernel's delayed work: scheduled while pending it does nothing; scheduled
while running it runs once more.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, TypeVar

from ntbnet.devices.effects import Outbox
from ntbnet.errors import KernelError, PeerError
from ntbnet.wire import Call as CallMessage
from ntbnet.wire import CfgRead as CfgReadMessage
from ntbnet.wire import CfgWrite as CfgWriteMessage
from ntbnet.wire import Completion, MemRead, Reply, Status

T = TypeVar("T")
_DUE = itemgetter(0)


@dataclass(frozen=True, slots=True)
class Read:
    """Non-posted memory read of ``size`` bytes; answered with bytes, all ones on any failure."""

    addr: int
    size: int
    dst: str = ""
    """Service that is asked; empty: where all reads of these tasks go."""


@dataclass(frozen=True, slots=True)
class Flush:
    """A memory read for what it pushes before it; answered with True once its data came, else False."""

    addr: int
    size: int


@dataclass(frozen=True, slots=True)
class CfgRead:
    """Configuration read of ``size`` bytes (1, 2, 4) at ``offset``; all ones on any failure."""

    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class CfgWrite:
    """Configuration write (non-posted); answered with b"" once done, or after the timeout."""

    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Call:
    """Request to the service ``dst``; answered with its reply, or KernelError in the generator."""

    dst: str
    op: str
    args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sleep:
    """Resume no earlier than ``duration_ns`` from now."""

    duration_ns: int


class Mutex:
    """A lock between generators; waiters are served in order. Use ``yield Acquire(mutex)``."""

    def __init__(self) -> None:
        self.locked = False
        self.waiters: deque[_Task] = deque()


@dataclass(frozen=True, slots=True)
class Acquire:
    """Resume once ``mutex`` is ours; give it back with ``yield Release(mutex)``."""

    mutex: Mutex


@dataclass(frozen=True, slots=True)
class Release:
    """Give ``mutex`` to the next waiter; resumes at once."""

    mutex: Mutex


Request = Read | Flush | CfgRead | CfgWrite | Call | Sleep | Acquire | Release
Task = Generator[Request, Any, T]


@dataclass(slots=True, eq=False)
class _Task:
    name: str
    generator: Generator[Request, Any, Any]
    on_done: Callable[[Any], None] | None = None
    waits_for: Request | None = None
    held: list[Mutex] = field(default_factory=list)
    done: bool = False


class Tasks:
    """Runs generators; sans-IO. One instance for each process.

    Args:
        outbox: where messages go.
        read_dst: service that Cfg* and Flush requests, and Read requests without a ``dst``, are sent to.
        timeout_ns: completion timeout; a late completion is dropped and counted.
        first_tag: least tag used, for who shares a tag space with requests it forwards.
    """

    def __init__(self, outbox: Outbox, read_dst: str, timeout_ns: int, first_tag: int = 0) -> None:
        self._outbox = outbox
        self.read_dst = read_dst
        self._timeout_ns = timeout_ns
        self._first_tag = self._tag = first_tag
        self._by_tag: dict[int, tuple[_Task, int]] = {}
        self._sleeping: list[tuple[int, _Task]] = []
        self._live: list[_Task] = []
        self._ready: deque[tuple[_Task, Any, KernelError | None]] = deque()
        self._pumping = False
        self._stepping: _Task | None = None
        self.now_ns = 0
        self.epoch = 0
        self.late_completions = 0
        self.timeouts = 0

    def spawn(
        self, name: str, generator: Generator[Request, Any, T], on_done: Callable[[T], None] | None = None
    ) -> _Task:
        """Start ``generator`` now; ``on_done`` gets its return value."""
        task = _Task(name, generator, on_done)
        self._live.append(task)
        self._ready.append((task, None, None))
        self._pump()
        return task

    def cancel(self, task: _Task) -> None:
        """End a task where it waits; its ``finally`` blocks run and may not yield.

        A task that cancels itself, directly or through what it called, ends where it next waits.
        """
        self._end(task)
        self._pump()

    def cancel_all(self) -> None:
        """End every task; answers still to come count as late."""
        for task in list(self._live):
            self._end(task)
        self._pump()

    def _end(self, task: _Task) -> None:
        if task.done:
            return
        self._finish(task)
        if task is not self._stepping:
            task.generator.close()

    def complete(self, message: Completion | Reply) -> None:
        """Hand the answer with this tag to whoever waits for it."""
        entry = self._by_tag.pop(message.tag, None)
        if entry is None:
            self.late_completions += 1
            return
        task = entry[0]
        if isinstance(message, Reply):
            error = None
            if message.error:
                error = KernelError(message.error, str(message.body.get("reason", "")))
            self._ready.append((task, message.body, error))
        else:
            self._ready.append((task, self._read_value(task.waits_for, message.status, message.data), None))
        self._pump()

    def next_deadline(self) -> int | None:
        """Monotonic ns of the next timeout or wake-up; None when nothing waits."""
        if not self._sleeping and not self._by_tag:
            return None
        wake_up = min(map(_DUE, self._sleeping), default=None)
        if not self._by_tag:
            return wake_up
        timeout = min(due for _, due in self._by_tag.values())
        return timeout if wake_up is None else min(timeout, wake_up)

    def on_deadline(self, now_ns: int) -> None:
        """Wake sleepers that are due; fail requests that timed out."""
        self.now_ns = now_ns
        due = [entry for entry in self._sleeping if entry[0] <= now_ns]
        if due:
            self._sleeping = [entry for entry in self._sleeping if entry[0] > now_ns]
            due.sort(key=lambda entry: entry[0])
            self._ready.extend((task, None, None) for _, task in due)
        for tag, (task, deadline) in list(self._by_tag.items()):
            if deadline <= now_ns:
                del self._by_tag[tag]
                self.timeouts += 1
                if isinstance(task.waits_for, Call):
                    late = KernelError(errno.ETIMEDOUT, f"{task.waits_for.op}: no reply")
                    self._ready.append((task, None, late))
                else:
                    self._ready.append((task, self._read_value(task.waits_for, Status.TIMEOUT, b""), None))
        self._pump()

    @staticmethod
    def _read_value(request: Request | None, status: Status, data: bytes | memoryview) -> bytes | bool:
        if isinstance(request, Flush):
            return status is Status.OK and len(data) == request.size
        if isinstance(request, CfgWrite):
            return b""
        size = request.size if isinstance(request, (Read, CfgRead)) else 0
        if status is not Status.OK or len(data) != size:
            return b"\xff" * size
        return bytes(data)

    def _pump(self) -> None:
        if self._pumping:
            return
        self._pumping = True
        try:
            while self._ready:
                task, value, error = self._ready.popleft()
                if not task.done:
                    self._step(task, value, error)
        finally:
            self._pumping = False

    def _step(self, task: _Task, value: Any, error: KernelError | None) -> None:
        task.waits_for = None
        self._stepping = task
        try:
            request = task.generator.throw(error) if error else task.generator.send(value)
        except StopIteration as stop:
            if not task.done:
                self._finish(task)
                if task.on_done:
                    task.on_done(stop.value)
            return
        except (KernelError, PeerError) as failure:
            if not task.done:
                self._finish(task)
                self._outbox.log("driver.failed", task=task.name, reason=str(failure))
            return
        finally:
            self._stepping = None
        if task.done:
            task.generator.close()
            return
        task.waits_for = request
        if isinstance(request, Sleep):
            self._sleeping.append((self.now_ns + request.duration_ns, task))
        elif isinstance(request, Acquire):
            self._acquire(task, request.mutex)
        elif isinstance(request, Release):
            self._release(task, request.mutex)
            self._ready.append((task, None, None))
        else:
            self._send(task, request)

    def _send(self, task: _Task, request: Read | Flush | CfgRead | CfgWrite | Call) -> None:
        self._tag = max((self._tag + 1) & 0xFFFFFFFF, self._first_tag)
        self._by_tag[self._tag] = (task, self.now_ns + self._timeout_ns)
        if isinstance(request, Read):
            read = MemRead(request.addr, request.size, self._tag, self.epoch)
            self._outbox.send(request.dst or self.read_dst, read)
        elif isinstance(request, Flush):
            self._outbox.send(self.read_dst, MemRead(request.addr, request.size, self._tag, self.epoch))
        elif isinstance(request, CfgRead):
            message = CfgReadMessage(request.offset, request.size, self._tag, self.epoch)
            self._outbox.send(self.read_dst, message)
        elif isinstance(request, CfgWrite):
            write = CfgWriteMessage(request.offset, request.data, self._tag, self.epoch)
            self._outbox.send(self.read_dst, write)
        else:
            call = CallMessage(request.op, dict(request.args), self._tag, self.epoch)
            self._outbox.send(request.dst, call)

    def _acquire(self, task: _Task, mutex: Mutex) -> None:
        if mutex.locked:
            mutex.waiters.append(task)
            return
        mutex.locked = True
        task.held.append(mutex)
        self._ready.append((task, None, None))

    def _release(self, task: _Task, mutex: Mutex) -> None:
        task.held.remove(mutex)
        mutex.locked = False
        while mutex.waiters:
            waiter = mutex.waiters.popleft()
            if not waiter.done:
                self._acquire(waiter, mutex)
                return

    def _finish(self, task: _Task) -> None:
        task.done = True
        self._live.remove(task)
        for mutex in list(task.held):
            self._release(task, mutex)
        self._by_tag = {tag: entry for tag, entry in self._by_tag.items() if entry[0] is not task}
        self._sleeping = [entry for entry in self._sleeping if entry[1] is not task]


class DelayedWork:
    """The kernel's delayed work on top of ``Tasks``.

    Args:
        tasks: what runs it.
        name: for logs.
        function: makes the generator of one run.
    """

    def __init__(self, tasks: Tasks, name: str, function: Callable[[], Task[None]]) -> None:
        self._tasks = tasks
        self._name = name
        self._function = function
        self._task: _Task | None = None
        self._running = False
        self._again_ns: int | None = None

    def schedule(self, delay_ns: int = 0) -> None:
        """Run after ``delay_ns``; nothing when already pending."""
        if self._running:
            self._again_ns = delay_ns
        elif self._task is None or self._task.done:
            self._task = self._tasks.spawn(self._name, self._run(delay_ns))

    def cancel(self) -> None:
        """Forget a pending run and end a running one."""
        self._again_ns = None
        task, self._task, self._running = self._task, None, False
        if task is not None:
            self._tasks.cancel(task)

    @property
    def is_pending(self) -> bool:
        """True while a run waits or goes on."""
        return self._task is not None and not self._task.done

    def _run(self, delay_ns: int) -> Task[None]:
        delay: int | None = delay_ns
        while delay is not None:
            self._again_ns = None
            self._running = False
            if delay:
                yield Sleep(delay)
            self._running = True
            try:
                yield from self._function()
            finally:
                self._running = False
            delay = self._again_ns
