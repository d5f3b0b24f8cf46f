"""Wakes: their records, and what a FIFO does in bad moments."""

from __future__ import annotations

import fcntl
import os
import select
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntbnet.edge import wake
from ntbnet.edge.wake import RECORD_BYTES, Wakes, decode, encode, open_fifo
from ntbnet.errors import SetupError, WireError
from ntbnet.wire import LABELS, SERVICE_BY_LABEL, Irq, IrqSource, MemWrite, Service

if TYPE_CHECKING:
    import asyncio

U32, U64 = st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 64) - 1)
IRQS = st.builds(Irq, st.sampled_from(IrqSource), U64, U32)
WRITES = st.builds(MemWrite, U64.map(lambda addr: addr & ~3), st.binary(min_size=4, max_size=4), U32)

GOLDEN = [
    (
        "peer-ep",
        Irq(IrqSource.MSI_VECTOR, 9, 7),
        "01 05 18 01 07000000 0000000000000000 0900000000000000",
    ),
    (
        "peer-rc",
        MemWrite(0xE65D50A0, b"\x01\x02\x03\x04", 0x1234),
        "01 04 10 00 34120000 a0505de600000000 0102030400000000",
    ),
]


class Loop:
    """In place of the event loop: what is watched, and what was put off."""

    def __init__(self) -> None:
        self.readers: dict[int, Callable[[], None]] = {}
        self.later: list[Callable[[], None]] = []

    def add_reader(self, fd: int, callback: Callable[[], None]) -> None:
        self.readers[fd] = callback

    def remove_reader(self, fd: int) -> None:
        del self.readers[fd]

    def call_later(self, delay_s: float, callback: Callable[[str], None], dst: str) -> None:
        self.later.append(lambda: callback(dst))

    def run_later(self) -> None:
        later, self.later = self.later, []
        for action in later:
            action()


class End:
    """One process: its FIFO, and what it was told."""

    def __init__(self, name: str, folder: Path) -> None:
        self.told: list[tuple[str, Irq | MemWrite] | None] = []
        self.loop = Loop()
        self.path = folder / f"wake.{name}"
        self.wakes = Wakes(name, lambda dst: folder / f"wake.{dst}", self.on_wake, self.on_batch)
        self.wakes.start(cast("asyncio.AbstractEventLoop", self.loop))

    def on_wake(self, src: str, message: Irq | MemWrite) -> None:
        self.told.append((src, message))

    def on_batch(self) -> None:
        self.told.append(None)

    def read(self) -> list[tuple[str, Irq | MemWrite]]:
        """Take what is in the FIFO; what came of it."""
        while _is_readable(self.path):
            for callback in list(self.loop.readers.values()):
                callback()
        told, self.told = self.told, []
        return [one for one in told if one is not None]


def _is_readable(path: Path) -> bool:
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    try:
        return bool(select.select([fd], [], [], 0)[0])
    finally:
        os.close(fd)


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[tuple[End, End]]:
    pair = End("epc", tmp_path), End("peer-ep", tmp_path)
    yield pair
    for end in pair:
        end.wakes.close()


def ring(vector: int) -> Irq:
    return Irq(IrqSource.MSI_VECTOR, vector, 1)


def write_raw(path: Path, data: bytes) -> None:
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    os.write(fd, data)
    os.close(fd)


def narrow(path: Path) -> int:
    """Make the FIFO as small as Linux lets it be; how many records it takes."""
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    size = fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, 4096)
    os.close(fd)
    return size // RECORD_BYTES


# records


@pytest.mark.parametrize(("src", "message", "record"), GOLDEN)
def test_record_is_these_bytes(src: str, message: Irq | MemWrite, record: str) -> None:
    assert encode(SERVICE_BY_LABEL[src], message) == bytes.fromhex(record)
    assert decode(bytes.fromhex(record)) == (src, message)


@given(st.sampled_from(Service), IRQS | WRITES)
def test_record_is_read_as_it_was_written(src: Service, message: Irq | MemWrite) -> None:
    assert decode(encode(src, message)) == (LABELS[src], message)


@given(st.binary(min_size=RECORD_BYTES, max_size=RECORD_BYTES))
def test_any_record_is_read_or_refused(record: bytes) -> None:
    """And what is read has no second form."""
    try:
        src, message = decode(record)
    except WireError:
        return
    assert encode(SERVICE_BY_LABEL[src], message) == record


@pytest.mark.parametrize(
    ("at", "value", "named"),
    [
        (0, 2, "version"),
        (1, 0, "src"),
        (1, 6, "src"),
        (2, 2, "kind"),
        (3, 1, "kind"),
        (8, 1, "kind"),
        (20, 1, "kind"),
    ],
)
def test_refusal_of_a_store_names_what_is_wrong(at: int, value: int, named: str) -> None:
    record = bytearray(encode(Service.PEER_RC, MemWrite(0x1000, bytes(4), 1)))
    record[at] = value

    with pytest.raises(WireError, match=named):
        decode(bytes(record))


