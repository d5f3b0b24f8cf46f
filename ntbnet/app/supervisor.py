"""The supervisor inside ``ntbnet up``: nodes, DRAM, five processes, and what restarts them.

It starts services in dependency order and waits for each one's READY, never for time. A service
that dies is noticed through its pidfd and replaced at once; one that dies again and again waits
longer each time. A service that gives no sign of life (its neighbours notice within a second,
the supervisor somewhat later) is killed before it is replaced. Every child holds one end
of a socket pair: when the supervisor ends, however it ends, its children do.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ntbnet import topology
from ntbnet.app.node import create_node, remove_node, spec_from
from ntbnet.config import Config, to_toml
from ntbnet.edge import shm
from ntbnet.edge.process import ProcessRecord, alive, own_record, record_of, send_signal
from ntbnet.edge.run_record import RunRecord
from ntbnet.edge.rundir import RunDir
from ntbnet.edge.startup import READY
from ntbnet.errors import SetupError
from ntbnet.log import Logger

READY_TIMEOUT_S = 15.0
HEALTH_INTERVAL_S = 0.5
HUNG_AFTER_S = 2.0
"""Silence after which a service is killed."""
CALM_S = 5.0
"""A service that lived that long starts again without waiting."""

Progress = Callable[[str], None]


@dataclass(slots=True)
class Child:
    """One service process and its history."""

    name: str
    process: subprocess.Popen[bytes] | None = None
    lifeline: socket.socket | None = None
    started_s: float = 0.0
    alive_s: float = 0.0
    restarts: int = 0
    failures: int = 0
    state: str = "down"
    """``starting``, ``up``, ``waiting`` (for its next start) or ``down``."""
    ready: asyncio.Event = field(default_factory=asyncio.Event)


class Supervisor:
    """Brings a bridge up, keeps it up, takes it down.

    Args:
        config: checked configuration.
        run: its run folder, locked by the caller while starting.
        progress: told what happens, in words, while starting and stopping.
    """

    def __init__(self, config: Config, run: RunDir, config_path: str | None, progress: Progress) -> None:
        self._config = config
        self._run = run
        self._config_path = config_path
        self._progress = progress
        self._run_id = uuid.uuid4().hex[:12]
        self._children = {name: Child(name) for name in topology.SERVICES}
        self._stopping = asyncio.Event()
        self._stop_reason = ""
        self._log: Logger | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._log_folder = Path(config.log.dir) if config.log.dir else None

    # bring up

    def prepare(self) -> list[str]:
        """Run folder, DRAM and nodes; on failure nothing is left behind.

        What a killed run left under the same name is removed first, and said.

        Returns:
            What was said.

        Raises:
            SetupError: a permission, a device or space is missing, or a name is taken.
        """
        run, config = self._run, self._config
        left = remove_leftovers(run, config, keep_folder=True)
        said = [f"removed what a killed run left: {', '.join(left)}"] if left else []
        for text in said:
            self._progress(text)
        run.create()
        try:
            run.write_run(self._record())
            Path(run.path, "config.toml").write_text(to_toml(config), encoding="utf-8")
            if self._log_folder is not None:
                self._make_log_folder(self._log_folder)
            for node, side in (("rc", config.node.rc), ("ep", config.node.ep)):
                shm.Dram.create(run.name, node, side.dram_bytes).close()
                create_node(spec_from(config, run.name, node), run)
        except BaseException:
            remove_leftovers(run, config)
            raise
        stream = self._log_path("supervisor").open("a", encoding="utf-8", buffering=1)
        bound = {"run_id": self._run_id, "node": "host", "service": "supervisor", "epoch": 1}
        self._log = Logger(stream, config.log.level, bound)
        if left:
            self._emit("supervisor.cleaned", what=left)
        return said

    @staticmethod
    def _make_log_folder(folder: Path) -> None:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as problem:
            raise SetupError(f"log.dir = {str(folder)!r}: {problem.strerror}") from None

    def _record(self) -> RunRecord:
        return RunRecord(
            self._run.name, self._run_id, "supervisor", own_record(), time.time(), self._config_path
        )

    def _log_path(self, service: str) -> Path:
        if self._log_folder is not None:
            return self._log_folder / f"{service}.jsonl"
        return Path(self._run.log_path(service))

    def _emit(self, event: str, **keys: object) -> None:
        if self._log is not None:
            self._log.emit(event, **keys)

    async def start(self) -> None:
        """Start the services; returns once each has said READY.

        Raises:
            SetupError: a service ended instead, or did not get ready in time.
        """
        started_s = time.monotonic()
        self._emit("supervisor.started", services=list(topology.SERVICES))
        for child in self._children.values():
            self._spawn(child)
        for child in self._children.values():
            self._progress(f"waiting for {child.name}")
            try:
                async with asyncio.timeout(READY_TIMEOUT_S):
                    await self._ready_or_dead(child)
            except TimeoutError:
                raise SetupError(f"{child.name} did not get ready in {READY_TIMEOUT_S:.0f} s") from None
        self._emit("supervisor.ready", seconds=round(time.monotonic() - started_s, 3))
        for child in self._children.values():
            self._keep(self._watch(child))
        self._keep(self._check_health())

    async def _ready_or_dead(self, child: Child) -> None:
        ready = asyncio.ensure_future(child.ready.wait())
        dead = asyncio.ensure_future(self._exit_of(child))
        try:
            await asyncio.wait((ready, dead), return_when=asyncio.FIRST_COMPLETED)
            if not child.ready.is_set():
                last = self._last_words(child.name)
                raise SetupError(f"{child.name} ended while starting: {last}")
        finally:
            ready.cancel()
            dead.cancel()

    def _last_words(self, name: str) -> str:
        try:
            lines = Path(self._run.log_path(f"{name}.err")).read_text(errors="replace").strip().splitlines()
        except OSError:
            lines = []
        return lines[-1] if lines else "it said nothing"

    def _keep(self, coroutine: object) -> None:
        task = asyncio.ensure_future(coroutine)  # type: ignore[call-overload]  # a coroutine of ours
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # children

    def _spawn(self, child: Child) -> None:
        """Start one service process. A warm spare, once there are any, would be taken here."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        module, *arguments = topology.MODULES[child.name]
        command = [
            sys.executable,
            "-m",
            module,
            *arguments,
            "--config",
            str(Path(self._run.path, "config.toml")),
        ]
        command += ["--name", self._run.name, "--run-id", self._run_id, "--notify-fd", str(theirs.fileno())]
        with (
            self._log_path(child.name).open("ab") as stdout,
            Path(self._run.log_path(f"{child.name}.err")).open("ab") as stderr,
        ):
            child.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
                env=child_environment(),
            )
        theirs.close()
        record = record_of(child.process.pid)
        if record is not None:
            self._run.record_process(child.name, record)
        child.lifeline = ours
        child.state = "starting"
        child.ready = asyncio.Event()
        child.started_s = child.alive_s = time.monotonic()
        asyncio.get_running_loop().add_reader(ours.fileno(), self._on_lifeline, child, ours)
        self._emit(
            "supervisor.service_started",
            name=child.name,
            child_pid=child.process.pid,
            restarts=child.restarts,
        )
        self._write_children()

    def _on_lifeline(self, child: Child, lifeline: socket.socket) -> None:
        try:
            data = lifeline.recv(64)
        except OSError:
            data = b""
        child.alive_s = time.monotonic()
        if data.startswith(READY):
            child.state = "up"
            child.ready.set()
            self._write_children()
        elif not data:
            self._close_lifeline(child, lifeline)

    @staticmethod
    def _close_lifeline(child: Child, lifeline: socket.socket) -> None:
        if lifeline.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(lifeline.fileno())
            lifeline.close()
        if child.lifeline is lifeline:
            child.lifeline = None

    def _write_children(self) -> None:
        """Restart counts for ``status``: the one thing only the supervisor knows."""
        path = Path(self._run.path, "children.json")
        body = {c.name: {"restarts": c.restarts, "state": c.state} for c in self._children.values()}
        aside = path.with_suffix(".new")
        aside.write_text(json.dumps(body), encoding="utf-8")
        aside.replace(path)

    async def _exit_of(self, child: Child) -> int:
        """Wait status of the child, noticed through its pidfd."""
        process = child.process
        assert process is not None
        loop = asyncio.get_running_loop()
        try:
            fd = os.pidfd_open(process.pid)
        except ProcessLookupError:
            return process.wait()
        ended = asyncio.Event()
        loop.add_reader(fd, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(fd)
            os.close(fd)
        return process.wait()

    async def _watch(self, child: Child) -> None:
        """Replace the child each time it ends, until the bridge is taken down."""
        while not self._stopping.is_set():
            process = child.process
            assert process is not None
            status = await self._exit_of(child)
            if self._stopping.is_set():
                return
            self._emit("supervisor.service_died", name=child.name, child_pid=process.pid, status=status)
            calm = time.monotonic() - child.started_s >= CALM_S
            child.failures = 0 if calm else child.failures + 1
            child.restarts += 1
            child.state = "waiting"
            self._write_children()
            await self._back_off(child.failures)
            if not self._stopping.is_set():
                self._spawn(child)

    async def _back_off(self, failures: int) -> None:
        """Nothing for the first two, then doubling from restart_backoff_ms."""
        if failures < 2:
            return
        settings = self._config.supervisor
        wait_ms = min(settings.restart_backoff_ms << min(failures - 2, 16), settings.restart_backoff_max_ms)
        try:
            async with asyncio.timeout(wait_ms / 1000):
                await self._stopping.wait()
        except TimeoutError:
            return

    async def _check_health(self) -> None:
        """Kill services that gave no sign of life: a stopped holder is killed before it is replaced."""
        while not self._stopping.is_set():
            now_s = time.monotonic()
            for child in self._children.values():
                silent = child.state == "up" and now_s - child.alive_s > HUNG_AFTER_S
                if silent and child.process is not None:
                    self._emit("supervisor.service_hung", name=child.name, child_pid=child.process.pid)
                    child.alive_s = now_s
                    child.process.kill()
            try:
                async with asyncio.timeout(HEALTH_INTERVAL_S):
                    await self._stopping.wait()
            except TimeoutError:
                continue

    # take down

    def request_stop(self, reason: str) -> None:
        """Begin to take the bridge down."""
        self._stop_reason = self._stop_reason or reason
        self._stopping.set()

    @property
    def is_stopping(self) -> bool:
        """True once somebody asked for it."""
        return self._stopping.is_set()

    async def wait_for_stop(self) -> None:
        """Until somebody asked for it."""
        await self._stopping.wait()

    async def stop(self) -> None:
        """Stop the services, then remove nodes, DRAM and run folder."""
        self._stopping.set()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks))
        living = [
            child for child in self._children.values() if child.process and child.process.poll() is None
        ]
        for child in living:
            assert child.process is not None
            child.process.terminate()
            # a stopped process takes SIGTERM only once it goes on
            child.process.send_signal(signal.SIGCONT)
        deadline = self._config.supervisor.stop_timeout_ms / 1000
        for child in living:
            try:
                async with asyncio.timeout(deadline):
                    await self._exit_of(child)
            except TimeoutError:
                assert child.process is not None
                child.process.kill()
                child.process.wait()
        for child in self._children.values():
            if child.lifeline is not None:
                self._close_lifeline(child, child.lifeline)
        self._emit("supervisor.stopped", reason=self._stop_reason)
        with self._run.lock():
            remove_leftovers(self._run, self._config)


