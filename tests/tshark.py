"""Runs the real tshark with the shipped dissector."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

from tests.dissector_tables import DISSECTOR

TIMEOUT_S = 60


def tshark(*arguments: str) -> str:
    """Stdout of tshark with the dissector; asserts that it succeeded, and that the script had no error."""
    # -G has to come first
    command = ["tshark", *arguments, "-X", f"lua_script:{DISSECTOR}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stderr
    assert "Lua" not in done.stderr, done.stderr
    assert "Lua Error" not in done.stdout, done.stdout
    return done.stdout


@cache
def has_dissector() -> bool:
    """True when this tshark has Lua and lets this user run scripts; some builds refuse root."""
    return "\tntbnet\n" in tshark("-G", "protocols")


def rows(path: Path, *fields: str, where: str = "", two_passes: bool = False) -> list[dict[str, str]]:
    """Fields of each packet that the display filter ``where`` lets through; what a packet lacks is empty."""
    options = ["-2"] if two_passes else []
    options += ["-Y", where] if where else []
    for field in fields:
        options += ["-e", field]
    text = tshark("-r", str(path), "-T", "fields", "-E", "separator=/t", *options)
    return [dict(zip(fields, line.split("\t"), strict=True)) for line in text.splitlines()]


def info(path: Path, where: str = "") -> list[str]:
    """The info column."""
    column = "_ws.col.Info"
    try:
        found = rows(path, column, where=where)
    except AssertionError:  # later ones have the names of columns in lower case
        column = column.lower()
        found = rows(path, column, where=where)
    return [row[column] for row in found]
