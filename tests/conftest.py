"""Fixtures of tests that run a real bridge; see tests/live."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

from tests.live.bridge import HandStarted, LiveBridge, bridges

PROGRAMS = {
    "ip": "iproute2",
    "ping": "iputils-ping",
    "iperf3": "iperf3",
    "sockperf": "sockperf",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "ss": "iproute2",
    "setpriv": "util-linux",
    "tshark": "tshark",
    "lnav": "lnav",
    "promtool": "prometheus",
}
"""Programs the system tests run, and the Debian packages they are in."""

WITH_BRIDGES = ("tests/system/", "tests/chaos/", "tests/test_readme.py")
"""Where the tests are that run bridges."""

ONE_NAME = {"tests/system/test_demo.py", "tests/test_readme.py"}
"""Modules whose bridges have the names that the commands choose by themselves."""

ALONE = {
    "test_rates.py",
    "test_timeline.py",
}
"""Modules whose verdicts other load would change: latencies, rates, and times of two witnesses, each of whom
may wait for a CPU."""

# the suite runs beside bridges of its own on two cores: how long an example takes says nothing there
hypothesis.settings.register_profile("ntbnet", deadline=None)
hypothesis.settings.load_profile("ntbnet")

MakeBridge = Callable[..., LiveBridge]


class AloneLast(LoadScopeScheduling):  # type: ignore[misc]  # xdist ships no types
    """A module at a time; those of ALONE come last, in one worker, when every other worker has ended.

    The last worker begins with models, which compute, and the others with the modules that run bridges, which
    mostly wait. Whoever is done first helps from the other end.
    """

    def _split_scope(self, nodeid: str) -> str:
        module = nodeid.partition("::")[0]
        if Path(module).name in ALONE:
            return "alone"
        return "one name" if module in ONE_NAME else module

    def remove_node(self, node: WorkerController) -> str | None:
        """A worker has ended; tells which test it died of."""
        died_of: str | None = super().remove_node(node)
        for other in self.nodes:
            self._reschedule(other)
        return died_of

    def _reschedule(self, node: WorkerController) -> None:
        if list(self.workqueue) != ["alone"] or len(self.nodes) == 1:
            super()._reschedule(node)
        elif any(not other.shutting_down for other in self.nodes if other is not node):
            node.shutdown()  # once it has done what it was given

    def _assign_work_unit(self, node: WorkerController) -> None:
        scopes = [scope for scope in self.workqueue if scope != "alone"]
        if not scopes and len(self.nodes) > 1:
            return
        if scopes and node is self.nodes[-1] and len(self.nodes) > 1:
            self.workqueue.move_to_end(scopes[-1], last=False)
        super()._assign_work_unit(node)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """What ``--numprocesses`` uses."""
    config.option.loadscopereorder = False  # the order is that of pytest_collection_modifyitems
    return AloneLast(config, log)


def pytest_configure(config: pytest.Config) -> None:
    """Without bytecode, half the time of a command is spent on compiling what it imports.

    Where the environment wants none in the tree, the programs that tests run keep it in a folder of this run.
    """
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
        folder = tempfile.mkdtemp(prefix="ntbnet-bytecode-")
        os.environ["PYTHONPYCACHEPREFIX"] = folder
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Bridges first, then models, at last what has to be alone."""

    def rank(item: pytest.Item) -> int:
        return 2 if item.path.name in ALONE else not item.nodeid.startswith(WITH_BRIDGES)

    items.sort(key=rank)


def pytest_collection_finish() -> None:
    """Garbage is sought seldom, and not among thousands of tests: that was a quarter of the models' time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)


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
