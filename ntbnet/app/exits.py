"""How a command ends: an error of ours is one line and an exit code, never a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

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
        # whoever read our output has seen enough; keep the interpreter's last flush quiet
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as problem:
        print(f"ntbnet: {problem}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
