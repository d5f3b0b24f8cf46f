"""A bridge of real processes, started by the real commands and asked in this process."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count, pairwise
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from ntbnet import sections, topology
from ntbnet.app.bridge import Bridge
from ntbnet.app.cli import app
from ntbnet.app.leftovers import kill as kill_process
from ntbnet.app.leftovers import remove_leftovers
from ntbnet.config import Config, load_text
from ntbnet.edge.config_file import read_profile
from ntbnet.edge.process import ProcessRecord, alive, record_of, send_signal
from ntbnet.edge.rundir import RunDir
from ntbnet.errors import NtbnetError
from tests.fabric import FABRIC, text_in_fabric
from tests.live.echo import echo
from tests.live.logs import whole_lines

ROOT = Path(__file__).resolve().parents[2]
SHARED_MEMORY = Path("/dev/shm")
CLI = (sys.executable, "-m", "ntbnet.app.cli")
COMMAND_TIMEOUT_S = 40.0
_numbers = count()


def until(condition: Callable[[], Any], timeout_s: float, what: str) -> Any:
    """The first true answer of ``condition``, which looks at other processes.

    They are no children of ours and tell nobody what they do, so there is nothing to await: we ask
    every 20 ms.

    Raises:
        AssertionError: no true answer in time; names ``what``.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        answer = condition()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s} s"
        time.sleep(0.02)  # between looks at other processes; nothing to await


def new_name() -> str:
    """A bridge name that no other test and no other run of the tests uses."""
    return f"t{os.getpid()}x{next(_numbers)}"


def child_environment() -> dict[str, str]:
    """Ours, with the tree under test importable from any folder."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}


def run_command(
    *words: str, timeout_s: float = COMMAND_TIMEOUT_S, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; both streams are kept."""
    return subprocess.run(
        words,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout_s,
        cwd=cwd,
        env=child_environment(),
        stdin=subprocess.DEVNULL,
    )


@contextlib.contextmanager
def in_background(*words: str) -> Iterator[subprocess.Popen[str]]:
    """A program that runs beside the test, with its stderr to read; killed when it outlives the block."""
    process = subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=child_environment(),
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def cli(*words: str, timeout_s: float = COMMAND_TIMEOUT_S) -> subprocess.CompletedProcess[str]:
    """Run the ``ntbnet`` command to its end."""
    return run_command(*CLI, *words, timeout_s=timeout_s)


