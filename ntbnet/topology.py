r"""Who talks to whom: the five services and the paths between them.

::

    peer-rc --- rc-host === PCIe link === epc --- peer-ep
        \________ memory requests _______/  \\      /
                                              edma

Enumeration, configuration and the life of the link go over the PCIe link; memory requests between the
endpoint and the host's driver have a path of their own, which spares them a stop at the host.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

SERVICES = ("rc-host", "epc", "edma", "peer-rc", "peer-ep")
"""In dependency order."""

NODE_OF = {"rc-host": "rc", "peer-rc": "rc", "epc": "ep", "edma": "ep", "peer-ep": "ep"}

MODULES = {
    "rc-host": ("services.rc_host",),
    "epc": ("services.endpoint",),
    "edma": ("services.edma",),
    "peer-rc": ("services.peer", "--node", "rc"),
    "peer-ep": ("services.peer", "--node", "ep"),
}
"""Python module of each service and the arguments that select it."""

PATHS = (
    ("rc-host", "epc"),
    ("rc-host", "peer-rc"),
    ("epc", "peer-ep"),
    ("epc", "edma"),
    ("edma", "peer-ep"),
    ("epc", "peer-rc"),
)
"""(initiator, other end) of each path; the first one is the PCIe link."""

LINK_PATH = PATHS[0]

STORE = "store"
WAKES = {
    ("peer-rc", "edma"): {STORE},
    ("peer-rc", "epc"): {STORE},
    ("peer-ep", "edma"): {STORE},
    ("edma", "peer-ep"): {"edma_line"},
    ("epc", "peer-ep"): {"doorbell_slots", "msi_vector"},
    ("peer-ep", "peer-rc"): {"msi_vector"},
}
"""Fabric ``local``: (who wakes, who is woken) and what for: a store to registers, or interrupts by source."""


CROSSINGS = tuple(pair for a, b in PATHS if NODE_OF[a] != NODE_OF[b] for pair in ((a, b), (b, a)))
"""(sender, receiver) of each socket between the two nodes: what crosses between two machines."""


def services_of(nodes: Collection[str]) -> tuple[str, ...]:
    """The services of those nodes, in dependency order."""
    return tuple(service for service in SERVICES if NODE_OF[service] in nodes)


def crossing_endpoint(src: str, dst: str, address: str, base_port: int) -> str:
    """ZeroMQ endpoint of what goes from ``src`` to ``dst`` on the other machine; bound by ``dst``.

    Args:
        src: service that sends.
        dst: service of the other node, which receives.
        address: of the machine of ``dst``: IPv4 or IPv6 address, or a host name.
        base_port: first of four ports, as in ``CROSSINGS``.
    """
    host = f"[{address}]" if ":" in address else address
    return f"tcp://{host}:{base_port + CROSSINGS.index((src, dst))}"


def neighbours(service: str) -> dict[str, bool]:
    """Services that ``service`` has a path to; True where it is the initiator."""
    found = {other: True for initiator, other in PATHS if initiator == service}
    found.update({initiator: False for initiator, other in PATHS if other == service})
    return found


def memory_users(node: str, fabric: str) -> set[str]:
    """Services that map the DRAM of ``node``: all of it; in fabric ``local`` the other one's peer, too."""
    users = {service for service in SERVICES if NODE_OF[service] == node}
    return users | {"peer-rc", "peer-ep"} if fabric == "local" else users


def session_counter(a: str, b: str) -> str:
    """Name of the counter in the run folder that a path's sessions are taken from."""
    return "link" if (a, b) == LINK_PATH else f"path-{a}-{b}"


def endpoint(src: str, dst: str, transport: str, tcp_base_port: int, ipc_path: Callable[[str], Path]) -> str:
    """ZeroMQ endpoint of what goes from ``src`` to ``dst``; bound by ``dst``.

    Args:
        src: service that sends.
        dst: service that receives.
        transport: ``ipc`` or ``tcp`` (loopback).
        tcp_base_port: first of twelve ports.
        ipc_path: socket name -> path in the run folder.
    """
    if transport == "ipc":
        return f"ipc://{ipc_path(f'{src}.{dst}')}"
    ordered = [pair for a, b in PATHS for pair in ((a, b), (b, a))]
    return f"tcp://127.0.0.1:{tcp_base_port + ordered.index((src, dst))}"
