"""sockperf's ping-pong between two namespaces; every latency is half a round trip, as it defines them."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

from ntbnet.app.bench_lab import Direction, run_program, serving
from ntbnet.errors import SetupError

MESSAGE_BYTES = 14
"""sockperf's smallest, and what the RFC series measured with."""
PORT = 11111
MARGIN_S = 20.0
"""What a measurement may take beyond its own duration."""

_SENT = re.compile(r"\[Total Run\].*SentMessages=(\d+)")
_SUMMARY = re.compile(r"avg-latency=([\d.]+) \(std-dev=([\d.]+)\)")
_PERCENTILE = re.compile(r"percentile ([\d.]+) =\s*([\d.]+)")
_EXTREME = re.compile(r"<(MIN|MAX)> observation =\s*([\d.]+)")
_LOSSES = re.compile(
    r"dropped messages = (\d+); # duplicated messages = (\d+); # out-of-order messages = (\d+)"
)
_FULL_LOG_LINE = re.compile(r"^\d+, [\d.]+, [\d.]+, ([\d.]+)", re.MULTILINE)


def ping_pong(way: Direction, seconds: int, protocol: str = "tcp") -> dict[str, Any]:
    """One run, of which sockperf leaves out the first 400 ms and the last 50 ms.

    Args:
        way: from whom to whom.
        seconds: how long, with what is left out.
        protocol: ``tcp`` or ``udp``.

    Raises:
        SetupError: sockperf fails or says nothing that can be read.
    """
    where = ["-i", way.address, "-p", str(PORT), *(["--tcp"] if protocol == "tcp" else [])]
    with tempfile.TemporaryDirectory() as folder:
        full_log = Path(folder, "full.log")
        client = ["sockperf", "ping-pong", *where, "-t", str(seconds), "-m", str(MESSAGE_BYTES)]
        with serving(way.receiver, ["sockperf", "server", *where], PORT, protocol):
            done = run_program(way.sender, [*client, "--full-log", str(full_log)], seconds + MARGIN_S)
        log = full_log.read_text(encoding="ascii", errors="replace") if full_log.exists() else ""
    return sockperf_result(done.stdout, log)


def sockperf_result(output: str, full_log: str) -> dict[str, Any]:
    """What sockperf measured, from what it printed and its full log.

    Returns:
        Its figures in microseconds, every latency in ``samples_us``, and ``sent``: all messages of
        the run, also those it does not count.

    Raises:
        SetupError: there is no latency in it.
    """
    summary, sent, losses = _SUMMARY.search(output), _SENT.search(output), _LOSSES.search(output)
    latencies = [float(value) for value in _FULL_LOG_LINE.findall(full_log)]
    if summary is None or sent is None or losses is None or not latencies:
        raise SetupError(f"sockperf measured nothing: {' '.join(output.split())[-160:]}")
    extremes = {name.lower(): float(value) for name, value in _EXTREME.findall(output)}
    return {
        "average_us": float(summary[1]),
        "std_dev_us": float(summary[2]),
        "n": len(latencies),
        "sent": int(sent[1]),
        "percentiles_us": {name: float(value) for name, value in reversed(_PERCENTILE.findall(output))},
        "min_us": extremes.get("min"),
        "max_us": extremes.get("max"),
        "dropped_duplicated_reordered": [int(count) for count in losses.groups()],
        "samples_us": latencies,
    }
