from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any, TypeVar

import pytest

from ntbnet.devices.direct import CpuBus
from ntbnet.devices.effects import Outbox
from ntbnet.devices.memory import Allocator
from ntbnet.devices.ntb import MwAlign
from ntbnet.devices.ntb_vntb import NtbVntb
from ntbnet.devices.task import Task, Tasks
from ntbnet.errors import KernelError, PeerError
from ntbnet.regs.ntb_ctrl import RFC1
from ntbnet.wire import Call, Irq, IrqSource, MemWrite, Notice, Reply
from tests.unit.devices.kit import EP_DRAM, dram, only, sent

T = TypeVar("T")
EPOCH = 6
OUTBOUND = 0xFE10_0000
ATTACH: dict[str, Any] = {
    "ctrl_addr": EP_DRAM,
    "ctrl_layout": "rfc1",
    "spad_offset": 336,
    "spad_count": 128,
    "db_count": 4,
    "mw_sizes": [0xF0000],
    "mw_align": 0x100000,
    "outbound": [OUTBOUND],
    "mw_offsets": [0],
    "mw_bars": [2],
    "resources": [
        {"kind": "doorbell", "address": 0xE65D_50A0, "size": 4, "data": 0, "bar": -1, "bar_offset": 0}
    ],
}


class Client:
    """Counts callbacks."""

    def __init__(self) -> None:
        self.vectors: list[int] = []
        self.link_events = 0

    def link_event(self) -> None:
        self.link_events += 1

    def db_event(self, vector: int) -> None:
        self.vectors.append(vector)


class Device:
    """The device on real DRAM; calls to the controller are answered with ``error``."""

    def __init__(self, **changes: Any) -> None:
        self.dram = dram(EP_DRAM)
        self.outbox = Outbox()
        self.tasks = Tasks(self.outbox, "epc", 500_000_000)
        self.tasks.epoch = EPOCH
        heap = self.dram.sub(4 << 20, 4 << 20, "heap")
        self.ntb = NtbVntb(
            ATTACH | changes,
            outbox=self.outbox,
            cpu=CpuBus(self.outbox, self.tasks, "epc"),
            allocator=Allocator(heap),
            dram=self.dram,
        )
        self.client = Client()
        self.ntb.set_ctx(self.client)
        self.error = 0
        self.calls: list[Call] = []

    def do(self, task: Task[T]) -> T:
        """Run an operation to its end; its KernelError comes through."""
        done: list[Any] = []

        def guarded() -> Task[None]:
            try:
                done.append((yield from task))
            except KernelError as failure:
                done.append(failure)

        self.tasks.spawn("test", guarded())
        while not done:
            call = only(self.outbox.take(), "epc", Call)
            self.calls.append(call)
            self.tasks.complete(Reply(call.tag, self.error, {}, EPOCH))
        if isinstance(done[0], KernelError):
            raise done[0]
        return done[0]  # type: ignore[no-any-return]

    def set_link(self, value: int) -> None:
        self.dram.store_u16("test", RFC1.offset("link_status"), value)


def failing(action: Callable[[], object]) -> int:
    with pytest.raises(KernelError) as failure:
        action()
    return failure.value.errno


@pytest.mark.parametrize(
    "changes",
    [
        {"ctrl_layout": "rfc9"},
        {"ctrl_layout": []},
        {"spad_count": -1},
        {"spad_count": 1 << 40},
        {"spad_offset": 332},
        {"ctrl_addr": EP_DRAM - 4},
        {"ctrl_addr": EP_DRAM + (8 << 20)},
        {"db_count": 2},
        {"db_count": 33},
        {"mw_sizes": []},
        {"mw_sizes": [0]},
        {"mw_sizes": [-4096]},
        {"mw_sizes": [4096] * 5, "outbound": [0] * 5},
        {"outbound": [OUTBOUND, 0]},
        {"outbound": [(1 << 64) - 1]},
        {"outbound": None},
        {"mw_align": 3},
        {"spad_count": float("inf")},
    ],
)
def test_impossible_description_of_the_device_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(PeerError):
        Device(**changes)


