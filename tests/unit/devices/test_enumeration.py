from __future__ import annotations

from collections.abc import Callable

import pytest

from ntbnet.address import BusAddr, Span
from ntbnet.devices.endpoint import EndpointController
from ntbnet.devices.enumeration import PciFunction, disable_vectors, enable_msi, enumerate_function
from ntbnet.devices.host_irq import IrqKind
from ntbnet.devices.msi import MsiTarget
from ntbnet.devices.task import CfgRead, CfgWrite, Task
from ntbnet.errors import PeerError
from ntbnet.wire import CfgRead as CfgReadMessage
from ntbnet.wire import CfgWrite as CfgWriteMessage
from ntbnet.wire import Completion
from tests.unit.devices.kit import EP_DRAM, config, dram, only

APERTURE = Span(0x3000_0000, 0x1000_0000)
Answer = Callable[["CfgRead | CfgWrite"], bytes]


def run(task: Task[object], answer: Answer) -> object:
    """Drive a generator over configuration requests until it returns."""
    value = None
    for _ in range(500):
        try:
            request = task.send(value)
        except StopIteration as stop:
            return stop.value
        assert isinstance(request, (CfgRead, CfgWrite))
        value = answer(request)
    raise AssertionError("enumeration does not end")


def model() -> tuple[EndpointController, Answer]:
    controller = EndpointController(config(), dram(EP_DRAM))
    controller.on_path("rc-host", True, 1, "", 0)

    def answer(request: CfgRead | CfgWrite) -> bytes:
        if isinstance(request, CfgRead):
            message: CfgReadMessage | CfgWriteMessage = CfgReadMessage(request.offset, request.size, 1)
        else:
            message = CfgWriteMessage(request.offset, request.data, 1)
        return bytes(only(controller.handle("rc-host", message, 0), "rc-host", Completion).data)

    return controller, answer


def registers(words: dict[int, int], sizes: dict[int, int] | None = None) -> Answer:
    """A function of plain registers: ``words`` by offset, BAR masks in ``sizes``."""
    masks = sizes or {}

    def answer(request: CfgRead | CfgWrite) -> bytes:
        if isinstance(request, CfgWrite):
            return b""
        whole = masks.get(request.offset, words.get(request.offset & ~3, 0))
        return whole.to_bytes(4, "little")[request.offset & 3 :][: request.size]

    return answer


def test_function_is_identified_and_its_bars_are_placed_by_size() -> None:
    controller, answer = model()
    function = run(enumerate_function(APERTURE), answer)

    assert isinstance(function, PciFunction)
    assert (function.vendor_id, function.device_id, function.class_code) == (0x1912, 0x30, 0x0500)
    assert function.bars == {
        0: Span(0x3000_0000, 0x100000),
        2: Span(0x3010_0000, 0x100000),
        4: Span(0x3020_0000, 0x100),
    }
    assert function.msi_cap == 0x50
    assert controller.snapshot()["counters"]["bar_unclaimed"] == 0


def test_enumerating_twice_gives_the_same() -> None:
    _, answer = model()

    assert run(enumerate_function(APERTURE), answer) == run(enumerate_function(APERTURE), answer)


@pytest.mark.parametrize("ids", [0, 0xFFFFFFFF, 0x0030FFFF])
def test_absent_function_is_refused(ids: int) -> None:
    with pytest.raises(PeerError, match="no function"):
        run(enumerate_function(APERTURE), registers({0: ids}))


@pytest.mark.covers("EDMA 162")
@pytest.mark.parametrize("offset", [0x08, 0x10, 0x14, 0x24])
def test_function_that_stops_answering_half_way_is_refused(offset: int) -> None:
    words = {0: 0x1912, 8: 0x0500_0000, offset: 0xFFFF_FFFF}
    with pytest.raises(PeerError, match="stopped answering"):
        run(enumerate_function(APERTURE), registers(words))


def test_bar_larger_than_the_aperture_is_refused() -> None:
    with pytest.raises(PeerError, match="does not fit"):
        run(enumerate_function(APERTURE), registers({0: 0x1912}, {0x10: 0xE000_0000}))


@pytest.mark.parametrize("mask", [0xFFF0_0F00, 0x0010_0000, 0xF])
def test_impossible_bar_mask_is_refused(mask: int) -> None:
    with pytest.raises(PeerError):
        run(enumerate_function(APERTURE), registers({0: 0x1912}, {0x10: mask & ~1}))


def test_last_bar_cannot_be_64_bit() -> None:
    with pytest.raises(PeerError, match="BAR5 claims to be 64-bit"):
        run(enumerate_function(APERTURE), registers({0: 0x1912}, {0x24: 0xFFFF_F004}))


def test_capability_list_that_is_a_loop_ends() -> None:
    with pytest.raises(PeerError, match="loop"):
        run(enumerate_function(APERTURE), registers({0: 0x1912, 0x34: 0x40, 0x40: 0x4001}))


def test_function_without_capabilities_has_no_msi() -> None:
    function = run(enumerate_function(APERTURE), registers({0: 0x1912}))

    assert isinstance(function, PciFunction)
    assert function.msi_cap == 0
    assert run(enable_msi(function, MsiTarget(BusAddr(0x1000), 32), 4, 32), registers({})) == 0


@pytest.mark.covers("NTB 105")
@pytest.mark.parametrize(("host", "most", "granted"), [(32, 32, 16), (8, 32, 8), (32, 4, 4)])
def test_msi_vectors_are_the_least_of_host_function_and_driver(host: int, most: int, granted: int) -> None:
    controller, answer = model()
    function = run(enumerate_function(APERTURE), answer)
    assert isinstance(function, PciFunction)
    target = MsiTarget(BusAddr(0xF105_0040), host)

    assert run(enable_msi(function, target, 4, most), answer) == granted
    assert target.granted == granted
    controller.epc.raise_irq(IrqKind.MSI, granted)


@pytest.mark.covers("NTB 104")
def test_fewer_vectors_than_the_driver_needs_leave_msi_off() -> None:
    _, answer = model()
    function = run(enumerate_function(APERTURE), answer)
    assert isinstance(function, PciFunction)
    target = MsiTarget(BusAddr(0xF105_0040), 2)

    assert run(enable_msi(function, target, 4, 32), answer) == 0
    assert target.granted == 0
    assert answer(CfgRead(0x52, 2))[0] & 1 == 0


def test_reserved_number_of_vectors_is_refused() -> None:
    function = PciFunction(0x1912, 0x30, 0x0500, {}, 0x50)
    with pytest.raises(PeerError, match="2\\^7"):
        run(enable_msi(function, MsiTarget(BusAddr(0), 32), 4, 32), lambda _request: b"\xff\xff")


def test_disable_msi_turns_it_off() -> None:
    _, answer = model()
    function = run(enumerate_function(APERTURE), answer)
    assert isinstance(function, PciFunction)
    run(enable_msi(function, MsiTarget(BusAddr(0xF105_0040), 32), 4, 32), answer)
    run(disable_vectors(function), answer)

    assert answer(CfgRead(0x52, 2))[0] & 1 == 0
