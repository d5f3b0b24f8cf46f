"""From a command line to a running service: arguments, configuration, log, signals, exit codes.

A service started by the supervisor gets ``--notify-fd``, one end of a socket pair: it says READY
there, then shows every half second that it lives, and takes a new log when its old one is set aside;
the end of that socket is the end of the supervisor, on which the service ends too. A service started
without it (by honcho, or by hand) looks after node and DRAM itself; see ``standalone``.

Exit codes: 0 stopped, 1 failed, 2 bad configuration or usage.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvloop
import zmq

from ntbnet import topology
from ntbnet.config import Config, offload_bytes, shared_identity
from ntbnet.devices.direct import Far
from ntbnet.devices.framing import VNET_HEADER_BYTES
from ntbnet.devices.lease import Lease
from ntbnet.devices.memory import Window
from ntbnet.devices.path import Catchup
from ntbnet.devices.path import Path as MessagePath
from ntbnet.edge import standalone
from ntbnet.edge.clock import monotonic_ns
from ntbnet.edge.config_file import DEFAULT_NAME, load_config
from ntbnet.edge.driver import Device, Driver
from ntbnet.edge.fault_source import FaultSource
from ntbnet.edge.idle_cores import IdleCores
from ntbnet.edge.lifeline import announce
from ntbnet.edge.privileges import account, become
from ntbnet.edge.rundir import RunDir
from ntbnet.edge.shm import Dram, dram_path, fence, open_lease
from ntbnet.edge.stop_signals import StopSignals
from ntbnet.edge.trace_source import TraceSource
from ntbnet.edge.tun import Tun
from ntbnet.errors import ConfigError, NtbnetError, SetupError
from ntbnet.log import Logger
from ntbnet.wire import SCHEMA_VERSION

if TYPE_CHECKING:
    from ntbnet.edge.curve import Guard
    from ntbnet.edge.keys import KeyRing

LEAVE_PATIENCE_S = 0.3
"""How long a service that was told to stop may take to tell the other host."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What a service builds its device from."""

    config: Config
    memory: Window
    """All DRAM of the service's node."""
    incarnation: int
    now_ns: int
    memory_id: int = 0
    """Tells the DRAM from another one of the same name."""
    far: Far | None = None
    """What a peer stores to directly; None in fabric ``message``, and for every other service."""
    link_wanted: bool = True
    """False: the link was taken down on this node by command."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a service needs and how its device is made."""

    service: str
    about: str
    build: Callable[[Parts], Device]
    needs_tun: bool = False
    stores_far: bool = False
    """Fabric ``local``: it stores to the other node's DRAM."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options every service has."""
    parser.add_argument("--config", metavar="FILE", help="configuration (TOML); defaults run without it")
    parser.add_argument(
        "--name",
        default=DEFAULT_NAME,
        help="name of the bridge this service belongs to (default: %(default)s)",
    )
    parser.add_argument("--run-id", default="", help=argparse.SUPPRESS)
    parser.add_argument("--notify-fd", type=int, default=-1, help=argparse.SUPPRESS)


def main(recipe: Recipe, arguments: argparse.Namespace) -> int:
    """Run a service until it is told to stop; the whole of a service's ``main``."""
    signals = StopSignals()
    try:
        config = load_config(arguments.config)
        _check_belongs_here(recipe.service, config)
        run = RunDir(config.run.dir, arguments.name)
        with standalone.hold(run, config, recipe.service, supervised=arguments.notify_fd >= 0):
            return _run(recipe, config, run, arguments, signals)
    except NtbnetError as problem:
        sys.stderr.write(f"{recipe.service}: {problem}\n")
        return 2 if isinstance(problem, ConfigError) else 1
    except (OSError, zmq.ZMQError) as problem:
        # the machine refuses: no descriptors, no memory, no space
        sys.stderr.write(f"{recipe.service}: {problem}\n")
        return 1


def _check_belongs_here(service: str, config: Config) -> None:
    if topology.NODE_OF[service] not in config.nodes:
        raise ConfigError(
            f'machine.node = "{config.machine.node}": {service} belongs to node '
            f"{topology.NODE_OF[service]}, which runs on the other machine"
        )


