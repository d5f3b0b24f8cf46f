"""A group of commands that imports some of them only when they are asked for.

Most of what a command takes to start is imports, and most of those belong to other commands.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, ClassVar

import typer
from typer.core import TyperGroup


class LazyGroup(TyperGroup):
    """A ``cls`` for ``typer.Typer``; a subclass says what is elsewhere."""

    elsewhere: ClassVar[Mapping[str, str]] = {}
    """Name of a command or group -> ``module:attribute`` of the ``typer.Typer`` that it is. Listed last."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        # a name with nothing behind it yet: the list of commands and "did you mean" know it
        self.commands: dict[str, Any] = {**self.commands, **dict.fromkeys(self.elsewhere)}

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name; None without one."""
        if cmd_name in self.commands and self.commands[cmd_name] is None:
            module, _, attribute = self.elsewhere[cmd_name].partition(":")
            command = typer.main.get_command(getattr(importlib.import_module(module), attribute))
            command.name = cmd_name
            self.commands[cmd_name] = command
        return self.commands.get(cmd_name)
