"""Something that reads bytes from outside, and how inputs for it are made."""

from __future__ import annotations

from random import Random
from typing import Protocol


class Target(Protocol):
    """One reader.  It may keep state between inputs, as a process does, but must not grow."""

    name: str
    share: int
    """Inputs of a campaign that it gets, per thousand."""

    def make(self, chance: Random) -> bytes:
        """An input, made of a real one."""

    def read(self, data: bytes) -> None:
        """Read one input. Whatever it raises is a crash; what the reader refuses is no exception here."""
