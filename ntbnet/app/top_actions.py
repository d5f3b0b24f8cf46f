"""What the keys of ``ntbnet top`` do to a bridge; each says in words what came of it. They block."""

from __future__ import annotations

import signal
import time

from ntbnet.app.bridge import TRACE_RECORDS, Bridge
from ntbnet.edge.process import ProcessRecord, send_signal, usage_of
from ntbnet.edge.trace_rings import find_rings
from ntbnet.errors import SetupError
from ntbnet.trace_records import Level

NODES = ("rc", "ep")
FLAP_TIMEOUT_S = 5.0
LOOK_INTERVAL_S = 0.02


class Actions:
    """The dangerous part of ``ntbnet top``.

    Args:
        bridge: what the keys act on.
    """

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge

    def process(self, service: str) -> ProcessRecord | None:
        """The process that is the service now; None when none is."""
        record = self._bridge.run.process(service)
        return record if record is not None and usage_of(record) is not None else None

    def is_stopped(self, record: ProcessRecord) -> bool:
        """True while SIGSTOP holds it."""
        used = usage_of(record)
        return used is not None and used.is_stopped

    def send(self, service: str, record: ProcessRecord, number: signal.Signals) -> str:
        """Signal that very process, never one that took its place.

        Raises:
            SetupError: it may not be done.
        """
        try:
            reached = send_signal(record, number)
        except PermissionError:
            raise SetupError(f"{service} belongs to another user; run ntbnet top as root") from None
        told = f"{number.name} sent to {service}, process {record.pid}"
        return told if reached else f"{service}, process {record.pid}, had ended already"

    def flap(self) -> str:
        """Take the link down on both nodes and up again; up only, when it is down by command.

        Raises:
            SetupError: it does not go down, or no driver hears.
        """
        bridge = self._bridge
        nodes = [node for node in NODES if f"peer-{node}" in bridge.services()]
        if not all(bridge.link_wanted().values()):
            self._want(nodes, wanted=True)
            return "link is wanted again"
        epoch = bridge.status()["link"]["epoch"]
        try:
            self._want(nodes, wanted=False)
            deadline = time.monotonic() + FLAP_TIMEOUT_S
            while bridge.status()["link"]["state"] == "up":
                if time.monotonic() >= deadline:
                    raise SetupError(f"the link did not go down within {FLAP_TIMEOUT_S:.0f} s")
                time.sleep(LOOK_INTERVAL_S)  # between questions to other processes; nothing to await here
        finally:
            # whatever went wrong: nobody asked for a link that stays down
            self._want(nodes, wanted=True)
        return f"link was taken down in epoch {epoch} and is wanted again"

    def would_lose_trace(self) -> bool:
        """True when starting a trace removes the records of an earlier one."""
        run = self._bridge.run
        return run.wanted_trace() is None and bool(find_rings(run.trace_folder, Level.FULL)[0])

    def toggle_trace(self) -> str:
        """Start a trace of everything, or end the one that runs.

        Raises:
            SetupError: a service does not begin one.
        """
        if self._bridge.run.wanted_trace() is None:
            self._bridge.start_trace(TRACE_RECORDS)
            return "everything is traced now"
        self._bridge.stop_trace()
        return "the trace has ended; its records stay until the next one, or ntbnet down"

    def _want(self, nodes: list[str], *, wanted: bool) -> None:
        unheard = [why for node in nodes if (why := self._bridge.want_link(node, wanted)) is not None]
        if unheard:
            raise SetupError("; ".join(unheard))
