from __future__ import annotations

import errno
from collections import Counter

import pytest

from ntbnet.devices.dma import MAX_DMA_MAPPINGS, DmaFilter
from ntbnet.devices.effects import Outbox
from ntbnet.errors import KernelError
from tests.unit.devices.kit import RC_DRAM, dram, logged


class Host:
    """A filter over the host's DRAM."""

    def __init__(self) -> None:
        self.dram = dram(RC_DRAM)
        self.outbox = Outbox()
        self.counters: Counter[str] = Counter()
        self.dma = DmaFilter(self.dram, self.outbox, self.counters)


@pytest.mark.covers("EDMA 166")
def test_burst_across_the_end_of_a_mapping_lands_up_to_it() -> None:
    host = Host()
    host.dma.map(RC_DRAM + 0x10000, 0x1000)
    host.dma.store(RC_DRAM + 0x10F00, b"\x77" * 0x300)

    assert host.dram.load(0x10F00, 0x300) == b"\x77" * 0x100 + bytes(0x200)
    assert host.counters["dma_write_faults"] == 2
    assert len(logged(host.outbox.take(), "write.dropped")) == 1


def test_burst_inside_one_mapping_lands_whole() -> None:
    host = Host()
    host.dma.map(RC_DRAM, 0x10000)
    host.dma.store(RC_DRAM + 1, b"\x77" * 0xFFFF)

    assert host.dram.load(0, 0x10001) == b"\0" + b"\x77" * 0xFFFF + b"\0"
    assert not host.counters


def test_read_of_the_endpoint_needs_a_mapping_for_all_of_it() -> None:
    host = Host()
    host.dma.map(RC_DRAM, 0x1000)

    assert host.dma.load(RC_DRAM + 0xFF0, 16) == bytes(16)
    assert host.dma.load(RC_DRAM + 0xFF0, 17) is None
    assert host.counters["dma_read_faults"] == 1


def test_unmapped_range_is_reached_no_more() -> None:
    host = Host()
    host.dma.map(RC_DRAM, 0x1000)
    host.dma.map(RC_DRAM + 0x1000, 0x1000)
    host.dma.unmap(RC_DRAM)
    assert host.dma.find(RC_DRAM, 4) is None
    assert host.dma.find(RC_DRAM + 0x1000, 4) is not None
    host.dma.clear()

    assert host.dma.find(RC_DRAM + 0x1000, 4) is None


@pytest.mark.parametrize(
    ("addr", "size", "code"),
    [
        (RC_DRAM - 4096, 4096, errno.EINVAL),
        (RC_DRAM, 0, errno.EINVAL),
        (RC_DRAM, -1, errno.EINVAL),
        (-1, 4096, errno.EINVAL),
        ("0", 4096, errno.EINVAL),
        (RC_DRAM, None, errno.EINVAL),
        (RC_DRAM, (8 << 20) + 1, errno.EINVAL),
    ],
)
def test_what_is_no_memory_of_the_host_cannot_be_mapped(addr: object, size: object, code: int) -> None:
    with pytest.raises(KernelError) as refused:
        Host().dma.map(addr, size)

    assert refused.value.errno == code


def test_mappings_run_out_with_enospc() -> None:
    host = Host()
    for number in range(MAX_DMA_MAPPINGS):
        host.dma.map(RC_DRAM + number, 1)
    with pytest.raises(KernelError) as refused:
        host.dma.map(RC_DRAM, 1)

    assert refused.value.errno == errno.ENOSPC
