"""The OpenMetrics endpoint: a thread that looks at the services, and an HTTP server that shows what it saw.

Neither a scrape nor a service that hangs holds the supervisor up: services are asked in a thread of their own
each second, scrapes are answered in others from what was seen last. Everything here is imported only when
``metrics.port`` is set.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, ClassVar
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from ntbnet import __version__, topology
from ntbnet.app.ask import able_to_answer, ask
from ntbnet.app.bridge import link_state
from ntbnet.app.interrupts import backend_of
from ntbnet.app.metrics_families import COUNTER, FAMILIES, INFO, Family
from ntbnet.app.metrics_readings import Reading, readings_of
from ntbnet.app.metrics_totals import Totals
from ntbnet.config import Config
from ntbnet.edge.process import ProcessRecord, own_record, usage_of
from ntbnet.edge.rundir import RunDir
from ntbnet.errors import SetupError

LOOK_INTERVAL_S = 1.0
ANSWER_TIMEOUT_S = 0.5
MAX_CONNECTIONS = 8
"""Scrapes at a time; who comes beyond that is turned away."""
PATIENCE_S = 5.0
"""Longest wait for a scraper that says or takes nothing."""


class Endpoint:
    """Serves a bridge's metrics until ``close``.

    Args:
        config: says where, and what the bridge is.
        run: its run folder.
        restarts: how often each service of this machine was replaced; called from another thread.

    Raises:
        SetupError: the address cannot be bound.
    """

    def __init__(self, config: Config, run: RunDir, restarts: Callable[[], Mapping[str, int]]) -> None:
        self._config, self._run, self._restarts = config, run, restarts
        self._totals = Totals()
        self._lock = threading.Lock()
        """Of the totals: looks and scrapes come from several threads."""
        self._ending = threading.Event()
        self._failed_looks = 0
        self._answered: dict[tuple[str, str], float] = {}
        self._own = own_record()
        self._info = (run.name, config.profile.name, config.bridge.fabric, __version__)
        registry = CollectorRegistry()
        registry.register(_Scrape(self._families))
        host, port = config.metrics.address, config.metrics.port
        try:
            self._server = _Server(host, port, make_wsgi_app(registry))
        except OSError as problem:
            raise SetupError(f"metrics.port = {port}: cannot listen on {host}: {problem.strerror}") from None
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}/metrics"
        self._threads = [
            threading.Thread(target=self._look_on, name="metrics-look", daemon=True),
            threading.Thread(
                target=partial(self._server.serve_forever, poll_interval=0.1),
                name="metrics-serve",
                daemon=True,
            ),
        ]

    def start(self) -> None:
        """Look and serve from now on."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop both and give the port up; takes a second at most."""
        self._ending.set()
        if self._threads[0].ident is not None:
            self._server.shutdown()
            for thread in self._threads:
                thread.join(timeout=ANSWER_TIMEOUT_S)
        self._server.server_close()

    # looking

    def _look_on(self) -> None:
        while not self._ending.is_set():
            try:
                self._look()
            except Exception:  # noqa: BLE001 - answers come from other processes: whatever is in one, others follow
                self._fail_to_look()
            self._ending.wait(LOOK_INTERVAL_S)

    def _fail_to_look(self) -> None:
        """Nobody knows how the services are: none is said to be well."""
        with self._lock:
            self._failed_looks += 1
            for name in topology.services_of(self._config.nodes):
                down = Reading("ntbnet_service_up", (topology.NODE_OF[name], name), 0)
                self._totals.take(f"process of {name}", [down])
            self._totals.take("bridge", [])

    def _look(self) -> None:
        restarts, processes = self._restarts(), self._run.processes()
        answers = ask(able_to_answer(self._run, restarts), ANSWER_TIMEOUT_S)
        now_s = time.time()
        seen = []
        for name, count in restarts.items():
            labels = (topology.NODE_OF[name], name)
            if name in answers:
                self._answered[labels] = now_s
            seen.append(
                (
                    name,
                    [
                        *self._service(labels, count, name in answers),
                        *_process(labels, processes.get(name), now_s),
                    ],
                )
            )
        with self._lock:
            for name, readings in seen:
                self._totals.take(f"process of {name}", readings)
            for name, answer in answers.items():
                self._totals.take(name, readings_of(name, answer))
            self._totals.take("supervisor", _process(("host", "supervisor"), self._own, now_s))
            self._totals.take("bridge", self._bridge(answers))

    def _service(self, labels: tuple[str, str], restarts: int, is_up: bool) -> Iterator[Reading]:
        yield Reading("ntbnet_service_up", labels, int(is_up))
        yield Reading("ntbnet_service_restarts", labels, restarts)
        if labels in self._answered:
            yield Reading("ntbnet_service_last_answer_timestamp_seconds", labels, self._answered[labels])

    def _bridge(self, answers: dict[str, dict[str, Any]]) -> Iterator[Reading]:
        link = link_state(answers, self._config.nodes)
        yield Reading("ntbnet_link_up", (), int(link["state"] == "up"))
        if link["epoch"]:
            yield Reading("ntbnet_link_epoch", (), link["epoch"])
        for node in self._config.nodes:
            yield Reading("ntbnet_link_wanted", (node,), int(self._run.link_is_wanted(node)))
        peers = {node: answers.get(f"peer-{node}") for node in ("rc", "ep")}
        for node, other in (("rc", "ep"), ("ep", "rc")):
            backend = backend_of(peers[other], peers[node])
            if backend is not None:
                yield Reading("ntbnet_interrupt_backend", (node, backend[0]), 1)

    # showing

    def _families(self) -> Iterator[Metric]:
        with self._lock:
            series = list(self._totals.series())
            left_out, failed_looks = self._totals.left_out, self._failed_looks
        by_family: dict[str, list[tuple[Sequence[str], float]]] = {}
        for name, labels, value in series:
            by_family.setdefault(name, []).append((labels, value))
        by_family["ntbnet_bridge"] = [(self._info, 1)]
        by_family["ntbnet_metrics_series_left_out"] = [((), left_out)]
        by_family["ntbnet_metrics_failed_looks"] = [((), failed_looks)]
        for family in FAMILIES:
            yield exposed(family, by_family.get(family.name, ()))


