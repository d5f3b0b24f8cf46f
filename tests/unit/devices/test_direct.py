"""How a host's posted stores leave it: in place where that was granted, in order with the messages."""

from __future__ import annotations

import pytest

from ntbnet.devices.direct import FAILED_FLUSHES, MAX_HELD
from ntbnet.devices.effects import Deliver, Effect, Send, Wake
from ntbnet.devices.lease import NOTHING
from ntbnet.errors import PeerError, WindowLost
from ntbnet.wire import Irq, IrqSource, MemRead, MemWrite, Status
from tests.unit.devices.cpu_bus import (
    EPOCH,
    FAR_BYTES,
    GRANTS,
    MEMORY,
    MS,
    REGISTERS,
    RING,
    Cpu,
    messages,
    settled,
)
from tests.unit.devices.kit import logged, sent

# where a store goes


def test_store_inside_a_grant_lands_and_sends_nothing() -> None:
    cpu = settled()
    cpu.bus.write(MEMORY + 0x10, b"payload")

    assert cpu.far[RING + 0x10 : RING + 0x17] == b"payload"
    assert cpu.effects() == []


@pytest.mark.parametrize(
    ("addr", "size"),
    [(MEMORY - 4, 4), (MEMORY - 2, 4), (MEMORY + 0x7FE, 4), (MEMORY + 0x800, 4), (MEMORY, 0x801)],
)
def test_store_that_leaves_every_grant_is_a_message(addr: int, size: int) -> None:
    cpu = settled()
    cpu.bus.write(addr, b"\x11" * size)

    assert messages(cpu) == [MemWrite(addr, b"\x11" * size, EPOCH)]
    assert cpu.far == bytes(FAR_BYTES)


def test_aligned_word_to_registers_wakes_their_owner_at_the_local_address() -> None:
    cpu = settled()
    cpu.bus.write(REGISTERS + 0xA0, b"\x01\0\0\0", "intr.rung")

    assert cpu.effects() == [Wake("edma", MemWrite(0xE65D_50A0, b"\x01\0\0\0", EPOCH), "intr.rung")]


@pytest.mark.parametrize(("offset", "size"), [(2, 4), (0, 2), (0, 8), (1, 1)])
def test_any_other_store_to_registers_is_a_message(offset: int, size: int) -> None:
    cpu = settled()
    cpu.bus.write(REGISTERS + offset, bytes(size))

    assert messages(cpu) == [MemWrite(REGISTERS + offset, bytes(size), EPOCH)]


def test_buffer_may_be_reused_once_the_call_returned() -> None:
    cpu = Cpu()
    cpu.grant()
    buffer = bytearray(b"first")
    cpu.bus.write(MEMORY, buffer)
    cpu.bus.write(MEMORY - 16, buffer)
    buffer[:] = b"again"

    assert [one.data for one in messages(cpu)] == [b"first", b"first"]


def test_fabric_message_has_no_grants() -> None:
    cpu = Cpu(local=False)
    with pytest.raises(PeerError):
        cpu.grant()
    cpu.bus.write(MEMORY, b"data")

    assert messages(cpu) == [MemWrite(MEMORY, b"data", EPOCH)]


# order


def test_nothing_lands_before_the_flush_was_answered() -> None:
    cpu = Cpu()
    cpu.grant()
    read = cpu.flush()
    cpu.bus.write(MEMORY, b"early")
    assert (cpu.far, cpu.effects()) == (bytearray(FAR_BYTES), [])

    cpu.answer(read)
    assert cpu.far[RING : RING + 5] == b"early"


def test_flush_reads_the_last_word_of_granted_memory() -> None:
    cpu = Cpu()
    cpu.grant()
    read = cpu.flush()

    assert (read.addr, read.size) == (MEMORY + 0x800 - 4, 4)


def test_stores_behind_a_message_wait_for_a_flush_behind_it() -> None:
    cpu = settled()
    cpu.bus.write(MEMORY - 4, b"slow")
    cpu.bus.write(MEMORY, b"held")
    first, second = sent(cpu.effects())
    assert isinstance(first, MemWrite)
    assert isinstance(second, MemRead)
    assert cpu.far == bytes(FAR_BYTES)

    cpu.answer(second)
    assert cpu.far[RING : RING + 4] == b"held"
    assert cpu.effects() == []


