from __future__ import annotations

import errno
from typing import Any

import pytest

from ntbnet.devices.effects import Restart
from ntbnet.devices.endpoint import FUNCTION_REGION_BYTES, EndpointController
from ntbnet.errors import KernelError
from ntbnet.regs.ntb_ctrl import RFC1, Command
from ntbnet.wire import (
    Call,
    CfgRead,
    CfgWrite,
    Completion,
    Irq,
    IrqSource,
    MemRead,
    MemWrite,
    Message,
    Notice,
    Reply,
    Status,
)
from tests.unit.devices.kit import EP_DRAM, config, dram, logged, only, sent, u32

CTRL, WINDOW, DOORBELLS = 0x3000_0000, 0x3010_0000, 0x3020_0000
"""Bus addresses the tests give to BAR 0, 2 and 4."""
OUTBOUND = 0xFE10_0000
BUFFER = EP_DRAM + 0x500000
EDMA_BASE = 0xE65D_5000
MSI_ADDRESS = 0xF105_0040
EPOCH = 5


class Controller:
    """An endpoint controller with all paths up and its BARs placed."""

    def __init__(self, *, msi: bool = True, text: str = "") -> None:
        self.dram = dram(EP_DRAM)
        self.model = EndpointController(config(text), self.dram)
        self.model.start(0)
        for peer, session in (("peer-ep", 2), ("edma", 3), ("rc-host", EPOCH)):
            self.model.on_path(peer, True, session, "session agreed", 0)
        self.configure(msi)

    def configure(self, msi: bool) -> None:
        for bar, base in ((0, CTRL), (2, WINDOW), (4, DOORBELLS)):
            self.cfg_write(0x10 + 4 * bar, base)
        if msi:
            self.cfg_write(0x54, MSI_ADDRESS)
            self.cfg_write(0x58, 0)
            self.cfg_write(0x5C, 0, 2)
            self.cfg_write(0x52, 1 | 4 << 4, 2)
        self.cfg_write(0x04, 6, 2)

    def host(self, message: Message) -> list[Any]:
        return list(self.model.handle("rc-host", message, 0))

    def client(self, message: Message) -> list[Any]:
        return list(self.model.handle("peer-ep", message, 0))

    def cfg_write(self, offset: int, value: int, size: int = 4) -> None:
        answer = only(
            self.host(CfgWrite(offset, value.to_bytes(size, "little"), 1, EPOCH)), "rc-host", Completion
        )
        assert answer.status is Status.OK

    def cfg_read(self, offset: int, size: int = 4) -> int:
        answer = only(self.host(CfgRead(offset, size, 1, EPOCH)), "rc-host", Completion)
        return int.from_bytes(answer.data, "little")

    def read(self, addr: int, size: int = 4) -> Completion:
        return only(self.host(MemRead(addr, size, 7, EPOCH)), "rc-host", Completion)

    def call(self, op: str, epoch: int = EPOCH, **args: Any) -> Reply:
        return only(self.client(Call(op, args, 9, epoch)), "peer-ep", Reply)

    def map_outbound(self, bus: int = 0x8000_0000, size: int = 0xF0000) -> None:
        self.model.epc.map_addr(OUTBOUND, bus, size)

    def restart_link(self, epoch: int) -> list[Any]:
        down = self.model.on_path("rc-host", False, 0, "test", 0)
        return [*down, *self.model.on_path("rc-host", True, epoch, "test", 0)]


@pytest.mark.covers("NTB 35")
def test_function_offers_16_msi_vectors_and_the_ids_of_the_driver() -> None:
    controller = Controller(msi=False)

    assert controller.cfg_read(0x00) == 0x0030_1912
    assert controller.cfg_read(0x08) >> 16 == 0x0500
    assert controller.cfg_read(0x52, 2) >> 1 & 7 == 4


def test_bar_registers_read_in_pieces() -> None:
    controller = Controller()

    assert controller.cfg_read(0x18) == WINDOW | 4
    assert controller.cfg_read(0x1A, 2) == WINDOW >> 16
    assert controller.cfg_read(0x18, 1) == 4


