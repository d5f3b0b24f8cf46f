"""``ntbnet trace export``: formats, refusals, and files that are there whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ntbnet.app.cli import app
from ntbnet.errors import SetupError
from ntbnet.trace_records import HEADER_BYTES, Level, pack_header, pack_record
from ntbnet.wire import LABELS, Service
from tests.pcapng_blocks import read_section
from tests.perfetto_flows import parse
from tests.trace_samples import packets, ring_of


def run(*words: str) -> Result:
    return CliRunner().invoke(app, ["trace", "export", *words])


@pytest.fixture
def rings(tmp_path: Path) -> Path:
    """A folder of rings with four packets in them, as a killed bridge leaves it."""
    folder = tmp_path / "rings"
    folder.mkdir()
    entries = list(packets(4))
    for service in Service:
        mine = [record for ring, record in entries if ring.service == service]
        header = ring_of(service)._replace(capacity=64)
        body = b"".join(map(pack_record, mine)).ljust(64 * 128, b"\0")
        (folder / f"{LABELS[service]}.7.full").write_bytes(pack_header(header) + body)
    return folder


@pytest.mark.parametrize("name", ["t.pcapng", "t.perfetto-trace", "t.pftrace"])
def test_the_name_of_the_file_tells_the_format(rings: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / name

    done = run(str(rings), "-o", str(path))

    assert done.exit_code == 0, done.output
    if name.endswith(".pcapng"):
        assert len(read_section(path.read_bytes()).packets) == 4 * 10 + 8
    else:
        assert len(parse(path.read_bytes()).frame_flows()) == 4


def test_report_tells_what_was_written(rings: Path, tmp_path: Path) -> None:
    path = tmp_path / "t.pcapng"

    report = json.loads(run(str(rings), "-o", str(path), "--json").stdout)

    assert report["records"] == 4 * 10 == sum(report["services"].values())
    assert report["packets"] == {"bridge": 4 * 10, "ntb0@rc": 4, "ntb0@ep": 4}
    assert (report["bytes"], report["missing"]) == (path.stat().st_size, 0)


def test_last_seconds_end_with_the_newest_record(rings: Path, tmp_path: Path) -> None:
    report = json.loads(
        run(str(rings), "-o", str(tmp_path / "t.pcapng"), "--json", "--seconds", "0.001").stdout
    )
    nothing_less = json.loads(run(str(rings), "-o", str(tmp_path / "t.pcapng"), "--json", "-s", "10").stdout)

    assert report["records"] == nothing_less["records"] == 40


def test_a_format_can_be_asked_for(rings: Path, tmp_path: Path) -> None:
    done = run(str(rings), "-o", str(tmp_path / "x"), "--format", "pcapng")

    assert done.exit_code == 0
    assert read_section((tmp_path / "x").read_bytes()).packets


def test_stdout_gets_the_file_alone(rings: Path) -> None:
    done = run(str(rings), "-o", "-", "--format", "pcapng")

    assert len(read_section(done.stdout_bytes).packets) == 48


def test_an_unknown_end_of_the_name_is_refused(rings: Path, tmp_path: Path) -> None:
    done = run(str(rings), "-o", str(tmp_path / "trace.txt"))

    assert done.exit_code == 2
    assert ".pcapng, .perfetto-trace, .pftrace" in " ".join(done.stderr.split())


def test_json_and_the_file_cannot_share_stdout(rings: Path) -> None:
    assert run(str(rings), "-o", "-", "--format", "pcapng", "--json").exit_code == 2


def test_a_folder_without_rings_is_an_error_and_leaves_no_file(tmp_path: Path) -> None:
    done = run(str(tmp_path), "-o", str(tmp_path / "t.pcapng"))

    assert isinstance(done.exception, SetupError)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_is_an_error(rings: Path, tmp_path: Path) -> None:
    done = run(str(rings), "-o", str(tmp_path / "no" / "such" / "t.pcapng"))

    assert isinstance(done.exception, SetupError)
    assert "cannot write" in str(done.exception)


def test_an_export_that_fails_leaves_the_file_that_was_there(
    rings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.pcapng"
    path.write_text("older")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    done = run(str(rings), "-o", str(path))

    assert "No space left" in str(done.exception)
    assert path.read_text() == "older"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["rings", "t.pcapng"]


def test_damaged_rings_are_left_out_and_told(rings: Path, tmp_path: Path) -> None:
    (rings / "epc.1.full").write_bytes(b"NTBTRACE" + bytes(500))

    done = run(str(rings), "-o", str(tmp_path / "t.pcapng"), "--json")

    assert done.exit_code == 0
    assert "left out: epc.1.full" in done.stderr
    assert len(json.loads(done.stdout)["complaints"]) == 1


def test_coarse_rings_alone_are_exported_with_a_word_of_it(rings: Path, tmp_path: Path) -> None:
    for path in rings.iterdir():
        data = bytearray(path.read_bytes())
        data[12] = Level.COARSE
        path.with_suffix(".coarse").write_bytes(data)
        path.unlink()

    done = run(str(rings), "-o", str(tmp_path / "t.pcapng"))

    assert done.exit_code == 0
    assert "ntbnet trace start" in done.stderr
    assert HEADER_BYTES == 256
