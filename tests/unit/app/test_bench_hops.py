"""Hops of a round trip, from the points of every service."""

from __future__ import annotations

from itertools import pairwise

import pytest

from ntbnet.app.bench_backends import TRIGGERS, fabrics
from ntbnet.app.bench_hops import LAST_HOP, breakdown, hop_times, route
from ntbnet.errors import SetupError

COMBINATIONS = [(fabric, backend) for fabric in fabrics() for backend in TRIGGERS]
MSI, DOORBELL = ("message", "msi"), ("message", "doorbell")


def journey(
    way: tuple[str, str], start_ns: int, step_ns: int
) -> tuple[dict[str, list[tuple[str, int]]], int]:
    """Points of one trip whose every hop takes ``step_ns``; and when it ended."""
    points: dict[str, list[tuple[str, int]]] = {}
    for number, hop in enumerate(route(*way), 1):
        points.setdefault(hop.service, []).append((hop.point, start_ns + number * step_ns))
    return points, start_ns + (len(route(*way)) + 1) * step_ns


@pytest.mark.parametrize("way", COMBINATIONS, ids=" ".join)
def test_hops_add_up_to_the_round_trip(way: tuple[str, str]) -> None:
    points, end_ns = journey(way, 1000, 70)

    (hops,) = hop_times(points, [(1000, end_ns)], route(*way))

    assert hops == (70,) * (len(route(*way)) + 1)
    assert sum(hops) == end_ns - 1000


@pytest.mark.parametrize("way", COMBINATIONS, ids=" ".join)
def test_each_process_is_reached_by_what_the_one_before_sent(way: tuple[str, str]) -> None:
    polled_in_memory = ("local", "doorbell")
    handed_over = [
        (before.service, after.service, after.point)
        for before, after in pairwise(route(*way))
        if before.service != after.service
    ]

    if way == polled_in_memory:
        assert handed_over.pop(0) == ("peer-rc", "epc", "wake peer-ep")
    assert [after for _, after, _ in handed_over][-1] == "peer-rc"
    for before, _, point in handed_over:
        assert point in {f"in {before}", f"arrived {before}"}


def test_the_last_message_before_the_next_point_is_what_led_to_it() -> None:
    points, end_ns = journey(MSI, 1000, 70)
    # payload and header were sent before the trigger; a write back follows it, and a later trip
    points["peer-rc"] = sorted(
        [*points["peer-rc"], ("out rc-host", 1100), ("out rc-host", end_ns + 5), ("tun in", end_ns + 1)],
        key=lambda point: point[1],
    )

    (hops,) = hop_times(points, [(1000, end_ns)], route(*MSI))

    assert hops == (70,) * (len(route(*MSI)) + 1)


def test_a_trip_of_which_a_point_is_missing_is_left_out() -> None:
    first, first_end_ns = journey(MSI, 1000, 70)
    second, second_end_ns = journey(MSI, 50_000, 70)
    points = {service: [*first[service], *second[service]] for service in first}
    points["epc"] = first["epc"]

    found = hop_times(points, [(1000, first_end_ns), (50_000, second_end_ns)], route(*MSI))

    assert len(found) == 1


def test_breakdown_says_whether_its_sum_is_the_measured_round_trip() -> None:
    points, end_ns = journey(DOORBELL, 0, 1000)
    found = hop_times(points, [(0, end_ns)], route(*DOORBELL))

    close = breakdown(found, 2, DOORBELL, end_ns / 1000 * 1.1)
    far = breakdown(found, 2, DOORBELL, end_ns / 1000 * 1.5)

    assert close["sum_us"] == end_ns / 1000
    assert [row["p50_us"] for row in close["hops"]] == [1.0] * (len(route(*DOORBELL)) + 1)
    assert close["hops"][-1]["hop"] == LAST_HOP
    assert (close["agrees"], far["agrees"]) == (True, False)
    assert (close["trips"], close["incomplete_trips"]) == (1, 2)


def test_no_complete_trip_is_an_error() -> None:
    with pytest.raises(SetupError, match="no round trip of 1 passed every hop of message msi"):
        breakdown([], 1, MSI, 10.0)
