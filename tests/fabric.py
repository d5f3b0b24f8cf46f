"""Which fabric the tests run in: NTBNET_TEST_FABRIC, or the default of the configuration."""

from __future__ import annotations

import os
from dataclasses import replace

from ntbnet.config import Config
from ntbnet.sections import Bridge

FABRIC = os.environ.get("NTBNET_TEST_FABRIC") or Bridge().fabric


def in_fabric(config: Config, fabric: str = FABRIC) -> Config:
    """The same configuration in that fabric."""
    return replace(config, bridge=replace(config.bridge, fabric=fabric))
