"""The supervisor inside ``ntbnet up``: nodes, DRAM, service processes, and what restarts them.

It starts services in dependency order and waits for each one's READY, never for time. They are forked
by a process that has done their imports (``forks``). A service that dies is noticed through its
pidfd and replaced at once; one that dies again and again as soon as it is up waits longer each time. A
service that gives no sign of life (its neighbours notice within a second, the supervisor somewhat later)
is killed before it is replaced. Before a replacement starts, what
is lost of its node or DRAM is made anew. When the supervisor ends, however it ends, its children
do: a running one sees it at its end of a socket pair, a stopped one is killed by the kernel.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from ntbnet import topology
from ntbnet.app.child import Child
from ntbnet.app.forks import ForkServer
from ntbnet.app.leftovers import remove_but_records, remove_leftovers
from ntbnet.app.log_keeper import LogKeeper
from ntbnet.app.metrics import metrics_endpoint
from ntbnet.config import Config, to_toml
from ntbnet.edge.privileges import account
from ntbnet.edge.process import own_record, record_of
from ntbnet.edge.run_record import RunRecord, new_run_id
from ntbnet.edge.rundir import RunDir
from ntbnet.edge.side import MEMORY, make_side
from ntbnet.errors import NtbnetError, SetupError
from ntbnet.log import Logger

if TYPE_CHECKING:
    from ntbnet.app.metrics_endpoint import Endpoint

READY_TIMEOUT_S = 15.0
HEALTH_INTERVAL_S = 0.5
CALM_S = 1.0
"""A service that lived that long starts again without waiting."""
FAILED = "failed"
"""Why a supervisor stops that cannot go on."""
FORKS_RETRY_S = 1.0
"""Least time between two starts of the fork server."""

Progress = Callable[[str], None]


class Supervisor:
    """Brings a bridge up, keeps it up, takes it down.

    Args:
        config: checked configuration.
        run: its run folder, locked by the caller while starting.
        progress: told what happens, in words, while starting and stopping.

    Raises:
        ConfigError: services are to become a user that this machine does not have.
    """

    def __init__(self, config: Config, run: RunDir, config_path: str | None, progress: Progress) -> None:
        self._config = config
        self._run = run
        self._config_path = config_path
        self._user = account(config.run.user)
        self._progress = progress
        self._run_id = new_run_id()
        services = topology.services_of(config.nodes)
        self._children = {name: Child(name, self._write_children) for name in services}
        self._forks = ForkServer(run.name, run.stderr_path("forkserver"))
        self._stopping = asyncio.Event()
        self._stop_reason = ""
        self._is_ready = False
        self._log: Logger | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._log_folder = Path(config.log.dir) if config.log.dir else None
        self._metrics: Endpoint | None = None
        self._log_keeper = LogKeeper(config, self._log_path)
        self._stream: TextIO | None = None
        self._log_trouble = False

    # bring up

    def prepare(self) -> list[str]:
        """Run folder, DRAM and nodes; on failure nothing is left behind but what a killed run recorded.

        What else it left under the same name is removed first, and said.

        Returns:
            What was said.

        Raises:
            ConfigError: metrics are wanted and their library is not installed.
            SetupError: a permission, a device or space is missing, or a name or port is taken.
        """
        run, config = self._run, self._config
        left = remove_leftovers(run, config, keep_folder=True)
        said = [f"removed what a killed run left: {', '.join(left)}"] if left else []
        if left and run.last_trace_folder.is_dir():
            said.append(f"what it recorded is kept: ntbnet trace blackbox --last --name {run.name}")
        for text in said:
            self._progress(text)
        run.create()
        try:
            if self._user is not None:
                run.share(self._user.uid, self._user.gid)
            self._forks.start()
            run.write_run(self._record())
            run.write_config(to_toml(config))
            if self._log_folder is not None:
                self._make_log_folder(self._log_folder)
            self._metrics = metrics_endpoint(config, run, self._restarts)
            for node in config.nodes:
                make_side(config, run, node)
            stream = self._stream = self._log_path("supervisor").open("a", encoding="utf-8", buffering=1)
        except BaseException:
            self._forks.close()
            if self._metrics is not None:
                self._metrics.close()
            remove_but_records(run, config, of_this_run=False)
            raise
        bound = {"run_id": self._run_id, "node": "host", "service": "supervisor", "epoch": 1}
        self._log = Logger(stream, config.log.level, bound)
        if left:
            self._emit("supervisor.cleaned", what=left)
        if self._metrics is not None:
            self._metrics.start()
            self._emit("supervisor.metrics_served", url=self._metrics.url)
            said.append(f"metrics: {self._metrics.url}")
            self._progress(said[-1])
        return said

    def _restarts(self) -> dict[str, int]:
        return {name: child.restarts for name, child in self._children.items()}

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
            with contextlib.suppress(OSError):  # a full disk ends the log, not the bridge
                self._log.emit(event, **keys)

    async def start(self) -> None:
        """Start the services; returns once each has said READY.

        Raises:
            SetupError: a service ended instead, or did not get ready in time.
        """
        started_s = time.monotonic()
        self._emit("supervisor.started", services=list(self._children))
        for child in self._children.values():
            await self._spawn(child)
        for child in self._children.values():
            self._progress(f"waiting for {child.name}")
            try:
                async with asyncio.timeout(READY_TIMEOUT_S):
                    await self._ready_or_dead(child)
            except TimeoutError:
                raise SetupError(f"{child.name} did not get ready in {READY_TIMEOUT_S:.0f} s") from None
        self._is_ready = True
        self._emit("supervisor.ready", seconds=round(time.monotonic() - started_s, 3))
        for child in self._children.values():
            self._keep(self._watch(child))
        self._keep(self._check_health())
        self._keep(self._keep_forks())

    async def _ready_or_dead(self, child: Child) -> None:
        ready = asyncio.ensure_future(child.ready.wait())
        dead = asyncio.ensure_future(child.ended())
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
            lines = self._run.stderr_path(name).read_text(errors="replace").strip().splitlines()
        except OSError:
            lines = []
        return lines[-1] if lines else "it said nothing"

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_kept_end)

    def _on_kept_end(self, task: asyncio.Task[None]) -> None:
        """A bridge that nobody keeps up is taken down rather than left alone."""
        self._tasks.discard(task)
        problem = None if task.cancelled() else task.exception()
        if problem is not None:
            reason = f"{type(problem).__name__}: {problem}"
            self._emit("supervisor.failed", reason=reason)
            self.request_stop(FAILED)
            self._progress(f"the supervisor failed: {reason}")

    # children

    async def _spawn(self, child: Child) -> None:
        """Start one service process.

        Raises:
            OSError: it cannot be started.
            SetupError: it cannot be noted. It does not run then.
        """
        words = [*topology.MODULES[child.name], "--config", str(self._run.config_path)]
        words += ["--name", self._run.name, "--run-id", self._run_id]
        await child.start(self._forks, words, self._log_path(child.name), self._run.stderr_path(child.name))
        record = record_of(child.pid)
        if record is not None:
            try:
                self._run.record_process(child.name, record)
            except BaseException:
                child.kill()
                raise
        self._emit(
            "supervisor.service_started", name=child.name, child_pid=child.pid, restarts=child.restarts
        )
        self._write_children()

    def _write_children(self) -> None:
        """Restart counts for ``status``: the one thing only the supervisor knows."""
        path = Path(self._run.path, "children.json")
        body = {c.name: {"restarts": c.restarts, "state": c.state} for c in self._children.values()}
        aside = path.with_suffix(".new")
        try:
            aside.write_text(json.dumps(body), encoding="utf-8")
            aside.replace(path)
        except OSError as problem:
            self._emit("supervisor.write_failed", file=str(path), reason=str(problem))

    async def _watch(self, child: Child) -> None:
        """Replace the child each time it ends, until the bridge is taken down."""
        while not self._stopping.is_set():
            pid = child.pid
            status = await child.ended()
            if self._stopping.is_set():
                return
            self._emit("supervisor.service_died", name=child.name, child_pid=pid, status=status)
            calm = time.monotonic() - child.started_s >= CALM_S
            child.failures = 0 if calm else child.failures + 1
            child.restarts += 1
            child.state = "waiting"
            self._write_children()
            await self._replace(child)

    async def _replace(self, child: Child) -> None:
        """Start the child anew, again and again until that succeeds or the bridge is taken down."""
        while True:
            await self._back_off(child.failures)
            if self._stopping.is_set():
                return
            try:
                self._repair(child)
                await self._spawn(child)
            except (OSError, NtbnetError) as problem:
                self._emit("supervisor.spawn_failed", name=child.name, reason=str(problem))
                child.failures += 1
                child.state = "waiting"
                await child.ended()
            else:
                return

    def _repair(self, child: Child) -> None:
        """Make anew what is lost of the child's node; who maps lost DRAM is killed, and so replaced."""
        node = topology.NODE_OF[child.name]
        made = make_side(self._config, self._run, node)
        if made:
            self._emit("supervisor.repaired", side=node, what=made)
        if MEMORY in made:
            for name in topology.memory_users(node, self._config.bridge.fabric) - {child.name}:
                self._children[name].kill()

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
                if child.is_hung(now_s):
                    self._emit("supervisor.service_hung", name=child.name, child_pid=child.pid)
                    child.alive_s = now_s
                    child.kill()
            self._bound_logs()
            try:
                async with asyncio.timeout(HEALTH_INTERVAL_S):
                    await self._stopping.wait()
            except TimeoutError:
                continue

    def _bound_logs(self) -> None:
        """Set logs aside that are long. What hinders that is told once; the bridge goes on."""
        try:
            for child in self._children.values():
                self._log_keeper.look_after(child)
            if self._stream is not None:
                self._log_keeper.look_after_own("supervisor", self._stream)
        except OSError as problem:
            if not self._log_trouble:
                self._emit("supervisor.write_failed", file=str(problem.filename), reason=str(problem))
            self._log_trouble = True
        else:
            self._log_trouble = False

    async def _keep_forks(self) -> None:
        """Have a fork server ready: what died of it is not found out by the service that needs it."""
        while not self._stopping.is_set():
            began_s, pid = time.monotonic(), self._forks.pid
            await self._forks.ended()
            self._emit("supervisor.forkserver_died", child_pid=pid)
            left_s = FORKS_RETRY_S - (time.monotonic() - began_s)
            if left_s > 0:
                await asyncio.sleep(left_s)  # it ended at once: no use in doing that all the time
            try:
                self._forks.start()
            except OSError as problem:
                self._emit("supervisor.spawn_failed", name="forkserver", reason=str(problem))

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
        """Stop the services, then remove nodes, DRAM and run folder.

        Unless somebody asked for it, a record stays: of what led to a failure, or what a killed run left that
        a bridge which did not come up was to replace.
        """
        self._stopping.set()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks))
        if self._metrics is not None:
            await asyncio.to_thread(self._metrics.close)
        living = {
            child: asyncio.ensure_future(child.ended())
            for child in self._children.values()
            if child.is_running
        }
        for child in living:
            child.terminate()
        if living:
            await asyncio.wait(living.values(), timeout=self._config.supervisor.stop_timeout_ms / 1000)
            for child in living:
                child.kill()
            await asyncio.wait(living.values())
        for child in self._children.values():
            child.close()
        self._forks.close()
        self._emit("supervisor.stopped", reason=self._stop_reason)
        with self._run.lock():
            if self._stop_reason == FAILED or not (self._stop_reason or self._is_ready):
                remove_but_records(self._run, self._config, of_this_run=self._is_ready)
            else:
                remove_leftovers(self._run, self._config)
