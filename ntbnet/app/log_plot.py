"""Pictures of a log, as PNG: how much was said, when links were up, how failures went, how long hops take."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ntbnet.app.log_course import Course
from ntbnet.app.log_latency import Hop
from ntbnet.app.log_timeline import Failure
from ntbnet.app.logs_text import plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEVEL_COLOURS = {"debug": "#bdbdbd", "info": "#4393c3", "warning": "#f4a582", "error": "#b2182b"}
STEP_COLOURS = {
    "detection": "#b2182b",
    "restart": "#ef8a62",
    "start of the process": "#fddbc7",
    "link": "#67a9cf",
    "first packet": "#2166ac",
}
UP, DOWN = "#92c5de", "#b2182b"
MOST_BARS = 80
"""Failures that are drawn, the latest ones."""
DPI = 110
WIDTH_IN = 9.6


def events_over_time(course: Course, failures: Sequence[Failure]) -> bytes:
    """Events a second, by level; a line for each fault."""
    figure, axes = _figure(3.2)
    step_s = course.step_ns / 1e9
    steps = int((course.last_ns - course.first_ns) / course.step_ns) + 1
    edges = [number * step_s for number in range(steps + 1)]
    base = [0.0] * steps
    for level, colour in LEVEL_COLOURS.items():
        counts = course.levels.get(level)
        if not counts:
            continue
        top = [low + counts[number] / step_s for number, low in enumerate(base)]
        axes.stairs(top, edges, baseline=base, fill=True, color=colour, label=level)
        base = top
    _mark_faults(axes, course, failures)
    axes.set_ylabel("events a second")
    axes.set_xlabel("s since the first line")
    axes.set_xlim(0, edges[-1])
    axes.set_ylim(bottom=0)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=8)
    return _png(figure)


def links_over_time(course: Course, failures: Sequence[Failure]) -> bytes:
    """A bar for each link: up and down."""
    rows = course.spans()
    figure, axes = _figure(0.9 + 0.32 * len(rows))
    for number, spans in enumerate(rows.values()):
        for is_up, colour in ((True, UP), (False, DOWN)):
            bars = [
                ((span.start_ns - course.first_ns) / 1e9, (span.end_ns - span.start_ns) / 1e9)
                for span in spans
                if span.up is is_up
            ]
            axes.broken_barh(bars, (number - 0.35, 0.7), facecolors=colour, linewidth=0)
    _mark_faults(axes, course, failures)
    axes.set_yticks(range(len(rows)), [_plain(row) for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, max((course.last_ns - course.first_ns) / 1e9, course.step_ns / 1e9))
    axes.set_xlabel("s since the first line")
    from matplotlib.patches import Patch

    handles = [Patch(color=UP, label="up"), Patch(color=DOWN, label="down")]
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=8)
    return _png(figure)


def failures_by_step(failures: Sequence[Failure]) -> bytes:
    """A bar for each failure: how long each step took."""
    shown = failures[-MOST_BARS:]
    figure, axes = _figure(1.2 + 0.19 * len(shown))
    labelled: set[str] = set()
    for number, failure in enumerate(shown):
        at_ns = failure.fault_ns
        steps = (
            failure.detected_ns,
            failure.restarted_ns,
            failure.ready_ns,
            failure.usable_ns,
            failure.first_packet_ns,
        )
        for (name, colour), end_ns in zip(STEP_COLOURS.items(), steps, strict=True):
            if end_ns is None or end_ns < at_ns:
                continue
            label = None if name in labelled else name
            labelled.add(name)
            left_ms, width_ms = (at_ns - failure.fault_ns) / 1e6, (end_ns - at_ns) / 1e6
            axes.barh(number, width_ms, left=left_ms, color=colour, height=0.8, label=label)
            at_ns = end_ns
    names = [_plain(f"{one.service} {one.kind}") for one in shown]
    axes.set_yticks(range(len(shown)), names, fontsize=7)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.set_xlabel("ms since the fault")
    handles, texts = axes.get_legend_handles_labels()
    order = sorted(range(len(texts)), key=lambda index: list(STEP_COLOURS).index(texts[index]))
    axes.legend(
        [handles[index] for index in order],
        [texts[index] for index in order],
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
        frameon=False,
        fontsize=8,
    )
    return _png(figure)


def latencies_by_hop(hops: Sequence[Hop]) -> bytes:
    """A bar for each hop: from its median to its 99th percentile, a dot for the most."""
    figure, axes = _figure(0.9 + 0.24 * len(hops))
    for number, hop in enumerate(hops):
        low, high = (max(hop.spread.quantile_ns(share), 1) / 1e3 for share in (0.5, 0.99))
        axes.barh(number, max(high - low, low * 0.02), left=low, color=UP, height=0.7)
        axes.plot([hop.spread.most_ns / 1e3], [number], "|", color=DOWN)
    axes.set_xscale("log")
    axes.set_yticks(range(len(hops)), [f"{hop.sort}: {hop.name}" for hop in hops], fontsize=7)
    axes.set_ylim(len(hops) - 0.5, -0.5)
    axes.set_xlabel("us: from the median to the 99th percentile; the red mark is the most")
    axes.grid(visible=True, axis="x", which="major", alpha=0.3)
    return _png(figure)


def _plain(text: str) -> str:
    """Text of a log as a label: no letters that fonts lack, no formula between dollars."""
    return plain(text).replace("$", r"\$")


def _mark_faults(axes: Any, course: Course, failures: Sequence[Failure]) -> None:
    for failure in failures[-MOST_BARS:]:
        at_s = (failure.fault_ns - course.first_ns) / 1e9
        axes.axvline(at_s, color="black", linewidth=0.5, alpha=0.35)


def _figure(height_in: float) -> tuple[Figure, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_IN, min(height_in, 40)), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


def _png(figure: Figure) -> bytes:
    data = io.BytesIO()
    figure.savefig(data, format="png")
    return data.getvalue()
