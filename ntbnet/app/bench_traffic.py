"""Throughput of a bridge, as iperf3 sees it, checked against the bridge's own counters."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ntbnet.app.bench_backends import LOOK_INTERVAL_S
from ntbnet.app.bench_lab import Direction, Lab, json_from, run_program, serving
from ntbnet.app.bench_samples import Samples, ratios
from ntbnet.app.stop_request import pause
from ntbnet.config import Config, offload_bytes
from ntbnet.devices.netdev import TX_TIME_NS
from ntbnet.devices.tick import Tick
from ntbnet.errors import SetupError

IPERF3_PORT = 5201
MARGIN_S = 20.0
"""What a measurement may take beyond its own duration."""
COUNTERS_TIMEOUT_S = 2.0
IP_TIMEOUT_S = 5.0


FRAME_OVERHEAD_BYTES = 128
"""Most bytes of a frame that are not the application's: Ethernet, IP and TCP headers with options."""
OTHER_BYTES = 256 << 10
"""Most bytes that iperf3's control connection and IPv6's own packets add to a transfer."""
OTHER_FRAMES = 256
"""Most frames that those add."""
UDP_HEADERS_BYTES = 28
"""IPv4 and UDP."""


@dataclass(frozen=True, slots=True)
class Load:
    """What iperf3 sends.

    Attributes:
        protocol: ``tcp`` or ``udp``; UDP is sent as fast as the sender can, in datagrams that fill a packet.
        streams: 1 or more, all by one process.
        mtu: of the interface, bytes.
    """

    protocol: str
    streams: int
    mtu: int

    @property
    def options(self) -> list[str]:
        """Of an iperf3 client."""
        udp = ["-u", "-b", "0", "-l", str(self.mtu - UDP_HEADERS_BYTES)] if self.protocol == "udp" else []
        return ["-P", str(self.streams), *udp]


@dataclass(frozen=True, slots=True)
class Ring:
    """What crossed a bridge one way, by the interfaces of both nodes and both transports, over all queues."""

    sent: int
    """Frames that the sender's transport put into the ring."""
    received: int
    """Frames that the receiver's transport took out of it."""
    received_bytes: int
    given: int
    """Packets that the sending node's interface gave to its service, by that node's kernel."""
    taken: int
    """Packets that the receiving node's interface took."""

    @property
    def is_whole(self) -> bool:
        """Every packet that was given is a frame, and every frame a packet that was taken."""
        return self.given == self.sent == self.received == self.taken

    def complaint(self, load: Load, result: Mapping[str, Any]) -> str | None:
        """Why the counters do not bear out a transfer; None when they do.

        Every packet of the sender was put into the ring as a frame, and every frame taken out and given to
        the receiver. What crossed is what iperf3 delivered at least, what it sent at most.

        Args:
            load: what was sent.
            result: what ``iperf3_result`` says of it.
        """
        if not 0 < self.sent == self.received:
            return f"{self.sent} frames sent, {self.received} received"
        if not self.is_whole:
            packets = f"{self.given} packets left their node, {self.taken} entered the other one"
            return f"{packets}, for {self.sent} frames"
        delivered, sent = result["bytes"], result["bytes_sent"]
        if self.received_bytes < delivered:
            return f"{self.received_bytes} bytes crossed the ring, fewer than the {delivered} delivered"
        most = sent + self.sent * FRAME_OVERHEAD_BYTES + (result["retransmits"] or 0) * load.mtu + OTHER_BYTES
        if self.received_bytes > most:
            return f"{self.received_bytes} bytes crossed the ring, more than {sent} sent by iperf3 explain"
        if load.protocol == "udp":
            least, most = result["packets"], result["packets_sent"] + OTHER_FRAMES
            if not least <= self.sent <= most:
                return f"{self.sent} frames crossed the ring for {least} datagrams delivered, {most} sent"
        return None


