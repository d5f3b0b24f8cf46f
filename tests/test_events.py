"""EVENTS is the whole truth about the log: every call keeps to it, every row is logged somewhere."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ntbnet.app.logs_cli import events_table
from ntbnet.log import COMMON_KEYS, EVENTS, FLOW, LEVELS, UNDER_FAULTS

ROOT = Path(__file__).resolve().parent.parent
LOGGING_CALLS = {"log", "emit", "_log", "_emit"}
"""Names of what takes an event and its keys: ``Outbox.log``, ``Logger.emit``, and what wraps them."""


@dataclass(frozen=True)
class Site:
    """One place that logs."""

    where: str
    events: frozenset[str]
    keys: frozenset[str]
    problem: str = ""


def sites(source: str, where: str) -> Iterator[Site]:
    """Every logging call in ``source``; what only passes somebody else's event on is left out."""
    yield from _sites_in(ast.parse(source), {}, frozenset(), where)


def _sites_in(
    node: ast.AST, names: dict[str, set[str]], parameters: frozenset[str], where: str
) -> Iterator[Site]:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        arguments = node.args
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.kwarg]
        parameters = frozenset(one.arg for one in every if one is not None)
        names = _assigned_texts(node)
        if node.name not in LOGGING_CALLS:
            parameters = frozenset()
    if isinstance(node, ast.Call) and _called(node) in LOGGING_CALLS:
        site = _site(node, names, parameters, f"{where}:{node.lineno}")
        if site is not None:
            yield site
    for child in ast.iter_child_nodes(node):
        yield from _sites_in(child, names, parameters, where)


def _called(call: ast.Call) -> str:
    if isinstance(call.func, ast.Attribute):
        return call.func.attr
    return call.func.id if isinstance(call.func, ast.Name) else ""


def _site(call: ast.Call, names: dict[str, set[str]], parameters: frozenset[str], where: str) -> Site | None:
    first = call.args[0] if call.args else None
    if isinstance(first, ast.Name) and first.id in parameters:
        return None  # a wrapper: its own callers are the sites
    if isinstance(first, ast.Attribute) and first.attr == "event":
        return None  # a Log effect, made by a site in a device
    keys = frozenset(one.arg for one in call.keywords if one.arg is not None)
    events = _texts(first, names) if first is not None else set()
    if not events:
        return Site(where, frozenset(), keys, "cannot tell which event this is")
    if len(call.args) > 1 or len(keys) != len(call.keywords):
        return Site(where, frozenset(events), keys, "cannot tell which keys this gives")
    return Site(where, frozenset(events), keys)


def _texts(node: ast.expr, names: dict[str, set[str]]) -> set[str]:
    """Every string that an expression can be, as far as one function shows."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return {node.value}
    if isinstance(node, ast.IfExp):
        return _texts(node.body, names) | _texts(node.orelse, names)
    return names.get(node.id, set()) if isinstance(node, ast.Name) else set()


def _assigned_texts(function: ast.AST) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    found.setdefault(target.id, set()).update(_texts(node.value, {}))
    return found


def problems(site: Site) -> list[str]:
    """What is wrong at a site; [] when it keeps to EVENTS."""
    if site.problem:
        return [f"{site.where}: {site.problem}"]
    found = []
    for event in sorted(site.events):
        if event not in EVENTS:
            found.append(f"{site.where}: {event} is no row of EVENTS")
        elif set(EVENTS[event].keys) != site.keys:
            found.append(f"{site.where}: {event} has keys {EVENTS[event].keys}, given {sorted(site.keys)}")
    return found


def all_sites() -> list[Site]:
    files = sorted([*ROOT.glob("ntbnet/**/*.py"), *ROOT.glob("services/**/*.py")])
    return [
        site
        for file in files
        for site in sites(file.read_text(encoding="utf-8"), str(file.relative_to(ROOT)))
    ]


def test_every_logging_call_names_a_row_and_gives_exactly_its_keys() -> None:
    assert [problem for site in all_sites() for problem in problems(site)] == []


def test_every_row_is_logged_somewhere() -> None:
    logged = {event for site in all_sites() for event in site.events}

    assert sorted(EVENTS.keys() - logged) == []


def test_rows_are_well_formed() -> None:
    for event, row in EVENTS.items():
        assert row.level in LEVELS, event
        assert not set(row.keys) & {*COMMON_KEYS, FLOW, UNDER_FAULTS}, event
        assert len(set(row.keys)) == len(row.keys), event
        assert row.meaning, event
        assert "|" not in row.meaning, event
        area, _, name = event.partition(".")
        assert area.isidentifier(), event
        assert name.isidentifier(), event


def test_documented_table_is_events() -> None:
    """After a change of EVENTS: ``ntbnet logs events`` prints the new table."""
    text = (ROOT / "docs" / "events.md").read_text(encoding="utf-8")

    assert events_table() in text
    assert text.count("\n| `") == len(EVENTS)


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("self._log.emit('link.restarted', reason='x')", 0),
        ("outbox.log('link.restarted' if a else 'pci.failed', reason='x')", 0),
        ("def f():\n    e = 'link.restarted' if a else 'pci.failed'\n    log.emit(e, reason='x')", 0),
        ("def _emit(self, event, **keys):\n    self._log.emit(event, **keys)", 0),
        ("log.emit(effect.event, **effect.keys)", 0),
        ("log.emit('link.lost', reason='x')", 1),
        ("log.emit('link.restarted')", 1),
        ("log.emit('link.restarted', reason='x', extra=1)", 1),
        ("log.emit('link.restarted', **keys)", 1),
        ("log.emit(name, reason='x')", 1),
        ("def tell(event, **keys):\n    log.emit(event, **keys)", 1),
        ("def f():\n    e = 'link.restarted' if a else 'link.lost'\n    log.emit(e, reason='x')", 1),
        ("log.emit()", 1),
    ],
)
def test_deviation_of_a_call_is_found(source: str, count: int) -> None:
    assert len([problem for site in sites(source, "test") for problem in problems(site)]) == count