def _run(
    recipe: Recipe, config: Config, run: RunDir, arguments: argparse.Namespace, signals: StopSignals
) -> int:
    service, node = recipe.service, topology.NODE_OF[recipe.service]
    incarnation = run.raise_epoch(service)
    record = run.read_run()
    run_id = arguments.run_id or (record.run_id if record else "none")
    log = Logger(
        sys.stdout,
        config.log.level,
        {"run_id": run_id, "node": node, "service": service, "epoch": incarnation},
    )
    traces = TraceSource(
        run,
        service,
        incarnation,
        run_id,
        log,
        records=config.trace.records,
        packet_at=VNET_HEADER_BYTES if config.netdev.offloads else 0,
    )
    faults = FaultSource(run.faults_path, service, log, dram_path(run.name, node))
    faults.look_early()
    is_local = config.bridge.fabric == "local"
    ring = _ring(config)
    dram = far_dram = tun = far = None
    cores = None
    try:
        dram, window = _attach(run, config, node)
        if recipe.needs_tun:
            tun = Tun(f"{run.name}-{node}", config.netdev.tun, offload_bytes(config))
            cores = _idle_cores(config.run.idle_cores, log)
        if recipe.stores_far and is_local:
            far_dram, far_window = _attach(run, config, "ep" if node == "rc" else "rc")
            words = Window(open_lease(run.lease_path), 0, "lease")
            far = Far(far_window, far_dram.ident, Lease(words, node), fence)
        wanted = run.link_is_wanted(node)
        device = recipe.build(Parts(config, window, incarnation, monotonic_ns(), dram.ident, far, wanted))
        paths = {
            peer: _path(service, peer, config, run, incarnation, ring)
            for peer in topology.neighbours(service)
        }
        wake_path = run.wake_path if is_local else None
        user = account(config.run.user)
        if user is not None:
            become(user)
            run.check_shared()
            log.emit("security.privileges_dropped", user=user.user)
        guard = _guard(service, config, ring, log)
        driver = _driver(device, paths, service, config, run, log, tun, wake_path, faults, guard, traces)
        if cores is not None and config.run.idle_cores == "auto":
            driver.on_packets(cores.on_packets)
        about = {"service": service, "node": node, "pid": os.getpid(), "epoch": incarnation, "run_id": run_id}
        about |= {"fabric": config.bridge.fabric, "profile": config.bridge.profile}
        question_endpoint = f"ipc://{run.socket_path(f'ask.{service}')}"
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.get_loop()  # may fail; the coroutine is made only once it has not
            code = runner.run(_serve(driver, log, about, question_endpoint, arguments.notify_fd, signals))
        traces.close()
        return code
    finally:
        if cores is not None:
            cores.close()
        if tun is not None:
            tun.close()
        for memory in (dram, far_dram):
            if memory is not None:
                memory.close()


def _idle_cores(what: str, log: Logger) -> IdleCores | None:
    """Opened while we may, see [run] idle_cores; None when they are to halt, or the machine refuses."""
    if what == "halt":
        return None
    try:
        cores = IdleCores()
    except OSError as refusal:
        if what == "poll":
            log.emit("service.cores_halt", reason=str(refusal))
        return None
    if what == "poll":
        cores.stay_awake()
    return cores


def _attach(run: RunDir, config: Config, node: str) -> tuple[Dram, Window]:
    side = config.node.rc if node == "rc" else config.node.ep
    base = config.profile.rc.dram_base if node == "rc" else config.profile.endpoint.dram_base
    dram = Dram.attach(run.name, node, side.dram_bytes)
    return dram, Window(dram.view, base, f"{node}-dram")


def _path(
    service: str, peer: str, config: Config, run: RunDir, incarnation: int, ring: KeyRing | None
) -> MessagePath:
    initiator = topology.neighbours(service)[peer]
    counter = topology.session_counter(*((service, peer) if initiator else (peer, service)))
    catchup, key = None, run.secret()
    if ring is not None and topology.NODE_OF[peer] not in config.nodes:
        key = ring.path_key
        catchup = Catchup(
            session_above=lambda number: run.raise_epoch(counter, number),
            incarnation_above=lambda number: run.raise_epoch(service, number),
            note_session=lambda number: run.note_epoch(counter, number),
            seen_session=run.epoch(counter) or 0,
        )
    return MessagePath(
        service,
        peer,
        initiator=initiator,
        incarnation=incarnation,
        allocate_session=lambda: run.raise_epoch(counter),
        heartbeat_ns=config.timing.heartbeat_ms * 1_000_000,
        liveness_ns=config.timing.liveness_ms * 1_000_000,
        key=key,
        catchup=catchup,
        identity={"bridge": run.name, "schema": SCHEMA_VERSION, **shared_identity(config)},
    )


