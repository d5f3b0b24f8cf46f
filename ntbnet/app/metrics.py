"""The way from the supervisor to its metrics endpoint, whose library may be missing and is imported late."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ntbnet.config import Config
from ntbnet.edge.rundir import RunDir
from ntbnet.errors import ConfigError

if TYPE_CHECKING:
    from ntbnet.app.metrics_endpoint import Endpoint


def metrics_endpoint(
    config: Config, run: RunDir, restarts: Callable[[], Mapping[str, int]]
) -> Endpoint | None:
    """The endpoint that the configuration asks for, bound and not started; None when it asks for none.

    Args:
        config: of the bridge.
        run: its run folder.
        restarts: how often each service of this machine was replaced; called from another thread.

    Raises:
        ConfigError: its library is not installed.
        SetupError: the port cannot be had.
    """
    if not config.metrics.port:
        return None
    try:
        from ntbnet.app.metrics_endpoint import Endpoint
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] != "prometheus_client":
            raise
        raise ConfigError(
            f"metrics.port = {config.metrics.port}: prometheus-client is not installed; "
            "pip install 'ntbnet[metrics]', or set 0 for no metrics"
        ) from None
    return Endpoint(config, run, restarts)