def test_message_during_a_flush_asks_for_another_one() -> None:
    cpu = Cpu()
    cpu.grant()
    read = cpu.flush()
    cpu.bus.write(MEMORY - 4, b"slow")
    cpu.bus.write(MEMORY, b"held")
    assert len(messages(cpu)) == 1

    cpu.answer(read)
    assert cpu.far == bytes(FAR_BYTES)
    cpu.settle()
    assert cpu.far[RING : RING + 4] == b"held"


def test_message_takes_everything_with_it_that_was_held_before_it() -> None:
    cpu = Cpu()
    cpu.grant()
    read = cpu.flush()
    cpu.bus.write(MEMORY, b"1st")
    cpu.bus.doorbell(0b10)
    cpu.bus.write(REGISTERS, b"2nd.")
    cpu.bus.write(MEMORY - 4, b"last")

    assert messages(cpu) == [
        MemWrite(MEMORY, b"1st", EPOCH),
        Irq(IrqSource.PEER_DOORBELL, 0b10, EPOCH),
        MemWrite(REGISTERS, b"2nd.", EPOCH),
        MemWrite(MEMORY - 4, b"last", EPOCH),
    ]
    cpu.answer(read)
    cpu.settle()
    assert cpu.far == bytes(FAR_BYTES)


def test_held_doorbell_rings_behind_the_stores_before_it() -> None:
    cpu = Cpu()
    cpu.grant(doorbells=[[0, 2]])
    read = cpu.flush()
    cpu.bus.write(MEMORY, b"data")
    cpu.bus.doorbell(1)
    assert cpu.effects() == []

    cpu.answer(read)
    assert cpu.far[RING : RING + 4] == b"data"
    assert cpu.effects() == [Wake("peer-rc", Irq(IrqSource.MSI_VECTOR, 2, EPOCH))]


def test_doorbell_bits_without_a_vector_are_a_message() -> None:
    cpu = settled(doorbells=[[0, 2], [1, 3]])
    cpu.bus.doorbell(0b1011)

    assert cpu.effects() == [
        Wake("peer-rc", Irq(IrqSource.MSI_VECTOR, 2, EPOCH)),
        Wake("peer-rc", Irq(IrqSource.MSI_VECTOR, 3, EPOCH)),
        Send("rc-host", Irq(IrqSource.PEER_DOORBELL, 0b1000, EPOCH)),
    ]


def test_doorbell_is_a_message_while_nothing_is_settled() -> None:
    cpu = Cpu()
    cpu.grant(doorbells=[[0, 2]])
    cpu.flush()
    cpu.bus.doorbell(1)

    assert messages(cpu) == [Irq(IrqSource.PEER_DOORBELL, 1, EPOCH)]


def test_read_that_fails_is_asked_again_later_and_said_once_when_it_keeps_failing() -> None:
    cpu = Cpu()
    cpu.grant()
    cpu.bus.write(MEMORY, b"held")
    effects: list[Effect] = []
    for _ in range(2 * FAILED_FLUSHES):
        cpu.answer(cpu.flush(), b"", Status.UR)
        effects += cpu.effects()
        cpu.sleep(10 * MS)
    assert cpu.far == bytes(FAR_BYTES)
    assert logged(effects, "stores.waiting") == [{"flushes": FAILED_FLUSHES}]

    cpu.settle()
    assert cpu.far[RING : RING + 4] == b"held"
    assert cpu.bus.counters["flushes_failed"] == 2 * FAILED_FLUSHES


def test_memory_that_is_all_ones_answers_as_any_other() -> None:
    cpu = Cpu()
    cpu.grant()
    cpu.answer(cpu.flush(), b"\xff" * 4)

    assert cpu.bus.snapshot()["direct"]


def test_stores_behind_a_barrier_wait_for_a_read_behind_it() -> None:
    cpu = settled()
    lent = cpu.bus.lend(MEMORY, 0x100)
    answers: list[bool] = []
    cpu.tasks.spawn("test", cpu.bus.barrier(), answers.append)
    cpu.bus.write(MEMORY, b"held")
    flush, behind = [one for one in sent(cpu.effects()) if isinstance(one, MemRead)]
    assert lent is not None
    assert lent.revoked
    assert (cpu.far, answers) == (bytearray(FAR_BYTES), [])

    cpu.answer(flush)
    cpu.answer(behind)

    assert answers == [True]
    assert cpu.far[RING : RING + 4] == b"held"


