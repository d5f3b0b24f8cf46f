"""Channels of the eDMA engine: lists, single transfers, ends, and what the host sees of them."""

from __future__ import annotations

from typing import cast

import pytest

from ntbnet.devices.edma_engine import STEPS_PER_TURN
from ntbnet.devices.edma_list import Transfer, encode_chunk, encode_data, encode_link
from ntbnet.devices.edma_walk import BURST_BYTES
from ntbnet.regs.edma import CONTROL_CB, CONTROL_TCB, ELEMENT_BYTES, Direction
from ntbnet.wire import Completion, MemRead, MemWrite, Status
from tests.unit.devices.edma_bench import LIE, LIST, MSI, RD, RIE, STOP, WR, Bench, pattern
from tests.unit.devices.kit import EP_DRAM, RC_DRAM, logged, u32

SOURCE, TARGET = EP_DRAM + 0x20_0000, RC_DRAM + 0x30_0000
DONE_0, ABORT_0 = 1, 1 << 16
SIZES = (300, 5000, 70_000)


def filled(size: int = 0x40000, read_bytes: int = 4096) -> Bench:
    """A bench with a pattern at SOURCE in EP memory and another at TARGET in RC memory."""
    bench = Bench(read_bytes=read_bytes)
    bench.ep.store("test", SOURCE - EP_DRAM, pattern(size, 1))
    bench.rc.store("test", TARGET - RC_DRAM, pattern(size, 2))
    return bench


def spread(first: int, second: int, sizes: tuple[int, ...] = SIZES) -> list[Transfer]:
    """Transfers of those sizes, 0x20000 apart."""
    return [Transfer(first + i * 0x20000, second + i * 0x20000, size) for i, size in enumerate(sizes)]


@pytest.mark.covers("EDMA 108", "EDMA 109", "EDMA 117")
def test_write_channel_copies_local_memory_to_the_bus_and_stops() -> None:
    bench = filled()
    bench.ep.store("test", SOURCE - EP_DRAM, pattern(0x60000, 3))

    bench.run_list(WR, spread(SOURCE, TARGET), channel=2)

    for one in spread(SOURCE, TARGET):
        copied = bench.rc.load(one.destination - RC_DRAM, one.size)
        assert copied == bench.ep.load(one.source - EP_DRAM, one.size)
    assert bench.status(WR, 2) == 3
    assert bench.get("WR_INT_STATUS") == 1 << 2
    assert bench.get("RD_INT_STATUS") == 0
    assert len(bench.irqs) == 1


@pytest.mark.covers("EDMA 108", "EDMA 109", "EDMA 117")
def test_read_channel_copies_from_the_bus_to_local_memory_and_stops() -> None:
    bench = filled()
    bench.rc.store("test", TARGET - RC_DRAM, pattern(0x60000, 4))
    transfers = spread(TARGET, SOURCE)

    bench.run_list(RD, transfers, channel=5)

    for one in transfers:
        copied = bench.ep.load(one.destination - EP_DRAM, one.size)
        assert copied == bench.rc.load(one.source - RC_DRAM, one.size)
    assert bench.sent(MemWrite) == []
    assert bench.status(RD, 5) == 3
    assert bench.get("RD_INT_STATUS") == 1 << 5


@pytest.mark.parametrize("direction", list(Direction))
def test_single_transfer_runs_from_the_context_registers(direction: Direction) -> None:
    bench = filled()
    source, target = (SOURCE, TARGET) if direction is WR else (TARGET, SOURCE)

    bench.run_block(direction, Transfer(source, target, 10_000))

    memory, base = (bench.rc, RC_DRAM) if direction is WR else (bench.ep, EP_DRAM)
    assert memory.load(target - base, 10_000) == pattern(10_000, 1 if direction is WR else 2)
    assert bench.status(direction) == 3
    assert bench.get(direction.register("INT_STATUS")) == DONE_0
    assert bench.get(direction.register("TRANSFER_SIZE")) == 0


