from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntbnet.devices.tlp import MAX_PAYLOAD_BYTES, split_posted


@pytest.mark.covers("EDMA 166")
def test_burst_is_cut_at_4_kib_and_into_payloads() -> None:
    requests = list(split_posted(0x0F00, 5000))
    starts = [0x0F00 + offset for offset, _ in requests]

    assert {0x1000, 0x2000} <= set(starts)
    assert max(size for _, size in requests) == MAX_PAYLOAD_BYTES
    assert sum(size for _, size in requests) == 5000


@given(st.integers(0, 1 << 40), st.integers(1, 20_000))
def test_requests_cover_the_burst_in_order_and_cross_no_boundary(addr: int, length: int) -> None:
    at = 0
    for offset, size in split_posted(addr, length):
        first, last = addr + offset, addr + offset + size - 1
        assert offset == at
        assert first // MAX_PAYLOAD_BYTES == last // MAX_PAYLOAD_BYTES
        assert first // 4096 == last // 4096
        at += size

    assert at == length


def test_word_inside_a_payload_is_one_request() -> None:
    assert list(split_posted(0x30FC, 4)) == [(0, 4)]
