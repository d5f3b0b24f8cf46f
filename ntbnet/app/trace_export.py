"""``ntbnet trace export``: what the trace rings hold, as a file for Wireshark or Perfetto.

Exit codes: 0 done, 1 there are no records or the file cannot be written, 2 usage.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer

from ntbnet import __version__
from ntbnet.app.bridge import Bridge
from ntbnet.app.exits import closed_pipe_ends_quietly
from ntbnet.app.layout_cli import assigned_spans
from ntbnet.app.trace_progress import read_with_bar
from ntbnet.app.whole_file import whole_file
from ntbnet.edge.config_file import DEFAULT_NAME, load_config
from ntbnet.edge.rundir import RunDir
from ntbnet.edge.trace_rings import RingFile, find_rings
from ntbnet.errors import SetupError
from ntbnet.trace_pcapng import PcapngTrace
from ntbnet.trace_places import Places
from ntbnet.trace_records import Level, Record, RingHeader
from ntbnet.trace_whole import whole_events

EXAMPLES = """Examples:

ntbnet trace export -o trace.pcapng

ntbnet trace export -o last.perfetto-trace --seconds 2

ntbnet trace export -o - --format pcapng | wireshark -k -i -

ntbnet trace export -o crash.pcapng --last

ntbnet trace export -o crash.pcapng saved-trace/"""

STDOUT = "-"
LAST_HELP = "The rings of the run before this one, which was killed: ntbnet up keeps them."


class Format(StrEnum):
    """Values of --format."""

    PCAPNG = "pcapng"
    PERFETTO = "perfetto"


SUFFIXES = {
    ".pcapng": Format.PCAPNG,
    ".perfetto-trace": Format.PERFETTO,
    ".pftrace": Format.PERFETTO,
}

Entries = Iterable[tuple[RingHeader, Record]]


def export(
    output: Annotated[
        str,
        typer.Option(
            "--output", "-o", metavar="FILE", help="File to write; its end tells the format. - is stdout."
        ),
    ],
    folder: Annotated[
        Path | None, typer.Argument(metavar="[FOLDER]", help="Folder of rings; without it the bridge's.")
    ] = None,
    last: Annotated[bool, typer.Option("--last", help=LAST_HELP)] = False,
    name: Annotated[str, typer.Option("--name", "-n", help="Bridge whose trace to take.")] = DEFAULT_NAME,
    config: Annotated[
        str | None,
        typer.Option("--config", "-c", metavar="FILE", help="Configuration that has its run folder."),
    ] = None,
    file_format: Annotated[
        Format | None, typer.Option("--format", help="Format, where the file's name does not tell it.")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option("--seconds", "-s", min=0.001, help="Only the last so many seconds.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object about what was written.")
    ] = False,
) -> None:
    """Write what the services noted down, in one order of time, as pcapng (Wireshark) or Perfetto trace."""
    chosen = _format_of(output, file_format)
    if as_json and output == STDOUT:
        raise typer.BadParameter("--json and the file cannot both go to stdout", param_hint="--json")
    if last and folder is not None:
        raise typer.BadParameter("a folder is given already", param_hint="--last")
    fallback = load_config(config, None, None)
    bridge = Bridge(RunDir(fallback.run.dir, name), fallback)
    if last:
        folder = bridge.run.last_trace_folder
    found, complaints = find_rings(folder or bridge.run.trace_folder)
    for complaint in complaints:
        _say(f"left out: {complaint}")
    if not any(ring.last for ring in found):
        raise SetupError(f"no trace in {folder or bridge.run.trace_folder}; is the bridge up?")
    if not any(ring.header.level == Level.FULL for ring in found):
        _say("only starts, links and events were noted down; for every access and frame: ntbnet trace start")
    report = _write(output, chosen, found, seconds, _places(bridge, folder))
    report["complaints"] = complaints
    if not report["records"]:
        raise SetupError("no records in that time")
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        _say(_summary(report))


def _format_of(output: str, wanted: Format | None) -> Format:
    chosen = wanted or SUFFIXES.get(Path(output).suffix)
    if chosen is None:
        known = ", ".join(SUFFIXES)
        raise typer.BadParameter(
            f"{output!r} ends in none of {known}; or give --format", param_hint="--output"
        )
    if chosen is Format.PERFETTO and find_spec("perfetto") is None:
        raise SetupError("Perfetto traces need the package perfetto: pip install 'ntbnet[trace]'")
    return chosen


def _places(bridge: Bridge, folder: Path | None) -> Places:
    """Names of addresses; those of a folder's rings are named as the configuration at hand plans them."""
    if folder is not None or not bridge.is_up():
        return Places(bridge.config)
    spans = assigned_spans(bridge.answers())
    return Places(bridge.config, spans or None)


