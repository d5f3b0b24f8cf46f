from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntbnet.devices.tick import Tick

MS = 1_000_000


@pytest.mark.covers("NTB 48")
def test_five_ms_rearmed_on_a_tick_of_250_hz_runs_every_twelve_ms() -> None:
    tick = Tick(250)
    runs = [tick.expiry(0, 5 * MS)]
    for _ in range(3):
        runs.append(tick.expiry(runs[-1], 5 * MS))

    assert runs == [12 * MS, 24 * MS, 36 * MS, 48 * MS]


@pytest.mark.parametrize(
    ("hz", "delay_ms", "expiry_ms"), [(100, 5, 20), (250, 10, 16), (1000, 5, 6), (1000, 0, 1)]
)
def test_known_expiries(hz: int, delay_ms: int, expiry_ms: int) -> None:
    assert Tick(hz).expiry(0, delay_ms * MS) == expiry_ms * MS


@given(
    hz=st.sampled_from([100, 250, 300, 1000, 10000]),
    now_ns=st.integers(0, 10**15),
    delay_ns=st.integers(0, 10**10),
)
def test_expiry_is_on_the_grid_never_early_and_within_two_ticks(hz: int, now_ns: int, delay_ns: int) -> None:
    tick = Tick(hz)
    expiry = tick.expiry(now_ns, delay_ns)

    assert expiry % tick.period_ns == 0
    assert now_ns + delay_ns < expiry <= now_ns + delay_ns + 2 * tick.period_ns
    assert tick.delay(now_ns, delay_ns) == expiry - now_ns
