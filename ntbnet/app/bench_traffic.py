"""Throughput of a bridge, as iperf3 sees it, checked against the bridge's own counters."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ntbnet.app.bench_lab import Direction, Lab, json_from, run_program, serving
from ntbnet.app.bench_samples import Samples
from ntbnet.config import Config, offload_bytes
from ntbnet.devices.netdev import TX_TIME_NS
from ntbnet.devices.tick import Tick
from ntbnet.errors import SetupError

IPERF3_PORT = 5201
MARGIN_S = 20.0
"""What a measurement may take beyond its own duration."""
COUNTERS_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class Ring:
    """What crossed a bridge one way, by both ends' transport counters."""

    sent: int
    """Frames that the sender's transport put into the ring."""
    received: int
    """Frames that the receiver's transport took out of it."""
    received_bytes: int

    def complaint(self, least_bytes: int) -> str | None:
        """Why the counters do not bear out a transfer of ``least_bytes``; None when they do."""
        if not 0 < self.sent == self.received:
            return f"{self.sent} frames sent, {self.received} received"
        if self.received_bytes < least_bytes:
            return f"{self.received_bytes} bytes crossed the ring, fewer than the {least_bytes} delivered"
        return None


def ring_counters(status: Mapping[str, Any], way: Direction) -> Ring:
    """Counters of queue 0 in the direction ``rc->ep`` or ``ep->rc``.

    Raises:
        SetupError: a peer did not answer.
    """
    sender, _, receiver = way.name.partition("->")
    try:
        queue = status["link"]["queues"][0]
        out, into = queue[sender], queue[receiver]
        return Ring(out["tx_pkts"], into["rx_pkts"], into["rx_bytes"])
    except (IndexError, KeyError):
        raise SetupError("a peer does not answer while being measured") from None


def _crossed(lab: Lab, way: Direction, before: Ring) -> Ring:
    """What crossed since ``before``, once what is still in flight has arrived."""
    deadline = time.monotonic() + COUNTERS_TIMEOUT_S
    while True:
        now = ring_counters(lab.bridge.status(), way)
        ring = Ring(
            now.sent - before.sent,
            now.received - before.received,
            now.received_bytes - before.received_bytes,
        )
        if ring.sent == ring.received or time.monotonic() > deadline:
            return ring
        time.sleep(0.02)  # between questions to other processes; nothing to await here


def stream(way: Direction, seconds: int) -> dict[str, Any]:
    """One iperf3 TCP transfer: what the receiver got.

    Raises:
        SetupError: iperf3 fails or says nothing that can be read.
    """
    server = ["iperf3", "-s", "-p", str(IPERF3_PORT)]
    client = ["iperf3", "-c", way.address, "-p", str(IPERF3_PORT), "-t", str(seconds), "-J"]
    with serving(way.receiver, server, IPERF3_PORT):
        done = run_program(way.sender, client, seconds + MARGIN_S)
    return iperf3_result(done.stdout)


def iperf3_result(output: str) -> dict[str, Any]:
    """Throughput in Gbit/s from iperf3's JSON.

    Raises:
        SetupError: it reports an error, or there is no transfer in it.
    """
    body = json_from("iperf3", output)
    try:
        end = body["end"]
        return {
            "gbit_s": round(end["sum_received"]["bits_per_second"] / 1e9, 4),
            "bytes": int(end["sum_received"]["bytes"]),
            "seconds": round(end["sum_received"]["seconds"], 3),
            "retransmits": end["sum_sent"].get("retransmits"),
            "congestion": end.get("sender_tcp_congestion"),
            "intervals_gbit_s": [
                round(interval["sum"]["bits_per_second"] / 1e9, 4) for interval in body["intervals"]
            ],
        }
    except (KeyError, TypeError, ValueError):
        raise SetupError("iperf3 reports no transfer") from None


def throughput(lab: Lab, veth: Direction, rounds: int, seconds: int) -> dict[str, Any]:
    """Rounds of RC->EP, EP->RC and veth, interleaved, so that all three see the same machine.

    Returns:
        For each direction over the bridge: samples, ratio to the veth run of the same round, raw
        rounds, and ``unverified``: how its counters contradict iperf3, if they do.
    """
    ways = [lab.direction("rc", "ep"), lab.direction("ep", "rc")]
    raw: dict[str, list[dict[str, Any]]] = {way.name: [] for way in (*ways, veth)}
    unverified = []
    for number in range(rounds):
        for way in ways:
            lab.say(f"iperf3 {way.name}, round {number + 1} of {rounds}")
            before = ring_counters(lab.bridge.status(), way)
            result = stream(way, seconds)
            ring = _crossed(lab, way, before)
            complaint = ring.complaint(result["bytes"])
            if complaint is not None:
                unverified.append(f"iperf3 {way.name}, round {number + 1}: {complaint}")
            frames = {"tx_pkts": ring.sent, "rx_pkts": ring.received, "rx_bytes": ring.received_bytes}
            raw[way.name].append({**result, "ring": frames})
        raw[veth.name].append(stream(veth, seconds))
    speeds = {name: [result["gbit_s"] for result in results] for name, results in raw.items()}
    return {
        "gbit_s": {name: Samples.of(values, 4).as_json() for name, values in speeds.items()},
        "ratio_to_veth": {
            way.name: Samples.of(
                [mine / reference for mine, reference in zip(speeds[way.name], speeds["veth"], strict=True)],
                4,
            ).as_json()
            for way in ways
        },
        "rounds": raw,
        "unverified": unverified,
    }


def poll_period_ms(config: Config) -> float:
    """Milliseconds between two runs of the doorbell poll."""
    kernel = config.profile.kernel
    return Tick(kernel.hz).expiry(0, kernel.poll_ms * 1_000_000) / 1e6


def tcp_bounds(config: Config, ring_entries: int) -> dict[str, float]:
    """The most that the modelled kernels let through, in Gbit/s, with the longest packet in each frame.

    One frame of a ring stays empty. ntb_netdev stops its queue below ``netdev.tx_stop`` free ones,
    and free ones come back with the doorbell poll (RC->EP), or are noticed by the transmit timer,
    which runs on the kernel tick (EP->RC).

    Returns:
        ``rc->ep`` and ``ep->rc``; ``rc->ep_whole_ring``: RC->EP if the queue did not stop early.
    """
    kernel = config.profile.kernel
    poll_ns, timer_ns = poll_period_ms(config) * 1e6, Tick(kernel.hz).expiry(0, TX_TIME_NS)
    bits = (offload_bytes(config) or config.netdev.mtu) * 8
    usable = ring_entries - 1
    in_use = max(usable - config.netdev.tx_stop + 1, 0)
    return {
        "rc->ep": round(in_use * bits / poll_ns, 4),
        "rc->ep_whole_ring": round(usable * bits / poll_ns, 4),
        "ep->rc": round(in_use * bits / timer_ns, 4),
    }