def test_writes_of_the_host_reach_control_block_and_doorbells() -> None:
    controller = Controller()
    controller.host(MemWrite(CTRL + RFC1.offset("argument"), u32(16)))
    controller.host(MemWrite(DOORBELLS + 8, u32(3)))

    assert controller.dram.load_u32(RFC1.offset("argument")) == 16
    assert controller.dram.load_u32(0x100000 + 8) == 3
    assert controller.read(CTRL + RFC1.offset("num_mws")).data == u32(2)


@pytest.mark.covers("NTB 73")
def test_after_mw_set_trans_stores_through_the_bar_land_at_the_same_offset() -> None:
    controller = Controller()
    reply = controller.call("mw_set_trans", widx=0, addr=BUFFER, size=0xF0000)
    controller.host(MemWrite(WINDOW + 0x1234, b"payload"))

    assert (reply.tag, reply.error) == (9, 0)
    assert controller.dram.load(0x500000 + 0x1234, 7) == b"payload"


@pytest.mark.parametrize(
    ("addr", "length"),
    [
        (WINDOW, 4),
        (0x3100_0000, 4),
        (CTRL - 4, 4),
        (EP_DRAM, 4),
    ],
    ids=["unmapped", "no-bar", "below", "local-address"],
)
def test_access_that_hits_nothing_is_dropped_counted_and_logged_once(addr: int, length: int) -> None:
    controller = Controller()
    if addr != WINDOW:
        controller.call("mw_set_trans", widx=0, addr=BUFFER, size=0xF0000)
    before = bytes(controller.dram.view(0, controller.dram.size))
    effects = controller.host(MemWrite(addr, b"\xff" * length))
    again = controller.host(MemWrite(addr, b"\xff" * length))

    assert bytes(controller.dram.view(0, controller.dram.size)) == before
    assert controller.model.counters["writes_dropped_no_window"] == 2
    assert (len(logged(effects, "write.dropped")), len(logged(again, "write.dropped"))) == (1, 0)
    assert controller.read(addr, length).status is Status.UR


@pytest.mark.covers("NTB 74")
def test_stores_of_the_client_cross_the_outbound_window() -> None:
    controller = Controller()
    controller.map_outbound(0x8060_0000)
    effects = controller.client(MemWrite(OUTBOUND + 0x10, b"frame", EPOCH))

    assert sent(effects) == [MemWrite(0x8060_0010, b"frame", EPOCH)]


@pytest.mark.parametrize(
    ("addr", "counter"),
    [
        (OUTBOUND, "writes_dropped_no_outbound_window"),
        (EP_DRAM, "writes_dropped_not_in_aperture"),
        (0xFE3F_FFFE, "writes_dropped_not_in_aperture"),
    ],
)
def test_store_of_the_client_outside_every_window_is_dropped(addr: int, counter: str) -> None:
    controller = Controller()

    assert sent(controller.client(MemWrite(addr, b"\xff" * 4, EPOCH))) == []
    assert controller.model.counters[counter] == 1


@pytest.mark.covers("EDMA 165")
@pytest.mark.parametrize(
    "message",
    [MemWrite(OUTBOUND, b"old", EPOCH - 1), Irq(IrqSource.PEER_DOORBELL, 1, EPOCH - 1)],
    ids=["write", "doorbell"],
)
def test_what_the_client_sent_in_an_older_epoch_is_counted_and_lost(message: Message) -> None:
    controller = Controller()
    controller.map_outbound()

    assert sent(controller.client(message)) == []
    assert controller.model.counters["stale_epoch"] == 1


@pytest.mark.covers("EDMA 53", "NTB 93")
def test_doorbell_of_the_client_is_one_32_bit_write_to_the_msi_address() -> None:
    controller = Controller()
    effects = controller.client(Irq(IrqSource.PEER_DOORBELL, 0b101, EPOCH))

    assert sent(effects) == [MemWrite(MSI_ADDRESS, u32(2), EPOCH), MemWrite(MSI_ADDRESS, u32(4), EPOCH)]


