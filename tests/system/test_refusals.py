"""What cannot be started says why in one line, with the right exit code, and leaves nothing behind."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ntbnet import topology
from tests.conftest import MakeBridge
from tests.live.bridge import CLI, HandStarted, cli, leftovers, new_name, run_command

pytestmark = [pytest.mark.system, pytest.mark.needs_tun]

WRONG = {
    "unknown key": ("[netdev]\nmtuu = 1500\n", ("netdev.mtuu", "mtu")),
    "unknown section": ("[netdef]\nmtu = 1500\n", ("netdef", "netdev")),
    "out of range": ("[netdev]\nmtu = 70000\n", ("netdev.mtu", "70000", "1280..65510")),
    "wrong type": ('[ntb]\ndb_count = "many"\n', ("ntb.db_count", "many")),
    "unknown choice": ('[ntb]\nctrl_layout = "modern"\n', ("ntb.ctrl_layout", "modern", "classic", "rfc1")),
    "not TOML": ("[netdev\n", ("line 1",)),
}
"""Configuration and what the one line must name."""

wrong = pytest.mark.parametrize(("text", "named"), WRONG.values(), ids=WRONG.keys())


def assert_one_line(done: subprocess.CompletedProcess[str], code: int, *named: str) -> None:
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    for word in named:
        assert word in lines[0]


@pytest.fixture
def name() -> Iterator[str]:
    name = new_name()
    yield name
    assert leftovers(name) == []


@wrong
@pytest.mark.parametrize("detach", [(), ("--detach",)], ids=["foreground", "detached"])
def test_up_with_a_wrong_configuration_is_one_line_and_exit_2(
    tmp_path: Path, name: str, text: str, named: tuple[str, ...], detach: tuple[str, ...]
) -> None:
    config = tmp_path / "wrong.toml"
    config.write_text(text, encoding="utf-8")

    assert_one_line(cli("up", "--name", name, "-c", str(config), *detach), 2, str(config), *named)


@pytest.mark.parametrize("service", topology.SERVICES)
def test_service_with_a_wrong_configuration_is_one_line_and_exit_2(
    tmp_path: Path, name: str, service: str
) -> None:
    for text, named in WRONG.values():
        config = tmp_path / "wrong.toml"
        config.write_text(text, encoding="utf-8")
        module, *arguments = topology.MODULES[service]

        done = run_command(
            sys.executable, "-m", module, *arguments, "--name", name, "--config", str(config), cwd=tmp_path
        )

        assert_one_line(done, 2, service, *named)
        assert leftovers(name) == []


def test_missing_configuration_file_is_one_line_and_exit_2(tmp_path: Path, name: str) -> None:
    absent = str(tmp_path / "absent.toml")

    assert_one_line(cli("up", "--name", name, "-c", absent), 2, absent)


@pytest.mark.parametrize("bad", ["Upper", "-x", "a/b", "sixteen-letters-", ""])
def test_malformed_bridge_name_is_one_line_and_exit_2(bad: str) -> None:
    assert_one_line(cli("up", f"--name={bad}"), 2, repr(bad), "1..15")


def test_taken_namespace_is_left_alone(name: str) -> None:
    subprocess.run(["ip", "netns", "add", f"{name}-ep"], check=True)
    try:
        done = cli("up", "--name", name, "--detach")

        assert_one_line(done, 1, f"network namespace {name}-ep exists and is not ours", "choose another")
        assert leftovers(name) == [f"namespace {name}-ep"]
    finally:
        subprocess.run(["ip", "netns", "del", f"{name}-ep"], check=True)


def test_taken_tcp_port_is_one_line_and_exit_1(make_bridge: MakeBridge) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        base = min(port - 3, 65000)
        bridge = make_bridge(f'[bridge]\ntransport = "tcp"\ntcp_base_port = {base}\n', up=False)

        done = bridge.cli("up", "--detach", *bridge.config_words)

    assert_one_line(done, 1, "bridge.tcp_base_port")
    assert leftovers(bridge.name) == []


def in_mounts(script: str, name: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run ``ntbnet up`` in mounts of its own, prepared by a shell script."""
    command = [*CLI, "up", "--name", name, *options]
    return run_command("unshare", "--mount", "sh", "-c", f'{script} && exec "$@"', "sh", *command)


def test_too_little_shared_memory_is_one_line_and_exit_1(name: str) -> None:
    done = in_mounts("mount -t tmpfs -o size=40m tmpfs /dev/shm", name, "--detach")

    assert_one_line(done, 1, f"ntbnet.{name}.ep.dram needs 33554432 bytes", "8388608 free", "remount,size=")


def test_missing_tun_device_is_one_line_and_exit_1(name: str) -> None:
    done = in_mounts("mount -t tmpfs tmpfs /dev/net", name, "--detach")

    assert_one_line(done, 1, "/dev/net/tun", "does not exist", "mknod")


def test_missing_rights_are_one_line_and_exit_1(name: str) -> None:
    no_rights = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--")

    done = run_command(*no_rights, *CLI, "up", "--name", name, "--detach")

    assert_one_line(done, 1, "CAP_NET_ADMIN", "CAP_SYS_ADMIN", "run as root")


def test_another_user_is_told_to_be_root(name: str) -> None:
    # the one right given lets that user read the interpreter, wherever it is installed
    read_only = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
    as_nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *read_only, "--")

    done = run_command(*as_nobody, *CLI, "up", "--name", name, "--detach", cwd=Path("/"))

    assert_one_line(done, 1, "run as root")


@pytest.mark.parametrize("service", topology.SERVICES)
def test_service_without_rights_is_one_line_and_exit_1(name: str, service: str) -> None:
    module, *arguments = topology.MODULES[service]
    command = [sys.executable, "-m", module, *arguments, "--name", name]

    done = run_command("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--", *command)

    assert_one_line(done, 1, service, "run as root")


def test_service_of_a_supervised_bridge_is_refused_when_started_by_hand(make_bridge: MakeBridge) -> None:
    bridge = make_bridge()

    done = run_command(*HandStarted(bridge).command("edma"))

    assert_one_line(done, 1, "edma", f"bridge {bridge.name} is up under its supervisor")
    assert bridge.is_linked()


def test_second_up_at_the_same_moment_is_refused_or_finds_it_up(make_bridge: MakeBridge) -> None:
    """Two people type `up` at once: one bridge comes up, and neither sees a traceback."""
    bridge = make_bridge(up=False)
    words = (*CLI, "up", "--name", bridge.name, "--detach")
    both = [
        subprocess.Popen(words, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, env=os.environ)
        for _ in range(2)
    ]

    said = [process.communicate(timeout=40)[1] for process in both]

    assert 0 in {process.returncode for process in both}, said
    for process, text in zip(both, said, strict=True):
        assert process.returncode in {0, 1}, text
        assert "Traceback" not in text
    assert bridge.is_linked()
