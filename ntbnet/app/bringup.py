"""Bringing a bridge up around a piece of work: ``up`` waits inside, ``demo`` pings inside.

Signals are requests to take down what was made, from before anything is made; nothing that waits
in between outlives such a request.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import TypeVar

from ntbnet.app.bridge import SUPERVISOR, Bridge
from ntbnet.app.stop_request import STOP_SIGNALS
from ntbnet.app.supervisor import Supervisor
from ntbnet.config import Config
from ntbnet.edge.config_file import load_config
from ntbnet.errors import ConfigError, SetupError

T = TypeVar("T")


def load_whole_config(path: str | None, profile: str | None) -> Config:
    """The configuration of a bridge whose two nodes run here: what measures and demonstrates needs both.

    Raises:
        ConfigError: as ``load_config``; or one of the nodes runs on another machine.
    """
    config = load_config(path, profile)
    if config.is_apart:
        raise ConfigError(
            f'{path}: machine.node = "{config.machine.node}": must be "both": this command starts both nodes'
        )
    return config


@asynccontextmanager
async def running(bridge: Bridge, supervisor: Supervisor) -> AsyncIterator[list[str]]:
    """The bridge's services run inside; whatever ends it, everything is taken down.

    Yields:
        What was said about leftovers of a killed run.

    Raises:
        SetupError: it is up already, it cannot be started, or it was stopped while starting.
    """
    run = bridge.run
    loop = asyncio.get_running_loop()
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, supervisor.request_stop, number.name)
    with run.lock(wait=False):
        if bridge.is_up():
            raise SetupError(f"bridge {run.name} is up already; first: ntbnet down --name {run.name}")
        said = supervisor.prepare()
        run.record_process(SUPERVISOR)
    try:
        await unless_stopped(supervisor, supervisor.start())
        yield said
    finally:
        await supervisor.stop()


async def unless_stopped(supervisor: Supervisor, work: Awaitable[T]) -> T:
    """The result of ``work``, which is cancelled when the bridge is to be taken down.

    Raises:
        SetupError: that happened.
    """
    task = asyncio.ensure_future(work)
    stop = asyncio.ensure_future(supervisor.wait_for_stop())
    try:
        await asyncio.wait((task, stop), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise SetupError("stopped before it was done")
        return task.result()
    finally:
        for future in (task, stop):
            future.cancel()
        await asyncio.gather(task, stop, return_exceptions=True)