@pytest.mark.covers("EDMA 59")
def test_two_msis_share_one_outbound_window() -> None:
    controller = Controller()
    for _ in range(40):
        controller.client(Irq(IrqSource.PEER_DOORBELL, 1, EPOCH))

    assert controller.model.vntb.counters["msis_raised"] == 40


@pytest.mark.covers("EDMA 62")
def test_msi_stays_behind_earlier_writes() -> None:
    controller = Controller()
    controller.map_outbound()
    effects = controller.client(MemWrite(OUTBOUND, b"data", EPOCH))
    effects += controller.client(Irq(IrqSource.PEER_DOORBELL, 1, EPOCH))

    assert [m.addr for m in sent(effects) if isinstance(m, MemWrite)] == [0x8000_0000, MSI_ADDRESS]


@pytest.mark.covers("EDMA 63")
def test_msi_is_not_sent_while_bus_mastering_is_off() -> None:
    controller = Controller()
    controller.cfg_write(0x04, 2, 2)
    effects = controller.client(Irq(IrqSource.PEER_DOORBELL, 1, EPOCH))

    assert sent(effects) == []
    assert len(logged(effects, "msi.refused")) == 1


@pytest.mark.covers("HAZARD 10.31")
def test_msi_above_the_grant_hits_nobody() -> None:
    controller = Controller()
    controller.cfg_write(0x52, 1 | 2 << 4, 2)
    effects = controller.client(Irq(IrqSource.PEER_DOORBELL, 0b111, EPOCH))

    assert sent(effects) == [MemWrite(MSI_ADDRESS, u32(2), EPOCH), MemWrite(MSI_ADDRESS, u32(3), EPOCH)]
    assert controller.model.vntb.counters["doorbells_refused"] == 1


@pytest.mark.covers("EDMA 164")
def test_hot_reset_forgets_what_the_host_wrote_and_keeps_memory() -> None:
    controller = Controller()
    controller.dram.store("test", 0x600000, b"kept")
    controller.restart_link(EPOCH + 1)

    assert [controller.cfg_read(0x10 + 4 * bar) & ~0xF for bar in range(6)] == [0] * 6
    assert controller.cfg_read(0x04, 2) == 0
    assert controller.cfg_read(0x52, 2) & 1 == 0
    assert controller.read(CTRL).status is Status.UR
    assert controller.dram.load(0x600000, 4) == b"kept"
    controller.cfg_write(0x10, 0xFFFFFFFF)
    assert controller.cfg_read(0x10) == 0xFFF00004


def test_bridge_works_again_after_a_hot_reset() -> None:
    controller = Controller()
    controller.restart_link(EPOCH + 1)
    controller.configure(msi=True)
    controller.call("mw_set_trans", epoch=EPOCH + 1, widx=0, addr=BUFFER, size=0xF0000)
    controller.host(MemWrite(WINDOW, b"again"))

    assert controller.dram.load(0x500000, 5) == b"again"


@pytest.mark.covers("HAZARD 10.15")
def test_client_is_told_of_link_loss_and_of_the_new_epoch() -> None:
    controller = Controller()
    controller.call("ntb_attach")
    controller.host(MemWrite(CTRL, u32(Command.LINK_UP)))
    controller.model.on_deadline(12_000_000)
    effects = controller.restart_link(EPOCH + 1)

    assert sent(effects, "peer-ep") == [
        Notice("link_event", {"up": False}, EPOCH),
        Notice("epoch", {"epoch": 0}, 0),
        Notice("epoch", {"epoch": EPOCH + 1}, EPOCH + 1),
    ]


@pytest.mark.covers("HAZARD 10.15")
def test_loss_of_the_client_is_a_new_link_epoch_and_its_window_is_closed() -> None:
    controller = Controller()
    controller.call("mw_set_trans", widx=0, addr=BUFFER, size=0xF0000)
    effects = controller.model.on_path("peer-ep", False, 0, "closed by peer", 0)
    controller.host(MemWrite(WINDOW, b"late"))

    assert [e for e in effects if isinstance(e, Restart)] == [Restart("rc-host", "peer-ep: closed by peer")]
    assert controller.dram.load(0x500000, 4) == bytes(4)


