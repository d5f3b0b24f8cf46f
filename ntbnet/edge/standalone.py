"""A service on its own, as honcho starts it: node and DRAM are made by whoever comes first.

Services may start in any order. Each makes what is missing, under the run folder's lock, and
notes itself; the last one to stop removes everything. What a killed run left behind is removed
by the next one.  The first one's configuration is the bridge's: every command finds it there.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ntbnet import topology
from ntbnet.config import Config, to_toml
from ntbnet.edge.privileges import account
from ntbnet.edge.process import alive, die_with_parent, own_record
from ntbnet.edge.run_record import RunRecord, new_run_id
from ntbnet.edge.rundir import RunDir
from ntbnet.errors import ConfigError, SetupError


@contextmanager
def hold(run: RunDir, config: Config, service: str, *, supervised: bool) -> Iterator[None]:
    """Node, DRAM and run folder exist inside; a supervised service finds them made.

    A supervised service ends with its supervisor from here on, even while it is stopped.

    Raises:
        ConfigError: services are to become another user, but nobody who stays root watches over them.
        SetupError: another supervisor or another process of that service runs, the bridge runs
            with another configuration, or something cannot be made.
    """
    if supervised:
        die_with_parent()
        record = run.read_run()
        if record is None or record.supervisor.pid != os.getppid():
            raise SetupError(f"the supervisor of bridge {run.name} is gone")
        run.record_process(service)
        yield
        return
    if account(config.run.user) is not None:
        raise ConfigError(
            f'run.user = "{config.run.user}": must be empty without a supervisor (ntbnet up has one): '
            f"services on their own remove their node when they end, and stay root for it"
        )
    with run.lock():
        _join(run, config, service)
    try:
        yield
    finally:
        with run.lock():
            _leave(run, config, service)


def _join(run: RunDir, config: Config, service: str) -> None:
    living = {name for name, record in run.processes().items() if alive(record)}
    record = run.read_run()
    if record is not None and record.mode == "supervisor" and alive(record.supervisor):
        raise SetupError(f"bridge {run.name} is up under its supervisor; ntbnet down --name {run.name} first")
    if service in living:
        raise SetupError(f"{service} of bridge {run.name} runs already; stop it first")
    if not living:
        _remove_sides(run, config)
        run.empty()  # not removed: whoever waits for our lock waits for this very folder's
        run.create()
        me = own_record()
        run.write_run(RunRecord(run.name, new_run_id(), "honcho", me, time.time(), None))
        run.write_config(to_toml(config))
    elif run.read_config() != to_toml(config):
        raise SetupError(
            f"bridge {run.name} runs with another configuration; give {service} the same --config, or stop it"
        )
    run.record_process(service)
    try:
        from ntbnet.edge.side import make_memories, make_side

        make_side(config, run, topology.NODE_OF[service])
        if config.bridge.fabric == "local":
            make_memories(config, run)
    except BaseException:
        _leave(run, config, service)
        raise


def _leave(run: RunDir, config: Config, service: str) -> None:
    run.forget_process(service)
    if not any(alive(record) for record in run.processes().values()):
        _remove_sides(run, config)
        run.remove()


def _remove_sides(run: RunDir, config: Config) -> None:
    from ntbnet.edge.side import remove_side

    for node in ("rc", "ep"):
        remove_side(config, run, node)