def test_barrier_during_a_flush_is_not_satisfied_by_it() -> None:
    cpu = Cpu()
    cpu.grant()
    earlier = cpu.flush()
    cpu.tasks.spawn("test", cpu.bus.barrier())
    behind = cpu.flush()
    cpu.answer(earlier)
    cpu.answer(behind)
    cpu.bus.write(MEMORY, b"held")
    assert cpu.far == bytes(FAR_BYTES)

    cpu.settle()
    assert cpu.far[RING : RING + 4] == b"held"


@pytest.mark.parametrize("end", ["ur", "timeout", "epoch"])
def test_barrier_without_an_answer_says_so(end: str) -> None:
    cpu = settled()
    answers: list[bool] = []
    cpu.tasks.spawn("test", cpu.bus.barrier(), answers.append)
    reads = [one for one in sent(cpu.effects()) if isinstance(one, MemRead)]
    if end == "timeout":
        cpu.sleep(500 * MS)
    elif end == "epoch":
        cpu.enter(EPOCH + 1)
    for read in reads:
        cpu.answer(read, b"" if end == "ur" else bytes(4), Status.UR if end == "ur" else Status.OK)

    assert answers == [False]
    assert not cpu.bus.snapshot()["direct"]


@pytest.mark.parametrize("cpu", [Cpu(), Cpu(local=False)])
def test_barrier_of_a_host_whose_stores_are_messages_asks_nothing(cpu: Cpu) -> None:
    answers: list[bool] = []
    cpu.tasks.spawn("test", cpu.bus.barrier(), answers.append)

    assert answers == [True]
    assert cpu.effects() == []


def test_peer_that_never_answers_costs_bounded_memory() -> None:
    cpu = Cpu()
    cpu.grant()
    for number in range(MAX_HELD + 1):
        cpu.bus.write(MEMORY, number.to_bytes(4, "little"))
    cpu.bus.doorbell(1)

    assert [int.from_bytes(one.data, "little") for one in messages(cpu)[:-1]] == list(range(MAX_HELD + 1))


def test_doorbells_alone_are_bounded_too() -> None:
    cpu = Cpu()
    cpu.grant()
    read = cpu.flush()
    cpu.bus.write(MEMORY, b"data")
    for _ in range(MAX_HELD):
        cpu.bus.doorbell(1)

    assert messages(cpu) == [
        MemWrite(MEMORY, b"data", EPOCH),
        *[Irq(IrqSource.PEER_DOORBELL, 1, EPOCH)] * MAX_HELD,
    ]
    cpu.answer(read)
    assert not cpu.bus.snapshot()["direct"]
    cpu.settle()
    assert cpu.bus.snapshot()["direct"]


def test_registers_alone_are_not_stored_to_directly() -> None:
    """There is nothing to read behind the messages without side effects."""
    cpu = Cpu()
    cpu.grant([GRANTS[1]])
    cpu.bus.write(REGISTERS, bytes(4))

    assert sent(cpu.effects()) == [MemWrite(REGISTERS, bytes(4), EPOCH)]


def test_what_is_held_when_the_memory_is_revoked_becomes_messages() -> None:
    cpu = Cpu()
    cpu.grant()
    read = cpu.flush()
    cpu.bus.write(MEMORY, b"data")
    cpu.bus.doorbell(4)
    cpu.grant([])
    cpu.answer(read)

    assert messages(cpu) == [MemWrite(MEMORY, b"data", EPOCH), Irq(IrqSource.PEER_DOORBELL, 4, EPOCH)]
    assert cpu.far == bytes(FAR_BYTES)


def test_new_grants_end_the_old_ones_at_once() -> None:
    cpu = settled()
    cpu.grant([[MEMORY, 0x100, "", 0x800]])
    read = cpu.flush()
    cpu.bus.write(MEMORY, b"new")
    cpu.answer(read)
    cpu.bus.write(MEMORY + 0x100, b"old")

    assert cpu.far == bytes(0x800) + b"new" + bytes(FAR_BYTES - 0x803)
    assert [one.addr for one in messages(cpu)] == [MEMORY + 0x100]


