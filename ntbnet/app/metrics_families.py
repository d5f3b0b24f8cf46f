"""Every metric of the OpenMetrics endpoint: name, kind, unit, labels, meaning. One table.

Names follow Prometheus' rules: base units (seconds, bytes), ``_total`` for counters, which the exposition
adds. docs/metrics.md shows this table, the dashboard and the alert rules in ``deploy`` name its rows only;
tests compare.
"""

from __future__ import annotations

from dataclasses import dataclass

COUNTER, GAUGE, INFO = "counter", "gauge", "info"


@dataclass(frozen=True, slots=True)
class Family:
    """One metric with all its label sets."""

    name: str
    """Without ``_total`` or ``_info``."""
    kind: str
    """``counter``, ``gauge`` or ``info``."""
    labels: tuple[str, ...]
    meaning: str
    unit: str = ""
    """``bytes`` or ``seconds``, when the name ends in one; empty otherwise."""

    @property
    def exposed_name(self) -> str:
        """The name that a query uses."""
        return self.name + {COUNTER: "_total", INFO: "_info", GAUGE: ""}[self.kind]


_SERVICE = ("node", "service")
_QUEUE = ("node", "queue")
_PATH = ("node", "service", "peer")

FAMILIES = (
    Family("ntbnet_bridge", INFO, ("bridge", "profile", "fabric", "version"), "the bridge, always 1"),
    Family(
        "ntbnet_link_up", GAUGE, (), "1 while every queue that is used is up, at each node that runs here"
    ),
    Family("ntbnet_link_epoch", GAUGE, (), "link epoch: goes up by 1 each time the link trains anew"),
    Family("ntbnet_link_wanted", GAUGE, ("node",), "0 once the link was taken down by command"),
    Family("ntbnet_service_up", GAUGE, _SERVICE, "1 when the service answered the last question"),
    Family(
        "ntbnet_service_last_answer_timestamp_seconds",
        GAUGE,
        _SERVICE,
        "when the service answered last, Unix time; its other values are of then",
        "seconds",
    ),
    Family(
        "ntbnet_service_start_time_seconds",
        GAUGE,
        _SERVICE,
        "start of the service's process, Unix time",
        "seconds",
    ),
    Family(
        "ntbnet_service_restarts", COUNTER, _SERVICE, "times the supervisor replaced the service's process"
    ),
    Family(
        "ntbnet_service_cpu_seconds",
        COUNTER,
        _SERVICE,
        "processor time of its processes, all together",
        "seconds",
    ),
    Family(
        "ntbnet_service_resident_memory_bytes",
        GAUGE,
        _SERVICE,
        "resident set, the nodes' shared memory included",
        "bytes",
    ),
    Family(
        "ntbnet_service_events",
        COUNTER,
        (*_SERVICE, "event"),
        "what `ntbnet status --json` has of it under `counters`, `stores`, `wakes`, `security`",
    ),
    Family("ntbnet_path_up", GAUGE, _PATH, "1 while the service has a session with its neighbour"),
    Family("ntbnet_path_sent_messages", COUNTER, _PATH, "messages sent to the neighbour"),
    Family("ntbnet_path_received_messages", COUNTER, _PATH, "messages of the neighbour that were applied"),
    Family("ntbnet_path_refused_messages", COUNTER, (*_PATH, "cause"), "messages that were not applied"),
    Family(
        "ntbnet_interrupts", COUNTER, ("node", "backend"), "interrupts that the node took, by how they came"
    ),
    Family(
        "ntbnet_interrupt_backend",
        GAUGE,
        ("node", "backend"),
        "1 for the backend that the node is rung by now",
    ),
    Family("ntbnet_queue_up", GAUGE, _QUEUE, "1 while this end of the transport queue is up"),
    Family("ntbnet_queue_transmit_frames", COUNTER, _QUEUE, "frames put into the peer's ring"),
    Family("ntbnet_queue_transmit_bytes", COUNTER, _QUEUE, "bytes of those frames", "bytes"),
    Family("ntbnet_queue_receive_frames", COUNTER, _QUEUE, "frames taken out of the own ring"),
    Family("ntbnet_queue_receive_bytes", COUNTER, _QUEUE, "bytes of those frames", "bytes"),
    Family(
        "ntbnet_queue_transmit_errors",
        COUNTER,
        (*_QUEUE, "cause"),
        "frames not sent: `no_buffer`; or copied by the CPU since the engine failed: `dma`",
    ),
    Family(
        "ntbnet_queue_receive_errors",
        COUNTER,
        (*_QUEUE, "cause"),
        "frames not received: `no_buffer`, `overflow` or `version`",
    ),
    Family("ntbnet_queue_transmit_ring_full", COUNTER, _QUEUE, "times the peer's ring had no room"),
    Family("ntbnet_queue_receive_ring_empty", COUNTER, _QUEUE, "times the own ring was looked at and empty"),
    Family("ntbnet_queue_transmit_ring_entries", GAUGE, _QUEUE, "frames that the peer's ring holds at most"),
    Family("ntbnet_queue_transmit_ring_free_entries", GAUGE, _QUEUE, "of them, how many are free"),
    Family("ntbnet_queue_interrupts", COUNTER, _QUEUE, "rings for the queue that came as an interrupt"),
    Family("ntbnet_queue_rings_saved", COUNTER, _QUEUE, "rings left out: the peer was awake"),
    Family("ntbnet_queue_found_frames", COUNTER, _QUEUE, "frames found by a slow look, their interrupt lost"),
    Family("ntbnet_network_transmit_packets", COUNTER, ("node",), "packets that the interface took to send"),
    Family("ntbnet_network_transmit_bytes", COUNTER, ("node",), "bytes of those packets", "bytes"),
    Family("ntbnet_network_transmit_dropped_packets", COUNTER, ("node",), "packets dropped instead of sent"),
    Family("ntbnet_network_receive_packets", COUNTER, ("node",), "packets that the interface received"),
    Family("ntbnet_network_receive_bytes", COUNTER, ("node",), "bytes of those packets", "bytes"),
    Family("ntbnet_network_receive_errors", COUNTER, ("node",), "frames that were no packet"),
    Family(
        "ntbnet_metrics_series_left_out",
        COUNTER,
        (),
        "label sets beyond 256 of one metric, which are not shown: something is wrong",
    ),
    Family(
        "ntbnet_metrics_failed_looks",
        COUNTER,
        (),
        "looks at the services that failed; until one succeeds each service is shown as down",
    ),
)
"""In the order of the exposition."""

FAMILY_OF = {family.name: family for family in FAMILIES}
