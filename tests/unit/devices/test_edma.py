from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntbnet.devices.edma import Edma
from ntbnet.wire import Completion, Irq, IrqSource, MemRead, MemWrite, Notice, Status
from tests.unit.devices.kit import EP_DRAM, RC_DRAM, config, dram, only, sent, u32

BASE = 0xE65D_5000
WR_INT_STATUS, WR_INT_CLEAR, RD_INT_STATUS, RD_INT_CLEAR = 0x4C, 0x58, 0xA0, 0xAC
RING = Irq(IrqSource.EDMA_LINE, 1)


def engine() -> Edma:
    edma = Edma(config(), dram(EP_DRAM))
    edma.on_path("peer-ep", True, 1, "", 0)
    return edma


def write(edma: Edma, offset: int, value: int = 0, src: str = "epc") -> list[object]:
    return list(edma.handle(src, MemWrite(BASE + offset, u32(value)), 0))


def read(edma: Edma, offset: int) -> int:
    answer = only(edma.handle("epc", MemRead(BASE + offset, 4, tag=5, epoch=2), 0), "epc", Completion)
    assert (answer.tag, answer.status, answer.epoch) == (5, Status.OK, 2)
    return int.from_bytes(answer.data, "little")


@pytest.mark.covers("EDMA 126", "EDMA 127")
@pytest.mark.parametrize("offset", [RD_INT_STATUS, WR_INT_STATUS])
@pytest.mark.parametrize("value", [0, 1, 0xFFFFFFFF])
def test_any_write_to_int_status_raises_the_line_and_leaves_the_register(offset: int, value: int) -> None:
    edma = engine()
    effects = edma.handle("epc", MemWrite(BASE + offset, u32(value)), 0)

    assert sent(effects, "peer-ep") == [RING]
    assert edma.snapshot()["line_high"] is True
    assert read(edma, offset) == 0


@pytest.mark.covers("EDMA 128")
@pytest.mark.parametrize("offset", [RD_INT_CLEAR, WR_INT_CLEAR])
def test_line_stays_high_until_int_clear_is_written_even_with_0(offset: int) -> None:
    edma = engine()
    write(edma, RD_INT_STATUS)
    read(edma, RD_INT_STATUS)
    assert edma.snapshot()["line_high"] is True

    write(edma, offset, 0, src="peer-ep")
    assert edma.snapshot()["line_high"] is False
    assert sent(edma.handle("epc", MemWrite(BASE + RD_INT_STATUS, u32(0)), 0)) == [RING]


@pytest.mark.covers("EDMA 129")
def test_zero_written_to_int_clear_leaves_done_bits() -> None:
    edma = engine()
    edma.registers.set("RD_INT_STATUS", 0x0003_0005)
    write(edma, RD_INT_CLEAR, 0)
    assert read(edma, RD_INT_STATUS) == 0x0003_0005

    write(edma, RD_INT_CLEAR, 0x0001_0004)
    assert read(edma, RD_INT_STATUS) == 0x0002_0001


@pytest.mark.covers("EDMA 130")
def test_ten_rings_before_service_are_one_interrupt() -> None:
    edma = engine()
    rings = [message for _ in range(10) for message in sent(edma.handle(*ring(), 0))]

    assert rings == [RING]
    assert edma.counters["rings_collapsed"] == 9


def ring() -> tuple[str, MemWrite]:
    return "epc", MemWrite(BASE + RD_INT_STATUS, u32(0))


def test_cpu_that_comes_back_is_rung_whatever_happened_meanwhile() -> None:
    edma = engine()
    edma.on_path("peer-ep", False, 0, "", 0)
    assert sent(edma.handle(*ring(), 0)) == []

    assert sent(edma.on_path("peer-ep", True, 2, "", 0)) == [RING]


def test_access_outside_the_register_block_is_ignored() -> None:
    edma = engine()
    write(edma, 0x1200)
    answer = only(edma.handle("epc", MemRead(BASE + 0x11FE, 4, tag=1), 0), "epc", Completion)

    assert edma.counters["writes_ignored"] == 1
    assert answer.status is Status.UR


def test_forged_message_is_counted() -> None:
    edma = engine()

    assert edma.handle("epc", Notice("epoch"), 0) == []
    assert edma.handle("peer-ep", Notice("link", {"epoch": 1, "bus_master": True}), 0) == []
    assert edma.handle("epc", Notice("link", {"epoch": True, "bus_master": 1}), 0) == []
    assert edma.handle("epc", Notice("link", {"epoch": -1, "bus_master": True}), 0) == []
    assert edma.handle("peer-ep", Completion(1, Status.OK, b"1234"), 0) == []
    assert edma.counters["unexpected"] == 5
    assert edma.engine.is_open is False


OFFSETS = st.one_of(
    st.sampled_from([0x0C, 0x10, 0x2C, 0x30, 0x4C, 0x54, 0x58, 0x90, 0xA0, 0xA8, 0xAC, 0xC4]),
    st.builds(lambda n, at: 0x200 + 0x100 * n + 4 * at, st.integers(0, 3), st.integers(0, 8)),
    st.integers(-8, 0x1200),
)
VALUES = st.one_of(
    st.sampled_from([0, 1, 0x300, 0x80000000, 0xFFFFFFFF, EP_DRAM, EP_DRAM + 0xF_FFF8, RC_DRAM]),
    st.integers(0, 0xFFFFFFFF),
)
FORGED = st.builds(
    Completion, st.integers(0, 40), st.sampled_from(Status), st.sampled_from([b"", bytes(4), bytes(4096)])
)
CONFIG = config()
STEPS = st.lists(st.one_of(st.tuples(OFFSETS, VALUES), FORGED), max_size=60)


@given(STEPS, st.binary(max_size=400))
@settings(max_examples=60, deadline=None)
def test_nothing_a_host_writes_to_the_registers_stops_the_process(
    steps: list[tuple[int, int] | Completion], memory: bytes
) -> None:
    """Whatever is programmed: no exception, bounded work for each message, no outsized request."""
    window = dram(EP_DRAM, 1 << 20)
    window.store("test", 0, memory)
    edma = Edma(CONFIG, window)
    edma.on_path("peer-ep", True, 1, "", 0)
    edma.handle("epc", Notice("link", {"epoch": 1, "bus_master": True}), 0)
    for now_ns, step in enumerate(steps):
        message = step if isinstance(step, Completion) else MemWrite(BASE + step[0], u32(step[1]))
        effects = [*edma.handle("epc", message, now_ns * 30_000), *edma.on_deadline(now_ns * 30_000)]

        requests = [one for one in sent(effects, "epc") if isinstance(one, (MemWrite, MemRead))]
        assert len(requests) <= 4 * 64
        for request in requests:
            size = request.size if isinstance(request, MemRead) else len(request.data)
            assert 1 <= size <= (4096 if isinstance(request, MemRead) else 65536)
            assert request.addr + size <= 1 << 64
    edma.snapshot()
