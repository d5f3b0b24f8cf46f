"""docs/coverage.md says what the tests' marks say."""

from __future__ import annotations

from tests.coverage_table import LEFT_OUT, TABLE, malformed, marks, text


def test_table_in_docs_is_current() -> None:
    assert TABLE.read_text(encoding="utf-8") == text(), "run: python -m tests.coverage_table"


def test_every_cited_item_is_of_a_known_series() -> None:
    assert malformed(list(marks())) == []


def test_item_that_is_left_out_is_proved_nowhere() -> None:
    assert LEFT_OUT.keys() & marks().keys() == set()
