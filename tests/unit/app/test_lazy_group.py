"""Commands of which most others need nothing are imported when they are asked for."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from typing import ClassVar

import pytest
import typer
from typer.testing import CliRunner

from ntbnet.app.cli import app
from ntbnet.app.lazy_group import LazyGroup
from tests.live.bridge import child_environment

ELSEWHERE = ["keys", "logs", "bench", "chaos", "layout", "link", "reset", "explain", "trace", "top"]
NOT_FOR_EVERY_COMMAND = {
    *("asyncio", "zmq", "uvloop", "structlog", "pyroute2"),
    *("ntbnet.app.demo", "ntbnet.app.supervisor", "ntbnet.app.bench", "ntbnet.app.chaos_cli"),
    *("ntbnet.app.layout_cli", "ntbnet.app.logs_cli", "ntbnet.edge.startup", "ntbnet.edge.driver"),
}


def test_command_line_imports_nothing_that_only_some_commands_need() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys; import ntbnet.app.cli; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        env=child_environment(),
    )

    modules = set(done.stdout.split())
    assert "ntbnet.app.cli" in modules
    assert modules & NOT_FOR_EVERY_COMMAND == set()


def test_help_lists_them() -> None:
    told = CliRunner().invoke(app, ["--help"]).output

    assert [name for name in ELSEWHERE if f"│ {name} " not in told] == []


@pytest.mark.parametrize("name", ELSEWHERE)
def test_they_have_the_name_they_are_asked_by(name: str) -> None:
    told = CliRunner().invoke(app, [name, "-h"])

    assert told.exit_code == 0, told.output
    assert f"{name} [OPTIONS]" in told.output
    assert "--install-completion" not in told.output


def test_wrong_name_suggests_one_that_is_not_imported_yet() -> None:
    told = CliRunner().invoke(app, ["explian"])

    assert told.exit_code == 2
    assert "Did you mean 'explain'?" in told.output


def test_a_group_gives_the_same_command_again() -> None:
    class Group(LazyGroup):
        elsewhere: ClassVar[Mapping[str, str]] = {"reset": "ntbnet.app.link_cli:reset_app"}

    group = Group(name="group")
    context = typer.Context(group)

    assert group.list_commands(context) == ["reset"]
    assert group.get_command(context, "reset") is group.get_command(context, "reset")
    assert group.get_command(context, "reset").name == "reset"
    assert group.get_command(context, "rest") is None
