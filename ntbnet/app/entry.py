"""Entry point of the ``ntbnet`` command: Ctrl-C during the imports is no traceback either.

``ntbnet logs`` imports only what it needs: it starts sooner, and a log that is too large for anything else is
read in a third less memory.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Import the command line, then run it."""
    try:
        if sys.argv[1:2] == ["logs"]:
            from ntbnet.app.logs_cli import main as run
        else:
            from ntbnet.app.cli import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