def test_single_transfer_without_lie_ends_silently() -> None:
    bench = filled()
    bench.run_block(WR, Transfer(SOURCE, TARGET, 100), control=0)

    assert bench.status(WR) == 3
    assert bench.get("WR_INT_STATUS") == 0
    assert bench.irqs == []


@pytest.mark.covers("EDMA 107")
def test_doorbell_with_the_engine_disabled_starts_nothing() -> None:
    bench = filled()
    bench.write("WR_ENGINE_EN", 0)
    bench.run_list(WR, spread(SOURCE, TARGET))
    bench.write("WR_DOORBELL", 0)

    assert bench.requests == []
    assert bench.status(WR) == 0
    assert bench.edma.counters["doorbells_ignored"] == 2
    assert len(logged(bench.effects, "edma.doorbell_ignored")) == 1


def test_doorbell_of_an_absent_channel_and_stop_of_an_idle_one_are_ignored() -> None:
    bench = Bench("rk3588")
    bench.write("RD_DOORBELL", 5)
    bench.write("RD_DOORBELL", STOP | 1)

    causes = [keys["cause"] for keys in logged(bench.effects, "edma.doorbell_ignored")]
    assert causes == ["no such channel", "stop of a channel that does not run"]


@pytest.mark.covers("EDMA 114")
def test_element_with_the_wrong_cycle_bit_stops_the_channel_without_copying() -> None:
    bench = filled()
    bench.put_list(encode_chunk(spread(SOURCE, TARGET), LIST, 0))

    bench.start(WR)

    assert bench.requests == []
    assert bench.status(WR) == 3
    assert bench.get("WR_LLP_LOW") == LIST


@pytest.mark.covers("EDMA 115", "EDMA 116")
@pytest.mark.parametrize("counts", [(169, 169, 62), (3, 1, 5, 2)])
def test_chunks_of_any_length_follow_each_other_with_alternating_phase(counts: tuple[int, ...]) -> None:
    bench = filled()
    sent = 0
    for number, count in enumerate(counts):
        transfers = [Transfer(SOURCE + 64 * i, TARGET + 64 * i, 64) for i in range(sent, sent + count)]
        bench.put_list(encode_chunk(transfers, LIST, 1 - number % 2))
        if number == 0:
            bench.start(WR)
        else:
            bench.write("WR_INT_CLEAR", DONE_0)
            bench.write("WR_DOORBELL", 0)
        bench.run_until_idle()
        sent += count
        assert bench.status(WR) == 3
        assert bench.get("WR_INT_STATUS") == DONE_0
        assert bench.edma.engine.channels[WR][0].transfers == sent

    assert bench.rc.load(TARGET - RC_DRAM, 64 * sent) == pattern(64 * sent, 1)


def test_doorbell_of_a_running_list_is_kept_until_it_stops() -> None:
    bench = filled()
    bench.answers = False
    bench.put_list(encode_chunk([Transfer(SOURCE, TARGET, 8)], LIST, 1))
    bench.start(WR)
    bench.write("WR_DOORBELL", 0)
    bench.put_list(encode_data(0, Transfer(SOURCE, TARGET + 0x100, 8)))

    bench.answers = True
    bench.hear(bench.completion(bench.unanswered.popleft()))
    bench.run_until_idle()

    assert bench.edma.engine.channels[WR][0].transfers == 2
    assert bench.rc.load(TARGET + 0x100 - RC_DRAM, 8) == pattern(8, 1)


@pytest.mark.covers("EDMA 113", "EDMA 159")
def test_done_waits_for_a_read_behind_the_last_write() -> None:
    bench = filled()
    bench.write_pair("WR_DONE_IMWR", MSI)
    bench.answers = False

    bench.run_block(WR, Transfer(SOURCE, TARGET, 2 * BURST_BYTES + 6), LIE | RIE)

    assert [type(message) for message in bench.requests] == [MemWrite] * 3 + [MemRead]
    assert bench.get("WR_INT_STATUS") == 0
    assert bench.status(WR) == 1
    flush = bench.unanswered.popleft()
    assert (flush.addr, flush.size) == (TARGET + 2 * BURST_BYTES + 2, 4)
    bench.hear(bench.completion(flush))
    assert bench.get("WR_INT_STATUS") == DONE_0
    assert cast("MemWrite", bench.requests[-1]).addr == MSI