# epochs


def test_new_epoch_ends_grants_and_drops_what_waited() -> None:
    cpu = Cpu()
    cpu.grant(doorbells=[[0, 2]])
    read = cpu.flush()
    cpu.bus.write(MEMORY, b"held")
    cpu.enter(EPOCH + 1)
    cpu.answer(read)
    assert (cpu.far, cpu.effects()) == (bytearray(FAR_BYTES), [])

    cpu.bus.write(MEMORY, b"next")
    cpu.bus.doorbell(1)
    assert messages(cpu) == [
        MemWrite(MEMORY, b"next", EPOCH + 1),
        Irq(IrqSource.PEER_DOORBELL, 1, EPOCH + 1),
    ]


def test_flush_of_an_earlier_epoch_settles_nothing_in_the_next() -> None:
    cpu = Cpu()
    cpu.grant()
    old = cpu.flush()
    cpu.enter(EPOCH + 1)
    cpu.grant()
    new = cpu.flush()
    cpu.bus.write(MEMORY, b"data")
    cpu.answer(old)
    assert cpu.far == bytes(FAR_BYTES)

    cpu.answer(new)
    assert cpu.far[RING : RING + 4] == b"data"


def test_lease_names_the_epoch_that_is_stored_in() -> None:
    cpu = Cpu()
    assert cpu.words.load_u32(0) == EPOCH

    cpu.enter(0)
    assert cpu.words.load_u32(0) == NOTHING


def test_store_behind_another_effect_of_its_step_waits_its_turn() -> None:
    """What says that a packet was taken must not be seen before the packet was delivered."""
    cpu = settled()
    cpu.outbox.add(Deliver(memoryview(b"packet")))
    cpu.bus.write(MEMORY, b"taken")

    assert cpu.far == bytes(FAR_BYTES)
    assert isinstance(cpu.effects()[0], Deliver)
    assert cpu.far[RING : RING + 5] == b"taken"


def test_store_that_still_waits_when_the_epoch_ends_is_never_done() -> None:
    """The lease says that there is none any more."""
    cpu = settled()
    cpu.outbox.add(Deliver(memoryview(b"packet")))
    cpu.bus.write(MEMORY, b"taken")
    cpu.enter(0)

    assert [type(effect) for effect in cpu.effects()] == [Deliver]
    assert cpu.far == bytes(FAR_BYTES)


def test_memory_is_lent_while_stores_to_it_are_direct_and_revoked_with_the_first_message() -> None:
    cpu = settled()
    lent = cpu.bus.lend(MEMORY, 0x800)
    assert lent is not None
    lent.room("test", 16, 4)[:] = b"data"
    lent.store_u32("test", 0x7FC, 7)
    assert cpu.far[RING + 16 : RING + 20] == b"data"
    assert cpu.far[RING + 0x7FC] == 7

    cpu.bus.write(0x1000, b"elsewhere")

    for use in (lambda: lent.room("test", 0, 4), lambda: lent.store_u32("test", 0, 1)):
        with pytest.raises(WindowLost):
            use()
    assert cpu.bus.lend(MEMORY, 0x800) is None


@pytest.mark.parametrize(
    ("addr", "size"), [(MEMORY, 0x801), (MEMORY - 4, 8), (REGISTERS, 4), (0x1000, 4), (MEMORY + 0x7FE, 4)]
)
def test_only_granted_memory_is_lent(addr: int, size: int) -> None:
    assert settled().bus.lend(addr, size) is None


def test_nothing_is_lent_before_stores_are_direct_or_in_fabric_message() -> None:
    cpu = Cpu()
    cpu.grant()

    assert cpu.bus.lend(MEMORY, 4) is None
    assert Cpu(local=False).bus.lend(MEMORY, 4) is None


@pytest.mark.parametrize("end", ["grant", "enter"])
def test_lent_memory_is_revoked_with_its_grant_and_its_epoch(end: str) -> None:
    cpu = settled()
    lent = cpu.bus.lend(MEMORY, 0x100)
    assert lent is not None
    with pytest.raises(ValueError, match="outside"):
        lent.store("test", 0xFE, b"four")

    if end == "grant":
        cpu.grant()
    else:
        cpu.enter(EPOCH + 1)

    assert lent.revoked