def processes_of(name: str) -> list[ProcessRecord]:
    """Living processes that were started for the bridge of that name."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if (b"--name", name.encode()) in pairwise(words) and int(entry.name) != os.getpid():
            record = record_of(int(entry.name))
            if record is not None:
                found.append(record)
    return found


def leftovers(name: str, run_dir: str = "") -> list[str]:
    """What is on the machine of the bridge of that name, in words; other bridges do not count."""
    namespaces = run_command("ip", "netns").stdout.split()
    found = [f"namespace {space}" for space in namespaces if space in {f"{name}-rc", f"{name}-ep"}]
    found += [f"memory {file}" for file in sorted(SHARED_MEMORY.glob(f"ntbnet.{name}.*"))]
    run = RunDir(run_dir, name)
    found += [f"run folder {run.path}"] if run.exists() else []
    found += [f"process {record.pid}" for record in processes_of(name)]
    return found


class LiveBridge:
    """One bridge; its name is its own, its logs outlive it.

    Args:
        folder: where configuration and logs go.
        text: configuration (TOML) without a section [log]; None for the built-in defaults. The fabric is
            that of the test run, unless the text names one.
    """

    def __init__(self, folder: Path, text: str | None = None) -> None:
        self.name = new_name()
        self.folder = folder
        self.log_folder = folder / f"{self.name}-logs"
        self.config_path: Path | None = None
        if text is None and sections.Bridge().fabric != FABRIC:
            text = ""
        if text is not None:
            self.config_path = folder / f"{self.name}.toml"
            text = text_in_fabric(text)
            self.config_path.write_text(f'{text}\n[log]\ndir = "{self.log_folder}"\n', encoding="utf-8")
        self.config: Config = load_text(text or "", "test", read_profile)
        self.run = RunDir(self.config.run.dir, self.name)
        self._bridge = Bridge(self.run, self.config)

    # commands

    def cli(
        self, command: str, *words: str, timeout_s: float = COMMAND_TIMEOUT_S
    ) -> subprocess.CompletedProcess[str]:
        """``ntbnet COMMAND --name <ours> ...`` to its end."""
        return cli(command, "--name", self.name, *words, timeout_s=timeout_s)

    def up(self) -> Result:
        """``ntbnet up --detach``, run in this process, which spares the time that a command takes to start.

        Raises:
            AssertionError: it failed; says how.
        """
        done = CliRunner().invoke(app, ["up", "--detach", "--name", self.name, *self.config_words])
        assert done.exit_code == 0, f"{done.stderr}{done.exception!r}"
        return done

    @property
    def config_words(self) -> tuple[str, ...]:
        """The options that select the configuration."""
        return ("--config", str(self.config_path)) if self.config_path else ()

    @contextlib.contextmanager
    def in_foreground(self) -> Iterator[subprocess.Popen[str]]:
        """``ntbnet up``, which runs until it is told to stop, at the latest at the end of the block."""
        with in_background(*CLI, "up", "--name", self.name, *self.config_words) as process:
            yield process

    def down(self) -> subprocess.CompletedProcess[str]:
        """``ntbnet down``."""
        return self.cli("down")

    # questions

    def status(self) -> dict[str, Any]:
        """What ``ntbnet status --json`` prints."""
        return self._bridge.status()

    def service(self, name: str) -> dict[str, Any]:
        """One service's part of the status."""
        found: dict[str, Any] = next(row for row in self.status()["services"] if row["name"] == name)
        return found

    def is_linked(self) -> bool:
        """True when every service answers and the queue link is up."""
        return bool(self.status()["state"] == "up")

    def wait_for_link(self, timeout_s: float = 15.0, after: int = 0) -> dict[str, Any]:
        """The status once the link is up, in a later epoch than ``after``."""

        def linked() -> dict[str, Any] | None:
            status = self.status()
            return status if status["state"] == "up" and status["link"]["epoch"] > after else None

        what = f"link of {self.name}, which is {self.status()['link']}"
        found: dict[str, Any] = until(linked, timeout_s, what)
        return found

    def wait_for_replacement(self, service: str, old_pid: int, timeout_s: float = 10.0) -> None:
        """Wait until another process than ``old_pid`` is noted as the service; it may not be up yet."""
        until(lambda: self.pids()[service] != old_pid, timeout_s, f"replacement of {service}")

    def pids(self) -> dict[str, int]:
        """Process of each service, as the run folder says."""
        return {name: record.pid for name, record in self.run.processes().items()}

    def supervisor(self) -> ProcessRecord:
        """The process that keeps the services alive."""
        record = self.run.read_run()
        assert record is not None
        return record.supervisor

    def netns(self, node: str) -> str:
        """Namespace of a node."""
        return f"{self.name}-{node}"

    def address(self, node: str, family: str = "ipv4") -> str:
        """Address of a node's interface."""
        side = self.config.node.rc if node == "rc" else self.config.node.ep
        text: str = getattr(side, family)
        return text.partition("/")[0]

    def log_lines(self, service: str) -> list[dict[str, Any]]:
        """What a service has logged."""
        path = self.log_folder / f"{service}.jsonl" if self.config_path else self.run.log_path(service)
        return whole_lines(Path(path))

    def complaints(self) -> list[str]:
        """Tracebacks and error events of all services; [] for a bridge whose parts only died by our hand."""
        found = []
        for service in topology.SERVICES:
            found += self.run.stderr_path(service).read_text(encoding="utf-8").splitlines()
            found += [str(line) for line in self.log_lines(service) if line["level"] == "error"]
        return found

    def exec_words(self, node: str, *command: str) -> tuple[str, ...]:
        """Command line that runs a program inside a node."""
        return (*CLI, "exec", "--name", self.name, node, "--", *command)

    def exec(
        self, node: str, *command: str, timeout_s: float = COMMAND_TIMEOUT_S
    ) -> subprocess.CompletedProcess[str]:
        """Run a program inside a node to its end."""
        return run_command(*self.exec_words(node, *command), timeout_s=timeout_s)

    def run_inside(self, node: str, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a program inside a node to its end, where ``ntbnet exec`` is not what is tested."""
        return run_command("ip", "netns", "exec", self.netns(node), *command)

    def pings(self, source: str = "rc", family: str = "ipv4", count: int = 1) -> bool:
        """True when every reply to so many requests to the other node comes."""
        target = self.address("ep" if source == "rc" else "rc", family)
        return echo(self.netns(source), target, count)

    # violence

    def signal(self, service: str, number: signal.Signals) -> float:
        """Send a signal to a living service; monotonic seconds of that moment."""
        assert send_signal(self.run.processes()[service], number), f"{service} is dead"
        return time.monotonic()

    def kill(self, service: str) -> float | None:
        """SIGKILL a service and wait until it is gone; monotonic seconds of it, None when it was dead."""
        record = self.run.processes()[service]
        if not alive(record):
            return None
        killed_s = time.monotonic()
        kill_process(record)
        return killed_s

    # end

    def remove(self) -> list[str]:
        """Take it down, as ``ntbnet down`` does; what that left on the machine, which is removed then."""
        problems = []
        try:
            self._bridge.down()
        except NtbnetError as problem:
            problems.append(f"down failed: {problem}")
        left = leftovers(self.name, self.config.run.dir) + problems
        if left:
            for record in processes_of(self.name):
                kill_process(record)
            remove_leftovers(self.run, self.config)
            for node in ("rc", "ep"):
                run_command("ip", "netns", "del", self.netns(node))
        return left


@contextlib.contextmanager
def bridges(folder: Path) -> Iterator[Callable[..., LiveBridge]]:
    """A maker of bridges; all are taken down afterwards, and nothing of them may be left.

    The maker takes configuration text (None: the built-in defaults) and ``up=False`` for a bridge
    that the test starts itself.
    """
    made: list[LiveBridge] = []

    def make(text: str | None = None, *, up: bool = True) -> LiveBridge:
        bridge = LiveBridge(folder, text)
        made.append(bridge)
        if up:
            bridge.up()
        return bridge

    try:
        yield make
    finally:
        left = [item for bridge in made for item in bridge.remove()]
        assert left == [], f"left on the machine: {left}"


class HandStarted:
    """Services of one bridge started by hand, one by one, as honcho would.

    Args:
        bridge: gives name and configuration; is not started itself.
    """

    def __init__(self, bridge: LiveBridge) -> None:
        self.bridge = bridge
        self.children: dict[str, subprocess.Popen[bytes]] = {}

    def command(self, service: str, *, config: Path | None = None) -> list[str]:
        """Command line of a service."""
        module, *arguments = topology.MODULES[service]
        words = [sys.executable, "-m", module, *arguments, "--name", self.bridge.name]
        config = config or self.bridge.config_path
        return words + (["--config", str(config)] if config else [])

    def start(self, service: str, *, config: Path | None = None) -> None:
        """Start a service; its streams go to files."""
        with self.stdout(service).open("ab") as out, self.stderr(service).open("ab") as err:
            self.children[service] = subprocess.Popen(
                self.command(service, config=config),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=child_environment(),
            )

    def wait_until_started(self, service: str) -> None:
        """Until the service has logged that it is up."""

        def is_started() -> bool:
            code = self.children[service].poll()
            assert code is None, f"{service} ended with {code}: {self.stderr(service).read_text()}"
            return any(line["event"] == "service.started" for line in self.lines(service))

        until(is_started, 15, f"start of {service}")

    def stdout(self, service: str) -> Path:
        """File with what the service wrote to stdout."""
        return self.bridge.folder / f"{self.bridge.name}.{service}.out"

    def stderr(self, service: str) -> Path:
        """File with what the service wrote to stderr."""
        return self.bridge.folder / f"{self.bridge.name}.{service}.err"

    def lines(self, service: str) -> list[dict[str, Any]]:
        """Whole lines of the service's stdout so far; each must be a JSON object."""
        return whole_lines(self.stdout(service))

    def stop(self, number: signal.Signals, services: Sequence[str] = topology.SERVICES) -> dict[str, int]:
        """Signal services all at once; their exit codes."""
        chosen = {name: self.children[name] for name in services if name in self.children}
        for child in chosen.values():
            child.send_signal(number)
        return {name: child.wait(timeout=15) for name, child in chosen.items()}

    def kill(self) -> None:
        """End whatever still runs."""
        for child in self.children.values():
            child.kill()
            child.wait()


def is_gone(record: ProcessRecord) -> bool:
    """True once that process has ended."""
    return not alive(record)
