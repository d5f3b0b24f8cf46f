"""Interrupt backends on real processes: what each profile uses, what counts say, what a kill does."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ntbnet.profile import SHIPPED, shipped
from tests.conftest import MakeBridge
from tests.live.bridge import LiveBridge, bridges, until
from tests.live.echo import echoes
from tests.live.traffic import TcpTransfer, transfers

pytestmark = [pytest.mark.system, pytest.mark.needs_tun, pytest.mark.slow]

BACKENDS = {
    "r-car-s4": "dw-edma-testirq",
    "r-car-s4-db-in-bar0": "dw-edma-testirq",
    "generic": "msi",
    "rk3588": "dw-edma-testirq",
}
COUNTERS = {
    "dw-edma-testirq": ("peer-ep", "edma_interrupts"),
    "msi": ("peer-ep", "msi_interrupts"),
    "doorbell": ("epc", "doorbell_polls_hit"),
}
"""Where each backend is counted on the endpoint."""


def count(bridge: LiveBridge, backend: str) -> int:
    service, name = COUNTERS[backend]
    return int(bridge.service(service)["counters"].get(name, 0))


def events(bridge: LiveBridge, service: str, name: str) -> list[dict[str, Any]]:
    return [line for line in bridge.log_lines(service) if line["event"] == name]


def assert_backend_rings(bridge: LiveBridge, backend: str) -> None:
    """Packets cross, each rung by ``backend`` and by no other one: one at a time, none rides with another."""
    before = {name: count(bridge, name) for name in COUNTERS}
    assert bridge.pings(count=10)
    more = {name: count(bridge, name) - before[name] for name in COUNTERS}

    assert more[backend] >= 10
    assert [name for name, number in more.items() if number] == [backend]


Started = tuple[str, LiveBridge, str]
"""Profile, its bridge, and what ``ntbnet up`` said."""


@pytest.fixture(scope="module", params=SHIPPED)
def started(
    request: pytest.FixtureRequest, programs: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Started]:
    """A bridge of each profile with the defaults."""
    with bridges(tmp_path_factory.mktemp(request.param)) as make:
        bridge = make(f'bridge.profile = "{request.param}"\n', up=False)
        yield request.param, bridge, bridge.up().stderr


def test_profile_uses_its_backend_and_says_why(started: Started) -> None:
    profile, bridge, said = started
    status, backend = bridge.status(), BACKENDS[profile]

    assert (status["backend"], status["backend_ep_to_rc"]) == (backend, "doorbell")
    assert "no MSI vector is left" in status["backend_ep_to_rc_reason"]
    assert f"interrupts RC->EP: {backend} ({status['backend_reason']})" in said
    assert backend in bridge.cli("status").stdout
    (chosen,) = events(bridge, "peer-ep", "intr.chosen")
    assert (chosen["backend"], chosen["reason"]) == (backend, status["backend_reason"])
    assert_backend_rings(bridge, backend)
    assert bridge.complaints() == []


@pytest.mark.parametrize("profile", SHIPPED)
def test_use_intr_false_is_doorbells_with_the_reason(make_bridge: MakeBridge, profile: str) -> None:
    bridge = make_bridge(f'bridge.profile = "{profile}"\ntransport.use_intr = false\n')
    status = bridge.status()

    assert (status["backend"], status["backend_ep_to_rc"]) == ("doorbell", "doorbell")
    assert status["backend_reason"] == "transport.use_intr = false"
    assert_backend_rings(bridge, "doorbell")


def test_dw_edma_false_is_doorbells_and_with_use_intr_true_a_warning(make_bridge: MakeBridge) -> None:
    bridge = make_bridge("transport.dw_edma = false\ntransport.use_intr = true\n")
    status = bridge.status()

    assert status["backend"] == "doorbell"
    assert "transport.dw_edma = false" in str(events(bridge, "peer-ep", "intr.chosen")[0]["reason"])
    assert [line["level"] for line in events(bridge, "peer-ep", "intr.failed")] == ["warning"]
    assert_backend_rings(bridge, "doorbell")


def test_backend_whose_init_fails_leaves_doorbells_with_the_reason(make_bridge: MakeBridge) -> None:
    """The engine's registers are wired into another BAR than the interrupt window lies in."""
    bridge = make_bridge(
        'bridge.profile = "rk3588"\nntb.inbound = "submap"\nntb.mw2_bar = 3\nntb.mw2 = 0x10000\n'
    )

    assert_fell_back(bridge, "init", "the hardware wires the eDMA into BAR4, the interrupt window is in BAR3")


