from __future__ import annotations

import re
import subprocess
import sys
import threading
import urllib.request
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.parser import text_string_to_metric_families as plain_families

from ntbnet import topology
from ntbnet.app import metrics, metrics_endpoint
from ntbnet.app.metrics_endpoint import Endpoint, exposed
from ntbnet.app.metrics_families import COUNTER, FAMILIES, FAMILY_OF, INFO
from ntbnet.app.metrics_readings import Reading, readings_of
from ntbnet.app.metrics_totals import MAX_SERIES, Totals
from ntbnet.config import load_text
from ntbnet.edge.rundir import RunDir
from ntbnet.errors import ConfigError, SetupError
from tests.live.traffic import free_ports

FRAMES = "ntbnet_queue_receive_frames"
LABELS = ("ep", "0")

PEER: dict[str, Any] = {
    "epoch": 3,
    "counters": {"edma_interrupts": 7, "completion_timeouts": 1},
    "stores": {"direct": True, "grants": 4, "direct_doorbells": 2},
    "tun_write_drops": 5,
    "link": {
        "epoch": 9,
        "queues": [
            {
                "rx_pkts": 11,
                "tx_max_entry": 14,
                "free_tx": 13,
                "link": "up",
                "rx_err_ver": 2,
                "has_client": True,
            },
            {"rx_pkts": 0, "link": "down", "has_client": False},
        ],
    },
    "netdev": {"tx_packets": 12, "rx_errors": 1},
    "paths": [{"peer": "epc", "state": "up", "session": 2, "sent": 8, "received": 6, "refused": {"gap": 1}}],
}


def total(totals: Totals, family: str, labels: tuple[str, ...]) -> float | None:
    return {(name, values): value for name, values, value in totals.series()}.get((family, labels))


def take(totals: Totals, value: float, generation: object) -> float | None:
    totals.take("peer-ep", [Reading(FRAMES, LABELS, value, generation)])
    return total(totals, FRAMES, LABELS)


def test_counter_goes_on_where_the_process_before_had_it() -> None:
    totals = Totals()

    assert [take(totals, value, 1) for value in (5, 9, 9)] == [5, 9, 9]
    assert [take(totals, value, 2) for value in (0, 20)] == [9, 29]


def test_counter_of_a_process_that_counts_past_the_one_before_is_added_as_a_whole() -> None:
    totals = Totals()
    take(totals, 100, 1)

    assert take(totals, 130, 2) == 230


def test_counter_that_begins_anew_within_a_process_goes_on() -> None:
    totals = Totals()
    take(totals, 100, 1)

    assert take(totals, 3, 1) == 103


def test_counter_that_is_not_told_of_any_more_stays_and_a_gauge_goes() -> None:
    totals = Totals()
    totals.take("peer-ep", [Reading(FRAMES, LABELS, 4, 1), Reading("ntbnet_queue_up", LABELS, 1)])

    totals.take("peer-ep", [])

    assert total(totals, FRAMES, LABELS) == 4
    assert total(totals, "ntbnet_queue_up", LABELS) is None


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 1000)), max_size=30))
def test_counter_never_goes_down(looks: list[tuple[int, int]]) -> None:
    totals = Totals()

    seen = [take(totals, value, generation) for generation, value in looks]

    assert seen == sorted(seen, key=lambda value: value or 0)


def test_label_sets_beyond_the_limit_are_left_out_and_counted() -> None:
    totals = Totals()
    many = [Reading(FRAMES, ("ep", str(queue)), 1, 1) for queue in range(MAX_SERIES + 3)]

    totals.take("peer-ep", many)

    assert len(list(totals.series())) == MAX_SERIES
    assert totals.left_out == 3


def test_answer_of_a_peer_is_read() -> None:
    found = {(one.family, one.labels): one.value for one in readings_of("peer-ep", PEER)}

    assert found["ntbnet_interrupts", ("ep", "dw-edma-testirq")] == 7
    assert found["ntbnet_interrupts", ("ep", "msi")] == 0
    assert found["ntbnet_service_events", ("ep", "peer-ep", "direct_doorbells")] == 2
    assert found["ntbnet_service_events", ("ep", "peer-ep", "tun_write_drops")] == 5
    assert ("ntbnet_service_events", ("ep", "peer-ep", "direct")) not in found
    assert ("ntbnet_service_events", ("ep", "peer-ep", "grants")) not in found
    assert found[FRAMES, LABELS] == 11
    assert (FRAMES, ("ep", "1")) not in found
    assert found["ntbnet_queue_receive_errors", ("ep", "0", "version")] == 2
    assert found["ntbnet_queue_transmit_ring_entries", LABELS] == 13
    assert found["ntbnet_network_transmit_packets", ("ep",)] == 12
    assert found["ntbnet_path_refused_messages", ("ep", "peer-ep", "epc", "gap")] == 1
    assert found["ntbnet_path_up", ("ep", "peer-ep", "epc")] == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)


