"""``ntbnet logs report``: one file that tells what the logs of a bridge amount to, with pictures.

HTML holds its pictures itself; Markdown has them in files beside it, ``REPORT-1.png`` and so on.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from ntbnet.app.log_check import Breach, Checker
from ntbnet.app.log_course import Course
from ntbnet.app.log_filter import Filter
from ntbnet.app.log_latency import Hop
from ntbnet.app.log_summary import Summary
from ntbnet.app.log_timeline import Failures
from ntbnet.app.logs import Line, Tally
from ntbnet.app.logs_cells import FAILURE_TITLES, HOP_TITLES, failure_cells, hop_cells
from ntbnet.app.logs_text import plain
from ntbnet.app.whole_file import whole_file
from ntbnet.errors import SetupError

FORMATS = (".html", ".md")
MOST_ROWS = 200
"""Of a table; the rest is counted."""
MOST_BREACHES = 50

STYLE = """
body{font:14px/1.45 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#222}
h1,h2{font-weight:600}table{border-collapse:collapse;margin:1rem 0;font-variant-numeric:tabular-nums}
th,td{padding:.2rem .7rem;border-bottom:1px solid #ddd;text-align:left;vertical-align:top}
td.number,th.number{text-align:right}pre{background:#f6f6f6;padding:.6rem;overflow-x:auto}
img{max-width:100%}.bad{color:#b2182b}.good{color:#1b7837}
@media(prefers-color-scheme:dark){body{background:#181818;color:#ddd}th,td{border-color:#444}
pre{background:#262626}img{background:#fff}}"""


@dataclass(slots=True)
class Findings:
    """All that is found in one reading of the logs."""

    summary: Summary = field(default_factory=Summary)
    failures: Failures = field(default_factory=Failures)
    checker: Checker = field(default_factory=Checker)
    course: Course = field(default_factory=Course)
    breaches: list[Breach] = field(default_factory=list)
    """The first ones."""
    broken: int = 0
    hops: Sequence[Hop] = ()

    def read(self, lines: Iterable[Line], wanted: Filter) -> None:
        """Take lines in merged order, to the end.

        Args:
            lines: all of them: the checker looks at those that are not wanted, too.
            wanted: which lines the report is about.
        """
        for line in lines:
            self._keep(self.checker.check(line))
            if wanted.wants(line.fields):
                self.summary.add(line)
                self.failures.add(line)
                self.course.add(line)
        self._keep(self.checker.at_end())

    def _keep(self, breaches: Iterable[Breach]) -> None:
        for breach in breaches:
            self.broken += 1
            if len(self.breaches) < MOST_BREACHES:
                self.breaches.append(breach)


@dataclass(frozen=True, slots=True)
class Table:
    """Printable cells; the columns from ``numbers_from`` on stand right."""

    titles: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: frozenset[int]
    """Indices of the columns that stand left."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A PNG and what it shows."""

    about: str
    png: bytes


Part = str | Table | Picture | list[str]
"""A heading that begins with ``#``, a paragraph, a table, a picture, or lines as they are."""


def require(path: Path) -> None:
    """Before anything is read: the report can be written.

    Raises:
        SetupError: not so; says what to do.
    """
    if find_spec("matplotlib") is None:
        raise SetupError("a report needs matplotlib: pip install 'ntbnet[plots]'")
    if path.suffix not in FORMATS:
        raise SetupError(f"--output {path}: must end in {' or '.join(FORMATS)}")
    if not path.absolute().parent.is_dir():
        raise SetupError(f"--output {path}: there is no folder {path.absolute().parent}")


def write(path: Path, findings: Findings, tally: Tally) -> list[Path]:
    """Write the report; its files, which only their owner can read. Pictures come before what shows them.

    Raises:
        OSError: a file cannot be written.
    """
    parts = _parts(findings, tally)
    if path.suffix == ".html":
        _store(path, _html(parts).encode("utf-8"))
        return [path]
    files = [path]
    texts = []
    for part in parts:
        if isinstance(part, Picture):
            picture = path.with_name(f"{path.stem}-{len(files)}.png")
            _store(picture, part.png)
            files.append(picture)
            texts.append(f"![{part.about}]({picture.name})")
        else:
            texts.append(_markdown(part))
    _store(path, ("\n\n".join(texts) + "\n").encode("utf-8"))
    return files


def _store(path: Path, content: bytes) -> None:
    with whole_file(path) as file:
        file.write(content)


def _parts(findings: Findings, tally: Tally) -> list[Part]:
    from ntbnet.app import log_plot

    summary, course = findings.summary, findings.course
    failures = findings.failures.ended()
    parts: list[Part] = ["# Logs of ntbnet"]
    skipped = f", {tally.skipped} skipped that are no events" if tally.skipped else ""
    events = f"{findings.checker.lines} events{skipped}"
    parts.append(f"{summary.first} to {summary.last}: {events}, {len(failures)} failures.")
    parts.append(Picture("events a second by level; a line for each fault", _events(findings)))
    parts += ["## Services", _services(summary)]
    refusals = _refusals(summary)
    if refusals.rows:
        parts += ["## Refusals by cause", refusals]
    if course.links:
        parts += ["## Links", Picture("links over time", log_plot.links_over_time(course, failures))]
    parts.append("## Failures")
    if failures:
        rows = [failure_cells(one) for one in failures[-MOST_ROWS:]]
        if len(failures) > MOST_ROWS:
            parts.append(f"The last {MOST_ROWS} of {len(failures)}.")
        parts.append(Picture("steps of each recovery", log_plot.failures_by_step(failures)))
        parts.append(Table(FAILURE_TITLES, rows, frozenset({0, 1, 8})))
    else:
        parts.append("None.")
    if findings.hops:
        rows = [hop_cells(hop) for hop in findings.hops]
        parts += ["## Latencies", Picture("hops", log_plot.latencies_by_hop(findings.hops))]
        parts.append(Table(HOP_TITLES, rows, frozenset({0, 1})))
    parts.append("## Check")
    if not findings.broken:
        parts.append(f"Nothing is broken in {findings.checker.lines} lines.")
        return parts
    parts.append(f"{findings.broken} lines break a rule; the first {len(findings.breaches)}:")
    for breach in findings.breaches:
        raw = plain(breach.line.raw.decode("utf-8", "replace"))
        parts.append([f"{breach.rule}: {plain(breach.what)}", raw])
    return parts


def _events(findings: Findings) -> bytes:
    from ntbnet.app import log_plot

    return log_plot.events_over_time(findings.course, findings.failures.ended())


def _services(summary: Summary) -> Table:
    rows = []
    for name, one in sorted(summary.services.items()):
        counts = (one.events, one.warnings, one.errors, one.starts, one.restarts)
        links = "; ".join(
            f"{event}: {c['up']} up, {c['down']} down" for event, c in sorted(one.links.items())
        )
        rows.append([plain(name), *map(str, counts), links])
    titles = ("service", "events", "warnings", "errors", "starts", "restarts", "links")
    return Table(titles, rows, frozenset({0, 6}))


def _refusals(summary: Summary) -> Table:
    rows = [
        [plain(name), plain(cause), str(count)]
        for name, one in sorted(summary.services.items())
        for cause, count in one.refusals.most_common()
    ]
    return Table(("service", "cause", "lines"), rows[:MOST_ROWS], frozenset({0, 1}))


def _markdown(part: str | Table | list[str]) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, list):
        return "\n".join(f"    {line}" for line in part)
    titles = [_cell(title) for title in part.titles]
    rule = ["---" if index in part.left else "---:" for index in range(len(titles))]
    rows = [[_cell(cell) for cell in row] for row in part.rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in [titles, rule, *rows])


def _cell(text: str) -> str:
    """Text that Markdown takes for nothing else."""
    return "".join("\\" + char if char in "\\|`*_<>[]" else char for char in text)


def _html(parts: Iterable[Part]) -> str:
    body = "\n".join(map(_element, parts))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<meta charset="utf-8">\n<title>Logs of ntbnet</title>\n'
        f"<style>{STYLE}</style>\n{body}\n</html>\n"
    )


def _element(part: Part) -> str:
    if isinstance(part, Picture):
        data = base64.b64encode(part.png).decode("ascii")
        return f'<p><img src="data:image/png;base64,{data}" alt="{html.escape(part.about)}"></p>'
    if isinstance(part, Table):
        kinds = ["" if index in part.left else ' class="number"' for index in range(len(part.titles))]
        lines = [_row("th", part.titles, kinds), *(_row("td", row, kinds) for row in part.rows)]
        return "<table>\n" + "\n".join(lines) + "\n</table>"
    if isinstance(part, list):
        return f"<pre>{html.escape(chr(10).join(part))}</pre>"
    marks = len(part) - len(part.lstrip("#"))
    tag = f"h{marks}" if marks else "p"
    return f"<{tag}>{html.escape(part.lstrip('# '))}</{tag}>"


def _row(tag: str, cells: Sequence[str], kinds: Sequence[str]) -> str:
    inner = (f"<{tag}{kind}>{html.escape(cell)}</{tag}>" for cell, kind in zip(cells, kinds, strict=True))
    return f"<tr>{''.join(inner)}</tr>"
