"""Fabric ``local``: which link epoch each host may still store directly in.

A message cannot stop a process that was stopped between its check and its store. So memory that the other
host could store to in a link epoch is not used for anything else before that host has left the epoch. It
says so in a word of shared memory, after its last store of the epoch (x86-64 keeps the order of stores); a
process that was killed says it by its replacement, which starts only when the killed one is gone. A
replacement does not know what its predecessor lent: it takes no memory before the other host has left every
earlier epoch.
"""

from __future__ import annotations

from ntbnet.devices.memory import Window

LEASE_BYTES = 4096
NOTHING = 0xFFFFFFFF
"""The host stores in no epoch."""
_SLOTS = {"rc": 0, "ep": 4}


class Lease:
    """The words of both hosts, as the peer of ``node`` sees them.

    Args:
        words: LEASE_BYTES shared by both peers; two 32-bit words are used. 0 counts as NOTHING.
        node: ``rc`` or ``ep``.
    """

    def __init__(self, words: Window, node: str) -> None:
        self._words = words
        self._own = _SLOTS[node]
        self._other = _SLOTS["ep" if node == "rc" else "rc"]
        self.enter(NOTHING)

    def enter(self, epoch: int) -> None:
        """This host stores directly in ``epoch`` at most (NOTHING: in none), and no more in any other."""
        self._words.store_u32("lease", self._own, epoch or NOTHING)

    def is_over(self, epoch: int) -> bool:
        """True when the other host has left ``epoch``, so that what it stored to may be used again."""
        other = self._words.load_u32(self._other) or NOTHING
        return other > epoch

    def is_clean(self, epoch: int) -> bool:
        """True when the other host stores in no epoch before ``epoch`` (0: in none at all)."""
        return self.is_over((epoch or NOTHING) - 1)
