"""Budgets that are ratios to a reference of the same run, and how far beyond them one would like to be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ntbnet.app.bench_backends import EDMA, POLLED
from ntbnet.app.bench_latencies import PUBLISHED
from ntbnet.app.bench_report import LATENCY_TOLERANCE, Row

PING_PONG = {"local": (1.6, 3.0), "message": (2.5, 8.0)}
"""By fabric, eDMA backend, p50: most times its pump; wished for: most times veth."""
POLLED_RATIO = {"local": (46.9, 60.0), "message": (12.0, 46.9)}
"""By fabric, averages: least times eDMA that polled takes; wished for. 46.9 is that of the boards."""
PUMP_AVERAGE_US = 80.0
"""On a machine whose pump over shared memory is slower, nobody can reach the boards' ratio."""
TCP = {("local", 65510): (0.6, 0.8), ("local", 1500): (0.4, 0.6), ("message", 65510): (0.12, 0.25)}
"""By fabric and MTU, eDMA backend: least share of veth; wished for."""
PUBLISHED_PERIOD_MS = 12.0
"""Of the doorbell poll on the boards; half of it is the published average."""
LARGEST_MTU = 65510
"""Bytes; one packet of it fills a frame, so that a ring a poll is a bound."""
POLL_TOLERANCE = 0.05
"""Faster than its bound by more than that, the doorbell was not polled."""
STORE_RATIO = 0.8
"""Least share of memcpy that a store into a window reaches, blocks of 64 KiB and more."""
WAKE_RATIO = 3.0
"""Most times a raw eventfd pair that an interrupt takes in fabric local; a message has no such budget."""
FRAMES_PER_S = 200_000.0
"""Least rate of small frames through a ring."""


def latency_rows(result: Mapping[str, Any]) -> list[Row]:
    """Of ``bench latency``."""
    rows = []
    for row in result["results"]:
        if row["backend"] == EDMA:
            most, wish = PING_PONG[row["fabric"]]
            what = f"{row['fabric']}, eDMA, ping-pong p50"
            rows += [
                Row.at_most(f"{what} / {row['pump']}", row["ratio_to_pump"], "", most),
                Row.wish(Row.at_most(f"{what} / veth", row["ratio_to_veth"], "", wish)),
            ]
        elif row["backend"] == POLLED and result["poll_period_ms"] == PUBLISHED_PERIOD_MS:
            what = f"{row['fabric']}, polled, ping-pong average"
            target = PUBLISHED[0]["avg_us"]
            rows.append(Row.near(what, row["avg_us"], "us", target, LATENCY_TOLERANCE))
    for fabric, ratio in result["ratios_polled_to_edma"].items():
        if ratio is None or (fabric == "local" and result["pump_shm"]["avg_us"] > PUMP_AVERAGE_US):
            continue
        least, wish = POLLED_RATIO[fabric]
        what = f"{fabric}, polled / eDMA, averages"
        rows += [Row.at_least(what, ratio, "", least), Row.wish(Row.at_least(what, ratio, "", wish))]
    return rows


def throughput_rows(result: Mapping[str, Any], polled: str) -> list[Row]:
    """Of ``bench throughput``: TCP with one stream.

    Args:
        result: what ``--json`` prints.
        polled: name of the backend whose doorbells are polled.
    """
    rows = []
    for row in result["results"]:
        if row["protocol"] != "tcp" or row["streams"] != 1:
            continue
        what = f"{row['fabric']}, {row['backend']}, TCP {row['direction']}, MTU {row['mtu']}"
        budget = TCP.get((row["fabric"], row["mtu"]))
        if row["backend"] == EDMA and budget is not None:
            rows += [
                Row.at_least(f"{what} / veth", row["ratio"], "", budget[0]),
                Row.wish(Row.at_least(f"{what} / veth", row["ratio"], "", budget[1])),
            ]
        if row["backend"] == polled and row["direction"] == "rc->ep" and row["mtu"] == LARGEST_MTU:
            bound = result["tcp_bounds_gbit_s"][str(LARGEST_MTU)]["rc->ep_whole_ring"]
            most = round(bound * (1 + POLL_TOLERANCE), 4)
            rows.append(Row.at_most(what, row["gbit_s"], "Gbit/s", most))
    return rows


def micro_rows(result: Mapping[str, Any]) -> list[Row]:
    """Of ``bench micro``."""
    stores = [
        Row.at_least(f"store of {row['bytes'] >> 10} KiB / memcpy", row["ratio"], "", STORE_RATIO)
        for row in result["stores"]
    ]
    wakes = [
        Row.at_most(f"interrupt, {row['fabric']} / eventfd pair", row["ratio"], "", WAKE_RATIO)
        for row in result["interrupts"]
        if row["fabric"] == "local"
    ]
    rate = result["ring"]["frames_per_s"]["median"]
    return [*stores, *wakes, Row.at_least("small frames through a ring", rate, "/s", FRAMES_PER_S)]
