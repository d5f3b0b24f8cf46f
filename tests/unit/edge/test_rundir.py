from __future__ import annotations

import fcntl
import json
import os
import signal
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ntbnet.edge import rundir
from ntbnet.edge.process import ProcessRecord, alive, own_record
from ntbnet.edge.run_record import RunRecord
from ntbnet.edge.rundir import RESTARTED_EPOCHS, RunDir
from ntbnet.errors import ConfigError, SetupError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    folder = RunDir(tmp_path / "root", "lab")
    folder.create()
    return folder


def run_record() -> RunRecord:
    return RunRecord("lab", "r1", "supervisor", ProcessRecord(42, 4242), 1.5e9, "/etc/lab.toml")


def test_folder_is_closed_to_others(run: RunDir) -> None:
    assert run.path.stat().st_mode & 0o777 == 0o700
    assert (run.path / "sockets").stat().st_mode & 0o777 == 0o700


def test_creating_twice_keeps_what_is_there(run: RunDir) -> None:
    run.raise_epoch("link")

    run.create()

    assert run.epoch("link") == 1


def test_all_services_of_a_run_get_one_secret_that_others_cannot_read(run: RunDir) -> None:
    first = run.secret()

    assert RunDir(run.root, run.name).secret() == first
    assert 0 < first < 1 << 64
    assert (run.path / "secret").stat().st_mode & 0o777 == 0o600


def test_the_next_run_has_another_secret(run: RunDir) -> None:
    first = run.secret()

    run.empty()
    run.create()

    assert run.secret() != first


@pytest.mark.parametrize("content", [b"", b"12\n", b"0" * 16 + b"\n", b"x" * 16 + b"\n", b"1" * 40])
def test_unusable_secret_is_not_replaced_under_running_services(run: RunDir, content: bytes) -> None:
    run.secret()
    (run.path / "secret").write_bytes(content)

    with pytest.raises(SetupError, match="start it again"):
        run.secret()
    assert (run.path / "secret").read_bytes() == content


def test_folder_open_to_others_is_refused(run: RunDir) -> None:
    (run.path / "sockets").chmod(0o777)

    with pytest.raises(SetupError, match="mode 0700"):
        run.create()


def test_symlink_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(0o700)
    (tmp_path / "lab").symlink_to(tmp_path / "elsewhere")
    run = RunDir(tmp_path, "lab")

    with pytest.raises(SetupError, match="not a folder of this user's"):
        run.create()
    with pytest.raises(SetupError, match="symbolic link"):
        run.remove()


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "Lab", "-lab", "x" * 16, "lab\n", "läb"])
def test_malformed_bridge_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="bridge name"):
        RunDir(tmp_path, name)


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden", "x" * 40])
def test_malformed_entry_name_is_the_callers_bug(run: RunDir, name: str) -> None:
    with pytest.raises(ValueError, match="no entry"):
        run.raise_epoch(name)


def test_socket_path_of_107_bytes_is_allowed_and_of_108_refused(tmp_path: Path) -> None:
    fixed = len(os.fsencode(RunDir("/", "lab").socket_path("epc")))
    fitting = RunDir("/" + "d" * (107 - fixed - 1), "lab")
    beyond = RunDir("/" + "d" * (107 - fixed), "lab")

    assert len(os.fsencode(fitting.socket_path("epc"))) == 107
    with pytest.raises(ConfigError, match="has 108 bytes, allowed are 107"):
        beyond.socket_path("epc")


def test_remove_leaves_nothing_and_may_be_repeated(run: RunDir, tmp_path: Path) -> None:
    run.raise_epoch("link")
    run.record_process("epc")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    (run.path / "logs" / "stray").symlink_to(outside)
    (run.path / "logs" / "deep").mkdir()
    (run.path / "logs" / "deep" / "file").touch()

    run.remove()
    run.remove()

    assert not run.root.exists()
    assert (outside / "kept").exists()


def test_remove_keeps_another_bridge(run: RunDir) -> None:
    other = RunDir(run.root, "other")
    other.create()

    run.remove()

    assert other.exists()


def test_root_made_by_ntbnet_goes_with_the_last_bridge(run: RunDir) -> None:
    other = RunDir(run.root, "other")
    other.create()

    run.remove()
    assert run.root.exists()
    other.remove()

    assert not run.root.exists()


