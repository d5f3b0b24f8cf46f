"""The command's entry: the same command line, whatever part of it is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
HEAVY = ("zmq", "pyroute2", "matplotlib", "ntbnet.app.supervisor")

CODE = """
import sys
sys.argv = {words}
from ntbnet.app.entry import main
try:
    main()
finally:
    print([name for name in {heavy} if name in sys.modules], file=sys.stderr)
"""


def run(*words: str) -> subprocess.CompletedProcess[str]:
    code = CODE.format(words=["ntbnet", *words], heavy=HEAVY)
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.slow
def test_reading_logs_imports_nothing_that_a_bridge_needs(tmp_path: Path) -> None:
    (tmp_path / "epc.jsonl").write_text("no event\n")

    done = run("logs", "summary", str(tmp_path))

    assert done.returncode == 1
    assert "1 lines skipped" in done.stderr
    assert done.stderr.endswith("\n[]\n")


@pytest.mark.slow
@pytest.mark.parametrize("words", [("logs", "report", "-o", "report.pdf"), ("up", "--name", "No/Name")])
def test_error_is_one_line_of_ntbnet_and_an_exit_code(words: tuple[str, ...]) -> None:
    done = run(*words)

    assert done.returncode in {1, 2}
    assert done.stderr.startswith("ntbnet: ")
    assert "Traceback" not in done.stderr
