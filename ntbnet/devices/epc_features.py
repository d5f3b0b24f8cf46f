"""What a function and its controller tell each other once: the header it shows, the features it may use.

Source: Linux pci-epf.h, struct pci_epf_header; pci-epc.h, struct pci_epc_features.
"""

from __future__ import annotations

from dataclasses import dataclass

from ntbnet.devices.bar import BarSpec
from ntbnet.profile import EndpointHardware


@dataclass(frozen=True, slots=True)
class EpcHeader:
    """What a function shows of itself; ``class_code`` is base class and subclass, 16 bits."""

    vendor_id: int
    device_id: int
    class_code: int
    subsystem_vendor_id: int = 0
    subsystem_id: int = 0
    revision_id: int = 0


@dataclass(frozen=True, slots=True)
class EpcFeatures:
    """What a function may ask of the controller.

    Attributes:
        align: of inbound targets and outbound windows, bytes.
    """

    linkup_notifier: bool
    map_inbound: bool
    dynamic_inbound_mapping: bool
    subrange_mapping: bool
    msi_capable: bool
    msix_capable: bool
    intx_capable: bool
    align: int
    bars: tuple[BarSpec, ...]


def features_of(endpoint: EndpointHardware, bars: tuple[BarSpec, ...], align: int) -> EpcFeatures:
    """The features of a platform; no link-up notifier and no INTx, as DesignWare endpoints have it.

    ``align`` is what the iATU's registers say.
    """
    return EpcFeatures(
        linkup_notifier=False,
        map_inbound=endpoint.map_inbound,
        dynamic_inbound_mapping=endpoint.dynamic_inbound_mapping,
        subrange_mapping=endpoint.subrange_mapping,
        msi_capable=endpoint.msi,
        msix_capable=endpoint.msix,
        intx_capable=False,
        align=align,
        bars=bars,
    )
