"""What a bench measures in: a bridge of its own, a veth pair to compare with, programs run in both.

The bridge is a child ``ntbnet up`` in a session of its own, so that start-up is measured as a user
has it and Ctrl-C reaches the bench alone, which then takes the bridge down. A bridge of somebody
else's under the same name is never touched.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ntbnet.app.bridge import Bridge
from ntbnet.app.forks import child_environment
from ntbnet.app.stop_request import finish, pause
from ntbnet.config import Config
from ntbnet.edge.config_file import load_config
from ntbnet.edge.netns import inside, netns_inode
from ntbnet.edge.node import spec_from
from ntbnet.edge.rundir import RunDir
from ntbnet.errors import SetupError

REPLY_TIMEOUT_S = 15.0
LISTEN_TIMEOUT_S = 5.0
STOP_TIMEOUT_S = 20.0
LOOK_INTERVAL_S = 0.005
"""Between two looks at something that cannot be awaited: a namespace or a listening socket."""
PING_INTERVAL_S = 0.01
LISTENING = {"tcp": "0A", "udp": "07"}
"""State of a socket that a server waits on, in /proc/net/<protocol>: listening, or not connected."""

PROGRAMS = {"ip": "iproute2", "ping": "iputils-ping", "iperf3": "iperf3", "sockperf": "sockperf"}
"""What a bench runs, and the Debian package it is in."""

Say = Callable[[str], None]
"""Told in words what happens."""


@dataclass(frozen=True, slots=True)
class Direction:
    """Where a sender and a receiver run, and how the sender reaches the receiver."""

    name: str
    sender: str
    """Network namespace."""
    receiver: str
    """Network namespace."""
    address: str
    """IPv4 address of the receiver."""


def require_programs(programs: Iterable[str] = PROGRAMS) -> None:
    """Nothing is measured by halves.

    Args:
        programs: of ``PROGRAMS``.

    Raises:
        SetupError: a program is missing; names the Debian packages.
    """
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        packages = " ".join(PROGRAMS[program] for program in missing)
        raise SetupError(f"{', '.join(missing)} not installed; apt-get install {packages}")


def run_program(namespace: str, argv: Sequence[str], timeout_s: float) -> subprocess.CompletedProcess[str]:
    """Run a program in a namespace to its end.

    Raises:
        SetupError: it took longer than ``timeout_s``.
    """
    with inside(namespace):  # the child inherits the namespace it is started in
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    try:
        output, complaints = finish(process, timeout_s)
    except subprocess.TimeoutExpired:
        raise SetupError(f"{argv[0]} in {namespace} took longer than {timeout_s:.0f} s") from None
    finally:
        _end(process)
    return subprocess.CompletedProcess(argv, process.returncode, output, complaints)


@contextmanager
def serving(namespace: str, argv: Sequence[str], port: int, protocol: str = "tcp") -> Iterator[None]:
    """A server runs in the namespace, waiting on ``port``, inside the ``with`` block.

    Args:
        namespace: network namespace.
        argv: the server's command line.
        port: 1..65535.
        protocol: ``tcp`` or ``udp``.

    Raises:
        SetupError: it ended, or does not listen in time.
    """
    with inside(namespace):
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
    try:
        deadline = time.monotonic() + LISTEN_TIMEOUT_S
        while not _listens(process.pid, port, protocol):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SetupError(f"{argv[0]} in {namespace} does not listen on port {port}")
            pause(LOOK_INTERVAL_S)  # between looks at another process; nothing to await
        yield
    finally:
        _end(process)


def _listens(pid: int, port: int, protocol: str) -> bool:
    """True when a socket in the network namespace of ``pid`` waits on ``port``."""
    for table in (protocol, f"{protocol}6"):
        try:
            lines = Path(f"/proc/{pid}/net/{table}").read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            local, state = line.split()[1], line.split()[3]
            if state == LISTENING[protocol] and int(local.rpartition(":")[2], 16) == port:
                return True
    return False


def _end(process: subprocess.Popen[Any], timeout_s: float = 2.0) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def veth_pair(bridge: str, mtu: int) -> Iterator[Direction]:
    """Two fresh namespaces joined by a veth pair: what the machine can do without a bridge.

    Args:
        bridge: the namespaces' names start with it; leftovers of a killed bench go first.
        mtu: bytes.

    Raises:
        SetupError: ``ip`` refuses.
    """
    with fresh_namespaces((f"{bridge}-veth-a", f"{bridge}-veth-b")) as (one, other):
        ends = ("mtu", str(mtu), "type", "veth", "peer", "name", "veth0", "netns", other, "mtu", str(mtu))
        ip("link", "add", "veth0", "netns", one, *ends)
        for name, address in ((one, "192.0.2.1/30"), (other, "192.0.2.2/30")):
            ip("-n", name, "addr", "add", address, "dev", "veth0")
            ip("-n", name, "link", "set", "veth0", "up")
        yield Direction("veth", one, other, "192.0.2.2")


@contextmanager
def fresh_namespaces(names: tuple[str, str]) -> Iterator[tuple[str, str]]:
    """Two empty network namespaces, there inside the ``with`` block.

    Raises:
        SetupError: ``ip`` refuses.
    """
    try:
        _remove_namespaces(names)
        for name in names:
            ip("netns", "add", name)
        yield names
    finally:
        _remove_namespaces(names)


def _remove_namespaces(names: Sequence[str]) -> None:
    for name in names:
        if netns_inode(name) is not None:
            ip("netns", "del", name)


def ip(*words: str) -> None:
    """Run ``ip``.

    Raises:
        SetupError: it refuses; says why.
    """
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SetupError(f"ip {' '.join(words)}: {done.stderr.strip()}")


class Lab:
    """The bench's bridge, up or down.

    Args:
        name: of the bridge.
        config_path: TOML file; defaults without it.
        say: told in words what happens.

    Raises:
        ConfigError: name or configuration is wrong.
    """

    def __init__(self, name: str, config_path: str | None, say: Say) -> None:
        self.config: Config = load_config(config_path)
        self.bridge = Bridge(RunDir(self.config.run.dir, name), self.config)
        self.name = name
        self.say = say
        self._config_path = config_path
        self._child: subprocess.Popen[bytes] | None = None

    def direction(self, sender: str, receiver: str) -> Direction:
        """From node to node (``rc``, ``ep``) over the bridge."""
        node = self.config.node.rc if receiver == "rc" else self.config.node.ep
        here, there = (spec_from(self.config, self.name, side).netns for side in (sender, receiver))
        return Direction(f"{sender}->{receiver}", here, there, node.ipv4.partition("/")[0])

    def up(self) -> float:
        """Start the bridge; seconds from ``ntbnet up`` to the first ping reply.

        Raises:
            SetupError: a bridge of that name is up, it does not start, or nothing answers.
        """
        if self.bridge.is_up():
            raise SetupError(
                f"bridge {self.name} is up: a bench uses one of its own; "
                f"choose another --name, or: ntbnet down --name {self.name}"
            )
        command = [sys.executable, "-m", "ntbnet.app.cli", "up", "--name", self.name]
        if self._config_path is not None:
            command += ["--config", self._config_path]
        with tempfile.TemporaryFile() as complaints:
            started_s = time.monotonic()
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=complaints,
                start_new_session=True,
                env=child_environment(),
            )
            self._await_reply(self._child, complaints)
            seconds = time.monotonic() - started_s
        self.bridge.wait_for_link(REPLY_TIMEOUT_S)
        return seconds

    def _await_reply(self, child: subprocess.Popen[bytes], complaints: IO[bytes]) -> None:
        link = self.direction("rc", "ep")
        ping = ["ping", "-n", "-q", "-i", str(PING_INTERVAL_S), "-c", "1", "-w", "1", link.address]
        deadline = time.monotonic() + REPLY_TIMEOUT_S
        while time.monotonic() < deadline:
            if child.poll() is not None:
                complaints.seek(0)
                words = complaints.read().decode(errors="replace").strip().splitlines()
                raise SetupError(f"the bridge did not start: {words[-1] if words else 'no reason given'}")
            there = self._is_prepared(child.pid) and netns_inode(link.sender) is not None
            if there and run_program(link.sender, ping, 10).returncode == 0:
                return
            pause(LOOK_INTERVAL_S)  # between looks at another process; nothing to await
        raise SetupError(f"no ping reply in {REPLY_TIMEOUT_S:.0f} s")

    def _is_prepared(self, supervisor: int) -> bool:
        """True once this ``ntbnet up`` has removed what a killed one left, and ended who was in its nodes."""
        record = self.bridge.run.read_run()
        return record is not None and record.supervisor.pid == supervisor

    def down(self) -> None:
        """Stop what ``up`` started; nothing of it is left. Does nothing when nothing was started."""
        child, self._child = self._child, None
        if child is None:
            return
        _end(child, STOP_TIMEOUT_S)
        if self.bridge.has_leftovers():
            self.bridge.down()

    def settings(self) -> dict[str, Any]:
        """The part of the configuration that figures depend on."""
        config = self.config
        return {
            "profile": config.profile.name,
            "fabric": config.bridge.fabric,
            "transport": config.bridge.transport,
            "use_intr": config.transport.interrupts,
            "mtu": config.netdev.mtu,
            "tx_stop": config.netdev.tx_stop,
            "poll": config.netdev.poll,
            "hz": config.profile.kernel.hz,
            "poll_ms": config.profile.kernel.poll_ms,
            "mw1_bytes": config.ntb.mw1,
        }


def json_from(program: str, text: str) -> dict[str, Any]:
    """The JSON object a program printed.

    Raises:
        SetupError: it printed something else, or an ``error``.
    """
    try:
        body = json.loads(text)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise SetupError(f"{program} said nothing that can be read: {text.strip()[-120:]}")
    if "error" in body:
        raise SetupError(f"{program}: {body['error']}")
    return body
