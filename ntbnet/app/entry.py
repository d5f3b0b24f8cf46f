"""Entry point of the ``ntbnet`` command: Ctrl-C during the imports is no traceback either."""

from __future__ import annotations

import sys


def main() -> None:
    """Import the command line, then run it."""
    try:
        from ntbnet.app import cli
    except KeyboardInterrupt:
        sys.exit(130)
    cli.main()


if __name__ == "__main__":
    main()