def child_environment() -> dict[str, str]:
    """Environment of a child: ours, with ``services`` importable when we run from a source tree."""
    root = str(Path(__file__).resolve().parents[2])
    path = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{path}" if path else root, "PYTHONSAFEPATH": "1"}


def remove_leftovers(run: RunDir, config: Config, *, keep_folder: bool = False) -> list[str]:
    """Kill what still runs under the run folder, then remove nodes, DRAM and the folder itself.

    Args:
        run: locked by the caller, unless nobody else can want it.
        config: says what the nodes are called.
        keep_folder: only empty the folder: the caller goes on under its lock.

    Returns:
        What was found and removed, in words.
    """
    found = []
    for name, record in run.processes().items():
        if alive(record) and record.pid != os.getpid():
            found.append(f"process {name} ({record.pid})")
            kill(record)
    for node in ("rc", "ep"):
        if remove_node(spec_from(config, run.name, node), run):
            found.append(f"node {node}")
        if shm.unlink(run.name, node):
            found.append(f"memory of {node}")
    if keep_folder:
        run.empty()
    elif run.exists():
        run.remove()
        found.append("run folder")
    return found


def kill(record: ProcessRecord, timeout_s: float = 5.0) -> None:
    """SIGKILL a process that may be no child of ours, and wait until it is gone."""
    if not send_signal(record, signal.SIGKILL):
        return
    try:
        fd = os.pidfd_open(record.pid)
    except ProcessLookupError:
        return
    try:
        select.select([fd], [], [], timeout_s)
    finally:
        os.close(fd)
