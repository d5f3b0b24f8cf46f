"""What the endpoint controller does for the eDMA engine: bus addresses pass as they are, or not at all."""

from __future__ import annotations

import errno

import pytest

from ntbnet.wire import CfgWrite, Completion, MemRead, MemWrite, Message, Notice, Status
from tests.unit.devices.kit import only, sent
from tests.unit.devices.test_endpoint import EPOCH, OUTBOUND, Controller

BUS = 0x8123_4000
READ, WRITE = MemRead(BUS, 4096, 77, EPOCH), MemWrite(BUS, b"x" * 65536, EPOCH)


def engine(controller: Controller, message: Message) -> list[Message]:
    """What comes of a message of the engine."""
    return sent(controller.model.handle("edma", message, 0))


def news(messages: list[Message]) -> list[tuple[object, object]]:
    """Link epoch and bus master enable of each notice to the engine."""
    return [(m.args["epoch"], m.args["bus_master"]) for m in messages if isinstance(m, Notice)]


@pytest.mark.covers("EDMA 117")
def test_writes_of_the_engine_reach_the_host_whole_and_untranslated() -> None:
    controller = Controller()
    controller.map_outbound(bus=0x9000_0000)

    assert engine(controller, WRITE) == [WRITE]
    aperture = MemWrite(OUTBOUND, b"abcd", EPOCH)
    assert engine(controller, aperture) == [aperture]


@pytest.mark.covers("EDMA 159")
def test_read_of_the_engine_goes_behind_its_writes_and_its_answer_comes_back() -> None:
    controller = Controller()
    written, read = engine(controller, WRITE), engine(controller, READ)
    assert written == [WRITE]
    (forwarded,) = read
    assert isinstance(forwarded, MemRead)
    assert (forwarded.addr, forwarded.size, forwarded.epoch) == (BUS, 4096, EPOCH)

    answer = controller.host(Completion(forwarded.tag, Status.CA, b"", EPOCH))

    assert only(answer, "edma", Completion) == Completion(77, Status.CA, b"", EPOCH)


@pytest.mark.parametrize("state", ["no bus master", "link down", "old epoch"])
def test_requests_are_refused_while_they_may_not_go_out(state: str) -> None:
    controller = Controller()
    if state == "no bus master":
        controller.cfg_write(0x04, 2, 2)
    elif state == "link down":
        controller.model.on_path("rc-host", False, 0, "test", 0)
    else:
        controller.restart_link(EPOCH + 1)
        controller.host(_command(6))

    assert engine(controller, WRITE) == []
    assert engine(controller, READ) == [Completion(77, Status.UR, b"", EPOCH)]
    assert controller.model.counters["writes_dropped_no_bus_master"] == 1
    assert controller.model.counters["reads_refused_no_bus_master"] == 1


def test_engine_is_told_of_every_change_of_epoch_and_bus_master_once() -> None:
    controller = Controller()
    off = controller.host(_command(2))
    same = controller.host(_command(2))
    on = controller.host(_command(6))
    flap = controller.restart_link(EPOCH + 1)

    assert news(sent(off, "edma")) == [(EPOCH, False)]
    assert news(sent(same, "edma")) == []
    assert news(sent(on, "edma")) == [(EPOCH, True)]
    assert news(sent(flap, "edma")) == [(0, False), (EPOCH + 1, False)]


def test_new_engine_is_told_at_once_and_gets_no_answer_to_its_predecessors_reads() -> None:
    controller = Controller()
    (forwarded,) = engine(controller, READ)
    assert isinstance(forwarded, MemRead)
    controller.model.on_path("edma", False, 0, "killed", 0)

    greeting = controller.model.on_path("edma", True, 4, "session agreed", 0)

    assert news(sent(greeting, "edma")) == [(EPOCH, True)]
    assert controller.host(Completion(forwarded.tag, Status.OK, b"x" * 4096, EPOCH)) == []
    assert controller.model.counters["late_completions"] == 1


def _command(value: int) -> Message:
    return CfgWrite(0x04, value.to_bytes(2, "little"), 1, EPOCH)


def fence(controller: Controller) -> MemRead:
    """The client has lost the engine; the read that the engine has to answer."""
    told, read = sent(controller.client(Notice("edma_fence", {}, EPOCH)), "edma")
    assert news([told]) == [(0, False)]
    assert isinstance(read, MemRead)
    return read


def test_fenced_engine_sends_nothing_until_it_has_answered_a_read() -> None:
    controller = Controller()
    read = fence(controller)

    assert engine(controller, WRITE) == []
    assert engine(controller, READ) == [Completion(77, Status.UR, b"", EPOCH)]
    answered = engine(controller, Completion(read.tag, Status.OK, bytes(4), EPOCH))
    assert news(answered) == [(EPOCH, True)]
    assert engine(controller, WRITE) == [WRITE]


def test_fence_holds_over_other_answers_and_news_and_is_put_up_once() -> None:
    controller = Controller()
    read = fence(controller)

    assert controller.client(Notice("edma_fence", {}, EPOCH)) == []
    assert engine(controller, Completion(read.tag + 1, Status.OK, bytes(4), EPOCH)) == []
    assert news(sent(controller.host(_command(2)), "edma")) == []
    assert news(sent(controller.host(_command(6)), "edma")) == []
    assert engine(controller, WRITE) == []


def test_fence_ends_with_the_engines_path() -> None:
    controller = Controller()
    fence(controller)
    controller.model.on_path("edma", False, 0, "killed", 0)
    assert controller.client(Notice("edma_fence", {}, EPOCH)) == []
    controller.model.on_path("edma", True, 4, "session agreed", 0)

    assert engine(controller, WRITE) == [WRITE]


def test_engine_and_host_cannot_fence() -> None:
    controller = Controller()

    assert engine(controller, Notice("edma_fence", {}, EPOCH)) == []
    assert controller.host(Notice("edma_fence", {}, EPOCH)) == []
    assert engine(controller, WRITE) == [WRITE]


def test_client_is_told_where_an_outbound_region_leads_in_this_epoch_only() -> None:
    controller = Controller()
    nowhere = controller.call("peer_mw_bus", widx=0)
    controller.model.vntb.windows.map_outbound(0, BUS, 0x10000)

    assert nowhere.error == errno.ENOTCONN
    assert controller.call("peer_mw_bus", widx=0).body == {"bus": BUS, "size": 0x10000}
    assert controller.call("peer_mw_bus", epoch=EPOCH - 1, widx=0).error == errno.ENODEV
    for impossible in (4, -1, "0", None, 1 << 64):
        assert controller.call("peer_mw_bus", widx=impossible).error == errno.EINVAL
    controller.restart_link(EPOCH + 1)
    assert controller.call("peer_mw_bus", epoch=EPOCH + 1, widx=0).error == errno.ENOTCONN