@pytest.mark.covers("NTB 53", "NTB 57", "NTB 54")
@pytest.mark.parametrize(("status", "up"), [(0, 0), (1, 1), (0xFFFF, 1), (2, 0)])
def test_link_is_up_gives_exactly_0_or_1_and_enabling_is_the_controllers_business(
    status: int, up: int
) -> None:
    device = Device()
    device.set_link(status)
    device.do(device.ntb.link_enable())
    assert device.do(device.ntb.link_is_up()) == up
    device.do(device.ntb.link_disable())

    assert device.dram.load_u16(RFC1.offset("link_status")) == status
    assert device.calls == []
    told = [message for message in sent(device.outbox.take(), "epc") if isinstance(message, Notice)]
    assert [(one.name, one.args) for one in told] == [
        ("link_wanted", {"up": True}),
        ("link_wanted", {"up": False}),
    ]


@pytest.mark.covers("NTB 59", "NTB 60", "NTB 65", "NTB 8", "EDMA 69", "EDMA 70")
def test_scratchpads_are_two_banks_the_hosts_first() -> None:
    device = Device()
    device.do(device.ntb.peer_spad_write(0, 3, 0x11111111))
    device.do(device.ntb.spad_write(3, 0x22222222))

    assert device.dram.load_u32(336 + 4 * 3) == 0x11111111
    assert device.dram.load_u32(336 + 4 * 128 + 4 * 3) == 0x22222222
    assert device.do(device.ntb.peer_spad_read(0, 3)) == 0x11111111
    assert device.do(device.ntb.spad_read(3)) == 0x22222222
    assert device.outbox.take() == []
    assert device.ntb.spad_count() == 128


@pytest.mark.covers("NTB 64", "HAZARD 10.23")
@pytest.mark.parametrize("sidx", [-1, 128, 1 << 31])
def test_scratchpad_out_of_range_behaves_as_on_the_rc(sidx: int) -> None:
    device = Device()
    before = bytes(device.dram.view(0, 4096))

    assert device.do(device.ntb.spad_read(sidx)) == 0
    assert device.do(device.ntb.peer_spad_read(0, sidx)) == 0xFFFFFFEA
    assert device.do(device.ntb.peer_spad_read(1, 0)) == 0xFFFFFFEA
    assert failing(lambda: device.do(device.ntb.spad_write(sidx, 1))) == errno.EINVAL
    assert failing(lambda: device.do(device.ntb.peer_spad_write(0, sidx, 1))) == errno.EINVAL
    assert failing(lambda: device.do(device.ntb.peer_spad_write(1, 0, 1))) == errno.EINVAL
    assert bytes(device.dram.view(0, 4096)) == before


@pytest.mark.covers("NTB 66", "NTB 67")
def test_window_counts() -> None:
    ntb = Device().ntb

    assert (ntb.mw_count(0), ntb.mw_count(1), ntb.peer_mw_count()) == (1, 1, 1)
    assert ntb.peer_mw_get_addr(0) == (OUTBOUND, 0xF0000)


@pytest.mark.covers("NTB 68", "NTB 69", "EDMA 84", "EDMA 85")
def test_mw_get_align_needs_the_link() -> None:
    device = Device()
    assert failing(lambda: device.do(device.ntb.mw_get_align(0, 0))) == errno.ENOTCONN
    device.set_link(1)

    assert device.do(device.ntb.mw_get_align(0, 0)) == MwAlign(4096, 1, 0xF0000)


@pytest.mark.covers("HAZARD 10.23", "HAZARD 10.8")
@pytest.mark.parametrize("widx", [-1, 1, 4])
def test_window_that_does_not_exist_is_einval(widx: int) -> None:
    device = Device()
    device.set_link(1)

    assert failing(lambda: device.do(device.ntb.mw_get_align(0, widx))) == errno.EINVAL
    assert failing(lambda: device.do(device.ntb.mw_set_trans(0, widx, EP_DRAM, 4096))) == errno.EINVAL
    assert failing(lambda: device.do(device.ntb.mw_clear_trans(0, widx))) == errno.EINVAL
    assert failing(lambda: device.ntb.peer_mw_get_addr(widx)) == errno.EINVAL


def test_window_is_set_and_cleared_by_the_controller() -> None:
    device = Device()
    device.do(device.ntb.mw_set_trans(0, 0, EP_DRAM + 0x500000, 0xF0000))
    device.do(device.ntb.mw_clear_trans(0, 0))

    assert [(call.op, call.args, call.epoch) for call in device.calls] == [
        ("mw_set_trans", {"widx": 0, "addr": EP_DRAM + 0x500000, "size": 0xF0000, "offset": 0}, EPOCH),
        ("mw_clear_trans", {"widx": 0}, EPOCH),
    ]


