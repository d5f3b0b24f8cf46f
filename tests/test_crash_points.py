"""Every store to shared memory has a name, every name is a crash point, every crash point has a store."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ntbnet.devices.crash_points import CRASH_POINTS, SETTINGS
from ntbnet.topology import SERVICES

ROOT = Path(__file__).resolve().parent.parent
CHOKE_POINT = "ntbnet/devices/memory.py"
STORES = {"store": 3, "store_u16": 3, "store_u32": 3, "zero": 1, "room": 3}
"""Window's methods whose first argument is the name -> least number of arguments (DmaFilter.store has 2)."""
WAYS = {"peer_mw_write": 3, "write": 2, "Store": 3}
"""What leads to a store -> which argument is the name, from 0. ``write`` is a CPU's."""


LENDERS = {"room", "receive_buffer"}
"""Methods that give writable bytes, perhaps of shared memory."""
FILLERS = {"read", "readinto", "readv", "preadv", "recv_into", "recvmsg_into", "pack_into", "copyto"}
"""Functions that write into an argument."""
IN_PLACE = {
    "ntbnet/devices/netdev.py:xmit": "a packet that the TUN did not give, into the loan `ring.payload_lent`",
    "ntbnet/edge/packets.py:_on_tun": "a packet of the TUN, into the same loan",
    "ntbnet/regs/file.py:_write_piece": "registers, in no shared memory",
}
"""Who may write into what it was lent, and what that is."""
UNREACHED = {"edma.data"}
"""Points that no service comes to in a sweep; the rows say why. A new store does not belong here."""


@dataclass(frozen=True)
class Site:
    where: str
    name: str
    problem: str = ""


def sites(source: str, where: str) -> Iterator[Site]:
    """Every call that stores, or leads to a store."""
    yield from _sites_in(ast.parse(source), where, frozenset(), {})


def _sites_in(
    node: ast.AST, where: str, parameters: frozenset[str], aliases: dict[str, str]
) -> Iterator[Site]:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        parameters = frozenset(one.arg for one in (*node.args.args, *node.args.kwonlyargs))
        aliases = {**aliases, **_aliases(node)}
    if isinstance(node, ast.Call):
        name = _name_argument(node, aliases)
        if name is not None:
            yield _site(name, f"{where}:{node.lineno}", parameters)
    for child in ast.iter_child_nodes(node):
        yield from _sites_in(child, where, parameters, aliases)


def _aliases(function: ast.AST) -> dict[str, str]:
    """Local names for ``peer_mw_write``."""
    found = {}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign):
            target, value = node.targets[0], node.value
            targets = target.elts if isinstance(target, ast.Tuple) else [target]
            values = value.elts if isinstance(value, ast.Tuple) else [value]
            for one, what in zip(targets, values, strict=False):
                if isinstance(one, ast.Name) and isinstance(what, ast.Attribute) and _is_way(what):
                    found[one.id] = what.attr
    return found


def _is_way(method: ast.Attribute) -> bool:
    """Files and buses have a ``write``, too."""
    return method.attr in WAYS and (
        method.attr != "write" or (isinstance(method.value, ast.Attribute) and method.value.attr == "_cpu")
    )


def _name_argument(call: ast.Call, aliases: dict[str, str]) -> ast.expr | bool | None:
    """The argument that names the store; False when it is missing, None for any other call."""
    function = call.func
    if isinstance(function, ast.Attribute):
        called = function.attr
        if called in STORES and len(call.args) >= STORES[called]:
            return call.args[0]
        if called in WAYS and not _is_way(function):
            return None
    elif isinstance(function, ast.Name):
        called = aliases.get(function.id, function.id if function.id == "Store" else "")
    else:
        return None
    if called not in WAYS:
        return None
    named = next((one.value for one in call.keywords if one.arg == "what"), None)
    if named is not None:
        return named
    return call.args[WAYS[called]] if len(call.args) > WAYS[called] else False


def _site(name: ast.expr | bool, where: str, parameters: frozenset[str]) -> Site:
    if isinstance(name, ast.Constant) and isinstance(name.value, str):
        known = name.value in CRASH_POINTS
        return Site(where, name.value, "" if known else f"{name.value!r} is no row of CRASH_POINTS")
    if isinstance(name, ast.Name) and name.id == "what" and "what" in parameters:
        return Site(where, "")  # passed on: its own callers are the sites
    if isinstance(name, ast.Attribute) and name.attr == "what":
        return Site(where, "")  # a Store effect, made by a site in a device
    return Site(where, "", "the store has no literal name")


def fillings(source: str, where: str) -> Iterator[str]:
    """Functions that write into what ``room`` or the ``view`` of a memory gave, as file:function."""
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        lent: set[str] = set()
        for node in ast.walk(function):
            if isinstance(node, ast.Assign) and _is_lent(node.value, lent):
                lent |= {one.id for one in node.targets if isinstance(one, ast.Name)}
        if any(_fills(node, lent) for node in ast.walk(function)):
            yield f"{where}:{function.name}"


