"""The live view beside a real bridge: what it shows, and what its keys do to it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from functools import partial

import pytest
from textual.pilot import Pilot

from ntbnet.app.bridge import Bridge
from ntbnet.app.top import Top
from ntbnet.app.top_actions import Actions
from ntbnet.app.top_latency import Latencies
from ntbnet.app.top_snapshot import take_snapshot
from tests.conftest import MakeBridge
from tests.live.bridge import LiveBridge
from tests.unit.app.test_top import screen_text

pytestmark = [pytest.mark.system, pytest.mark.needs_tun]


def top_beside(bridge: LiveBridge) -> Top:
    seen = Bridge(bridge.run, bridge.config)
    return Top(partial(take_snapshot, seen, Latencies(bridge.run)), Actions(seen), 0.2)


async def until(pilot: Pilot[None], app: Top, is_so: Callable[[str], bool], what: str) -> None:
    """Let the app look at the bridge until its screen is so."""
    looks = app.looks
    try:
        async with asyncio.timeout(20):
            while app.looks == looks or not is_so(screen_text(app)):
                await pilot.pause(0.05)
    except TimeoutError:
        pytest.fail(f"{what}:\n{screen_text(app)}")


def line_of(screen: str, service: str) -> str:
    return next((line for line in screen.splitlines() if line[3:].startswith(f"{service} ")), "")


async def test_killed_by_key_the_service_is_replaced_and_the_link_returns(bridge: LiveBridge) -> None:
    app, pid = top_beside(bridge), bridge.pids()["epc"]
    epoch = bridge.status()["link"]["epoch"]
    async with app.run_test(size=(100, 30), notifications=True) as pilot:
        await until(pilot, app, lambda screen: str(pid) in line_of(screen, "epc"), "process of epc")

        await pilot.press("down", "k")
        await until(pilot, app, lambda screen: f"Kill epc, process {pid} (SIGKILL)?" in screen, "question")
        await pilot.press("y")

        await until(
            pilot, app, lambda screen: f"SIGKILL sent to epc, process {pid}" in screen, "what was done"
        )
        back = f"link up, epoch {epoch + 1}"
        await until(pilot, app, lambda screen: back in screen and " up " in line_of(screen, "epc"), "link")
        assert str(pid) not in line_of(screen_text(app), "epc")
    assert await asyncio.to_thread(bridge.pings)


async def test_stopped_by_key_it_goes_on_by_key(bridge: LiveBridge) -> None:
    app = top_beside(bridge)
    async with app.run_test(size=(100, 30), notifications=True) as pilot:
        await until(pilot, app, lambda screen: " up " in line_of(screen, "edma"), "edma")
        await pilot.press("down", "down", "s", "y")
        await until(pilot, app, lambda screen: "stopped" in line_of(screen, "edma"), "stopped edma")

        await pilot.press("s")

        await until(pilot, app, lambda screen: " up " in line_of(screen, "edma"), "edma that goes on")
    await asyncio.to_thread(bridge.wait_for_link)


async def test_flapped_by_key_the_link_returns(bridge: LiveBridge) -> None:
    app = top_beside(bridge)
    async with app.run_test(size=(100, 30), notifications=True) as pilot:
        await until(pilot, app, lambda screen: "link up" in screen, "link")

        await pilot.press("l", "y")

        await until(pilot, app, lambda screen: "link was taken" in screen, "what was done")
        await until(pilot, app, lambda screen: "link up" in screen, "link")
    for peer in ("peer-rc", "peer-ep"):
        commands = [line["up"] for line in bridge.log_lines(peer) if line["event"] == "link.administered"]
        assert commands[-2:] == [False, True]
    assert await asyncio.to_thread(bridge.pings)
    assert bridge.status()["link"]["wanted"] == {"rc": True, "ep": True}


async def test_trace_started_by_key_shows_latencies(bridge: LiveBridge) -> None:
    app = top_beside(bridge)
    async with app.run_test(size=(100, 30), notifications=True) as pilot:
        await until(pilot, app, lambda screen: "latency: no samples" in screen, "no latency")
        await pilot.press("t")
        await until(pilot, app, lambda screen: "TRACED" in screen, "trace")

        assert await asyncio.to_thread(bridge.pings, count=3)

        await until(pilot, app, lambda screen: "rc → ep latency: p50 " in screen, "latency to ep")
        await until(pilot, app, lambda screen: "ep → rc latency: p50 " in screen, "latency to rc")
        await pilot.press("t")
        await until(pilot, app, lambda screen: "latency: no samples" in screen, "end of the trace")


def test_json_has_the_rates_of_one_interval(bridge: LiveBridge) -> None:
    done = bridge.cli("top", "--json", "--interval", "0.3")

    assert done.returncode == 0, done.stderr
    view = json.loads(done.stdout)
    assert 0.3 <= view["interval_s"] < 10
    assert {row["state"] for row in view["services"]} == {"up"}
    assert {row["cpu_percent"] is None for row in view["services"]} == {False}


async def test_bridge_that_goes_down_is_said_to_be_down(make_bridge: MakeBridge) -> None:
    bridge = make_bridge("")
    app = top_beside(bridge)
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        await until(pilot, app, lambda screen: "link up" in screen, "link")

        await asyncio.to_thread(bridge.down)

        said = f"nothing runs under this name; start it: ntbnet up --name {bridge.name} --detach"
        await until(pilot, app, lambda screen: said in screen, "what to do")
        await pilot.press("l")
        await until(pilot, app, lambda screen: "there is no link" in screen, "that there is no link")
