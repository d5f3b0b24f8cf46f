"""``ntbnet bench compare``: the figures of two runs of one bench, side by side.

A figure is anything that a result keeps with its samples, wherever that is; its name is the way there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
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


FACTS = ("profile", "fabrics", "tool", "rounds", "seconds", "settings", "config")
"""Keys beside those under ``machine`` that figures depend on."""
LOAD = ("loadavg", "loadavg_after")
"""What no two runs have in common."""


def facts(result: Mapping[str, Any]) -> dict[str, Any]:
    """What the figures of a result depend on beyond ntbnet: a name and a plain value each."""
    found = {key: result[key] for key in FACTS if not isinstance(result.get(key), list | None)}
    found["machine"] = {key: value for key, value in (result.get("machine") or {}).items() if key not in LOAD}
    rows = [row for row in result.get("results", ()) if isinstance(row, dict)]
    fabrics = sorted({str(row["fabric"]) for row in rows if "fabric" in row})
    if fabrics:
        found["fabrics"] = ", ".join(fabrics)
    return dict(_flat(found, ""))


def _flat(node: Mapping[str, Any], name: str) -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{name}{key}.")
        else:
            yield f"{name}{key}", value


def warnings(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Why the figures of two results may differ although ntbnet does not; one line for each fact.

    What did not count in a result is such a fact, too.
    """
    old, new = facts(before), facts(after)
    refused = [
        f"{name} has {len(found)} measurements that do not count: {found[0]}"
        for name, result in (("the first result", before), ("the second result", after))
        if (found := result.get("invalid") or result.get("unverified"))
    ]
    return refused + [
        f"{name}: {_said(old, name)}, then {_said(new, name)}"
        for name in sorted(old.keys() | new.keys())
        if _said(old, name) != _said(new, name)
    ]


def _said(found: Mapping[str, Any], name: str) -> str:
    return str(found[name]) if name in found else "not in that result"


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


def show(rows: list[dict[str, Any]], warned: Sequence[str], console: Console) -> None:
    """The rows and warnings, for people; a star marks what differs."""
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
    for warning in warned:
        console.print(f"NOT THE SAME: {warning}", markup=False, soft_wrap=True)
