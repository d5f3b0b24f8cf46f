"""``ntbnet bench compare``: the figures of two runs of one bench, side by side.

A figure is anything that a result keeps with its samples, wherever that is; its name is the way there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ntbnet.errors import ConfigError

IDENTITY = ("fabric", "backend", "protocol", "streams", "mtu", "direction", "bytes", "queues", "bridges")
"""Keys that tell the rows of a list from each other."""
SAMPLES = {"n", "min", "median", "max", "samples"}
LEAST_SAMPLES = 2
"""Fewer have no spread, so nothing can be said of a difference."""


def read_result(path: Path) -> dict[str, Any]:
    """A result as ``--json`` printed it.

    Raises:
        ConfigError: the file cannot be read, or holds something else.
    """
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise ConfigError(f"{path}: {problem.strerror}") from None
    except ValueError:
        raise ConfigError(f"{path}: no JSON") from None
    if not isinstance(body, dict) or not isinstance(body.get("bench"), str):
        raise ConfigError(f"{path}: not what ntbnet bench --json prints")
    return body


def figures(node: Any, name: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Name and samples of every figure in a result, in its order."""
    if isinstance(node, dict):
        if node.keys() >= SAMPLES:
            if _is_sound(node):
                yield name, node
            return
        for key, value in node.items():
            # where everything is kept once more, raw or as the list of rounds
            step = "" if key in {"results", "rounds"} else key
            yield from figures(value, f"{name} {step}".strip())
    elif isinstance(node, list):
        for row in node:
            if isinstance(row, dict):
                identity = " ".join(str(row[key]) for key in IDENTITY if key in row)
                yield from figures(row, f"{name} {identity}".strip())


def _is_sound(samples: Mapping[str, Any]) -> bool:
    return all(
        isinstance(samples[key], int | float) and not isinstance(samples[key], bool)
        for key in ("n", "min", "median", "max")
    )


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every figure that both have.

    Returns:
        ``figure``, ``before``, ``after`` (medians), ``spread_before``, ``spread_after`` (greatest minus
        least), ``change_percent`` (None from 0) and ``differs``: the medians are further apart than
        either spread is wide. None where a side has one sample, and so no spread.

    Raises:
        ConfigError: the results are of different benches, or have no figure in common.
    """
    if before["bench"] != after["bench"]:
        raise ConfigError(f"results of different benches: {before['bench']} and {after['bench']}")
    others = dict(figures(after))
    rows = [_row(name, one, others[name]) for name, one in figures(before) if name in others]
    if not rows:
        raise ConfigError(f"the two results of bench {before['bench']} have no figure in common")
    return rows


def _row(name: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    old, new = before["median"], after["median"]
    spreads = [one["max"] - one["min"] for one in (before, after)]
    enough = min(before["n"], after["n"]) >= LEAST_SAMPLES
    return {
        "figure": name,
        "before": old,
        "after": new,
        "spread_before": round(spreads[0], 4),
        "spread_after": round(spreads[1], 4),
        "change_percent": round(100 * (new - old) / old, 2) if old else None,
        "differs": abs(new - old) > max(spreads) if enough else None,
    }


def show(rows: list[dict[str, Any]], console: Console) -> None:
    """The rows, for people; a star marks what differs."""
    console.width = max(console.width, 110)
    table = Table("figure", box=None)
    for heading in ("before", "spread", "after", "spread", "change"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for row in rows:
        change = row["change_percent"]
        table.add_row(
            row["figure"],
            *(f"{row[key]:g}" for key in ("before", "spread_before", "after", "spread_after")),
            "" if change is None else f"{change:+.1f} %",
            {True: "*", False: "", None: "one sample"}[row["differs"]],
        )
    console.print(table)
    console.print("* differs by more than both spreads", markup=False)
