"""docs/chaos.md lists the kinds of faults and the crash points as the code has them.

``python -m tests.test_chaos_docs`` writes the two tables anew.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from ntbnet.devices.crash_points import CRASH_POINTS
from ntbnet.faults import KINDS

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "chaos.md"


def kinds_table() -> str:
    """Every kind: what happens, where, what it hits, its parameters and their defaults."""
    lines = ["| Kind | What happens | Where | `of` (default in bold) | Parameters |", "|---|---|---|---|---|"]
    for name, kind in KINDS.items():
        words = ", ".join(f"**{word}**" if word in kind.default_of else word for word in kind.of)
        parameters = ", ".join(f"`{parameter}` {default}" for parameter, default in kind.parameters)
        lines.append(f"| `{name}` | {kind.what} | {kind.place} | {words} | {parameters} |")
    return "\n".join(lines) + "\n"


def crash_table() -> str:
    """Every crash point: what is stored, by whom, when, in which fabric."""
    lines = ["| Point | What is stored | Services | Reached by | Fabric |", "|---|---|---|---|---|"]
    for name, point in CRASH_POINTS.items():
        services = ", ".join(f"`{service}`" for service in point.services)
        lines.append(f"| `{name}` | {point.what} | {services} | {point.reached} | {point.fabric or 'both'} |")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("table", [kinds_table, crash_table])
def test_documented_table_is_the_codes(table: object) -> None:
    assert callable(table)

    assert table() in DOCUMENT.read_text(encoding="utf-8")


def main() -> None:
    """Put both tables where the old ones are."""
    text = DOCUMENT.read_text(encoding="utf-8")
    for table in (kinds_table(), crash_table()):
        head = table.splitlines()[0]
        begin = text.index(head)
        end = text.find("\n\n", begin)
        text = text[:begin] + table + ("" if end < 0 else text[end + 1 :])
    DOCUMENT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
