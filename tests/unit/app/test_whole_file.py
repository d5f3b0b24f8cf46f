"""Files that reports and exports are written to."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from ntbnet.app.whole_file import whole_file


@pytest.fixture(autouse=True)
def open_umask() -> Iterator[None]:
    """Files would be for everybody."""
    before = os.umask(0)
    yield
    os.umask(before)


def test_file_is_its_owners_alone_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    with whole_file(path) as file:
        file.write(b"new")

    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_one_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_bytes(b"old")

    def half() -> None:
        with whole_file(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half()

    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_symbolic_link_is_replaced_and_its_target_is_not_touched(tmp_path: Path) -> None:
    path, other = tmp_path / "report.html", tmp_path / "other"
    other.write_bytes(b"theirs")
    path.symlink_to(other)

    with whole_file(path) as file:
        file.write(b"mine")

    assert (other.read_bytes(), path.is_symlink(), path.read_bytes()) == (b"theirs", False, b"mine")


def test_device_stays_one(tmp_path: Path) -> None:
    path = tmp_path / "nothing"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    with whole_file(path) as file:
        file.write(b"told")

    assert os.read(reader, 9) == b"told"
    assert stat.S_ISFIFO(path.stat().st_mode)
    os.close(reader)
