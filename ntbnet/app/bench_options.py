"""Options that the measuring commands of ``ntbnet bench`` share: declared here, and taken as one object."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ntbnet.app import stop_request
from ntbnet.config import Config

DEFAULT_NAME = "ntbnet-bench"

err = Console(stderr=True, highlight=False)


def say(text: str) -> None:
    """Progress, on stderr."""
    err.print(text, markup=False, soft_wrap=True)


@dataclass(frozen=True, slots=True)
class Options:
    """What a command was given; those that it does not take have their defaults."""

    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, raw samples included.")] = (
        False
    )
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE.png", help="Draw a picture too (needs matplotlib).")
    ] = None
    fabric: Annotated[
        list[str] | None,
        typer.Option("--fabric", metavar="FABRIC", help="Only this fabric; may be repeated. All without it."),
    ] = None
    profile: Annotated[
        str | None, typer.Option("--profile", "-p", metavar="P", help="Platform: a profile's name or path.")
    ] = None
    name: Annotated[str, typer.Option("--name", "-n", help="Name of the bench's bridge.")] = DEFAULT_NAME
    config: Annotated[
        str | None,
        typer.Option("--config", "-c", metavar="FILE", help="Configuration (TOML); defaults without it."),
    ] = None
    quick: Annotated[
        bool, typer.Option("--quick", help="Few and short runs: shows that it works, measures little.")
    ] = False

    def load_config(self) -> Config:
        """What the bridges are made from.

        Raises:
            ConfigError: it is wrong.
        """
        from ntbnet.app.bringup import load_whole_config

        return load_whole_config(self.config, self.profile)

    def print(self, result: Mapping[str, Any], show: Callable[[Any, Console], None]) -> None:
        """The result as JSON, or by ``show`` for people."""
        if self.as_json:
            print(json.dumps(result, indent=2))
        else:
            show(result, Console(highlight=False))

    def draw(self, draw: Callable[[Path], None]) -> None:
        """The picture, if one is wanted."""
        if self.plot is not None:
            draw(self.plot)
            say(f"drawn: {self.plot}")


def measuring(
    app: typer.Typer, *without: str, epilog: str
) -> Callable[[Callable[..., dict[str, Any]]], Callable[..., None]]:
    """Make a command of ``app`` from a function that measures, and takes ``Options`` first.

    A picture is refused before anything is measured where it cannot be drawn; signals end the command as
    ``stop_request`` says, so that bridges are stopped. Exit code 1 when the result has figures that do
    not count (``invalid`` or ``unverified``), and says which.

    Args:
        app: gets the command, named as the function.
        without: options that the command does not take.
        epilog: of its help.
    """
    annotations = inspect.get_annotations(Options, eval_str=True)
    shared = [
        inspect.Parameter(
            option.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=option.default,
            annotation=annotations[option.name],
        )
        for option in fields(Options)
        if option.name not in without
    ]

    def register(measure: Callable[..., dict[str, Any]]) -> Callable[..., None]:
        _, *own = inspect.signature(measure, eval_str=True).parameters.values()

        def command(**given: Any) -> None:
            options = Options(**{one.name: given.pop(one.name) for one in shared})
            if options.plot is not None:
                from ntbnet.app import bench_plot

                bench_plot.require_matplotlib(options.plot)
            stop_request.hear()
            result = measure(options, **given)
            complaints = result.get("invalid") or result.get("unverified") or ()
            for complaint in complaints:
                say(f"invalid: {complaint}")
            raise typer.Exit(1 if complaints else 0)

        parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own] + shared
        vars(command)["__signature__"] = inspect.Signature(parameters)
        command.__annotations__ = {one.name: one.annotation for one in parameters}
        command.__doc__ = measure.__doc__
        return app.command(measure.__name__, epilog=epilog)(command)

    return register
