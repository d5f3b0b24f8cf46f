"""Every command in the README is run here, in the order it stands there."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ntbnet.edge.rundir import RunDir

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
BIN = Path(sys.executable).parent

pytestmark = [pytest.mark.system, pytest.mark.needs_tun, pytest.mark.timeout(300)]


def blocks() -> list[list[str]]:
    """Commands of each console block."""
    text = README.read_text(encoding="utf-8")
    return [
        [line[2:] for line in body.splitlines() if line.startswith("$ ")]
        for body in re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    ]


def environment() -> dict[str, str]:
    return {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "PYTHON": sys.executable}


def run(command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        shlex.split(command),
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.fixture(scope="module", autouse=True)
def no_default_bridge() -> None:
    """The README uses the default name; a bridge that a person left running would be in the way."""
    state = run("ntbnet status")
    assert state.returncode == 1, "a bridge named ntbnet is up; run: ntbnet down"


def test_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 120


def test_every_block_is_one_this_file_knows() -> None:
    """A command added to the README has to be run by a test here as well."""
    assert [block[0] for block in blocks()] == [
        "make demo",
        "ntbnet up --detach",
        "honcho start",
        "ntbnet config show",
        "make test",
    ]


def test_demo_shows_no_loss() -> None:
    (command,) = blocks()[0]

    done = run(command)

    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" 0 % ") == 4
    assert "every packet crossed" in done.stdout


def test_commands_by_hand(tmp_path: Path) -> None:
    up, *others, down = blocks()[1]
    assert run(up).returncode == 0
    try:
        for command in others:
            done = run(command.replace("/tmp/", f"{tmp_path}/"))
            assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
            told = done.stderr if " export -o " in command else done.stdout
            assert told.strip(), f"{command}: {done.stderr}"
            if " ping " in command:
                assert " 0% packet loss" in done.stdout
    finally:
        done = run(down)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "trace.pcapng"}


def test_honcho_runs_the_same_bridge() -> None:
    start, ping = blocks()[2]
    honcho = subprocess.Popen(
        shlex.split(start),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert honcho.stdout is not None
        up = {"rc": False, "ep": False}
        for line in honcho.stdout:
            for node in up:
                up[node] |= f'"service":"peer-{node}"' in line and "transport.queue_changed" in line
            if all(up.values()):
                break
        assert all(up.values()), "honcho ended before the link was up"

        done = run(ping)

        assert done.returncode == 0, done.stdout + done.stderr
    finally:
        honcho.send_signal(signal.SIGTERM)
        honcho.communicate(timeout=20)
    assert run("ntbnet status").returncode == 1
    assert not RunDir().exists()


def test_configuration_commands() -> None:
    for command in blocks()[3]:
        done = run(command)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()


def test_test_and_benchmark_commands() -> None:
    """`make test` is what runs this file, so only its recipe is looked at; the benchmarks are run."""
    test, *benches = blocks()[4]
    recipe = run(f"{test} --dry-run --always-make")
    assert "-m pytest" in recipe.stdout

    for bench in benches:
        done = run(bench)
        assert done.returncode == 0, done.stdout + done.stderr
