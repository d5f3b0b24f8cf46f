"""The direction of imports, and where IO is allowed at all."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "address": {"errors"},
    "config": {"errors", "address"},
    "layout_explain": {"errors", "address", "config", "regs"},
    "wire": {"errors", "address"},
    "log": {"errors"},
    "topology": set(),
    "trace_records": {"errors"},
    "pcapng": set(),
    "trace": {"address", "config", "wire", "topology", "regs", "trace_records", "pcapng"},
    "faults": {"errors", "config", "topology"},
    "regs": {"errors", "address"},
    "devices": {"regs", "wire", "config", "address", "errors", "trace_records"},
    "edge": {
        *("errors", "address", "config", "wire", "log", "topology", "trace_records", "faults"),
        *("regs", "devices"),
    },
    "app": {
        "errors",
        "address",
        "config",
        "layout_explain",
        "wire",
        "log",
        "topology",
        "trace_records",
        "trace",
        "faults",
        "regs",
        "devices",
        "edge",
    },
    "services": {"edge", "devices", "config", "log", "errors", "wire", "address"},
}

CONFIG_MODULES = {
    *("config", "sections", "schema", "profile"),
    *("layout", "layout_plan", "layout_resources", "layout_rules", "layout_suggest", "layout_traffic"),
}
"""The configuration is one area in several files."""

RECORD_MODULES = {"trace_kinds", "trace_records", "trace_stored", "trace_wakes"}
"""The format of trace rings."""

TRACE_MODULES = {"trace_link", "trace_places", "trace_pcapng", "trace_perfetto", "trace_whole"}
"""What makes files of a trace, another such area."""

IO_MODULES = {
    *("asyncio", "ctypes", "fcntl", "logging", "mmap", "os", "random", "socket"),
    *("structlog", "threading", "time", "uvloop", "zmq"),
}
MAY_DO_IO = {"edge", "app", "services", "log"}


@dataclass(frozen=True)
class Import:
    module: str
    line: int


def module_exists(dotted: str) -> bool:
    path = ROOT.joinpath(*dotted.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def imports_of(source: str, package: str) -> list[Import]:
    """Every module that ``source``, a module of ``package``, imports, anywhere in it."""
    found: list[Import] = []

    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.extend(Import(alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                base = ".".join([*parts[: len(parts) - node.level + 1], *([base] if base else [])])
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                found.append(Import(whole if module_exists(whole) else base, node.lineno))
    return found


def area_of(module: str) -> str | None:
    """The area that a module belongs to; None when it is not ours, "" for the package itself."""
    parts = module.split(".")
    if parts[0] == "services":
        return "services"
    if parts[0] != "ntbnet":
        return None
    if len(parts) == 1 or parts[1] == "__init__":
        return ""
    if parts[1] in TRACE_MODULES:
        return "trace"
    if parts[1] in RECORD_MODULES:
        return "trace_records"
    return "config" if parts[1] in CONFIG_MODULES else parts[1]


def complaints(source: str, module: str) -> list[str]:
    mine = area_of(module)
    assert mine is not None
    package = module.rpartition(".")[0]
    found = []
    for one in imports_of(source, package):
        theirs = area_of(one.module)
        where = f"{module}:{one.line}"
        if theirs is None:
            if one.module.split(".")[0] in IO_MODULES and mine not in MAY_DO_IO:
                found.append(f"{where}: {mine or module} does no IO, but imports {one.module}")
        elif theirs not in {"", mine} and theirs not in MAY_IMPORT.get(mine, set()):
            found.append(f"{where}: {mine or module} must not import {one.module}")
    return found


def our_modules() -> list[str]:
    files = [*ROOT.glob("ntbnet/**/*.py"), *ROOT.glob("services/**/*.py")]
    return sorted(".".join(f.relative_to(ROOT).with_suffix("").parts) for f in files)


@pytest.mark.parametrize("module", our_modules())
def test_module_imports_only_what_its_area_may(module: str) -> None:
    source = ROOT.joinpath(*module.split(".")).with_suffix(".py").read_text(encoding="utf-8")

    assert complaints(source, module) == []


@pytest.mark.parametrize("module", our_modules())
def test_module_belongs_to_a_known_area(module: str) -> None:
    assert area_of(module) in {*MAY_IMPORT, ""}


@pytest.mark.parametrize(
    ("source", "module"),
    [
        ("import asyncio", "ntbnet.devices.link"),
        ("from os import path", "ntbnet.regs.spec"),
        # only a sample for the check to find: nothing of ours imports it, it costs too much for each packet
        ("import zmq.asyncio", "ntbnet.wire"),
        ("from ntbnet import edge", "ntbnet.devices.link"),
        ("from ntbnet.edge import bus", "ntbnet.devices.link"),
        ("from ..edge import tun", "ntbnet.devices.link"),
        ("import ntbnet.devices.effects", "ntbnet.regs.spec"),
        ("from ntbnet.regs import spec", "services.peer"),
        ("def f():\n    import time", "ntbnet.devices.link"),
        ("from ntbnet.app import cli", "ntbnet.edge.startup"),
        ("def f():\n    from ntbnet.app import cli", "ntbnet.edge.startup"),
        ("from ntbnet import log", "ntbnet.devices.link"),
        ("from ntbnet import schema", "ntbnet.regs.spec"),
    ],
)
def test_forbidden_import_is_found(source: str, module: str) -> None:
    assert len(complaints(source, module)) == 1


@pytest.mark.parametrize(
    ("source", "module"),
    [
        ("from ntbnet.app.cli import main", "ntbnet.app.__main__"),
        ("import logging, structlog", "ntbnet.log"),
        ("from ntbnet import __version__", "ntbnet.devices.link"),
        ("from ntbnet.sections import Ntb", "ntbnet.config"),
        ("from .effects import Send", "ntbnet.devices.link"),
    ],
)
def test_allowed_import_is_not_complained_about(source: str, module: str) -> None:
    assert complaints(source, module) == []
