"""When the supervisor noticed a fault, and had replaced whom it hit."""

from __future__ import annotations

import pytest

from ntbnet.app.chaos_history import FaultRecord, LoggedEvent
from ntbnet.app.chaos_services import DIED, HUNG, STARTED, noticed_and_replaced


def told(time_ns: int, event: str, name: str) -> LoggedEvent:
    return LoggedEvent("supervisor", event, time_ns, name=name)


@pytest.mark.parametrize(
    ("services", "events", "expected"),
    [
        (("epc",), [told(5, DIED, "epc"), told(7, STARTED, "epc")], (5, 7)),
        (("epc",), [told(5, HUNG, "epc"), told(6, DIED, "epc"), told(7, STARTED, "epc")], (5, 7)),
        (("epc",), [told(1, DIED, "epc"), told(1, STARTED, "epc"), told(5, DIED, "epc")], (5, None)),
        (("epc",), [told(5, DIED, "edma"), told(7, STARTED, "edma")], (None, None)),
        (("epc", "edma"), [told(5, DIED, "epc"), told(6, DIED, "edma"), told(7, STARTED, "epc")], (5, None)),
        (
            ("epc", "edma"),
            [told(5, DIED, "epc"), told(7, STARTED, "epc"), told(8, DIED, "edma"), told(9, STARTED, "edma")],
            (5, 9),
        ),
        ((), [told(5, DIED, "epc")], (None, None)),
    ],
)
def test_first_notice_and_last_replacement(
    services: tuple[str, ...], events: list[LoggedEvent], expected: tuple[int | None, int | None]
) -> None:
    assert noticed_and_replaced(events, FaultRecord(0, "kill", services, 3, 3)) == expected
