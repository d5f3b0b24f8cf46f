"""Times at which messages and packets pass through one process, for a breakdown of round trips.

A stopwatch stands around the few functions through which everything passes; a driver without one
calls them directly, so that it costs nothing when it is not asked for. CLOCK_MONOTONIC is one clock
for all processes of a machine: points of several processes can be put into one order.

Each point is noted before its call, ``tun in`` after it (before, there is no packet yet), so that what
causes comes before what is caused, whichever process was faster. A packet passes ``tun in``, ``out``
for each of its messages, or ``wake`` for a wake of fabric ``local``, the last of which is its trigger, and
``sent``; a message ``arrived``, before it is checked, a wake once it is read, and ``in``, where its
handler begins. A store straight into the other host's memory is no point: it lies between those around it.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Any, Protocol

from ntbnet.errors import WireError

MOST_POINTS = 1 << 16
"""Most points that a stopwatch keeps, whatever is asked for."""
TUN_IN, TUN_OUT, SENT = "tun in", "tun out", "sent"
_NS = "q"
_BYTES_PER_TIME = 8


class Labelled(Protocol):
    """A function whose first argument is a neighbour's label."""

    def __call__(self, label: str, /, *rest: Any) -> Any: ...


class Stopwatch:
    """Points and their times, in the order they were passed.

    Args:
        clock: monotonic ns.
        most: points to keep, 1 or more; later ones are counted only.
    """

    def __init__(self, clock: Callable[[], int], most: int) -> None:
        self._clock = clock
        self._most = min(most, MOST_POINTS)
        self._names: dict[str, int] = {}
        self._codes = bytearray()
        self._times = array(_NS)
        self._lost = 0

    def note(self, point: str) -> None:
        """``point`` is passed now."""
        if len(self._codes) >= self._most:
            self._lost += 1
            return
        self._codes.append(self._names.setdefault(point, len(self._names)))
        self._times.append(self._clock())

    def around(self, direction: str, function: Labelled) -> Callable[..., Any]:
        """``function``, which notes ``"<direction> <label>"`` before it is called."""

        def timed(label: str, *rest: Any) -> Any:
            self.note(f"{direction} {label}")
            return function(label, *rest)

        return timed

    def around_flush(self, function: Callable[[], None]) -> Callable[[], None]:
        """``function``, which notes ``sent`` before it is called."""

        def timed() -> None:
            self.note(SENT)
            function()

        return timed

    def around_read(self, function: Callable[[memoryview], int]) -> Callable[[memoryview], int]:
        """``function``, which notes ``tun in`` after it returned a packet."""

        def timed(buffer: memoryview) -> int:
            length = function(buffer)
            if length:
                self.note(TUN_IN)
            return length

        return timed

    def around_write(
        self, function: Callable[[memoryview, bytes], bool]
    ) -> Callable[[memoryview, bytes], bool]:
        """``function``, which notes ``tun out`` before it is called."""

        def timed(packet: memoryview, offload_header: bytes) -> bool:
            self.note(TUN_OUT)
            return function(packet, offload_header)

        return timed

    def as_body(self) -> dict[str, Any]:
        """All of it as the answer to a question: two packed lists, since there may be many points."""
        return {
            "names": list(self._names),
            "codes": bytes(self._codes),
            "times": self._times.tobytes(),
            "lost": self._lost,
        }


def points_from(body: dict[str, Any]) -> list[tuple[str, int]]:
    """Points and times of a stopwatch's answer, oldest first.

    Raises:
        WireError: it is no such answer, or its stopwatch was full before it was stopped.
    """
    names, codes, packed = body.get("names"), body.get("codes"), body.get("times")
    if not isinstance(names, list) or not isinstance(codes, bytes) or not isinstance(packed, bytes):
        raise WireError("stopwatch: names, codes or times missing")
    if len(packed) != _BYTES_PER_TIME * len(codes) or any(code >= len(names) for code in codes):
        raise WireError(f"stopwatch: {len(codes)} codes, {len(packed)} bytes of times, {len(names)} names")
    if body.get("lost"):
        raise WireError(f"stopwatch: full, {body['lost']} points lost")
    times = array(_NS)
    times.frombytes(packed)
    return [(str(names[code]), time_ns) for code, time_ns in zip(codes, times, strict=True)]
