"""Writes what is data in the Wireshark dissector and in docs/trace.md from the tables of the code.

Run it after a change of ``ntbnet/trace_link.py`` or of registers: ``python -m tests.dissector_tables``.
``tests/unit/test_trace_link.py`` checks that both files are what this would write.
"""

from __future__ import annotations

from pathlib import Path

from ntbnet.trace_link import dissector_tables, fields_as_markdown

ROOT = Path(__file__).resolve().parent.parent
DISSECTOR = ROOT / "deploy" / "wireshark" / "ntbnet.lua"
DOCUMENT = ROOT / "docs" / "trace.md"


def filled(text: str, begin: str, end: str, content: str) -> str:
    """``text`` with ``content`` between the lines ``begin`` and ``end``."""
    head, mark, rest = text.partition(begin + "\n")
    assert mark, f"no line {begin}"
    _, mark, tail = rest.partition(end + "\n")
    assert mark, f"no line {end}"
    return f"{head}{begin}\n{content}{end}\n{tail}"


def dissector() -> str:
    """The dissector as it should be."""
    return filled(DISSECTOR.read_text(), "-- BEGIN TABLES", "-- END TABLES", dissector_tables())


def document() -> str:
    """docs/trace.md as it should be."""
    marks = "<!-- BEGIN FIELDS -->", "<!-- END FIELDS -->"
    return filled(DOCUMENT.read_text(), *marks, fields_as_markdown())


if __name__ == "__main__":
    DISSECTOR.write_text(dissector())
    DOCUMENT.write_text(document())