def test_backend_whose_window_cannot_be_set_up_leaves_doorbells_with_the_reason(
    make_bridge: MakeBridge, tmp_path: Path
) -> None:
    """A platform whose windows are aligned to more than the engine's page."""
    profile = tmp_path / "coarse.toml"
    text = re.sub(r"(?m)^name = .*$", 'name = "coarse"', shipped("r-car-s4"))
    text = re.sub(r"(?m)^align = \S+", "align = 0x10000", text)
    profile.write_text(re.sub(r"(?m)^edma_base = \S+", "edma_base = 0xE65D9000", text), encoding="utf-8")
    bridge = make_bridge(f'bridge.profile = "{profile}"\nntb.mw2 = 0x10000\n')

    assert_fell_back(bridge, "setup_mws", "is not endpoint memory")


def assert_fell_back(bridge: LiveBridge, step: str, reason: str) -> None:
    """Doorbells carry everything; log and status say in which step the eDMA's backend failed, and why."""
    status = json.loads(bridge.cli("status", "--json").stdout)
    failed = events(bridge, "peer-ep", "intr.failed")

    assert (status["state"], status["backend"]) == ("up", "doorbell")
    assert "dw-edma-testirq failed" in status["backend_reason"]
    assert reason in status["backend_reason"]
    assert [(line["backend"], line["step"], line["level"]) for line in failed] == [
        ("dw-edma-testirq", step, "warning")
    ]
    assert reason in str(failed[0]["reason"])
    assert_backend_rings(bridge, "doorbell")
    for transfer in [TcpTransfer(bridge, node, 2 << 20, seed=1) for node in ("rc", "ep")]:
        transfer.finish(30)
    assert bridge.service("edma")["counters"].get("test_interrupts", 0) == 0
    assert bridge.complaints() == []


@pytest.mark.parametrize("profile", SHIPPED)
def test_engine_killed_amid_interrupts_and_copies_damages_nothing(
    make_bridge: MakeBridge, profile: str
) -> None:
    bridge, backend = (
        make_bridge(f'bridge.profile = "{profile}"\ntransport.use_dma = true\n'),
        BACKENDS[profile],
    )
    status = bridge.status()
    with transfers(bridge, "rc", "ep", seed=4):
        rung, copied = count(bridge, backend), dma_copies(bridge)
        until(
            lambda: count(bridge, backend) > rung and dma_copies(bridge) > copied, 20, "interrupts and copies"
        )
        bridge.kill("edma")
        until(partial(_has_restarted, bridge, 1), 15, "restart of edma")

    after = until(lambda: _with_backend(bridge, backend), 10, "the backend")
    assert after["link"]["epoch"] == status["link"]["epoch"]
    assert_backend_rings(bridge, backend)


def dma_copies(bridge: LiveBridge) -> int:
    return int(bridge.service("peer-ep")["counters"].get("dma_copies", 0))


@pytest.mark.parametrize("started", ["r-car-s4", "generic"], indirect=True)
def test_killed_engine_loses_no_packet(started: Started) -> None:
    profile, bridge, _ = started
    epoch = bridge.status()["link"]["epoch"]
    with echoes(bridge.netns("rc"), bridge.address("ep"), 0.01) as sending:
        for kills in (1, 2, 3):
            until(lambda: sending.sent >= 80 * kills, 15, "packets")  # noqa: B023 - called at once
            rung = count(bridge, "dw-edma-testirq")
            bridge.signal("edma", signal.SIGKILL)
            until(partial(_has_restarted, bridge, kills), 15, "restart of edma")
            # whichever the backend is, an engine that comes rings once: what was rung meanwhile is lost
            until(lambda: count(bridge, "dw-edma-testirq") > rung, 15, "its first ring")  # noqa: B023
    status = until(lambda: _with_backend(bridge, BACKENDS[profile]), 10, "the backend")
    assert status["link"]["epoch"] == epoch
    assert_backend_rings(bridge, BACKENDS[profile])


def _has_restarted(bridge: LiveBridge, times: int) -> bool:
    service = bridge.service("edma")
    return (service["restarts"], service["state"]) == (times, "up")


def _with_backend(bridge: LiveBridge, backend: str) -> dict[str, Any] | None:
    status = bridge.status()
    return status if status["backend"] == backend else None
