"""Signals as requests that are met where a command waits; in a process of its own, which they end."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from tests.live.bridge import child_environment, in_background

HEAD = """
import signal, subprocess, sys, threading, time
from ntbnet.app import stop_request
def send(name):
    signal.raise_signal(getattr(signal, name))
def quiet_child():  # may outlive us: our stderr, which the test reads to its end, is not for it
    quiet = subprocess.DEVNULL
    return subprocess.Popen(['sleep', '9'], stdout=subprocess.PIPE, stderr=quiet, text=True)
"""


def ended(program: str) -> tuple[int, str]:
    """Exit code and stdout of a program that hears requests from its beginning."""
    words = [sys.executable, "-c", f"{HEAD}stop_request.hear()\n{program}"]
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, timeout=30, env=child_environment()
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
@pytest.mark.parametrize(
    "wait",
    [
        "stop_request.check()",
        "stop_request.pause(20)",
        "stop_request.readable([sys.stdin], 20)",
        "stop_request.finish(quiet_child(), 20)",
    ],
)
def test_request_ends_the_command_where_it_waits_and_not_before(name: str, wait: str) -> None:
    code, said = ended(f"send('{name}')\nprint('still here')\n{wait}\nprint('too late')")

    assert (code, said) == (128 + getattr(signal, name), "still here\n")


def test_request_cuts_a_wait_short() -> None:
    program = (
        "print('waiting', file=sys.stderr, flush=True); "
        "from ntbnet.app import stop_request; stop_request.pause(1000)"
    )
    with in_background(sys.executable, "-c", f"{HEAD}stop_request.hear()\n{program}") as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "waiting\n"
        process.terminate()

        assert process.wait(timeout=20) == 128 + signal.SIGTERM


def test_request_within_a_finaliser_or_on_the_way_out_is_not_lost_and_cuts_nothing_off() -> None:
    program = """
class Finalised:
    def __del__(self):
        send('SIGTERM')
        print('whole')
try:
    Finalised()
    stop_request.pause(0)
finally:
    send('SIGTERM')
    stop_request.pause(0.01)
    print('cleaned up')
"""
    assert ended(program) == (128 + signal.SIGTERM, "whole\ncleaned up\n")


def test_another_thread_waits_on_and_the_main_thread_meets_the_request() -> None:
    program = """
send('SIGTERM')
thread = threading.Thread(target=lambda: [stop_request.pause(0.01), print('thread done')])
thread.start()
thread.join()
stop_request.check()
"""
    assert ended(program) == (128 + signal.SIGTERM, "thread done\n")


def test_without_hearing_a_pause_only_waits_and_output_is_whole() -> None:
    program = f"""{HEAD}
stop_request.pause(0.001)
words = [sys.executable, '-c', 'print(input() * 1000000)']
child = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
print(len(stop_request.finish(child, 20, 'ab')[0]), child.returncode)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=30,
        env=child_environment(),
    )  # fmt: skip

    assert (done.returncode, done.stdout) == (0, "2000001 0\n"), done.stderr


def test_child_that_takes_too_long_is_a_timeout() -> None:
    program = """
child = quiet_child()
try: stop_request.finish(child, 0.3)
except subprocess.TimeoutExpired: print('too long')
child.kill()
"""
    assert ended(program) == (0, "too long\n")
