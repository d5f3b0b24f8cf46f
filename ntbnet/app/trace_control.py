"""Starting and ending a trace of a running bridge, and how far it got."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ntbnet.app.ask import able_to_answer, ask
from ntbnet.app.bridge import ANSWER_TIMEOUT_S, Bridge
from ntbnet.edge.trace_ring import KEPT
from ntbnet.edge.trace_rings import find_rings
from ntbnet.errors import SetupError
from ntbnet.trace_records import HEADER_BYTES, RECORD_BYTES, Level

RECORDS = 65536
"""Of each service's ring unless told, 8 MiB."""
MAX_RECORDS = 1 << 20
"""128 MiB: a service makes its ring between two messages."""


def start_trace(bridge: Bridge, records: int) -> None:
    """Have every service trace everything; what an earlier trace left is removed.

    Args:
        bridge: running.
        records: of each service's ring, 1..MAX_RECORDS.

    Raises:
        SetupError: a trace runs already, there is no room for it, or a service does not begin one or is
            silent; says why.
    """
    run = bridge.run
    if run.wanted_trace() is not None:
        raise SetupError(f"bridge {run.name} is traced already; end that with: ntbnet trace stop")
    earlier = list(run.trace_folder.glob("*.full"))
    _check_room(bridge, records, earlier)
    for ring in earlier:
        ring.unlink(missing_ok=True)
    run.want_trace(records)
    refusals = _have_services_look(bridge)
    if refusals:
        stop_trace(bridge)
        raise SetupError(f"no trace: {'; '.join(refusals)}")


def stop_trace(bridge: Bridge) -> None:
    """Have no service trace any more. A silent one looks when it starts anew."""
    bridge.run.want_trace(None)
    _have_services_look(bridge)


def _check_room(bridge: Bridge, records: int, earlier: Iterable[Path]) -> None:
    """Rings may take half of what is free: the nodes' memory and other programs need some of it, too.

    Of a service that is restarted more than one is there; ``earlier`` ones make room for them.
    """
    folder, kept = bridge.run.trace_folder, KEPT[Level.FULL]
    needed = (HEADER_BYTES + records * RECORD_BYTES) * len(bridge.services()) * kept
    try:
        found = os.statvfs(folder)
        given_back = sum(ring.lstat().st_size for ring in earlier)
    except OSError as problem:
        raise SetupError(f"no trace: no folder for its rings at {folder}: {problem.strerror}") from None
    room = (found.f_bavail * found.f_frsize + given_back) // 2
    if needed > room:
        raise SetupError(
            f"no trace: its rings need {needed >> 20} MiB, {kept} of each service, and half of what /dev/shm "
            f"has free are {room >> 20}; choose fewer --records"
        )


def _have_services_look(bridge: Bridge) -> list[str]:
    """Why services do not trace as they are to."""
    sockets = {name: bridge.run.socket_path(f"ask.{name}") for name in bridge.services()}
    answers, silent = ask(sockets, ANSWER_TIMEOUT_S, b"trace look"), {"error": "silent"}
    found = {name: answers.get(name, silent) for name in bridge.services()}
    return [f"{name}: {answer['error']}" for name, answer in found.items() if "error" in answer]


def trace_status(bridge: Bridge) -> dict[str, Any]:
    """Whether a trace runs, and of each service its level and what is in its ring."""
    answers = ask(able_to_answer(bridge.run, bridge.services()), ANSWER_TIMEOUT_S, b"trace")
    rings = {ring.path.name: ring for ring in find_rings(bridge.run.trace_folder, Level.FULL)[0]}
    services = []
    for name in bridge.services():
        answer = answers.get(name, {})
        latest = [ring for ring in rings.values() if ring.header.label == name]
        ring = rings.get(str(answer.get("ring"))) or (latest[-1] if latest else None)
        services.append(
            {
                "service": name,
                "level": answer.get("level", "silent"),
                "capacity": None if ring is None else ring.header.capacity,
                "records": None if ring is None else ring.last - ring.overwritten,
                "overwritten": None if ring is None else ring.overwritten,
            }
        )
    return {"on": bridge.run.wanted_trace() is not None, "services": services}
