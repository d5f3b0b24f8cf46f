"""What a rule could have struck, counted from the numbers that services keep."""

from __future__ import annotations

import pytest

from ntbnet.edge.fault_files import WORDS
from ntbnet.edge.strikes import Strikes, things_seen
from ntbnet.faults import MESSAGES, FaultPlan, FaultRule


class Quiet:
    def emit(self, event: str, **keys: object) -> None:
        """Nothing is logged."""


@pytest.mark.parametrize(
    ("rule", "seen"),
    [
        (FaultRule("lost-interrupt", rate=1), 5),
        (FaultRule("lost-interrupt", src="edma", rate=1), 2),
        (FaultRule("ur", rate=1), 4),
        (FaultRule("drop", rate=1), 6),
        (FaultRule("drop", dst="edma", rate=1), 0),
        (FaultRule("drop", of=(MESSAGES[0],), rate=1), None),
        (FaultRule("slow", rate=1), 7),
        (FaultRule("drop-frame", of=("sent", "received"), rate=1), 9),
    ],
)
def test_things_that_a_rule_is_about_are_counted(rule: FaultRule, seen: int | None) -> None:
    words = [0] * WORDS
    strikes = Strikes("epc", FaultPlan(), words, Quiet(), lambda: True)
    streams = {
        "interrupts from edma": 2,
        "interrupts from rc-host": 3,
        "answers from peer-ep": 4,
        "to rc-host": 6,
        "handled": 7,
        "sent": 1,
        "received": 8,
    }
    for stream, times in streams.items():
        for _ in range(times):
            strikes.number(stream)

    assert things_seen("epc", rule, words) == seen
