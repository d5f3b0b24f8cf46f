"""How eDMA channels end early, and that a list moves its bytes and no others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntbnet.devices.edma_list import Transfer, encode_chunk, encode_data, encode_link
from ntbnet.devices.edma_walk import MAX_UNFLUSHED_BYTES
from ntbnet.regs.edma import CONTROL_CB, CONTROL_TCB, ELEMENT_BYTES, Direction
from ntbnet.wire import Completion, MemRead, MemWrite, Status
from tests.unit.devices.edma_bench import EPOCH, LIE, LIST, MSI, RD, RIE, WR, Bench, pattern
from tests.unit.devices.kit import DRAM_BYTES, EP_DRAM, RC_DRAM, u32

SOURCE, TARGET = EP_DRAM + 0x20_0000, RC_DRAM + 0x30_0000
ABORT_0 = 1 << 16
END = 1 << 64
BEYOND = EP_DRAM + DRAM_BYTES


def errors(bench: Bench) -> dict[str, int]:
    """The error status registers that are not 0."""
    names = ("WR_ERR_STATUS", "RD_ERR_STATUS_LOW", "RD_ERR_STATUS_HIGH")
    return {name: bench.get(name) for name in names if bench.get(name)}


def is_aborted(bench: Bench, direction: Direction, channel: int = 0) -> bool:
    seen = bench.get(direction.register("INT_STATUS")) == ABORT_0 << channel
    return seen and bench.status(direction, channel) == 2 and bench.edma.next_deadline() is None


@pytest.mark.parametrize(
    ("direction", "transfer", "error"),
    [
        (WR, Transfer(BEYOND - 8, TARGET, 16), {"WR_ERR_STATUS": 1}),
        (WR, Transfer(EP_DRAM - 1, TARGET, 16), {"WR_ERR_STATUS": 1}),
        (WR, Transfer(SOURCE, TARGET, 0), {"WR_ERR_STATUS": 1}),
        (WR, Transfer(SOURCE, END - 8, 16), {}),
        (WR, Transfer(SOURCE, 0x1000, 16), {}),
        (RD, Transfer(TARGET, BEYOND - 8, 16), {"RD_ERR_STATUS_LOW": 1}),
        (RD, Transfer(TARGET, 0, 0xFFFFFFFF), {"RD_ERR_STATUS_LOW": 1}),
        (RD, Transfer(0x1000, SOURCE, 16), {"RD_ERR_STATUS_HIGH": 1}),
        (RD, Transfer(END - 8, SOURCE, 16), {"RD_ERR_STATUS_HIGH": 1}),
    ],
)
@pytest.mark.parametrize("as_list", [True, False])
def test_impossible_transfer_aborts_its_channel_and_moves_nothing(
    direction: Direction, transfer: Transfer, error: dict[str, int], as_list: bool
) -> None:
    bench = Bench()
    before = bench.ep.load(0, 0x10_0000)
    if as_list:
        bench.run_list(direction, [transfer])
    else:
        bench.run_block(direction, transfer)

    assert is_aborted(bench, direction)
    assert errors(bench) == error
    assert len(bench.irqs) == 1
    assert bench.ep.load(0, 0x10_0000) == before
    assert bench.rc.load(0, DRAM_BYTES) == bytes(DRAM_BYTES)


@pytest.mark.parametrize("direction", list(Direction))
@pytest.mark.parametrize("pointer", [0, BEYOND - ELEMENT_BYTES + 1, EP_DRAM - 1, END - 1])
def test_list_outside_endpoint_memory_aborts(direction: Direction, pointer: int) -> None:
    bench = Bench()
    bench.put_list(encode_link(CONTROL_TCB, pointer))

    bench.start(direction, 3)

    assert is_aborted(bench, direction, 3)
    assert errors(bench) == {"WR_ERR_STATUS" if direction is WR else "RD_ERR_STATUS_LOW": 1 << (16 + 3)}


@pytest.mark.covers("EDMA 118")
@pytest.mark.parametrize(
    ("status", "bits"), [(Status.UR, 1 << 2), (Status.CA, 1 << 10), (Status.TIMEOUT, 1 << 18)]
)
@pytest.mark.parametrize("remote", [True, False])
def test_failing_read_aborts_and_tells_the_abort_address_when_remote(
    status: Status, bits: int, remote: bool
) -> None:
    bench = Bench()
    bench.answers = False
    bench.write_pair("RD_ABORT_IMWR", MSI if remote else 0)
    bench.write("RD_CH23_IMWR_DATA", 0x77)
    bench.put_list(encode_chunk([Transfer(TARGET, SOURCE, 9000)], LIST, 1))
    bench.start(RD, 2)

    read = bench.unanswered.popleft()
    bench.hear(Completion(read.tag, status, b"", read.epoch))

    assert is_aborted(bench, RD, 2)
    assert errors(bench) == {"RD_ERR_STATUS_HIGH": bits}
    assert bench.sent(MemWrite) == ([MemWrite(MSI, u32(0x77), EPOCH)] if remote else [])


@pytest.mark.parametrize("direction", list(Direction))
def test_answer_that_does_not_come_aborts_after_the_completion_timeout(direction: Direction) -> None:
    bench = Bench()
    bench.answers = False
    source, target = (SOURCE, TARGET) if direction is WR else (TARGET, SOURCE)
    bench.run_block(direction, Transfer(source, target, 8192))
    timeout_ns = bench.config.timing.completion_timeout_ms * 1_000_000

    bench.perform(bench.edma.on_deadline(timeout_ns - 1))
    assert bench.get(direction.register("INT_STATUS")) == 0
    bench.perform(bench.edma.on_deadline(timeout_ns))

    assert is_aborted(bench, direction)
    assert errors(bench) == ({} if direction is WR else {"RD_ERR_STATUS_HIGH": 1 << 16})


@pytest.mark.parametrize(
    "end",
    [
        lambda bench: bench.set_link(0, bus_master=False),
        lambda bench: bench.set_link(EPOCH + 1),
        lambda bench: bench.set_link(EPOCH, bus_master=False),
        lambda bench: bench.perform(bench.edma.on_path("epc", False, 0, "killed", 0)),
    ],
    ids=["link down", "new epoch", "no bus master", "controller gone"],
)
@pytest.mark.covers("EDMA 165", "EDMA 170")
def test_end_of_the_link_aborts_what_runs_and_drops_late_answers(end: Callable[[Bench], None]) -> None:
    bench = Bench()
    bench.answers = False
    bench.run_block(WR, Transfer(SOURCE, TARGET, 8192))
    bench.run_block(RD, Transfer(TARGET, SOURCE, 4096))
    late = [bench.completion(read) for read in bench.unanswered]

    end(bench)
    for completion in late:
        bench.hear(completion)

    assert is_aborted(bench, WR)
    assert is_aborted(bench, RD)
    assert bench.edma.counters["late_completions"] == 2


def test_nothing_is_sent_while_the_host_lets_the_endpoint_be_no_master() -> None:
    bench = Bench()
    bench.set_link(EPOCH, bus_master=False)
    bench.run_block(WR, Transfer(SOURCE, TARGET, 64), LIE | RIE)
    bench.run_block(RD, Transfer(TARGET, SOURCE, 64), LIE | RIE)

    assert bench.requests == []
    assert is_aborted(bench, WR)
    assert is_aborted(bench, RD)
    assert errors(bench) == {"RD_ERR_STATUS_HIGH": 1}


def test_abort_of_a_list_that_wants_to_hear_of_none_shows_in_the_error_status_only() -> None:
    bench = Bench()
    bench.put_list(encode_chunk([Transfer(0, TARGET, 64)], LIST, 1))
    bench.write("WR_CONTROL1", 0x300)
    bench.write_pair("WR_LLP", LIST)
    bench.write("WR_DOORBELL", 0)

    assert bench.status(WR) == 2
    assert bench.get("WR_INT_STATUS") == 0
    assert errors(bench) == {"WR_ERR_STATUS": 1}


def test_clearing_the_abort_bit_clears_the_error_and_the_channel_runs_again() -> None:
    bench = Bench()
    bench.run_list(RD, [Transfer(0x1000, SOURCE, 64)])
    bench.run_list(RD, [Transfer(0x1000, SOURCE, 64)], channel=1)
    bench.write("RD_INT_CLEAR", ABORT_0)

    assert errors(bench) == {"RD_ERR_STATUS_HIGH": 2}
    bench.rc.store("test", TARGET - RC_DRAM, pattern(64))
    bench.run_list(RD, [Transfer(TARGET, SOURCE, 64)])
    assert bench.ep.load(SOURCE - EP_DRAM, 64) == pattern(64)
    assert bench.get("RD_INT_STATUS") == 1 | ABORT_0 << 1


@pytest.mark.parametrize(("size", "is_noticed"), [(64, False), (MAX_UNFLUSHED_BYTES, True)])
def test_write_that_misses_amid_a_list_shows_only_when_it_is_read_back(size: int, is_noticed: bool) -> None:
    bench = Bench()
    bench.ep.store("test", SOURCE - EP_DRAM, pattern(64))

    bench.run_list(
        WR, [Transfer(SOURCE, TARGET, 64), Transfer(SOURCE, 0, size), Transfer(SOURCE, TARGET + 64, 64)]
    )

    landed = pattern(64) + (bytes(64) if is_noticed else pattern(64))
    rest = bench.rc.load(0, DRAM_BYTES).replace(landed, b"", 1)
    assert bench.rc.load(TARGET - RC_DRAM, 128) == landed
    assert rest == bytes(DRAM_BYTES - 128)
    assert errors(bench) == {}
    assert is_aborted(bench, WR) is is_noticed
    assert bench.status(WR) == (2 if is_noticed else 3)


# any list at all


@dataclass(frozen=True)
class Plan:
    """Transfers in windows of 1 MiB of both memories, and where each slot of the list lies."""

    direction: Direction
    transfers: tuple[Transfer, ...]
    jumps: tuple[bool, ...]

    def slots(self) -> dict[int, bytes]:
        """Address -> slot; a jump is a link to a place 4 KiB further on."""
        at, cycle, slots = LIST, CONTROL_CB, {}
        last = len(self.transfers) - 1
        for number, (transfer, jump) in enumerate(zip(self.transfers, self.jumps, strict=True)):
            if jump:
                slots[at] = encode_link(CONTROL_TCB, at + 4096)
                at, cycle = at + 4096, cycle ^ CONTROL_CB
            slots[at] = encode_data(cycle | (LIE if number == last else 0), transfer)
            at += ELEMENT_BYTES
        slots[at] = encode_data(cycle ^ CONTROL_CB, Transfer(SOURCE, TARGET, 64))
        return slots


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    direction = draw(st.sampled_from(Direction))
    transfers = []
    for _ in range(draw(st.integers(1, 8))):
        size = draw(st.one_of(st.integers(1, 300), st.integers(1, 80_000)))
        local = SOURCE + draw(st.integers(0, (1 << 20) - size))
        bus = TARGET + draw(st.integers(0, (1 << 20) - size))
        transfers.append(Transfer(local, bus, size) if direction is WR else Transfer(bus, local, size))
    jumps = draw(st.lists(st.booleans(), min_size=len(transfers), max_size=len(transfers)))
    return Plan(direction, tuple(transfers), tuple(jumps))


def bench_for(plan: Plan) -> Bench:
    bench = Bench()
    bench.ep.store("test", 0x20_0000, pattern(1 << 20, 5))
    bench.rc.store("test", 0x30_0000, pattern(1 << 20, 6))
    for at, slot in plan.slots().items():
        bench.put_list(slot, at)
    return bench


def expected(bench: Bench, plan: Plan) -> tuple[bytes, bytes]:
    """Both memories after the plan, copied element by element."""
    ep, rc = bytearray(bench.ep.load(0, DRAM_BYTES)), bytearray(bench.rc.load(0, DRAM_BYTES))
    for one in plan.transfers:
        source, source_base, target, target_base = ep, EP_DRAM, rc, RC_DRAM
        if plan.direction is RD:
            source, source_base, target, target_base = rc, RC_DRAM, ep, EP_DRAM
        begin, end = one.source - source_base, one.destination - target_base
        target[end : end + one.size] = source[begin : begin + one.size]
    return bytes(ep), bytes(rc)


@given(plans())
@settings(max_examples=40, deadline=None)
@pytest.mark.covers("EDMA 108", "EDMA 114", "EDMA 117")
def test_any_valid_list_moves_exactly_its_bytes(plan: Plan) -> None:
    bench = bench_for(plan)
    ep, rc = expected(bench, plan)

    bench.start(plan.direction)
    bench.run_until_idle()

    assert bench.ep.load(0, DRAM_BYTES) == ep
    assert bench.rc.load(0, DRAM_BYTES) == rc
    assert bench.status(plan.direction) == 3
    assert bench.get(plan.direction.register("INT_STATUS")) == 1
    channel = bench.edma.engine.channels[plan.direction][0]
    assert (channel.transfers, channel.bytes) == (
        len(plan.transfers),
        sum(one.size for one in plan.transfers),
    )


def judge_missed_writes(bench: Bench, plan: Plan, number: int, missed: Transfer) -> None:
    """After a list whose element ``number`` wrote where nobody is: nobody answers a posted write.

    Its bytes land nowhere. The channel aborts when it read one of them back, which it must when the
    element was the last, and nothing behind it lands; otherwise all others land, and it is done.
    """
    read_back = [read.addr for read in bench.sent(MemRead)]
    is_noticed = any(0 <= addr - missed.destination < missed.size for addr in read_back)
    landed = plan.transfers[:number] + (() if is_noticed else plan.transfers[number + 1 :])
    _, rc = expected(bench_for(plan), Plan(plan.direction, landed, plan.jumps[: len(landed)]))

    assert bench.rc.load(0, DRAM_BYTES) == rc
    assert errors(bench) == {}
    if is_noticed:
        assert is_aborted(bench, plan.direction)
    else:
        last = plan.transfers[-1]
        assert number < len(plan.transfers) - 1
        assert read_back[-1] == last.destination + last.size - min(4, last.size)
        assert (bench.status(plan.direction), bench.get("WR_INT_STATUS")) == (3, 1)


BAD_LOCAL, BAD_BUS, BAD_FETCH = "local", "bus", "fetch"


@given(plans(), st.data(), st.sampled_from([BAD_LOCAL, BAD_BUS, BAD_FETCH]))
@settings(max_examples=40, deadline=None)
@pytest.mark.covers("EDMA 118")
def test_any_list_with_a_wrong_element_aborts_there_with_the_right_status(
    plan: Plan, data: st.DataObject, kind: str
) -> None:
    bench = bench_for(plan)
    slots = [at for at, slot in plan.slots().items() if not slot[0] & 4][:-1]
    number = data.draw(st.integers(0, len(slots) - 1))
    good = plan.transfers[number]
    control = plan.slots()[slots[number]][0]
    is_write = plan.direction is WR
    local = data.draw(st.sampled_from([0, EP_DRAM - 1, BEYOND - good.size + 1, END - good.size]))
    bus = data.draw(st.sampled_from([0, RC_DRAM - good.size, min(END - good.size + 1, END - 1)]))
    pointer = data.draw(st.sampled_from([0, EP_DRAM - 1, BEYOND - ELEMENT_BYTES + 1, END - 1]))
    source, destination = good.source, good.destination
    if kind == BAD_LOCAL:
        source, destination = (local, destination) if is_write else (source, local)
    elif kind == BAD_BUS:
        source, destination = (source, bus) if is_write else (bus, destination)
    wrong = encode_data(control, Transfer(source, destination, good.size))
    bench.put_list(encode_link(0, pointer) if kind == BAD_FETCH else wrong, slots[number])
    ep, rc = expected(bench, Plan(plan.direction, plan.transfers[:number], plan.jumps[:number]))

    bench.start(plan.direction)
    bench.run_until_idle()

    assert bench.ep.load(0, DRAM_BYTES) == ep
    if kind == BAD_BUS and is_write and destination <= END - good.size:
        judge_missed_writes(bench, plan, number, Transfer(source, destination, good.size))
        return
    assert is_aborted(bench, plan.direction)
    expected_errors = {
        (BAD_LOCAL, True): {"WR_ERR_STATUS": 1},
        (BAD_LOCAL, False): {"RD_ERR_STATUS_LOW": 1},
        (BAD_FETCH, True): {"WR_ERR_STATUS": 1 << 16},
        (BAD_FETCH, False): {"RD_ERR_STATUS_LOW": 1 << 16},
        (BAD_BUS, True): {},
        (BAD_BUS, False): {"RD_ERR_STATUS_HIGH": 1},
    }
    assert errors(bench) == expected_errors[kind, is_write]
    assert bench.rc.load(0, DRAM_BYTES) == rc
