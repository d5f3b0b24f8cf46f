from __future__ import annotations

from typing import Any

import pytest

from ntbnet.devices.dw_edma import DwEdmas, MapFormat
from ntbnet.devices.effects import Log, Outbox
from ntbnet.devices.intr_select import Choice, choose
from ntbnet.devices.msi_domain import MsiDomain
from tests.unit.devices.intr_device import CONTROL, MSI_WORD, WIRED, IntrDevice, engines


class Chosen:
    """A choice, and what was logged about it."""

    def __init__(self, device: IntrDevice, **changes: Any) -> None:
        outbox = Outbox()
        known: dict[str, Any] = {
            "wanted": "auto",
            "widx": 1,
            "edmas": engines(),
            "on_descriptor_changed": lambda: None,
        }
        self.choice: Choice = choose(device, outbox, **(known | changes))
        self.log = [(effect.event, dict(effect.keys)) for effect in outbox.take() if isinstance(effect, Log)]

    @property
    def failures(self) -> list[dict[str, Any]]:
        return [keys for event, keys in self.log if event == "intr.failed"]


def both() -> IntrDevice:
    return IntrDevice(resources=(CONTROL,), msi=MsiDomain(MSI_WORD, (80, 81)))


@pytest.mark.covers("EDMA 89", "NTB 180")
@pytest.mark.parametrize("wanted", ["auto", "true"])
def test_msi_comes_first(wanted: str) -> None:
    found = Chosen(both(), wanted=wanted)

    assert (found.choice.name, found.choice.receives) == ("msi", True)
    assert found.log == [("intr.chosen", {"backend": "msi", "reason": "device has MSI data"})]


@pytest.mark.covers("EDMA 90", "NTB 180")
@pytest.mark.parametrize("wanted", ["auto", "true"])
def test_edma_comes_second(wanted: str) -> None:
    found = Chosen(IntrDevice(resources=(CONTROL,)), wanted=wanted)

    assert (found.choice.name, found.choice.widx) == ("dw-edma-testirq", 1)
    assert found.failures == []


@pytest.mark.covers("EDMA 90", "NTB 180")
@pytest.mark.parametrize("wanted", ["auto", "true"])
def test_neither_is_enodev_and_a_warning_only_where_interrupts_were_asked_for(wanted: str) -> None:
    found = Chosen(IntrDevice(resources=(CONTROL,)), wanted=wanted, edmas=None)

    assert (found.choice.name, found.choice.backend) == ("doorbell", None)
    assert "ENODEV" in found.choice.reason
    assert "transport.dw_edma = false" in found.choice.reason
    assert len(found.failures) == (wanted == "true")


@pytest.mark.covers("EDMA 91")
def test_failing_init_falls_back_to_doorbells_and_not_to_the_next_backend() -> None:
    device = both()
    found = Chosen(device, widx=2)

    assert found.choice.name == "doorbell"
    assert found.choice.reason == "msi failed: EINVAL: no memory window 2 for interrupts"
    assert [keys["backend"] for keys in found.failures] == ["msi"]


@pytest.mark.covers("EDMA 91", "HAZARD 11.g")
@pytest.mark.parametrize(
    ("device", "edmas", "reason"),
    [
        (IntrDevice(), engines(), "ENODEV: device has no endpoint controller with an eDMA"),
        (IntrDevice(resources=(CONTROL,)), DwEdmas(), "ENODEV: no driver for the eDMA at 0xe65d5000"),
        (
            IntrDevice(resources=(CONTROL,)),
            engines(MapFormat.HDMA_NATIVE),
            "ENOTSUP: an eDMA with HDMA_NATIVE registers has no test interrupt",
        ),
        (
            IntrDevice(resources=(WIRED,)),
            engines(),
            "EINVAL: the hardware wires the eDMA into BAR4, the interrupt window is in BAR2",
        ),
    ],
    ids=["no-controller", "no-driver", "no-register", "other-bar"],
)
@pytest.mark.parametrize("wanted", ["auto", "true"])
def test_every_failure_of_the_edma_backend_is_one_warning_with_its_reason(
    device: IntrDevice, edmas: DwEdmas, reason: str, wanted: str
) -> None:
    found = Chosen(device, edmas=edmas, wanted=wanted)

    assert found.choice.backend is None
    assert found.choice.reason == f"dw-edma-testirq failed: {reason}"
    assert len(found.failures) == 1
    assert reason in found.failures[0]["reason"]


def test_false_takes_doorbells_without_looking() -> None:
    found = Chosen(both(), wanted="false")

    assert found.log == [("intr.chosen", {"backend": "doorbell", "reason": "transport.use_intr = false"})]


@pytest.mark.covers("EDMA 93")
def test_without_a_window_for_interrupts_no_backend_is_initialised() -> None:
    device = both()
    assert Chosen(device, widx=None).choice.backend is None
    device.mw_sizes = [0xF0000]

    assert Chosen(device, widx=0).choice.backend is None


def test_driver_that_has_every_vector_rings_its_peer_but_is_not_rung() -> None:
    found = Chosen(IntrDevice(msi=MsiDomain(0, ())))

    assert found.choice.backend is not None
    assert (found.choice.name, found.choice.receives) == ("doorbell", False)
    assert found.choice.reason.startswith("no MSI vector is left")
    assert found.failures == []