def test_root_of_the_user_stays_even_when_empty(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    run = RunDir(mine, "lab")
    run.create()

    run.remove()

    assert list(mine.iterdir()) == []


def test_root_made_by_ntbnet_stays_when_something_else_is_in_it(run: RunDir) -> None:
    (run.root / "notes.txt").touch()

    run.remove()
    assert (run.root / "notes.txt").exists()
    (run.root / "notes.txt").unlink()
    run.remove()

    assert not run.root.exists()


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"file": 3}', '{"file": [1]}', '{"file": ["1", 2]}', '{"file": [true, 2]}']
)
def test_unusable_note_about_memory_counts_as_none(run: RunDir, content: str) -> None:
    run.write_dram("rc", (7, 11))
    assert run.read_dram("rc") == (7, 11)

    (run.path / "nodes" / "rc.dram").write_text(content)

    assert run.read_dram("rc") is None


def test_epoch_counts_up_from_one(run: RunDir) -> None:
    assert run.epoch("link") == 0
    assert [run.raise_epoch("link") for _ in range(3)] == [1, 2, 3]
    assert run.raise_epoch("peer-rc") == 1
    assert RunDir(run.root, "lab").epoch("link") == 3


@pytest.mark.parametrize(
    "content", [b"", b"12", b"-1\n", b"0\n", b"\xff\x00", b"9" * 30 + b"\n", b"4294967296\n", b"4294967295\n"]
)
def test_unusable_counter_goes_on_above_every_earlier_number(run: RunDir, content: bytes) -> None:
    run.raise_epoch("link")
    (run.path / "epochs" / "link").write_bytes(content)

    first, second = run.raise_epoch("link"), run.raise_epoch("link")

    assert RESTARTED_EPOCHS < first < 1 << 32
    assert second == first + 1


def test_epochs_raised_by_many_processes_are_all_different(run: RunDir) -> None:
    children = []
    for index in range(4):
        pid = os.fork()
        if pid == 0:
            numbers = [run.raise_epoch("link") for _ in range(50)]
            (run.path / "logs" / str(index)).write_text(json.dumps(numbers))
            os._exit(0)
        children.append(pid)
    for pid in children:
        assert os.waitpid(pid, 0)[1] == 0

    seen = [n for index in range(4) for n in json.loads((run.path / "logs" / str(index)).read_text())]

    assert sorted(seen) == list(range(1, 201))


def test_epoch_is_never_given_twice_when_raisers_are_killed(run: RunDir) -> None:
    seen: list[int] = []
    for _ in range(10):
        read_end, write_end = os.pipe()
        pid = os.fork()
        if pid == 0:
            while True:
                os.write(write_end, b"%d\n" % run.raise_epoch("link"))
        os.close(write_end)
        with os.fdopen(read_end) as pipe:
            seen.append(int(pipe.readline()))
            os.kill(pid, signal.SIGKILL)
            seen.extend(int(line) for line in pipe if line.endswith("\n"))
        os.waitpid(pid, 0)
        seen.append(run.raise_epoch("link"))

    assert seen == sorted(set(seen))
    assert seen[-1] < RESTARTED_EPOCHS


def test_process_record_is_read_back(run: RunDir) -> None:
    assert run.process("epc") is None

    run.record_process("epc")

    assert run.process("epc") == own_record()
    assert run.processes() == {"epc": own_record()}
    run.forget_process("epc")
    run.forget_process("epc")
    assert run.processes() == {}


def test_recycled_id_is_not_alive(run: RunDir) -> None:
    record = run.record_process("epc", replace(own_record(), start_ticks=1))

    assert not alive(record)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"pid": "1", "start_ticks": 1}', '{"pid": true, "start_ticks": 1}', "[" * 60000],
)
def test_unusable_process_record_counts_as_none(run: RunDir, content: str) -> None:
    run.record_process("edma")
    (run.path / "pids" / "epc").write_text(content)
    (run.path / "pids" / ".epc.99").write_text("half")

    assert run.process("epc") is None
    assert list(run.processes()) == ["edma"]


