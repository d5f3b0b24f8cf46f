from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING

import pytest

from ntbnet.edge import shm
from ntbnet.edge.rundir import RunDir
from ntbnet.edge.shm import SHM_FOLDER, Dram, dram_path
from ntbnet.errors import ConfigError, SetupError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SIZE = 4 * mmap.PAGESIZE


@pytest.fixture
def bridge() -> Iterator[str]:
    name = f"t-{os.getpid()}"
    yield name
    dram_path(name, "rc").unlink(missing_ok=True)


@pytest.fixture
def run(tmp_path: Path, bridge: str) -> RunDir:
    run = RunDir(tmp_path, bridge)
    run.create()
    return run


def leftovers(bridge: str) -> list[str]:
    return [path.name for path in SHM_FOLDER.iterdir() if bridge in path.name]


def test_created_memory_is_zeroed_private_and_fully_allocated(bridge: str) -> None:
    dram = Dram.create(bridge, "rc", SIZE)

    found = dram.path.stat()
    assert bytes(dram.view) == bytes(SIZE)
    assert found.st_mode & 0o777 == 0o600
    assert found.st_blocks * 512 >= SIZE
    dram.close()


def test_store_of_one_mapper_is_seen_by_the_other(bridge: str) -> None:
    maker = Dram.create(bridge, "rc", SIZE)
    attacher = Dram.attach(bridge, "rc", SIZE)

    maker.view[100:104] = b"ntb!"

    assert bytes(attacher.view[100:104]) == b"ntb!"
    maker.close()
    attacher.close()


def test_memory_survives_its_maker(bridge: str) -> None:
    if os.fork() == 0:
        dram = Dram.create(bridge, "rc", SIZE)
        dram.view[0] = 0x5A
        os.kill(os.getpid(), 9)
    assert os.waitstatus_to_exitcode(os.wait()[1]) == -9

    dram = Dram.attach(bridge, "rc", SIZE)

    assert dram.view[0] == 0x5A
    dram.close()


def test_size_beyond_free_space_is_refused_and_leaves_nothing(bridge: str) -> None:
    free = os.statvfs(SHM_FOLDER)
    size = (free.f_bavail + 1) * free.f_frsize * 2 // mmap.PAGESIZE * mmap.PAGESIZE

    with pytest.raises(SetupError, match=rf"needs {size} bytes, /dev/shm has \d+ free") as caught:
        Dram.create(bridge, "rc", size)

    assert "\n" not in str(caught.value)
    assert leftovers(bridge) == []


def test_existing_memory_is_never_replaced(bridge: str) -> None:
    dram = Dram.create(bridge, "rc", SIZE)
    dram.view[0] = 7

    with pytest.raises(SetupError, match="exists already"):
        Dram.create(bridge, "rc", SIZE)

    assert dram.view[0] == 7
    assert leftovers(bridge) == [dram.path.name]
    dram.close()


def test_symlink_under_the_name_is_not_followed(bridge: str, tmp_path: os.PathLike[str]) -> None:
    target = os.path.join(tmp_path, "victim")  # noqa: PTH118 - PathLike, not Path
    dram_path(bridge, "rc").symlink_to(target)

    with pytest.raises(SetupError, match="exists already"):
        Dram.create(bridge, "rc", SIZE)
    with pytest.raises(SetupError, match="cannot open"):
        Dram.attach(bridge, "rc", SIZE)

    assert not os.path.lexists(target)


def test_attaching_to_nothing_says_so(bridge: str) -> None:
    with pytest.raises(SetupError, match="does not exist"):
        Dram.attach(bridge, "rc", SIZE)


def test_attaching_with_another_size_is_refused(bridge: str) -> None:
    Dram.create(bridge, "rc", SIZE).close()

    with pytest.raises(SetupError, match=f"has {SIZE} bytes, expected {2 * SIZE}"):
        Dram.attach(bridge, "rc", 2 * SIZE)