@pytest.mark.covers("EDMA 111", "EDMA 112")
@pytest.mark.parametrize(("channel", "data"), [(4, 0x1234), (5, 0xABCD)])
@pytest.mark.parametrize("mask", [0, 0x00FF00FF])
@pytest.mark.parametrize("direction", list(Direction))
def test_rie_writes_the_channels_16_bits_to_the_done_address(
    channel: int, data: int, mask: int, direction: Direction
) -> None:
    bench = filled()
    bench.write_pair(direction.register("DONE_IMWR"), MSI)
    bench.write(direction.register("CH45_IMWR_DATA"), 0xABCD1234)
    bench.write(direction.register("INT_MASK"), mask)
    source, target = (SOURCE, TARGET) if direction is WR else (TARGET, SOURCE)
    bench.put_list(encode_chunk([Transfer(source, target, 64)], LIST, 1, LIE | RIE))

    bench.start(direction, channel)

    assert bench.requests[-1] == MemWrite(MSI, u32(data), 7)
    assert [m.addr for m in bench.sent(MemWrite)].count(MSI) == 1
    assert bench.get(direction.register("INT_STATUS")) == 1 << channel
    assert len(bench.irqs) == (0 if mask else 1)


@pytest.mark.covers("EDMA 110")
def test_masked_channel_sets_status_and_drives_the_line_once_unmasked() -> None:
    bench = filled()
    bench.write("WR_INT_MASK", DONE_0)
    bench.run_block(WR, Transfer(SOURCE, TARGET, 64))

    assert bench.get("WR_INT_STATUS") == DONE_0
    assert bench.irqs == []
    bench.write("WR_INT_MASK", 0)
    assert len(bench.irqs) == 1


@pytest.mark.covers("EDMA 124")
def test_read_is_cut_into_requests_of_the_maximum_size() -> None:
    bench = filled(read_bytes=128)

    bench.run_list(RD, [Transfer(TARGET, SOURCE, 4096)])

    reads = bench.sent(MemRead)
    assert len(reads) == 32
    assert {cast("MemRead", read).size for read in reads} == {128}


def test_no_read_request_crosses_4_kib_and_at_most_16_are_under_way() -> None:
    bench = filled()
    bench.answers = False
    bench.run_block(RD, Transfer(TARGET + 0x123, SOURCE, 0x20000))

    assert len(bench.unanswered) == 16
    for read in bench.unanswered:
        assert read.addr // 4096 == (read.addr + read.size - 1) // 4096


def test_writer_waits_after_half_a_mebibyte() -> None:
    """Nothing a neighbour has to keep grows without bound."""
    bench = Bench()
    bench.answers = False
    bench.run_block(WR, Transfer(EP_DRAM, RC_DRAM, 4 << 20))

    assert sum(len(m.data) for m in bench.requests if isinstance(m, MemWrite)) == 512 << 10
    assert len(bench.unanswered) == 1


def test_endless_list_takes_no_more_than_a_turn_at_a_time() -> None:
    bench = filled()
    bench.put_list(encode_link(0, LIST))
    bench.start(WR)
    bench.put_list(
        encode_data(CONTROL_CB, Transfer(SOURCE, TARGET, 4)) + encode_link(0, LIST + 0x1000), LIST + 0x1000
    )
    bench.start(WR, 1, LIST + 0x1000)

    for _ in range(200):
        deadline = bench.edma.next_deadline()
        assert deadline is not None
        assert deadline > bench.now_ns
        before = len(bench.requests)
        bench.now_ns = deadline
        bench.perform(bench.edma.on_deadline(deadline))
        assert len(bench.requests) - before <= STEPS_PER_TURN
    for channel in (0, 1):
        bench.write("WR_DOORBELL", STOP | channel)

    assert bench.edma.next_deadline() is None
    assert bench.edma.engine.channels[WR][1].transfers > 100