def _process(labels: tuple[str, str], record: ProcessRecord | None, now_s: float) -> Iterator[Reading]:
    usage = None if record is None else usage_of(record)
    if usage is None:
        return
    yield Reading("ntbnet_service_cpu_seconds", labels, usage.cpu_s, record)
    yield Reading("ntbnet_service_resident_memory_bytes", labels, usage.resident_bytes)
    # to the second: now is read later than the process's age, by another amount each time
    yield Reading("ntbnet_service_start_time_seconds", labels, round(now_s - usage.age_s))


def exposed(family: Family, series: Iterable[tuple[Sequence[str], float]] = ()) -> Metric:
    """A family with its label sets, as the client library wants it."""
    if family.kind == INFO:
        info = InfoMetricFamily(family.name, family.meaning)
        for labels, _ in series:
            info.add_metric((), dict(zip(family.labels, labels, strict=True)))
        return info
    made = CounterMetricFamily if family.kind == COUNTER else GaugeMetricFamily
    metric = made(family.name, family.meaning, labels=family.labels, unit=family.unit)
    for labels, value in sorted(series):
        metric.add_metric(labels, value)
    return metric


class _Scrape(Collector):
    """What a registry asks for metrics."""

    def __init__(self, collect: Callable[[], Iterator[Metric]]) -> None:
        self._collect = collect

    def collect(self) -> Iterator[Metric]:
        return self._collect()

    def describe(self) -> Iterator[Metric]:
        return (exposed(family) for family in FAMILIES)


class _Handler(WSGIRequestHandler):
    timeout = PATIENCE_S

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 # the base class's name
        """Nothing: the supervisor's stderr is for failures."""


class _Server(ThreadingMixIn, WSGIServer):
    """A thread for each connection, of which there are only so many at a time."""

    daemon_threads: ClassVar[bool] = True  # type: ignore[misc] # constant here
    allow_reuse_address: ClassVar[bool] = True  # type: ignore[misc] # constant here

    def __init__(self, host: str, port: int, app: Any) -> None:
        self._free = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)
        self.set_app(app)

    def server_bind(self) -> None:
        """Without the base class's question to a name server, which may hang."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A scraper that went away or said nothing is no failure of ours."""
