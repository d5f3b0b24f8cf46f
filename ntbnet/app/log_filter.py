"""Which lines of the logs a user wants to see."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from ntbnet.log import LEVELS

_AGO = re.compile(r"(\d{1,6})([smhd])", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, slots=True)
class Filter:
    """Which lines are wanted; made by ``filter_from``."""

    services: frozenset[str] = frozenset()
    """Empty wants all."""
    events: re.Pattern[str] | None = None
    least: int = 0
    """Least of ``LEVELS``."""
    since: str = ""
    """First wanted ``wall``; its format is such that text compares as time does."""
    epochs: frozenset[int] = frozenset()
    """Starts of the process; empty wants all."""
    where: tuple[tuple[str, object], ...] = ()
    """Keys and the values that they have to have."""

    def wants(self, fields: dict[str, Any]) -> bool:
        return (
            (not self.services or fields["service"] in self.services)
            and LEVELS[fields["level"]] >= self.least
            and fields["wall"] >= self.since
            and (not self.epochs or fields.get("epoch") in self.epochs)
            and (self.events is None or self.events.fullmatch(fields["event"]) is not None)
            and all(_has(fields, key, value) for key, value in self.where)
        )


def _has(fields: dict[str, Any], key: str, value: object) -> bool:
    found = fields.get(key)
    return key in fields and type(found) is type(value) and found == value


def filter_from(
    services: Sequence[str] = (),
    events: Sequence[str] = (),
    level: str = "debug",
    since: str = "",
    now: datetime | None = None,
    epochs: Sequence[int] = (),
    where: Sequence[str] = (),
) -> Filter:
    """Make a filter of what a user typed.

    Args:
        services: names; a line of any of them is wanted.
        events: shell patterns such as ``link.*``; a line that any of them matches is wanted.
        level: least level, a key of ``LEVELS``.
        since: empty, as ``since_wall`` takes it otherwise.
        now: end of a span of time in ``since``, timezone-aware; the clock's time when absent.
        epochs: start numbers; a line of any of them is wanted.
        where: ``KEY=VALUE``; a line is wanted that has all of them. A value that is JSON is meant as that.

    Raises:
        ValueError: ``since`` or one of ``where`` is malformed.
    """
    pattern = re.compile("|".join(fnmatch.translate(glob) for glob in events)) if events else None
    wall = since_wall(since, now or datetime.now(UTC)) if since else ""
    pairs = tuple(_pair(text) for text in where)
    return Filter(frozenset(services), pattern, LEVELS[level], wall, frozenset(epochs), pairs)


def _pair(text: str) -> tuple[str, object]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise ValueError(f"{text!r}: allowed is KEY=VALUE, such as link_epoch=7")
    try:
        return key, orjson.loads(value)
    except orjson.JSONDecodeError:
        return key, value


def since_wall(text: str, now: datetime) -> str:
    """A point in time, in the format of ``wall``.

    Args:
        text: a span before ``now`` (``90s``, ``10m``, ``2h``, ``1d``), or an ISO 8601 date or time;
            without an offset it is UTC.
        now: timezone-aware.

    Raises:
        ValueError: neither of them, or outside the years 1..9999.
    """
    ago = _AGO.fullmatch(text)
    try:
        if ago:
            at = now - timedelta(seconds=int(ago[1]) * _SECONDS[ago[2]])
        else:
            at = datetime.fromisoformat(text)
            if at.tzinfo is None:
                at = at.replace(tzinfo=UTC)
        at = at.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(
            f"{text!r}: allowed are a span such as 90s, 10m, 2h or 1d, or an ISO 8601 time such as "
            "2025-01-31T12:00:00Z"
        ) from None
    return at.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
