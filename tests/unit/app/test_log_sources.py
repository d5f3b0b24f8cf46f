"""Where lines come from: files set aside and those that took their place, files that still grow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ntbnet.app.log_sources import Follower, Tail, folder_files, read_all
from ntbnet.app.logs import Axis, Line, Tally
from ntbnet.edge.log_rotation import set_aside
from tests.unit.app.log_lines import encoded, said


def event(ms: float, service: str = "epc") -> bytes:
    return encoded([said(ms, service, "mw.cleared", widx=round(ms))])


def numbers(lines: list[Line]) -> list[int]:
    return [line.fields["widx"] for line in lines]


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def follower(folder: Path) -> Follower:
    return Follower(lambda: folder_files(folder), Axis(), Tally())


def test_files_set_aside_are_read_before_what_took_their_place(tmp_path: Path) -> None:
    for number, name in enumerate(["epc.2", "epc.1", "epc"]):
        (tmp_path / f"{name}.jsonl").write_bytes(event(10 * number))
    (tmp_path / "edma.jsonl").write_bytes(event(5) + event(15))

    found = list(read_all([str(tmp_path)], Axis(), Tally()))

    assert [path.stem for path in folder_files(tmp_path)] == ["edma", "epc.2", "epc.1", "epc"]
    assert numbers(found) == [0, 5, 10, 15, 20]


def test_log_set_aside_while_it_is_read_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "epc.jsonl"
    path.write_bytes(event(1))
    lines = read_all([str(tmp_path)], Axis(), Tally())

    set_aside(path, 4)
    path.write_bytes(event(2))

    assert numbers(list(lines)) == [1]


def test_tail_gives_a_line_once_it_has_its_end(tmp_path: Path) -> None:
    path = tmp_path / "epc.jsonl"
    path.write_bytes(b"one\ntw")
    tail = Tail(path)

    assert (tail.readline(100), tail.readline(100)) == (b"one\n", b"")
    append(path, b"o\n")
    assert (tail.readline(100), tail.readline(100)) == (b"two\n", b"")
    append(path, b"long line\n")
    assert (tail.readline(4), tail.readline(100)) == (b"long", b" line\n")
    tail.close()


class Looks:
    """Stands for the time between two looks: does the next thing instead."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *things: Any) -> None:
        self._things = list(things)
        monkeypatch.setattr("time.sleep", self)

    def __call__(self, seconds: float) -> None:
        if self._things:
            self._things.pop(0)()


def nothing() -> None:
    """No thing."""


def remove_all(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def test_follower_shows_what_is_there_then_what_comes_and_ends_with_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    epc, edma = tmp_path / "epc.jsonl", tmp_path / "edma.jsonl"
    epc.write_bytes(event(2) + event(4) + event(6)[:20])
    edma.write_bytes(event(3, "edma"))

    def two_come() -> None:
        append(edma, event(9, "edma"))
        append(epc, event(6)[20:] + event(8))

    def one_comes_and_all_go() -> None:
        append(epc, event(10))
        remove_all(tmp_path)

    Looks(monkeypatch, two_come, nothing, one_comes_and_all_go, nothing)

    assert numbers(list(follower(tmp_path).lines())) == [2, 3, 4, 6, 8, 9, 10]


def test_follower_loses_no_line_when_a_log_is_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "epc.jsonl"
    path.write_bytes(event(1))

    def is_set_aside() -> None:
        append(path, event(2))
        set_aside(path, 4)
        path.touch()

    def writer_goes_on_in_the_old_one() -> None:
        append(tmp_path / "epc.1.jsonl", event(3))

    def writer_takes_the_new_one() -> None:
        append(tmp_path / "epc.1.jsonl", event(4))
        append(path, event(5))

    Looks(
        monkeypatch,
        is_set_aside,
        writer_goes_on_in_the_old_one,
        writer_takes_the_new_one,
        nothing,
        lambda: remove_all(tmp_path),
    )

    assert numbers(list(follower(tmp_path).lines())) == [1, 2, 3, 4, 5]


def test_follower_finds_services_that_start_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "epc.jsonl").write_bytes(event(1))

    def another_starts() -> None:
        append(tmp_path / "edma.jsonl", event(2, "edma"))

    Looks(monkeypatch, another_starts, nothing, nothing, lambda: remove_all(tmp_path))

    assert numbers(list(follower(tmp_path).lines())) == [1, 2]
