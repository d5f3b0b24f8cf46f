from __future__ import annotations

import pytest

from ntbnet.regs import transport


def test_protocol_version_is_four() -> None:
    assert transport.VERSION == 4


def test_scratchpad_map() -> None:
    assert (transport.SPAD_VERSION, transport.SPAD_QP_LINKS) == (0, 1)
    assert (transport.SPAD_NUM_QPS, transport.SPAD_NUM_MWS) == (2, 3)
    assert [transport.mw_size_high(widx) for widx in range(3)] == [4, 6, 8]
    assert [transport.mw_size_low(widx) for widx in range(3)] == [5, 7, 9]


def test_interrupt_descriptors_lie_behind_the_window_sizes() -> None:
    assert [transport.intr_offset(1, qp) for qp in range(2)] == [6, 8]
    assert [transport.intr_data(1, qp) for qp in range(2)] == [7, 9]
    assert transport.intr_offset(2, 0) == 8


@pytest.mark.parametrize(("spads", "windows"), [(6, 1), (7, 1), (8, 2), (128, 62)])
def test_windows_that_the_scratchpads_can_announce(spads: int, windows: int) -> None:
    assert transport.max_mws(spads) == windows


def test_five_scratchpads_are_too_few() -> None:
    with pytest.raises(ValueError, match="needs 6"):
        transport.max_mws(5)


def test_negative_window_index_is_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        transport.mw_size_high(-1)


def test_frame_header_is_ver_len_flags_at_the_frames_end() -> None:
    header = transport.FRAME_HEADER

    from_frame_end = {r.name: r.offset - header.size for r in header.registers}

    assert from_frame_end == {"ver": -12, "len": -8, "flags": -4}
    assert transport.FLAG_DESC_DONE == 1
    assert transport.FLAG_LINK_DOWN == 2
    assert header.register("flags").field("LINK_DOWN").mask == 2


def test_fourteen_counters_receive_side_first() -> None:
    assert len(transport.COUNTERS) == len(set(transport.COUNTERS)) == 14
    assert transport.COUNTERS[:8] == tuple(name for name in transport.COUNTERS if name.startswith("rx_"))
    assert transport.COUNTERS[1] == "rx_pkts"
    assert transport.COUNTERS[9] == "tx_pkts"
