"""``ntbnet logs check``, ``timeline``, ``latency`` and ``report``: what the logs of a bridge amount to.

Exit codes: 0 done, 1 nothing was found or a rule is broken, 2 usage.
"""

from __future__ import annotations

import json

import typer

from ntbnet.app.log_check import Breach, Checker
from ntbnet.app.log_filter import filter_from
from ntbnet.app.log_timeline import Failure, Failures
from ntbnet.app.logs_options import (
    AsJson,
    LogFolder,
    Name,
    Paths,
    RunFolder,
    Since,
    Source,
    checked,
    closed_pipe_ends_quietly,
)
from ntbnet.app.logs_text import bare, plain, print_table

MOST_SHOWN = 1000
"""Broken rules that are shown; more are counted."""
CHECK_EXAMPLES = """Examples:

ntbnet logs check

ntbnet logs check saved-logs/ --json | jq .breaches"""

TIMELINE_EXAMPLES = """Examples:

ntbnet logs timeline

ntbnet logs timeline --json history/logs/ | jq '.failures[] | [.service, .first_packet_ms]'"""
STEPS = (
    "service",
    "what",
    "at, s",
    "detected, ms",
    "restarted, ms",
    "ready, ms",
    "link up, ms",
    "first packet, ms",
    "link",
)


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
    checker = Checker()
    found = 0
    shown: list[Breach] = []
    with closed_pipe_ends_quietly():
        for breach in checker.check_all(source.lines(wanted)):
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
            body = {"lines": tally.lines, "skipped": tally.skipped, "broken": found, "breaches": rows}
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
    failures.add_all(source.lines(wanted))
    found = failures.ended()
    with closed_pipe_ends_quietly():
        if as_json:
            rows = [one.to_dict() for one in found]
            tally = source.tally
            about = {"lines": tally.lines, "skipped": tally.skipped, "left_out": failures.left_out}
            print(json.dumps({**about, "failures": rows}, indent=2))
        elif found:
            print_table(STEPS, map(_cells, found), numbers=range(2, 8))
        elif source.tally.lines:
            print(f"no failure in {source.tally.lines} lines")
        source.finish(source.tally.lines)


def _cells(failure: Failure) -> list[str]:
    steps = (
        failure.detected_ns,
        failure.restarted_ns,
        failure.ready_ns,
        failure.link_up_ns,
        failure.first_packet_ns,
    )
    times = [failure.ms(step) for step in steps]
    at_s = (failure.fault_ns - failure.mono_offset_ns) / 1e9
    cells = ["-" if one is None else f"{one:.1f}" for one in times]
    return [
        bare(failure.service),
        bare(failure.kind),
        f"{at_s:.3f}",
        *cells,
        "lost" if failure.link_lost else "kept",
    ]


def add_to(app: typer.Typer) -> None:
    """Make these commands of ``ntbnet logs``."""
    app.command(epilog=CHECK_EXAMPLES)(check)
    app.command(epilog=TIMELINE_EXAMPLES)(timeline)
