"""What the RC's peer makes of a device that cannot be brought up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from ntbnet.devices.peer_rc import MAX_PROBE_WAIT_NS, RcPeer
from ntbnet.regs.ntb_ctrl import RFC1
from ntbnet.wire import Call, Completion, MemRead, Message, Notice, Reply, Status
from tests.unit.devices.kit import RC_DRAM, config, dram, logged, sent

SECOND = 1_000_000_000
CTRL = 0x3000_0000
BARS = [[0, CTRL, 0x100000], [2, 0x3010_0000, 0x100000], [4, 0x3020_0000, 0x100]]
DEVICE: dict[str, Any] = {"vendor_id": 0x1912, "device_id": 0x30, "class_code": 0x0500, "bars": BARS}


class Host:
    """A peer whose reads are answered from ``ctrl``, and with UR where that says nothing.

    Attributes:
        effects: everything the peer did in this epoch.
        restarts: ages at which link epochs were asked to end, ns.
    """

    def __init__(self, ctrl: Mapping[str, int]) -> None:
        self.ctrl = {CTRL + RFC1.offset(name): value for name, value in ctrl.items()}
        self.peer = RcPeer(config(), dram(RC_DRAM), 0)
        self.now_ns = 0
        self.epoch = 0
        self.effects: list[Any] = []
        self.restarts: list[int] = []
        self.peer.on_path("rc-host", True, 1, "", 0)

    def run(self, device: dict[str, Any] | None = None) -> list[Any]:
        """One link epoch, until the peer wants another one or nothing any more; its effects."""
        self.epoch += 1
        begin_ns, self.effects = self.now_ns, []
        asked = len(self.restarts)
        self.take(self.peer.handle("rc-host", Notice("device_added", device or DEVICE, self.epoch), begin_ns))
        while len(self.restarts) == asked and (due := self.peer.next_deadline()) is not None:
            self.now_ns = due
            self.take(self.peer.on_deadline(due), begin_ns)
        return self.effects

    def take(self, effects: Any, begin_ns: int = 0) -> None:
        self.effects += effects
        for message in sent(effects, "rc-host"):
            answer = self.answer(message)
            if isinstance(message, Call) and message.op == "restart_link":
                self.restarts.append(self.now_ns - begin_ns)
            if answer is not None:
                self.take(self.peer.handle("rc-host", answer, self.now_ns), begin_ns)

    def answer(self, message: Message) -> Message | None:
        if isinstance(message, MemRead):
            value = self.ctrl.get(message.addr)
            if value is None:
                return Completion(message.tag, Status.UR, b"", self.epoch)
            return Completion(message.tag, Status.OK, value.to_bytes(message.size, "little"), self.epoch)
        return Reply(message.tag, 0, {}, self.epoch) if isinstance(message, Call) else None


def test_device_that_never_answers_gets_new_epochs_ever_less_often() -> None:
    host = Host({})
    for _ in range(8):
        assert len(logged(host.run(), "driver.failed")) == 1

    assert host.restarts == [n * SECOND for n in (1, 2, 4, 8, 16, 30, 30, 30)]
    assert MAX_PROBE_WAIT_NS == 30 * SECOND


def test_another_reason_starts_from_a_second_again() -> None:
    host = Host({})
    for _ in range(3):
        host.run()
    host.ctrl[CTRL + RFC1.offset("spad_count")] = 128
    host.run()

    assert host.restarts == [n * SECOND for n in (1, 2, 4, 1)]


@pytest.mark.covers("NTB 106")
@pytest.mark.parametrize(
    ("ctrl", "device"),
    [
        ({"spad_count": 128, "spad_offset": 336, "num_mws": 5}, DEVICE),
        ({"spad_count": 1025, "spad_offset": 336, "num_mws": 1}, DEVICE),
        ({}, {**DEVICE, "device_id": 0x31}),
        ({}, {**DEVICE, "class_code": 0}),
        ({}, {**DEVICE, "bars": None}),
    ],
    ids=["num_mws", "spad_count", "ids", "class", "bars"],
)
def test_impossible_device_stays_down_and_says_so(ctrl: dict[str, int], device: dict[str, Any]) -> None:
    host = Host(ctrl)
    (failure,) = logged(host.run(device), "driver.failed")

    assert failure["reason"].endswith("stays down until the link restarts")
    assert host.restarts == []
    assert host.peer.next_deadline() is None


def test_impossible_device_is_probed_again_in_the_next_epoch() -> None:
    host = Host({"spad_count": 128, "spad_offset": 336, "num_mws": 5})
    for _ in range(2):
        assert len(logged(host.run(), "driver.failed")) == 1
