"""``ntbnet logs check``, ``timeline``, ``latency`` and ``report``: what the logs of a bridge amount to.

Exit codes: 0 done, 1 nothing was found or a rule is broken, 2 usage.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from ntbnet.app import log_report
from ntbnet.app.exits import closed_pipe_ends_quietly
from ntbnet.app.json_rows import write_with_rows
from ntbnet.app.log_check import Breach, Checker
from ntbnet.app.log_filter import filter_from
from ntbnet.app.log_latency import ring_latencies
from ntbnet.app.log_timeline import Failures
from ntbnet.app.logs_cells import FAILURE_TITLES, HOP_TITLES, failure_cells, hop_cells
from ntbnet.app.logs_options import (
    DEFAULT_NAME,
    AsJson,
    LogFolder,
    Name,
    Paths,
    RunFolder,
    Since,
    Source,
    checked,
    progress,
)
from ntbnet.app.logs_text import plain, print_table
from ntbnet.edge.rundir import RunDir
from ntbnet.errors import ConfigError, SetupError

MOST_SHOWN = 1000
"""Broken rules that are shown; more are counted."""
MOST_FAILURES = 500
"""Of the table that people read: it is made whole."""
CHECK_EXAMPLES = """Examples:

ntbnet logs check

ntbnet logs check saved-logs/ --json | jq .breaches"""

TIMELINE_EXAMPLES = """Examples:

ntbnet logs timeline

ntbnet logs timeline --json history/logs/ | jq '.failures[] | [.service, .first_packet_ms]'"""
LATENCY_EXAMPLES = """Examples:

ntbnet trace start && ntbnet ping -c 100 && ntbnet logs latency

ntbnet logs latency --json saved-trace/ | jq '."end to end"'"""
REPORT_EXAMPLES = """Examples:

ntbnet logs report -o report.html

ntbnet logs report -o report.md history/logs/"""


def check(
    paths: Paths = None,
    name: Name = None,
    run_dir: RunFolder = None,
    log_dir: LogFolder = None,
    since: Since = "",
    as_json: AsJson = False,
) -> None:
    """Look for lines that break a rule: no up after a down, errors without a cause, numbers, keys.

    Exit code 1 when there are any; they are shown.
    """
    wanted = checked(lambda: filter_from(since=since))
    source = Source(paths, name, run_dir, log_dir)
    checker = Checker(wanted.since)
    found = 0
    shown: list[Breach] = []
    with closed_pipe_ends_quietly():
        for breach in checker.check_all(progress(source.lines(), source.tally)):
            found += 1
            if found <= MOST_SHOWN:
                if as_json:
                    shown.append(breach)
                else:
                    print(f"{breach.rule}: {plain(breach.what)}")
                    print(f"    {plain(breach.line.raw.decode('utf-8', 'replace'))}")
        if as_json:
            rows = [{"rule": one.rule, "what": one.what, "line": one.line.fields} for one in shown]
            tally = source.tally
            body = {"lines": checker.lines, "skipped": tally.skipped, "broken": found, "breaches": rows}
            print(json.dumps(body, indent=2))
        elif found:
            more = f", the first {MOST_SHOWN} are shown" if found > MOST_SHOWN else ""
            print(f"{found} broken in {checker.lines} lines{more}")
        else:
            print(f"nothing is broken in {checker.lines} lines")
        source.finish(checker.lines)
    if found:
        raise typer.Exit(1)


def timeline(
    paths: Paths = None,
    name: Name = None,
    run_dir: RunFolder = None,
    log_dir: LogFolder = None,
    since: Since = "",
    as_json: AsJson = False,
) -> None:
    """Show each failure: when it was noticed, the service restarted, the link up, the first packet across.

    Exit code 1 when there is no line to read; no failure is no error.
    """
    wanted = checked(lambda: filter_from(since=since))
    source = Source(paths, name, run_dir, log_dir)
    failures = Failures()
    failures.add_all(progress(source.lines(wanted), source.tally))
    found = failures.ended()
    with closed_pipe_ends_quietly():
        if as_json:
            tally = source.tally
            about = {"lines": tally.lines, "skipped": tally.skipped, "left_out": failures.left_out}
            write_with_rows(sys.stdout, about, "failures", (one.to_dict() for one in found))
        elif found:
            print_table(FAILURE_TITLES, map(failure_cells, found[-MOST_FAILURES:]), numbers=range(2, 8))
            if len(found) > MOST_FAILURES:
                print(f"the last {MOST_FAILURES} of {len(found)} failures; --json tells all of them")
        elif source.tally.lines:
            print(f"no failure in {source.tally.lines} lines")
        source.finish(source.tally.lines)


def latency(
    path: Annotated[
        Path | None, typer.Argument(metavar="PATH", help="Folder of trace rings; without it the bridge's.")
    ] = None,
    name: Name = None,
    run_dir: RunFolder = None,
    as_json: AsJson = False,
) -> None:
    """Show how long packets and interrupts take: end to end, each hop, each handler. From trace rings.

    Exit code 1 when there is no stamp: `ntbnet trace start` makes services note them down.
    """
    latencies, problems = ring_latencies(_ring_folder(path, name, run_dir))
    for problem in problems:
        print(f"ntbnet logs: {problem}", file=sys.stderr)
    hops = latencies.hops()
    with closed_pipe_ends_quietly():
        if as_json:
            print(json.dumps({"records": latencies.records, **latencies.to_dict()}, indent=2))
        elif hops:
            print_table(HOP_TITLES, map(hop_cells, hops), numbers=range(2, 9))
    if not hops:
        how = "ntbnet trace start, some traffic, then this again"
        print(f"ntbnet logs: no stamps of packets in {latencies.records} records: {how}", file=sys.stderr)
        raise typer.Exit(1)


def _ring_folder(path: Path | None, name: str | None, run_dir: Path | None) -> Path:
    if path is not None and (name or run_dir):
        raise typer.BadParameter("give either a path, or --name and --run-dir")
    if path is not None:
        return path
    try:
        return RunDir(run_dir or "", name or DEFAULT_NAME).trace_folder
    except ConfigError as problem:
        raise typer.BadParameter(str(problem), param_hint="--name") from None


def report(
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Report to write: .html or .md.")
    ],
    paths: Paths = None,
    name: Name = None,
    run_dir: RunFolder = None,
    log_dir: LogFolder = None,
    since: Since = "",
    trace: Annotated[
        Path | None,
        typer.Option("--trace", metavar="DIR", help="Folder of trace rings, for latencies."),
    ] = None,
) -> None:
    """Write one file of summary, failures, latencies and broken rules, with pictures."""
    log_report.require(output)
    wanted = checked(lambda: filter_from(since=since))
    source = Source(paths, name, run_dir, log_dir)
    findings = log_report.Findings(checker=Checker(wanted.since))
    findings.read(progress(source.lines(), source.tally), wanted)
    if trace is not None or not paths:
        folder = _ring_folder(trace, None if trace else name, None if trace else run_dir)
        findings.hops = ring_latencies(folder)[0].hops()
    if findings.checker.lines:
        try:
            for path in log_report.write(output, findings, source.tally):
                print(path)
        except OSError as problem:
            raise SetupError(f"--output {output}: {problem.strerror}") from None
    source.finish(findings.checker.lines)


def add_to(app: typer.Typer) -> None:
    """Make these commands of ``ntbnet logs``."""
    app.command(epilog=CHECK_EXAMPLES)(check)
    app.command(epilog=TIMELINE_EXAMPLES)(timeline)
    app.command(epilog=LATENCY_EXAMPLES)(latency)
    app.command(epilog=REPORT_EXAMPLES)(report)
