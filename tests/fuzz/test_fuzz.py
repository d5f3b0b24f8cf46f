"""The short run of ``make fuzz``, and that it finds what it looks for."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz import campaign
from tests.fuzz.campaign import TARGETS, Reading, Result
from tests.fuzz.target import Target

ROOT = Path(__file__).resolve().parents[2]

SMALL = {"control block, host": 50, "configuration": 100}
"""Inputs of the slow ones; 1000 of the others."""


@pytest.mark.slow
@pytest.mark.parametrize("name", list(TARGETS))
def test_reader_survives_a_short_campaign(name: str) -> None:
    # in a process of its own, as a long one is: what other tests have allocated is not the reader's memory
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        result = pool.submit(campaign.run, name, seed=1, inputs=SMALL.get(name, 1000)).result()

    assert result.is_good, result
    assert result.inputs >= SMALL.get(name, 1000)


@given(st.sampled_from(sorted(TARGETS)), st.integers(0, (1 << 64) - 1))
@settings(max_examples=60)
def test_reader_survives_any_input(targets: dict[str, Target], name: str, number: int) -> None:
    reading = Reading(targets[name])

    reading.batch(number, size=5)

    assert reading.result.is_good, reading.result


@pytest.fixture(scope="module")
def targets() -> Iterator[dict[str, Target]]:
    made = {name: make() for name, make in TARGETS.items()}
    yield made
    for target in made.values():
        target.close()


def test_same_number_makes_the_same_inputs(targets: dict[str, Target]) -> None:
    for name, target in targets.items():
        first, second = ([target.make(chance) for _ in range(5)] for chance in (Random(7), Random(7)))

        assert first == second, name


class Faulty(Target):
    """A reader that crashes on one byte, is slow on another, and keeps everything on a third."""

    name, share = "faulty", 1

    def __init__(self) -> None:
        self.kept: list[bytearray] = []

    def make(self, chance: Random) -> bytes:
        return chance.choice((b"good", b"crash", b"slow", b"keep"))

    def read(self, data: bytes) -> None:
        if data == b"crash":
            raise KeyError("no such field")
        if data == b"slow":
            until_s = time.perf_counter() + 1.5 * campaign.SLOW_S
            while time.perf_counter() < until_s:
                continue
        if data == b"keep":
            self.kept.append(bytearray(b"x" * (1 << 20)))


def test_crash_is_found_with_the_input_that_repeats_it() -> None:
    reading = Reading(Faulty())

    reading.read(b"crash", "here")
    reading.read(b"good", "here")

    (crash,) = reading.result.crashes
    assert b"crash".hex() in crash
    assert "KeyError" in crash
    assert reading.result.inputs == 2
    assert not reading.result.is_good


def test_slow_input_is_found() -> None:
    reading = Reading(Faulty())

    reading.read(b"slow", "here")

    assert len(reading.result.hangs) == 1
    assert reading.result.slowest_ms > 100
    assert not reading.result.is_good


def test_input_that_is_never_finished_is_found_once_and_the_campaign_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Looping(Faulty):
        def make(self, chance: Random) -> bytes:
            return chance.choice((b"good", b"loop"))

        def read(self, data: bytes) -> None:
            while data == b"loop":
                continue

    monkeypatch.setitem(TARGETS, "looping", Looping)
    monkeypatch.setattr(campaign, "STUCK_S", 0.15)

    result = campaign.run("looping", seed=1, inputs=100)

    assert len(result.hangs) == campaign.MOST_HANGS
    assert all("never finished" in hang for hang in result.hangs)
    # one alarm each: what was stuck is not read again
    assert result.seconds < 2 * campaign.MOST_HANGS * campaign.STUCK_S
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert not result.is_good


class Growing(Faulty):
    """A reader that keeps every other input."""

    def make(self, chance: Random) -> bytes:
        return chance.choice((b"good", b"keep"))


def test_growing_memory_is_found() -> None:
    """In a process of its own: this one may have room that earlier tests left."""
    script = (
        "from tests.fuzz import campaign, test_fuzz; campaign.TARGETS['growing'] = test_fuzz.Growing; "
        "print(campaign.run('growing', seed=1, inputs=300).growth_mib)"
    )

    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60, cwd=ROOT
    )

    assert float(done.stdout) > campaign.GROWTH_MIB


def test_what_is_found_makes_the_result_bad() -> None:
    assert Result("x").is_good
    assert not Result("x", crashes=["a"]).is_good
    assert not Result("x", hangs=["a"]).is_good
    assert not Result("x", growth_mib=campaign.GROWTH_MIB + 1).is_good
    assert not Result("x", growth_mib=campaign.GROWTH_NOISE_MIB + 1, growth_bytes=200).is_good
    assert Result("x", growth_mib=campaign.GROWTH_NOISE_MIB + 1, growth_bytes=20).is_good
    assert Result("x", growth_mib=campaign.GROWTH_NOISE_MIB - 1, growth_bytes=200).is_good


@pytest.mark.parametrize(
    ("words", "code"), [((), 1), (("--seconds", "0.001"), 0)], ids=["asked for inputs", "asked for time"]
)
def test_campaign_that_read_too_few_inputs_failed_unless_time_was_the_limit(
    monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], code: int
) -> None:
    monkeypatch.setattr(campaign, "TIME_S", 0.001)

    # the process that reads is given the time as an argument
    assert (
        campaign.main(["--target", "wire decoder", "--inputs", "2000000", "--workers", "1", *words]) == code
    )
