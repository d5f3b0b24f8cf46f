"""Commands that measure or break things, told to stop at any moment: they end, and leave nothing."""

from __future__ import annotations

import signal
import subprocess

import pytest

from tests.live.bridge import CLI, in_background, leftovers, new_name

pytestmark = [pytest.mark.system, pytest.mark.needs_tun, pytest.mark.slow]

STOPS_S = 40
"""A supervisor has its own time to stop, and the machine is busy."""
BASICS = ("bench", "basics", "--quick")
CHAOS = ("chaos", "run", "kill-all", "--seconds", "20")


@pytest.mark.parametrize(
    ("words", "moment", "number"),
    [
        (BASICS, "starting", signal.SIGINT),
        (BASICS, "iperf3", signal.SIGTERM),
        (("bench", "recovery", "--quick"), "killing", signal.SIGTERM),
        (("bench", "micro", "--quick"), "round", signal.SIGTERM),
        (("bench", "latency", "--quick"), "round", signal.SIGHUP),
        (CHAOS, "starting", signal.SIGHUP),
        (CHAOS, "steady", signal.SIGTERM),
        (CHAOS, "1, ", signal.SIGINT),
    ],
)
def test_command_told_to_stop_ends_and_leaves_nothing(
    programs: None, words: tuple[str, ...], moment: str, number: signal.Signals
) -> None:
    name = new_name()
    with in_background(*CLI, *words, "--name", name) as process:
        assert process.stderr is not None
        said = next((line for line in process.stderr if line.startswith(moment)), None)
        process.send_signal(number)
        process.communicate(timeout=STOPS_S)

    assert said is not None
    assert process.returncode == 128 + number
    assert leftovers(name) == []
    namespaces = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
    assert f"{name}-" not in namespaces
