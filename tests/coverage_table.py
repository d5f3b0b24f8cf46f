"""Which reference items the tests prove: read from their ``covers`` marks, written to docs/coverage.md.

Run it after adding a mark: ``python -m tests.coverage_table``. ``test_coverage_table.py`` checks
that the file is what this would write.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "docs" / "coverage.md"

SERIES = {
    "NTB": "Kernel NTB stack: control block, probe, scratchpads, doorbells, transport, network device.",
    "EDMA": "Endpoint controller, iATU, interrupts, DesignWare eDMA, link failures.",
    "HAZARD": "Known bugs and hazards of the kernel code: repaired, or kept on purpose.",
}
"""Series of reference items: numbered statements about hardware and drivers, each testable."""

_ITEM = re.compile(r"(NTB|EDMA) (\d{1,3})|(HAZARD) (1[01]\.[0-9a-i]{1,2})")


@cache
def marks() -> dict[str, list[str]]:
    """Item -> the tests that cite it, as file::name."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assigned = [node.value for node in tree.body if isinstance(node, ast.Assign)]
        everywhere = [item for value in assigned for item in _items(value)]
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith("test_"):
                cited = [item for decorator in node.decorator_list for item in _items(decorator)]
                for item in dict.fromkeys([*everywhere, *cited]):
                    found[item].append(f"{path.relative_to(ROOT / 'tests')}::{node.name}")
    return found


def _items(node: ast.AST) -> list[str]:
    """Arguments of every ``covers(...)`` call below ``node``."""
    items = []
    for call in ast.walk(node):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "covers":
            items += [str(argument.value) for argument in call.args if isinstance(argument, ast.Constant)]
    return items


def malformed(items: list[str]) -> list[str]:
    """Items that are of no known series."""
    return [item for item in items if not _ITEM.fullmatch(item)]


def _order(item: str) -> tuple[str, int, str]:
    series, _, number = item.partition(" ")
    head, _, tail = number.partition(".")
    return series, int(head), tail.zfill(3)


LAST = {"NTB": 200, "EDMA": 173}
"""Highest number of the series that are counted through."""


LEFT_OUT = {
    "EDMA 34": "the controller has one function, so no call takes a function number",
    "EDMA 35": "a model has no atomic contexts",
    "EDMA 38": "defect of the RFC, repaired (11.c); it is not kept as a mode",
    "EDMA 39": "defect of the RFC, repaired; it is not kept as a mode",
    "EDMA 40": "defect of the RFC, repaired; it is not kept as a mode",
    "EDMA 41": "defect of the RFC, repaired; it is not kept as a mode",
    "EDMA 66": "the version 1 control block of the merged series is not built, only rfc1 and classic",
    "EDMA 67": "the version 1 control block is not built",
    "EDMA 68": "the version 1 control block is not built",
    "EDMA 73": "the poll keeps its 5 ms with every backend: docs/differences.md, Interrupts",
    "EDMA 77": "all bits of a mask are rung: docs/differences.md, RC driver [10.5]",
    "EDMA 87": "the window is closed: docs/differences.md, Endpoint",
    "EDMA 119": "the driver ends a channel by STOP, and has no pause: docs/differences.md, eDMA engine",
    "EDMA 122": "nobody starts a channel from the far side of the link",
    "EDMA 125": "the engine has no erratum of one board's silicon: reads are right at every request size",
    "EDMA 172": "the board's own figure: `ntbnet bench latency` shows it beside what is measured",
    "EDMA 136": "an unserviced line is told again every 10 ms, no storm: docs/differences.md, eDMA engine",
}
"""Items that no test will prove, and why."""


def uncovered(found: dict[str, list[str]], series: str) -> list[int]:
    """Numbers of a series that no test cites."""
    return [number for number in range(1, LAST[series] + 1) if f"{series} {number}" not in found]


def text() -> str:
    """The whole of docs/coverage.md."""
    found = marks()
    lines = [
        "# Reference items that tests prove",
        "",
        "Written by `python -m tests.coverage_table` from the `covers` marks of the tests; do not edit.",
    ]
    for series, about in SERIES.items():
        items = sorted((item for item in found if item.startswith(series)), key=_order)
        lines += ["", f"## {series}: {len(items)} items", "", about, "", "| item | tests |", "|---|---|"]
        for item in items:
            tests = found[item]
            more = f" and {len(tests) - 3} more" if len(tests) > 3 else ""
            lines.append(f"| {item} | {', '.join(f'`{test}`' for test in tests[:3])}{more} |")
        if series in LAST:
            left = uncovered(found, series)
            reasons = {number: LEFT_OUT.get(f"{series} {number}") for number in left}
            missing = ", ".join(str(number) for number in left if not reasons[number])
            lines += ["", f"Not proved by a test ({len(left)}): {missing}."]
            lines += [""] * any(reasons.values())
            lines += [f"- {series} {number}: {reason}." for number, reason in reasons.items() if reason]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    TABLE.write_text(text(), encoding="utf-8")
