"""What the supervisor does about loss: of services, of memory, of interfaces, of itself."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from ntbnet import topology
from ntbnet.app import child as child_module
from ntbnet.app import forks as forks_module
from ntbnet.app.bridge import ANSWER_TIMEOUT_S, Bridge
from ntbnet.app.forks import Forked, ForkServer
from ntbnet.app.supervisor import FAILED, Supervisor
from ntbnet.app.trace_control import trace_status
from ntbnet.config import load_text
from ntbnet.edge.process import ProcessRecord, send_signal, usage_of
from ntbnet.edge.rundir import RunDir
from ntbnet.edge.shm import dram_path
from tests.conftest import MakeBridge
from tests.fabric import FABRIC
from tests.live.bridge import LiveBridge, cli, is_gone, leftovers, new_name, processes_of, run_command, until

pytestmark = [pytest.mark.system, pytest.mark.needs_tun]


@pytest.fixture
def shared(bridge: LiveBridge) -> LiveBridge:
    """For tests after which the bridge is whole again."""
    bridge.wait_for_link()
    return bridge


@pytest.fixture
def live(make_bridge: MakeBridge) -> LiveBridge:
    return make_bridge("")


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    """One that is not brought up: its parts are called one by one."""
    run = RunDir(tmp_path / "run", new_name())
    run.create()
    yield Supervisor(load_text("", "test"), run, None, lambda _: None)
    run.remove()


def events(bridge: LiveBridge, name: str, since_ns: int = 0) -> list[dict[str, object]]:
    lines = bridge.log_lines("supervisor")
    return [line for line in lines if line["event"] == name and line["mono_ns"] >= since_ns]


def replaced(bridge: LiveBridge, before: dict[str, int]) -> set[str]:
    return {name for name, pid in bridge.pids().items() if before.get(name) != pid}


@pytest.mark.parametrize(
    ("service", "mappers"),
    [
        ("epc", {"epc", "edma", "peer-ep"}),
        ("edma", {"epc", "edma", "peer-ep"}),
        ("peer-ep", {"epc", "edma", "peer-ep"}),
        ("rc-host", {"rc-host", "peer-rc"}),
        ("peer-rc", {"rc-host", "peer-rc"}),
    ],
)
def test_lost_memory_is_made_anew_and_all_its_mappers_restart(
    shared: LiveBridge, service: str, mappers: set[str]
) -> None:
    node, before, began_ns = topology.NODE_OF[service], shared.pids(), time.monotonic_ns()
    dram_path(shared.name, node).unlink()

    shared.kill(service)

    if FABRIC == "local":
        mappers = mappers | {"peer-rc", "peer-ep"}
    until(lambda: replaced(shared, before) == mappers, 10, "all users of the memory")
    shared.wait_for_link()
    assert dram_path(shared.name, node).exists()
    assert shared.pings("rc")
    assert shared.pings("ep")
    assert [(line["side"], line["what"]) for line in events(shared, "supervisor.repaired", began_ns)] == [
        (node, ["memory"])
    ]


def test_lost_interface_is_made_anew_and_programs_in_the_node_stay(shared: LiveBridge) -> None:
    program = subprocess.Popen(shared.exec_words("rc", "sleep", "60"))
    try:
        until(lambda: b"sleep" in Path(f"/proc/{program.pid}/cmdline").read_bytes()[:6], 10, "program")
        before = shared.pids()

        run_command("ip", "-n", shared.netns("rc"), "link", "del", "ntb0")

        until(lambda: "peer-rc" in replaced(shared, before), 10, "replacement of peer-rc")
        shared.wait_for_link()
        assert shared.pings("rc")
        assert shared.pings("ep")
        assert program.poll() is None
        seen = run_command("nsenter", f"--net=/proc/{program.pid}/ns/net", "ip", "link", "show", "ntb0")
        assert seen.returncode == 0
    finally:
        program.kill()
        program.wait()


def test_lost_namespace_is_made_anew(shared: LiveBridge) -> None:
    before = shared.pids()

    run_command("ip", "netns", "del", shared.netns("ep"))
    shared.kill("peer-ep")

    until(lambda: "peer-ep" in replaced(shared, before), 10, "replacement of peer-ep")
    shared.wait_for_link()
    assert shared.pings("ep")


def test_refused_up_with_another_run_folder_leaves_the_running_bridge_whole(
    shared: LiveBridge, tmp_path: Path
) -> None:
    config = tmp_path / "elsewhere.toml"
    before = {node: dram_path(shared.name, node).stat().st_ino for node in ("rc", "ep")}

    # sockets need a short path
    with TemporaryDirectory() as short:
        config.write_text(f'[run]\ndir = "{short}/r"\n', encoding="utf-8")
        done = cli("up", "--detach", "--name", shared.name, "--config", str(config))
        is_made = Path(short, "r").exists()

    assert done.returncode == 1
    assert "is not ours" in done.stderr
    assert {node: dram_path(shared.name, node).stat().st_ino for node in ("rc", "ep")} == before
    assert shared.pings("rc")
    assert not is_made


def test_replacement_that_hangs_before_it_is_ready_is_replaced_too(live: LiveBridge) -> None:
    first = live.run.processes()["edma"]
    live.kill("edma")

    def second() -> ProcessRecord | None:
        record = live.run.processes().get("edma")
        return record if record is not None and record != first else None

    hanging = until(second, 10, "replacement")
    send_signal(hanging, signal.SIGSTOP)

    until(lambda: is_gone(hanging), child_module.SILENT_S["starting"] + 3, "end of the hanging one")
    live.wait_for_link()
    assert hanging.pid in [line["child_pid"] for line in events(live, "supervisor.service_hung")]


def test_status_and_trace_status_do_not_wait_for_a_stopped_service(shared: LiveBridge) -> None:
    record = shared.run.processes()["edma"]
    send_signal(record, signal.SIGSTOP)
    try:
        # a signal is taken when its process has a CPU
        until(lambda: (used := usage_of(record)) is not None and used.is_stopped, 1, "stopped edma")
        asked_s = time.monotonic()
        row = shared.service("edma")
        status_s = time.monotonic() - asked_s
        asked_s = time.monotonic()
        traced = trace_status(Bridge(shared.run, shared.config))
        trace_s = time.monotonic() - asked_s
    finally:
        send_signal(record, signal.SIGCONT)

    assert (row["state"], row["pid"]) == ("silent", record.pid)
    assert [one["service"] for one in traced["services"] if one["level"] == "silent"] == ["edma"]
    assert status_s < ANSWER_TIMEOUT_S
    assert trace_s < ANSWER_TIMEOUT_S
    shared.wait_for_link()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_stopped_children_end_with_a_killed_supervisor(live: LiveBridge, number: signal.Signals) -> None:
    """``number`` goes to one child just before: none outlives the supervisor, running or not."""
    children = {name: record for name, record in live.run.processes().items() if name != "supervisor"}
    send_signal(children["epc"], number)

    send_signal(live.supervisor(), signal.SIGKILL)

    for name in topology.SERVICES:
        until(lambda: is_gone(children[name]), 2, f"end of {name}")  # noqa: B023 - called at once


def test_children_that_do_not_end_have_one_deadline_together() -> None:
    run = RunDir(name=new_name())  # in memory: how long a disk takes to remove it is not asked here
    run.create()
    config = load_text("[supervisor]\nstop_timeout_ms = 1000", "test")
    supervisor = Supervisor(config, run, None, lambda _: None)
    stubborn = [
        subprocess.Popen(["sh", "-c", "trap '' TERM; echo; exec sleep 60"], stdout=subprocess.PIPE)
        for _ in topology.SERVICES
    ]
    for child, process in zip(supervisor._children.values(), stubborn, strict=True):
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        child.process = Forked(process.pid)
    stubborn[0].send_signal(signal.SIGSTOP)

    started_s = time.monotonic()
    asyncio.run(supervisor.stop())
    took_s = time.monotonic() - started_s

    for child, process in zip(supervisor._children.values(), stubborn, strict=True):
        assert child.process is not None
        process.returncode = child.process.wait()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    assert 1 <= took_s < 2.5
    assert not run.exists()


def test_down_ends_programs_that_run_in_a_node(live: LiveBridge) -> None:
    stubborn = subprocess.Popen(
        live.exec_words("ep", "sh", "-c", "trap '' TERM; echo ready; while :; do sleep 60; done"),
        stdout=subprocess.PIPE,
        text=True,
    )
    polite = subprocess.Popen(live.exec_words("rc", "sleep", "60"))
    try:
        assert stubborn.stdout is not None
        assert stubborn.stdout.readline() == "ready\n"
        until(lambda: b"sleep" in Path(f"/proc/{polite.pid}/cmdline").read_bytes()[:6], 10, "program")

        done = live.down()

        assert done.returncode == 0
        assert polite.wait(timeout=5) == -signal.SIGTERM
        assert stubborn.wait(timeout=5) == -signal.SIGKILL
    finally:
        for program in (stubborn, polite):
            program.kill()
            program.communicate()
    assert leftovers(live.name) == []


def test_service_that_cannot_be_started_is_tried_again(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[str] = []
    refusals = iter([OSError(11, "no process"), OSError(24, "no descriptor")])

    async def refuse_twice(child: child_module.Child) -> None:
        tries.append(child.name)
        for problem in refusals:
            raise problem

    monkeypatch.setattr(supervisor, "_spawn", refuse_twice)
    monkeypatch.setattr(supervisor, "_repair", lambda _: None)
    emitted: list[str] = []
    monkeypatch.setattr(
        supervisor, "_emit", lambda event, **keys: emitted.append(f"{event} {keys['reason']}")
    )

    child = supervisor._children["edma"]
    ended = subprocess.Popen(["true"])
    child.process = Forked(ended.pid)
    asyncio.run(supervisor._replace(child))
    ended.returncode = child.process.wait()

    assert tries == ["edma"] * 3
    assert emitted == [
        "supervisor.spawn_failed [Errno 11] no process",
        "supervisor.spawn_failed [Errno 24] no descriptor",
    ]


def test_failure_of_a_watching_task_takes_the_bridge_down(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    emitted: list[tuple[str, dict[str, object]]] = []
    monkeypatch.setattr(supervisor, "_emit", lambda event, **keys: emitted.append((event, keys)))

    async def fail() -> None:
        raise RuntimeError("a bug")

    async def watch() -> None:
        supervisor._keep(fail())
        async with asyncio.timeout(5):
            await supervisor.wait_for_stop()

    asyncio.run(watch())

    assert emitted == [("supervisor.failed", {"reason": "RuntimeError: a bug"})]


def test_failure_that_cannot_be_told_to_anybody_takes_the_bridge_down_too(supervisor: Supervisor) -> None:
    """As behind ``up --detach``: the command that read what was said has ended, and rich ends the process."""

    def nobody_reads(_: str) -> None:
        raise SystemExit(1)

    async def fail() -> None:
        raise RuntimeError("a bug")

    async def watch() -> None:
        supervisor._progress = nobody_reads
        supervisor._keep(fail())
        await asyncio.sleep(5)

    with pytest.raises(SystemExit):
        asyncio.run(watch())
    assert supervisor._stop_reason == FAILED


def test_failed_start_leaves_neither_process_nor_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forks_module, "MODULE", "services.no_such_module")

    async def start() -> None:
        forks = ForkServer(new_name(), tmp_path / "forkserver.err")
        child = child_module.Child("edma", lambda: None)
        with pytest.raises(OSError, match="fork server does not answer"):
            await child.start(forks, ["services.edma"], tmp_path / "out", tmp_path / "err")
        assert not child.is_running

    before = len(list(Path("/proc/self/fd").iterdir()))
    asyncio.run(start())

    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert "no_such_module" in (tmp_path / "forkserver.err").read_text()


def fork_server_of(live: LiveBridge) -> ProcessRecord | None:
    for record in processes_of(live.name):
        if b"services.forkserver" in Path(f"/proc/{record.pid}/cmdline").read_bytes():
            return record
    return None


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_services_live_on_without_the_fork_server_and_are_replaced_by_another_one(
    shared: LiveBridge, number: signal.Signals
) -> None:
    before, first = shared.pids(), fork_server_of(shared)
    assert first is not None

    send_signal(first, number)
    shared.kill("edma")

    until(lambda: replaced(shared, before) == {"edma"}, 10, "replacement of edma")
    shared.wait_for_link()
    assert is_gone(first)
    assert shared.pings("rc")


def test_fork_server_ends_with_a_killed_supervisor(live: LiveBridge) -> None:
    forks = fork_server_of(live)
    assert forks is not None

    send_signal(forks, signal.SIGSTOP)
    send_signal(live.supervisor(), signal.SIGKILL)

    until(lambda: is_gone(forks), 2, "end of the fork server")


def test_fork_server_ends_with_a_supervisor_that_is_killed_while_it_imports(make_bridge: MakeBridge) -> None:
    bridge = make_bridge(up=False)
    with bridge.in_foreground() as process:
        until(lambda: imports_services(fork_server_of(bridge)), 20, "imports of the fork server")
        forks = fork_server_of(bridge)
        assert forks is not None
        send_signal(forks, signal.SIGSTOP)

        process.kill()

        until(lambda: is_gone(forks), 2, "end of the fork server")


def imports_services(forks: ProcessRecord | None) -> bool:
    """Whether a library is there that services need and that their fork server does not."""
    return forks is not None and "/zmq/" in Path(f"/proc/{forks.pid}/maps").read_text()


def test_fork_server_without_its_supervisor_imports_nothing() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        words = ("--control-fd", str(theirs.fileno()), "--parent", "1", "--name", new_name())
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "services.forkserver", *words],
            check=False,
            pass_fds=(theirs.fileno(),),
            capture_output=True,
            text=True,
            timeout=20,
        )

    assert done.returncode == 1
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "ntbnet.edge.forkserver" in imported
    assert imported.isdisjoint({"services.endpoint", "zmq", "uvloop"})


def test_processes_are_told_apart_by_their_command_lines(live: LiveBridge) -> None:
    shown = {
        name: Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
        for name, pid in live.pids().items()
    }

    for name in topology.SERVICES:
        words = [word.encode() for word in topology.MODULES[name]]
        assert shown[name][: len(words)] == words
