from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Any

import pytest

from ntbnet.devices.effects import Outbox
from ntbnet.devices.epc_features import EpcFeatures, EpcHeader, features_of
from ntbnet.devices.host_irq import IrqKind
from ntbnet.devices.inbound import Submap
from ntbnet.devices.tick import Tick
from ntbnet.devices.vntb import Vntb
from ntbnet.devices.wired import AuxResource
from ntbnet.errors import KernelError
from ntbnet.regs.ntb_ctrl import LAYOUTS, Command, CommandStatus
from ntbnet.wire import Irq, IrqSource, Notice
from tests.unit.devices.kit import EP_DRAM, config, dram, logged, sent

MS = 1_000_000
EPOCH = 3
ONE_WINDOW = "[ntb]\nnum_mws = 1\nmw2 = 0\nmw2_offset = 0\n"


class FakeController:
    """Records what the function asks of its controller; refuses what ``refuse`` and ``refused_bus`` name."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.refuse = ""
        self.msix = 0
        self.refused_bus = -1

    def _do(self, *call: Any) -> None:
        if call[0] == self.refuse or (call[0] == "map_addr" and call[2] == self.refused_bus):
            raise KernelError(errno.EINVAL, "refused")
        self.calls.append(call)

    def get_features(self) -> EpcFeatures:
        endpoint = config().profile.endpoint
        return features_of(endpoint, (), endpoint.align)

    def set_bar(
        self,
        bar: int,
        size: int,
        target: int | None = None,
        backed: int | None = None,
        *,
        bits64: bool = False,
        submaps: Sequence[Submap] | None = None,
    ) -> None:
        self._do("set_bar", bar, size, target if submaps is None else list(submaps))

    def map_inbound(self, bar: int, bar_size: int, offset: int = 0, target: int = 0, size: int = 0) -> None:
        self._do("map_inbound", bar, bar_size, offset, target, size)

    def unmap_inbound(self, bar: int, offset: int, size: int) -> None:
        self._do("unmap_inbound", bar, offset, size)

    def unmap_bar(self, bar: int) -> None:
        self._do("unmap_bar", bar)

    def write_header(self, header: EpcHeader) -> None:
        self._do("write_header", header)

    def set_msi(self, count: int) -> None:
        self._do("set_msi", count)

    def set_msix(self, count: int, bar: int, offset: int) -> None:
        self._do("set_msix", count, bar, offset)

    def get_msix(self) -> int:
        return self.msix

    def raise_irq(self, kind: IrqKind, number: int) -> None:
        self._do("raise_irq", kind, number)

    def get_aux_resources(self, room: int | None = None) -> list[AuxResource]:
        return []

    def allocate_outbound(self, size: int) -> int:
        self._do("allocate_outbound", size)
        before = [call for call in self.calls[:-1] if call[0] == "allocate_outbound"]
        return 0xFE10_0000 + 0x10_0000 * len(before)

    def map_addr(self, local: int, bus: int, size: int) -> None:
        self._do("map_addr", local, bus, size)

    def unmap_addr(self, local: int) -> None:
        self._do("unmap_addr", local)


class Function:
    """The function on a fake controller, with register access by name as the host has it."""

    def __init__(self, text: str = ONE_WINDOW, *, attach: bool = True, profile: str = "r-car-s4") -> None:
        self.config = config(text, profile)
        self.controller = FakeController()
        self.outbox = Outbox()
        self.memory = dram(EP_DRAM)
        self.memory.store("dirt", 0, b"\xa5" * self.memory.size)
        self.vntb = Vntb(self.config, self.memory, self.controller, self.outbox, Tick(250))
        self.block = LAYOUTS[self.config.ntb.ctrl_layout]
        if attach:
            self.vntb.attach_client(EPOCH)
        self.bound = list(self.controller.calls)
        self.controller.calls.clear()
        self.now_ns = 0
        self.vntb.start(0)

    def get(self, name: str, index: int = 0) -> int:
        offset = self.block.offset(name, index)
        width = self.block.register(name).width_bytes
        return int.from_bytes(self.vntb.ctrl.load(offset, width), "little")

    def put(self, name: str, value: int, index: int = 0) -> None:
        width = self.block.register(name).width_bytes
        self.vntb.ctrl.store("test", self.block.offset(name, index), value.to_bytes(width, "little"))

    def poll(self) -> list[Any]:
        due = self.vntb.next_deadline()
        assert due is not None
        self.now_ns = due
        self.vntb.poll(due)
        return self.outbox.take()

    def command(self, code: int, argument: int = 0) -> list[Any]:
        self.put("argument", argument)
        self.put("command", code)
        return self.poll()


@pytest.mark.covers("NTB 4", "NTB 5")
def test_control_block_after_bind() -> None:
    function = Function(ONE_WINDOW + "db_count = 5")

    assert [function.get("db_data", i) for i in range(32)] == [1, 2, 3, 4, 5] + [0] * 27
    assert [function.get("db_offset", i) for i in range(32)] == [0] * 32
    assert function.get("db_entry_size") == 4
    assert function.get("topology") == 0
    assert (function.get("num_mws"), function.get("mw_size"), function.get("mw_offset")) == (1, 0xF0000, 0)
    assert (function.get("spad_offset"), function.get("spad_count")) == (336, 128)


@pytest.mark.covers("NTB 11")
def test_regions_are_zero_filled_and_at_least_128_bytes() -> None:
    function = Function(ONE_WINDOW + "ctrl_bar = 2\nmw1_bar = 0\ndb_count = 4")

    assert function.vntb.doorbells.size == 256
    assert function.vntb.doorbells.load(0, 256) == bytes(256)
    assert function.vntb.ctrl.load(336, 1024) == bytes(1024)
    assert min(call[2] for call in function.bound if call[0] == "set_bar") >= 128


@pytest.mark.covers("NTB 32")
def test_window_bar_has_a_size_and_no_target_after_bind() -> None:
    assert Function().bound == [
        ("set_bar", 0, 0x100000, EP_DRAM),
        ("set_msi", 16),
        ("set_bar", 4, 0x100, EP_DRAM + 0x100000),
        ("map_inbound", 2, 0x100000, 0, 0, 0),
        ("allocate_outbound", 0xF0000),
        ("write_header", EpcHeader(0x1912, 0x30, 0x0500)),
    ]


@pytest.mark.covers("NTB 37", "NTB 50")
def test_one_command_a_poll_is_taken_before_it_is_executed() -> None:
    function = Function()
    function.put("command", Command.CONFIGURE_MW)
    function.put("size", 0)
    effects = function.poll()

    assert (function.get("command"), function.get("argument")) == (0, 0)
    assert function.get("command_status") == CommandStatus.ERROR
    assert len(logged(effects, "command.executed")) == 1
    assert function.vntb.counters["commands"] == 1
    function.poll()
    assert function.vntb.counters["commands"] == 1


@pytest.mark.covers("NTB 50")
def test_doorbells_come_before_the_command_of_the_same_poll() -> None:
    function = Function()
    function.vntb.doorbells.store_u32("test", 8, 3)
    messages = sent(function.command(Command.LINK_UP))

    assert [type(message) for message in messages] == [Irq, Notice]


@pytest.mark.covers("NTB 38", "NTB 5", "NTB 39")
@pytest.mark.parametrize("code", [Command.CONFIGURE_DOORBELL, Command.TEARDOWN_DOORBELL])
@pytest.mark.parametrize("argument", [16, 16 | 1 << 16])
def test_doorbell_commands_answer_ok_and_change_nothing(code: Command, argument: int) -> None:
    function = Function()
    before = function.vntb.ctrl.load(0, 336)
    function.command(code, argument)

    assert function.get("command_status") == CommandStatus.OK
    function.put("command_status", 0)
    assert function.vntb.ctrl.load(0, 336) == before
    assert function.controller.calls == []


@pytest.mark.covers("NTB 40")
def test_configure_mw_maps_the_outbound_region() -> None:
    function = Function()
    function.put("addr", 0x1_8000_0000)
    function.put("size", 0x8000)
    function.command(Command.CONFIGURE_MW, 0)

    assert function.get("command_status") == CommandStatus.OK
    assert function.controller.calls == [
        ("unmap_addr", 0xFE10_0000),
        ("map_addr", 0xFE10_0000, 0x1_8000_0000, 0x8000),
    ]


@pytest.mark.covers("NTB 40")
def test_configure_mw_that_cannot_be_mapped_answers_error() -> None:
    function = Function()
    function.controller.refuse = "map_addr"
    function.put("size", 0x8000)
    effects = function.command(Command.CONFIGURE_MW, 0)

    assert function.get("command_status") == CommandStatus.ERROR
    assert logged(effects, "command.failed") == [{"command": "CONFIGURE_MW", "reason": "EINVAL: refused"}]


def test_configure_mw_that_is_refused_leaves_the_old_mapping_in_force() -> None:
    function = Function()
    function.controller.refused_bus = 0x9000_0000
    for bus in (0x8000_0000, 0x9000_0000):
        function.put("addr", bus)
        function.put("size", 0x8000)
        function.command(Command.CONFIGURE_MW, 0)

    assert function.get("command_status") == CommandStatus.ERROR
    assert function.controller.calls[-1] == ("map_addr", 0xFE10_0000, 0x8000_0000, 0x8000)


def test_mapping_that_was_torn_down_does_not_come_back() -> None:
    function = Function()
    function.put("size", 0x8000)
    function.command(Command.CONFIGURE_MW, 0)
    function.command(Command.TEARDOWN_MW, 0)
    function.controller.refuse = "map_addr"
    function.controller.calls.clear()
    function.command(Command.CONFIGURE_MW, 0)

    assert function.controller.calls == [("unmap_addr", 0xFE10_0000)]


@pytest.mark.covers("HAZARD 10.11")
@pytest.mark.parametrize("code", [Command.CONFIGURE_MW, Command.TEARDOWN_MW])
@pytest.mark.parametrize("widx", [1, 4, 0xFFFFFFFF])
def test_command_for_a_window_that_does_not_exist_answers_error(code: Command, widx: int) -> None:
    function = Function()
    function.put("size", 0x1000)
    function.command(code, widx)

    assert function.get("command_status") == CommandStatus.ERROR
    assert function.controller.calls == []


@pytest.mark.parametrize("size", [0, 0xF0001, 1 << 63])
def test_configure_mw_larger_than_the_window_answers_error(size: int) -> None:
    function = Function()
    function.put("size", size)
    function.command(Command.CONFIGURE_MW, 0)

    assert function.get("command_status") == CommandStatus.ERROR
    assert function.controller.calls == []


@pytest.mark.covers("NTB 41")
def test_teardown_mw_answers_ok_though_nothing_was_mapped() -> None:
    function = Function()
    function.command(Command.TEARDOWN_MW, 0)

    assert function.get("command_status") == CommandStatus.OK


@pytest.mark.covers("NTB 42", "EDMA 71", "HAZARD 10.21")
@pytest.mark.parametrize("code", [7, 0xFFFFFFFF])
def test_unknown_command_gets_no_status(code: int) -> None:
    function = Function()
    effects = function.command(code, 5)

    assert function.get("command_status") == 0
    assert function.get("command") == 0
    assert logged(effects, "command.unknown") == [{"command": code, "argument": 5}]


@pytest.mark.covers("NTB 48", "NTB 91")
def test_poll_of_5_ms_runs_every_12_ms_on_a_4_ms_tick() -> None:
    function = Function()
    times = []
    for _ in range(3):
        function.poll()
        times.append(function.now_ns)

    assert times == [12 * MS, 24 * MS, 36 * MS]


@pytest.mark.covers("NTB 51", "NTB 52", "NTB 57")
def test_link_commands_set_the_bit_and_tell_the_client() -> None:
    function = Function()
    up = function.command(Command.LINK_UP)
    assert function.get("link_status") == 1
    assert function.get("command_status") == CommandStatus.OK
    down = function.command(Command.LINK_DOWN)

    assert function.get("link_status") == 0
    assert sent(up, "peer-ep") == [Notice("link_event", {"up": True}, EPOCH)]
    assert sent(down, "peer-ep") == [Notice("link_event", {"up": False}, EPOCH)]


@pytest.mark.covers("NTB 55")
def test_link_commands_raise_no_interrupt_on_the_host() -> None:
    function = Function()
    function.command(Command.LINK_UP)
    function.command(Command.LINK_DOWN)

    assert [call for call in function.controller.calls if call[0] == "raise_irq"] == []


@pytest.mark.covers("NTB 56")
def test_link_event_without_client_is_dropped_not_replayed() -> None:
    function = Function(attach=False)
    assert sent(function.command(Command.LINK_UP)) == []
    function.vntb.attach_client(EPOCH)

    assert function.outbox.take() == []
    assert function.vntb.counters["link_events_dropped"] == 1


def test_link_up_is_told_even_when_the_host_wrote_the_bit_itself() -> None:
    function = Function()
    function.put("link_status", 1)

    assert sent(function.command(Command.LINK_UP)) == [Notice("link_event", {"up": True}, EPOCH)]


@pytest.mark.covers("NTB 65")
def test_scratchpad_writes_raise_no_event() -> None:
    function = Function()
    function.vntb.ctrl.store_u32("test", 336, 7)

    assert sent(function.poll()) == []


def rung(effects: list[Any]) -> list[int]:
    return [m.bits for m in sent(effects, "peer-ep") if isinstance(m, Irq)]


@pytest.mark.covers("NTB 89")
def test_slots_0_and_1_are_never_examined() -> None:
    function = Function()
    function.vntb.doorbells.store_u32("test", 0, 1)
    function.vntb.doorbells.store_u32("test", 4, 1)

    assert rung(function.poll()) == []
    assert function.vntb.doorbells.load(0, 8) == b"\1\0\0\0\1\0\0\0"


@pytest.mark.covers("NTB 88", "NTB 90")
@pytest.mark.parametrize("value", [1, 0x80000000, 0xFFFFFFFF])
def test_any_value_but_0_rings_and_0_is_stored_back(value: int) -> None:
    function = Function()
    function.vntb.doorbells.store_u32("test", 4 * 2, value)
    function.vntb.doorbells.store_u32("test", 4 * 15, value)
    effects = function.poll()

    assert sent(effects) == [Irq(IrqSource.DOORBELL_SLOTS, 1 << 2 | 1 << 15, EPOCH)]
    assert function.vntb.doorbells.load(0, 64) == bytes(64)


@pytest.mark.covers("NTB 91")
def test_two_rings_within_a_poll_give_one_event() -> None:
    function = Function()
    function.vntb.doorbells.store_u32("test", 8, 3)
    function.vntb.doorbells.store_u32("test", 8, 3)

    assert rung(function.poll()) == [1 << 2]
    assert rung(function.poll()) == []


@pytest.mark.covers("NTB 92", "HAZARD 10.6")
def test_ring_between_event_and_the_next_poll_is_not_lost() -> None:
    function = Function()
    function.vntb.doorbells.store_u32("test", 8, 3)
    assert rung(function.poll()) == [1 << 2]
    function.vntb.doorbells.store_u32("test", 8, 3)

    assert rung(function.poll()) == [1 << 2]


@pytest.mark.covers("NTB 86")
def test_slot_beyond_db_count_is_not_heard() -> None:
    function = Function(ONE_WINDOW + "db_count = 4")
    function.vntb.doorbells.store_u32("test", 4 * 4, 5)

    assert rung(function.poll()) == []


@pytest.mark.covers("NTB 93", "NTB 98", "EDMA 75", "HAZARD 10.5")
def test_each_doorbell_bit_raises_its_own_msi() -> None:
    function = Function()
    function.vntb.peer_db_set(0b1011)

    assert function.controller.calls == [("raise_irq", IrqKind.MSI, n) for n in (3, 4, 6)]


@pytest.mark.covers("NTB 99", "HAZARD 10.5")
@pytest.mark.parametrize("bits", [0, 1 << 30, 1 << 63])
def test_impossible_doorbell_is_refused_and_logged_once(bits: int) -> None:
    function = Function()
    function.vntb.peer_db_set(bits)
    function.vntb.peer_db_set(bits)

    assert function.controller.calls == []
    assert function.vntb.counters["doorbells_refused"] == 2
    assert len(logged(function.outbox.take(), "msi.refused")) == 1


@pytest.mark.covers("HAZARD 10.31")
def test_msi_that_the_host_did_not_grant_is_refused() -> None:
    function = Function()
    function.controller.refuse = "raise_irq"
    function.vntb.peer_db_set(1)

    assert len(logged(function.outbox.take(), "msi.refused")) == 1


@pytest.mark.covers("NTB 73")
def test_mw_set_trans_points_the_bar_at_the_clients_memory() -> None:
    function = Function()
    function.vntb.mw_set_trans(0, EP_DRAM + 0x500000, 0xF0000, 0)

    assert function.controller.calls == [("map_inbound", 2, 0x100000, 0, EP_DRAM + 0x500000, 0xF0000)]


@pytest.mark.covers("HAZARD 10.23")
@pytest.mark.parametrize(("widx", "size"), [(1, 0x1000), (0, 0), (0, 0xF0001)])
def test_mw_set_trans_of_an_impossible_window_is_refused(widx: int, size: int) -> None:
    function = Function()
    with pytest.raises(KernelError) as refused:
        function.vntb.mw_set_trans(widx, EP_DRAM, size, 0)

    assert refused.value.errno == errno.EINVAL
    assert function.controller.calls == []


@pytest.mark.covers("HAZARD 10.15")
def test_reset_undoes_whatever_the_host_wrote_and_tells_the_client() -> None:
    function = Function()
    fresh = function.vntb.ctrl.load(0, 336 + 1024)
    function.command(Command.LINK_UP)
    function.vntb.ctrl.store("test", 0, b"\xee" * 2048)
    function.vntb.doorbells.store("test", 0, b"\xee" * 256)
    function.controller.calls.clear()
    function.vntb.reset("link down")

    assert function.vntb.ctrl.load(0, 336 + 1024) == fresh
    assert function.vntb.doorbells.load(0, 256) == bytes(256)
    assert function.controller.calls == [("unmap_bar", 2), ("unmap_addr", 0xFE10_0000)]
    assert Notice("link_event", {"up": False}, EPOCH) in sent(function.outbox.take())


@pytest.mark.parametrize("layout", ["rfc1", "classic"])
def test_commands_work_in_either_layout(layout: str) -> None:
    function = Function(ONE_WINDOW + f'ctrl_layout = "{layout}"')
    function.command(Command.LINK_UP)

    assert function.vntb.link_is_up
    assert function.get("spad_offset") == LAYOUTS[layout].size