def test_client_that_asks_for_it_gets_a_new_link_epoch() -> None:
    controller = Controller()
    effects = controller.client(Call("restart_link", {"reason": "stuck"}, 3, EPOCH))

    assert [e for e in effects if isinstance(e, Restart)] == [Restart("rc-host", "peer-ep: stuck")]
    assert only(effects, "peer-ep", Reply).error == 0


def test_window_request_of_an_older_epoch_is_refused() -> None:
    controller = Controller()
    reply = controller.call("mw_set_trans", epoch=EPOCH - 1, widx=0, addr=BUFFER, size=0x1000)

    assert reply.error == errno.ENODEV
    assert controller.read(WINDOW).status is Status.UR


def test_window_may_be_closed_after_its_epoch() -> None:
    """A client cleans up when the link bit falls, before it hears of the new epoch."""
    assert Controller().call("mw_clear_trans", epoch=EPOCH - 1, widx=0).error == 0


@pytest.mark.parametrize(
    "args",
    [
        {},
        {"widx": 0, "addr": "x", "size": 4096},
        {"widx": 0, "addr": BUFFER, "size": -1},
        {"widx": True, "addr": BUFFER, "size": 4096},
        {"widx": 0, "addr": BUFFER + 256, "size": 4096},
        {"widx": 0, "addr": EDMA_BASE, "size": 4096},
        {"widx": 0, "addr": EP_DRAM + (8 << 20) - 4096, "size": 8192},
        {"widx": 4, "addr": BUFFER, "size": 4096},
    ],
    ids=["missing", "text", "negative", "bool", "unaligned", "not-memory", "beyond-memory", "index"],
)
def test_impossible_window_request_is_refused_and_opens_nothing(args: dict[str, Any]) -> None:
    controller = Controller()

    assert controller.call("mw_set_trans", **args).error == errno.EINVAL
    assert controller.read(WINDOW).status is Status.UR


def test_unknown_call_is_refused() -> None:
    controller = Controller()

    assert controller.call("rm -rf").error == errno.EOPNOTSUPP
    assert controller.call("restart_link", reason=["odd"]).error == 0


def test_mw_clear_trans_closes_the_window() -> None:
    controller = Controller()
    controller.call("mw_set_trans", widx=0, addr=BUFFER, size=0xF0000)
    controller.call("mw_clear_trans", widx=0)

    assert controller.read(WINDOW).status is Status.UR


@pytest.mark.covers("EDMA 160", "EDMA 161")
def test_reads_both_ways_do_not_wait_for_each_other() -> None:
    controller = Controller()
    controller.map_outbound()
    forwarded = only(controller.client(MemRead(OUTBOUND, 4, 11, EPOCH)), "rc-host", MemRead)

    assert controller.read(CTRL + RFC1.offset("num_mws")).data == u32(2)
    assert controller.host(MemWrite(DOORBELLS + 8, u32(1))) == []
    answer = controller.host(Completion(forwarded.tag, Status.OK, b"abcd", EPOCH))
    assert sent(answer) == [Completion(11, Status.OK, b"abcd", EPOCH)]


@pytest.mark.covers("EDMA 170")
def test_late_or_forged_completion_is_dropped_and_counted() -> None:
    controller = Controller()
    controller.map_outbound()
    forwarded = only(controller.client(MemRead(OUTBOUND, 4, 11, EPOCH)), "rc-host", MemRead)
    forged = Completion(forwarded.tag, Status.OK, b"evil", EPOCH)

    assert controller.model.handle("edma", forged, 0) == []
    assert sent(controller.host(forged)) == [Completion(11, Status.OK, b"evil", EPOCH)]
    assert controller.host(forged) == []
    assert controller.model.counters["late_completions"] == 2


def test_read_of_the_client_while_the_link_is_down_is_answered_at_once() -> None:
    controller = Controller()
    controller.map_outbound()
    controller.model.on_path("rc-host", False, 0, "test", 0)
    answer = only(controller.client(MemRead(OUTBOUND, 4, 11, EPOCH)), "peer-ep", Completion)

    assert answer.status is Status.UR