def ring_counters(status: Mapping[str, Any], way: Direction, given: int, taken: int) -> Ring:
    """Counters in the direction ``rc->ep`` or ``ep->rc``; see ``Ring`` for the last two.

    Raises:
        SetupError: a peer did not answer.
    """
    sender, _, receiver = way.name.partition("->")
    try:
        ends = [(queue[sender], queue[receiver]) for queue in status["link"]["queues"]]
        sent, received, received_bytes = (
            [out["tx_pkts"] for out, _ in ends],
            [into["rx_pkts"] for _, into in ends],
            [into["rx_bytes"] for _, into in ends],
        )
    except KeyError:
        raise SetupError("a peer does not answer while being measured") from None
    if not ends:
        raise SetupError("the link has no queue while being measured")
    return Ring(sum(sent), sum(received), sum(received_bytes), given, taken)


def interface_packets(namespace: str, device: str) -> tuple[int, int]:
    """Packets that a TUN gave to the process that has it open, and took from it, as the kernel counts them.

    Raises:
        SetupError: there is no such interface.
    """
    done = run_program(namespace, ["ip", "-j", "-s", "link", "show", "dev", device], IP_TIMEOUT_S)
    try:
        counters = json.loads(done.stdout)[0]["stats64"]
        return int(counters["tx"]["packets"]), int(counters["rx"]["packets"])
    except (LookupError, TypeError, ValueError):
        raise SetupError(f"no counters of {device} in {namespace}: {done.stderr.strip()}") from None


def _ring(lab: Lab, way: Direction) -> Ring:
    device = lab.config.netdev.tun
    given, _ = interface_packets(way.sender, device)
    _, taken = interface_packets(way.receiver, device)
    return ring_counters(lab.bridge.status(), way, given, taken)


def _settled_ring(lab: Lab, way: Direction) -> Ring:
    """Counters once nothing is on its way any more."""
    deadline = time.monotonic() + COUNTERS_TIMEOUT_S
    ring = _ring(lab, way)
    while True:
        pause(LOOK_INTERVAL_S)  # between questions to other processes; nothing to await here
        before, ring = ring, _ring(lab, way)
        if ring == before or time.monotonic() > deadline:
            return ring


def _crossed(lab: Lab, way: Direction, before: Ring) -> Ring:
    """What crossed since ``before``, once what is still in flight has arrived."""
    deadline = time.monotonic() + COUNTERS_TIMEOUT_S
    while True:
        now = _ring(lab, way)
        ring = Ring(
            now.sent - before.sent,
            now.received - before.received,
            now.received_bytes - before.received_bytes,
            now.given - before.given,
            now.taken - before.taken,
        )
        if ring.is_whole or time.monotonic() > deadline:
            return ring
        pause(LOOK_INTERVAL_S)  # between questions to other processes; nothing to await here


def stream(way: Direction, seconds: int, load: Load) -> dict[str, Any]:
    """One iperf3 transfer: what the receiver got.

    Raises:
        SetupError: iperf3 fails or says nothing that can be read.
    """
    server = ["iperf3", "-s", "-p", str(IPERF3_PORT)]
    client = ["iperf3", "-c", way.address, "-p", str(IPERF3_PORT), "-t", str(seconds), "-J", *load.options]
    with serving(way.receiver, server, IPERF3_PORT):
        done = run_program(way.sender, client, seconds + MARGIN_S)
    return iperf3_result(done.stdout)


def checked_stream(lab: Lab, way: Direction, seconds: int, load: Load) -> tuple[dict[str, Any], str | None]:
    """One iperf3 transfer over a bridge, with what crossed its ring, and why that does not fit, if so.

    Raises:
        SetupError: iperf3 fails, or a peer does not answer.
    """
    before = _settled_ring(lab, way)
    result = stream(way, seconds, load)
    ring = _crossed(lab, way, before)
    frames = {"tx_pkts": ring.sent, "rx_pkts": ring.received, "rx_bytes": ring.received_bytes}
    return {**result, "ring": frames}, ring.complaint(load, result)


