"""An NTB client peer: the NTB driver of its node, ntb_transport, and ntb_netdev on the TUN."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ntbnet.devices.peer_ep import EpPeer
from ntbnet.devices.peer_rc import RcPeer
from ntbnet.edge import startup

RECIPES = {
    "rc": startup.Recipe(
        service="peer-rc",
        about=__doc__,
        build=lambda parts: RcPeer(
            parts.config, parts.memory, parts.incarnation, parts.far, link_wanted=parts.link_wanted
        ),
        needs_tun=True,
        stores_far=True,
    ),
    "ep": startup.Recipe(
        service="peer-ep",
        about=__doc__,
        build=lambda parts: EpPeer(
            parts.config, parts.memory, parts.incarnation, parts.far, link_wanted=parts.link_wanted
        ),
        needs_tun=True,
        stores_far=True,
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run until SIGTERM. Exit 0 stopped, 1 failed, 2 bad configuration."""
    parser = argparse.ArgumentParser(prog="peer", description=__doc__)
    parser.add_argument("--node", choices=sorted(RECIPES), required=True, help="which host this peer runs on")
    return startup.service_main(lambda arguments: RECIPES[arguments.node], parser, argv)


if __name__ == "__main__":
    sys.exit(main())
