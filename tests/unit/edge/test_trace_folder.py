"""Where rings lie: made, shared, kept once, removed; and what others can do about it."""

from __future__ import annotations

import os
import pwd
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from ntbnet.app.leftovers import remove_but_records
from ntbnet.config import load_text
from ntbnet.edge import trace_folder
from ntbnet.edge.rundir import RunDir
from ntbnet.errors import SetupError

NOBODY = pwd.getpwnam("nobody")


@pytest.fixture
def shm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "shm"
    folder.mkdir()
    monkeypatch.setattr(trace_folder, "_SHM", folder)
    return folder


@pytest.fixture
def run(shm: Path, tmp_path: Path) -> RunDir:
    run = RunDir(tmp_path / "run", "lab")
    run.create()
    return run


def record(run: RunDir, text: str) -> Path:
    ring = run.trace_folder / "epc.1.coarse"
    ring.write_text(text)
    return ring


def test_folder_has_a_name_that_nobody_knows_and_is_found_again(run: RunDir, shm: Path) -> None:
    (outer,) = shm.iterdir()

    assert run.trace_folder.parent == outer
    assert stat.S_IMODE(outer.stat().st_mode) == stat.S_IMODE(run.trace_folder.stat().st_mode) == 0o700
    run.create()
    assert list(shm.iterdir()) == [outer]
    other = RunDir(run.root.parent / "another", "lab")
    other.create()
    assert other.trace_folder != run.trace_folder


def test_many_makers_at_once_make_one_folder(shm: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as makers:
        for number in range(100):
            bridges = [RunDir(tmp_path / "run", f"lab-{number}") for _ in range(8)]
            list(makers.map(RunDir.create, bridges))

            (outer,) = shm.glob(f"ntbnet.lab-{number}.*")
            assert {bridge.trace_folder for bridge in bridges} == {outer / "rings"}


def test_a_maker_goes_round_when_somebody_removes_it_meanwhile(shm: Path, tmp_path: Path) -> None:
    root, rounds = tmp_path / "run", 300
    other = RunDir(root, "other")  # with whose end the root goes, too

    def remove() -> None:
        for _ in range(rounds):
            with suppress(SetupError):  # not empty: made anew meanwhile
                RunDir(root, "lab").remove()
            other.create()
            other.remove()

    with ThreadPoolExecutor(1) as remover:
        removed = remover.submit(remove)
        while not removed.done():
            RunDir(root, "lab").create()
        removed.result()

    RunDir(root, "lab").remove()
    assert list(shm.iterdir()) == []


def test_without_room_for_rings_there_is_a_run_folder_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace_folder, "_SHM", tmp_path / "nothing")
    run = RunDir(tmp_path / "run", "lab")
    run.create()
    run.share(NOBODY.pw_uid, NOBODY.pw_gid)

    assert run.exists()
    assert not run.trace_folder.exists()
    assert run.wanted_trace() is None
    run.remove()
    assert not run.exists()


def test_user_of_the_services_owns_the_rings_but_not_the_place_they_have(run: RunDir) -> None:
    run.share(NOBODY.pw_uid, NOBODY.pw_gid)
    rings = run.trace_folder
    outer = rings.parent.stat()

    assert rings.stat().st_uid == NOBODY.pw_uid
    assert (outer.st_uid, outer.st_gid, stat.S_IMODE(outer.st_mode)) == (0, NOBODY.pw_gid, 0o710)


def test_what_a_killed_run_recorded_is_kept_until_the_next_one_is_killed(run: RunDir, shm: Path) -> None:
    record(run, "first")
    run.empty()
    run.create()
    assert (run.last_trace_folder / "epc.1.coarse").read_text() == "first"
    assert list(run.trace_folder.iterdir()) == []

    run.empty()
    run.create()
    assert (run.last_trace_folder / "epc.1.coarse").read_text() == "first"

    record(run, "second")
    run.empty()
    run.create()
    assert (run.last_trace_folder / "epc.1.coarse").read_text() == "second"
    assert len(list(shm.iterdir())) == 2


def test_a_run_that_fails_keeps_the_record_of_a_killed_one(run: RunDir, shm: Path) -> None:
    record(run, "first")
    run.empty()
    run.create()
    record(run, "second")

    remove_but_records(run, load_text("", "test"), of_this_run=False)

    assert (run.last_trace_folder / "epc.1.coarse").read_text() == "first"
    assert len(list(shm.iterdir())) == 1
    assert not run.trace_folder.exists()


def test_a_run_that_could_not_go_on_keeps_its_own_record(run: RunDir, shm: Path) -> None:
    record(run, "first")
    run.empty()
    run.create()
    record(run, "second")

    remove_but_records(run, load_text("", "test"), of_this_run=True)

    assert (run.last_trace_folder / "epc.1.coarse").read_text() == "second"
    assert len(list(shm.iterdir())) == 1


def test_a_run_that_fails_and_recorded_nothing_leaves_nothing(run: RunDir, shm: Path) -> None:
    remove_but_records(run, load_text("", "test"), of_this_run=False)

    assert not run.exists()
    assert list(shm.iterdir()) == []


def test_remove_leaves_no_ring_behind_of_either_run(run: RunDir, shm: Path) -> None:
    record(run, "first")
    run.empty()
    run.create()
    record(run, "second")
    run.remove()

    assert list(shm.iterdir()) == []
    assert not run.exists()


def test_remove_leaves_no_folder_that_a_maker_had_no_time_to_link(run: RunDir, shm: Path) -> None:
    run.create()
    linked = run.trace_folder.parent
    (linked.with_name(linked.name.replace(".trace", "2.trace")) / "rings").mkdir(parents=True)

    run.remove()

    assert list(shm.iterdir()) == []


def test_what_is_left_of_a_run_folder_that_somebody_removed_goes_with_the_next(
    run: RunDir, shm: Path
) -> None:
    record(run, "first")
    prefix = run.trace_folder.parent.name.rsplit(".", 2)[0]
    of_another_user = shm / f"{prefix}.12345678.trace"
    of_another_user.mkdir()
    os.chown(of_another_user, NOBODY.pw_uid, NOBODY.pw_gid)
    (run.path / trace_folder.NOW).unlink()
    run.create()

    assert sorted(shm.iterdir()) == sorted([run.trace_folder.parent, of_another_user])
    assert list(run.trace_folder.iterdir()) == []


def test_link_to_anywhere_else_is_followed_by_nobody(run: RunDir, tmp_path: Path) -> None:
    victim = tmp_path / "victim" / "rings"
    victim.mkdir(parents=True)
    (victim / "epc.1.coarse").write_text("kept")
    link = run.path / trace_folder.NOW
    link.unlink()
    link.symlink_to(victim)

    assert run.trace_folder == link
    run.remove()
    assert (victim / "epc.1.coarse").read_text() == "kept"


def test_wish_for_a_trace_that_is_no_file_holds_nobody_up(run: RunDir) -> None:
    run.want_trace(500)
    assert run.wanted_trace() == 500
    wish = run.trace_folder / "wanted"
    wish.unlink()
    os.mkfifo(wish)
    assert run.wanted_trace() is None
    wish.unlink()
    wish.symlink_to("/etc/passwd")
    assert run.wanted_trace() is None
