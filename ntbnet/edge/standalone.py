"""A service on its own, as honcho starts it: node and DRAM are made by whoever comes first.

Services may start in any order. Each makes what is missing, under the run folder's lock, and
notes itself; the last one to stop removes everything. What a killed run left behind is removed
by the next one.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ntbnet import topology
from ntbnet.config import Config
from ntbnet.edge import shm
from ntbnet.edge.process import alive, own_record
from ntbnet.edge.run_record import RunRecord
from ntbnet.edge.rundir import RunDir
from ntbnet.errors import SetupError


@contextmanager
def hold(run: RunDir, config: Config, service: str, *, supervised: bool) -> Iterator[None]:
    """Node, DRAM and run folder exist inside; a supervised service finds them made.

    Raises:
        SetupError: another supervisor or another process of that service runs, or something
            cannot be made.
    """
    if supervised:
        run.record_process(service)
        yield
        return
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
        _remove_nodes(run, config)
        run.empty()  # not removed: whoever waits for our lock waits for this very folder's
        run.create()
        me = own_record()
        run.write_run(RunRecord(run.name, uuid.uuid4().hex[:12], "honcho", me, time.time(), None))
    run.record_process(service)
    try:
        _make_node(run, config, topology.NODE_OF[service])
    except BaseException:
        _leave(run, config, service)
        raise


def _make_node(run: RunDir, config: Config, node: str) -> None:
    from ntbnet.app.node import create_node, spec_from

    create_node(spec_from(config, run.name, node), run)
    if not Path(shm.dram_path(run.name, node)).exists():
        side = config.node.rc if node == "rc" else config.node.ep
        shm.Dram.create(run.name, node, side.dram_bytes).close()


def _leave(run: RunDir, config: Config, service: str) -> None:
    run.forget_process(service)
    if not any(alive(record) for record in run.processes().values()):
        _remove_nodes(run, config)
        run.remove()


def _remove_nodes(run: RunDir, config: Config) -> None:
    from ntbnet.app.node import remove_node, spec_from

    for node in ("rc", "ep"):
        remove_node(spec_from(config, run.name, node), run)
        shm.unlink(run.name, node)
