"""Two machines in miniature: two network namespaces joined by veth, one node of a bridge in each.

Programs are moved by ``nsenter``, not by ``ip netns exec``: the latter gives each of them mounts of its own,
in which the node's namespace would be invisible to everybody else.
"""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ntbnet import topology
from ntbnet.app.bridge import Bridge
from ntbnet.app.leftovers import kill as kill_process
from ntbnet.app.leftovers import remove_leftovers
from ntbnet.config import Config, load_text
from ntbnet.edge import keys
from ntbnet.edge.process import ProcessRecord
from ntbnet.edge.rundir import RunDir
from tests.live.bridge import (
    CLI,
    COMMAND_TIMEOUT_S,
    leftovers,
    new_name,
    processes_of,
    run_command,
    until,
)
from tests.live.echo import echo
from tests.live.logs import whole_lines

ADDRESSES = {"rc": "198.18.0.1", "ep": "198.18.0.2"}
"""Of the veth ends. Source: RFC 2544, the block for tests between networks."""


class Machine:
    """One machine with one node.

    Args:
        node: rc or ep.
        name: of the bridge, the same on both machines.
        folder: where configuration, keys, logs and run folder are; a short path.
        extra: further configuration (TOML), in section [run] until it begins another one.
    """

    def __init__(self, node: str, name: str, folder: Path, extra: str = "") -> None:
        self.node, self.name, self.folder = node, name, folder
        self.peer_node = "ep" if node == "rc" else "rc"
        self.netns = f"{name}-at-{node}"
        self.veth = f"{name}{node}"
        self.keys = folder / f"keys-{node}"
        self.logs = folder / f"logs-{node}"
        self.config_path = folder / f"{node}.toml"
        text = f"""
[bridge]
fabric = "message"
[machine]
listen = "{ADDRESSES[node]}"
peer = "{ADDRESSES[self.peer_node]}"
keys = "{self.keys}"
[log]
dir = "{self.logs}"
[run]
dir = "{folder / node}"
{extra}
"""
        self.config_path.write_text(text, encoding="utf-8")
        self.config: Config = load_text(text, "test", node=node)
        self.run = RunDir(self.config.run.dir, name)
        self._bridge = Bridge(self.run, self.config)

    def cli(
        self, command: str, *words: str, inside: bool = False, timeout_s: float = COMMAND_TIMEOUT_S
    ) -> subprocess.CompletedProcess[str]:
        """``ntbnet COMMAND`` of this machine to its end; ``inside`` its network, where that matters."""
        line = [*CLI, command, "--name", self.name, "--config", str(self.config_path), *words]
        return run_command(*(self.moved(line) if inside else line), timeout_s=timeout_s)

    def moved(self, words: list[str]) -> list[str]:
        """Command line that runs a program on this machine, outside of its node."""
        return ["nsenter", f"--net=/run/netns/{self.netns}", *words]

    def up(self) -> subprocess.CompletedProcess[str]:
        """``ntbnet up --detach --node ...`` on this machine."""
        return self.cli("up", "--detach", "--node", self.node, inside=True)

    def start(self) -> None:
        """``up``, which has to succeed."""
        done = self.up()
        assert done.returncode == 0, done.stderr

    def status(self) -> dict[str, Any]:
        """What ``ntbnet status --json`` prints here."""
        return self._bridge.status()

    def security(self) -> dict[str, dict[str, Any]]:
        """What each service says about keys."""
        return {row["name"]: row["security"] for row in self.status()["services"]}

    def exec(self, *command: str, timeout_s: float = COMMAND_TIMEOUT_S) -> subprocess.CompletedProcess[str]:
        """Run a program in this machine's node to its end."""
        return run_command(*self.exec_words(*command), timeout_s=timeout_s)

    def ping(self, family: str = "ipv4", count: int = 5) -> None:
        """Ping the other machine's node; every reply has to come."""
        side = self.config.node.ep if self.node == "rc" else self.config.node.rc
        address = (side.ipv6 if family == "ipv6" else side.ipv4).partition("/")[0]
        assert echo(f"{self.name}-{self.node}", address, count)

    def exec_words(self, *command: str) -> list[str]:
        """Command line that runs a program in this machine's node."""
        config = ["--name", self.name, "--config", str(self.config_path)]
        return [*CLI, "exec", *config, self.node, "--", *command]

    def inside(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a program on this machine, outside of its node."""
        return run_command(*self.moved(list(command)))

    def cable(self, state: str) -> None:
        """Pull this machine's end of the veth (``down``), or plug it in (``up``)."""
        done = self.inside("ip", "link", "set", self.veth, state)
        assert done.returncode == 0, done.stderr

    def log(self, service: str) -> list[dict[str, Any]]:
        """What a service has logged, in all its lives."""
        return whole_lines(self.logs / f"{service}.jsonl")

    def events(self, event: str) -> list[dict[str, Any]]:
        """Lines of that event, of every service."""
        services = topology.services_of([self.node])
        found = [line for service in services for line in self.log(service) if line["event"] == event]
        return sorted(found, key=lambda line: line["mono_ns"])

    def processes(self) -> list[ProcessRecord]:
        """Supervisor and services that live."""
        here = {record.pid for record in self.run.processes().values()}
        return [record for record in processes_of(self.name) if record.pid in here]

    def kill_everything(self) -> None:
        """SIGKILL supervisor and services of this machine, as a power cut does."""
        for record in sorted(self.processes(), key=lambda record: record.pid):
            kill_process(record)

    def remove(self) -> None:
        """Take everything of this machine away."""
        self.cli("down")
        for record in self.processes():
            kill_process(record)
        remove_leftovers(self.run, self.config)


class Pair:
    """The two machines, joined by veth."""

    def __init__(self, folder: Path, extra: str = "") -> None:
        self.name = new_name()
        self.rc = Machine("rc", self.name, folder, extra)
        self.ep = Machine("ep", self.name, folder, extra)
        self.both = (self.rc, self.ep)

    def join(self) -> None:
        """Make the namespaces and the veth between them."""
        for machine in self.both:
            _ip("netns", "add", machine.netns)
        rc, ep = self.both
        _ip("link", "add", rc.veth, "netns", rc.netns, "type", "veth", "peer", ep.veth, "netns", ep.netns)
        for machine in self.both:
            _ip("-n", machine.netns, "link", "set", "lo", "up")
            address = f"{ADDRESSES[machine.node]}/30"
            _ip("-n", machine.netns, "address", "add", address, "dev", machine.veth)
            _ip("-n", machine.netns, "link", "set", machine.veth, "up")

    def introduce(self) -> None:
        """Make each machine's keys, and let each allow the other one."""
        pairs = {machine.node: keys.make_pair(machine.keys) for machine in self.both}
        for machine in self.both:
            keys.allow(machine.keys, machine.peer_node, pairs[machine.peer_node].public)

    def start(self) -> None:
        """Both machines' ``up``."""
        for machine in self.both:
            machine.start()

    def is_linked(self) -> bool:
        """True when both machines see the link."""
        return all(machine.status()["state"] == "up" for machine in self.both)

    def wait_for_link(self, timeout_s: float = 20.0) -> None:
        """Until both machines see the link."""
        until(self.is_linked, timeout_s, "link between the machines")

    def remove(self) -> list[str]:
        """Take both away; what of them was left on this machine."""
        for machine in self.both:
            machine.remove()
            run_command("ip", "netns", "del", machine.netns)
        return [item for machine in self.both for item in leftovers(self.name, machine.config.run.dir)]


def _ip(*words: str) -> None:
    done = run_command("ip", *words)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"


@contextlib.contextmanager
def machines(extra: str = "", *, keys: bool = True) -> Iterator[Pair]:
    """Two machines, joined but with nothing running; nothing of them is left afterwards."""
    with tempfile.TemporaryDirectory(
        prefix="ntbnet-"
    ) as folder:  # pytest's own folders are too deep for sockets
        Path(folder).chmod(0o711)  # services that became another user pass through it
        pair = Pair(Path(folder), extra)
        try:
            pair.join()
            if keys:
                pair.introduce()
            yield pair
        finally:
            left = pair.remove()
        assert left == [], f"left on the machine: {left}"
