"""Every shipped profile on real processes: traffic, what status shows, an address walked while it runs."""

from __future__ import annotations

import json

import pytest

from ntbnet.config import load_text
from ntbnet.profile import SHIPPED
from tests.conftest import MakeBridge
from tests.live.bridge import cli, until
from tests.live.traffic import TcpTransfer, transfers, udp_round_trip
from tests.sim.test_windows import FOUR_WINDOWS

pytestmark = [pytest.mark.system, pytest.mark.needs_tun, pytest.mark.slow]

INTERRUPTS = {
    "r-car-s4": ("BAR2+0xF00A0", "edma.RD_INT_STATUS"),
    "r-car-s4-db-in-bar0": ("BAR4+0xA0", "edma.RD_INT_STATUS"),
    "generic": ("BAR2+0xE0040", "msi+0x40"),
    "rk3588": ("BAR4+0xA0", "edma.RD_INT_STATUS"),
}
"""Where the host rings the endpoint through MW2, and what is there."""


@pytest.mark.parametrize("profile", SHIPPED)
def test_running_bridge_shows_its_windows_and_walks_the_interrupt_address(
    make_bridge: MakeBridge, profile: str
) -> None:
    bridge = make_bridge(f'bridge.profile = "{profile}"\n')

    status = json.loads(bridge.cli("status", "--json").stdout)
    address, target = INTERRUPTS[profile]
    plain = bridge.cli("status").stdout
    walked = json.loads(bridge.cli("explain", address, "--json").stdout)

    assert status["profile"] == profile
    planned, actual = status["windows"]["planned"], status["windows"]["actual"]
    inbound = [window for window in actual if window["direction"] == "inbound"]
    keys = ("index", "mode", "bar", "size", "stale")
    assert sorted([window[key] for key in keys] for window in inbound) == sorted(
        [window[key] for key in keys] for window in planned
    )
    assert all(f"{int(window['limit'], 16):#x}" in plain for window in inbound)
    assert walked["target"] == target
    assert walked["source"] == f"bridge {bridge.name}"


def test_profile_option_replaces_the_files_profile(make_bridge: MakeBridge) -> None:
    bridge = make_bridge("", up=False)

    done = bridge.cli("up", "--detach", "--profile", "rk3588")
    status = json.loads(bridge.cli("status", "--json").stdout)

    assert done.returncode == 0, done.stderr
    assert status["profile"] == "rk3588"
    assert len(status["windows"]["planned"]) == len(load_text("", "x", profile="rk3588").bar_sizes)


@pytest.mark.covers("EDMA 32", "EDMA 33")
def test_bar_that_the_host_moves_under_traffic_loses_nothing(make_bridge: MakeBridge) -> None:
    bridge = make_bridge("")
    before = bridge.status()
    with transfers(bridge, "ep", seed=7):
        moved = cli("layout", "move-bar", "2", "--name", bridge.name)
        assert moved.returncode == 0, moved.stderr
        bridge.wait_for_link(after=before["link"]["epoch"])

    after = bridge.wait_for_link()
    assert [one["restarts"] for one in after["services"]] == [0] * 5
    windows = [one for one in after["windows"]["actual"] if one["direction"] == "inbound" and one["bar"] == 2]
    assert windows
    assert not any(one["stale"] for one in windows)
    assert "is being moved" in moved.stdout
    assert cli("layout", "move-bar", "5", "--name", bridge.name).returncode == 1


def test_four_windows_in_one_bar_carry_four_queues(make_bridge: MakeBridge) -> None:
    bridge = make_bridge(FOUR_WINDOWS)

    def all_used() -> bool:
        """Flows of different ports are spread over the queues; here is one more each way."""
        for node in ("rc", "ep"):
            assert udp_round_trip(bridge, node, bytes(200)) == bytes(200)
        queues = bridge.status()["link"]["queues"]
        return all(queue[node]["rx_pkts"] > 0 for queue in queues for node in ("rc", "ep"))

    until(all_used, 30, "every queue used both ways")
    for transfer in [TcpTransfer(bridge, node, 4 << 20, seed) for seed in (1, 2) for node in ("rc", "ep")]:
        transfer.finish(60)

    status = bridge.status()
    queues = status["link"]["queues"]
    windows = [w for w in status["windows"]["actual"] if w["direction"] == "inbound" and w["bar"] == 2]
    assert [window["size"] for window in windows] == [0x40000] * 4
    assert [queue["state"] for queue in queues] == ["up"] * 4