def _ring(config: Config) -> KeyRing | None:
    """Keys of this machine and of the other one; None when both nodes run here."""
    if not config.is_apart:
        return None
    from ntbnet.edge.keys import load_ring

    return load_ring(config)


def _guard(service: str, config: Config, ring: KeyRing | None, log: Logger) -> Guard | None:
    """Keys on the service's sockets to the other machine; None when it has none."""
    afar = [peer for peer in topology.neighbours(service) if topology.NODE_OF[peer] not in config.nodes]
    if ring is None or not afar:
        return None
    from ntbnet.edge.curve import Guard

    return Guard(ring, afar, config.timing.liveness_ms, log)


def _driver(
    device: Device,
    paths: dict[str, MessagePath],
    service: str,
    config: Config,
    run: RunDir,
    log: Logger,
    tun: Tun | None,
    wake_path: Callable[[str], Path] | None,
    faults: FaultSource,
    guard: Guard | None,
    traces: TraceSource,
) -> Driver:
    bridge, machine = config.bridge, config.machine

    def where(src: str, dst: str) -> str:
        if guard is not None and guard.labels & {src, dst}:
            address = machine.listen if dst == service else machine.peer
            return topology.crossing_endpoint(src, dst, address, machine.base_port)
        return topology.endpoint(src, dst, bridge.transport, bridge.tcp_base_port, run.socket_path)

    neighbours = {peer: (where(peer, service), where(service, peer)) for peer in paths}
    try:
        return Driver(
            device,
            paths,
            neighbours,
            log,
            tun,
            service=service,
            wake_path=wake_path,
            faults=faults,
            guard=guard,
            traces=traces,
        )
    except zmq.ZMQError as problem:
        how = "see above"
        if bridge.transport == "tcp":
            how = "another bridge uses them; change bridge.tcp_base_port"
        elif guard is not None:
            how = f"machine.listen = {machine.listen}, ports from machine.base_port = {machine.base_port} on"
        raise SetupError(f"cannot bind its sockets ({problem.strerror}): {how}") from None


async def _serve(
    driver: Driver,
    log: Logger,
    about: dict[str, Any],
    question_endpoint: str,
    notify_fd: int,
    signals: StopSignals,
) -> int:
    loop = asyncio.get_running_loop()
    stop: asyncio.Future[str] = loop.create_future()
    failures: list[BaseException] = []

    def request_stop(reason: str) -> None:
        if not stop.done():
            stop.set_result(reason)

    def on_exception(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        failures.append(context.get("exception") or RuntimeError(str(context.get("message"))))
        request_stop("failed")

    loop.set_exception_handler(on_exception)
    signals.listen(lambda name: loop.call_soon_threadsafe(request_stop, name))
    started_ns = time.monotonic_ns()

    def status() -> dict[str, Any]:
        uptime_s = (time.monotonic_ns() - started_ns) / 1e9
        return {**about, "state": "up", "uptime_s": round(uptime_s, 3), **driver.snapshot()}

    driver.start(loop, question_endpoint, status)
    lifeline = announce(loop, notify_fd, request_stop)
    log.emit("service.started", incarnation=about["epoch"])
    gc.collect()
    gc.freeze()
    reason = await stop
    if not failures:
        await driver.leave(LEAVE_PATIENCE_S)
    driver.close()
    if lifeline is not None:
        loop.remove_reader(lifeline.fileno())
        lifeline.close()
    if not failures:
        log.emit("service.stopped", reason=reason)
        return 0
    failure = failures[0]
    log.emit("service.failed", reason=f"{type(failure).__name__}: {failure}")
    if not isinstance(failure, NtbnetError):
        raise failure
    sys.stderr.write(f"{about['service']}: {failure}\n")
    return 1


def service_main(
    recipe_of: Callable[[argparse.Namespace], Recipe],
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
) -> int:
    """Parse ``argv`` and run; what every ``services/*.py`` calls."""
    add_arguments(parser)
    arguments = parser.parse_args(argv)
    return main(recipe_of(arguments), arguments)
