"""The end of ``demo``: what counts, and what is said when it does not."""

from __future__ import annotations

from io import StringIO
from typing import Any

from rich.console import Console

from ntbnet.app.bench_latencies import Latencies
from ntbnet.app.demo import comparison, show_latency

COMPLAINT = "dw-edma-testirq: 103 frames from RC to EP, but 0 rings (test_interrupts)"


def latency(backend: str, average_us: float, *invalid: str) -> dict[str, Any]:
    return {"backend": backend, **Latencies([average_us]).figures(), "invalid": list(invalid)}


def shown(comparison: dict[str, Any]) -> str:
    console = StringIO()
    show_latency(comparison, Console(file=console, width=200))
    return console.getvalue()


def test_two_runs_that_count_give_a_ratio() -> None:
    found = comparison([latency("doorbell", 6000.0), latency("dw-edma-testirq", 120.0)])

    assert (found["ratio_polled_to_interrupt"], found["invalid"]) == (50.0, [])
    assert "INVALID" not in shown(found)


def test_a_run_that_its_counter_contradicts_gives_none_and_is_named() -> None:
    found = comparison([latency("doorbell", 6000.0), latency("dw-edma-testirq", 120.0, COMPLAINT)])

    assert (found["ratio_polled_to_interrupt"], found["invalid"]) == (None, [COMPLAINT])
    text = shown(found)
    assert "dw-edma-testirq (INVALID)" in text
    assert "doorbell (INVALID)" not in text
    assert f"INVALID: {COMPLAINT}" in text
    assert "polled / interrupt" not in text


def test_one_run_has_no_ratio() -> None:
    assert comparison([latency("doorbell", 6000.0)])["ratio_polled_to_interrupt"] is None
