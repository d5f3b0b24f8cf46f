"""Configurations and profiles from files, for commands and services.

Kept apart from what a service runs with (``startup``): a command that only needs to know a bridge's
configuration starts in half the time.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ntbnet.config import Config, load_text
from ntbnet.errors import ConfigError

DEFAULT_NAME = "ntbnet"
"""Of a bridge that is not given one."""
STORE_ORDER = "x86_64"
"""Machine whose stores become visible in the order they were made: what fabric ``local`` relies on."""


def read_profile(path: str) -> str:
    """The text of a profile that a configuration names by its path."""
    return Path(path).read_text(encoding="utf-8")


def read_config(path: str | None) -> tuple[str, str]:
    """Text and name of the configuration in ``path``; an empty one without it, and ``-`` is standard input.

    Raises:
        ConfigError: it cannot be read.
    """
    if path is None:
        return "", "defaults"
    try:
        return (sys.stdin.read(), "stdin") if path == "-" else (Path(path).read_text(encoding="utf-8"), path)
    except (OSError, UnicodeError) as problem:
        raise ConfigError(f"{path}: cannot be read: {problem}") from None


def load_config(path: str | None, profile: str | None = None, node: str | None = None) -> Config:
    """The configuration in ``path``, or the defaults.

    Args:
        path: see read_config.
        profile: takes the place of bridge.profile.
        node: takes the place of machine.node.

    Raises:
        ConfigError: the file cannot be read, or is wrong.
    """
    text, source = read_config(path)
    config = load_text(text, source, read_profile, profile, node)
    machine = os.uname().machine
    if config.bridge.fabric == "local" and machine != STORE_ORDER:
        raise ConfigError(
            f"{source}: bridge.fabric = 'local': needs the store order of {STORE_ORDER}, this machine is "
            f"{machine}; must be 'message'"
        )
    return config
