"""Time for the edge: one monotonic clock, and a timer finer than the event loop's.

uvloop's timers have a grain of 1 ms; a poll on a 4 ms kernel tick and a 25 ms handshake need
better, so a process arms one timerfd on the absolute monotonic clock for its earliest deadline.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time

monotonic_ns = time.monotonic_ns
wall_ns = time.time_ns

_CLOCK_MONOTONIC = 1
_TFD_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC
_TFD_TIMER_ABSTIME = 1
_NS = 1_000_000_000


class _Timespec(ctypes.Structure):
    _fields_ = (("sec", ctypes.c_long), ("nsec", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


_libc = ctypes.CDLL(None, use_errno=True)


class Timer:
    """A timerfd: readable once its deadline has passed.

    Deadlines mostly follow each other at one distance (the doorbell poll), so the timer is armed
    with the last distance as its period: when the next deadline is where it fires anyhow, arming it
    takes no system call, which makes a wake-up of an idle service about a tenth cheaper.

    Raises:
        OSError: the kernel refuses another file descriptor.
    """

    def __init__(self) -> None:
        self.fd = _libc.timerfd_create(_CLOCK_MONOTONIC, _TFD_FLAGS)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._spec = _Itimerspec()
        self._by_ref = ctypes.byref(self._spec)
        self._period_ns = 0
        self._last_ns = 0
        self._next_ns = 0
        """When it fires next unless armed again, 0 for never."""
        self.armed_ns = 0
        """The deadline it was armed for and has not reached yet, or 0."""

    def arm(self, deadline_ns: int) -> None:
        """Fire at ``deadline_ns`` (monotonic, above 0); an earlier setting is replaced."""
        deadline_ns = max(deadline_ns, 1)
        self.armed_ns = deadline_ns
        if deadline_ns == self._next_ns:
            return
        self._period_ns = max(deadline_ns - self._last_ns, 0)
        self._next_ns = deadline_ns
        value, interval = self._spec.value, self._spec.interval
        value.sec, value.nsec = divmod(deadline_ns, _NS)
        interval.sec, interval.nsec = divmod(self._period_ns, _NS)
        if _libc.timerfd_settime(self.fd, _TFD_TIMER_ABSTIME, self._by_ref, None) != 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime")

    def expired(self) -> None:
        """Take note that it fired; does nothing when it has not. It must be armed again."""
        try:
            times = int.from_bytes(os.read(self.fd, 8), sys.byteorder)
        except BlockingIOError:
            return
        self._last_ns = self._next_ns + (times - 1) * self._period_ns
        self._next_ns = self._last_ns + self._period_ns if self._period_ns else 0
        self.armed_ns = 0

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.fd)


class Ticker:
    """A timerfd that is readable again and again, at one distance, while it is started.

    Raises:
        OSError: the kernel refuses another file descriptor.
    """

    def __init__(self) -> None:
        self.fd = _libc.timerfd_create(_CLOCK_MONOTONIC, _TFD_FLAGS)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")

    def start(self, period_ns: int) -> None:
        """Fire every ``period_ns`` from now on; 0: no more."""
        times = _Timespec(*divmod(period_ns, _NS))
        if _libc.timerfd_settime(self.fd, 0, ctypes.byref(_Itimerspec(times, times)), None) != 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime")

    def expired(self) -> bool:
        """Take note that it fired; False when it has not."""
        try:
            os.read(self.fd, 8)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.fd)
