"""Something that reads bytes from outside, and how inputs for it are made."""

from __future__ import annotations

from abc import ABC, abstractmethod
from random import Random


class Target(ABC):
    """One reader.  It may keep state between inputs, as a process does, but must not grow."""

    name: str
    share: int
    """Inputs of a campaign that it gets, in proportion to the others."""

    @abstractmethod
    def make(self, chance: Random) -> bytes:
        """An input, made of a real one."""

    @abstractmethod
    def read(self, data: bytes) -> None:
        """Read one input. Whatever it raises is a crash; what the reader refuses is no exception here."""

    def close(self) -> None:
        """Give back what it holds; nothing is read afterwards."""
