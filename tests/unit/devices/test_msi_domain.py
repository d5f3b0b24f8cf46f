from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from ntbnet.devices.msi_domain import MsiDomain
from ntbnet.errors import KernelError

PAGE = 0x0802_0040


class Recorder:
    """Counts interrupts and rewritten messages."""

    def __init__(self) -> None:
        self.rings = 0
        self.rewrites = 0

    def handler(self) -> None:
        self.rings += 1

    def rewritten(self) -> None:
        self.rewrites += 1

    def request(self, domain: MsiDomain) -> int:
        return domain.request(self.handler, self.rewritten)


def refused(action: Callable[[], object]) -> int:
    with pytest.raises(KernelError) as failure:
        action()
    return failure.value.errno


def test_message_runs_the_handler_that_requested_it_and_no_other() -> None:
    domain, first, second = MsiDomain(PAGE, (80, 81)), Recorder(), Recorder()
    irqs = first.request(domain), second.request(domain)

    assert irqs == (1, 2)
    assert domain.dispatch(domain.data(irqs[1]))
    assert (first.rings, second.rings) == (0, 1)
    assert not domain.dispatch(79)


@pytest.mark.covers("NTB 178")
def test_no_vector_left_is_enodev() -> None:
    domain, one = MsiDomain(PAGE, (80,)), Recorder()
    irq = one.request(domain)

    assert refused(lambda: one.request(domain)) == errno.ENODEV
    assert refused(lambda: one.request(MsiDomain(0, ()))) == errno.ENODEV
    domain.release(irq)
    assert one.request(domain) == irq


def test_retargeted_interrupt_keeps_its_number_and_gets_another_message() -> None:
    domain, one = MsiDomain(PAGE, (80, 81)), Recorder()
    irq = one.request(domain)
    domain.retarget(irq)

    assert (domain.data(irq), one.rewrites) == (81, 1)
    assert not domain.dispatch(80)
    assert domain.dispatch(81)
    one.request(domain)
    assert refused(lambda: domain.retarget(irq)) == errno.ENOSPC


@pytest.mark.parametrize("irq", [0, 2, -1])
def test_number_that_nobody_requested_is_einval(irq: int) -> None:
    domain = MsiDomain(PAGE, (80, 81))
    Recorder().request(domain)

    assert refused(lambda: domain.release(irq)) == errno.EINVAL
    assert refused(lambda: domain.data(irq)) == errno.EINVAL
    assert refused(lambda: domain.retarget(irq)) == errno.EINVAL
