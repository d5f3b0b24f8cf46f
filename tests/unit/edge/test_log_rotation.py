"""Logs that have grown are set aside under their writers, and no line is lost."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from ntbnet.edge.log_rotation import NEW_LOG, pass_log, place_of, set_aside, take_log


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        yield ours, theirs


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(folder.iterdir())}


def test_so_many_files_are_kept_and_the_oldest_go(tmp_path: Path) -> None:
    path = tmp_path / "epc.jsonl"
    for number in range(6):
        path.write_text(str(number))
        set_aside(path, 3)

    assert contents(tmp_path) == {"epc.1.jsonl": "5", "epc.2.jsonl": "4"}


def test_one_file_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "epc.jsonl"
    path.write_text("0")

    set_aside(path, 1)

    assert contents(tmp_path) == {}


@pytest.mark.parametrize(("files", "kept"), [(3, ["0", "1"]), (1, [])])
def test_files_that_were_kept_when_more_were_allowed_go(tmp_path: Path, files: int, kept: list[str]) -> None:
    path = tmp_path / "epc.jsonl"
    path.write_text("0")
    for number in (1, 2, 3, 7, 99):
        (tmp_path / f"epc.{number}.jsonl").write_text(str(number))
    (tmp_path / "epc.old.jsonl").write_text("not ours")

    set_aside(path, files)

    found = contents(tmp_path)
    assert found.pop("epc.old.jsonl") == "not ours"
    assert list(found.values()) == kept


def test_gap_in_the_numbers_stays(tmp_path: Path) -> None:
    (tmp_path / "epc.2.jsonl").write_text("old")
    path = tmp_path / "epc.jsonl"
    path.write_text("0")

    set_aside(path, 5)

    assert contents(tmp_path) == {"epc.1.jsonl": "0", "epc.3.jsonl": "old"}


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("epc.jsonl", ("epc", 0)),
        ("epc.1.jsonl", ("epc", 1)),
        ("peer-rc.99.jsonl", ("peer-rc", 99)),
        ("epc.0.jsonl", ("epc.0", 0)),
        ("epc.100.jsonl", ("epc.100", 0)),
        ("epc.old.jsonl", ("epc.old", 0)),
        ("1.jsonl", ("1", 0)),
    ],
)
def test_place_is_that_of_a_number_behind_a_name(name: str, place: tuple[str, int]) -> None:
    assert place_of(Path("/logs", name)) == place


def test_writer_goes_on_in_the_old_file_until_it_takes_the_new_one(
    tmp_path: Path, ends: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = ends
    path = tmp_path / "epc.jsonl"
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.write(log, b"1\n")
        set_aside(path, 4)
        pass_log(ours, path)
        os.write(log, b"2\n")
        assert take_log(theirs, log) == NEW_LOG
        os.write(log, b"3\n")
    finally:
        os.close(log)

    assert contents(tmp_path) == {"epc.1.jsonl": "1\n2\n", "epc.jsonl": "3\n"}


def test_nothing_but_a_word_changes_no_log(tmp_path: Path, ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    log = os.open(tmp_path / "epc.jsonl", os.O_WRONLY | os.O_CREAT)
    try:
        with pytest.raises(BlockingIOError):
            take_log(theirs, log)
        ours.send(b"?")
        assert take_log(theirs, log) == b"?"
        ours.close()
        assert take_log(theirs, log) == b""
        os.write(log, b"1\n")
    finally:
        os.close(log)

    assert contents(tmp_path) == {"epc.jsonl": "1\n"}


def test_no_descriptor_is_left_open(tmp_path: Path, ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    log = os.open(tmp_path / "epc.jsonl", os.O_WRONLY | os.O_CREAT)
    before = open_descriptors()

    for _ in range(20):
        pass_log(ours, tmp_path / "new.jsonl")
        take_log(theirs, log)

    assert open_descriptors() == before
    os.close(log)
