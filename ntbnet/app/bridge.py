"""A running bridge as the commands see it: found by its run folder, asked over its sockets."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from ntbnet import topology
from ntbnet.app.leftovers import kill, remove_leftovers
from ntbnet.app.stop_request import pause
from ntbnet.config import Config
from ntbnet.edge.config_file import load_config
from ntbnet.edge.process import ProcessRecord, alive, send_signal, wait_until_ended
from ntbnet.edge.rundir import RunDir
from ntbnet.errors import ConfigError, SetupError
from ntbnet.layout import layout_of

ANSWER_TIMEOUT_S = 1.0
SUPERVISOR = "supervisor"
"""Name under which the supervisor notes its own process."""
STOP_MARGIN_S = 5.0


class Bridge:
    """One bridge by name, running or not.

    Args:
        run: its run folder.
        fallback: configuration to assume when the run folder holds none (honcho's runs do not).
    """

    def __init__(self, run: RunDir, fallback: Config) -> None:
        self.run = run
        self._fallback = fallback

    @property
    def config(self) -> Config:
        """The configuration it runs with."""
        path = Path(self.run.path, "config.toml")
        if not path.exists():
            return self._fallback
        try:
            return load_config(str(path))
        except ConfigError:
            return self._fallback

    def is_up(self) -> bool:
        """True while its supervisor, or any service under honcho, lives."""
        record = self.run.read_run()
        supervisor = self.run.process(SUPERVISOR) if record is None else record.supervisor
        if record is None or record.mode == "supervisor":
            return supervisor is not None and alive(supervisor)
        return any(alive(process) for process in self.run.processes().values())

    def has_leftovers(self) -> bool:
        """True when a killed run left its run folder behind."""
        return self.run.exists() and not self.is_up()

    # status

    def status(self) -> dict[str, Any]:
        """Everything ``ntbnet status`` shows; one object, the same keys in every state."""
        from ntbnet.app import interrupts

        record = self.run.read_run()
        is_up = self.is_up()
        answers = self.answers() if is_up else {}
        config = self.config
        services = self._services(answers, config)
        link = link_state(answers, config.nodes) | {"wanted": self.link_wanted()}
        return {
            "name": self.run.name,
            "folder": str(self.run.path),
            "state": _overall(is_up, services, link),
            "mode": record.mode if record and is_up else None,
            "run_id": record.run_id if record and is_up else None,
            "services": services,
            "link": link,
            "profile": config.profile.name,
            "fabric": config.bridge.fabric,
            "machine": _machine(config, services),
            **interrupts.status_of(answers),
            "windows": {
                "planned": [window.as_json() for window in layout_of(config).windows],
                "actual": answers.get("epc", {}).get("windows", []),
            },
            "dma_channels": answers.get("edma", {}).get("channels", []),
            "nodes": _nodes(config, self.run.name),
        }

    def services(self) -> tuple[str, ...]:
        """The services that run on this machine."""
        return topology.services_of(self.config.nodes)

    def answers(self) -> dict[str, dict[str, Any]]:
        """What each service of a running bridge says about itself; silent and stopped ones are left out."""
        from ntbnet.app.ask import able_to_answer, ask

        return ask(able_to_answer(self.run, self.services()), ANSWER_TIMEOUT_S)

    def _services(self, answers: dict[str, dict[str, Any]], config: Config) -> list[dict[str, Any]]:
        children = self.children()
        processes = self.run.processes() if self.run.exists() else {}
        services = []
        for name in topology.services_of(config.nodes):
            answer, child, process = answers.get(name), children.get(name, {}), processes.get(name)
            is_alive = process is not None and alive(process)
            state = answer["state"] if answer else "silent" if is_alive else "down"
            services.append(
                {
                    "name": name,
                    "node": topology.NODE_OF[name],
                    "pid": process.pid if process is not None and is_alive else None,
                    "epoch": answer["epoch"] if answer else (self._epoch(name) if self.run.exists() else 0),
                    "restarts": child.get("restarts", 0),
                    "state": state,
                    "uptime_s": answer["uptime_s"] if answer else None,
                    "counters": answer["counters"] if answer else {},
                    "stores": answer.get("stores", {}) if answer else {},
                    "paths": answer["paths"] if answer else [],
                    "wakes": answer.get("wakes", {}) if answer else {},
                    "security": answer.get("security", {}) if answer else {},
                }
            )
        return services

    def _epoch(self, name: str) -> int:
        return self.run.epoch(name) or 0

    def children(self) -> dict[str, dict[str, Any]]:
        """What the supervisor says of each service: ``restarts`` and ``state``; {} before it spoke."""
        try:
            children = json.loads(Path(self.run.path, "children.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return children if isinstance(children, dict) else {}

    def wait_for_link(
        self,
        timeout_s: float,
        given_up: Callable[[], bool] = lambda: False,
        *,
        ours: bool = False,
        pause_s: float = 0.02,
    ) -> dict[str, Any]:
        """Status once the queue link is up, or once ``given_up`` says so.

        Args:
            timeout_s: how long to wait, seconds.
            given_up: asked again and again.
            ours: be content once every service of this machine answers.
            pause_s: time between two looks, seconds.

        Raises:
            SetupError: it does not come up in time; says what the link waits for.
        """

        def is_done(status: dict[str, Any]) -> bool:
            return status["state"] in (("up", "starting") if ours else ("up",)) or given_up()

        def failure(status: dict[str, Any]) -> str:
            silent = [service["name"] for service in status["services"] if service["state"] != "up"]
            reason = f"no answer from {', '.join(silent)}" if silent else f"link is {status['link']['state']}"
            return f"bridge {self.run.name} did not come up in {timeout_s:.0f} s: {reason}"

        return self.wait_for(is_done, timeout_s, failure, pause_s=pause_s)

    def wait_for(
        self,
        is_done: Callable[[dict[str, Any]], bool],
        timeout_s: float,
        failure: Callable[[dict[str, Any]], str],
        *,
        pause_s: float = 0.02,
    ) -> dict[str, Any]:
        """The first status that ``is_done`` says true of.

        Args:
            is_done: asked of one status after the other.
            timeout_s: how long to wait, seconds.
            failure: what is said of the last one when that is over.
            pause_s: time between two looks, seconds.

        Raises:
            SetupError: there is none in time.
        """
        deadline = time.monotonic() + timeout_s
        while not is_done(status := self.status()):
            if time.monotonic() >= deadline:
                raise SetupError(failure(status))
            pause(pause_s)  # between questions to other processes; nothing to await here
        return status

    # commands

    def move_bar(self, bar: int) -> None:
        """Have the host give BAR ``bar`` another bus address.

        Raises:
            SetupError: it does not answer, or says why it cannot.
        """
        if "rc" not in self.config.nodes:
            raise SetupError(f"BAR{bar} was not moved: node rc runs on the other machine; ask there")
        refusal = self._command("rc-host", f"move_bar {bar}")
        if refusal is not None:
            raise SetupError(f"BAR{bar} was not moved: {refusal}")

    def reset(self, node: str) -> None:
        """Reset the host (``rc``) or the endpoint (``ep``).

        Raises:
            SetupError: it does not answer, or says why it cannot.
        """
        refusal = self._command("rc-host" if node == "rc" else "epc", "reset")
        if refusal is not None:
            raise SetupError(f"{node} was not reset: {refusal}")

    def want_link(self, node: str, wanted: bool) -> str | None:
        """Have a node's driver ask for the NTB link, or drop it; what starts later does so as well.

        Returns:
            Why the driver of now did not hear of it; None when it did.
        """
        self.run.want_link(node, wanted)
        return self._command(f"peer-{node}", f"link {'up' if wanted else 'down'}")

    def link_wanted(self) -> dict[str, bool]:
        """By node, False where the link was taken down by command."""
        return {node: self.run.link_is_wanted(node) for node in ("rc", "ep")}

    def _command(self, service: str, words: str) -> str | None:
        """Tell a service to do something; why it does not, or None."""
        from ntbnet.app.ask import ask

        path = self.run.socket_path(f"ask.{service}")
        answer = ask({service: path}, ANSWER_TIMEOUT_S, words.encode()).get(service)
        return f"{service} is silent" if answer is None else answer.get("error")

    # down

    def down(self) -> list[str]:
        """Stop it and remove everything of it; what was done, in words ([] when there was nothing).

        Raises:
            SetupError: somebody else is starting or stopping it right now.
        """
        if not self.run.exists():
            return []
        with self.run.lock():
            # who starts or stops it has the lock: what we see now is no half-made run
            targets = self._request_stop()
        if targets:
            deadline = time.monotonic() + self.config.supervisor.stop_timeout_ms / 1000 + STOP_MARGIN_S
            for process in targets:
                wait_until_ended(process, max(deadline - time.monotonic(), 0))
            for process in targets:
                kill(process)
        done = ["services"] if targets else []
        if not self.run.exists():
            return done
        with self.run.lock():
            if self.is_up():
                raise SetupError(f"bridge {self.run.name} was started again meanwhile")
            left = remove_leftovers(self.run, self.config)
        return done + [item for item in left if not targets or item != "run folder"]

    def _request_stop(self) -> list[ProcessRecord]:
        """SIGTERM for the supervisor, or under honcho for every service; who got it."""
        record, processes = self.run.read_run(), self.run.processes()
        if record is not None and record.mode == "honcho":
            targets = list(processes.values())
        else:
            known = (record.supervisor if record else None, processes.get(SUPERVISOR))
            targets = [process for process in dict.fromkeys(known) if process is not None]
        return [process for process in targets if send_signal(process, signal.SIGTERM)]


def link_state(answers: dict[str, dict[str, Any]], nodes: Collection[str] = ("rc", "ep")) -> dict[str, Any]:
    """Link and queues of those nodes, from what the services answered."""
    host = answers.get("rc-host" if "rc" in nodes else "epc", {}).get("link", {})
    peers = {node: answers.get(f"peer-{node}", {}).get("link", {}) for node in ("rc", "ep")}
    sides = {node: dict(enumerate(link.get("queues", []))) for node, link in peers.items()}
    queues = []
    for number in sorted(set(sides["rc"]) | set(sides["ep"])):
        both = [sides[node].get(number, {}) for node in ("rc", "ep")]
        here = [sides[node].get(number, {}) for node in nodes]
        is_up = all(queue.get("link") == "up" for queue in here)
        # the network device takes one queue; the kernel leaves the others down, too
        is_idle = all(queue.get("has_client") is False for queue in here)
        state = "up" if is_up else "idle" if is_idle else "down"
        queues.append({"queue": number, "state": state, "rc": both[0], "ep": both[1]})
    used = [queue["state"] for queue in queues if queue["state"] != "idle"]
    is_up = bool(used) and set(used) == {"up"}
    return {"state": "up" if is_up else "down", "epoch": host.get("epoch", 0), "queues": queues}


def _overall(is_up: bool, services: list[dict[str, Any]], link: dict[str, Any]) -> str:
    if not is_up:
        return "down"
    if all(service["state"] == "up" for service in services):
        if link["state"] == "up":
            return "up"
        return "starting" if all(link["wanted"].values()) else "disabled"
    return "degraded"


def _machine(config: Config, services: list[dict[str, Any]]) -> dict[str, Any]:
    """Which nodes run here, where the other one is, and why the two machines do not get together."""
    refusals = [
        f"{service['name']}, from {direction}: {reason}"
        for service in services
        for direction, reason in service["security"].get("reasons", {}).items()
    ]
    peer = config.machine.peer if config.is_apart else None
    return {"nodes": list(config.nodes), "peer": peer, "refusals": refusals}


def _nodes(config: Config, name: str) -> dict[str, dict[str, Any]]:
    sides = {"rc": config.node.rc, "ep": config.node.ep}
    return {
        node: {
            "netns": f"{name}-{node}",
            "tun": config.netdev.tun,
            "ipv4": side.ipv4,
            "ipv6": side.ipv6,
            "mtu": config.netdev.mtu,
            "here": node in config.nodes,
        }
        for node, side in sides.items()
    }
