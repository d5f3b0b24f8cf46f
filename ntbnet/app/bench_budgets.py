"""Budgets: absolute ones, ratios to a reference of the same run, and how far beyond one would like to be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from ntbnet.app.bench_backends import EDMA, POLLED
from ntbnet.app.bench_latencies import PUBLISHED

REFERENCE_LATENCY_US = 5995.68
"""sockperf ping-pong average of the RFC series, TCP 14 B, doorbells polled every 5 ms at HZ=250."""
LATENCY_TOLERANCE = 0.05
STARTUP_BUDGET_S, STARTUP_WISH_S = 2.0, 1.0
IMPORT_BUDGET_MS = 150.0
MEMORY_BUDGET_MIB = 40.0
IDLE_BUDGET_PERCENT = 2.0
RECOVERY_P50_BUDGET_MS, RECOVERY_P50_WISH_MS = 250.0, 50.0
RECOVERY_WORST_BUDGET_MS = 1000.0
MIB = 1 << 20
PING_PONG = {"local": (1.6, 3.0), "message": (2.5, 8.0)}
"""By fabric, eDMA backend, p50: most times its pump; wished for: most times veth."""
POLLED_RATIO = {"local": (46.9, 60.0), "message": (12.0, 46.9)}
"""By fabric, averages: least times eDMA that polled takes; wished for. 46.9 is that of the boards."""
PUMP, PUMP_AVERAGE_US = "pump_shm", 80.0
"""On a machine whose pump over shared memory is slower, nobody can reach the boards' ratio."""
TCP = {("local", 65510): (0.6, 0.8), ("local", 1500): (0.4, 0.6), ("message", 65510): (0.12, 0.25)}
"""By fabric and MTU, eDMA backend: least share of veth; wished for."""
PUBLISHED_PERIOD_MS = 12.0
"""Of the doorbell poll on the boards; half of it is the published average."""
LARGEST_MTU = 65510
"""Bytes; one packet of it fills a frame, so that a ring a poll is a bound."""
POLL_TOLERANCE = 0.05
"""Faster than its bound by more than that, the doorbell was not polled."""
POLL_LEAST = 0.8
"""Slower than that share of what a queue that stops early lets through, something else holds frames up."""
STORE_RATIO = 0.8
"""Least share of memcpy that a store into a window reaches, blocks of 64 KiB and more."""
WAKE_RATIO = 3.0
"""Most times a raw eventfd pair that an interrupt takes, whatever the fabric."""
FRAMES_PER_S = 200_000.0
"""Least rate of small frames through a ring."""

