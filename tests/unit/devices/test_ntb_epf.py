from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import pytest

from ntbnet.devices.direct import CpuBus
from ntbnet.devices.dma import DmaFilter
from ntbnet.devices.effects import Effect, Outbox, Send
from ntbnet.devices.memory import Allocator
from ntbnet.devices.ntb import MwAlign
from ntbnet.devices.ntb_epf import LOOK_AGAIN_NS, BarMap, NtbEpf, bar_map_override
from ntbnet.devices.task import Task, Tasks
from ntbnet.errors import KernelError, PeerError
from ntbnet.regs.ntb_ctrl import LAYOUTS, Command, CommandStatus
from ntbnet.wire import Call, Completion, MemRead, MemWrite, Reply, Status
from tests.unit.devices.kit import RC_DRAM, dram, logged, u32

T = TypeVar("T")
EPOCH = 8
CTRL, WINDOW, DOORBELLS = 0x3000_0000, 0x3010_0000, 0x3020_0000
BARS = [[0, CTRL, 0x100000], [2, WINDOW, 0x100000], [4, DOORBELLS, 0x100]]
PLACED = BarMap(config=0, db=4, mws=(2,))
NOTICE: dict[str, Any] = {"class_code": 0x0500, "bars": BARS}
SECOND = 1_000_000_000


class Client:
    """Counts callbacks."""

    def __init__(self) -> None:
        self.vectors: list[int] = []
        self.link_events = 0

    def link_event(self) -> None:
        self.link_events += 1

    def db_event(self, vector: int) -> None:
        self.vectors.append(vector)


GRANTED = {"address": 0xFEE0_0000, "first_data": 0}


