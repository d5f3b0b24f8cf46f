"""DesignWare eDMA registers, unroll map: global registers and one context for each channel.

INT_STATUS is read-only but a write to it, of any value, asks for an emulated interrupt: the
model hooks the write.  INT_CLEAR reads 0 and keeps nothing: the written value goes to the
hook, which clears those status bits and, whatever the value, ends an emulated interrupt.

Left out: the legacy viewport map and HDMA-native.  Reset values other than the channel counts
are taken as 0.  From general knowledge of the core, because Linux does not name them: bit 31 (STOP)
of the doorbells, the fields of the error status registers, and STATUS_HALTED.

Source: Linux dw-edma-v0-regs.h, dw-edma-v0-core.c.
"""

from __future__ import annotations

from enum import StrEnum

from ntbnet.regs.spec import RO, RW, WO, Access, Field, Register, RegisterBlock

MAX_CHANNELS = 8
"""Channels of one direction."""
EDMA_BYTES = 0x1200
"""Room of 8 + 8 channels, and of the global registers."""
CHANNEL_STRIDE = 0x200
WR_CHANNEL_BASE = 0x200
RD_CHANNEL_BASE = 0x300

STATUS_RUNNING = 1
STATUS_HALTED = 2
STATUS_STOPPED = 3
"""Values of CONTROL1.STATUS; a driver takes 0 and 2 for an error."""

ABORT_SHIFT = 16
"""Bit n of INT_STATUS, INT_MASK and INT_CLEAR is "done" of channel n, bit 16 + n is "abort"."""

ELEMENT_BYTES = 24
"""One linked-list slot."""
CONTROL_CB = 1 << 0
CONTROL_TCB = 1 << 1
CONTROL_LLP = 1 << 2
CONTROL_LIE = 1 << 3
CONTROL_RIE = 1 << 4
"""Control bits of a linked-list element: cycle bit, toggle it, is a link, local and remote interrupt."""


class Direction(StrEnum):
    """Of a channel, named from the engine's side: WRITE moves EP memory to the link."""

    WRITE = "WR"
    READ = "RD"

    def register(self, name: str) -> str:
        """Name of this direction's register, such as RD_INT_STATUS."""
        return f"{self.value}_{name}"


def _done_and_abort(access: Access) -> tuple[Field, ...]:
    return (Field("DONE", 0, MAX_CHANNELS, access), Field("ABORT", ABORT_SHIFT, MAX_CHANNELS, access))


def _imwr_data(offset: int, direction: str) -> tuple[Register, ...]:
    pair = (Field("EVEN", 0, 16, RW), Field("ODD", 16, 16, RW))
    return tuple(
        Register(offset + 2 * channel, f"{direction}_CH{channel}{channel + 1}_IMWR_DATA", pair)
        for channel in range(0, MAX_CHANNELS, 2)
    )


_DOORBELL = (Field("CHANNEL", 0, 3, WO), Field("STOP", 31, 1, WO))
_ENABLE = (Field("ENABLE", 0, 1, RW),)
_LIST_ERR_EN = (Field("CHANNELS", 0, MAX_CHANNELS, RW),)
_WR_ERR = (Field("LOCAL_READ", 0, MAX_CHANNELS, RO), Field("LIST_FETCH", 16, MAX_CHANNELS, RO))
_RD_ERR_LOW = (Field("LOCAL_WRITE", 0, MAX_CHANNELS, RO), Field("LIST_FETCH", 16, MAX_CHANNELS, RO))
_RD_ERR_HIGH = (
    Field("UNSUPPORTED", 0, MAX_CHANNELS, RO),
    Field("COMPLETER_ABORT", 8, MAX_CHANNELS, RO),
    Field("TIMEOUT", 16, MAX_CHANNELS, RO),
    Field("POISONED", 24, MAX_CHANNELS, RO),
)


def _context(base: int, direction: str, channels: int) -> tuple[Register, ...]:
    control1 = (
        Field("CB", 0, 1, RW),
        Field("TCB", 1, 1, RW),
        Field("LLP", 2, 1, RW),
        Field("LIE", 3, 1, RW),
        Field("RIE", 4, 1, RW),
        Field("STATUS", 5, 2, RO),
        Field("CCS", 8, 1, RW),
        Field("LLE", 9, 1, RW),
    )
    rows: tuple[tuple[int, str, Access | tuple[Field, ...]], ...] = (
        (0x00, "CONTROL1", control1),
        (0x04, "CONTROL2", RW),
        (0x08, "TRANSFER_SIZE", RW),
        (0x0C, "SAR_LOW", RW),
        (0x10, "SAR_HIGH", RW),
        (0x14, "DAR_LOW", RW),
        (0x18, "DAR_HIGH", RW),
        (0x1C, "LLP_LOW", RW),
        (0x20, "LLP_HIGH", RW),
    )
    return tuple(
        Register(base + offset, f"{direction}_{name}", body, count=channels, stride=CHANNEL_STRIDE)
        for offset, name, body in rows
    )