INVALID = "INVALID"
"""Why something is not judged: the run, or what it is compared with, does not count."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    what: str
    measured: float | None
    """None: there is no such figure; ``why`` says why."""
    unit: str
    budget: str
    ratio: float | None
    """Measured to budget."""
    within: bool | None
    """None: it was not judged; ``why`` says why."""
    is_wish: bool = False
    """Beyond the budget: nobody was promised it."""
    why: str = ""
    """Why it was not judged; empty where it was."""

    @classmethod
    def unjudged(cls, row: Row, why: str = INVALID) -> Row:
        """The same, not judged; ``why``: what is wrong with it, by default that it does not count."""
        return replace(row, within=None, why=why)

    @classmethod
    def missing(cls, row: Row, why: str) -> Row:
        """The same without a figure."""
        return replace(cls.unjudged(row, why), measured=None, ratio=None)

    @classmethod
    def wish(cls, row: Row) -> Row:
        """The same as something wished for."""
        return replace(row, is_wish=True)

    @classmethod
    def at_most(cls, what: str, measured: float, unit: str, budget: float) -> Row:
        """Less is better."""
        return cls(what, measured, unit, f"<= {budget:g}", round(measured / budget, 3), measured <= budget)

    @classmethod
    def at_least(cls, what: str, measured: float, unit: str, budget: float) -> Row:
        """More is better."""
        return cls(what, measured, unit, f">= {budget:g}", round(measured / budget, 3), measured >= budget)

    @classmethod
    def near(cls, what: str, measured: float, unit: str, target: float, tolerance: float) -> Row:
        """Neither more nor less."""
        ratio = measured / target
        budget = f"{target:g} +-{100 * tolerance:g} %"
        return cls(what, measured, unit, budget, round(ratio, 3), abs(ratio - 1) <= tolerance)


def startup_rows(result: Mapping[str, Any]) -> list[Row]:
    """Of a result with cold starts, imports, memory and idle cost."""
    imports = max(samples["median"] for samples in result["imports_ms"].values())
    private_mib = round(max(result["private_bytes"].values()) / MIB, 2)
    idle_percent = result["idle_percent"]["total"]["median"]
    cold, start_s = "cold start to first ping reply", result["startup_s"]["median"]
    return [
        Row.at_most(cold, start_s, "s", STARTUP_BUDGET_S),
        Row.wish(Row.at_most(cold, start_s, "s", STARTUP_WISH_S)),
        Row.at_most("imports, slowest service", imports, "ms", IMPORT_BUDGET_MS),
        Row.at_most("private memory, largest service", private_mib, "MiB", MEMORY_BUDGET_MIB),
        Row.at_most("idle, five services", idle_percent, "% of a core", IDLE_BUDGET_PERCENT),
    ]


def recovery_rows(recovery: Mapping[str, Any]) -> list[Row]:
    """Of kills."""
    every, middle = recovery["all_ms"], "recovery from SIGKILL, p50"
    return [
        Row.at_most(middle, every["median"], "ms", RECOVERY_P50_BUDGET_MS),
        Row.wish(Row.at_most(middle, every["median"], "ms", RECOVERY_P50_WISH_MS)),
        Row.at_most("recovery from SIGKILL, worst", every["max"], "ms", RECOVERY_WORST_BUDGET_MS),
    ]


def basics_rows(result: Mapping[str, Any]) -> list[Row]:
    """Of ``bench basics``: with polled doorbells, but for TCP with interrupts."""
    tcp, bounds = result["throughput"], result["tcp_bounds_gbit_s"]
    polled = _polled("TCP RC->EP, polled", tcp["gbit_s"]["rc->ep"]["median"], bounds)
    table = [
        *startup_rows(result),
        Row.near(
            "TCP 14 B ping-pong, average",
            result["latency"]["average_us"],
            "us",
            REFERENCE_LATENCY_US,
            LATENCY_TOLERANCE,
        ),
        *_counting(polled, is_valid=tcp["valid"]["rc->ep"]),
    ]
    with_edma, settings = result["throughput_edma"], result["settings"]
    if with_edma is not None:
        for way, ratio in with_edma["ratio_to_veth"].items():
            what, budget = f"TCP {way.upper()}, eDMA / veth", TCP.get((settings["fabric"], settings["mtu"]))
            rows = _as_configured(_share(what, ratio["median"], budget), result["config"])
            table += _counting(rows, is_valid=with_edma["valid"][way])
    return [*table, *recovery_rows(result["recovery"])]


def _counting(rows: list[Row], *, is_valid: bool) -> list[Row]:
    """A measurement that does not count is within no budget, and misses none."""
    return rows if is_valid else [Row.unjudged(row) for row in rows]


def _as_configured(rows: list[Row], config: Mapping[str, Any]) -> list[Row]:
    """Shares of veth are judged where the bridge has what they take."""
    netdev = config["netdev"]
    if not netdev["offloads"]:
        return [Row.unjudged(row, "netdev.offloads is false") for row in rows]
    if netdev["poll"] == "never":
        return [Row.unjudged(row, "netdev.poll is never: bound by the transmit timer") for row in rows]
    return rows


def _polled(what: str, gbit_s: float, bounds: Mapping[str, float]) -> list[Row]:
    """Of TCP by polled doorbells: bound by the poll, and by nothing else."""
    most = round(bounds["rc->ep_whole_ring"] * (1 + POLL_TOLERANCE), 4)
    least = round(bounds["rc->ep"] * POLL_LEAST, 4)
    return [
        Row.at_most(what, gbit_s, "Gbit/s", most),
        Row.at_least(f"{what}, bound by the poll alone", gbit_s, "Gbit/s", least),
    ]


def _share(what: str, ratio: float, budget: tuple[float, float] | None) -> list[Row]:
    """Of throughput, by budget and wish."""
    if budget is None:
        return []
    least, wish = budget
    return [Row.at_least(what, ratio, "", least), Row.wish(Row.at_least(what, ratio, "", wish))]


def latency_rows(result: Mapping[str, Any]) -> list[Row]:
    """Of ``bench latency``."""
    rows = []
    for row in result["results"]:
        if row["backend"] == EDMA:
            most, wish = PING_PONG[row["fabric"]]
            what, pump = f"{row['fabric']}, eDMA, ping-pong p50", row["pump"]
            to_pump = Row.at_most(f"{what} / {pump}", row["ratio_to_pump"], "", most)
            to_veth = Row.wish(Row.at_most(f"{what} / veth", row["ratio_to_veth"], "", wish))
            rows += _counting([to_pump], is_valid=row["valid"] and result[pump]["valid"])
            rows += _counting([to_veth], is_valid=row["valid"] and result["veth"]["valid"])
            if row["fabric"] == "local":
                to_board = Row.wish(Row.at_most(what, row["p50_us"], "us", PUBLISHED[1]["p50_us"]))
                rows += _counting([to_board], is_valid=row["valid"])
        elif row["backend"] == POLLED:
            what, period_ms = f"{row['fabric']}, polled, ping-pong average", result["poll_period_ms"]
            near = Row.near(what, row["avg_us"], "us", PUBLISHED[0]["avg_us"], LATENCY_TOLERANCE)
            if period_ms != PUBLISHED_PERIOD_MS:
                near = Row.unjudged(
                    near, f"polled every {period_ms:g} ms, the boards {PUBLISHED_PERIOD_MS:g}"
                )
            rows += _counting([near], is_valid=row["valid"])
    for fabric, ratio in result["ratios_polled_to_edma"].items():
        rows += _polled_to_edma(result, fabric, ratio)
    return rows


def _polled_to_edma(result: Mapping[str, Any], fabric: str, ratio: float | None) -> list[Row]:
    """Of averages; not judged where there is no ratio, or nobody could reach the boards'."""
    rows = _share(f"{fabric}, polled / eDMA, averages", ratio or 0.0, POLLED_RATIO[fabric])
    if ratio is None:
        mine = {row["backend"]: row["valid"] for row in result["results"] if row["fabric"] == fabric}
        absent = [backend for backend in (POLLED, EDMA) if backend not in mine]
        why = f"no {absent[0]} backend" if absent else INVALID
        return [Row.missing(row, why) for row in rows]
    if fabric == "local":
        pump = result[PUMP]
        if not pump["valid"]:
            return [Row.unjudged(row, f"{PUMP} is {INVALID}") for row in rows]
        if pump["avg_us"] > PUMP_AVERAGE_US:
            why = f"{PUMP} averages {pump['avg_us']:.1f} us, above {PUMP_AVERAGE_US:g}"
            return [Row.unjudged(row, why) for row in rows]
    return rows


