"""What ``ping -c COUNT -w DEADLINE`` printed.

Without a deadline ping gives up soon after its last request, and takes a late reply for a lost one. With a
deadline it goes on, and sends, until that many replies came.
"""

from __future__ import annotations

import re

from ntbnet.errors import SetupError

_SENT = re.compile(r"(\d+) packets transmitted")
_ANSWERED = re.compile(r"bytes from .*icmp_seq=(\d+)")
_TIMED = re.compile(r"icmp_seq=(\d+) .*time=([\d.]+) ms(?!.*DUP)")


def answers(output: str) -> set[int]:
    """Numbers of the requests that were answered."""
    return {int(number) for number in _ANSWERED.findall(output)}


def times_ms(output: str) -> dict[int, float]:
    """Round trip of each request that was answered, ms, by its number."""
    return {int(number): float(took) for number, took in _TIMED.findall(output)}


def pinged(output: str, count: int) -> int:
    """Requests that were sent.

    Those behind the last one that was answered do not count when ``count`` replies came: they were sent only
    because a reply was late.

    Raises:
        SetupError: ping printed something else.
    """
    sent, answered = _SENT.search(output), answers(output)
    if sent is None:
        raise SetupError(f"ping said nothing that can be read: {output.strip()[-120:]}")
    return max(answered) if len(answered) >= count else int(sent[1])
