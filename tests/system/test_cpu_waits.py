"""Samples of the kernel that runs this: who shares a CPU is seen to wait for it."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from ntbnet.app.chaos_schedstat import WaitSampler

pytestmark = pytest.mark.system

SPIN_S = 0.15
SPIN = f"""
import os, sys, time
os.sched_setaffinity(0, {{int(sys.argv[1])}})
while time.process_time() < {SPIN_S}:
    pass
print("done", flush=True)
sys.stdin.read()
"""


def test_processes_that_share_a_cpu_are_seen_to_wait() -> None:
    cpu = str(min(os.sched_getaffinity(0)))
    sampler = WaitSampler()
    sampler.sample({})
    with ExitStack() as stack:
        children = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", SPIN, cpu],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for _ in range(2)
        ]
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == "done\n"

        sampler.sample({str(number): child.pid for number, child in enumerate(children)})

    if not Path("/proc/self/schedstat").exists():  # a kernel that counts no waits: nothing is made up
        assert sampler.samples == []
        return
    (sample,) = sampler.samples
    assert sum(sample.waited_ns.values()) > SPIN_S / 3 * 1e9
