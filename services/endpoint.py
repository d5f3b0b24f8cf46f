"""The endpoint controller: config space, BARs, iATU windows, MSI, and the vNTB function."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ntbnet.devices.endpoint import EndpointController
from ntbnet.edge import startup


def build(parts: startup.Parts) -> EndpointController:
    """The controller with its function bound and its poll running."""
    controller = EndpointController(parts.config, parts.memory, parts.memory_id)
    controller.start(parts.now_ns)
    return controller


RECIPE = startup.Recipe(service="epc", about=__doc__, build=build)


def main(argv: Sequence[str] | None = None) -> int:
    """Run until SIGTERM. Exit 0 stopped, 1 failed, 2 bad configuration."""
    parser = argparse.ArgumentParser(prog="endpoint", description=RECIPE.about)
    return startup.service_main(lambda _: RECIPE, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