def _is_lent(node: ast.AST, lent: set[str]) -> bool:
    if isinstance(node, ast.Subscript):
        return _is_lent(node.value, lent)
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Attribute) and (
            node.func.attr in LENDERS or (node.func.attr == "cast" and _is_lent(node.func.value, lent))
        )
    if isinstance(node, ast.Attribute):
        return node.attr == "view"
    return isinstance(node, ast.Name) and node.id in lent


def _fills(node: ast.AST, lent: set[str]) -> bool:
    if isinstance(node, (ast.Assign, ast.AugAssign)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return any(isinstance(one, ast.Subscript) and _is_lent(one.value, lent) for one in targets)
    if isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        given = [
            part
            for one in node.args
            for part in (one.elts if isinstance(one, (ast.List, ast.Tuple)) else [one])
        ]
        return name in FILLERS and any(_is_lent(one, lent) for one in given)
    return False


def every_site() -> list[Site]:
    found: list[Site] = []
    for path in sorted(ROOT.glob("ntbnet/**/*.py")):
        where = str(path.relative_to(ROOT))
        # memory.py makes the choke point itself; its allocator is a caller like any other
        source = path.read_text(encoding="utf-8")
        found += sites(source[source.index("class Allocator") :] if where == CHOKE_POINT else source, where)
    return found


def test_every_store_has_a_name_that_is_a_crash_point() -> None:
    assert [f"{site.where}: {site.problem}" for site in every_site() if site.problem] == []


def test_every_crash_point_has_a_store() -> None:
    assert CRASH_POINTS.keys() - {site.name for site in every_site()} == set()


def test_what_is_lent_is_filled_by_those_listed_alone() -> None:
    found = {
        where
        for path in ROOT.glob("ntbnet/**/*.py")
        for where in fillings(path.read_text(encoding="utf-8"), str(path.relative_to(ROOT)))
    }

    assert found == set(IN_PLACE)


@pytest.mark.parametrize(
    "source",
    [
        "def f(w): w.room('x', 0, 4)[0] = 1",
        "def f(w):\n    a = w.room('x', 0, 4)\n    a[:2] = b'xx'",
        "def f(d): d.view[0:4] = b'1234'",
        "def f(d):\n    words = d.view.cast('I')\n    words[1] |= 1",
        "def f(d, file): file.readinto(d.view)",
        "def f(fd, device): os.readv(fd, [device.receive_buffer()])",
    ],
)
def test_filling_of_lent_memory_is_found(source: str) -> None:
    assert list(fillings(source, "sample")) == ["sample:f"]


def test_only_the_points_listed_are_reached_by_no_service() -> None:
    assert {name for name, row in CRASH_POINTS.items() if not row.services} == UNREACHED


def test_shared_words_are_written_by_the_choke_point_alone() -> None:
    writers = [
        str(path.relative_to(ROOT))
        for path in ROOT.glob("ntbnet/**/*.py")
        if any(f"._u{bits}" in path.read_text(encoding="utf-8") for bits in (8, 16, 32))
    ]

    assert writers == [CHOKE_POINT]


@pytest.mark.parametrize("name", CRASH_POINTS)
def test_row_says_who_reaches_it_and_how(name: str) -> None:
    row = CRASH_POINTS[name]

    assert set(row.services) <= set(SERVICES)
    assert row.reached in SETTINGS
    assert row.fabric in {"", "message", "local"}
    assert row.what


@pytest.mark.parametrize(
    "source",
    [
        "def f(window, name): window.store(name, 0, b'')",
        "window.store('no.such.point', 0, b'')",
        "window.store_u32(f'ctrl.{x}', 0, 1)",
        "self._window.zero(self.name)",
        "self._ntb.peer_mw_write(0, 0, b'')",
        "self._cpu.write(0, b'')",
        "effects.append(Store(memory, 0, b''))",
        "def f(self):\n    put, n = self._ntb.peer_mw_write, 1\n    put(0, 0, b'')",
    ],
)
def test_store_without_a_crash_point_is_found(source: str) -> None:
    assert [bool(site.problem) for site in sites(source, "sample")] == [True]


@pytest.mark.parametrize(
    "source",
    [
        "window.store('lease', 0, b'')",
        "def f(self, what): self._memory.store(what, 0, b'')",
        "self._cpu.write(0, b'', 'ring.flags')",
        "self._cpu.write(0, b'', what='ring.flags')",
        "effect.memory.store(effect.what, 0, b'')",
        "self._dma.store(0, b'')",
        "file.write(b'')",
    ],
)
def test_named_store_is_not_complained_about(source: str) -> None:
    assert not any(site.problem for site in sites(source, "sample"))
