"""What a service's answer says, as metrics: a pure function from answer to readings.

An answer comes from another process: a number that is none, or a name that is no label, is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ntbnet import topology
from ntbnet.app.interrupts import INTERRUPT_COUNTERS

MAX_VALUE = 1 << 64
_LABEL = re.compile(r"[A-Za-z0-9_.-]{1,48}")

QUEUE_COUNTERS = {
    "tx_pkts": "ntbnet_queue_transmit_frames",
    "tx_bytes": "ntbnet_queue_transmit_bytes",
    "rx_pkts": "ntbnet_queue_receive_frames",
    "rx_bytes": "ntbnet_queue_receive_bytes",
    "tx_ring_full": "ntbnet_queue_transmit_ring_full",
    "rx_ring_empty": "ntbnet_queue_receive_ring_empty",
    "interrupts": "ntbnet_queue_interrupts",
    "rings_saved": "ntbnet_queue_rings_saved",
    "found": "ntbnet_queue_found_frames",
}
QUEUE_ERRORS = {
    "tx_err_no_buf": ("ntbnet_queue_transmit_errors", "no_buffer"),
    "dma_errors": ("ntbnet_queue_transmit_errors", "dma"),
    "rx_err_no_buf": ("ntbnet_queue_receive_errors", "no_buffer"),
    "rx_err_oflow": ("ntbnet_queue_receive_errors", "overflow"),
    "rx_err_ver": ("ntbnet_queue_receive_errors", "version"),
}
NETDEV_COUNTERS = {
    "tx_packets": "ntbnet_network_transmit_packets",
    "tx_bytes": "ntbnet_network_transmit_bytes",
    "tx_dropped": "ntbnet_network_transmit_dropped_packets",
    "rx_packets": "ntbnet_network_receive_packets",
    "rx_bytes": "ntbnet_network_receive_bytes",
    "rx_errors": "ntbnet_network_receive_errors",
}


@dataclass(frozen=True, slots=True)
class Reading:
    """One number of one answer."""

    family: str
    labels: tuple[str, ...]
    """Values of the family's labels, in its order."""
    value: float
    generation: object = None
    """Of a counter: it counts from zero again once this changes."""


def readings_of(service: str, answer: Mapping[str, Any]) -> Iterator[Reading]:
    """Everything that one service's answer to ``status`` says about it.

    Args:
        service: its name.
        answer: decoded, otherwise as it came.
    """
    node = topology.NODE_OF[service]
    incarnation = answer.get("epoch")
    yield from _events(node, service, incarnation, answer)
    for path in _rows(answer, "paths"):
        yield from _path(node, service, incarnation, path)
    for at, backend, source, counter in INTERRUPT_COUNTERS:
        value = _number(_table(answer, "counters").get(counter, 0))
        if source == service and value is not None:
            yield Reading("ntbnet_interrupts", (at, backend), value, incarnation)
    if not service.startswith("peer-"):
        return
    link = _table(answer, "link")
    generation = (incarnation, link.get("epoch"))
    for number, queue in enumerate(_rows(link, "queues")):
        if queue.get("has_client") is True:
            yield from _queue((node, str(number)), generation, queue)
    for name, family in NETDEV_COUNTERS.items():
        value = _number(_table(answer, "netdev").get(name))
        if value is not None:
            yield Reading(family, (node,), value, incarnation)


def _events(node: str, service: str, incarnation: object, answer: Mapping[str, Any]) -> Iterator[Reading]:
    stores = {name: count for name, count in _table(answer, "stores").items() if name != "grants"}  # a gauge
    counts = {"tun_write_drops": answer.get("tun_write_drops"), **_table(answer, "wakes"), **stores}
    for event, count in {**counts, **_table(answer, "security"), **_table(answer, "counters")}.items():
        value = _number(count)
        if _is_label(event) and value is not None:
            yield Reading("ntbnet_service_events", (node, service, event), value, incarnation)


def _path(node: str, service: str, incarnation: object, path: Mapping[str, Any]) -> Iterator[Reading]:
    peer = path.get("peer")
    if peer not in topology.SERVICES:
        return
    labels = (node, service, str(peer))
    yield Reading("ntbnet_path_up", labels, int(path.get("state") == "up"))
    for name in ("sent", "received"):
        value = _number(path.get(name))
        if value is not None:
            yield Reading(f"ntbnet_path_{name}_messages", labels, value, (incarnation, path.get("session")))
    for cause, count in _table(path, "refused").items():
        value = _number(count)
        if _is_label(cause) and value is not None:
            yield Reading("ntbnet_path_refused_messages", (*labels, cause), value, incarnation)


def _queue(labels: tuple[str, str], generation: object, queue: Mapping[str, Any]) -> Iterator[Reading]:
    yield Reading("ntbnet_queue_up", labels, int(queue.get("link") == "up"))
    for name, family in QUEUE_COUNTERS.items():
        value = _number(queue.get(name))
        if value is not None:
            yield Reading(family, labels, value, generation)
    for name, (family, cause) in QUEUE_ERRORS.items():
        value = _number(queue.get(name))
        if value is not None:
            yield Reading(family, (*labels, cause), value, generation)
    entries, free = _number(queue.get("tx_max_entry")), _number(queue.get("free_tx"))
    if entries and free is not None:
        # an entry stays free, so that a full ring is none that is empty
        yield Reading("ntbnet_queue_transmit_ring_entries", labels, entries - 1)
        yield Reading("ntbnet_queue_transmit_ring_free_entries", labels, free)


def _table(answer: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = answer.get(key)
    return value if isinstance(value, dict) else {}


def _rows(answer: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    value = answer.get(key)
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def _number(value: object) -> int | None:
    return value if type(value) is int and 0 <= value < MAX_VALUE else None


def _is_label(value: object) -> bool:
    return isinstance(value, str) and _LABEL.fullmatch(value) is not None