@pytest.mark.covers("EDMA 159")
def test_read_sees_the_writes_before_it() -> None:
    controller = Controller()
    controller.host(MemWrite(CTRL + 0x10, u32(0xABCD)))

    assert controller.read(CTRL + 0x10).data == u32(0xABCD)


def test_outbound_aperture_runs_out_with_enomem() -> None:
    epc = Controller().model.epc
    pieces = [epc.allocate_outbound(0x100000)]
    with pytest.raises(KernelError) as refused:
        epc.allocate_outbound(0x100000)

    assert pieces == [0xFE30_0000]

    assert refused.value.errno == errno.ENOMEM


@pytest.mark.parametrize("src", ["rc-host", "peer-ep", "edma"])
def test_message_nobody_expects_is_counted(src: str) -> None:
    controller = Controller()

    assert controller.model.handle(src, Notice("device_added"), 0) == []
    assert controller.model.counters["unexpected"] == 1


def test_host_cannot_reach_what_the_function_did_not_map() -> None:
    """The function's own region is 4 MiB of DRAM; a host sees control block and doorbells of it."""
    controller = Controller()
    for addr in range(CTRL + (1 << 20), CTRL + FUNCTION_REGION_BYTES, 1 << 18):
        controller.host(MemWrite(addr, b"\xff" * 64))

    assert controller.dram.load(0x100100, FUNCTION_REGION_BYTES - 0x100100) == bytes(
        FUNCTION_REGION_BYTES - 0x100100
    )


class TestBursts:
    """Requests are refused one by one: the part of a burst inside a window lands."""

    @pytest.mark.covers("EDMA 166", "EDMA 26", "EDMA 28")
    def test_burst_across_the_end_of_a_window_lands_up_to_it(self) -> None:
        controller = Controller()
        controller.call("mw_set_trans", widx=0, addr=BUFFER, size=0x10000)
        controller.host(MemWrite(WINDOW + 0xF800, b"\x5a" * 0x1000))

        assert controller.dram.load(0x500000 + 0xF800, 0x800) == b"\x5a" * 0x800
        assert controller.dram.load(0x500000 + 0x10000, 0x800) == bytes(0x800)
        assert controller.model.counters["writes_dropped_no_window"] == 0x800 // 256
        assert controller.model.epc.iatu.inbound_misses == 0x800 // 256

    @pytest.mark.covers("EDMA 26")
    def test_burst_across_two_windows_of_a_bar_lands_in_both(self) -> None:
        controller = Controller()
        controller.call("mw_set_trans", widx=0, addr=BUFFER, size=0xF0000)
        controller.call("mw_set_trans", widx=1, addr=BUFFER + 0x100000, size=0x8000, offset=0xF0000)
        controller.host(MemWrite(WINDOW + 0xEFF00, bytes(range(256)) * 2))

        assert controller.dram.load(0x500000 + 0xEFF00, 256) == bytes(range(256))
        assert controller.dram.load(0x600000, 256) == bytes(range(256))

    @pytest.mark.parametrize("addr", [WINDOW + 0xF0000 - 2, DOORBELLS + 254], ids=["window-end", "bar-end"])
    def test_word_across_an_end_is_cut_there(self, addr: int) -> None:
        controller = Controller()
        controller.call("mw_set_trans", widx=0, addr=BUFFER, size=0xF0000)
        controller.host(MemWrite(addr, b"\xff" * 4))

        assert controller.model.counters["writes_dropped_no_window"] == 1
        assert controller.read(addr, 2).data == b"\xff" * 2
        assert controller.read(addr, 4).status is Status.UR

    def test_request_across_an_unaligned_limit_is_refused_as_a_whole(self) -> None:
        controller = Controller()
        controller.call("mw_set_trans", widx=0, addr=BUFFER, size=0x1002)
        controller.host(MemWrite(WINDOW + 0x1000, b"\xff" * 4))

        assert controller.dram.load(0x501000, 4) == bytes(4)
        assert controller.model.counters["writes_dropped_no_window"] == 1

    @pytest.mark.covers("EDMA 166")
    def test_burst_of_the_client_across_the_end_of_its_region_goes_out_up_to_it(self) -> None:
        controller = Controller()
        controller.map_outbound(size=0x1000)
        effects = controller.client(MemWrite(OUTBOUND + 0xF00, bytes(range(256)) * 2, EPOCH))

        assert sent(effects) == [MemWrite(0x8000_0F00, bytes(range(256)), EPOCH)]
        assert controller.model.counters["writes_dropped_no_outbound_window"] == 1

    @pytest.mark.covers("EDMA 167")
    def test_two_bytes_change_exactly_two_bytes(self) -> None:
        controller = Controller()
        controller.host(MemWrite(CTRL + 0x10, u32(0x11223344)))
        controller.host(MemWrite(CTRL + 0x12, b"\xaa\xbb"))

        assert controller.read(CTRL + 0x10).data == b"\x44\x33\xaa\xbb"

    @pytest.mark.covers("EDMA 168")
    def test_index_written_after_a_64_bit_store_is_never_seen_before_it(self) -> None:
        controller = Controller()
        controller.host(MemWrite(CTRL + 0x10, b"\x01" * 8))
        controller.host(MemWrite(CTRL + 0x04, u32(1)))

        assert controller.read(CTRL + 0x04).data == u32(1)
        assert controller.read(CTRL + 0x10, 8).data == b"\x01" * 8