def edma_block(write_channels: int, read_channels: int) -> RegisterBlock:
    """The registers of an engine; per-channel registers are arrays indexed by channel.

    Raises:
        ValueError: a channel count is outside 1..8.
    """
    for channels in (write_channels, read_channels):
        if not 1 <= channels <= MAX_CHANNELS:
            raise ValueError(f"{channels} eDMA channels: allowed 1..{MAX_CHANNELS}")
    counts = (Field("WR_CHANNELS", 0, 4, RO, write_channels), Field("RD_CHANNELS", 16, 4, RO, read_channels))
    return RegisterBlock(
        name="edma",
        size=EDMA_BYTES,
        source="Linux dw-edma-v0-regs.h, unroll map",
        registers=(
            Register(0x000, "CTRL_DATA_ARB_PRIOR", RW),
            Register(0x008, "CTRL", counts),
            Register(0x00C, "WR_ENGINE_EN", _ENABLE),
            Register(0x010, "WR_DOORBELL", _DOORBELL),
            Register(0x018, "WR_CH_ARB_WEIGHT_LOW", RW),
            Register(0x01C, "WR_CH_ARB_WEIGHT_HIGH", RW),
            Register(0x02C, "RD_ENGINE_EN", _ENABLE),
            Register(0x030, "RD_DOORBELL", _DOORBELL),
            Register(0x038, "RD_CH_ARB_WEIGHT_LOW", RW),
            Register(0x03C, "RD_CH_ARB_WEIGHT_HIGH", RW),
            Register(0x04C, "WR_INT_STATUS", _done_and_abort(RO)),
            Register(0x054, "WR_INT_MASK", _done_and_abort(RW)),
            Register(0x058, "WR_INT_CLEAR", _done_and_abort(WO)),
            Register(0x05C, "WR_ERR_STATUS", _WR_ERR),
            Register(0x060, "WR_DONE_IMWR_LOW", RW),
            Register(0x064, "WR_DONE_IMWR_HIGH", RW),
            Register(0x068, "WR_ABORT_IMWR_LOW", RW),
            Register(0x06C, "WR_ABORT_IMWR_HIGH", RW),
            *_imwr_data(0x070, "WR"),
            Register(0x090, "WR_LINKED_LIST_ERR_EN", _LIST_ERR_EN),
            Register(0x0A0, "RD_INT_STATUS", _done_and_abort(RO)),
            Register(0x0A8, "RD_INT_MASK", _done_and_abort(RW)),
            Register(0x0AC, "RD_INT_CLEAR", _done_and_abort(WO)),
            Register(0x0B4, "RD_ERR_STATUS_LOW", _RD_ERR_LOW),
            Register(0x0B8, "RD_ERR_STATUS_HIGH", _RD_ERR_HIGH),
            Register(0x0C4, "RD_LINKED_LIST_ERR_EN", _LIST_ERR_EN),
            Register(0x0CC, "RD_DONE_IMWR_LOW", RW),
            Register(0x0D0, "RD_DONE_IMWR_HIGH", RW),
            Register(0x0D4, "RD_ABORT_IMWR_LOW", RW),
            Register(0x0D8, "RD_ABORT_IMWR_HIGH", RW),
            *_imwr_data(0x0DC, "RD"),
            Register(0x100, "WR_ENGINE_CHGROUP", RW),
            Register(0x104, "RD_ENGINE_CHGROUP", RW),
            Register(0x108, "WR_ENGINE_HSHAKE_CNT", RO, width_bytes=8),
            Register(0x118, "RD_ENGINE_HSHAKE_CNT", RO, width_bytes=8),
            Register(0x128, "WR_CH_PWR_EN", _ENABLE, count=MAX_CHANNELS),
            Register(0x168, "RD_CH_PWR_EN", _ENABLE, count=MAX_CHANNELS),
            *_context(WR_CHANNEL_BASE, "WR", write_channels),
            *_context(RD_CHANNEL_BASE, "RD", read_channels),
        ),
    )
