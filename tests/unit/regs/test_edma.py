from __future__ import annotations

import pytest

from ntbnet.regs.edma import edma_block
from ntbnet.regs.file import RegisterFile


@pytest.mark.covers("EDMA 105")
def test_ctrl_reports_the_channel_counts() -> None:
    file = RegisterFile(edma_block(5, 8))

    assert file.read(0x08, 4) == (0x00080005).to_bytes(4, "little")
    file.write(0x08, bytes(4))
    assert file.get("CTRL") == 0x00080005


@pytest.mark.covers("EDMA 106")
def test_channel_contexts_alternate() -> None:
    block = edma_block(8, 8)

    assert [block.offset("WR_CONTROL1", n) for n in (0, 1, 7)] == [0x200, 0x400, 0x1000]
    assert [block.offset("RD_CONTROL1", n) for n in (0, 1, 7)] == [0x300, 0x500, 0x1100]


def test_context_offsets() -> None:
    block = edma_block(1, 1)
    names = ("CONTROL1", "CONTROL2", "TRANSFER_SIZE", "SAR_LOW", "SAR_HIGH", "DAR_LOW", "DAR_HIGH", "LLP_LOW")

    assert [block.offset(f"RD_{name}") - 0x300 for name in names] == [0, 4, 8, 0xC, 0x10, 0x14, 0x18, 0x1C]
    assert block.offset("RD_LLP_HIGH") == 0x320


def test_global_offsets() -> None:
    block = edma_block(8, 8)

    assert {name: block.offset(name) for name in GLOBALS} == GLOBALS
    assert block.size == 0x1200


GLOBALS = {
    "CTRL_DATA_ARB_PRIOR": 0x000,
    "WR_ENGINE_EN": 0x00C,
    "WR_DOORBELL": 0x010,
    "RD_ENGINE_EN": 0x02C,
    "RD_DOORBELL": 0x030,
    "WR_INT_STATUS": 0x04C,
    "WR_INT_MASK": 0x054,
    "WR_INT_CLEAR": 0x058,
    "WR_ERR_STATUS": 0x05C,
    "WR_DONE_IMWR_LOW": 0x060,
    "WR_ABORT_IMWR_HIGH": 0x06C,
    "WR_CH01_IMWR_DATA": 0x070,
    "WR_CH67_IMWR_DATA": 0x07C,
    "WR_LINKED_LIST_ERR_EN": 0x090,
    "RD_INT_STATUS": 0x0A0,
    "RD_INT_MASK": 0x0A8,
    "RD_INT_CLEAR": 0x0AC,
    "RD_ERR_STATUS_LOW": 0x0B4,
    "RD_LINKED_LIST_ERR_EN": 0x0C4,
    "RD_DONE_IMWR_LOW": 0x0CC,
    "RD_ABORT_IMWR_HIGH": 0x0D8,
    "RD_CH01_IMWR_DATA": 0x0DC,
    "RD_CH67_IMWR_DATA": 0x0E8,
    "WR_ENGINE_CHGROUP": 0x100,
    "WR_ENGINE_HSHAKE_CNT": 0x108,
    "RD_ENGINE_HSHAKE_CNT": 0x118,
    "WR_CH_PWR_EN": 0x128,
    "RD_CH_PWR_EN": 0x168,
}


@pytest.mark.parametrize("value", [0, 0xFFFFFFFF])
def test_write_to_int_status_changes_no_bit_but_is_seen(value: int) -> None:
    """Any write asks for an emulated interrupt; the status bits stay what they are."""
    file = RegisterFile(edma_block(8, 8))
    file.set_field("RD_INT_STATUS", "DONE", 0x81)
    rings: list[int] = []
    file.on_write("RD_INT_STATUS", lambda *call: rings.append(call[2]))

    file.write(0xA0, value.to_bytes(4, "little"))

    assert file.get("RD_INT_STATUS") == 0x81
    assert rings == [0x81]


def test_write_to_int_clear_hands_the_bits_to_the_model_and_keeps_none() -> None:
    file = RegisterFile(edma_block(8, 8))
    cleared: list[int] = []
    file.on_write("RD_INT_CLEAR", lambda *call: cleared.append(call[2]))

    file.write(0xAC, (0x00810081).to_bytes(4, "little"))
    file.write(0xAC, bytes(4))

    assert cleared == [0x00810081, 0]
    assert file.read(0xAC, 4) == bytes(4)


def test_channel_status_is_not_the_buss_to_write() -> None:
    file = RegisterFile(edma_block(2, 2))
    file.set_field("RD_CONTROL1", "STATUS", 3, index=1)

    file.write(0x500, (1 << 9 | 1 << 5).to_bytes(4, "little"))

    assert file.get_field("RD_CONTROL1", "STATUS", index=1) == 3
    assert file.get_field("RD_CONTROL1", "LLE", index=1) == 1


def test_absent_channel_has_no_registers() -> None:
    file = RegisterFile(edma_block(2, 2), fill=0xFF)

    assert file.read(0x600, 4) == b"\xff" * 4
    with pytest.raises(ValueError, match=r"allowed 1\.\.8"):
        edma_block(9, 1)


def test_error_status_has_a_bit_for_each_channel_and_cause() -> None:
    block = edma_block(8, 8)
    fields = {
        name: {field.name: (field.lsb, field.width) for field in block.register(name).fields}
        for name in ("WR_ERR_STATUS", "RD_ERR_STATUS_LOW", "RD_ERR_STATUS_HIGH")
    }

    assert fields == {
        "WR_ERR_STATUS": {"LOCAL_READ": (0, 8), "LIST_FETCH": (16, 8)},
        "RD_ERR_STATUS_LOW": {"LOCAL_WRITE": (0, 8), "LIST_FETCH": (16, 8)},
        "RD_ERR_STATUS_HIGH": {
            "UNSUPPORTED": (0, 8),
            "COMPLETER_ABORT": (8, 8),
            "TIMEOUT": (16, 8),
            "POISONED": (24, 8),
        },
    }
    assert block.offset("RD_ERR_STATUS_HIGH") == 0xB8
