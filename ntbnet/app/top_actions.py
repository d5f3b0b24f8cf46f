"""What the keys of ``ntbnet top`` do to a bridge; each says in words what came of it. Those block."""

from __future__ import annotations

import signal

from ntbnet.app.bridge import Bridge
from ntbnet.app.trace_control import RECORDS, start_trace, stop_trace
from ntbnet.edge.process import ProcessRecord, send_signal, usage_of
from ntbnet.errors import SetupError

NODES = ("rc", "ep")
FLAP_TIMEOUT_S = 5.0


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
            bridge.wait_for(
                lambda status: status["link"]["state"] != "up",
                FLAP_TIMEOUT_S,
                lambda _: f"the link did not go down within {FLAP_TIMEOUT_S:.0f} s",
            )
        finally:
            # whatever went wrong: nobody asked for a link that stays down
            self._want(nodes, wanted=True)
        return f"link was taken down in epoch {epoch} and is wanted again"

    def would_lose_trace(self) -> bool:
        """True when starting a trace removes the records of an earlier one. Does not block."""
        run = self._bridge.run
        return run.wanted_trace() is None and any(run.trace_folder.glob("*.full"))

    def toggle_trace(self) -> str:
        """Start a trace of everything, or end the one that runs.

        Raises:
            SetupError: a service does not begin one.
        """
        if self._bridge.run.wanted_trace() is None:
            start_trace(self._bridge, RECORDS)
            return "everything is traced now"
        stop_trace(self._bridge)
        return "the trace has ended; its records stay until the next one, or ntbnet down"

    def _want(self, nodes: list[str], *, wanted: bool) -> None:
        unheard = [why for node in nodes if (why := self._bridge.want_link(node, wanted)) is not None]
        if unheard:
            raise SetupError("; ".join(unheard))