def test_channels_share_the_turns() -> None:
    bench = filled()
    bench.put_list(encode_link(0, LIST))
    for channel in range(7):
        bench.start(WR, channel)
    bench.put_list(encode_chunk(spread(SOURCE, TARGET), LIST + 0x1000, 1), LIST + 0x1000)

    bench.start(WR, 7, LIST + 0x1000)
    for _ in range(20):
        bench.now_ns = bench.edma.next_deadline() or 0
        bench.perform(bench.edma.on_deadline(bench.now_ns))

    assert bench.get("WR_INT_STATUS") == 1 << 7


def test_stop_ends_a_transfer_in_flight_and_late_data_lands_nowhere() -> None:
    bench = filled()
    bench.answers = False
    bench.run_block(RD, Transfer(TARGET, SOURCE, 8192))
    before = bench.ep.load(SOURCE - EP_DRAM, 8192)

    bench.write("RD_DOORBELL", STOP)
    for read in bench.unanswered:
        bench.hear(bench.completion(read))

    assert bench.status(RD) == 3
    assert bench.get("RD_INT_STATUS") == ABORT_0
    assert bench.ep.load(SOURCE - EP_DRAM, 8192) == before
    assert bench.edma.counters["late_completions"] == 2
    assert bench.edma.snapshot()["channels"][0]["state"] == "stopped"


def test_switching_the_engine_off_ends_its_channels_without_an_interrupt() -> None:
    bench = filled()
    bench.answers = False
    bench.run_block(RD, Transfer(TARGET, SOURCE, 8192))
    bench.write("RD_ENGINE_EN", 0)

    assert bench.status(RD) == 3
    assert bench.get("RD_INT_STATUS") == 0
    assert bench.edma.next_deadline() is None


def test_registers_written_under_way_take_effect_at_the_next_start() -> None:
    bench = filled()
    bench.answers = False
    bench.run_block(RD, Transfer(TARGET, SOURCE, 4096))
    bench.write_pair("RD_DAR", EP_DRAM)
    bench.write("RD_TRANSFER_SIZE", 1 << 30)
    bench.hear(bench.completion(bench.unanswered.popleft()))

    assert bench.ep.load(SOURCE - EP_DRAM, 4096) == pattern(4096, 2)
    assert bench.ep.load(0, 64) == bytes(64)
    assert bench.get("RD_INT_STATUS") == DONE_0


def test_next_list_begins_where_the_last_one_stopped() -> None:
    bench = filled()
    tail = encode_data(CONTROL_CB | LIE, Transfer(SOURCE, TARGET, 8))
    bench.put_list(tail)
    bench.start(WR)

    assert bench.get("WR_LLP_LOW") == LIST + ELEMENT_BYTES
    bench.put_list(encode_link(CONTROL_TCB, LIST), LIST + ELEMENT_BYTES)
    bench.write("WR_DOORBELL", 0)
    assert bench.get("WR_LLP_LOW") == LIST
    assert bench.edma.registers.get_field("WR_CONTROL1", "CCS") == 0
    assert bench.edma.engine.channels[WR][0].transfers == 1


def test_answers_of_a_wrong_length_or_to_nobody_harm_nothing() -> None:
    bench = filled()
    bench.answers = False
    bench.hear(Completion(99, Status.OK, b"x" * 4096))
    bench.run_block(RD, Transfer(TARGET, SOURCE, 4096))
    read = bench.unanswered.popleft()
    bench.hear(Completion(read.tag, Status.OK, b"x" * 100, read.epoch))

    assert bench.edma.counters["late_completions"] == 1
    assert bench.ep.load(SOURCE - EP_DRAM, 4096) == pattern(4096, 1)
    assert bench.get("RD_INT_STATUS") == ABORT_0
