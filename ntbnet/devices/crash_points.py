"""Every store to shared memory by its name: the points at which a process can be made to die.

Each call of ``Window.store``, ``store_u16``, ``store_u32`` and ``zero``, and of what leads there (a CPU's
posted write, ``peer_mw_write``), names what it stores; each name is a row here, and each row has such a call
(a test reads the sources). A process can be made to die just before or just after the n-th store of a
name: see ``Hook`` and ``edge/faulty.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

TRAFFIC, POLLED, DMA = "traffic", "polled", "dma"
BRING_UP, CLASSIC, MSIX, RESET = "bring-up", "classic", "msix", "reset"
SETTINGS: dict[str, dict[str, object]] = {
    TRAFFIC: {},
    POLLED: {"transport.use_intr": False},
    DMA: {"transport.use_dma": True},
    BRING_UP: {},
    CLASSIC: {"ntb.ctrl_layout": "classic", "ntb.num_mws": 1},
    MSIX: {"bridge.profile": "rk3588"},
    RESET: {"node.rc.dram_on_reset": "lost", "node.ep.dram_on_reset": "lost"},
}
"""Set-up -> configuration keys (dotted) it needs. The first three are reached by packets both ways, the last
one by a reset of the node by command, the others while a service starts and the link comes up."""


@dataclass(frozen=True, slots=True)
class CrashPoint:
    """One row.

    Attributes:
        what: what is stored, and where.
        services: who stores it.
        reached: key of SETTINGS: when.
        fabric: ``message`` or ``local``; empty: both.
        after: service whose restart leads there, where it is not that of who stores.
    """

    what: str
    services: tuple[str, ...]
    reached: str
    fabric: str = ""
    after: str = ""

    @property
    def is_bring_up(self) -> bool:
        """True for what is stored while a service starts and the link comes up; packets lead to the rest."""
        return self.reached in {BRING_UP, CLASSIC, MSIX}


_PEERS = ("peer-rc", "peer-ep")

CRASH_POINTS: dict[str, CrashPoint] = {
    # the ring at the peer, by direct stores; in fabric `message` these stores are `inbound` and `dma`
    "ring.payload": CrashPoint("payload of a frame, in the peer's ring", _PEERS, TRAFFIC, "local"),
    "ring.payload_lent": CrashPoint(
        "place of the next payload, lent to who reads the TUN: nothing is stored yet, before or after; "
        "what was read lies there before `ring.payload`, which is its front then",
        _PEERS,
        TRAFFIC,
        "local",
    ),
    "ring.header": CrashPoint("ver and len of a frame, in the peer's ring", _PEERS, TRAFFIC, "local"),
    "ring.flags": CrashPoint("done bit of a frame, in the peer's ring", _PEERS, TRAFFIC, "local"),
    "ring.rx_info": CrashPoint("last frame consumed, in the sender's memory", _PEERS, TRAFFIC, "local"),
    # the ring in own memory
    "ring.flags_cleared": CrashPoint("flags of a frame that was taken, in own ring", _PEERS, TRAFFIC),
    "ring.rx_info_reset": CrashPoint("first rx_info of a link epoch, in own memory", _PEERS, BRING_UP),
    "ring.headers_cleared": CrashPoint("header of each frame of a new ring, zeroed", _PEERS, BRING_UP),
    "memory.allocated": CrashPoint(
        "memory handed out, zeroed: receive rings, doorbells, DMA lists", (*_PEERS, "epc"), BRING_UP
    ),
    # doorbells
    "doorbell.rung": CrashPoint("doorbell word, by the host's direct store", ("peer-rc",), POLLED, "local"),
    "doorbell.cleared": CrashPoint("doorbell word that the poll found rung", ("epc",), POLLED),
    "doorbell.reset": CrashPoint(
        "all doorbell words, when the host is lost", ("epc",), BRING_UP, "", "rc-host"
    ),
    "intr.rung": CrashPoint(
        "an interrupt's register at the peer, by the host's direct store", ("peer-rc",), TRAFFIC, "local"
    ),
    # memory requests that came as messages
    "inbound": CrashPoint("the host's write through a BAR, to endpoint memory", ("epc",), BRING_UP),
    "dma": CrashPoint(
        "the endpoint's write to host memory, or each part of one that a mapping holds", ("peer-rc",), DMA
    ),
    # eDMA
    "edma.list": CrashPoint("descriptor list of a DMA channel", ("peer-ep",), DMA),
    "edma.payload": CrashPoint("payload that waits for the engine", ("peer-ep",), DMA),
    "edma.data": CrashPoint("data that the engine read from the host", (), DMA),
    # scratchpads and control block
    "spad.own": CrashPoint("scratchpad of the endpoint's bank", ("peer-ep",), BRING_UP),
    "spad.peer": CrashPoint("scratchpad of the host's bank", ("peer-ep",), BRING_UP),
    "ctrl.reset": CrashPoint(
        "whole control block, zeroed when the host is lost", ("epc",), BRING_UP, "", "rc-host"
    ),
    "ctrl.num_mws": CrashPoint("control block, number of windows", ("epc",), BRING_UP),
    "ctrl.mw_offset": CrashPoint("control block, offset of a window", ("epc",), BRING_UP),
    "ctrl.mw_size": CrashPoint("control block, size of a window", ("epc",), BRING_UP),
    "ctrl.mw1_offset": CrashPoint("control block `classic`, offset of window 0", ("epc",), CLASSIC),
    "ctrl.spad_offset": CrashPoint("control block, where scratchpads are", ("epc",), BRING_UP),
    "ctrl.spad_count": CrashPoint("control block, number of scratchpads", ("epc",), BRING_UP),
    "ctrl.db_entry_size": CrashPoint("control block, distance of doorbells", ("epc",), BRING_UP),
    "ctrl.db_data": CrashPoint("control block, datum of a doorbell", ("epc",), BRING_UP),
    "ctrl.db_offset": CrashPoint("control block, place of a doorbell", ("epc",), BRING_UP),
    "ctrl.msix_mask": CrashPoint("mask bit of an MSI-X vector", ("epc",), MSIX),
    "ctrl.link_status": CrashPoint("control block, link bit", ("epc",), BRING_UP),
    "ctrl.command": CrashPoint("command word, taken by the worker", ("epc",), BRING_UP),
    "ctrl.argument": CrashPoint("argument word, taken by the worker", ("epc",), BRING_UP),
    "ctrl.command_status": CrashPoint("answer to a command", ("epc",), BRING_UP),
    # a reset by command
    "reset": CrashPoint(
        "memory that a reset by command loses, zeroed, by the driver that had it", _PEERS, RESET
    ),
    # leases
    "lease": CrashPoint("link epoch in which a host stores directly", _PEERS, BRING_UP, "local"),
}
"""Name of a store -> what it is."""
