from __future__ import annotations

from collections.abc import Callable

import pytest

from ntbnet.address import BusAddr, Span
from ntbnet.devices.endpoint import EndpointController
from ntbnet.devices.enumeration import (
    PciFunction,
    disable_vectors,
    enable_msi,
    enable_msix,
    enumerate_function,
    free_place,
    move_bar,
)
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


def run_stores(
    task: Task[object], answer: Answer, stores: list[tuple[int, bytes]] | None = None
) -> list[object]:
    """Drive a generator; every request it made, stores among them in order."""
    requests: list[object] = []

    def record(request: CfgRead | CfgWrite) -> bytes:
        requests.append(request)
        if stores is not None:
            requests.extend(stores)
            stores.clear()
        return answer(request)

    run(task, record)
    return requests


class TestPlaces:
    def test_preferred_places_are_kept_and_the_rest_goes_around_them(self) -> None:
        _, answer = model()
        function = run(enumerate_function(APERTURE, {2: 0x3000_0000, 0: 0x3050_0000}), answer)

        assert isinstance(function, PciFunction)
        assert function.bars == {
            2: Span(0x3000_0000, 0x100000),
            0: Span(0x3050_0000, 0x100000),
            4: Span(0x3010_0000, 0x100),
        }

    @pytest.mark.parametrize(
        "preferred",
        [{2: 0x3000_0800}, {2: 0x2FF0_0000}, {2: 0x4000_0000}, {5: 0x3000_0000}],
        ids=["unaligned", "below", "behind", "no-such-bar"],
    )
    def test_impossible_preferred_place_is_ignored(self, preferred: dict[int, int]) -> None:
        _, answer = model()
        function = run(enumerate_function(APERTURE, preferred), answer)

        assert isinstance(function, PciFunction)
        assert function.bars[2] == Span(0x3010_0000, 0x100000)

    def test_two_bars_that_prefer_one_place_do_not_overlap(self) -> None:
        _, answer = model()
        function = run(enumerate_function(APERTURE, {0: 0x3040_0000, 2: 0x3040_0000}), answer)

        assert isinstance(function, PciFunction)
        assert not function.bars[0].overlaps(function.bars[2])

    def test_moved_bar_is_decoded_at_its_new_address_only(self) -> None:
        controller, answer = model()
        function = run(enumerate_function(APERTURE), answer)
        assert isinstance(function, PciFunction)
        moved = run(move_bar(function, 0, 0x3800_0000), answer)

        assert isinstance(moved, PciFunction)
        assert moved.bars == function.bars | {0: Span(0x3800_0000, 0x100000)}
        assert controller.epc.bars.find(0x3000_0000, 4) is None
        assert controller.epc.bars.find(0x3800_0000, 4) == (0, 0)
        assert answer(CfgRead(0x04, 2))[0] & 2

    def test_free_place_is_the_lowest_aligned_gap(self) -> None:
        aperture = Span(0x1000, 0x8000)

        assert free_place(aperture, 0x1000, [Span(0x1000, 0x1000), Span(0x3000, 0x1000)]) == Span(
            0x2000, 0x1000
        )
        assert free_place(aperture, 0x4000, [Span(0x4000, 0x100)]) is None
        assert free_place(aperture, 0x4000, []) == Span(0x4000, 0x4000)


class TestMsix:
    @staticmethod
    def function() -> tuple[EndpointController, Answer, PciFunction]:
        controller = EndpointController(config(profile="rk3588"), dram(0x4000_0000))
        controller.on_path("rc-host", True, 1, "", 0)

        def answer(request: CfgRead | CfgWrite) -> bytes:
            message = (
                CfgReadMessage(request.offset, request.size, 1)
                if isinstance(request, CfgRead)
                else CfgWriteMessage(request.offset, request.data, 1)
            )
            return bytes(only(controller.handle("rc-host", message, 0), "rc-host", Completion).data)

        found = run(enumerate_function(Span(0xF020_0000, 0xE0_0000)), answer)
        assert isinstance(found, PciFunction)
        return controller, answer, found

    @pytest.mark.covers("HAZARD 10.29")
    def test_table_is_filled_while_the_function_is_masked(self) -> None:
        controller, answer, function = self.function()
        target = MsiTarget(BusAddr(0xFE67_0040), 32)
        stores: list[tuple[int, bytes]] = []
        task = enable_msix(function, target, 4, 32, lambda addr, data: stores.append((addr, data)))
        requests = run_stores(task, answer, stores)

        assert target.granted == 16
        controls = [i for i, r in enumerate(requests) if isinstance(r, CfgWrite) and r.offset == 0xB2]
        tables = [i for i, r in enumerate(requests) if isinstance(r, tuple)]
        assert len(controls) == 2
        assert controls[0] < tables[0]
        assert len(tables) == 16
        assert controller.epc.get_msix() == 16
        first = requests[tables[0]]
        assert isinstance(first, tuple)
        assert function.bars[0].contains(first[0], 16)
        assert first[1] == (0xFE67_0040).to_bytes(8, "little") + bytes(8)

    def test_fewer_vectors_than_needed_leave_msix_off(self) -> None:
        controller, answer, function = self.function()
        target = MsiTarget(BusAddr(0xFE67_0040), 2)

        assert run(enable_msix(function, target, 4, 32, lambda _addr, _data: None), answer) == 0
        assert (target.granted, controller.epc.get_msix()) == (0, 0)

    def test_table_outside_its_bar_is_refused(self) -> None:
        _, _, function = self.function()
        answer = registers({0xB0: 0x7FF_0011, 0xB4: 0x000F_9000})
        task = enable_msix(function, MsiTarget(BusAddr(0x1000), 32), 4, 32, lambda _addr, _data: None)

        with pytest.raises(PeerError, match="outside the BAR"):
            run(task, answer)

    def test_vectors_are_taken_back_whichever_they_are(self) -> None:
        controller, answer, function = self.function()
        target = MsiTarget(BusAddr(0xFE67_0040), 32)
        run(enable_msix(function, target, 4, 32, lambda _addr, _data: None), answer)
        run(disable_vectors(function), answer)

        assert (controller.epc.get_msix(), controller.epc.get_msi()) == (0, 0)

    def test_function_without_msix_gets_none(self) -> None:
        _, answer = model()
        function = run(enumerate_function(APERTURE), answer)
        assert isinstance(function, PciFunction)

        assert function.msix_cap == 0
        task = enable_msix(function, MsiTarget(BusAddr(0x1000), 32), 4, 32, lambda _addr, _data: None)
        assert run(task, answer) == 0
