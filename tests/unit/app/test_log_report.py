"""The report: what it holds, in both formats, and that its pictures are pictures."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ntbnet.app import log_course
from ntbnet.app.log_course import Course
from ntbnet.app.logs_cli import app
from ntbnet.errors import SetupError
from tests.unit.app.log_lines import Fields, encoded, fault, healthy, lines_of, said, transport

PNG = b"\x89PNG\r\n\x1a\n"


def report(folder: Path, story: list[Fields], name: str) -> str:
    (folder / "bridge.jsonl").write_bytes(encoded(story))
    done = CliRunner().invoke(app, ["report", "-o", str(folder / name), str(folder / "bridge.jsonl")])
    assert done.exit_code == 0, done.output
    return (folder / name).read_text()


def test_html_holds_all_by_itself(tmp_path: Path) -> None:
    text = report(tmp_path, healthy(), "report.html")

    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    assert len(pictures) == 3
    assert all(base64.b64decode(one).startswith(PNG) for one in pictures)
    assert "src=" not in text.replace('src="data:', "")
    assert "<td>epc</td><td>kill</td>" in text
    assert '<td class="number">172.0</td>' in text
    assert f"Nothing is broken in {len(healthy())} lines." in text


def test_markdown_has_its_pictures_beside_it(tmp_path: Path) -> None:
    text = report(tmp_path, healthy(), "report.md")

    names = re.findall(r"!\[[^]]*\]\(([^)]+)\)", text)
    assert names == ["report-1.png", "report-2.png", "report-3.png"]
    assert all((tmp_path / name).read_bytes().startswith(PNG) for name in names)
    assert "| epc | kill |" in text


def test_broken_lines_are_shown_and_what_they_hold_is_text(tmp_path: Path) -> None:
    evil = "</pre><script>alert(1)</script>"
    story = [*healthy(), said(12_020, "epc", "path.refused", peer=evil, cause=evil, count=1, more=evil)]

    html, markdown = report(tmp_path, story, "report.html"), report(tmp_path, story, "report.md")

    assert "keys: with more" in html
    assert "<script>" not in html
    assert "path.refused" in markdown
    assert "\n</pre><script>" not in markdown
    assert r"\</pre\>\<script\>" in markdown


def test_names_that_no_font_and_no_formula_has_are_drawn(tmp_path: Path) -> None:
    evil = r"$\frac{" + "\ud800"
    story = [transport(0, evil, up=True), fault(5, evil, evil), transport(10, evil, up=False)]

    text = report(tmp_path, story, "report.html")

    assert r"$\\frac{\ud800" in text


def test_log_without_failures_or_links_makes_a_report(tmp_path: Path) -> None:
    text = report(tmp_path, healthy()[:2], "report.md")

    assert "## Failures\n\nNone." in text
    assert "## Links" not in text


@pytest.mark.parametrize("name", ["report.pdf", "absent/report.html"])
def test_place_that_takes_no_report_is_refused_before_anything_is_read(tmp_path: Path, name: str) -> None:
    done = CliRunner().invoke(app, ["report", "-o", str(tmp_path / name), str(tmp_path / "absent.jsonl")])

    assert isinstance(done.exception, SetupError)
    assert "--output" in str(done.exception)


def test_course_of_a_log_of_any_length_has_so_many_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    course = Course()
    for line in lines_of([said(ms * 100, "epc", "mw.cleared", widx=0) for ms in range(2000)]):
        course.add(line)

    steps = course.levels["info"]
    assert max(steps) < log_course.MOST_STEPS <= 2 * (max(steps) + 1)
    assert sum(steps.values()) == 2000


def test_link_of_a_process_that_died_is_down() -> None:
    course = Course()
    story = [
        transport(0, "peer-rc", up=True),
        said(10, "supervisor", "supervisor.service_died", name="peer-rc", child_pid=1, status=-9),
        fault(20, "kill", "epc"),
    ]
    for line in lines_of(story):
        course.add(line)

    (spans,) = course.spans().values()
    assert [(span.up, (span.end_ns - span.start_ns) // 1_000_000) for span in spans] == [
        (True, 10),
        (False, 11),
    ]