class TestWindowsAtOffsets:
    @pytest.mark.covers("EDMA 79", "NTB 80")
    def test_hole_behind_the_windows_hits_nothing(self) -> None:
        controller = Controller()
        controller.call("mw_set_trans", widx=0, addr=BUFFER, size=0xF0000)

        assert controller.read(WINDOW + 0xF8000).status is Status.UR
        assert controller.model.epc.iatu.inbound_misses == 1

    @pytest.mark.covers("EDMA 32", "EDMA 33")
    def test_stale_window_is_counted_shown_and_cured_by_the_client(self) -> None:
        controller = Controller()
        controller.call("mw_set_trans", widx=0, addr=BUFFER, size=0xF0000)
        controller.cfg_write(0x04, 0, 2)
        controller.cfg_write(0x18, 0x3400_0000)
        effects = controller.host(CfgWrite(0x04, (6).to_bytes(2, "little"), 1, EPOCH))

        assert len(logged(effects, "iatu.region_stale")) == 1
        snapshot = controller.model.snapshot()
        assert snapshot["counters"]["windows_went_stale"] == 1
        assert [row["stale"] for row in snapshot["windows"] if row["bar"] == 2] == [True]
        assert controller.read(0x3400_0000).status is Status.UR
        controller.call("mw_set_trans", widx=0, addr=BUFFER, size=0xF0000)
        assert controller.read(0x3400_0000).status is Status.OK

    @pytest.mark.covers("EDMA 103")
    def test_store_to_the_interrupt_window_reaches_the_edma(self) -> None:
        controller = Controller()
        controller.call("mw_set_trans", widx=1, addr=0xE65D_5000, size=0x8000, offset=0xF0000)

        assert sent(controller.host(MemWrite(WINDOW + 0xF00A0, u32(0)))) == [MemWrite(0xE65D_50A0, u32(0))]
        assert sent(controller.host(MemWrite(WINDOW + 0xF1200, u32(0)))) == []
        assert controller.model.counters["writes_dropped_nothing_local"] == 1

    def test_data_window_cannot_be_pointed_at_registers_and_the_interrupt_window_can(self) -> None:
        controller = Controller()

        assert controller.call("mw_set_trans", widx=0, addr=EDMA_BASE, size=4096).error == errno.EINVAL
        reply = controller.call("mw_set_trans", widx=1, addr=EDMA_BASE, size=0x8000, offset=0xF0000)
        assert reply.error == 0
        reply = controller.call("mw_set_trans", widx=1, addr=EDMA_BASE + 0x1000, size=0x1000, offset=0xF0000)
        assert reply.error == errno.EINVAL

    def test_offset_that_is_no_number_is_refused(self) -> None:
        reply = Controller().call("mw_set_trans", widx=0, addr=BUFFER, size=0x1000, offset="0")

        assert reply.error == errno.EINVAL


