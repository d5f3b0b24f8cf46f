"""Which fabric the tests run in: NTBNET_TEST_FABRIC, or the default of the configuration."""

from __future__ import annotations

import os
import tomllib
from dataclasses import replace

from ntbnet.config import Config
from ntbnet.sections import Bridge

FABRIC = os.environ.get("NTBNET_TEST_FABRIC") or Bridge().fabric


def in_fabric(config: Config, fabric: str = FABRIC) -> Config:
    """The same configuration in that fabric."""
    return replace(config, bridge=replace(config.bridge, fabric=fabric))


def text_in_fabric(text: str, fabric: str = FABRIC) -> str:
    """TOML text that selects that fabric, unless it selects one itself."""
    bridge = tomllib.loads(text).get("bridge")
    if bridge is None:
        return f'{text}\n[bridge]\nfabric = "{fabric}"\n'
    return text if "fabric" in bridge else text.replace("[bridge]\n", f'[bridge]\nfabric = "{fabric}"\n', 1)
