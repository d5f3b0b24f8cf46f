from __future__ import annotations

import errno
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntbnet.devices.dw_edma import DwEdmas, MapFormat
from ntbnet.devices.intr import Descriptor, IntrBackend
from ntbnet.devices.intr_edma import EdmaBackend
from ntbnet.devices.intr_msi import MsiBackend
from ntbnet.devices.msi_domain import MsiDomain
from ntbnet.devices.ntb import MwAlign
from ntbnet.errors import KernelError
from tests.unit.devices.intr_device import (
    CONTROL,
    EDMA_BASE,
    MSI_WORD,
    WIRED,
    IntrDevice,
    edma_driver,
    engines,
    refused,
    run,
)

NOTHING: Callable[[], None] = lambda: None  # noqa: E731 - a handler that does nothing
MARKER = (0xFFFFFFFF, 0xFFFFFFFF)


def pair_of(descriptor: Descriptor) -> tuple[int, int]:
    return descriptor.addr_offset, descriptor.data


def msi(device: IntrDevice, changed: Callable[[], None] = NOTHING) -> MsiBackend:
    backend = MsiBackend(1)
    backend.init(device, changed)
    return backend


def edma(
    device: IntrDevice, drivers: DwEdmas | None = None, changed: Callable[[], None] = NOTHING
) -> EdmaBackend:
    backend = EdmaBackend(1, drivers or engines())
    backend.init(device, changed)
    return backend


def msi_device(*data: int) -> IntrDevice:
    return IntrDevice(msi=MsiDomain(MSI_WORD, data or range(80, 84)))


# the window


@pytest.mark.covers("EDMA 103")
def test_r_car_window_leads_to_the_engines_page_and_the_descriptor_to_its_status() -> None:
    device, descriptor = IntrDevice(resources=(CONTROL,)), Descriptor()
    backend = edma(device)
    run(backend.setup_mws())

    assert device.set_calls == [(1, 0xE65D_5000, 0x8000, 0xF0000)]
    assert backend.request_irq(NOTHING, "queue-0", descriptor) == 1
    assert pair_of(descriptor) == (0xA0, 0)


@pytest.mark.covers("NTB 174", "EDMA 101")
def test_msi_descriptors_share_the_offset_and_have_each_a_datum() -> None:
    device = msi_device()
    backend = msi(device)
    run(backend.setup_mws())
    descriptors = [Descriptor() for _ in range(4)]
    irqs = [backend.request_irq(NOTHING, "queue", one) for one in descriptors]

    assert device.set_calls == [(1, 0x0802_0000, 0x8000, 0xF0000)]
    assert irqs == [1, 2, 3, 4]
    assert [pair_of(one) for one in descriptors] == [(0x40, data) for data in range(80, 84)]
    assert refused(lambda: backend.request_irq(NOTHING, "one more", Descriptor())) == errno.ENODEV
    assert backend.request_irq(NOTHING, "again", descriptors[2]) == 3


@pytest.mark.covers("EDMA 88", "HAZARD 11.c")
def test_window_that_is_set_up_again_is_left_alone_until_it_was_cleared() -> None:
    device = IntrDevice(resources=(CONTROL,))
    backend = edma(device)
    for _ in range(3):
        run(backend.setup_mws())
    assert len(device.set_calls) == 1

    run(backend.clear_mws())
    run(backend.clear_mws())
    assert device.cleared == [1]
    run(backend.setup_mws())
    assert len(device.set_calls) == 2


@pytest.mark.covers("NTB 176")
def test_set_up_on_a_link_that_is_down_is_enotconn_and_tried_again_later() -> None:
    device = msi_device()
    backend = msi(device)
    device.link = 0
    assert refused(lambda: run(backend.setup_mws())) == errno.ENOTCONN

    device.link = 1
    run(backend.setup_mws())
    assert backend.is_set_up


def test_window_that_the_device_refuses_is_not_set_up() -> None:
    device = IntrDevice(resources=(CONTROL,))
    device.set_trans_error = KernelError(errno.ENOSPC, "no window left")
    backend = edma(device)

    assert refused(lambda: run(backend.setup_mws())) == errno.ENOSPC
    assert not backend.is_set_up
    assert refused(lambda: backend.request_irq(NOTHING, "queue", Descriptor())) == errno.EINVAL


