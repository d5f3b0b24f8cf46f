"""Configuration space of a type 0 function: header, MSI (64-bit), MSI-X and Resizable BAR capabilities.

Left out: the PCI Express capability, per-vector masking of MSI, expansion ROM, INTx.  What is
left out reads 0.  The BAR registers hold plain words here; which of their bits exist is the
business of the BAR model.  A resizable BAR offers one size at a time, so its size field is
read-only: hardware ignores a size that is not offered.

Source: PCI Local Bus Specification 3.0, chapters 6.1, 6.8; PCI Express Base Specification, 7.8.6;
Linux pci_regs.h.  The capability offsets are those of DesignWare endpoints.
"""

from __future__ import annotations

from collections.abc import Sequence

from ntbnet.regs.spec import RO, RW, RW1C, Field, Register, RegisterBlock

CONFIG_BYTES = 4096
MSI_CAP_OFFSET = 0x50
MSIX_CAP_OFFSET = 0xB0
CAP_ID_MSI = 0x05
CAP_ID_MSIX = 0x11
REBAR_CAP_OFFSET = 0x100
EXT_CAP_ID_REBAR = 0x15
REBAR_BASE_LOG2 = 20
"""Size code 0 of the Resizable BAR capability is 2^20 bytes."""
BAR_COUNT = 6
MSI_MAX_VECTORS = 32
MSIX_MAX_VECTORS = 2048
MSIX_ENTRY_BYTES = 16

_HEADER = (
    Register(0x00, "VENDOR_ID", RO, width_bytes=2, reset=0xFFFF),
    Register(0x02, "DEVICE_ID", RO, width_bytes=2, reset=0xFFFF),
    Register(
        0x04,
        "COMMAND",
        (
            Field("MEMORY", 1, 1, RW),
            Field("BUS_MASTER", 2, 1, RW),
            Field("PARITY", 6, 1, RW),
            Field("SERR", 8, 1, RW),
            Field("INTX_DISABLE", 10, 1, RW),
        ),
        width_bytes=2,
    ),
    Register(0x08, "REVISION_ID", RO, width_bytes=1),
    Register(0x09, "PROG_IF", RO, width_bytes=1),
    Register(0x0A, "SUBCLASS", RO, width_bytes=1),
    Register(0x0B, "BASE_CLASS", RO, width_bytes=1),
    Register(0x0C, "CACHE_LINE_SIZE", RW, width_bytes=1),
    Register(0x0D, "LATENCY_TIMER", RO, width_bytes=1),
    Register(0x0E, "HEADER_TYPE", RO, width_bytes=1),
    Register(0x0F, "BIST", RO, width_bytes=1),
    Register(0x10, "BAR", RW, count=BAR_COUNT),
    Register(0x28, "CARDBUS_CIS", RO),
    Register(0x2C, "SUBSYSTEM_VENDOR_ID", RO, width_bytes=2),
    Register(0x2E, "SUBSYSTEM_ID", RO, width_bytes=2),
    Register(0x30, "ROM_ADDRESS", RO),
    Register(0x3C, "INTERRUPT_LINE", RW, width_bytes=1),
    Register(0x3D, "INTERRUPT_PIN", RO, width_bytes=1),
    Register(0x3E, "MIN_GRANT", RO, width_bytes=1),
    Register(0x3F, "MAX_LATENCY", RO, width_bytes=1),
)


def _status(has_capabilities: bool) -> Register:
    return Register(
        0x06,
        "STATUS",
        (
            Field("CAPABILITIES", 4, 1, RO, reset=int(has_capabilities)),
            Field("MASTER_PARITY_ERROR", 8, 1, RW1C),
            Field("SIGNALED_TARGET_ABORT", 11, 1, RW1C),
            Field("RECEIVED_TARGET_ABORT", 12, 1, RW1C),
            Field("RECEIVED_MASTER_ABORT", 13, 1, RW1C),
            Field("SIGNALED_SYSTEM_ERROR", 14, 1, RW1C),
            Field("DETECTED_PARITY_ERROR", 15, 1, RW1C),
        ),
        width_bytes=2,
    )


def _msi(next_cap: int) -> tuple[Register, ...]:
    cap = MSI_CAP_OFFSET
    return (
        Register(cap, "MSI_CAP_ID", RO, width_bytes=1, reset=CAP_ID_MSI),
        Register(cap + 0x1, "MSI_NEXT", RO, width_bytes=1, reset=next_cap),
        Register(
            cap + 0x2,
            "MSI_CONTROL",
            (
                Field("ENABLE", 0, 1, RW),
                Field("MULTIPLE_CAPABLE", 1, 3, RO),
                Field("MULTIPLE_ENABLE", 4, 3, RW),
                Field("ADDRESS_64", 7, 1, RO, reset=1),
            ),
            width_bytes=2,
        ),
        Register(cap + 0x4, "MSI_ADDRESS_LOW", (Field("ADDR", 2, 30, RW),)),
        Register(cap + 0x8, "MSI_ADDRESS_HIGH", RW),
        Register(cap + 0xC, "MSI_DATA", RW, width_bytes=2),
    )


