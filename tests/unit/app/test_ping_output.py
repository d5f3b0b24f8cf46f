"""What ping printed, read."""

from __future__ import annotations

import pytest

from ntbnet.app.ping_output import pinged, times_ms
from ntbnet.errors import SetupError


@pytest.mark.parametrize(
    ("transmitted", "answered", "sent"),
    [
        (3, [1, 2, 3], 3),
        (4, [1, 2, 3], 3),  # the third came late
        (4, [1, 2, 4], 4),  # the third is lost
        (9, [1, 2], 9),  # nothing comes any more
    ],
)
def test_a_ping_whose_reply_is_late_is_no_loss_and_one_without_is(
    transmitted: int, answered: list[int], sent: int
) -> None:
    lines = [f"64 bytes from 10.77.0.2: icmp_seq={number} ttl=64 time=0.6 ms" for number in answered]
    output = "\n".join([*lines, f"{transmitted} packets transmitted, {len(answered)} received"])

    assert pinged(output, 3) == sent
    assert times_ms(output) == dict.fromkeys(answered, 0.6)


def test_other_output_is_refused() -> None:
    with pytest.raises(SetupError, match="nothing that can be read: ping: unknown host"):
        pinged("ping: unknown host", 3)
