"""Questions to running services: one REQ socket each, all answers awaited together."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import zmq

from ntbnet.edge.process import usage_of
from ntbnet.edge.rundir import RunDir
from ntbnet.errors import WireError
from ntbnet.wire import unpack_body


def able_to_answer(run: RunDir, services: Iterable[str]) -> dict[str, Path]:
    """Question sockets of those services that have one, and whose process is not stopped (SIGSTOP).

    Answers of the others would only be waited for: a stopped one does not read the question when it goes on
    either, as who asked has gone before they were connected.
    """
    usages = {name: usage_of(record) for name, record in run.processes().items()}
    stopped = {name for name, usage in usages.items() if usage is not None and usage.is_stopped}
    sockets = {name: run.socket_path(f"ask.{name}") for name in services if name not in stopped}
    return {name: path for name, path in sockets.items() if path.exists()}


def ask(
    sockets: Mapping[str, Path], timeout_s: float, question: bytes = b"status"
) -> dict[str, dict[str, Any]]:
    """Answers by service; a service that does not answer in time is left out.

    Args:
        sockets: service -> path of its question socket.
        timeout_s: how long to wait for all of them together, seconds.
        question: what to ask; services know ``status`` and ``stopwatch N``, rc-host ``move_bar N``.
    """
    context = zmq.Context(io_threads=1)
    poller = zmq.Poller()
    waiting: dict[zmq.Socket[bytes], str] = {}
    answers: dict[str, dict[str, Any]] = {}
    try:
        for service, path in sockets.items():
            socket = context.socket(zmq.REQ)
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.RECONNECT_IVL, 20)
            socket.connect(f"ipc://{path}")
            socket.send(question)
            poller.register(socket, zmq.POLLIN)
            waiting[socket] = service
        deadline = time.monotonic() + timeout_s
        while waiting:
            left_ms = int((deadline - time.monotonic()) * 1000)
            if left_ms <= 0:
                break
            for socket, _ in poller.poll(left_ms):
                service = waiting.pop(socket)
                poller.unregister(socket)
                try:
                    answers[service] = unpack_body(socket.recv())
                except WireError:
                    continue
        return answers
    finally:
        context.destroy(linger=0)