@pytest.mark.parametrize(("at", "value"), [(3, 0), (3, 9), (8, 1)])
def test_refusal_of_an_interrupt_names_its_source(at: int, value: int) -> None:
    record = bytearray(encode(Service.EPC, ring(1)))
    record[at] = value

    with pytest.raises(WireError, match="source"):
        decode(bytes(record))


# FIFOs


def test_wakes_arrive_in_order_with_their_sender(ends: tuple[End, End]) -> None:
    epc, ep = ends
    for number in range(3):
        epc.wakes.send("peer-ep", ring(number))
    assert ep.read() == []
    epc.wakes.flush()

    assert ep.read() == [("epc", ring(number)) for number in range(3)]


def test_equal_interrupts_of_one_occasion_are_told_once(ends: tuple[End, End]) -> None:
    epc, ep = ends
    for _ in range(2):
        for message in (ring(1), ring(2), ring(1)):
            epc.wakes.send("peer-ep", message)
        epc.wakes.flush()

    assert [message for _, message in ep.read()] == [ring(1), ring(2), ring(1), ring(2)]
    assert epc.wakes.counters["wakes_merged"] == 2


def test_stores_to_registers_are_neither_merged_nor_moved(tmp_path: Path) -> None:
    """An equal store may mean something else after another one: list A, start, list B, start."""
    ep, edma = End("peer-ep", tmp_path), End("edma", tmp_path)
    stores = [MemWrite(addr, bytes([value, 0, 0, 0]), 1) for addr, value in ((0, 1), (8, 1), (0, 2), (8, 1))]
    for store in stores:
        ep.wakes.send("edma", store)
    ep.wakes.flush()

    assert [message for _, message in edma.read()] == stores
    for end in (ep, edma):
        end.wakes.close()


def test_batch_is_told_after_its_records(ends: tuple[End, End]) -> None:
    epc, ep = ends
    epc.wakes.send("peer-ep", ring(1))
    epc.wakes.flush()
    next(iter(ep.loop.readers.values()))()

    assert ep.told == [("epc", ring(1)), None]


def test_full_fifo_delivers_everything_later_and_in_order(ends: tuple[End, End]) -> None:
    epc, ep = ends
    room = narrow(ep.path)
    count = 2 * room + 7
    for number in range(count):
        epc.wakes.send("peer-ep", ring(number))
        epc.wakes.flush()
    told = ep.read()
    assert len(told) <= room

    while epc.loop.later:
        epc.loop.run_later()
        told += ep.read()
    epc.wakes.send("peer-ep", ring(count))
    epc.wakes.flush()

    assert [message for _, message in told + ep.read()] == [ring(number) for number in range(count + 1)]
    assert epc.wakes.counters["wakes_dropped"] == 0


def test_process_that_never_reads_costs_bounded_memory(ends: tuple[End, End]) -> None:
    epc, ep = ends
    room = narrow(ep.path)
    count = room + wake.MAX_WAITING + 10
    for number in range(count):
        epc.wakes.send("peer-ep", ring(number))
        epc.wakes.flush()
    told = ep.read()
    while epc.loop.later:
        epc.loop.run_later()
        told += ep.read()

    dropped = epc.wakes.counters["wakes_dropped"]
    assert [message for _, message in told] == [
        ring(number) for number in range(count) if not room <= number < room + dropped
    ]
    assert dropped == 10
    assert len(told) == room + wake.MAX_WAITING


def test_reader_that_was_stopped_is_told_every_interrupt_once_and_the_newest(ends: tuple[End, End]) -> None:
    epc, ep = ends
    room = narrow(ep.path)
    for number in range(room + 3 * wake.MAX_WAITING):
        epc.wakes.send("peer-ep", ring(number % 2))
        epc.wakes.flush()
    epc.wakes.send("peer-ep", ring(9))
    epc.wakes.flush()
    ep.read()
    epc.loop.run_later()

    assert [message for _, message in ep.read()] == [ring(room % 2), ring((room + 1) % 2), ring(9)]
    assert epc.wakes.counters["wakes_merged"] == 3 * wake.MAX_WAITING - 2
    assert epc.wakes.counters["wakes_dropped"] == 0


def test_hostile_records_are_counted_and_the_others_told(ends: tuple[End, End]) -> None:
    _, ep = ends
    write_raw(ep.path, bytes(RECORD_BYTES) + encode(Service.EPC, ring(4)) + b"\xff" * RECORD_BYTES)

    assert ep.read() == [("epc", ring(4))]
    assert ep.wakes.counters["wakes_refused"] == 2


