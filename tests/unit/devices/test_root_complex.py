from __future__ import annotations

import errno
from typing import Any

import pytest

from ntbnet.devices.dma import MAX_DMA_MAPPINGS
from ntbnet.devices.effects import Restart
from ntbnet.devices.endpoint import EndpointController
from ntbnet.devices.root_complex import (
    ENUMERATION_RETRY_NS,
    MAX_FORWARDED_READS,
    RootComplex,
)
from ntbnet.errors import KernelError
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
from tests.unit.devices.kit import EP_DRAM, RC_DRAM, config, dram, logged, only, sent, u32

EPOCH = 4
MS = 1_000_000
BAR0 = 0x3000_0000
BUFFER = RC_DRAM + 0x10000
MSI_ADDRESS = 0xF105_0040


class Host:
    """A root complex; configuration requests are answered by a real function, or by ``config_answer``."""

    def __init__(self, config_answer: Completion | None = None) -> None:
        self.dram = dram(RC_DRAM)
        self.model = RootComplex(config(), self.dram)
        self.function = EndpointController(config(), dram(EP_DRAM))
        self.config_answer = config_answer
        self.now_ns = 0

    def up(self, driver: bool = True) -> list[Any]:
        """Link up in EPOCH; everything the host says while it enumerates."""
        self.function.on_path("rc-host", True, EPOCH, "", self.now_ns)
        effects: list[Any] = []
        if driver:
            effects += self.model.on_path("peer-rc", True, 1, "", self.now_ns)
        return effects + self.settle(self.model.on_path("epc", True, EPOCH, "", self.now_ns))

    def settle(self, effects: Any) -> list[Any]:
        """Answer configuration requests until there are none; what was left over."""
        rest, todo = [], list(effects)
        while todo:
            effect = todo.pop(0)
            message = getattr(effect, "message", None)
            if not isinstance(message, (CfgRead, CfgWrite)):
                rest.append(effect)
                continue
            if self.config_answer is None:
                answer = only(self.function.handle("rc-host", message, self.now_ns), "rc-host", Completion)
            else:
                answer = Completion(message.tag, self.config_answer.status, self.config_answer.data, EPOCH)
            todo = [*self.model.handle("epc", answer, self.now_ns), *todo]
        return rest

    def driver(self, message: Message) -> list[Any]:
        return self.settle(self.model.handle("peer-rc", message, self.now_ns))

    def endpoint(self, message: Message) -> list[Any]:
        return list(self.model.handle("epc", message, self.now_ns))

    def call(self, op: str, epoch: int = EPOCH, **args: Any) -> Reply:
        return only(self.driver(Call(op, args, 9, epoch)), "peer-rc", Reply)


def ready() -> Host:
    host = Host()
    host.up()
    assert host.call("dma_map", addr=BUFFER, size=0x1000).error == 0
    granted = host.call("alloc_vectors", least=4, most=32).body
    assert granted == {"vectors": 16, "kind": "msi", "address": 0xF105_0040, "first_data": 0}
    return host


def test_driver_is_told_of_the_function_after_enumeration() -> None:
    host = Host()
    notice = only(host.up(), "peer-rc", Notice)

    assert (notice.name, notice.epoch) == ("device_added", EPOCH)
    assert notice.args == {
        "vendor_id": 0x1912,
        "device_id": 0x30,
        "class_code": 0x0500,
        "bars": [[0, BAR0, 0x100000], [2, 0x3010_0000, 0x100000], [4, 0x3020_0000, 0x100]],
        "epoch": EPOCH,
    }


def test_driver_that_comes_later_is_told_then() -> None:
    host = Host()
    assert sent(host.up(driver=False)) == []
    notice = only(host.model.on_path("peer-rc", True, 1, "", 0), "peer-rc", Notice)

    assert notice.name == "device_added"


@pytest.mark.covers("EDMA 162")
def test_absent_function_is_looked_for_again() -> None:
    host = Host(Completion(0, Status.UR))
    effects = host.up()

    assert len(logged(effects, "pci.failed")) == 1
    assert host.model.next_deadline() == ENUMERATION_RETRY_NS
    host.config_answer, host.now_ns = None, ENUMERATION_RETRY_NS
    notice = only(host.settle(host.model.on_deadline(host.now_ns)), "peer-rc", Notice)
    assert notice.name == "device_added"


