"""A layout as a picture: boxes for the terminal, SVG for a document."""

from __future__ import annotations

from dataclasses import dataclass
from xml.sax.saxutils import escape

from ntbnet.layout import InboundWindow, Layout, LayoutBar

LEAST_COLUMNS = 5
"""Narrowest box in the terminal: a name such as ``mw1`` and a space on either side."""
SVG_WIDTH, SVG_MARGIN, BOX_HEIGHT, ROW_HEIGHT, TEXT_HEIGHT = 960, 16, 44, 96, 16
LEAST_PIXELS = 8
COLOURS = {"dram": "#cfe3f5", "edma": "#f7d9b0", "msi": "#d8ecc4", "": "#f3f3f3"}
"""Fill by target; the last is for what nothing lies at."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a BAR, named or empty."""

    name: str
    what: str
    offset: int
    size: int
    target: str


def pieces(bar: LayoutBar) -> list[Piece]:
    """All of a BAR, in order, holes included."""
    parts = [Piece(part.name, part.what, part.offset, part.size, part.target) for part in bar.ranges]
    parts += [Piece("", "nothing", hole.base, hole.size, "") for hole in bar.holes]
    return sorted(parts, key=lambda piece: piece.offset)


def bytes_text(size: int) -> str:
    """A size for people: the largest unit that gives a whole number."""
    for shift, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if size >> shift and not size & ((1 << shift) - 1):
            return f"{size >> shift} {unit}"
    return f"{size} B"


def _widths(sizes: list[int], total: int, least: int) -> list[int]:
    """Widths that add up to ``total`` (more when there is no room), in proportion, none below ``least``."""
    whole = sum(sizes)
    widths = [max(least, round(total * size / whole)) for size in sizes]
    while sum(widths) > total and max(widths) > least:
        widths[widths.index(max(widths))] -= 1
    if sum(widths) < total:
        widths[widths.index(max(widths))] += total - sum(widths)
    return widths


def _bar_title(bar: LayoutBar) -> str:
    width = ", 64-bit" if bar.bits64 else ""
    return f"BAR{bar.number}  {bar.kind}{width}, {bytes_text(bar.size)}, bus {bar.span}"


def _window_text(window: InboundWindow | None) -> str:
    if window is None:
        return "no inbound window"
    if window.mode == "wired":
        return "wired, no inbound window"
    how = {"bar": "BAR match", "map": "address match", "submap": "submap"}[window.mode]
    where = "" if window.target is None else f" -> {window.target:#x}"
    return f"inbound window {window.index}, {how}{where}"


def _serving(layout: Layout, bar: LayoutBar, piece: Piece) -> InboundWindow | None:
    for window in layout.windows:
        if window.bar == bar.number and window.base <= piece.offset <= window.limit:
            return window
    return None


def terminal(layout: Layout, columns: int) -> str:
    """The picture in box characters, at most ``columns`` wide where the parts allow it."""
    inside = min(max(columns - 4, 40), 100)
    used = f"{layout.inbound_used} of {layout.inbound_available} inbound windows"
    lines = [f"profile {layout.profile}, inbound = {layout.inbound}, {used}"]
    for bar in layout.bars:
        parts = pieces(bar)
        widths = _widths([piece.size for piece in parts], inside - len(parts) + 1, LEAST_COLUMNS)
        lines += ["", _bar_title(bar)]
        lines.append("  ┌" + "┬".join("─" * width for width in widths) + "┐")
        texts = [_fit(piece.name, width) for piece, width in zip(parts, widths, strict=True)]
        lines.append("  │" + "│".join(texts) + "│")
        lines.append("  └" + "┴".join("─" * width for width in widths) + "┘")
        for piece in parts:
            reach = _window_text(_serving(layout, bar, piece))
            lines.append(
                f"   {piece.offset:#9x} +{bytes_text(piece.size):<8}  {piece.name or '-':<9}  "
                f"{piece.what:<26} {reach}"
            )
    return "\n".join(lines)


def _fit(name: str, width: int) -> str:
    if not name:
        return "·" * width
    text = name if len(name) <= width else name[: width - 1] + "…"
    return text.center(width)


def svg(layout: Layout) -> str:
    """The picture as an SVG document."""
    body: list[str] = []
    y = SVG_MARGIN + TEXT_HEIGHT
    title = (
        f"{layout.profile}: inbound = {layout.inbound}, {layout.inbound_used} of "
        f"{layout.inbound_available} inbound windows"
    )
    body.append(f'<text x="{SVG_MARGIN}" y="{y}" class="title">{escape(title)}</text>')
    y += TEXT_HEIGHT
    for bar in layout.bars:
        body.append(f'<text x="{SVG_MARGIN}" y="{y + TEXT_HEIGHT}">{escape(_bar_title(bar))}</text>')
        y += TEXT_HEIGHT + 8
        parts = pieces(bar)
        widths = _widths([piece.size for piece in parts], SVG_WIDTH - 2 * SVG_MARGIN, LEAST_PIXELS)
        x = SVG_MARGIN
        for piece, width in zip(parts, widths, strict=True):
            body += _svg_piece(layout, bar, piece, x, y, width)
            x += width
        y += ROW_HEIGHT
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{SVG_WIDTH}" height="{y}" '
        f'viewBox="0 0 {SVG_WIDTH} {y}">\n'
        "<style>text{font:12px sans-serif}.title{font-weight:bold}.small{font-size:10px}"
        "rect{stroke:#444}</style>\n" + "\n".join(body) + "\n</svg>\n"
    )


def _svg_piece(layout: Layout, bar: LayoutBar, piece: Piece, x: int, y: int, width: int) -> list[str]:
    reach = _window_text(_serving(layout, bar, piece))
    about = f"{piece.name or 'nothing'}: {piece.offset:#x} +{piece.size:#x}, {piece.what}, {reach}"
    colour = COLOURS.get(piece.target, COLOURS["dram"])
    box = f'x="{x}" y="{y}" width="{width}" height="{BOX_HEIGHT}" fill="{colour}"'
    lines = [f"<g><title>{escape(about)}</title><rect {box}/></g>"]
    # a narrow box has no room for text inside: its tooltip says it
    if width >= 9 * max(len(piece.name), 1) and piece.name:
        lines.append(f'<text x="{x + 4}" y="{y + 18}">{escape(piece.name)}</text>')
    if width >= 60:
        lines.append(f'<text x="{x + 4}" y="{y + 34}" class="small">{bytes_text(piece.size)}</text>')
        lines.append(f'<text x="{x}" y="{y + BOX_HEIGHT + 14}" class="small">{piece.offset:#x}</text>')
    return lines
