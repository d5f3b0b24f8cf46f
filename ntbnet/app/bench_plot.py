"""Pictures: latencies as shares of all below each, on a logarithmic axis; throughput as bars beside veth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ntbnet.app.bench_latencies import PUBLISHED, QUANTILES
from ntbnet.errors import SetupError

COLOURS = {
    "doorbell": "#b2182b",
    "dw-edma-testirq": "#2166ac",
    "msi": "#1b7837",
    "veth": "#636363",
    "pump_shm": "#e08214",
    "pump_zmq": "#8073ac",
}
"""By backend or reference."""
STYLES = {"message": "--", "local": "-"}
"""Of a line, by fabric."""
MOST_POINTS = 4000
"""Points of a curve: more are not seen."""


def require_matplotlib(path: Path) -> None:
    """Before anything is measured: a picture can be drawn, and there is a folder for it.

    Raises:
        SetupError: not so; says what to do.
    """
    if find_spec("matplotlib") is None:
        raise SetupError("--plot needs matplotlib: pip install 'ntbnet[plots]'")
    if path.suffix != ".png":
        raise SetupError(f"--plot {path}: must end in .png")
    if not path.absolute().parent.is_dir():
        raise SetupError(f"--plot {path}: there is no folder {path.absolute().parent}")


def draw(result: Mapping[str, Any], samples_us: Mapping[str, Sequence[float]], path: Path) -> None:
    """Write the picture.

    Args:
        result: what ``--json`` prints.
        samples_us: latencies of each fabric and backend (their names, a space between) and of each
            reference, microseconds.
        path: a .png file.

    Raises:
        OSError: it cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator

    figure = Figure(figsize=(9.6, 5.6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for way, values in samples_us.items():
        average_us, ordered = sum(values) / len(values), _thinned(sorted(values))
        label = f"{way}: average {average_us:.1f} us, n = {len(values)}"
        fabric, _, backend = way.rpartition(" ")
        axes.plot(
            *ordered,
            drawstyle="steps-post",
            linewidth=2,
            color=COLOURS[backend],
            linestyle=STYLES.get(fabric, "-"),
            label=label,
        )
    for row in PUBLISHED:
        if any(way.endswith(f" {row['backend']}") for way in samples_us):
            axes.plot(
                [row["min_us"], *(row[key] for key in QUANTILES)],
                [0, *(100 * share for share in QUANTILES.values())],
                linestyle="none",
                marker="D",
                markersize=6,
                markerfacecolor="white",
                markeredgewidth=1.5,
                color=COLOURS[row["backend"]],
                label=f"{row['backend']}, published (R-Car S4): average {row['avg_us']:.1f} us",
            )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter("")
    axes.set_ylim(-2, 102)
    axes.set_xlabel("half a round trip, us")
    axes.set_ylabel("messages at or below, %")
    axes.set_title(_title(result), fontsize=10, loc="left")
    axes.grid(visible=True, which="major", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    figure.savefig(path, format="png")


def draw_throughput(result: Mapping[str, Any], path: Path) -> None:
    """Write the picture of ``bench throughput``: its shares of veth, least to greatest as a line.

    Args:
        result: what ``--json`` prints.
        path: a .png file.

    Raises:
        OSError: it cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = list(reversed(result["results"]))
    figure = Figure(figsize=(9.6, 1.6 + 0.24 * len(rows)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for at, row in enumerate(rows):
        ratio = row["rounds"]["ratio"]
        axes.barh(at, ratio["median"], color=COLOURS[row["backend"]])
        axes.plot([ratio["min"], ratio["max"]], [at, at], color="black", linewidth=1)
        text = f" {row['gbit_s']:.2f} of {row['veth_gbit_s']:.2f} Gbit/s"
        axes.annotate(text, (ratio["max"], at), va="center", fontsize=7)
    keys = ("fabric", "backend", "mtu", "protocol", "streams", "direction")
    names = [" ".join(str(row[key]) for key in keys) for row in rows]
    axes.set_yticks(range(len(rows)), names, fontsize=7)
    axes.margins(x=0.25)
    axes.set_xlim(left=0)
    axes.set_xlabel("throughput / veth")
    about = result["machine"]
    axes.set_title(
        f"iperf3, profile {result['profile']}\n{about['cores']} x {about['cpu']}, Linux {about['kernel']}, "
        f"ntbnet {result['version']}",
        fontsize=10,
        loc="left",
    )
    axes.grid(visible=True, axis="x", alpha=0.3)
    figure.savefig(path, format="png")


def _title(result: Mapping[str, Any]) -> str:
    about, ratio = result["machine"], result["ratio_polled_to_edma"]
    text = f"UDP ping-pong RC to EP by {result['tool']}; profile {result['profile']}"
    if ratio is not None:
        text += f"; {result['fabric']}: polled / eDMA = {ratio:.1f}"
    return f"{text}\n{about['cores']} x {about['cpu']}, Linux {about['kernel']}, ntbnet {result['version']}"


def _thinned(ordered: Sequence[float]) -> tuple[list[float], list[float]]:
    """Latencies and the percentage of all that each is not exceeded by; the first and last are kept."""
    count = len(ordered)
    step = max(1, count // MOST_POINTS)
    kept = sorted({*range(0, count, step), count - 1})
    return [ordered[0], *(ordered[number] for number in kept)], [0, *(100 * (n + 1) / count for n in kept)]
