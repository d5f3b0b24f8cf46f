from __future__ import annotations

import pytest

from ntbnet.regs.file import RegisterFile
from ntbnet.regs.ntb_ctrl import (
    CLASSIC,
    LAYOUTS,
    RFC1,
    Command,
    CommandStatus,
    db_bit_of_slot,
    slot_of_db_bit,
)

HEAD = {
    "command": (0x00, 4),
    "argument": (0x04, 4),
    "command_status": (0x08, 2),
    "link_status": (0x0A, 2),
    "topology": (0x0C, 4),
    "addr": (0x10, 8),
    "size": (0x18, 8),
    "num_mws": (0x20, 4),
}


@pytest.mark.covers("NTB 1")
def test_classic_block_is_308_bytes_and_rfc1_336() -> None:
    assert CLASSIC.size == 308
    assert RFC1.size == 336
    assert LAYOUTS == {"classic": CLASSIC, "rfc1": RFC1}


@pytest.mark.covers("NTB 2", "EDMA 64")
def test_classic_offsets() -> None:
    expected = HEAD | {
        "mw1_offset": (0x24, 4),
        "spad_offset": (0x28, 4),
        "spad_count": (0x2C, 4),
        "db_entry_size": (0x30, 4),
        "db_data": (0x34, 4),
        "db_offset": (0xB4, 4),
    }

    assert {r.name: (r.offset, r.width_bytes) for r in CLASSIC.registers} == expected


@pytest.mark.covers("NTB 3", "EDMA 65")
def test_rfc1_offsets() -> None:
    expected = HEAD | {
        "mw_offset": (0x24, 4),
        "mw_size": (0x34, 4),
        "spad_offset": (0x44, 4),
        "spad_count": (0x48, 4),
        "db_entry_size": (0x4C, 4),
        "db_data": (0x50, 4),
        "db_offset": (0xD0, 4),
    }

    assert {r.name: (r.offset, r.width_bytes) for r in RFC1.registers} == expected


@pytest.mark.parametrize("layout", ["classic", "rfc1"])
def test_layout_has_no_gap(layout: str) -> None:
    block = LAYOUTS[layout]

    assert sum(element.end - element.start for element in block.elements) == block.size


def test_arrays_have_32_doorbells_and_4_windows() -> None:
    assert CLASSIC.offset("db_data", 31) == 0xB0
    assert CLASSIC.offset("db_offset", 31) == 0x130
    assert RFC1.offset("mw_offset", 3) == 0x30
    assert RFC1.offset("mw_size", 3) == 0x40
    assert RFC1.offset("db_data", 31) == 0xCC
    assert RFC1.offset("db_offset", 31) == 0x14C


def test_all_bytes_of_the_classic_block_can_be_stored_though_it_is_no_multiple_of_eight() -> None:
    file = RegisterFile(CLASSIC)

    file.write(0x130, (7).to_bytes(8, "little"))

    assert file.get("db_offset", 31) == 7
    assert file.dropped_writes == 1


def test_command_and_status_codes() -> None:
    assert {command.name: int(command) for command in Command} == {
        "NONE": 0,
        "CONFIGURE_DOORBELL": 1,
        "TEARDOWN_DOORBELL": 2,
        "CONFIGURE_MW": 3,
        "TEARDOWN_MW": 4,
        "LINK_UP": 5,
        "LINK_DOWN": 6,
    }
    assert {status.name: int(status) for status in CommandStatus} == {"PENDING": 0, "OK": 1, "ERROR": 2}


@pytest.mark.covers("EDMA 74")
def test_doorbell_bit_uses_the_slot_two_above() -> None:
    assert slot_of_db_bit(0) == 2
    assert slot_of_db_bit(29) == 31
    assert [db_bit_of_slot(slot) for slot in (0, 1, 2, 31)] == [None, None, 0, 29]
    with pytest.raises(ValueError, match=r"allowed 0\.\.29"):
        slot_of_db_bit(30)
    with pytest.raises(ValueError, match=r"allowed 0\.\.31"):
        db_bit_of_slot(32)
