"""The picture of a chaos run: what crossed each way over time, the faults, how long each recovery took."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ntbnet.app.chaos_history import WAYS, FaultRecord, Kind, Record
from ntbnet.app.chaos_judgement import RULES
from ntbnet.app.chaos_run import Done

COLOURS = ("#2166ac", "#e08214")
"""By way."""
VICTIMS = {
    "rc-host": "#1b7837",
    "epc": "#b2182b",
    "edma": "#8073ac",
    "peer-rc": "#2166ac",
    "peer-ep": "#e08214",
    "supervisor": "#000000",
}
OTHERS = "#636363"
"""Colour of a fault that hits several services at once, and of the fault layer."""
MOST_BINS = 600
LEAST_BIN_NS = 20_000_000


def draw(done: Done, path: Path) -> None:
    """Write the picture.

    Args:
        done: a run.
        path: a .png file.

    Raises:
        OSError: it cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    records = [record for life in done.history.lives for record in life]
    if not records:
        start_ns = end_ns = 0
    else:
        start_ns, end_ns = records[0].time_ns, max(record.time_ns for record in records)
    figure = Figure(figsize=(11, 6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    bin_ns = max((end_ns - start_ns) // MOST_BINS, LEAST_BIN_NS)
    for way, name in enumerate(WAYS):
        above.plot(
            *_rates(done.history.lives, way, start_ns, end_ns, bin_ns),
            color=COLOURS[way],
            linewidth=1,
            drawstyle="steps-post",
            label=f"{name}, datagrams and TCP",
        )
    above.set_ylabel("delivered, Mbit/s")
    above.set_ylim(bottom=0)
    handles = list(above.get_legend_handles_labels()[0])
    used: dict[str, str] = {}
    for fault in done.history.faults:
        colour, label = _colour(fault)
        used[label] = colour
        begin_s, end_s = (fault.at_ns - start_ns) / 1e9, (fault.until_ns - start_ns) / 1e9
        if end_s > begin_s:
            above.axvspan(begin_s, end_s, color=colour, alpha=0.1, linewidth=0)
        above.axvline(begin_s, color=colour, linewidth=0.8, alpha=0.7)
    for one in done.judgement.recoveries:
        if one.took_ns is None:
            continue
        colour, _ = _colour(one.fault)
        at_s, took_ms = (one.fault.at_ns - start_ns) / 1e9, one.took_ns / 1e6
        below.vlines(at_s, 0, took_ms, color=colour, linewidth=1)
        below.plot([at_s], [took_ms], marker="o", markersize=4, color=colour, linestyle="none")
    limit_ms = done.wanted.scenario.bounds.recovery_max_ms
    slowest_ms = max((one.took_ns or 0 for one in done.judgement.recoveries), default=0) / 1e6
    if slowest_ms * 1.15 > limit_ms:
        below.axhline(limit_ms, color="#b2182b", linestyle=":", linewidth=1)
        below.annotate(
            "bound", (0.001, limit_ms), xycoords=("axes fraction", "data"), fontsize=8, va="bottom"
        )
    below.set_ylabel("recovery, ms")
    below.set_ylim(0, max(slowest_ms * 1.15, 10))
    below.set_xlabel("seconds")
    handles += [
        Line2D([], [], color=colour, marker="o", markersize=4, label=label) for label, colour in used.items()
    ]
    judgement, wanted = done.judgement, done.wanted
    above.set_title(
        f"{wanted.scenario.source}, seed {wanted.seed}, fabric {wanted.fabric}: {judgement.verdict}; "
        f"{judgement.delivered} of {judgement.sent} datagrams delivered",
        fontsize=10,
        loc="left",
    )
    for axes in (above, below):
        axes.grid(visible=True, alpha=0.3)
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    figure.savefig(path, format="png")


def _rates(
    lives: Sequence[Sequence[Record]], way: int, start_ns: int, end_ns: int, bin_ns: int
) -> tuple[list[float], list[float]]:
    """Seconds, and megabits a second delivered from then to the next."""
    bits = [0.0] * ((end_ns - start_ns) // bin_ns + 1)
    for records in lives:
        streamed = 0
        for record in records:
            if record.way != way:
                continue
            at = (record.time_ns - start_ns) // bin_ns
            if record.kind == Kind.RECEIVED:
                bits[at] += 8 * record.size
            elif record.kind == Kind.TCP_RECEIVED:
                bits[at] += 8 * (record.sequence - streamed)
                streamed = record.sequence
    seconds = bin_ns / 1e9
    return [at * seconds for at in range(len(bits))], [count / seconds / 1e6 for count in bits]


def _colour(fault: FaultRecord) -> tuple[str, str]:
    if fault.kind == RULES:
        return OTHERS, "fault layer active"
    if len(fault.services) == 1:
        return VICTIMS[fault.services[0]], f"{fault.kind} {fault.services[0]}"
    return (
        OTHERS,
        f"{fault.kind} of {len(fault.services)} at once",
    )
