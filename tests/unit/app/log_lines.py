"""Lines of a small story, for tests that read logs: times in milliseconds, complete keys, one run."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from typing import Any

from ntbnet.app.logs import Axis, Line, Tally, in_order, read_lines
from ntbnet.log import EVENTS

START_MS = 5_000_000
NODES = {"rc-host": "rc", "peer-rc": "rc", "epc": "ep", "edma": "ep", "peer-ep": "ep"}
Fields = dict[str, Any]


def said(at_ms: float, service: str, event: str, *, epoch: int = 1, pid: int = 0, **keys: Any) -> Fields:
    """One event as logged; its level is that of EVENTS."""
    us = round(at_ms * 1000)
    wall = f"2025-01-31T12:{us // 60_000_000:02}:{us // 1_000_000 % 60:02}.{us % 1_000_000:06}Z"
    common: Fields = {
        "event": event,
        "level": EVENTS[event].level if event in EVENTS else "info",
        "wall": wall,
        "mono_ns": START_MS * 1_000_000 + us * 1000,
        "run_id": "r1",
        "node": NODES.get(service, "host"),
        "service": service,
        "pid": pid or 100 + epoch,
        "epoch": epoch,
    }
    return common | keys


def encoded(story: Iterable[Fields]) -> bytes:
    """As the lines of a file."""
    return b"".join(json.dumps(line, separators=(",", ":")).encode() + b"\n" for line in story)


def lines_of(story: Iterable[Fields]) -> list[Line]:
    """As read, in the order of time."""
    return list(in_order(read_lines(io.BytesIO(encoded(story)), Axis(), Tally())))


def fault(at_ms: float, kind: str, *services: str, told_ms: float | None = None, number: int = 0) -> Fields:
    """What the nemesis says."""
    at_ns = START_MS * 1_000_000 + round(at_ms * 1_000_000)
    keys: Fields = {
        "number": number,
        "kind": kind,
        "services": list(services),
        "at_ns": at_ns,
        "until_ns": at_ns,
    }
    told = at_ms + 1 if told_ms is None else told_ms
    return said(told, "nemesis", "chaos.fault_done", injected=True, note="", **keys)


def died(at_ms: float, name: str) -> Fields:
    """What the supervisor says of a death."""
    return said(at_ms, "supervisor", "supervisor.service_died", name=name, child_pid=101, status=-9)


def spawned(at_ms: float, name: str) -> Fields:
    """What the supervisor says of a start."""
    return said(at_ms, "supervisor", "supervisor.service_started", name=name, child_pid=102, restarts=1)


def path(at_ms: float, service: str, peer: str, session: int, *, epoch: int = 1) -> Fields:
    """A path that came up, or with session 0 went down."""
    keys: Fields = {"peer": peer, "up": session > 0, "session": session, "reason": "told"}
    return said(at_ms, service, "path.changed", epoch=epoch, **keys)


def transport(at_ms: float, service: str, *, up: bool, epoch: int = 1) -> Fields:
    """The NTB link, as a peer sees it."""
    return said(at_ms, service, "transport.link_changed", epoch=epoch, up=up, reason="told")


def carrier(at_ms: float, service: str, *, up: bool) -> Fields:
    """The carrier of a node's interface."""
    return said(at_ms, service, "netdev.carrier_changed", up=up)


def crossed(at_ms: float, service: str, queue: int = 0) -> Fields:
    """The first frame of a queue."""
    return said(at_ms, service, "netdev.packet_crossed", queue=queue)


def healthy() -> list[Fields]:
    """A bridge that comes up, loses epc to a kill, recovers and goes down; 12 s."""
    return [
        said(0, "supervisor", "supervisor.started", services=["epc", "peer-rc"]),
        said(10, "epc", "service.started", incarnation=1),
        path(20, "peer-rc", "epc", 1),
        said(21, "epc", "link.changed", up=True, link_epoch=1, reason="session agreed"),
        carrier(22, "peer-rc", up=False),
        transport(30, "peer-rc", up=True),
        transport(31, "peer-ep", up=True),
        carrier(32, "peer-rc", up=True),
        crossed(40, "peer-rc"),
        fault(1000, "kill", "epc"),
        died(1003, "epc"),
        spawned(1014, "epc"),
        said(1070, "epc", "service.started", epoch=2, incarnation=2),
        path(1071, "peer-rc", "epc", 0),
        transport(1072, "peer-rc", up=False),
        carrier(1073, "peer-rc", up=False),
        transport(1074, "peer-ep", up=False),
        path(1080, "peer-rc", "epc", 2),
        said(1081, "epc", "link.changed", epoch=2, up=True, link_epoch=2, reason="session agreed"),
        carrier(1082, "peer-rc", up=False),
        transport(1150, "peer-ep", up=True),
        transport(1160, "peer-rc", up=True),
        carrier(1161, "peer-rc", up=True),
        crossed(1170, "peer-ep"),
        crossed(1172, "peer-rc"),
        transport(12000, "peer-rc", up=False),
        said(12001, "peer-rc", "service.stopped", reason="SIGTERM"),
        said(12002, "epc", "service.stopped", epoch=2, reason="SIGTERM"),
        said(12010, "supervisor", "supervisor.stopped", reason="SIGTERM"),
    ]
