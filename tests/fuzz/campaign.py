"""Fuzzing: ``make fuzz``, or ``python -m tests.fuzz.campaign --help``.

Hypothesis draws numbers; each number makes a batch of inputs, every one of them a real message (block,
frame, file) with something changed. A crash is an exception that the reader does not promise, a hang an
input that takes longer than 100 ms again and again; memory is measured once a reader is warm and at the end.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from random import Random
from types import FrameType

import hypothesis
from hypothesis import strategies as st

from tests.fuzz import memories, messages, rings
from tests.fuzz.target import Target

TARGETS: dict[str, type[Target]] = {
    one.name: one
    for one in (
        messages.Wire,
        messages.Session,
        messages.WakeRecords,
        messages.Grants,
        messages.Questions,
        messages.Keys,
        memories.RingFrames,
        memories.HostCommands,
        memories.FunctionsBlock,
        memories.Configuration,
        rings.TraceRings,
    )
}
BATCH = 500
"""Inputs that one number makes: what Hypothesis keeps of each number is not the reader's memory."""
SLOW_S = 0.1
AGAIN = 3
"""How often a slow input is read again: a machine with others on it is slow now and then."""
STUCK_S = 20
"""An input that takes that long is never finished."""
GROWTH_MIB = 16
"""More than that, once warm, is a leak."""
GROWTH_BYTES = 100
"""More than that for each input, once warm, is a leak, too: a short campaign shows it only so."""
GROWTH_NOISE_MIB = 4
"""Less than that says nothing about the bytes of an input: allocators keep some."""
MOST_CRASHES = 5
MOST_HANGS = 5
"""A reader that hangs more often is given up, like one that crashes."""
WARM = 0.3
TIME_S = 240
"""Limit of a campaign that is given none; it has failed when it read fewer inputs than it was asked to."""


@dataclass
class Result:
    """What a campaign saw of one target."""

    target: str
    inputs: int = 0
    seconds: float = 0.0
    slowest_ms: float = 0.0
    growth_mib: float = 0.0
    growth_bytes: float = 0.0
    """For each input since the reader was warm."""
    crashes: list[str] = field(default_factory=list)
    hangs: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        return not self.crashes and not self.hangs and not self.is_growing

    @property
    def is_growing(self) -> bool:
        """True when memory grew too much, as a whole or with each input."""
        with_each = self.growth_bytes > GROWTH_BYTES and self.growth_mib > GROWTH_NOISE_MIB
        return self.growth_mib > GROWTH_MIB or with_each

    @property
    def per_second(self) -> float:
        return self.inputs / self.seconds if self.seconds else 0.0


class Stuck(BaseException):
    """An input is read for too long; no reader catches this."""


