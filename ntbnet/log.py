"""Structured logs: one JSON object a line, and EVENTS, the one table of what can be logged.

Each line has ``event``, ``level``, ``wall`` (RFC 3339, UTC), ``mono_ns``, ``run_id``, ``node``,
``service``, ``pid`` and ``epoch`` (the start number of the process), and the keys of its event; what is said
because of a message has its ``flow`` as well.
Levels: debug, each message; info, a state changed; warning, somebody else did wrong and we
coped; error, an invariant broke. Nothing is logged for each packet at info or above.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TextIO

# structlog imports rich, when installed, for console tracebacks nobody here prints; that costs more
# start-up time than everything else a service imports. A None entry makes the import fail quietly.
_rich = sys.modules.get("rich")
sys.modules["rich"] = None  # type: ignore[assignment]  # documented import-system use of None
import structlog  # noqa: E402  # must come after the line above

if _rich is None:
    del sys.modules["rich"]
else:
    sys.modules["rich"] = _rich

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
COMMON_KEYS = ("event", "level", "wall", "mono_ns", "run_id", "node", "service", "pid", "epoch")
UNDER_FAULTS = "under_faults"
"""Key of every event while a plan of faults is installed; its value is true."""
FLOW = "flow"
"""Key of an event that the handling of a message led to: the message's flow, as traces have it; text, hex."""


@dataclass(frozen=True, slots=True)
class Event:
    """One row: its level, its keys, and what it tells."""

    level: str
    keys: tuple[str, ...]
    meaning: str


