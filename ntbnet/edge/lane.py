"""One path's way out while faults are injected: messages that wait, in order, and a wire that is cut."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Frame = tuple[bytes, "bytes | memoryview"]


class Loop(Protocol):
    """What of an event loop is used."""

    def call_soon(self, callback: Callable[..., object], *args: Any) -> object: ...

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> object: ...


@dataclass(slots=True)
class _Held:
    """A message that waits.

    Attributes:
        is_own: it is one of the path itself.
        due_ns: when it waits no more; 0: it only waits for those before it.
        overtakers: it waits no more once that many messages went to others; -1: those do not matter.
        is_swapped: the next one of this path overtakes it.
    """

    header: bytes
    payload: bytes
    is_own: bool
    due_ns: int = 0
    overtakers: int = -1
    is_swapped: bool = False


class Lane:
    """Args: as FaultLayer has them; ``peer`` is who the messages go to."""

    def __init__(
        self,
        peer: str,
        send: Callable[[str, bytes, bytes | memoryview], bool],
        send_now: Callable[[str, bytes, bytes | memoryview], bool],
        clock: Callable[[], int],
        loop: Loop,
        flush: Callable[[], None],
    ) -> None:
        self.peer = peer
        self._send = send
        self._send_now = send_now
        self._clock = clock
        self._loop = loop
        self._flush = flush
        self._held: deque[_Held] = deque()
        self._cut_until_ns = 0
        self._hold: tuple[int, int, bool] | None = None
        self._timer: object | None = None

    def hold_next(self, delay_us: int, *, overtakers: int = -1, swap: bool = False) -> None:
        """The message that is sent next waits, and those behind it."""
        self._hold = self._clock() + delay_us * 1000, overtakers, swap

    def cut(self, delay_us: int) -> None:
        """Nothing gets through from now on, for that long; 0: until ``release_all``."""
        self._cut_until_ns = self._clock() + delay_us * 1000 if delay_us else 1 << 63

    def send(self, frames: Sequence[Frame], *, is_own: bool) -> bool:
        """Send messages, behind those that wait; False as ``ZmqBus.send``."""
        hold, self._hold = self._hold, None
        if self._clock() < self._cut_until_ns:
            return True
        if not self._held and hold is None:
            send = self._send_now if is_own else self._send
            taken = [send(self.peer, *frame) for frame in frames]
            return all(taken)
        due_ns, overtakers, is_swapped = hold or (0, -1, False)
        waiting = [
            _Held(header, bytes(payload), is_own, due_ns, overtakers, is_swapped)
            for header, payload in frames
        ]
        if self._held and self._held[-1].is_swapped and not is_own:
            last = self._held.pop()
            last.is_swapped, last.due_ns = False, 0
            waiting.append(last)
        self._held.extend(waiting)
        self._release()
        return True

    def overtaken(self) -> None:
        """A message went to somebody else."""
        if self._held and self._held[0].overtakers > 0:
            self._held[0].overtakers -= 1
            self._release()

    def forget(self) -> None:
        """The session ended: what waits is lost with it."""
        self._held.clear()

    def release_all(self) -> None:
        """Send all that waits; the wire is whole again."""
        self._cut_until_ns = 0
        for one in self._held:
            one.due_ns, one.overtakers, one.is_swapped = 0, -1, False
        self._release()

    def _release(self) -> None:
        now_ns = self._clock()
        while self._held:
            head = self._held[0]
            if head.due_ns > now_ns and head.overtakers != 0:
                break
            self._held.popleft()
            (self._send_now if head.is_own else self._send)(self.peer, head.header, head.payload)
        if self._held and self._timer is None:
            delay_s = max(self._held[0].due_ns - now_ns, 0) / 1e9
            self._timer = self._loop.call_later(delay_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._release()
        self._flush()