class Board:
    """A driver, and behind it a function whose config BAR is plain memory.

    Attributes:
        serve: answers a command: (code, argument) -> status, None for no answer.
        writes: everything the driver stored, (bus address, data), in order.
        replies: answer by operation: a body, or an errno.
        gone: every read is answered with UR.
    """

    def __init__(
        self,
        layout: str = "rfc1",
        notice: dict[str, Any] | None = None,
        vectors: Any = 16,
        bar_map: BarMap | None = PLACED,
    ) -> None:
        self.block = LAYOUTS[layout]
        self.ctrl = bytearray(0x2000)
        for name, value in (("num_mws", 1), ("spad_offset", self.block.size), ("spad_count", 128)):
            self.put(name, value)
        self.put("db_entry_size", 4)
        for slot in range(16):
            self.put("db_data", slot + 1, slot)
        if layout == "rfc1":
            self.put("mw_size", 0xF0000)
        self.serve: Callable[[int, int], int | None] = lambda _code, _argument: CommandStatus.OK
        self.writes: list[tuple[int, bytes]] = []
        self.commands: list[tuple[int, int]] = []
        self.calls: list[Call] = []
        self.replies: dict[str, Any] = {"alloc_vectors": GRANTED | {"vectors": vectors}}
        self.gone = False
        self.effects: list[Effect] = []
        self.outbox = Outbox()
        self.tasks = Tasks(self.outbox, "rc-host", SECOND // 2)
        self.tasks.epoch = EPOCH
        self.mapped = DmaFilter(dram(RC_DRAM), self.outbox, Counter())
        self.counters: Counter[str] = Counter()
        self.ntb = NtbEpf(
            NOTICE if notice is None else notice,
            outbox=self.outbox,
            tasks=self.tasks,
            cpu=CpuBus(self.outbox, self.tasks, "rc-host"),
            mapped=self.mapped,
            allocator=Allocator(dram(RC_DRAM)),
            layout=layout,
            bar_map=bar_map,
            command_timeout_ns=SECOND,
            counters=self.counters,
        )
        self.client = Client()
        self.ntb.set_ctx(self.client)

    def put(self, name: str, value: int, index: int = 0) -> None:
        at, width = self.block.offset(name, index), self.block.register(name).width_bytes
        self.ctrl[at : at + width] = value.to_bytes(width, "little")

    def get(self, name: str) -> int:
        at, width = self.block.offset(name), self.block.register(name).width_bytes
        return int.from_bytes(self.ctrl[at : at + width], "little")

    def start(self, task: Task[T]) -> list[Any]:
        """Begin an operation; its result or KernelError appears in the list."""
        done: list[Any] = []

        def guarded() -> Task[None]:
            try:
                done.append((yield from task))
            except (KernelError, PeerError) as failure:
                done.append(failure)

        self.tasks.spawn("test", guarded())
        return done

    def do(self, task: Task[T]) -> T:
        """Run an operation to its end in virtual time; its exception comes through."""
        done = self.start(task)
        for _ in range(20_000):
            self.pump()
            if done:
                break
            due = self.tasks.next_deadline()
            assert due is not None, "nothing left to wait for"
            self.tasks.on_deadline(due)
        if isinstance(done[0], (KernelError, PeerError)):
            raise done[0]
        return done[0]  # type: ignore[no-any-return]

    def pump(self) -> None:
        while effects := self.outbox.take():
            self.effects += effects
            for effect in effects:
                if isinstance(effect, Send):
                    self.answer(effect.message)

    def answer(self, message: Any) -> None:
        assert message.epoch == EPOCH
        if isinstance(message, MemWrite):
            self.store(message.addr, bytes(message.data))
        elif isinstance(message, MemRead):
            at = message.addr - CTRL
            if self.gone or not 0 <= at <= len(self.ctrl) - message.size:
                self.tasks.complete(Completion(message.tag, Status.UR))
            else:
                data = bytes(self.ctrl[at : at + message.size])
                self.tasks.complete(Completion(message.tag, Status.OK, data))
        elif isinstance(message, Call):
            self.calls.append(message)
            reply = self.replies.get(message.op, {})
            error, body = (reply, {}) if isinstance(reply, int) else (0, reply)
            self.tasks.complete(Reply(message.tag, error, body))

    def store(self, addr: int, data: bytes) -> None:
        self.writes.append((addr, data))
        at = addr - CTRL
        if not 0 <= at < len(self.ctrl):
            return
        self.ctrl[at : at + len(data)] = data
        if at == 0 and any(data):
            command = (self.get("command"), self.get("argument"))
            self.commands.append(command)
            status = self.serve(*command)
            self.put("command", 0)
            self.put("argument", 0)
            if status is not None:
                self.put("command_status", status)


def bound(layout: str = "rfc1", vectors: int = 16) -> Board:
    board = Board(layout, vectors=vectors)
    board.do(board.ntb.probe())
    board.writes.clear()
    board.commands.clear()
    board.calls.clear()
    return board


def failing(action: Callable[[], object]) -> int:
    with pytest.raises(KernelError) as failure:
        action()
    return failure.value.errno


@pytest.mark.covers("NTB 103")
@pytest.mark.parametrize("class_code", [0x0580, 0, None, "0x0500"])
def test_device_of_another_class_is_not_matched(class_code: Any) -> None:
    with pytest.raises(PeerError, match="class code"):
        Board(notice={"class_code": class_code, "bars": BARS})


@pytest.mark.parametrize(
    ("ids", "bars"),
    [
        ((0x1912, 0x0030), BARS),
        ((0x1957, 0x0809), [[0, CTRL, 0x100000], [2, DOORBELLS, 0x100], [4, WINDOW, 0x100000]]),
    ],
    ids=["r-car", "i.MX8"],
)
def test_device_table_says_which_bar_holds_what(ids: tuple[int, int], bars: list[list[int]]) -> None:
    notice = {**NOTICE, "vendor_id": ids[0], "device_id": ids[1], "bars": bars}
    board = Board(notice=notice, bar_map=None)
    board.do(board.ntb.probe())
    board.ntb.peer_db_set(1)
    board.pump()

    assert board.ntb.peer_mw_get_addr(0)[0] == WINDOW
    assert board.writes[-1] == (DOORBELLS + 4 * 2, u32(3))


@pytest.mark.parametrize("ids", [(0x1912, 0x0031), (0x1913, 0x0030), (None, None), ([], "0030")])
def test_device_that_no_bar_map_is_known_for_is_refused(ids: tuple[Any, Any]) -> None:
    with pytest.raises(PeerError, match="no BAR map"):
        Board(notice={**NOTICE, "vendor_id": ids[0], "device_id": ids[1]}, bar_map=None)


def test_bars_of_the_configuration_override_the_device_table_only_where_they_differ() -> None:
    elsewhere = BarMap(config=2, db=4, mws=(0,))

    assert bar_map_override(0x1912, 0x0030, PLACED) is None
    assert bar_map_override(0x1912, 0x0030, elsewhere) == elsewhere
    assert bar_map_override(0x1912, 0x0030, BarMap(config=0, db=4, mws=(5,))) == BarMap(0, 4, (5,))
    assert bar_map_override(0x1912, 0x0031, PLACED) == PLACED


@pytest.mark.parametrize(
    "bars",
    [
        None,
        "bars",
        [[0, CTRL]],
        [[0, CTRL, 0]],
        [[0, -1, 4096]],
        [[0, CTRL, float("inf")]],
        BARS[:2],
        [[0, CTRL, 256], *BARS[1:]],
    ],
)
def test_malformed_bars_are_refused(bars: Any) -> None:
    with pytest.raises(PeerError):
        Board(notice={"class_code": 0x0500, "bars": bars})


@pytest.mark.covers("NTB 105", "NTB 39")
def test_probe_asks_for_4_to_32_vectors_and_configures_what_it_got() -> None:
    board = Board()
    board.do(board.ntb.probe())

    assert [(call.op, call.args) for call in board.calls] == [("alloc_vectors", {"least": 4, "most": 32})]
    assert board.commands == [(Command.CONFIGURE_DOORBELL, 16)]
    assert logged(board.effects, "driver.bound") == [
        {"driver": "ntb_hw_epf", "mws": 1, "spads": 128, "db_bits": 14}
    ]


@pytest.mark.covers("NTB 104")
def test_too_few_vectors_make_the_probe_fail() -> None:
    board = Board()
    board.replies["alloc_vectors"] = errno.ENOSPC

    assert failing(lambda: board.do(board.ntb.probe())) == errno.ENOSPC
    assert board.commands == []


@pytest.mark.parametrize("vectors", [3, 33, "16", None, True])
def test_impossible_grant_is_refused(vectors: Any) -> None:
    board = Board(vectors=vectors)
    with pytest.raises(PeerError, match="vectors"):
        board.do(board.ntb.probe())


IMPOSSIBLE = [
    ("num_mws", 0),
    ("num_mws", 5),
    ("num_mws", 2),
    ("spad_offset", 0),
    ("spad_offset", 338),
    ("spad_offset", 0x100000),
    ("spad_count", 1025),
    ("spad_count", 0x20000),
    ("mw_offset", 0x100000),
    ("mw_offset", 6),
    ("db_entry_size", 0x80),
    ("db_entry_size", 3),
    ("db_offset", 0x100),
]


@pytest.mark.covers("NTB 106", "HAZARD 11.e", "HAZARD 10.20")
@pytest.mark.parametrize(("name", "value"), IMPOSSIBLE)
def test_impossible_control_block_is_refused(name: str, value: int) -> None:
    board = Board()
    board.put(name, value, 15 if name == "db_offset" else 0)
    with pytest.raises(PeerError):
        board.do(board.ntb.probe())

    assert Command.LINK_UP not in [code for code, _ in board.commands]


@pytest.mark.covers("HAZARD 11.i")
@pytest.mark.parametrize(("theirs", "ours"), [("classic", "rfc1"), ("rfc1", "classic")])
def test_control_block_of_the_other_layout_is_refused(theirs: str, ours: str) -> None:
    """A driver of one layout reads what an endpoint of the other one wrote."""
    endpoint, board = Board(theirs), Board(ours)
    board.ctrl[:] = endpoint.ctrl
    with pytest.raises(PeerError):
        board.do(board.ntb.probe())

    assert board.writes == []


@pytest.mark.covers("EDMA 162", "EDMA 163")
def test_device_that_does_not_answer_is_enodev_not_a_broken_peer() -> None:
    board = Board()
    board.gone = True

    assert failing(lambda: board.do(board.ntb.probe())) == errno.ENODEV


@pytest.mark.parametrize("name", ["db_entry_size", "mw_size", "num_mws"])
def test_register_that_reads_all_ones_is_enodev(name: str) -> None:
    board = Board()
    board.put(name, 0xFFFFFFFF)

    assert failing(lambda: board.do(board.ntb.probe())) == errno.ENODEV


@pytest.mark.parametrize("layout", ["rfc1", "classic"])
def test_probe_works_in_either_layout(layout: str) -> None:
    board = bound(layout)

    assert board.ntb.spad_count() == 128
    assert board.ntb.peer_mw_get_addr(0) == (WINDOW, 0xF0000 if layout == "rfc1" else 0x100000)


@pytest.mark.covers("NTB 78", "NTB 77", "EDMA 83")
@pytest.mark.parametrize(
    ("offset", "size", "expected"),
    [(0xF0000, 0x8000, 0x8000), (0, 0, 0x100000), (0xF8000, 0x10000, 0x8000), (0xFFFFC, 0xFFFFFFF0, 4)],
)
def test_window_lies_at_its_offset_and_is_clipped_to_its_bar(offset: int, size: int, expected: int) -> None:
    board = Board()
    board.put("mw_offset", offset)
    board.put("mw_size", size)
    board.do(board.ntb.probe())

    assert board.ntb.peer_mw_get_addr(0) == (WINDOW + offset, expected)


@pytest.mark.covers("NTB 36", "NTB 44")
def test_command_is_stored_after_its_argument_and_leaves_status_0() -> None:
    board = bound()
    board.do(board.ntb.link_enable())
    names = {board.block.offset(name): name for name in ("command", "argument", "command_status")}

    assert [(names[addr - CTRL], int.from_bytes(data, "little")) for addr, data in board.writes] == [
        ("command_status", 0),
        ("argument", 0),
        ("command", Command.LINK_UP),
        ("command_status", 0),
    ]
    assert board.get("command_status") == 0


@pytest.mark.covers("NTB 43", "NTB 44", "EDMA 72", "HAZARD 10.11", "NTB 71")
def test_error_status_is_einval_for_the_caller() -> None:
    board = bound()
    board.serve = lambda _code, _argument: CommandStatus.ERROR

    assert failing(lambda: board.do(board.ntb.mw_set_trans(0, 0, RC_DRAM, 4096))) == errno.EINVAL
    assert board.get("command_status") == 0


@pytest.mark.covers("NTB 42", "NTB 44", "NTB 45", "EDMA 71")
def test_command_without_answer_times_out_after_a_second_and_is_withdrawn() -> None:
    board = bound()
    board.serve = lambda _code, _argument: None
    begin = board.tasks.now_ns

    assert failing(lambda: board.do(board.ntb.link_enable())) == errno.ETIMEDOUT
    assert SECOND <= board.tasks.now_ns - begin <= SECOND + 1_000_000
    assert board.writes[-2:] == [(CTRL, u32(0)), (CTRL + 8, b"\0\0")]


@pytest.mark.covers("NTB 46", "HAZARD 10.12")
def test_stale_status_answers_no_later_command() -> None:
    board = bound()
    board.put("command_status", CommandStatus.OK)
    board.serve = lambda _code, _argument: None

    assert failing(lambda: board.do(board.ntb.link_enable())) == errno.ETIMEDOUT


@pytest.mark.covers("NTB 47")
def test_concurrent_commands_do_not_interleave() -> None:
    board = bound()
    both = [board.start(board.ntb.mw_clear_trans(0, 0)), board.start(board.ntb.link_enable())]
    board.pump()

    assert both == [[None], [None]]
    assert board.commands == [(Command.TEARDOWN_MW, 0), (Command.LINK_UP, 0)]
    at_command = [addr - CTRL for addr, data in board.writes if data != b"\0\0"]
    assert at_command == [4, 0, 4, 0]


@pytest.mark.covers("NTB 72", "NTB 70", "EDMA 86")
def test_mw_set_trans_stores_low_then_high_words_before_the_command() -> None:
    board = bound()
    board.do(board.ntb.mw_set_trans(0, 0, RC_DRAM, 0x8000))
    block = board.block

    assert [(call.op, call.args) for call in board.calls] == [("dma_map", {"addr": RC_DRAM, "size": 0x8000})]
    assert board.writes[1:] == [
        (CTRL + block.offset("addr"), u32(RC_DRAM)),
        (CTRL + block.offset("addr") + 4, u32(0)),
        (CTRL + block.offset("size"), u32(0x8000)),
        (CTRL + block.offset("size") + 4, u32(0)),
        (CTRL + block.offset("argument"), u32(0)),
        (CTRL, u32(Command.CONFIGURE_MW)),
        (CTRL + 8, b"\0\0"),
    ]


@pytest.mark.covers("NTB 70", "EDMA 86")
def test_mw_set_trans_larger_than_the_bar_sends_nothing() -> None:
    board = bound()

    assert failing(lambda: board.do(board.ntb.mw_set_trans(0, 0, RC_DRAM, 0x100001))) == errno.EINVAL
    assert (board.writes, board.calls) == ([], [])


@pytest.mark.covers("NTB 76", "HAZARD 10.8")
@pytest.mark.parametrize(("pidx", "widx"), [(0, 1), (0, -1), (0, 4), (1, 0)])
def test_window_that_does_not_exist_is_einval(pidx: int, widx: int) -> None:
    board = bound()
    ntb = board.ntb

    assert failing(lambda: board.do(ntb.mw_get_align(pidx, widx))) == errno.EINVAL
    assert failing(lambda: board.do(ntb.mw_set_trans(pidx, widx, RC_DRAM, 4096))) == errno.EINVAL
    assert failing(lambda: board.do(ntb.mw_clear_trans(pidx, widx))) == errno.EINVAL
    if pidx == 0:
        assert failing(lambda: ntb.peer_mw_get_addr(widx)) == errno.EINVAL


@pytest.mark.covers("NTB 66", "NTB 67")
def test_window_counts() -> None:
    ntb = bound().ntb

    assert (ntb.mw_count(0), ntb.peer_mw_count()) == (1, 1)
    assert failing(lambda: ntb.mw_count(1)) == errno.EINVAL


@pytest.mark.covers("NTB 68", "NTB 69", "EDMA 84")
def test_mw_get_align_needs_the_link_and_gives_the_bar() -> None:
    board = bound()
    assert failing(lambda: board.do(board.ntb.mw_get_align(0, 0))) == errno.ENOTCONN
    board.put("link_status", 1)

    assert board.do(board.ntb.mw_get_align(0, 0)) == MwAlign(4096, 1, 0x100000)


@pytest.mark.covers("NTB 54", "EDMA 163")
def test_link_of_a_device_that_is_gone_is_down() -> None:
    board = bound()
    assert board.do(board.ntb.link_is_up()) == 0
    board.put("link_status", 1)
    assert board.do(board.ntb.link_is_up()) == 1
    board.gone = True

    assert board.do(board.ntb.link_is_up()) == 0


def test_device_that_did_not_answer_is_looked_at_again_once() -> None:
    """No interrupt would tell the client that a slow device is back."""
    board = bound()
    board.gone = True
    board.do(board.ntb.link_is_up())
    board.do(board.ntb.link_is_up())
    due = board.tasks.next_deadline()
    assert due is not None
    board.tasks.on_deadline(due)

    assert due == LOOK_AGAIN_NS
    assert board.client.link_events == 1
    assert board.tasks.next_deadline() is None


@pytest.mark.covers("NTB 59", "NTB 60", "NTB 61", "NTB 107")
def test_scratchpads_are_two_banks_in_the_config_bar() -> None:
    board = bound()
    board.do(board.ntb.spad_write(3, 0x11111111))
    board.do(board.ntb.peer_spad_write(0, 3, 0x22222222))
    own = board.block.size + 4 * 3

    assert board.writes == [(CTRL + own, u32(0x11111111)), (CTRL + own + 4 * 128, u32(0x22222222))]
    assert board.do(board.ntb.spad_read(3)) == 0x11111111
    assert board.do(board.ntb.peer_spad_read(0, 3)) == 0x22222222


@pytest.mark.covers("NTB 12")
def test_spad_offset_is_read_from_the_block_each_time() -> None:
    board = bound()
    board.do(board.ntb.spad_write(0, 7))
    board.put("spad_offset", 0x1000)
    assert board.do(board.ntb.spad_read(0)) == 0
    board.do(board.ntb.spad_write(0, 8))

    assert board.writes[-1] == (CTRL + 0x1000, u32(8))


@pytest.mark.parametrize("offset", [0, 338, 0x100000 - 4, 0xFFFFFFF0])
def test_spad_offset_that_becomes_impossible_is_eio(offset: int) -> None:
    board = bound()
    board.put("spad_offset", offset)

    assert failing(lambda: board.do(board.ntb.spad_write(0, 7))) == errno.EIO
    assert board.writes == []


def test_scratchpad_of_a_device_that_does_not_answer_reads_all_ones() -> None:
    board = bound()
    board.gone = True

    assert board.do(board.ntb.spad_read(0)) == 0xFFFFFFFF


@pytest.mark.covers("NTB 62", "NTB 63")
@pytest.mark.parametrize("sidx", [-1, 128, 1 << 31])
def test_scratchpad_out_of_range(sidx: int) -> None:
    board = bound()

    assert board.do(board.ntb.spad_read(sidx)) == 0
    assert board.do(board.ntb.peer_spad_read(0, sidx)) == 0xFFFFFFEA
    assert board.do(board.ntb.peer_spad_read(1, 0)) == 0xFFFFFFEA
    assert failing(lambda: board.do(board.ntb.spad_write(sidx, 1))) == errno.EINVAL
    assert failing(lambda: board.do(board.ntb.peer_spad_write(0, sidx, 1))) == errno.EINVAL
    assert failing(lambda: board.do(board.ntb.peer_spad_write(1, 0, 1))) == errno.EINVAL
    assert board.writes == []


def ring(board: Board, bits: int) -> Sequence[tuple[int, bytes]]:
    board.ntb.peer_db_set(bits)
    board.pump()
    return board.writes


@pytest.mark.covers("NTB 83", "EDMA 74")
def test_doorbell_n_stores_the_datum_of_slot_n_plus_2() -> None:
    assert ring(bound(), 0b10) == [(DOORBELLS + 4 * 3, u32(4))]


@pytest.mark.covers("NTB 101", "EDMA 76")
def test_entry_size_0_reaches_each_slot_by_its_own_offset() -> None:
    board = Board()
    board.put("db_entry_size", 0)
    for slot in range(16):
        board.put("db_offset", 0x40, slot)
        board.put("db_data", 0x100 + slot, slot)
    board.do(board.ntb.probe())
    board.writes.clear()

    assert ring(board, 0b101) == [(DOORBELLS + 0x40, u32(0x102)), (DOORBELLS + 0x40, u32(0x104))]


@pytest.mark.covers("NTB 98", "HAZARD 10.5")
def test_every_bit_of_a_set_rings() -> None:
    assert [addr for addr, _ in ring(bound(), 0b111)] == [DOORBELLS + 8, DOORBELLS + 12, DOORBELLS + 16]


@pytest.mark.covers("NTB 84", "NTB 85", "NTB 99")
@pytest.mark.parametrize("bits", [0, 1 << 14, 1 << 31, -1])
def test_impossible_doorbell_is_einval(bits: int) -> None:
    board = bound()

    assert failing(lambda: board.ntb.peer_db_set(bits)) == errno.EINVAL
    assert failing(lambda: board.ntb.peer_db_set(1 << 14 | 1)) == errno.EINVAL
    board.pump()
    assert board.writes == []
    board.ntb.peer_db_set(1 << 13)


@pytest.mark.covers("NTB 86")
def test_doorbell_the_endpoint_does_not_hear_is_logged_once() -> None:
    board = Board()
    for slot in range(4, 32):
        board.put("db_data", 0, slot)
    board.do(board.ntb.probe())
    board.writes.clear()
    ring(board, 0b111)
    ring(board, 0b100)

    assert [addr for addr, _ in board.writes] == [DOORBELLS + 8, DOORBELLS + 12]
    assert logged(board.effects, "doorbell.unheard") == [{"bits": 0b100}]


@pytest.mark.covers("NTB 94")
def test_vector_0_is_the_link_event_1_is_spurious_and_v_is_bit_v_minus_2() -> None:
    board = bound()
    for vector in (0, 1, 2, 15, 16, 31):
        board.ntb.on_vector(vector)

    assert board.client.link_events == 1
    assert board.client.vectors == [0, 13]
    assert board.ntb.db_read() == 1 | 1 << 13
    assert board.counters["irqs_spurious"] == 3


@pytest.mark.covers("NTB 96", "NTB 97", "NTB 100")
def test_doorbell_bits_clear_exactly_and_masks_do_nothing() -> None:
    board = bound()
    board.ntb.db_set_mask(0x3FFF)
    board.ntb.on_vector(2)
    board.ntb.on_vector(3)
    board.ntb.db_clear(1)

    assert board.client.vectors == [0, 1]
    assert board.ntb.db_read() == 2
    assert board.ntb.db_valid_mask() == 0x3FFF


@pytest.mark.covers("NTB 108")
def test_remove_tears_the_doorbells_down_and_gives_the_vectors_back() -> None:
    board = bound()
    board.do(board.ntb.remove())

    assert board.commands == [(Command.TEARDOWN_DOORBELL, 16)]
    assert [call.op for call in board.calls] == ["free_vectors"]


def test_freed_memory_is_unmapped_from_dma() -> None:
    board = bound()
    window = board.ntb.alloc_coherent(0x1000, 0x1000, "mw0")
    assert window is not None
    board.ntb.free_coherent(window)
    board.pump()

    assert [(call.op, call.args) for call in board.calls] == [("dma_unmap", {"addr": window.span.base})]
    assert window.revoked


def test_window_stores_are_posted_and_stay_inside() -> None:
    board = bound()
    board.ntb.peer_mw_write(0, 0xF0000 - 4, b"last")
    board.pump()

    assert board.writes == [(WINDOW + 0xF0000 - 4, b"last")]
    for offset in (-4, 0xF0000 - 2):
        with pytest.raises(ValueError, match="leaves window 0"):
            board.ntb.peer_mw_write(0, offset, bytes(4))


class TestSeveralWindows:
    @pytest.mark.covers("NTB 78", "EDMA 83", "HAZARD 11.e")
    def test_windows_of_one_bar_begin_at_their_offsets(self) -> None:
        board = Board(bar_map=BarMap(config=0, db=4, mws=(2, 2)))
        board.put("num_mws", 2)
        for index, (offset, size) in enumerate([(0, 0xF0000), (0xF0000, 0x8000)]):
            board.put("mw_offset", offset, index)
            board.put("mw_size", size, index)
        board.do(board.ntb.probe())

        assert board.ntb.peer_mw_get_addr(0) == (WINDOW, 0xF0000)
        assert board.ntb.peer_mw_get_addr(1) == (WINDOW + 0xF0000, 0x8000)
        assert (board.ntb.mw_count(0), board.ntb.peer_mw_count()) == (2, 2)

    @pytest.mark.covers("HAZARD 11.d")
    def test_windows_of_this_side_have_no_offset(self) -> None:
        board = bound()
        board.put("link_status", 1)

        assert board.do(board.ntb.mw_get_align(0, 0)) == MwAlign(4096, 1, 0x100000, 0)

    @pytest.mark.covers("NTB 77")
    def test_classic_block_has_an_offset_for_the_first_window_only(self) -> None:
        board = Board("classic", bar_map=BarMap(config=0, db=4, mws=(2, 4)))
        board.put("num_mws", 2)
        board.put("mw1_offset", 0x8000)
        board.do(board.ntb.probe())

        assert board.ntb.peer_mw_get_addr(0) == (WINDOW + 0x8000, 0x100000 - 0x8000)
        assert board.ntb.peer_mw_get_addr(1) == (DOORBELLS, 0x100)


class TestDoorbellPlaces:
    def test_doorbells_behind_the_scratchpads_are_rung_in_the_config_bar(self) -> None:
        board = Board(bar_map=BarMap(config=0, db=0, mws=(2,)))
        for slot in range(16):
            board.put("db_offset", 1360, slot)
        board.do(board.ntb.probe())
        board.writes.clear()

        assert ring(board, 1) == [(CTRL + 1360 + 4 * 2, u32(3))]


@pytest.mark.covers("NTB 39")
def test_msix_is_told_to_the_function_with_the_number_of_vectors() -> None:
    board = Board()
    board.replies["alloc_vectors"] = GRANTED | {"vectors": 16, "kind": "msix"}
    board.do(board.ntb.probe())
    board.do(board.ntb.remove())

    assert board.commands == [
        (Command.CONFIGURE_DOORBELL, 16 | 1 << 16),
        (Command.TEARDOWN_DOORBELL, 16 | 1 << 16),
    ]