@pytest.mark.covers("NTB 175", "NTB 179")
def test_window_is_opened_whole_but_descriptors_lie_in_its_first_32_kib() -> None:
    device = IntrDevice(msi=MsiDomain(0x0802_8000, (80,)), window=0x20000)
    device.align = MwAlign(0x20000, 1, 0x20000, 0xF0000)
    backend = msi(device)
    run(backend.setup_mws())

    assert device.set_calls == [(1, 0x0802_0000, 0x20000, 0xF0000)]
    assert refused(lambda: backend.request_irq(NOTHING, "queue", Descriptor())) == errno.EFAULT


@pytest.mark.covers("EDMA 102")
def test_message_outside_the_window_is_efault_and_takes_no_vector() -> None:
    domain = MsiDomain(MSI_WORD, range(80, 84))
    device = IntrDevice(msi=domain, window=MSI_WORD % 0x1000)
    backend = msi(device)
    run(backend.setup_mws())
    descriptor = Descriptor()

    assert refused(lambda: backend.request_irq(NOTHING, "queue", descriptor)) == errno.EFAULT
    assert not descriptor.is_valid
    assert [domain.data(domain.request(NOTHING, NOTHING)) for _ in range(4)] == [80, 81, 82, 83]


def test_word_outside_the_window_is_efault() -> None:
    device = IntrDevice(resources=(CONTROL,), window=0x80)
    backend = edma(device)
    run(backend.setup_mws())
    descriptor = Descriptor()

    assert refused(lambda: backend.request_irq(NOTHING, "queue", descriptor)) == errno.EFAULT
    assert not descriptor.is_valid


@pytest.mark.covers("EDMA 145")
def test_wired_registers_need_no_translation() -> None:
    device, descriptor = IntrDevice(resources=(WIRED,), window=0x2000), Descriptor()
    device.bar, device.align = 4, MwAlign(4096, 1, 0x2000, 0)
    backend = edma(device)
    run(backend.setup_mws())
    backend.request_irq(NOTHING, "queue", descriptor)
    run(backend.clear_mws())

    assert pair_of(descriptor) == (0xA0, 0)
    assert (device.set_calls, device.cleared) == ([], [])


def test_window_behind_the_start_of_the_wired_registers_has_a_smaller_offset() -> None:
    device, descriptor = IntrDevice(resources=(WIRED,), window=0x1000), Descriptor()
    device.bar, device.align = 4, MwAlign(4096, 1, 0x1000, 0x80)
    backend = edma(device)
    run(backend.setup_mws())
    backend.request_irq(NOTHING, "queue", descriptor)

    assert pair_of(descriptor) == (0x20, 0)


# init


@pytest.mark.covers("EDMA 144")
def test_wired_registers_in_another_bar_than_the_window_are_einval() -> None:
    assert refused(lambda: edma(IntrDevice(resources=(WIRED,)))) == errno.EINVAL


@pytest.mark.covers("EDMA 90", "EDMA 138", "HAZARD 11.g")
def test_init_fails_with_the_platforms_error_and_leaves_nothing_behind() -> None:
    cases: list[tuple[IntrBackend, IntrDevice, int]] = [
        (EdmaBackend(1, engines()), IntrDevice(), errno.ENODEV),
        (EdmaBackend(1, DwEdmas()), IntrDevice(resources=(CONTROL,)), errno.ENODEV),
        (EdmaBackend(1, engines(MapFormat.LEGACY)), IntrDevice(resources=(CONTROL,)), errno.EOPNOTSUPP),
        (MsiBackend(1), IntrDevice(), errno.ENODEV),
        (MsiBackend(2), msi_device(), errno.EINVAL),
    ]
    for backend, device, expected in cases:
        assert refused(lambda: backend.init(device, NOTHING)) == expected  # noqa: B023 - called at once
        assert refused(lambda: run(backend.setup_mws())) == errno.EINVAL  # noqa: B023 - called at once
        assert refused(lambda: backend.peer_trigger(0, Descriptor(0, 0))) == errno.EINVAL  # noqa: B023


def test_engine_that_is_away_at_first_gives_interrupts_once_it_is_there() -> None:
    driver, descriptor = edma_driver(), Descriptor()
    driver.remove()
    backend = EdmaBackend(1, DwEdmas(driver))
    backend.init(IntrDevice(resources=(CONTROL,)), NOTHING)
    run(backend.setup_mws())
    assert refused(lambda: backend.request_irq(NOTHING, "queue-0", descriptor)) == errno.ENODEV
    assert not descriptor.is_valid

    driver.probe()

    assert backend.request_irq(NOTHING, "queue-0", descriptor) > 0
    assert descriptor.is_valid


