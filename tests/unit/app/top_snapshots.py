"""Looks at a bridge that never was, for the tests of ``ntbnet top``."""

from __future__ import annotations

import copy
from typing import Any

from ntbnet import topology
from ntbnet.app.top_snapshot import Snapshot
from ntbnet.edge.process import Usage

SECOND_NS = 10**9
MIB = 1 << 20


def queue_end(**counts: Any) -> dict[str, Any]:
    """One end of a queue, with what is looked at."""
    keys = ("tx_pkts", "tx_bytes", "rx_pkts", "rx_bytes", "tx_ring_full", "tx_err_no_buf", "dma_errors")
    end = dict.fromkeys((*keys, "rx_err_no_buf", "rx_err_oflow", "rx_err_ver"), 0)
    return {**end, "tx_max_entry": 14, "free_tx": 13, "link": "up", **counts}


def status() -> dict[str, Any]:
    """A bridge that is up and has carried nothing yet."""
    services = [
        {
            "name": name,
            "node": topology.NODE_OF[name],
            "pid": 4000 + number,
            "epoch": 1,
            "restarts": 0,
            "state": "up",
            "uptime_s": 12.5,
            "counters": {},
        }
        for number, name in enumerate(topology.SERVICES)
    ]
    return {
        "name": "lab",
        "state": "up",
        "run_id": "abc",
        "services": services,
        "link": {
            "state": "up",
            "epoch": 7,
            "wanted": {"rc": True, "ep": True},
            "queues": [{"queue": 0, "state": "up", "rc": queue_end(), "ep": queue_end()}],
        },
        "profile": "r-car-s4",
        "fabric": "local",
        "machine": {"nodes": ["rc", "ep"], "peer": None, "refusals": []},
        "backend": "dw-edma-testirq",
        "backend_reason": "the eDMA has a test interrupt",
        "backend_ep_to_rc": "doorbell",
        "backend_ep_to_rc_reason": "the peer offers no interrupt",
        "nodes": {"rc": {"ipv4": "10.77.0.1/24"}, "ep": {"ipv4": "10.77.0.2/24"}},
    }


def event(second: int, service: str = "epc", name: str = "mw.cleared", **keys: Any) -> dict[str, Any]:
    """A line of a log."""
    wall = f"2026-01-31T12:{second // 60:02}:{second % 60:02}.000000Z"
    common = {"event": name, "level": "info", "wall": wall, "mono_ns": second, "run_id": "abc", "node": "ep"}
    return {**common, "service": service, "pid": 1, "epoch": 1, **keys}


def snapshot(seconds: float = 0, **changes: Any) -> Snapshot:
    """A look at that moment.

    Args:
        seconds: since the first one; each process has worked a fiftieth of them.
        changes: fields of the snapshot that are others.
    """
    usage = {name: Usage(1 + seconds / 50, 31 * MIB, 12.5, is_stopped=False) for name in topology.SERVICES}
    fields = {
        "taken_ns": 5 * SECOND_NS + int(seconds * SECOND_NS),
        "status": status(),
        "usage": usage,
        "events": [event(second, widx=second) for second in range(3)],
    }
    return Snapshot(**{**fields, **changes})


def under_load(seconds: float = 2) -> Snapshot:
    """A later look: 3000 frames of 4.5 MB to the endpoint, a ring with 4 of them in it."""
    later = copy.deepcopy(status())
    queue = later["link"]["queues"][0]
    queue["rc"].update(tx_pkts=3000, tx_bytes=4_500_000, free_tx=9, tx_ring_full=10)
    queue["ep"].update(rx_pkts=3000, rx_bytes=4_500_000, tx_pkts=20, tx_bytes=2000, rx_err_ver=1)
    by_name = {service["name"]: service for service in later["services"]}
    by_name["peer-ep"]["counters"] = {"edma_interrupts": 240}
    by_name["peer-rc"]["counters"] = {"msis": 20}
    return snapshot(seconds, status=later)


def gone() -> Snapshot:
    """A look at a bridge that was taken down."""
    nothing = status()
    nothing.update(state="down", run_id=None, backend=None, backend_ep_to_rc=None)
    nothing["link"].update(state="down", queues=[])
    for service in nothing["services"]:
        service.update(state="down", pid=None, uptime_s=None)
    return snapshot(4, status=nothing, usage={}, events=[])
