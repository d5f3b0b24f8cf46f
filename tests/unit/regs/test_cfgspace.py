from __future__ import annotations

import pytest

from ntbnet.regs.cfgspace import config_block, msix_table_block
from ntbnet.regs.file import RegisterFile


def test_header_offsets() -> None:
    block = config_block(msi=True)

    offsets = {
        name: block.offset(name)
        for name in ("VENDOR_ID", "DEVICE_ID", "COMMAND", "STATUS", "BASE_CLASS", "HEADER_TYPE", "BAR")
    }

    assert offsets == {
        "VENDOR_ID": 0x00,
        "DEVICE_ID": 0x02,
        "COMMAND": 0x04,
        "STATUS": 0x06,
        "BASE_CLASS": 0x0B,
        "HEADER_TYPE": 0x0E,
        "BAR": 0x10,
    }
    assert block.offset("BAR", 5) == 0x24
    assert block.offset("CAPABILITY_POINTER") == 0x34
    assert block.offset("INTERRUPT_PIN") == 0x3D
    assert block.size == 4096


def test_msi_capability_has_the_64_bit_layout() -> None:
    file = RegisterFile(config_block(msi=True))
    cap = file.read(0x34, 1)[0]

    assert file.read(cap, 2) == b"\x05\x00"
    assert file.get("MSI_CONTROL") == 0x80
    assert file.block.offset("MSI_CONTROL") == cap + 2
    assert file.block.offset("MSI_ADDRESS_LOW") == cap + 4
    assert file.block.offset("MSI_ADDRESS_HIGH") == cap + 8
    assert file.block.offset("MSI_DATA") == cap + 12


def test_capabilities_are_chained() -> None:
    file = RegisterFile(config_block(msi=True, msix=True))

    first = file.read(0x34, 1)[0]
    second = file.read(first + 1, 1)[0]

    assert file.read(first, 1) == b"\x05"
    assert file.read(second, 2) == b"\x11\x00"
    assert file.block.offset("MSIX_CONTROL") == second + 2
    assert file.block.offset("MSIX_TABLE") == second + 4
    assert file.block.offset("MSIX_PBA") == second + 8


def test_function_without_capabilities_says_so() -> None:
    file = RegisterFile(config_block(msi=False))

    assert file.read(0x34, 1) == b"\x00"
    assert file.get_field("STATUS", "CAPABILITIES") == 0


def test_host_cannot_change_what_the_function_offers() -> None:
    file = RegisterFile(config_block(msi=True))

    file.write(0x00, b"\xff" * 4)
    file.write(file.block.offset("MSI_CONTROL"), b"\xff\xff")
    file.write(file.block.offset("MSI_ADDRESS_LOW"), b"\xff" * 4)

    assert file.get("MSI_CONTROL") == 0xF1
    assert file.get("MSI_ADDRESS_LOW") == 0xFFFFFFFC


def test_status_errors_are_cleared_by_writing_one() -> None:
    file = RegisterFile(config_block(msi=True))
    file.set_field("STATUS", "RECEIVED_MASTER_ABORT", 1)
    file.set_field("STATUS", "DETECTED_PARITY_ERROR", 1)

    file.write(0x06, (1 << 13).to_bytes(2, "little"))

    assert file.get("STATUS") == 1 << 15 | 1 << 4


def test_write_of_command_alone_leaves_the_status_errors() -> None:
    file = RegisterFile(config_block(msi=True))
    file.set_field("STATUS", "RECEIVED_MASTER_ABORT", 1)

    file.write(0x04, b"\x06\x00")

    assert file.get_field("COMMAND", "MEMORY") == 1
    assert file.get_field("COMMAND", "BUS_MASTER") == 1
    assert file.get_field("STATUS", "RECEIVED_MASTER_ABORT") == 1


def test_space_behind_the_capabilities_reads_zero() -> None:
    file = RegisterFile(config_block(msi=True))

    assert file.read(0x100, 4) == bytes(4)
    assert file.unmapped_reads == 1


def test_msix_entries_start_masked() -> None:
    table = RegisterFile(msix_table_block(4))

    assert table.block.size == 64
    assert table.read(0x1C, 4) == b"\x01\x00\x00\x00"
    assert table.block.offset("DATA", 3) == 0x38
    with pytest.raises(ValueError, match="2048"):
        msix_table_block(2049)