@given(
    st.sampled_from(topology.SERVICES),
    st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("epoch", "counters", "stores", "link", "netdev", "paths", "wakes"), JSON)
    ),
)
def test_answer_of_any_shape_gives_only_readings_that_fit_their_family(
    service: str, answer: dict[str, Any]
) -> None:
    for reading in readings_of(service, answer):
        assert len(reading.labels) == len(FAMILY_OF[reading.family].labels)
        assert all(re.fullmatch(r"[A-Za-z0-9_.-]{1,48}", label) for label in reading.labels)
        assert 0 <= reading.value < 1 << 64


def test_names_follow_the_rules_of_prometheus() -> None:
    for family in FAMILIES:
        assert re.fullmatch(r"ntbnet(_[a-z]+)+", family.name), family
        assert not family.name.endswith(("_total", "_info", "_count", "_sum", "_bucket")), family
        assert all(re.fullmatch(r"[a-z]+", label) for label in family.labels), family
        has_unit = family.name.endswith(("_bytes", "_seconds"))
        assert family.unit == (family.name.rpartition("_")[2] if has_unit else ""), family


def test_names_are_unique() -> None:
    assert len(FAMILY_OF) == len(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_family_is_exposed_under_its_name(family: Any) -> None:
    class One:
        @staticmethod
        def collect() -> Any:
            yield exposed(family, [(family.labels, 1)])

    registry = CollectorRegistry()
    registry.register(One())  # all that a registry calls

    (parsed,) = text_string_to_metric_families(generate_latest(registry).decode())

    (sample,) = parsed.samples
    assert sample.name == family.exposed_name
    assert set(sample.labels) == set(family.labels)
    assert (parsed.type, parsed.unit) == (family.kind, family.unit)
    assert family.kind in {COUNTER, "gauge", INFO}


def config(text: str) -> Any:
    return load_text(f"[metrics]\n{text}", "test")


@pytest.mark.parametrize("address", ["0.0.0.0", "10.0.0.1", "localhost", "::", "127.0.0.256", "127.1", ""])
def test_address_that_is_not_loopback_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match=r"metrics\.address = .*a loopback address: 127\.0\.0\.0/8 or ::1"):
        config(f'address = "{address}"')


@pytest.mark.parametrize("address", ["127.0.0.1", "127.255.0.9", "::1"])
def test_loopback_address_is_taken(address: str) -> None:
    assert config(f'address = "{address}"').metrics.address == address


def test_no_port_is_no_endpoint() -> None:
    assert metrics.metrics_endpoint(config("port = 0"), RunDir("/nowhere", "t"), dict) is None


def test_queue_counts_anew_with_each_link_epoch() -> None:
    readings = {reading.family: reading for reading in readings_of("peer-ep", PEER)}
    later = PEER | {"link": PEER["link"] | {"epoch": 10}}
    then = {reading.family: reading for reading in readings_of("peer-ep", later)}

    assert readings[FRAMES].generation != then[FRAMES].generation
    packets = "ntbnet_network_transmit_packets"
    assert readings[packets].generation == then[packets].generation


def test_look_that_fails_is_counted_shows_services_as_down_and_is_not_the_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    port = free_ports(1)
    looks = count(1)
    failed = threading.Event()

    def answers(*_: object) -> dict[str, dict[str, Any]]:
        if next(looks) == 3:
            failed.set()
        raise ZeroDivisionError

    monkeypatch.setattr(metrics_endpoint, "ask", answers)
    monkeypatch.setattr(metrics_endpoint, "LOOK_INTERVAL_S", 0.001)
    endpoint = Endpoint(config(f"port = {port}"), RunDir("/nowhere", "t"), lambda: {"epc": 0})
    endpoint.start()
    try:
        assert failed.wait(10)
        with urllib.request.urlopen(endpoint.url, timeout=5) as answer:
            text = answer.read().decode()
    finally:
        endpoint.close()

    samples = {sample.name: sample.value for family in plain_families(text) for sample in family.samples}
    assert samples["ntbnet_metrics_failed_looks_total"] >= 2
    assert samples["ntbnet_service_up"] == 0
    assert "ntbnet_link_up" not in samples


def test_port_that_is_taken_is_refused_in_one_line() -> None:
    wanted = config(f"port = {free_ports(1)}")
    first = Endpoint(wanted, RunDir("/nowhere", "t"), dict)
    try:
        with pytest.raises(SetupError, match=r"metrics\.port = \d+: cannot listen on 127\.0\.0\.1: "):
            Endpoint(wanted, RunDir("/nowhere", "t"), dict)
    finally:
        first.close()


def test_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "ntbnet.app.metrics_endpoint")
    monkeypatch.setitem(sys.modules, "prometheus_client", None)

    with pytest.raises(ConfigError, match=r"metrics\.port = 9464: .*pip install 'ntbnet\[metrics\]'"):
        metrics.metrics_endpoint(config("port = 9464"), RunDir("/nowhere", "t"), dict)


def test_command_line_imports_no_library_of_an_extra() -> None:
    script = "import sys, ntbnet.app.cli; print({'prometheus_client', 'textual'} & set(sys.modules))"

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout == "set()\n"
