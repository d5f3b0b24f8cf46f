"""What a trace is refused for, before and while services are asked."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ntbnet.app import trace_control
from ntbnet.app.cli import main
from ntbnet.app.trace_control import MAX_RECORDS, start_trace
from ntbnet.edge.rundir import RunDir
from ntbnet.edge.trace_ring import KEPT
from ntbnet.errors import SetupError
from ntbnet.trace_records import HEADER_BYTES, RECORD_BYTES, Level

SERVICES = ("epc", "edma")


@pytest.fixture
def bridge(tmp_path: Path) -> Iterator[Any]:
    run = RunDir(tmp_path / "run", "lab")
    run.create()
    yield SimpleNamespace(run=run, services=lambda: SERVICES)
    run.remove()


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """What services say, by name; they say yes."""
    said: dict[str, dict[str, Any]] = {name: {"ok": True} for name in SERVICES}
    monkeypatch.setattr(trace_control, "ask", lambda _sockets, _timeout_s, _question: said)
    return said


def ring_bytes(records: int) -> int:
    return HEADER_BYTES + records * RECORD_BYTES


def free(monkeypatch: pytest.MonkeyPatch, size_bytes: int) -> None:
    found = SimpleNamespace(f_bavail=size_bytes, f_frsize=1)
    monkeypatch.setattr(os, "statvfs", lambda _path: found)


def test_rings_take_half_of_what_is_free_and_no_more(
    bridge: Any, answers: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = ring_bytes(1000) * KEPT[Level.FULL] * len(SERVICES)
    free(monkeypatch, 2 * needed - 2)
    with pytest.raises(SetupError, match="half of what /dev/shm"):
        start_trace(bridge, 1000)
    assert bridge.run.wanted_trace() is None

    free(monkeypatch, 2 * needed)
    start_trace(bridge, 1000)
    assert bridge.run.wanted_trace() == 1000


def test_rings_of_an_earlier_trace_are_room_for_the_new_one(
    bridge: Any, answers: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = ring_bytes(1000) * KEPT[Level.FULL] * len(SERVICES)
    (bridge.run.trace_folder / "epc.1.full").write_bytes(bytes(needed))
    free(monkeypatch, needed)

    start_trace(bridge, 1000)

    assert bridge.run.wanted_trace() == 1000


@pytest.mark.parametrize("says", [None, {"error": "no ring"}])
def test_service_that_is_silent_or_has_no_ring_is_a_refusal(
    bridge: Any, answers: dict[str, Any], says: dict[str, Any] | None
) -> None:
    del answers["edma"]
    if says is not None:
        answers["edma"] = says

    with pytest.raises(SetupError, match=f"no trace: edma: {'no ring' if says else 'silent'}"):
        start_trace(bridge, 10)
    assert bridge.run.wanted_trace() is None


def test_earlier_trace_goes_when_a_new_one_begins_not_when_it_is_refused(
    bridge: Any, answers: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = bridge.run.trace_folder / "epc.1.full"
    ring.touch()
    with monkeypatch.context() as patch:
        free(patch, 0)
        with pytest.raises(SetupError):
            start_trace(bridge, 10)
    assert ring.exists()

    start_trace(bridge, 10)
    assert not ring.exists()
    with pytest.raises(SetupError, match="is traced already"):
        start_trace(bridge, 10)


def test_without_a_folder_for_rings_there_is_no_trace(bridge: Any, answers: dict[str, Any]) -> None:
    bridge.run.trace_folder.rmdir()

    with pytest.raises(SetupError, match="no folder for its rings"):
        start_trace(bridge, 10)


@pytest.mark.parametrize("records", [0, MAX_RECORDS + 1])
def test_records_out_of_range_are_refused_in_one_line(
    records: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["ntbnet", "trace", "start", "--records", str(records)])

    with pytest.raises(SystemExit) as ended:
        main()

    assert ended.value.code == 2
    assert capsys.readouterr().err == f"ntbnet: --records {records}: allowed are 1..{MAX_RECORDS}\n"
