"""How a command ends: an error of ours is one line and an exit code, never a traceback."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator

from ntbnet.errors import ConfigError, NtbnetError


def code_of(problem: NtbnetError) -> int:
    """Exit code of a command that failed so."""
    return 2 if isinstance(problem, ConfigError) else 1


def run(command: Callable[[], object]) -> None:
    """Run a command to its end.

    Raises:
        SystemExit: 2 wrong configuration, 1 any other failure, 130 Ctrl-C.
    """
    try:
        command()
    except NtbnetError as problem:
        print(f"ntbnet: {problem}", file=sys.stderr)
        sys.exit(code_of(problem))
    except BrokenPipeError:
        _write_no_more()
        sys.exit(1)
    except OSError as problem:
        print(f"ntbnet: {problem}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


@contextlib.contextmanager
def closed_pipe_ends_quietly() -> Iterator[None]:
    """For a block that prints: whoever read it and went away has seen enough, which is no failure."""
    try:
        yield
    except BrokenPipeError:
        _write_no_more()


def _write_no_more() -> None:
    """What is still buffered would be written, and fail again, when the interpreter ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
