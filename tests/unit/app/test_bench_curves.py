"""Cost of packets over queues and bridges: what counts, and how it is shown."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ntbnet.app import bench_curves, bench_micro_report
from ntbnet.app.bench_backends import EXTRA_FRAMES, write_config
from ntbnet.app.bench_curves import Traffic, complaint, config_of, play
from ntbnet.app.bench_samples import Samples
from ntbnet.edge.config_file import load_config


@pytest.mark.parametrize("frames", [600, 600 + EXTRA_FRAMES])
def test_a_point_counts_when_every_packet_arrived_in_a_frame(frames: int) -> None:
    assert complaint(600, 600, frames) is None


@pytest.mark.parametrize(
    ("arrived", "frames", "reason"),
    [(599, 600, "599 arrived"), (600, 599, "but 599 frames"), (600, 601 + EXTRA_FRAMES, "but 665 frames")],
)
def test_a_point_with_losses_or_other_traffic_does_not_count(arrived: int, frames: int, reason: str) -> None:
    assert reason in (complaint(600, arrived, frames) or "")


def test_flows_take_turns_and_what_arrives_is_counted() -> None:
    with ExitStack() as stack:
        traffics, receivers = [], []
        for _ in range(2):
            receiver, *senders = (
                stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(3)
            )
            receiver.bind(("127.0.0.1", 0))
            for sender in senders:
                sender.connect(receiver.getsockname())
            traffics.append(Traffic(receiver, senders))
            receivers.append(receiver)

        play(traffics, 6, 20_000)

        assert [(traffic.sent, traffic.arrived) for traffic in traffics] == [(6, 6)] * 2
        traffics[0].send()
        _, port = receivers[0].recvfrom(100)
        traffics[0].send()
        _, other = receivers[0].recvfrom(100)
        assert port != other


@pytest.mark.parametrize("queues", bench_curves.FULL.queues)
def test_configurations_of_a_curve_are_sound(queues: int, tmp_path: Path) -> None:
    config = config_of(queues)

    assert load_config(write_config(config, tmp_path)) == config
    assert config.netdev.queues == config.transport.max_num_clients == queues


def test_curves_are_shown_beside_the_parts() -> None:
    one = Samples.of([300.0]).as_json()
    about = {"cores": 2, "cpu": "test", "kernel": "6.1", "python": "3.11", "loadavg": [0.1, 0.2, 0.3]}
    result: dict[str, Any] = {
        "machine": {**about, "tcp_congestion": "bbr"},
        "ping_pong": {},
        "stores": [],
        "interrupts": [],
        "ring": {"payload_bytes": 64, "batch": 64, "frames_per_s": one},
        "budgets": [],
        "curves": {
            "queues": [{"queues": 4, "us_per_packet": one, "ratio_to_first": 1.1}],
            "bridges": [{"bridges": 10, "us_per_packet": one, "ratio_to_first": 1.25}],
        },
    }
    shown_on = StringIO()

    bench_micro_report.show(result, Console(file=shown_on, width=200))

    assert "queues 4, processor time for a packet, x1.1 " in shown_on.getvalue()
    assert "bridges 10, processor time for a packet, x1.25 " in shown_on.getvalue()