def _write(
    output: str, chosen: Format, rings: list[RingFile], seconds: float | None, places: Places
) -> dict[str, Any]:
    records: Counter[str] = Counter()
    first_last: list[int] = []
    since = _since(rings, seconds)
    wanted = (entry for entry in read_with_bar(rings) if entry.record.mono_ns >= since)
    entries = _counted(whole_events(wanted), records, first_last)
    if chosen is Format.PCAPNG:
        comment = "" if seconds is None else f"the last {seconds:g} s"
        pcapng = PcapngTrace(f"ntbnet {__version__}", places, comment)
        size = _store(output, pcapng.blocks(entries))
        more: dict[str, Any] = {"packets": dict(pcapng.packets), "missing": pcapng.missing}
    else:
        from ntbnet.trace_perfetto import PerfettoTrace

        perfetto = PerfettoTrace(places)
        size = _store(output, perfetto.chunks(entries))
        flows = {"begun": perfetto.frames_begun, "ended": perfetto.frames_ended}
        more = {"events": perfetto.events, "flows": flows}
    return {
        "file": output,
        "format": chosen.value,
        "bytes": size,
        "records": records.total(),
        "services": dict(sorted(records.items())),
        "seconds": (first_last[1] - first_last[0]) / 1e9 if first_last else 0.0,
        "overwritten": sum(ring.overwritten for ring in rings),
        "torn": sum(ring.torn for ring in rings),
        **more,
    }


def _since(rings: list[RingFile], seconds: float | None) -> int:
    """Monotonic ns from which on records are wanted: so long before the newest record of all."""
    if seconds is None:
        return 0
    newest = [
        record.mono_ns for ring in rings for record in dataclasses.replace(ring, first=ring.last).records()
    ]
    return max(newest, default=0) - round(seconds * 1e9)


def _counted(
    entries: Entries, records: Counter[str], first_last: list[int]
) -> Iterator[tuple[RingHeader, Record]]:
    for entry in entries:
        ring, record = entry
        records[ring.label] += 1
        if not first_last:
            first_last[:] = [record.mono_ns, record.mono_ns]
        first_last[1] = record.mono_ns
        yield entry


def _store(output: str, parts: Iterable[bytes]) -> int:
    """Write a file whole or not at all, for nobody else to read; bytes written."""
    if output == STDOUT:
        return _to_stdout(parts)
    try:
        with whole_file(Path(output)) as file:
            return _copy(file, parts)
    except OSError as problem:
        raise SetupError(f"cannot write {output}: {problem.strerror}") from None


def _copy(file: BinaryIO, parts: Iterable[bytes]) -> int:
    size = 0
    for one in parts:
        size += file.write(one)
    return size


def _to_stdout(parts: Iterable[bytes]) -> int:
    with closed_pipe_ends_quietly():
        size = _copy(sys.stdout.buffer, parts)
        sys.stdout.flush()
        return size
    raise typer.Exit(0)


def _summary(report: dict[str, Any]) -> str:
    text = (
        f"{report['file']}: {report['records']} records of {report['seconds']:.3f} s, {report['bytes']} bytes"
    )
    if "flows" in report:
        flows = report["flows"]
        text += f"; {flows['begun']} frames sent, {flows['ended']} arrived"
    if report["overwritten"]:
        text += f"; {report['overwritten']} older records were overwritten in the rings"
    return text


def _say(text: str) -> None:
    print(f"ntbnet trace: {text}", file=sys.stderr)