def _msix(next_cap: int) -> tuple[Register, ...]:
    cap = MSIX_CAP_OFFSET
    place = (Field("BIR", 0, 3, RO), Field("OFFSET", 3, 29, RO))
    return (
        Register(cap, "MSIX_CAP_ID", RO, width_bytes=1, reset=CAP_ID_MSIX),
        Register(cap + 0x1, "MSIX_NEXT", RO, width_bytes=1, reset=next_cap),
        Register(
            cap + 0x2,
            "MSIX_CONTROL",
            (
                Field("TABLE_SIZE", 0, 11, RO),
                Field("FUNCTION_MASK", 14, 1, RW),
                Field("ENABLE", 15, 1, RW),
            ),
            width_bytes=2,
        ),
        Register(cap + 0x4, "MSIX_TABLE", place),
        Register(cap + 0x8, "MSIX_PBA", place),
    )


def _rebar(bars: Sequence[int]) -> tuple[Register, ...]:
    """One pair of registers for each resizable BAR; only the first one tells how many there are."""
    cap = REBAR_CAP_OFFSET
    registers = [Register(cap, "REBAR_HEADER", RO, reset=EXT_CAP_ID_REBAR | 1 << 16)]
    for number, bar in enumerate(bars):
        control = (
            Field("BAR_INDEX", 0, 3, RO, reset=bar),
            Field("BAR_COUNT", 5, 3, RO, reset=0 if number else len(bars)),
            Field("BAR_SIZE", 8, 6, RO),
        )
        sizes = (Field("SIZES", 4, 28, RO, reset=1),)
        registers.append(Register(cap + 0x4 + 8 * number, f"REBAR{bar}_CAP", sizes))
        registers.append(Register(cap + 0x8 + 8 * number, f"REBAR{bar}_CONTROL", control))
    return tuple(registers)


def config_block(*, msi: bool, msix: bool = False, resizable: Sequence[int] = ()) -> RegisterBlock:
    """The configuration space of one function with the capabilities asked for, chained in order.

    ``resizable`` lists the BARs of the Resizable BAR capability; REBARn_CAP.SIZES bit k offers
    2^(20 + k) bytes and REBARn_CONTROL.BAR_SIZE is the k in use.  MSIX_CONTROL.TABLE_SIZE holds
    the table's entries minus one; MSIX_TABLE and MSIX_PBA hold the BAR (BIR) and the offset in
    8-byte units (OFFSET).
    """
    chain = [MSI_CAP_OFFSET] * msi + [MSIX_CAP_OFFSET] * msix
    registers = [
        *_HEADER,
        _status(bool(chain)),
        Register(0x34, "CAPABILITY_POINTER", RO, width_bytes=1, reset=chain[0] if chain else 0),
    ]
    if msi:
        registers += _msi(MSIX_CAP_OFFSET if msix else 0)
    if msix:
        registers += _msix(0)
    if resizable:
        registers += _rebar(resizable)
    return RegisterBlock(
        name="config_type0",
        size=CONFIG_BYTES,
        source="PCI Local Bus Specification 3.0, 6.1 and 6.8; Linux pci_regs.h",
        registers=tuple(sorted(registers, key=lambda register: register.offset)),
    )


def msix_table_block(vectors: int) -> RegisterBlock:
    """The MSI-X table in a BAR: ``vectors`` entries of 16 bytes.

    Raises:
        ValueError: vectors is outside 1..2048.
    """
    if not 1 <= vectors <= MSIX_MAX_VECTORS:
        raise ValueError(f"{vectors} MSI-X vectors: allowed 1..{MSIX_MAX_VECTORS}")
    stride = MSIX_ENTRY_BYTES
    return RegisterBlock(
        name="msix_table",
        size=vectors * stride,
        source="PCI Local Bus Specification 3.0, 6.8.2",
        registers=(
            Register(0x0, "ADDRESS_LOW", (Field("ADDR", 2, 30, RW),), count=vectors, stride=stride),
            Register(0x4, "ADDRESS_HIGH", RW, count=vectors, stride=stride),
            Register(0x8, "DATA", RW, count=vectors, stride=stride),
            Register(
                0xC, "VECTOR_CONTROL", (Field("MASK", 0, 1, RW, reset=1),), count=vectors, stride=stride
            ),
        ),
    )
