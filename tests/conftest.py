"""Fixtures of tests that run a real bridge; see tests/live."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests.live.bridge import HandStarted, LiveBridge, bridges

PROGRAMS = {
    "ip": "iproute2",
    "ping": "iputils-ping",
    "iperf3": "iperf3",
    "sockperf": "sockperf",
    "unshare": "util-linux",
    "setpriv": "util-linux",
}
"""Programs the system tests run, and the Debian packages they are in."""

WITH_BRIDGES = ("tests/system/", "tests/chaos/", "tests/test_readme.py")
"""Where the tests are that run bridges."""

MEASURING = {"test_traffic.py", "test_bench.py", "test_bench_kinds.py"}
"""Modules whose tests judge latencies and rates."""

# the suite runs beside bridges of its own on two cores: how long an example takes says nothing there
hypothesis.settings.register_profile("ntbnet", deadline=None)
hypothesis.settings.load_profile("ntbnet")

MakeBridge = Callable[..., LiveBridge]


class BridgesInOneWorker(LoadScopeScheduling):  # type: ignore[misc]  # xdist ships no types
    """Tests that run bridges share one worker, the others go to whoever is free, a module at a time.

    Bridges share names, ports and interfaces of one machine, and their times mean something only when no
    other bridge runs beside them.
    """

    def _split_scope(self, nodeid: str) -> str:
        module = nodeid.partition("::")[0]
        return "bridges" if module.startswith(WITH_BRIDGES) else module


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """What ``--numprocesses`` uses."""
    return BridgesInOneWorker(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that measure or kill come last, when nothing else of the suite runs beside them."""
    items.sort(key=lambda item: item.path.name in MEASURING or any(item.iter_markers("chaos")))


@pytest.fixture(scope="session")
def programs() -> None:
    """Every program is there; a test that cannot run is a test that failed."""
    missing = [package for program, package in PROGRAMS.items() if shutil.which(program) is None]
    assert not missing, f"apt-get install {' '.join(missing)}"


@pytest.fixture
def make_bridge(programs: None, tmp_path: Path) -> Iterator[MakeBridge]:
    """Maker of bridges that end with the test."""
    with bridges(tmp_path) as make:
        yield make


@pytest.fixture(scope="module")
def make_module_bridge(programs: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeBridge]:
    """Maker of bridges that end with the module."""
    with bridges(tmp_path_factory.mktemp("bridges")) as make:
        yield make


@pytest.fixture(scope="module")
def bridge(make_module_bridge: MakeBridge) -> LiveBridge:
    """A running bridge for tests that leave it as it was."""
    return make_module_bridge("")


@pytest.fixture
def by_hand(make_bridge: MakeBridge) -> Iterator[HandStarted]:
    """Services of a bridge that a test starts one by one; they end with the test."""
    started = HandStarted(make_bridge("", up=False))
    yield started
    started.kill()
