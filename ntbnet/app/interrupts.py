"""What the two sides of a running bridge ring each other with, and why, from what both peers say.

Who rings knows which queues have a descriptor and which a doorbell; which backend a descriptor belongs
to, only the side that is rung knows.
"""

from __future__ import annotations

from typing import Any

from ntbnet.devices.intr_queues import NOTHING_OFFERED
from ntbnet.devices.intr_select import DOORBELL

NO_DEVICE = "the driver has no device"
INTERRUPT_COUNTERS = (
    ("ep", "dw-edma-testirq", "peer-ep", "edma_interrupts"),
    ("ep", "msi", "peer-ep", "msi_interrupts"),
    ("ep", DOORBELL, "epc", "doorbell_polls_hit"),
    ("rc", "msi", "peer-rc", "msis"),
)
"""(node that takes it, backend, service that counts it, its counter); what rings the host arrives as MSI."""


def backend_of(sender: dict[str, Any] | None, receiver: dict[str, Any] | None) -> tuple[str, str] | None:
    """What ``sender`` rings ``receiver`` with now, and why.

    Args:
        sender: a peer's answer; None while it does not answer.
        receiver: the other peer's.

    Returns:
        Name of the backend and its reason; None while one of the two does not answer.
    """
    if not sender or not receiver:
        return None
    rings, offers = queues_of(sender), (receiver.get("interrupts") or {}).get("offers", {})
    if not rings:
        return DOORBELL, NO_DEVICE
    by_doorbell = [row for row in rings if row["trigger"] == DOORBELL]
    if len(by_doorbell) < len(rings):
        reason = str(offers.get("reason", ""))
        if by_doorbell:
            numbers = ", ".join(str(row["queue"]) for row in by_doorbell)
            reason += f"; doorbells for queue {numbers}: {by_doorbell[0]['reason']}"
        return str(offers.get("backend", DOORBELL)), reason
    reason = str(rings[0]["reason"])
    if reason == NOTHING_OFFERED and offers.get("backend") == DOORBELL:
        reason += f": {offers['reason']}"
    return DOORBELL, reason


def queues_of(sender: dict[str, Any] | None) -> list[dict[str, Any]]:
    """How a peer rings each queue that somebody uses: its number, ``trigger`` and ``reason``."""
    rings: list[dict[str, Any]] = ((sender or {}).get("interrupts") or {}).get("rings", [])
    return rings


def status_of(answers: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The part of ``ntbnet status`` about interrupts, both ways."""
    rc, ep = answers.get("peer-rc"), answers.get("peer-ep")
    to_ep, to_rc = backend_of(rc, ep) or (None, None), backend_of(ep, rc) or (None, None)
    return {
        "backend": to_ep[0],
        "backend_reason": to_ep[1],
        "backend_ep_to_rc": to_rc[0],
        "backend_ep_to_rc_reason": to_rc[1],
        "interrupts": {"rc_to_ep": queues_of(rc), "ep_to_rc": queues_of(ep)},
    }


def interrupt_lines(status: dict[str, Any]) -> list[str]:
    """The backends in words, a line each way; None stands for a silent peer."""
    return [
        f"interrupts RC->EP: {status['backend']} ({status['backend_reason']})",
        f"interrupts EP->RC: {status['backend_ep_to_rc']} ({status['backend_ep_to_rc_reason']})",
    ]