def iperf3_result(output: str) -> dict[str, Any]:
    """Throughput in Gbit/s from iperf3's JSON.

    Raises:
        SetupError: it reports an error, or there is no transfer in it.
    """
    body = json_from("iperf3", output)
    try:
        sent, received = body["end"]["sum_sent"], body["end"]["sum_received"]
        result = {
            "gbit_s": round(received["bits_per_second"] / 1e9, 4),
            "bytes": int(received["bytes"]),
            "bytes_sent": int(sent["bytes"]),
            "seconds": round(received["seconds"], 3),
            "retransmits": sent.get("retransmits"),
            "congestion": body["end"].get("sender_tcp_congestion"),
            "intervals_gbit_s": [
                round(interval["sum"]["bits_per_second"] / 1e9, 4) for interval in body["intervals"]
            ],
        }
        if "packets" in received:
            lost = int(received["lost_packets"])
            result |= {"packets_sent": int(sent["packets"]), "packets": int(received["packets"]) - lost}
    except (KeyError, TypeError, ValueError):
        raise SetupError("iperf3 reports no transfer") from None
    return result


def throughput(lab: Lab, veth: Direction, rounds: int, seconds: int) -> dict[str, Any]:
    """Rounds of RC->EP, EP->RC and veth, interleaved, so that all three see the same machine.

    Returns:
        For each direction over the bridge: samples, ratio to the veth run of the same round, raw
        rounds, whether it is ``valid``, and ``unverified``: how its counters contradict iperf3, if they do.
    """
    ways, load = [lab.direction("rc", "ep"), lab.direction("ep", "rc")], Load("tcp", 1, lab.config.netdev.mtu)
    raw: dict[str, list[dict[str, Any]]] = {way.name: [] for way in (*ways, veth)}
    unverified, valid = list[str](), {way.name: True for way in ways}
    for number in range(rounds):
        for way in ways:
            lab.say(f"iperf3 {way.name}, round {number + 1} of {rounds}")
            result, complaint = checked_stream(lab, way, seconds, load)
            if complaint is not None:
                unverified.append(f"iperf3 {way.name}, round {number + 1}: {complaint}")
                valid[way.name] = False
            raw[way.name].append(result)
        raw[veth.name].append(stream(veth, seconds, load))
    speeds = {name: [result["gbit_s"] for result in results] for name, results in raw.items()}
    return {
        "gbit_s": {name: Samples.of(values, 4).as_json() for name, values in speeds.items()},
        "ratio_to_veth": {
            way.name: Samples.of(ratios(speeds[way.name], speeds["veth"]), 4).as_json() for way in ways
        },
        "rounds": raw,
        "valid": valid,
        "unverified": unverified,
    }


def poll_period_ms(config: Config) -> float:
    """Milliseconds between two runs of the doorbell poll."""
    kernel = config.profile.kernel
    return Tick(kernel.hz).expiry(0, kernel.poll_ms * 1_000_000) / 1e6


def tcp_bounds(config: Config, ring_entries: int) -> dict[str, float]:
    """The most that the modelled kernels let through, in Gbit/s, with the longest packet in each frame.

    One frame of a ring stays empty. ntb_netdev stops its queue below ``netdev.tx_stop`` free ones,
    and free ones come back with the doorbell poll (RC->EP), or are noticed by the transmit timer
    (EP->RC), which runs on the kernel tick where ``netdev.poll`` is ``never``; otherwise it is no bound.

    Returns:
        ``rc->ep``; ``rc->ep_whole_ring``: RC->EP if the queue did not stop early; ``ep->rc``, if bound.
    """
    kernel = config.profile.kernel
    poll_ns, timer_ns = poll_period_ms(config) * 1e6, Tick(kernel.hz).expiry(0, TX_TIME_NS)
    bits = (offload_bytes(config) or config.netdev.mtu) * 8
    usable = ring_entries - 1
    in_use = max(usable - config.netdev.tx_stop + 1, 0)
    bounds = {
        "rc->ep": round(in_use * bits / poll_ns, 4),
        "rc->ep_whole_ring": round(usable * bits / poll_ns, 4),
    }
    if config.netdev.poll == "never":
        bounds["ep->rc"] = round(in_use * bits / timer_ns, 4)
    return bounds
