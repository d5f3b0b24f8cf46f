"""The DesignWare eDMA engine: registers, channels that move data, interrupt lines."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ntbnet.devices.edma import Edma
from ntbnet.edge import startup

RECIPE = startup.Recipe(
    service="edma",
    about=__doc__,
    build=lambda parts: Edma(parts.config, parts.memory),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run until SIGTERM. Exit 0 stopped, 1 failed, 2 bad configuration."""
    parser = argparse.ArgumentParser(prog="edma", description=RECIPE.about)
    return startup.service_main(lambda _: RECIPE, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
