"""What ``status`` makes of the services' answers."""

from __future__ import annotations

from typing import Any

import pytest

from ntbnet.app.bridge import link_state


def answers(rc: list[dict[str, Any]], ep: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {
        "rc-host": {"link": {"epoch": 7}},
        "peer-rc": {"link": {"queues": rc}},
        "peer-ep": {"link": {"queues": ep}},
    }


UP = {"link": "up", "has_client": True}
DOWN = {"link": "down", "has_client": True}
FREE = {"link": "down", "has_client": False}


@pytest.mark.parametrize(
    ("rc", "ep", "states", "overall"),
    [
        ([UP], [UP], ["up"], "up"),
        ([UP], [DOWN], ["down"], "down"),
        ([UP, FREE], [UP, FREE], ["up", "idle"], "up"),
        ([UP, FREE], [DOWN, FREE], ["down", "idle"], "down"),
        ([UP, DOWN], [UP, UP], ["up", "down"], "down"),
        ([FREE], [FREE], ["idle"], "down"),
        ([UP], [], ["down"], "down"),
        ([], [], [], "down"),
    ],
)
def test_link_is_up_when_every_queue_that_is_used_is_up_on_both_sides(
    rc: list[dict[str, Any]], ep: list[dict[str, Any]], states: list[str], overall: str
) -> None:
    link = link_state(answers(rc, ep))

    assert [queue["state"] for queue in link["queues"]] == states
    assert (link["state"], link["epoch"]) == (overall, 7)
