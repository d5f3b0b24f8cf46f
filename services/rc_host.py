"""The RC host: root complex, PCI enumeration, MSI target, RC DRAM."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ntbnet.devices.root_complex import RootComplex
from ntbnet.edge import startup

RECIPE = startup.Recipe(
    service="rc-host",
    about=__doc__,
    build=lambda parts: RootComplex(parts.config, parts.memory, parts.memory_id),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run until SIGTERM. Exit 0 stopped, 1 failed, 2 bad configuration."""
    parser = argparse.ArgumentParser(prog="rc_host", description=RECIPE.about)
    return startup.service_main(lambda _: RECIPE, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