def test_run_record_is_read_back(run: RunDir) -> None:
    assert run.read_run() is None

    run.write_run(run_record())

    assert run.read_run() == run_record()
    run.write_run(replace(run_record(), config_path=None))
    assert run.read_run() == replace(run_record(), config_path=None)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "other"),
        ("run_id", ""),
        ("run_id", 7),
        ("mode", "systemd"),
        ("supervisor", None),
        ("supervisor", {"pid": -1, "start_ticks": 1}),
        ("started_unix_s", "now"),
        ("started_unix_s", float("nan")),
        ("started_unix_s", 10**400),
        ("config_path", 3),
    ],
)
def test_unusable_run_record_counts_as_none(run: RunDir, key: str, value: object) -> None:
    run.write_run(run_record())
    path = run.path / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))

    assert run.read_run() is None


def test_record_of_another_bridge_is_the_callers_bug(run: RunDir) -> None:
    with pytest.raises(ValueError, match="record of 'other'"):
        run.write_run(replace(run_record(), name="other"))


def test_second_holder_is_refused_at_once_and_let_in_later(run: RunDir) -> None:
    with (
        run.lock(),
        pytest.raises(SetupError, match="being started or stopped"),
        RunDir(run.root, "lab").lock(wait=False),
    ):
        pytest.fail("two holders")

    with RunDir(run.root, "lab").lock(wait=False):
        assert run.exists()


def test_nodes_are_locked_apart_from_the_run(run: RunDir) -> None:
    with run.lock(), run.lock_nodes():
        assert run.exists()


def test_counters_that_somebody_keeps_locked_hold_nobody_up_for_ever(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder is the user's that services became: that one may lock it as long as it likes."""
    run.create()
    monkeypatch.setattr(rundir, "_COUNTERS_TIMEOUT_S", 0.05)
    fd = os.open(run.path / "epochs", os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)

    with pytest.raises(SetupError, match="epochs is locked by another process"):
        run.raise_epoch("link")
    with pytest.raises(SetupError, match="epochs is locked by another process"):
        run.secret()
    os.close(fd)

    assert run.raise_epoch("link") == 1


def test_lock_of_a_killed_holder_is_free(run: RunDir) -> None:
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        with run.lock():
            os.write(write_end, b"x")
            signal.pause()
    os.read(read_end, 1)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)

    with run.lock(wait=False):
        assert run.exists()
    os.close(read_end)
    os.close(write_end)


def test_waiter_gets_the_folder_that_replaced_the_removed_one(run: RunDir) -> None:
    told_end, tell_end = os.pipe()
    with run.lock():
        pid = os.fork()
        if pid == 0:
            os.write(tell_end, b"x")
            with RunDir(run.root, "lab").lock():
                os._exit(0 if run.exists() else 1)
        os.read(told_end, 1)
        run.remove()

    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(told_end)
    os.close(tell_end)


def test_emptied_folder_keeps_its_lock(run: RunDir) -> None:
    """A start that cleans up first must not let a second start in: its lock is on the folder."""
    run.raise_epoch("link")
    with run.lock(wait=False):
        run.empty()

        assert list(run.path.iterdir()) == []
        with pytest.raises(SetupError, match="being started or stopped"), run.lock(wait=False):
            pytest.fail("two holders")


def test_counter_of_a_removed_run_is_not_made_again(run: RunDir) -> None:
    run.remove()

    with pytest.raises(SetupError, match="is not there"):
        run.raise_epoch("link")

    assert not run.exists()


def test_node_note_tells_absent_from_unusable(run: RunDir) -> None:
    assert run.read_node("rc") is None
    run.write_node("rc", {"inode": 1})
    assert run.read_node("rc") == {"inode": 1}
    run.node_path("rc").write_text("{torn")
    assert run.read_node("rc") == {}
    run.forget_node("rc")
    assert run.read_node("rc") is None


def test_link_is_wanted_unless_it_was_taken_down(run: RunDir) -> None:
    assert run.link_is_wanted("rc")

    run.want_link("rc", False)
    assert not run.link_is_wanted("rc")
    assert run.link_is_wanted("ep")

    run.want_link("rc", True)
    assert run.link_is_wanted("rc")


@pytest.mark.parametrize("content", ["", "[]", '{"wanted": 0}', '{"wanted": null}', "{"])
def test_unusable_note_about_the_link_counts_as_none(run: RunDir, content: str) -> None:
    (run.path / "nodes" / "ep.link").write_text(content)

    assert run.link_is_wanted("ep")