@pytest.mark.parametrize("behind", [0, 1, 127, 128, 129, 300])
@pytest.mark.parametrize("garbage", [1, 23, 25])
def test_pieces_of_records_spoil_no_whole_ones(ends: tuple[End, End], garbage: int, behind: int) -> None:
    epc, ep = ends
    before, after = encode(Service.EPC, ring(3)), encode(Service.EPC, ring(1)) * behind
    write_raw(ep.path, before + b"\xee" * garbage + after)
    assert ep.read() == [("epc", ring(3)), *[("epc", ring(1))] * behind]
    assert ep.wakes.counters["wakes_refused"] == 1

    epc.wakes.send("peer-ep", ring(5))
    epc.wakes.flush()
    assert ep.read() == [("epc", ring(5))]


def test_record_that_is_cut_by_a_read_is_told_whole(ends: tuple[End, End]) -> None:
    _, ep = ends
    records = [encode(Service.EPC, ring(number)) for number in range(200)]
    write_raw(ep.path, b"\xee" * 25 + b"".join(records))

    assert [message for _, message in ep.read()] == [ring(number) for number in range(200)]
    assert ep.wakes.counters["wakes_refused"] == 1


ALLOWED = [
    *((src, dst, MemWrite(0x40, bytes(4), 1)) for src, dst in (("peer-rc", "edma"), ("peer-rc", "epc"))),
    ("peer-ep", "edma", MemWrite(0x40, bytes(4), 1)),
    ("edma", "peer-ep", Irq(IrqSource.EDMA_LINE, 1)),
    ("epc", "peer-ep", Irq(IrqSource.DOORBELL_SLOTS, 1, 1)),
    ("epc", "peer-ep", ring(1)),
    ("peer-ep", "peer-rc", ring(1)),
]


@pytest.mark.parametrize("dst", LABELS.values())
def test_only_who_may_wake_whom_with_what_is_heard(tmp_path: Path, dst: str) -> None:
    end = End(dst, tmp_path)
    messages: list[Irq | MemWrite] = [
        MemWrite(0x40, bytes(4), 1),
        *(Irq(source, 1, 1) for source in IrqSource),
    ]
    told: list[tuple[str, Irq | MemWrite]] = []
    for src in Service:
        for message in messages:
            write_raw(end.path, encode(src, message))
            told += end.read()
    heard = {(src, type(message), getattr(message, "source", None)) for src, message in told}

    allowed = {
        (src, type(message), getattr(message, "source", None)) for src, to, message in ALLOWED if to == dst
    }
    assert heard == allowed
    assert end.wakes.counters["wakes_refused"] == len(Service) * len(messages) - len(allowed)
    end.wakes.close()


def test_more_records_than_are_remembered_are_told_all_the_same(ends: tuple[End, End]) -> None:
    epc, ep = ends
    numbers = [*range(2 * wake.MAX_KNOWN), *range(wake.MAX_KNOWN)]
    for number in numbers:
        epc.wakes.send("peer-ep", ring(number))
        epc.wakes.flush()

    assert [message for _, message in ep.read()] == [ring(number) for number in numbers]


def test_restarted_process_hears_nothing_that_was_meant_for_the_one_before(
    ends: tuple[End, End], tmp_path: Path
) -> None:
    epc, ep = ends
    for number in range(500):
        epc.wakes.send("peer-ep", ring(number))
    epc.wakes.flush()
    ep.wakes.close()

    again = End("peer-ep", tmp_path)
    epc.wakes.send("peer-ep", ring(7))
    epc.wakes.flush()
    assert again.read() == [("epc", ring(7))]
    again.wakes.close()


def test_fifo_is_closed_to_others(ends: tuple[End, End]) -> None:
    assert ends[0].path.stat().st_mode & 0o777 == 0o600


def test_closed_ends_watch_nothing_and_close_again(ends: tuple[End, End]) -> None:
    epc, ep = ends
    epc.wakes.send("peer-ep", ring(1))
    epc.wakes.flush()
    epc.wakes.close()
    epc.wakes.close()

    assert epc.loop.readers == {}
    assert ep.read() == [("epc", ring(1))]


def make_file(path: Path) -> None:
    path.write_bytes(b"")
    path.chmod(0o600)


def make_link(path: Path) -> None:
    os.mkfifo(path.with_name("elsewhere"), 0o600)
    path.symlink_to("elsewhere")


def make_open_fifo(path: Path) -> None:
    os.mkfifo(path)
    path.chmod(0o622)


@pytest.mark.parametrize("make", [make_file, make_link, make_open_fifo, Path.mkdir])
def test_anything_else_in_its_place_is_refused(tmp_path: Path, make: Callable[[Path], object]) -> None:
    path = tmp_path / "wake.epc"
    make(path)

    with pytest.raises(SetupError, match=r"wake\.epc"):
        open_fifo(path)
