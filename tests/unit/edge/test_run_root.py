"""Which folder run folders are in, and whose it has to be."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from ntbnet.edge import run_root
from ntbnet.edge.rundir import RunDir
from ntbnet.errors import ConfigError, SetupError


def test_default_root_is_in_memory_on_this_machine_whatever_run_is() -> None:
    # /dev/shm is memory wherever ntbnet runs, since the nodes' DRAM is there
    assert run_root.is_in_memory(run_root.default_root().parent)
    assert run_root.is_in_memory(Path("/dev/shm"))
    assert RunDir().root == run_root.default_root()


@pytest.mark.parametrize(
    ("run", "shm", "shm_bytes", "wanted"),
    [
        ("tmpfs", "tmpfs", 1 << 30, run_root.USUAL_ROOT),
        ("ext4", "tmpfs", 1 << 30, run_root.MEMORY_ROOT),
        ("overlay", "tmpfs", 1 << 28, run_root.MEMORY_ROOT),
        ("overlay", "tmpfs", 1 << 26, run_root.USUAL_ROOT),
        ("ext4", "ext4", 1 << 30, run_root.USUAL_ROOT),
    ],
)
def test_usual_root_unless_it_is_on_a_disk_and_there_is_room_in_memory(
    monkeypatch: pytest.MonkeyPatch, run: str, shm: str, shm_bytes: int, wanted: Path
) -> None:
    kinds = {Path("/run"): run, Path("/dev/shm"): shm}
    monkeypatch.setattr(run_root, "is_in_memory", lambda folder: kinds[folder] == "tmpfs")
    size = SimpleNamespace(f_blocks=shm_bytes // 4096, f_frsize=4096)
    monkeypatch.setattr(os, "statvfs", lambda _folder: size)
    assert run_root.default_root.__wrapped__() == wanted


def test_usual_root_where_there_is_no_shared_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(run_root, "MEMORY_ROOT", tmp_path / "absent" / "ntbnet")
    monkeypatch.setattr(run_root, "is_in_memory", lambda _folder: False)
    assert run_root.default_root.__wrapped__() == run_root.USUAL_ROOT


def test_root_can_be_passed_through_whatever_the_umask(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    root = tmp_path / "ntbnet"
    monkeypatch.setattr(run_root, "MEMORY_ROOT", root)
    before = os.umask(0o077)
    try:
        RunDir(root, "lab").create()
    finally:
        os.umask(before)
    assert root.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize(
    ("mount", "wanted"),
    [
        ("36 35 {device} / /x rw,noatime shared:1 - tmpfs tmpfs rw", True),
        ("36 35 {device} / /x rw - ext4 /dev/sda rw", False),
        ("36 35 {device} / /x rw", False),
        ("36 35 {device} / /x rw - ", False),
        ("36 35 999:1 / /x rw - tmpfs tmpfs rw", False),
        ("", False),
    ],
)
def test_type_of_a_file_system_is_what_mountinfo_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mount: str, wanted: bool
) -> None:
    number = tmp_path.stat().st_dev
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "1 1 0:0 / / rw - proc proc rw\n" + mount.format(device=f"{os.major(number)}:{os.minor(number)}")
    )
    monkeypatch.setattr(run_root, "_MOUNTS", mounts)
    assert run_root.is_in_memory(tmp_path) is wanted


def test_folder_that_cannot_be_looked_at_is_not_in_memory(tmp_path: Path) -> None:
    assert not run_root.is_in_memory(tmp_path / "absent")


def test_root_where_everybody_may_make_one_is_refused_unless_ours(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    root = tmp_path / "ntbnet"
    monkeypatch.setattr(run_root, "MEMORY_ROOT", root)
    RunDir(root, "lab").create()
    RunDir(root, "lab")
    root.chmod(0o777)
    with pytest.raises(ConfigError, match=r"ntbnet is not a folder that only this user or root may change"):
        RunDir(root, "lab")
    root.chmod(0o755)
    os.chown(root, 12345, 12345)
    with pytest.raises(ConfigError, match=r"set run\.dir"):
        RunDir(root, "lab")
    os.chown(root, 0, 0)
    moved = root.rename(tmp_path / "elsewhere")
    root.symlink_to(moved)
    with pytest.raises(ConfigError, match="remove it"):
        RunDir(root, "lab")


def test_root_that_somebody_puts_there_between_is_not_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    root = tmp_path / "ntbnet"
    monkeypatch.setattr(run_root, "MEMORY_ROOT", root)
    run = RunDir(root, "lab")
    root.mkdir(mode=0o777)
    root.chmod(0o777)
    with pytest.raises(ConfigError):
        run.create()
    assert list(root.iterdir()) == []


def test_default_root_goes_with_the_last_bridge_without_a_note(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    root = tmp_path / "ntbnet"
    monkeypatch.setattr(run_root, "MEMORY_ROOT", root)
    run, other = RunDir(root, "lab"), RunDir(root, "other")
    run.create()
    other.create()
    assert sorted(path.name for path in root.iterdir()) == ["lab", "other"]
    run.remove()
    assert root.exists()
    other.remove()
    assert not root.exists()


def test_root_removed_and_made_again_while_it_is_looked_at_is_gone_for_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    root, look = tmp_path / "run", Path.stat
    root.mkdir()

    def too_late(path: Path, **how: bool) -> os.stat_result:
        """It is removed before this look, and there before the next one."""
        if path == root:
            monkeypatch.setattr(Path, "stat", look)
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return look(path, **how)

    monkeypatch.setattr(Path, "stat", too_late)
    with pytest.raises(FileNotFoundError):
        run_root.make_root(root)

    monkeypatch.setattr(Path, "stat", too_late)
    RunDir(root, "lab").create()
    assert RunDir(root, "lab").exists()


@pytest.mark.parametrize("is_file", [True, False])
def test_root_that_is_a_file_or_a_link_to_nothing_is_refused(tmp_path: Path, is_file: bool) -> None:
    root = tmp_path / "run"
    if is_file:
        root.touch()
    else:
        root.symlink_to(tmp_path / "nothing")
    with pytest.raises(FileExistsError):
        run_root.make_root(root)
    with pytest.raises(SetupError, match="cannot make run folder"):
        RunDir(root, "lab").create()
