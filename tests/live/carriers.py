"""Carriers of a bridge's interfaces, as its peers have logged them."""

from __future__ import annotations

from tests.live.bridge import LiveBridge


def carriers(bridge: LiveBridge, node: str, since_ns: int) -> list[bool]:
    """What the carrier of a node's interface has become since then (monotonic), oldest first."""
    return [
        line["up"]
        for line in bridge.log_lines(f"peer-{node}")
        if line["event"] == "netdev.carrier_changed" and line["mono_ns"] > since_ns
    ]


def fell_and_rose(bridge: LiveBridge, node: str, since_ns: int) -> bool:
    """True when the carrier fell since then and is up now."""
    seen = carriers(bridge, node, since_ns)
    return False in seen and seen[-1]
