from __future__ import annotations

from typing import Any

import pytest

from ntbnet.app.interrupts import backend_of, interrupt_lines, status_of


def peer(backend: str = "doorbell", why: str = "no vector", *rings: tuple[str, str]) -> dict[str, Any]:
    """What a peer answers: what it offers, and how it rings its queues."""
    rows = [{"queue": n, "trigger": trigger, "reason": reason} for n, (trigger, reason) in enumerate(rings)]
    return {"interrupts": {"offers": {"backend": backend, "reason": why}, "rings": rows}}


NOTHING = ("doorbell", "the peer offers no interrupt")
WORD = ("0xa0=0x0", "the peer offers 0x0 at 0xa0 of window 1")


@pytest.mark.parametrize(
    ("sender", "receiver", "expected"),
    [
        (peer("", "", WORD), peer("msi", "it has one"), ("msi", "it has one")),
        (peer("", "", NOTHING), peer(), ("doorbell", "the peer offers no interrupt: no vector")),
        (peer("", "", NOTHING), peer("msi", "it has one"), ("doorbell", "the peer offers no interrupt")),
        (peer("", "", ("doorbell", "why not")), peer("msi", "x"), ("doorbell", "why not")),
        (
            peer("", "", WORD, NOTHING, NOTHING),
            peer("msi", "it has one"),
            ("msi", "it has one; doorbells for queue 1, 2: the peer offers no interrupt"),
        ),
        (peer(), peer(), ("doorbell", "the driver has no device")),
        ({"interrupts": None}, {"interrupts": None}, ("doorbell", "the driver has no device")),
    ],
)
def test_backend_is_what_is_in_use_and_why(
    sender: dict[str, Any], receiver: dict[str, Any], expected: tuple[str, str]
) -> None:
    assert backend_of(sender, receiver) == expected


def test_silent_peer_leaves_both_ways_unknown() -> None:
    status = status_of({"peer-rc": peer("", "", WORD)})

    assert (status["backend"], status["backend_ep_to_rc"]) == (None, None)
    assert (status["backend_reason"], status["backend_ep_to_rc_reason"]) == (None, None)
    assert status_of({})["interrupts"] == {"rc_to_ep": [], "ep_to_rc": []}


def test_lines_name_both_ways() -> None:
    status = status_of({"peer-rc": peer("", "", WORD), "peer-ep": peer("msi", "it has one", NOTHING)})

    assert interrupt_lines(status) == [
        "interrupts RC->EP: msi (it has one)",
        "interrupts EP->RC: doorbell (the peer offers no interrupt)",
    ]
