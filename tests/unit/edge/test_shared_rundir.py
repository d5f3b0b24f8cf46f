"""A run folder whose services became another user, and counters that another machine knows better."""

from __future__ import annotations

import os
import pwd
import stat
from pathlib import Path

import pytest

from ntbnet.edge.privileges import account
from ntbnet.edge.rundir import RESTARTED_EPOCHS, RunDir
from ntbnet.errors import ConfigError, SetupError

NOBODY = pwd.getpwnam("nobody")


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = RunDir(tmp_path / "run", "lab")
    run.create()
    return run


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_user_gets_sockets_and_epochs_and_may_pass_through(run: RunDir) -> None:
    run.share(NOBODY.pw_uid, NOBODY.pw_gid)

    assert (mode(run.path), run.path.stat().st_uid) == (0o710, 0)
    owners = {entry.name: entry.lstat().st_uid for entry in run.path.iterdir()}
    assert {name for name, uid in owners.items() if uid} == {"sockets", "epochs"}


def test_shared_folder_is_good_enough_to_go_on_with(run: RunDir) -> None:
    run.share(NOBODY.pw_uid, NOBODY.pw_gid)

    run.create()
    with run.lock():
        assert run.raise_epoch("epc") == 1

    assert (run.path / "epochs" / "epc").stat().st_uid == NOBODY.pw_uid


@pytest.mark.parametrize("wrong", [0o711, 0o750, 0o770, 0o720])
def test_folder_that_lets_others_do_more_is_refused(run: RunDir, wrong: int) -> None:
    run.path.chmod(wrong)

    with pytest.raises(SetupError, match="mode 0700"):
        run.create()


def test_folder_that_another_user_made_is_refused(run: RunDir) -> None:
    os.chown(run.path, NOBODY.pw_uid, NOBODY.pw_gid)

    with pytest.raises(SetupError, match="not a folder of this user's"):
        run.create()


def test_counter_that_the_user_made_a_trap_of_neither_hangs_nor_leads_away(
    run: RunDir, tmp_path: Path
) -> None:
    run.share(NOBODY.pw_uid, NOBODY.pw_gid)
    secret = tmp_path / "secret"
    secret.write_text("7\n")
    (run.path / "epochs" / "link").symlink_to(secret)
    os.mkfifo(run.path / "epochs" / "epc")

    assert run.epoch("link") is None
    assert run.epoch("epc") is None
    assert run.raise_epoch("link") > RESTARTED_EPOCHS

    assert secret.read_text() == "7\n"


def test_account_is_the_users(run: RunDir) -> None:
    found = account("nobody")

    assert found is not None
    assert (found.uid, found.gid) == (NOBODY.pw_uid, NOBODY.pw_gid)
    assert account("") is None


@pytest.mark.parametrize("user", ["root", "no-such-user-1"])
def test_user_that_cannot_be_is_refused(user: str) -> None:
    with pytest.raises(ConfigError, match=rf'run\.user = "{user}": must '):
        account(user)


def test_counter_goes_on_above_what_another_machine_has_seen(run: RunDir) -> None:
    assert [run.raise_epoch("epc") for _ in range(2)] == [1, 2]
    assert run.raise_epoch("epc", 40) == 41
    assert run.raise_epoch("epc", 7) == 42


def test_noted_number_is_kept_unless_the_counter_is_above_it(run: RunDir) -> None:
    run.note_epoch("link", 9)
    run.note_epoch("link", 5)

    assert run.epoch("link") == 9
    assert run.raise_epoch("link") == 10
