"""The parts of ``ntbnet top`` as lines of text: pure functions of a view.

States are words; colours only repeat what the words say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

from ntbnet.app.interrupts import INTERRUPT_COUNTERS
from ntbnet.app.logs_text import bare
from ntbnet.app.top_view import Direction, InterruptRow, Latency, ServiceRow, View
from ntbnet.log import COMMON_KEYS

BAR_CELLS = 10
_COLOURS = {
    "up": "green",
    "starting": "yellow",
    "degraded": "yellow",
    "disabled": "yellow",
    "idle": "dim",
    "stopped": "bold yellow",
    "silent": "bold yellow",
    "down": "bold red",
    "elsewhere": "dim",
    "debug": "dim",
    "info": "",
    "warning": "yellow",
    "error": "bold red",
}


def amount(value: float | None, unit: str = "") -> str:
    """Three digits and a decimal prefix; ``-`` for what is not known."""
    if value is None:
        return "-"
    for prefix, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size * 0.9995:
            scaled = value / size
            return f"{scaled:.{2 if scaled < 9.995 else 1 if scaled < 99.95 else 0}f} {prefix}{unit}"
    text = "0" if value == 0 else f"{value:.{1 if value < 99.95 else 0}f}"
    return f"{text} {unit}" if unit else text


def memory(value: int | None) -> str:
    """Bytes as MiB."""
    return "-" if value is None else f"{value / (1 << 20):.0f} MiB"


def headline(view: View, *, is_paused: bool) -> Text:
    """Which bridge, in which state."""
    text = Text.assemble(
        ("ntbnet top", "bold"), f"  bridge {view.name}: ", (view.state, _COLOURS.get(view.state, ""))
    )
    text.append(f"  {view.profile}, fabric {view.fabric}")
    if view.peer is not None:
        text.append(f", other node at {view.peer}")
    if view.is_traced:
        text.append("  TRACED", "bold")
    if is_paused:
        text.append("  PAUSED", "bold reverse")
    return text


def picture(view: View) -> list[Text]:
    """The two nodes, their processes and what joins them."""
    state = {service.name: service.state for service in view.services}
    is_up = view.link == "up"
    line, cross = ("═", "") if is_up else ("╌", "✗ ")
    link = f" {line * 3} {cross}link {view.link}, epoch {view.link_epoch} {line * 3} "
    left, right = "ntb0 ── peer-rc ── rc-host", "epc ── peer-ep ── ntb0"
    at = {"peer-rc": 9, "rc-host": 20, "epc": 1 + len(left) + len(link)}
    at["peer-ep"] = at["epc"] + 7
    top = Text(f" node rc  {view.addresses['rc']}".ljust(at["epc"]))
    top.append(f"node ep  {view.addresses['ep']}")
    middle = Text(f" {left}")
    middle.append(link, _COLOURS[view.link])
    middle.append(right)
    below, spur = Text(), Text(" " * (at["epc"]))
    for name in ("peer-rc", "rc-host", "epc", "peer-ep"):
        word = state[name]
        below.append(" " * (at[name] - len(below)))
        below.append(word, _COLOURS.get(word, ""))
        if name != "peer-ep" and len(below) >= at["peer-ep"]:
            below.append(" ")
    spur.append("└─ edma: ")
    spur.append(state["edma"], _COLOURS.get(state["edma"], ""))
    return [top, middle, below, spur]


def services(rows: Sequence[ServiceRow], selected: str) -> list[Text]:
    """One line a process; the one that keys are about is marked."""
    lines = [Text("   service  node  state      pid      restarts     cpu    memory     up for", "bold")]
    for row in rows:
        is_selected = row.name == selected
        style = "reverse" if is_selected else ""
        text = Text(f" {'▶' if is_selected else ' '} {row.name:<8} {row.node:<5} ", style)
        text.append(f"{row.state:<9}", "" if is_selected else _COLOURS.get(row.state, ""))
        pid = "-" if row.pid is None else str(row.pid)
        cpu = "-" if row.cpu_percent is None else f"{row.cpu_percent:.0f} %"
        age = "-" if row.uptime_s is None else f"{row.uptime_s:.0f} s"
        text.append(f"  {pid:<8} {row.restarts:>8}  {cpu:>6} {memory(row.memory_bytes):>9} {age:>10}")
        lines.append(text)
    return lines


def directions(rows: Sequence[Direction]) -> list[Text]:
    """One line for each queue and direction."""
    lines = [Text("   queue       state    frames/s      bit/s  ring fill           full/s   errors", "bold")]
    for row in rows:
        text = Text(f"   {row.queue:<2} {row.sender} → {row.receiver} ")
        text.append(f"{row.state:<6}", _COLOURS.get(row.state, ""))
        text.append(f" {amount(row.frames_per_s):>10} {amount(row.bits_per_s):>10}  {_fill(row):<18}")
        text.append(f" {amount(row.ring_full_per_s):>7} ")
        text.append(f"{row.errors:>8}", "bold red" if row.errors else "")
        lines.append(text)
    if not rows:
        lines.append(Text("   no queue: no driver has its device", "dim"))
    return lines


def _fill(row: Direction) -> str:
    if not row.ring_entries or row.ring_used is None:
        return "-"
    cells = -(-row.ring_used * BAR_CELLS // row.ring_entries)  # not empty unless it is
    return f"{'█' * cells}{'░' * (BAR_CELLS - cells)} {row.ring_used}/{row.ring_entries}"


def interrupts(rows: Sequence[InterruptRow]) -> list[Text]:
    """One line a node: what rings it now, and what came each second, by how it came."""
    hows = list(dict.fromkeys(how for _, how, _, _ in INTERRUPT_COUNTERS))
    lines = [
        Text("   interrupts  rung by         " + "".join(f"{how + '/s':>19}" for how in hows[:1]), "bold")
    ]
    lines[0].append("".join(f"{how + '/s':>12}" for how in hows[1:]))
    for row in rows:
        text = Text(f"   {row.node:<10}  {row.backend or '-':<16}{amount(row.rates.get(hows[0])):>19}")
        text.append("".join(f"{amount(row.rates.get(how)):>12}" for how in hows[1:]))
        lines.append(text)
    return lines


def latencies(rows: Sequence[Latency], *, is_traced: bool) -> list[Text]:
    """One line a direction, from the node's stack to the other one's; says how to get samples without any."""
    if not rows:
        how = "no packet crossed since the trace began" if is_traced else "t starts a trace, which takes them"
        return [Text(f"   latency: no samples; {how}", "dim")]
    return [
        Text(
            f"   {row.sender} → {row.receiver} latency: p50 {row.p50_us:.0f} us, p99 {row.p99_us:.0f} us, "
            f"most {row.most_us:.0f} us, of {row.samples} packets"
        )
        for row in rows
    ]


def events(lines: Sequence[Mapping[str, Any]], height: int) -> list[Text]:
    """The newest events that fit, the newest one last; of what a log holds nothing steers the terminal."""
    found = []
    for fields in lines[-height:] if height > 0 else ():
        level = str(fields["level"])
        text = Text(f" {str(fields['wall'])[11:23]} {bare(fields['service']):<10} ")
        text.append(f"{level:<8}", _COLOURS.get(level, ""))
        text.append(bare(fields["event"]), "bold")
        for key, value in fields.items():
            if key not in COMMON_KEYS:
                text.append(f" {bare(key)}={bare(value)}")
        found.append(text)
    return found or [Text(" no events", "dim")]