class Reading:
    """One target under test: makes inputs, reads them, keeps what was seen."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.result = Result(target.name)

    def batch(self, number: int, size: int) -> None:
        """Make ``size`` inputs of ``number`` and read them."""
        chance = Random(number)
        for at in range(size):
            if self.is_hopeless:
                return
            data = self.target.make(chance)
            self.read(data, f"batch {number:#x}, input {at}")

    @property
    def is_hopeless(self) -> bool:
        """True when going on would show more of the same."""
        return len(self.result.crashes) >= MOST_CRASHES or len(self.result.hangs) >= MOST_HANGS

    def read(self, data: bytes, where: str) -> None:
        """Read one input; notes a crash or a hang, and goes on."""
        result = self.result
        result.inputs += 1
        took_s = 0.0
        for _ in range(1 + AGAIN):
            again_s = self._timed(data, where)
            if again_s is None:
                return
            took_s = min(took_s or again_s, again_s)
            if took_s <= SLOW_S:
                break
        else:
            result.hangs.append(f"{where}: {took_s * 1000:.0f} ms: {data[:64].hex()}")
        result.slowest_ms = max(result.slowest_ms, took_s * 1000)

    def _timed(self, data: bytes, where: str) -> float | None:
        """Seconds that one reading took; None when it was stuck: whoever reads that again is stuck again."""
        started_s = time.perf_counter()
        old = signal.signal(signal.SIGALRM, _on_alarm)
        signal.setitimer(signal.ITIMER_REAL, STUCK_S)
        try:
            try:
                self.target.read(data)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
                signal.signal(signal.SIGALRM, old)
        except Stuck:
            self.result.hangs.append(f"{where}: never finished: {data[:64].hex()}")
            return None
        except Exception:  # noqa: BLE001 - whatever a reader lets through is what is looked for
            if len(self.result.crashes) < MOST_CRASHES:
                last = "".join(traceback.format_exc(limit=-3))
                self.result.crashes.append(f"{where}: {data[:2000].hex()}\n{last}")
        return time.perf_counter() - started_s


def _on_alarm(_number: int, _frame: FrameType | None) -> None:
    raise Stuck


def run(name: str, seed: int, inputs: int, seconds: float = math.inf) -> Result:
    """Fuzz one target until so many inputs were read, or the time is over."""
    reading = Reading(TARGETS[name]())
    result = reading.result
    size = min(BATCH, max(inputs // 4, 1))
    started_s = time.monotonic()
    warm_mib, warm_inputs = 0.0, 0

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=math.ceil(inputs / size),
        deadline=None,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(st.integers(0, (1 << 64) - 1))
    def campaign(number: int) -> None:
        nonlocal warm_mib, warm_inputs
        if time.monotonic() - started_s > seconds or reading.is_hopeless:
            return
        reading.batch(number, size)
        if not warm_mib and (result.inputs >= WARM * inputs or time.monotonic() - started_s > WARM * seconds):
            warm_mib, warm_inputs = resident_mib(), result.inputs

    campaign()
    result.seconds = time.monotonic() - started_s
    grown_mib = max(resident_mib() - (warm_mib or resident_mib()), 0.0)
    result.growth_mib = round(grown_mib, 1)
    result.growth_bytes = round(grown_mib * (1 << 20) / max(result.inputs - warm_inputs, 1), 1)
    reading.target.close()
    return result


def resident_mib() -> float:
    """Memory of this process, MiB."""
    gc.collect()
    with open("/proc/self/statm", encoding="ascii") as statm:  # noqa: PTH123 - proc has no length
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def _work(job: tuple[str, int, int, float]) -> Result:
    return run(*job)


def main(words: Sequence[str] | None = None) -> int:
    """Run a campaign over every target. Exit 0 when nothing was found, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.campaign", description=__doc__)
    parser.add_argument("--inputs", type=int, default=1_000_000, help="of all targets together (%(default)s)")
    parser.add_argument(
        "--seconds", type=float, help=f"time, for all together; fewer inputs will do then ({TIME_S})"
    )
    parser.add_argument("--seed", type=int, default=None, help="repeats a campaign; random without it")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (%(default)s)")
    parser.add_argument("--target", action="append", choices=list(TARGETS), help="only this one; repeatable")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(words)
    seed = options.seed if options.seed is not None else int.from_bytes(os.urandom(4), "little")
    seconds = TIME_S if options.seconds is None else options.seconds
    names = options.target or list(TARGETS)
    whole = sum(share_of(name) for name in names)
    jobs = [
        (name, seed, options.inputs * share_of(name) // whole + 1, seconds * options.workers / 4)
        for name in sorted(names, key=lambda name: -share_of(name))
    ]
    started_s = time.monotonic()
    results: list[Result] = []
    # a process for each target: memory is measured
    with multiprocessing.get_context("spawn").Pool(options.workers, maxtasksperchild=1) as pool:
        for result in pool.imap_unordered(_work, jobs, chunksize=1):
            results.append(result)
            sys.stderr.write(line_of(result))
            for problem in (*result.crashes, *result.hangs):
                sys.stderr.write(f"  {problem}\n")
    took_s = time.monotonic() - started_s
    good = all(result.is_good for result in results)
    total = sum(result.inputs for result in results)
    is_whole = options.seconds is not None or total >= options.inputs
    if options.json:
        body = {"seed": seed, "inputs": total, "seconds": round(took_s, 1), "ok": good and is_whole}
        print(json.dumps({**body, "targets": [asdict(result) for result in results]}, indent=2))
    else:
        print(f"{total} inputs in {took_s:.0f} s, {total / took_s:.0f} a second; seed {seed}")
        print("nothing found" if good else f"FOUND SOMETHING; again: make fuzz FUZZ='--seed {seed}'")
    if not is_whole:
        sys.stderr.write(f"fewer than {options.inputs} inputs: not done in {TIME_S} s, or given up\n")
    return 0 if good and is_whole else 1


def share_of(name: str) -> int:
    """Inputs of a campaign that a target gets, in proportion to the others."""
    share: int = TARGETS[name].share
    return share


def line_of(result: Result) -> str:
    """One target on one line."""
    found = f"{len(result.crashes)} crashes, {len(result.hangs)} hangs"
    return (
        f"{result.target:<24}{result.inputs:>9} inputs {result.per_second:>8.0f}/s  "
        f"slowest {result.slowest_ms:>6.1f} ms  memory +{result.growth_mib:.1f} MiB, "
        f"{result.growth_bytes:.0f} bytes an input  {found}\n"
    )


if __name__ == "__main__":
    sys.exit(main())
