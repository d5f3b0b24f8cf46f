"""What every result begins with: which bench, and what its figures depend on beyond ntbnet's code."""

from __future__ import annotations

import os
import platform
import sys
import sysconfig
import time
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ntbnet import __version__
from ntbnet.config import Config, to_toml
from ntbnet.edge.idle_cores import awake, cpu_latency_us


@contextmanager
def kept_awake(bench: str, config: Config) -> Iterator[dict[str, Any]]:
    """The keys that a result begins with, complete behind the ``with`` block.

    Within it idle cores wait awake all the time, unless ``run.idle_cores`` is ``halt``: for a bridge, as
    packets would have them, and just so for whatever it is compared with.
    """
    with awake(config.run.idle_cores != "halt"):
        result = head(bench, config)
        yield result
        end(result)


def head(bench: str, config: Config) -> dict[str, Any]:
    """Keys of a result.

    Args:
        bench: its name.
        config: what its bridges' configurations are made from; all of it is kept.
    """
    return {
        "bench": bench,
        "version": __version__,
        "wall": time.time(),
        "machine": machine(),
        "profile": config.profile.name,
        "config": tomllib.loads(to_toml(config)),
    }


def end(result: dict[str, Any]) -> None:
    """Note the machine's load once all is measured."""
    result["machine"]["loadavg_after"] = list(os.getloadavg())


def machine() -> dict[str, Any]:
    """What figures depend on beyond ntbnet and its configuration."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "python_build": python_build(sysconfig.get_config_vars()),
        "loadavg": list(os.getloadavg()),
        "cpu_latency_us": cpu_latency_us(),
        "tcp_congestion": _first_line("/proc/sys/net/ipv4/tcp_congestion_control"),
        "keeps_bytecode": not sys.dont_write_bytecode,
    }


def python_build(variables: Mapping[str, Any]) -> str:
    """How the interpreter was built, as far as its own build variables say.

    Returns:
        ``optimised``: with a profile; ``distribution``: a package in /usr, whose maker may have used one
        without a trace; ``plain``: without.
    """
    flags = " ".join(str(variables.get(name, "")) for name in ("CONFIG_ARGS", "PY_CFLAGS", "PY_CORE_CFLAGS"))
    if "--enable-optimizations" in flags or "-fprofile-use" in flags:
        return "optimised"
    return "distribution" if variables.get("prefix") == "/usr" else "plain"


def python_hint(about: Mapping[str, Any]) -> str:
    """A line about an interpreter that makes every figure worse; empty when there is nothing to say."""
    if about.get("python_build") != "plain":
        return ""
    return (
        "this Python was built without --enable-optimizations: one with them, as of a distribution, is faster"
    )


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.machine())


def _first_line(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None