def test_function_that_stays_absent_is_logged_once_and_looked_for_ever_less_often() -> None:
    host = Host(Completion(0, Status.UR))
    failures, times = len(logged(host.up(), "pci.failed")), []
    for _ in range(9):
        due = host.model.next_deadline()
        assert due is not None
        times.append(due - host.now_ns)
        host.now_ns = due
        failures += len(logged(host.settle(host.model.on_deadline(due)), "pci.failed"))

    assert [time // MS for time in times] == [100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000]
    assert failures == 1
    assert host.model.snapshot()["counters"]["enumeration_failures"] == 10

    host.model.on_path("epc", False, 0, "closed", host.now_ns)
    again = host.settle(host.model.on_path("epc", True, EPOCH + 1, "", host.now_ns))
    assert len(logged(again, "pci.failed")) == 1
    assert host.model.next_deadline() == host.now_ns + ENUMERATION_RETRY_NS


def test_link_loss_removes_the_device_and_everything_mapped_for_it() -> None:
    host = ready()
    notice = only(host.model.on_path("epc", False, 0, "peer restarted", 0), "peer-rc", Notice)
    host.endpoint(MemWrite(BUFFER, b"late"))
    host.endpoint(MemWrite(MSI_ADDRESS, u32(2)))

    assert (notice.name, notice.args) == ("device_removed", {"reason": "peer restarted"})
    assert host.dram.load(0x10000, 4) == bytes(4)
    assert host.model.counters["dma_write_faults"] == 1
    assert host.model.counters["msis_refused"] == 1


def test_loss_of_the_driver_is_a_new_link_epoch() -> None:
    host = ready()
    effects = host.model.on_path("peer-rc", False, 0, "closed by peer", 0)

    assert [e for e in effects if isinstance(e, Restart)] == [Restart("epc", "peer-rc: closed by peer")]


@pytest.mark.covers("NTB 74")
def test_endpoint_writes_land_in_memory_mapped_for_dma() -> None:
    host = ready()
    host.endpoint(MemWrite(BUFFER + 0xFFC, b"tail"))

    assert host.dram.load(0x10FFC, 4) == b"tail"


@pytest.mark.parametrize(
    "addr", [BUFFER - 4, BUFFER + 0x1000, RC_DRAM, RC_DRAM + (8 << 20) - 4, 0, (1 << 64) - 4], ids=hex
)
def test_endpoint_access_outside_mapped_memory_is_a_counted_fault(addr: int) -> None:
    host = ready()
    before = bytes(host.dram.view(0, host.dram.size))
    effects = host.endpoint(MemWrite(addr, b"\xff" * 4))
    again = host.endpoint(MemWrite(addr, b"\xff" * 4))

    assert bytes(host.dram.view(0, host.dram.size)) == before
    assert host.model.counters["dma_write_faults"] == 2
    assert (len(logged(effects, "write.dropped")), logged(again, "write.dropped")) == (1, [])
    assert only(host.endpoint(MemRead(addr, 4, 3)), "epc", Completion).status is Status.UR


def test_endpoint_reads_mapped_memory() -> None:
    host = ready()
    host.dram.store("test", 0x10010, b"data")

    assert only(host.endpoint(MemRead(BUFFER + 0x10, 4, 3)), "epc", Completion).data == b"data"


def test_dma_mapping_ends_with_unmap() -> None:
    host = ready()
    host.call("dma_unmap", addr=BUFFER)
    host.endpoint(MemWrite(BUFFER, b"late"))

    assert host.dram.load(0x10000, 4) == bytes(4)


@pytest.mark.parametrize(
    "args",
    [
        {},
        {"addr": "x", "size": 1},
        {"addr": RC_DRAM, "size": 0},
        {"addr": 0, "size": 4096},
        {"addr": RC_DRAM + (8 << 20) - 1, "size": 2},
        {"addr": True, "size": 1},
        {"addr": -1, "size": 1 << 70},
    ],
)
def test_impossible_dma_mapping_is_refused(args: dict[str, Any]) -> None:
    assert ready().call("dma_map", **args).error == errno.EINVAL


def test_dma_mappings_are_bounded() -> None:
    host = Host()
    host.up()
    errors = [host.call("dma_map", addr=RC_DRAM, size=1).error for _ in range(MAX_DMA_MAPPINGS + 1)]

    assert errors == [0] * MAX_DMA_MAPPINGS + [errno.ENOSPC]


@pytest.mark.covers("NTB 93")
def test_msi_of_the_function_reaches_the_driver_as_its_vector() -> None:
    host = ready()

    assert sent(host.endpoint(MemWrite(MSI_ADDRESS, u32(2)))) == [Irq(IrqSource.MSI_VECTOR, 2, EPOCH)]


@pytest.mark.covers("HAZARD 10.31")
@pytest.mark.parametrize("data", [16, 0xFFFFFFFF])
def test_msi_above_the_grant_reaches_nobody(data: int) -> None:
    host = ready()
    effects = host.endpoint(MemWrite(MSI_ADDRESS, u32(data)))

    assert sent(effects) == []
    assert host.model.counters["msis_refused"] == 1


@pytest.mark.covers("EDMA 62")
def test_msi_stays_behind_the_data_it_announces() -> None:
    host = ready()
    host.endpoint(MemWrite(BUFFER, b"data"))
    only(host.endpoint(MemWrite(MSI_ADDRESS, u32(2))), "peer-rc", Irq)

    assert host.dram.load(0x10000, 4) == b"data"


@pytest.mark.parametrize(("least", "most"), [(0, 4), (5, 4), (1, 33), ("x", 4), (None, None)])
def test_impossible_number_of_vectors_is_refused(least: Any, most: Any) -> None:
    host = Host()
    host.up()

    assert host.call("alloc_vectors", least=least, most=most).error == errno.EINVAL


def test_function_with_too_few_vectors_answers_enospc() -> None:
    host = Host()
    host.up()

    assert host.call("alloc_vectors", least=17, most=32).error == errno.ENOSPC


def test_function_that_is_gone_while_msi_is_enabled_answers_eio() -> None:
    host = Host()
    host.up()
    host.config_answer = Completion(0, Status.UR)

    assert host.call("alloc_vectors", least=4, most=32).error == errno.EIO


def test_free_vectors_turns_msi_off() -> None:
    host = ready()
    host.call("free_vectors")

    assert sent(host.endpoint(MemWrite(MSI_ADDRESS, u32(2)))) == []


def test_stores_of_the_driver_reach_the_link_unchanged() -> None:
    host = ready()
    write = MemWrite(BAR0 + 0x10, b"data", EPOCH)

    assert sent(host.driver(write), "epc") == [write]


@pytest.mark.parametrize("addr", [0x2FFF_FFFC, 0x3020_0100, 0x3300_0000, RC_DRAM])
def test_store_of_the_driver_outside_every_bar_is_dropped(addr: int) -> None:
    host = ready()

    assert sent(host.driver(MemWrite(addr, b"\xff" * 4, EPOCH)), "epc") == []
    assert host.model.counters["writes_unclaimed"] == 1
    assert only(host.driver(MemRead(addr, 4, 3, EPOCH)), "peer-rc", Completion).status is Status.UR


@pytest.mark.covers("EDMA 165")
def test_what_the_driver_sent_in_an_older_epoch_is_counted_and_lost() -> None:
    host = ready()

    assert sent(host.driver(MemWrite(BAR0, b"late", EPOCH - 1))) == []
    assert only(host.driver(MemRead(BAR0, 4, 3, EPOCH - 1)), "peer-rc", Completion).status is Status.UR
    assert host.model.counters["stale_epoch"] == 2
    assert host.call("dma_map", epoch=EPOCH - 1, addr=BUFFER, size=1).error == errno.ENODEV


@pytest.mark.covers("EDMA 159", "EDMA 160")
def test_reads_of_the_driver_are_answered_under_its_own_tag() -> None:
    host = ready()
    first = only(host.driver(MemRead(BAR0, 4, 70, EPOCH)), "epc", MemRead)
    second = only(host.driver(MemRead(BAR0 + 4, 4, 71, EPOCH)), "epc", MemRead)
    assert sent(host.driver(MemWrite(BAR0, b"not waiting", EPOCH)), "epc") != []

    answer = host.endpoint(Completion(second.tag, Status.OK, b"2222", EPOCH))
    assert sent(answer) == [Completion(71, Status.OK, b"2222", EPOCH)]
    answer = host.endpoint(Completion(first.tag, Status.OK, b"1111", EPOCH))
    assert sent(answer) == [Completion(70, Status.OK, b"1111", EPOCH)]


@pytest.mark.covers("EDMA 170")
def test_forged_completion_reaches_nobody() -> None:
    host = ready()

    assert sent(host.endpoint(Completion(12345, Status.OK, b"evil", EPOCH))) == []
    assert sent(host.endpoint(Completion(0xFFFFFFFF, Status.OK, b"evil", EPOCH))) == []


def test_reads_in_flight_are_bounded() -> None:
    host = ready()
    for tag in range(MAX_FORWARDED_READS + 10):
        host.driver(MemRead(BAR0, 4, tag, EPOCH))

    assert sent(host.endpoint(Completion(1, Status.OK, b"late", EPOCH))) == []


def test_driver_that_asks_for_it_gets_a_new_link_epoch() -> None:
    effects = ready().driver(Call("restart_link", {"reason": "stuck"}, 3, 0))

    assert [e for e in effects if isinstance(e, Restart)] == [Restart("epc", "peer-rc: stuck")]


def test_unknown_call_is_refused() -> None:
    assert ready().call("format_disk").error == errno.EOPNOTSUPP


@pytest.mark.parametrize("src", ["epc", "peer-rc"])
def test_message_nobody_expects_is_counted(src: str) -> None:
    host = ready()

    assert host.model.handle(src, Notice("x", {}, EPOCH), 0) == []
    assert host.model.counters["unexpected"] == 1


class TestMovedBar:
    @pytest.mark.covers("EDMA 32")
    def test_bar_is_moved_in_place_and_a_new_link_epoch_follows(self) -> None:
        host = ready()
        effects = host.settle(host.model.reassign_bar(2, 0))

        assert logged(effects, "pci.bar_moved") == [
            {"bar": 2, "old": "0x0000000030100000", "new": "0x0000000030300000"}
        ]
        assert [e for e in effects if isinstance(e, Restart)] == [Restart("epc", "BAR2 was moved")]
        assert host.function.epc.bars.find(0x3030_0000, 4) == (2, 0)
        assert host.function.epc.bars.find(0x3010_0000, 4) is None
        assert sent(host.driver(MemWrite(0x3010_0000, u32(1), EPOCH)), "epc") == []

    def test_next_enumeration_keeps_the_new_place(self) -> None:
        host = ready()
        host.settle(host.model.reassign_bar(2, 0))
        host.function.on_path("rc-host", False, 0, "", 0)
        host.settle(host.model.on_path("epc", False, 0, "BAR2 was moved", 0))
        notice = only(host.up(driver=False), "peer-rc", Notice)

        assert [2, 0x3030_0000, 0x100000] in notice.args["bars"]

    def test_bar_moves_again_and_again_inside_the_aperture(self) -> None:
        host = ready()
        seen = set()
        for _ in range(600):
            effects = host.settle(host.model.reassign_bar(2, 0))
            seen.add(logged(effects, "pci.bar_moved")[0]["new"])

        assert len(seen) > 200
        assert max(int(new, 16) for new in seen) <= 0x4000_0000 - 0x100000

    def test_only_an_enumerated_bar_can_be_moved(self) -> None:
        host = Host()
        with pytest.raises(KernelError) as refused:
            host.model.reassign_bar(2, 0)
        assert refused.value.errno == errno.ENODEV
        host.up()

        with pytest.raises(KernelError) as refused:
            host.model.reassign_bar(1, 0)
        assert refused.value.errno == errno.EINVAL


@pytest.mark.covers("EDMA 57")
def test_read_that_flushes_an_msix_is_answered() -> None:
    host = ready()
    answer = only(host.endpoint(MemRead(MSI_ADDRESS, 4, 3, EPOCH)), "epc", Completion)

    assert (answer.status, answer.data) == (Status.OK, bytes(4))
    assert "dma_read_faults" not in host.model.counters


@pytest.mark.covers("EDMA 166")
def test_burst_of_the_driver_across_the_end_of_a_bar_goes_out_up_to_it() -> None:
    host = ready()
    effects = host.driver(MemWrite(0x3020_0080, bytes(256), EPOCH))

    assert sent(effects, "epc") == [MemWrite(0x3020_0080, bytes(128), EPOCH)]
    assert host.model.counters["writes_unclaimed"] == 1