EVENTS: dict[str, Event] = {
    "service.started": Event("info", ("incarnation",), "process is up, sockets bound"),
    "service.stopped": Event("info", ("reason",), "process ends by itself"),
    "service.failed": Event("error", ("reason",), "process ends because of an error"),
    "path.changed": Event(
        "info", ("peer", "up", "session", "reason"), "session with a neighbour begins or ends"
    ),
    "path.refused": Event(
        "warning", ("peer", "cause", "count"), "messages of a neighbour are not applied; logged once a cause"
    ),
    "link.changed": Event(
        "info", ("up", "link_epoch", "reason"), "PCIe link between the two hosts, as this side sees it"
    ),
    "link.status_changed": Event("info", ("up", "reason"), "link bit of the NTB control block"),
    "grants.refused": Event("warning", ("reason",), "impossible grants of direct stores: they are messages"),
    "stores.waiting": Event(
        "warning", ("flushes",), "reads that direct stores wait for have failed; once a link epoch"
    ),
    "link.administered": Event("info", ("up",), "this side asks for the link, or drops it, by command"),
    "host.reset": Event("warning", ("memory",), "the host boots anew by command; its memory is kept or lost"),
    "endpoint.reset": Event(
        "warning", ("memory",), "PERST# of the endpoint by command; its memory is kept or lost"
    ),
    "link.restarted": Event("warning", ("reason",), "this side asked for a new link epoch"),
    "pci.enumerated": Event(
        "info", ("vendor", "device", "bars"), "host found the function and placed its BARs"
    ),
    "pci.bar_moved": Event("info", ("bar", "old", "new"), "host gave a BAR another address under way"),
    "pci.failed": Event(
        "warning",
        ("reason",),
        "host could not enumerate the function; logged once a reason in a link epoch",
    ),
    "msi.granted": Event("info", ("vectors", "address"), "host enabled MSI"),
    "msi.refused": Event(
        "warning", ("cause", "vector"), "an MSI was not raised or not accepted; logged once a cause"
    ),
    "write.dropped": Event(
        "warning",
        ("cause", "addr", "size_bytes"),
        "a posted write hit nothing it may hit; logged once a cause",
    ),
    "read.refused": Event(
        "warning", ("cause", "addr", "size_bytes"), "a read ended in UR; logged once a cause"
    ),
    "call.refused": Event("warning", ("src", "op", "reason"), "a neighbour's request was refused"),
    "iatu.detected": Event(
        "info",
        ("outbound", "inbound", "region_align", "region_limit"),
        "what the controller's registers say that its address translation has",
    ),
    "iatu.changed_in_flight": Event(
        "warning", ("reads",), "a window changed while reads were on their way: undefined on hardware"
    ),
    "iatu.region_enabled": Event(
        "info", ("direction", "index", "base", "target", "size_bytes"), "a window translates"
    ),
    "iatu.region_disabled": Event("info", ("direction", "index"), "a window translates no more"),
    "iatu.region_stale": Event(
        "warning",
        ("index", "bar", "base", "address"),
        "host moved a BAR: this window matches where the BAR was, and misses until it is programmed again",
    ),
    "mw.configured": Event(
        "info", ("widx", "addr", "size_bytes"), "inbound window of this side points at memory"
    ),
    "mw.cleared": Event("info", ("widx",), "inbound window of this side points nowhere"),
    "dma.unavailable": Event("info", ("reason",), "no DMA though use_dma is set: the CPU copies"),
    "dma.failed": Event(
        "warning", ("queue", "frames"), "engine failed or went away: the CPU copies these frames instead"
    ),
    "command.executed": Event("debug", ("command", "argument", "status"), "command worker served the RC"),
    "command.unknown": Event(
        "warning", ("command", "argument"), "RC sent an unknown command; it gets no answer"
    ),
    "command.failed": Event("warning", ("command", "reason"), "a command of ours failed"),
    "doorbell.unheard": Event("warning", ("bits",), "rung bits have no slot at the peer; logged once"),
    "intr.chosen": Event(
        "info", ("backend", "reason"), "how this side offers its peer to interrupt it, and why so"
    ),
    "intr.failed": Event(
        "warning", ("backend", "step", "reason"), "an interrupt backend does not work; doorbells instead"
    ),
    "intr.trigger_changed": Event(
        "info", ("queue", "trigger", "reason"), "how a queue rings its peer: doorbell, or OFFSET=DATA"
    ),
    "config.deprecated": Event("warning", ("key", "reason"), "a key was given by an old name"),
    "irq.spurious": Event(
        "warning", ("source", "bits"), "an interrupt nobody waits for; logged once a source"
    ),
    "edma.line_raised": Event("debug", ("line", "register"), "interrupt line of the eDMA engine is high"),
    "edma.line_lowered": Event("debug", ("line",), "interrupt line of the eDMA engine is low"),
    "edma.write_ignored": Event(
        "warning", ("cause", "addr"), "a register write had no effect; logged once a cause"
    ),
    "edma.doorbell_ignored": Event(
        "warning", ("cause", "register"), "a channel's doorbell had no effect; logged once a cause"
    ),
    "edma.channel_aborted": Event(
        "warning",
        ("direction", "channel", "cause"),
        "a DMA channel ended early; logged once a channel and cause in a link epoch",
    ),
    "driver.bound": Event(
        "info", ("driver", "mws", "spads", "db_bits"), "NTB driver of this side has its device"
    ),
    "driver.removed": Event("info", ("driver", "reason"), "NTB driver of this side lost its device"),
    "driver.failed": Event("warning", ("task", "reason"), "a driver routine ended with an error"),
    "transport.link_changed": Event("info", ("up", "reason"), "both transports agreed, or the link went"),
    "transport.queue_changed": Event("info", ("queue", "up"), "queue link"),
    "transport.handshake_waiting": Event(
        "info", ("reason",), "what the handshake waits for; logged once a reason"
    ),
    "transport.refused": Event(
        "warning", ("cause", "value"), "a value of the peer is impossible; logged once a cause"
    ),
    "transport.queue_stuck": Event(
        "warning", ("queue", "reason"), "a queue cannot go on; a new link epoch is asked for"
    ),
    "netdev.frame_refused": Event(
        "warning",
        ("cause", "head", "size_bytes"),
        "a frame's first 14 bytes are none that the node may get; logged once a cause",
    ),
    "netdev.packet_crossed": Event(
        "info",
        ("queue",),
        "first frame that a queue received since its link came up, or since a path of the service was lost",
    ),
    "netdev.carrier_changed": Event("info", ("up",), "carrier of the node's interface"),
    "security.key_refused": Event(
        "warning",
        ("peer", "address", "key", "cause"),
        "somebody connected with a key that is not allowed, or is another machine's than the peer's; "
        "logged once a key, for the first 64",
    ),
    "security.handshake_failed": Event(
        "warning",
        ("direction", "address", "cause"),
        "a connection between the machines was not made; logged once a cause",
    ),
    "trace.started": Event(
        "info", ("records",), "everything is traced from now on, in a ring of so many records"
    ),
    "trace.stopped": Event("info", (), "the trace ends; its ring stays until the next one"),
    "trace.unavailable": Event("warning", ("reason",), "no trace ring: nothing of this service is recorded"),
    "service.cores_halt": Event(
        "warning", ("reason",), "idle cores were to poll (run.idle_cores), but this machine does not let them"
    ),
    "security.privileges_dropped": Event("info", ("user",), "service is no longer root"),
    "supervisor.started": Event("info", ("services",), "bridge is being started"),
    "supervisor.ready": Event("info", ("seconds",), "all services are up"),
    "supervisor.service_started": Event(
        "info", ("name", "child_pid", "restarts"), "a service process was started"
    ),
    "supervisor.service_died": Event(
        "warning", ("name", "child_pid", "status"), "a service process ended unasked"
    ),
    "supervisor.service_hung": Event(
        "warning", ("name", "child_pid"), "a service gave no sign of life and is killed"
    ),
    "supervisor.spawn_failed": Event(
        "error", ("name", "reason"), "a service process could not be started; it is tried again"
    ),
    "supervisor.forkserver_died": Event(
        "warning", ("child_pid",), "the process that services are forked from ended; another one is started"
    ),
    "supervisor.repaired": Event(
        "warning", ("side", "what"), "parts of a node were lost and made anew; users of its memory restart"
    ),
    "supervisor.write_failed": Event(
        "warning", ("file", "reason"), "a file that status reads was not written, or a log not set aside"
    ),
    "supervisor.failed": Event("error", ("reason",), "the supervisor failed and takes the bridge down"),
    "supervisor.metrics_served": Event("info", ("url",), "metrics can be scraped there"),
    "supervisor.cleaned": Event("warning", ("what",), "left over by a run that was killed"),
    "chaos.plan_installed": Event(
        "info", ("injected", "seed", "rules"), "faults are injected from now on, by so many rules"
    ),
    "chaos.plan_healed": Event("info", ("injected",), "faults are injected no more"),
    "chaos.plan_refused": Event("warning", ("reason",), "the plan of faults is wrong: none are injected"),
    "chaos.fault_injected": Event(
        "info",
        ("injected", "kind", "rule", "path", "sequence"),
        "a fault was injected; at most 100 of them a second in one service",
    ),
    "chaos.faults_counted": Event(
        "info",
        (
            *("injected", "kind", "rule", "path", "count"),
            *("first_sequence", "last_sequence", "first_ns", "last_ns"),
        ),
        "so many more faults of a rule were injected on a path, in that time, and not logged one by one; "
        "path null: by the service's process before this one",
    ),
    "chaos.crashed": Event(
        "info", ("injected", "point", "nth", "before"), "the service dies at a crash point, as it was told to"
    ),
    "chaos.fault_done": Event(
        "info",
        ("injected", "number", "kind", "services", "at_ns", "until_ns", "note"),
        "the nemesis of a chaos run did something to the bridge; times are monotonic",
    ),
    "supervisor.stopped": Event("info", ("reason",), "bridge is down"),
}
"""Event name -> row. A name outside this table, or a key outside its row, is a bug (tests check)."""


