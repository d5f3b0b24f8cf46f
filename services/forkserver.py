"""Every service's imports, done once; started by the supervisor, see ``ntbnet.edge.forkserver``."""

from __future__ import annotations

import argparse
import socket
import sys
from collections.abc import Sequence

from ntbnet.edge import forkserver


def mains() -> dict[str, forkserver.Main]:
    """What runs a service, by its module; imports it all."""
    from services import edma, endpoint, peer, rc_host  # noqa: PLC0415 - not before it ends with its supervisor

    return {module.__name__: module.main for module in (rc_host, endpoint, edma, peer)}


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until the control socket ends. Exit 0, or 1 when its supervisor is gone."""
    parser = argparse.ArgumentParser(prog="forkserver", description=__doc__)
    parser.add_argument("--control-fd", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--name", required=True, help="of the bridge; tells processes of bridges apart")
    parser.add_argument("--room", help="makes room for the longest command line of a service")
    arguments = parser.parse_args(argv)
    with socket.socket(fileno=arguments.control_fd) as control:
        shown = ("services.forkserver", "--name", arguments.name)
        return forkserver.serve(control, arguments.parent, mains, shown)


if __name__ == "__main__":
    sys.exit(main())