def throughput_rows(result: Mapping[str, Any], polled: str) -> list[Row]:
    """Of ``bench throughput``: TCP with one stream.

    Args:
        result: what ``--json`` prints.
        polled: name of the backend whose doorbells are polled.
    """
    table = []
    for row in result["results"]:
        if row["protocol"] != "tcp" or row["streams"] != 1:
            continue
        what, rows = f"{row['fabric']}, {row['backend']}, TCP {row['direction']}, MTU {row['mtu']}", []
        if row["backend"] == EDMA:
            shares = _share(f"{what} / veth", row["ratio"], TCP.get((row["fabric"], row["mtu"])))
            rows += _as_configured(shares, result["config"])
        if row["backend"] == polled and row["direction"] == "rc->ep" and row["mtu"] == LARGEST_MTU:
            rows += _polled(what, row["gbit_s"], result["tcp_bounds_gbit_s"][str(LARGEST_MTU)])
        table += _counting(rows, is_valid=row["valid"])
    return table


def micro_rows(result: Mapping[str, Any]) -> list[Row]:
    """Of ``bench micro``."""
    stores = [
        Row.at_least(f"store of {row['bytes'] >> 10} KiB / memcpy", row["ratio"], "", STORE_RATIO)
        for row in result["stores"]
    ]
    wakes = [
        Row.at_most(f"interrupt, {row['fabric']} / eventfd pair", row["ratio"], "", WAKE_RATIO)
        for row in result["interrupts"]
    ]
    ring = result["ring"]
    rate = Row.at_least("small frames through a ring", ring["frames_per_s"]["median"], "/s", FRAMES_PER_S)
    return [*stores, *wakes, *_counting([rate], is_valid=ring["valid"])]


def as_json(table: Iterable[Row]) -> list[dict[str, Any]]:
    """The rows for ``--json``."""
    return [asdict(row) for row in table]