class Logger:
    """Writes the events of one process.

    Args:
        stream: where the JSON lines go (stdout of a service).
        level: least level written.
        bound: values of run_id, node, service, epoch.
    """

    def __init__(self, stream: TextIO, level: str, bound: dict[str, Any]) -> None:
        self._least = LEVELS[level]
        self.on_event: Callable[[str, Mapping[str, Any]], None] | None = None
        """Told of every event that is above debug, written or not."""
        self._log = structlog.wrap_logger(
            structlog.PrintLogger(stream),
            processors=[structlog.processors.JSONRenderer(serializer=_to_json)],
            wrapper_class=structlog.BoundLogger,
            cache_logger_on_first_use=True,
        ).bind(**bound, pid=os.getpid())

    def bind(self, **keys: Any) -> None:
        """Have every event carry these keys from now on; None takes one off again."""
        self._log = self._log.try_unbind(*keys).bind(**{k: v for k, v in keys.items() if v is not None})

    def emit(self, event: str, **keys: Any) -> None:
        """Write one event; KeyError for a name outside EVENTS."""
        row = EVENTS[event]
        if self.on_event is not None and row.level != "debug":
            self.on_event(event, keys)
        if LEVELS[row.level] >= self._least:
            self._log.msg(event, level=row.level, wall=_wall(), mono_ns=time.monotonic_ns(), **keys)


def _wall() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _to_json(value: dict[str, Any], default: Callable[[Any], Any], **_: Any) -> str:
    ordered = {key: value.pop(key) for key in COMMON_KEYS if key in value}
    return json.dumps({**ordered, **value}, default=default, separators=(",", ":"))
