"""A JSON object with a list that is too long to be in memory at once; its rows are lines."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TextIO


def write_with_rows(
    out: TextIO,
    head: Mapping[str, Any],
    key: str,
    rows: Iterable[Mapping[str, Any]],
    tail: Callable[[], Mapping[str, Any]] = dict,
) -> None:
    """Write the object.

    Args:
        out: where to.
        head: what comes before the list, at least one thing.
        key: of the list.
        rows: what is in it.
        tail: what comes behind it; asked once the rows are written.
    """
    out.write(f"{json.dumps(head)[:-1]}, {json.dumps(key)}: [")
    separator = "\n"
    for row in rows:
        out.write(separator + json.dumps(row))
        separator = ",\n"
    out.write("\n]")
    out.writelines(f", {json.dumps(name)}: {json.dumps(value)}" for name, value in tail().items())
    out.write("}\n")