@pytest.mark.covers("HAZARD 10.11")
def test_error_of_the_controller_reaches_the_caller() -> None:
    device = Device()
    device.error = errno.EINVAL

    assert failing(lambda: device.do(device.ntb.mw_set_trans(0, 0, EP_DRAM, 4096))) == errno.EINVAL


def test_memory_for_a_window_is_aligned_to_its_bar() -> None:
    """A BAR-match window's target must be, even when the window is smaller than the BAR."""
    device = Device()
    window = device.ntb.alloc_coherent(0x10000, 0x10000, "mw0")

    assert window is not None
    assert window.span.base % 0x100000 == 0
    device.ntb.free_coherent(window)
    assert window.revoked


@pytest.mark.covers("NTB 74")
def test_window_stores_go_to_the_controller_in_order() -> None:
    device = Device()
    scratch = bytearray(b"aaaa")
    device.ntb.peer_mw_write(0, 0, scratch)
    scratch[:] = b"bbbb"
    device.ntb.peer_mw_write(0, 0xF0000 - 4, scratch)

    assert sent(device.outbox.take(), "epc") == [
        MemWrite(OUTBOUND, b"aaaa", EPOCH),
        MemWrite(OUTBOUND + 0xF0000 - 4, b"bbbb", EPOCH),
    ]


@pytest.mark.parametrize(("offset", "length"), [(-4, 4), (0xF0000 - 2, 4), (0xF0000, 1)])
def test_store_that_leaves_the_window_is_the_callers_bug(offset: int, length: int) -> None:
    device = Device()
    with pytest.raises(ValueError, match="leaves window 0"):
        device.ntb.peer_mw_write(0, offset, bytes(length))

    assert device.outbox.take() == []


@pytest.mark.covers("NTB 88", "NTB 97")
def test_doorbell_n_is_slot_n_plus_2_bit_n_and_vector_n() -> None:
    device = Device()
    device.ntb.on_doorbells(1 << 2 | 1 << 3)

    assert device.client.vectors == [0, 1]
    assert device.ntb.db_read() == 0b11
    assert (device.ntb.db_valid_mask(), device.ntb.db_vector_count()) == (3, 2)
    assert [device.ntb.db_vector_mask(v) for v in (-1, 0, 1, 2)] == [0, 1, 2, 0]


@pytest.mark.covers("NTB 86", "NTB 89")
def test_slots_without_a_doorbell_are_ignored() -> None:
    device = Device()
    device.ntb.on_doorbells(0b11 | 1 << 4 | 1 << 63)

    assert device.client.vectors == []
    assert device.ntb.db_read() == 0


@pytest.mark.covers("NTB 96")
def test_db_clear_clears_exactly_its_bits() -> None:
    device = Device()
    device.ntb.on_doorbells(0b1100)
    device.ntb.db_clear(1)

    assert device.ntb.db_read() == 0b10


@pytest.mark.covers("NTB 100")
def test_doorbell_masks_suppress_nothing() -> None:
    device = Device()
    device.ntb.db_set_mask(0b11)
    device.ntb.on_doorbells(0b100)
    device.ntb.db_clear_mask(0b11)

    assert device.client.vectors == [0]


@pytest.mark.covers("NTB 98")
def test_peer_db_set_hands_every_bit_to_the_controller() -> None:
    device = Device()
    device.ntb.peer_db_set(0b110)

    assert sent(device.outbox.take()) == [Irq(IrqSource.PEER_DOORBELL, 0b110, EPOCH)]


@pytest.mark.covers("NTB 99", "HAZARD 10.5")
@pytest.mark.parametrize("bits", [0, -1, 1 << 30])
def test_impossible_doorbell_is_einval(bits: int) -> None:
    device = Device()

    assert failing(lambda: device.ntb.peer_db_set(bits)) == errno.EINVAL
    assert device.outbox.take() == []


@pytest.mark.covers("NTB 56")
def test_events_without_client_are_dropped() -> None:
    device = Device()
    device.ntb.clear_ctx()
    device.ntb.on_doorbells(0b100)
    device.ntb.signal_link_event()

    assert device.client.vectors == []
    assert device.ntb.dropped_events == 2
    assert device.ntb.db_read() == 1
