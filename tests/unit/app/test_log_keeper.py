"""When logs are set aside, and who is told."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from ntbnet.app.child import Child
from ntbnet.app.log_keeper import LogKeeper
from ntbnet.config import load_text
from ntbnet.edge.log_rotation import take_log

LIMIT = 65536


@pytest.fixture
def keeper(tmp_path: Path) -> LogKeeper:
    config = load_text(f"[log]\nfile_bytes = {LIMIT}\nfiles = 3\n", "test")
    return LogKeeper(config, lambda service: tmp_path / f"{service}.jsonl")


@pytest.fixture
def child() -> Iterator[tuple[Child, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    with ours, theirs:
        yield Child("epc", lambda: None, lifeline=ours), theirs


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_short_log_stays(tmp_path: Path, keeper: LogKeeper, child: tuple[Child, socket.socket]) -> None:
    (tmp_path / "epc.jsonl").write_bytes(bytes(LIMIT - 1))

    keeper.look_after(child[0])

    assert names(tmp_path) == ["epc.jsonl"]


def test_long_log_is_set_aside_and_its_writer_given_a_new_one(
    tmp_path: Path, keeper: LogKeeper, child: tuple[Child, socket.socket]
) -> None:
    log = (tmp_path / "epc.jsonl").open("ab", buffering=0)
    log.write(bytes(LIMIT))

    keeper.look_after(child[0])
    take_log(child[1], log.fileno())
    log.write(b"new")

    assert names(tmp_path) == ["epc.1.jsonl", "epc.jsonl"]
    assert (tmp_path / "epc.jsonl").read_bytes() == b"new"
    log.close()


def test_writer_that_does_not_listen_is_told_once_it_does(
    tmp_path: Path, keeper: LogKeeper, child: tuple[Child, socket.socket]
) -> None:
    ours = child[0].lifeline
    assert ours is not None
    filled = 0
    while True:
        try:
            filled += ours.send(bytes(4096))
        except BlockingIOError:
            break
    (tmp_path / "epc.jsonl").write_bytes(bytes(LIMIT))

    keeper.look_after(child[0])
    while filled:
        filled -= len(child[1].recv(1 << 16))
    keeper.look_after(child[0])

    with (tmp_path / "log").open("wb") as log:
        take_log(child[1], log.fileno())
        log.write(b"new")
    assert (tmp_path / "epc.jsonl").read_bytes() == b"new"


def test_service_that_is_down_leaves_a_place_for_its_next_log(tmp_path: Path, keeper: LogKeeper) -> None:
    (tmp_path / "epc.jsonl").write_bytes(bytes(LIMIT))

    keeper.look_after(Child("epc", lambda: None))

    assert names(tmp_path) == ["epc.1.jsonl"]


def test_own_log_goes_on_in_a_new_file(tmp_path: Path, keeper: LogKeeper) -> None:
    with (tmp_path / "supervisor.jsonl").open("a", buffering=1) as stream:
        for _ in range(5):
            stream.write("x" * LIMIT + "\n")
            keeper.look_after_own("supervisor", stream)
        stream.write("new\n")

    assert names(tmp_path) == ["supervisor.1.jsonl", "supervisor.2.jsonl", "supervisor.jsonl"]
    assert (tmp_path / "supervisor.jsonl").read_text() == "new\n"