def test_sparse_file_is_refused(bridge: str) -> None:
    """A hole would fault at the first store once the space is gone."""
    path = dram_path(bridge, "rc")
    path.touch(mode=0o600)
    os.truncate(path, SIZE)

    with pytest.raises(SetupError, match=f"only 0 of {SIZE} bytes allocated"):
        Dram.attach(bridge, "rc", SIZE)


def test_file_open_to_others_is_refused(bridge: str) -> None:
    Dram.create(bridge, "rc", SIZE).close()
    dram_path(bridge, "rc").chmod(0o666)

    with pytest.raises(SetupError, match="mode 0600"):
        Dram.attach(bridge, "rc", SIZE)


def test_removed_memory_stays_usable_for_its_mappers(bridge: str, run: RunDir) -> None:
    assert shm.make(run, "rc", SIZE)
    dram = Dram.attach(bridge, "rc", SIZE)

    assert shm.remove(run, "rc")

    assert leftovers(bridge) == []
    assert run.read_dram("rc") is None
    dram.view[0] = 1
    assert not shm.remove(run, "rc")
    dram.close()


def test_whole_memory_of_ours_is_kept(run: RunDir) -> None:
    shm.make(run, "rc", SIZE)
    before = dram_path(run.name, "rc").stat().st_ino

    assert not shm.make(run, "rc", SIZE)

    assert dram_path(run.name, "rc").stat().st_ino == before


@pytest.mark.parametrize("damage", ["unlinked", "truncated", "open to others", "another size"])
def test_damaged_memory_of_ours_is_made_anew(run: RunDir, damage: str) -> None:
    shm.make(run, "rc", SIZE)
    path = dram_path(run.name, "rc")
    before = path.stat().st_ino
    if damage == "unlinked":
        path.unlink()
    elif damage == "truncated":
        os.truncate(path, 0)
    elif damage == "open to others":
        path.chmod(0o666)
    size = 2 * SIZE if damage == "another size" else SIZE

    assert shm.make(run, "rc", size)

    Dram.attach(run.name, "rc", size).close()
    assert path.stat().st_ino != before


def test_memory_of_another_run_folder_is_refused_and_left_alone(run: RunDir, tmp_path: Path) -> None:
    other = RunDir(tmp_path / "other", run.name)
    other.create()
    shm.make(run, "rc", SIZE)
    before = dram_path(run.name, "rc").stat()

    with pytest.raises(SetupError, match="exists already"):
        shm.make(other, "rc", SIZE)
    assert not shm.remove(other, "rc")

    assert dram_path(run.name, "rc").stat() == before


def test_file_that_took_the_place_of_our_memory_is_left_alone(run: RunDir) -> None:
    shm.make(run, "rc", SIZE)
    path = dram_path(run.name, "rc")
    path.unlink()
    path.write_text("somebody's")

    with pytest.raises(SetupError, match="exists already"):
        shm.make(run, "rc", SIZE)
    assert not shm.remove(run, "rc")

    assert path.read_text() == "somebody's"


def test_slice_stays_good_after_close(bridge: str) -> None:
    dram = Dram.create(bridge, "rc", SIZE)
    words = dram.view[:8].cast("Q")

    dram.close()
    dram.close()

    words[0] = 0x1122334455667788
    attacher = Dram.attach(bridge, "rc", SIZE)
    assert attacher.view[0] == 0x88
    attacher.close()


@pytest.mark.parametrize("size", [0, -mmap.PAGESIZE, mmap.PAGESIZE + 1])
def test_size_that_is_no_multiple_of_a_page_is_the_callers_bug(bridge: str, size: int) -> None:
    with pytest.raises(ValueError, match="no positive multiple"):
        Dram.create(bridge, "rc", size)


@pytest.mark.parametrize("name", ["", "../etc", "A", "-a", "a" * 16, "a/b", "a.b", "a\n"])
def test_malformed_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="bridge name"):
        Dram.create(name, "rc", SIZE)
