"""The kernel's timer tick, which delays delayed work.

A timer armed with a delay is rounded up to whole ticks and, because the timer wheel never
fires early, one tick more is added to the tick it was armed in.  Work of 5 ms re-armed on a
tick of HZ=250 therefore runs every three ticks, 12 ms: the 5996 us one-way of the RFC's cover
letter is half of that (Linux kernel/time/timer.c, calc_index; NTB 48).
"""

from __future__ import annotations

NS_PER_SECOND = 1_000_000_000


class Tick:
    """Absolute grid of timer ticks, in monotonic nanoseconds.

    Args:
        hz: ticks a second, 1..10000 (CONFIG_HZ of the modelled kernel).
    """

    __slots__ = ("period_ns",)

    def __init__(self, hz: int) -> None:
        self.period_ns = NS_PER_SECOND // hz

    def expiry(self, now_ns: int, delay_ns: int) -> int:
        """When a timer armed now with ``delay_ns`` fires: always on the grid, never early."""
        delay_ticks = -(-delay_ns // self.period_ns)
        return (now_ns // self.period_ns + delay_ticks + 1) * self.period_ns

    def delay(self, now_ns: int, delay_ns: int) -> int:
        """Nanoseconds from now until a timer armed now with ``delay_ns`` fires."""
        return self.expiry(now_ns, delay_ns) - now_ns
