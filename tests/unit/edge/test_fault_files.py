from __future__ import annotations

import os
from pathlib import Path

import msgpack
import pytest

from ntbnet.edge.fault_files import MAX_NTH, Crash, FaultFolder
from ntbnet.errors import ConfigError
from ntbnet.faults import FaultPlan, FaultRule, to_body

PLAN = FaultPlan(3, (FaultRule("drop", rate=10), FaultRule("slow", every=2)))


@pytest.fixture
def folder(tmp_path: Path) -> FaultFolder:
    return FaultFolder(tmp_path / "faults")


def test_folder_is_made_by_the_first_plan_for_this_user_alone(folder: FaultFolder) -> None:
    assert not folder.exists()
    assert folder.read_plan() is None
    folder.write_plan(PLAN)

    assert folder.read_plan() == PLAN
    assert folder.path.stat().st_mode & 0o777 == 0o700
    assert (folder.path / "plan").stat().st_mode & 0o777 == 0o600


def test_removed_plan_leaves_the_counts(folder: FaultFolder) -> None:
    folder.write_plan(PLAN)
    folder.counts("epc")[0] = 5
    folder.remove_plan()
    folder.remove_plan()

    assert folder.read_plan() is None
    assert folder.injected()["epc"][0] == 5


@pytest.mark.parametrize("kind", ["fifo", "link", "folder"])
def test_what_is_no_regular_file_is_refused_at_once(folder: FaultFolder, tmp_path: Path, kind: str) -> None:
    """The folder may be another user's: nothing there may hold the reader up or lead it away."""
    folder.write_plan(PLAN)
    (folder.path / "plan").rename(tmp_path / "elsewhere")
    plan = folder.path / "plan"
    if kind == "fifo":
        os.mkfifo(plan)
    elif kind == "link":
        plan.symlink_to(tmp_path / "elsewhere")
    else:
        plan.mkdir()

    with pytest.raises(ConfigError, match="faults/plan"):
        folder.read_plan()


def test_counts_outlive_who_counts_and_end_with_the_next_plan(folder: FaultFolder) -> None:
    folder.write_plan(PLAN)
    folder.counts("epc")[1] += 7
    folder.counts("epc")[1] += 1
    folder.counts("edma")[0] = 2
    assert {name: numbers[:2] for name, numbers in folder.injected().items()} == {
        "epc": [0, 8],
        "edma": [2, 0],
    }

    folder.write_plan(PLAN)
    assert folder.injected() == {}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xc1",
        b"seed = 1",
        msgpack.packb([1]),
        msgpack.packb({"seed": -1}),
        msgpack.packb({"seed": 1, "faults": [{"kind": "drop"}]}),
        msgpack.packb({"seed": 1, "rules": []}),
        msgpack.packb({**to_body(PLAN), "seed": 1 << 60}),
        msgpack.packb({1: 2}),
        b"\xdf\xff\xff\xff\xff",
    ],
)
def test_forged_plan_is_refused(folder: FaultFolder, content: bytes) -> None:
    folder.write_plan(PLAN)
    (folder.path / "plan").write_bytes(content)

    with pytest.raises(ConfigError, match="plan"):
        folder.read_plan()


def test_crash_is_claimed_once(folder: FaultFolder) -> None:
    crash = Crash("ring.flags", 3, before=False)
    folder.write_crash("peer-ep", crash)
    assert folder.read_crash("peer-ep") == crash
    assert folder.read_crash("peer-rc") is None
    assert not folder.has_crashed("peer-ep")

    assert folder.claim_crash("peer-ep")
    assert not folder.claim_crash("peer-ep")
    assert folder.read_crash("peer-ep") is None
    assert folder.has_crashed("peer-ep")


def test_next_crash_forgets_the_last_one(folder: FaultFolder) -> None:
    folder.write_crash("epc", Crash("ctrl.reset"))
    folder.claim_crash("epc")
    folder.write_crash("epc", Crash("ctrl.command"))

    assert not folder.has_crashed("epc")
    folder.remove_crash("epc")
    folder.remove_crash("epc")
    assert folder.read_crash("epc") is None


@pytest.mark.parametrize(
    "body",
    [
        {"point": "no.such", "nth": 1, "before": True},
        {"point": ["lease"], "nth": 1, "before": True},
        {"point": "lease", "nth": 0, "before": True},
        {"point": "lease", "nth": MAX_NTH + 1, "before": True},
        {"point": "lease", "nth": True, "before": True},
        {"point": "lease", "nth": 1, "before": "yes"},
        {"point": "lease", "nth": 1},
        {"point": "lease", "nth": 1, "before": True, "pid": 1},
    ],
)
def test_forged_crash_is_refused(folder: FaultFolder, body: dict[str, object]) -> None:
    folder.write_crash("epc", Crash("ctrl.reset"))
    (folder.path / "crash.epc").write_bytes(msgpack.packb(body))

    with pytest.raises(ConfigError, match="crash"):
        folder.read_crash("epc")


def test_removed_folder_is_gone_with_all_in_it(folder: FaultFolder) -> None:
    folder.write_plan(PLAN)
    folder.counts("epc")
    folder.remove()
    folder.remove()

    assert not folder.exists()