def test_peer_window_that_cannot_be_reached_is_efault() -> None:
    device = msi_device()
    device.peer_windows = 1

    assert refused(lambda: msi(device)) == errno.EFAULT


# trigger


@pytest.mark.covers("EDMA 100", "NTB 177")
@given(offset=st.integers(0, 0x1FFF).map(lambda word: 4 * word), data=st.integers(0, 0xFFFFFFFF))
def test_trigger_is_exactly_one_32_bit_store(offset: int, data: int) -> None:
    device = msi_device()
    msi(device).peer_trigger(0, Descriptor(offset, data))

    assert device.stores() == [(offset, data.to_bytes(4, "little"))]


@pytest.mark.covers("EDMA 99")
@given(offset=st.integers(0, 0xFFFFFFFF), pidx=st.integers(0, 2))
def test_trigger_outside_the_peers_window_stores_nothing(offset: int, pidx: int) -> None:
    device = msi_device()
    backend = msi(device)
    if offset % 4 or offset + 4 > 0x8000 or pidx:
        assert refused(lambda: backend.peer_trigger(pidx, Descriptor(offset, 0))) == errno.EINVAL
        assert device.stores() == []


# interrupts


def test_message_runs_the_handler_of_its_queue() -> None:
    device, rings = msi_device(), [0, 0]
    backend = msi(device)
    run(backend.setup_mws())

    def ring(queue: int) -> None:
        rings[queue] += 1

    backend.request_irq(lambda: ring(0), "queue-0", Descriptor())
    backend.request_irq(lambda: ring(1), "queue-1", Descriptor())
    assert device.msi is not None
    device.msi.dispatch(81)

    assert rings == [0, 1]


def test_rewritten_message_changes_the_descriptor_and_says_so() -> None:
    device, changes, descriptor = msi_device(), [0], Descriptor()

    def changed() -> None:
        changes[0] += 1

    backend = msi(device, changed)
    run(backend.setup_mws())
    irq = backend.request_irq(NOTHING, "queue-0", descriptor)
    assert device.msi is not None
    device.msi.retarget(irq)

    assert (pair_of(descriptor), changes) == ((0x40, 81), [1])


def test_removed_engine_takes_its_descriptors_back() -> None:
    driver, changes = edma_driver(), []
    backend = edma(IntrDevice(resources=(CONTROL,)), DwEdmas(driver), lambda: changes.append(1))
    run(backend.setup_mws())
    descriptor = Descriptor()
    backend.request_irq(NOTHING, "queue-0", descriptor)
    driver.remove()

    assert (pair_of(descriptor), changes) == (MARKER, [1])
    assert refused(lambda: backend.request_irq(NOTHING, "queue-0", descriptor)) == errno.ENODEV
    assert not descriptor.is_valid
    driver.probe()
    backend.request_irq(NOTHING, "queue-0", descriptor)
    assert pair_of(descriptor) == (EDMA_BASE + 0xA0 - 0xE65D_5000, 0)


@pytest.mark.parametrize("kind", ["msi", "edma"])
def test_freed_interrupt_leaves_no_descriptor_and_no_handler(kind: str) -> None:
    driver, rings, descriptor = edma_driver(), [], Descriptor()
    device = msi_device(80) if kind == "msi" else IntrDevice(resources=(CONTROL,))
    backend: IntrBackend = msi(device) if kind == "msi" else edma(device, DwEdmas(driver))
    run(backend.setup_mws())
    irq = backend.request_irq(lambda: rings.append(1), "queue-0", descriptor)
    backend.free_irq(irq, descriptor)
    backend.free_irq(irq, descriptor)
    driver.on_lines(1)

    assert (pair_of(descriptor), rings) == (MARKER, [])
    assert device.msi is None or not device.msi.dispatch(80)
    assert backend.request_irq(NOTHING, "queue-0", descriptor) == 1


@pytest.mark.covers("EDMA 95", "EDMA 96")
@pytest.mark.parametrize(
    ("offset", "data", "valid"),
    [(0, 0, True), (0xA0, 0, True), (0, 0xFFFFFFFE, True), (0xFFFFFFFF, 0, False), (0, 0xFFFFFFFF, False)],
)
def test_only_all_ones_means_that_there_is_no_interrupt(offset: int, data: int, valid: bool) -> None:
    assert Descriptor(offset, data).is_valid is valid
