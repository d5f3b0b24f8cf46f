"""``ntbnet chaos run`` in a process of its own, as a user runs it; nothing of it is left."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.live.bridge import CLI, child_environment, leftovers, new_name

HERE = Path(__file__).resolve().parent
TIMEOUT_S = 100.0


def chaos_run(
    scenario: Path | str,
    fabric: str,
    folder: Path,
    environment: Mapping[str, str] | None = None,
    *words: str,
) -> subprocess.CompletedProcess[str]:
    """Run a scenario to its verdict.

    Args:
        scenario: a shipped name, or a file.
        fabric: one of the scenario's.
        folder: takes the history, which a failed test may be read from.
        environment: what differs from ours.
        words: further words of the command line.

    Raises:
        AssertionError: something of its bridge is left on the machine.
    """
    name = new_name()
    command = [*CLI, "chaos", "run", str(scenario), "--fabric", fabric, "--name", name, "--json"]
    done = subprocess.run(
        [*command, "--keep", str(folder / "history"), *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
        env={**child_environment(), **(environment or {})},
        stdin=subprocess.DEVNULL,
    )
    left = leftovers(name)
    assert not left, f"exit code {done.returncode}, left: {left}\n{done.stderr}"
    print(f"repeat: ntbnet chaos run {scenario} --fabric {fabric} {' '.join(words)}")
    return done
