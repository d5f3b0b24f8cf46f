"""A hundred kills of random services at random moments, by seed, under numbered and checked traffic."""

from __future__ import annotations

import os
import random
import sys
import threading

import pytest

from ntbnet import topology
from tests.conftest import MakeBridge
from tests.live.traffic import PATIENCE_S, Pinger, TcpTransfer, UdpStream, summary

pytestmark = [pytest.mark.chaos, pytest.mark.system, pytest.mark.needs_tun]

SEED_VARIABLE = "NTBNET_CHAOS_SEED"
KILLS = 100
LONGEST_PAUSE_S = 0.3
CONFIG = "[supervisor]\nrestart_backoff_ms = 20\nrestart_backoff_max_ms = 100\n"
"""Services that die again and again are to be back soon: the test wants many lives, not long ones."""


@pytest.fixture
def seed() -> int:
    """A new one each run unless the environment gives one."""
    given = os.environ.get(SEED_VARIABLE)
    chosen = int(given) if given else random.SystemRandom().randrange(1 << 32)
    print(f"repeat with: {SEED_VARIABLE}={chosen} {sys.executable} -m pytest {__file__}")
    return chosen


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_hundred_random_kills_damage_repeat_and_reorder_nothing(make_bridge: MakeBridge, seed: int) -> None:
    bridge = make_bridge(CONFIG)
    chance = random.Random(seed)
    epochs = {row["name"]: row["epoch"] for row in bridge.status()["services"]}
    pinger = Pinger(bridge)
    streams = [UdpStream(bridge, source, seed) for source in ("rc", "ep")]
    transfers = [TcpTransfer(bridge, source, 8 << 20, seed) for source in ("rc", "ep")]
    # an event nobody sets: a pause that the end of the process would not have to wait for
    nobody = threading.Event()
    killed = dict.fromkeys(topology.SERVICES, 0)
    recoveries = []
    while sum(killed.values()) < KILLS:
        nobody.wait(chance.uniform(0, LONGEST_PAUSE_S))
        victim = chance.choice(topology.SERVICES)
        killed_s = bridge.kill(victim)
        if killed_s is None:
            continue  # not back yet from its last death
        killed[victim] += 1
        if sum(killed.values()) % 10 == 0:
            recoveries.append(pinger.first_reply_s(killed_s, 15))
    bridge.wait_for_link()
    for transfer in transfers:
        transfer.finish(PATIENCE_S)
    for stream in streams:
        stream.finish()
    pinger.close()
    status = bridge.wait_for_link()

    print(f"kills {killed}; link epoch {status['link']['epoch']}")
    print(f"datagrams sent and arrived: {[(stream.sent, stream.arrived) for stream in streams]}")
    summary("recovery after every tenth kill", recoveries, print)
    for row in status["services"]:
        assert row["restarts"] == killed[row["name"]]
        # a life that ended before its epoch was raised said nothing to anybody
        assert epochs[row["name"]] < row["epoch"] <= epochs[row["name"]] + killed[row["name"]]
    assert bridge.complaints() == []