MSI_PAGE = 0x0802_0000
"""Of profile generic."""


class TestMsiPage:
    """Profile generic: the host may reach the page of the endpoint's own MSI controller."""

    @staticmethod
    def make() -> tuple[EndpointController, int]:
        model = EndpointController(config(profile="generic"), dram(0x4000_0000))
        for peer, session in (("peer-ep", 2), ("edma", 3), ("rc-host", EPOCH)):
            model.on_path(peer, True, session, "session agreed", 0)
        for bar, base in ((0, 0x1000_0000), (2, 0x1010_0000)):
            message = CfgWrite(0x10 + 4 * bar, base.to_bytes(4, "little"), 1, EPOCH)
            model.handle("rc-host", message, 0)
        model.handle("rc-host", CfgWrite(0x04, b"\6\0", 1, EPOCH), 0)
        call = Call(
            "mw_set_trans", {"widx": 1, "addr": MSI_PAGE, "size": 0x20000, "offset": 0xE0000}, 9, EPOCH
        )
        assert only(model.handle("peer-ep", call, 0), "peer-ep", Reply).error == 0
        model.on_deadline(0)
        return model, 0x1010_0000 + 0xE0000

    def test_number_stored_to_the_page_is_an_interrupt_of_the_endpoints_cpu(self) -> None:
        model, page = self.make()
        effects = model.handle("rc-host", MemWrite(page + 0x40, u32(33), EPOCH), 0)

        assert sent(effects) == [Irq(IrqSource.MSI_VECTOR, 33, EPOCH)]

    @pytest.mark.parametrize(
        ("offset", "data"), [(0x44, u32(33)), (0x40, b"\x21\0"), (0x40, u32(1020)), (0x40, u32(33) * 2)]
    )
    def test_any_other_store_to_the_page_is_dropped(self, offset: int, data: bytes) -> None:
        model, page = self.make()

        assert sent(model.handle("rc-host", MemWrite(page + offset, data, EPOCH), 0)) == []
        assert model.counters["writes_dropped_no_msi"] == 1

    def test_page_cannot_be_read(self) -> None:
        model, page = self.make()
        answer = only(model.handle("rc-host", MemRead(page + 0x40, 4, 5, EPOCH), 0), "rc-host", Completion)

        assert answer.status is Status.UR


@pytest.mark.covers("EDMA 31")
def test_window_that_changes_while_a_read_is_on_its_way_is_reported() -> None:
    controller = Controller()
    interrupts = {"widx": 1, "addr": EDMA_BASE & ~0xFFF, "size": 0x8000, "offset": 0xF0000}
    controller.call("mw_set_trans", **interrupts)
    controller.call("mw_clear_trans", widx=1)
    controller.call("mw_set_trans", **interrupts)
    assert "windows_changed_in_flight" not in controller.model.counters

    read = only(controller.host(MemRead(WINDOW + 0xF00A0, 4, 9, EPOCH)), "edma", MemRead)
    effects = controller.client(Call("mw_clear_trans", {"widx": 1}, 9, EPOCH))
    (changed,) = logged(effects, "iatu.changed_in_flight")
    controller.model.handle("edma", Completion(read.tag, Status.OK, u32(0), EPOCH), 0)
    controller.call("mw_set_trans", **interrupts)

    assert changed == {"reads": 1}
    assert controller.model.counters["windows_changed_in_flight"] == 1


@pytest.mark.parametrize("is_forwarded", [False, True])
def test_what_no_window_holds_is_refused_unless_the_configuration_forwards_it(is_forwarded: bool) -> None:
    text = f"[ntb]\npassthrough = {str(is_forwarded).lower()}\n"
    controller = Controller(text=text)
    unmapped = WINDOW + 0xF8000

    controller.host(MemWrite(unmapped, b"stray"))

    counters = controller.model.snapshot()["counters"]
    assert counters["inbound_misses"] == 1
    assert counters.get("writes_dropped_nothing_local", 0) == is_forwarded
    assert counters.get("writes_dropped_no_window", 0) == (not is_forwarded)
