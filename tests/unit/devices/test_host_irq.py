from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from ntbnet.devices.host_irq import IrqKind
from ntbnet.devices.msix import table_bytes
from ntbnet.errors import KernelError
from tests.unit.devices.epc_board import MSIX_CAP, Board
from tests.unit.devices.kit import EP_DRAM

MSI_TARGET, OTHER_TARGET = 0xF105_0040, 0xF206_0040
TABLE = 0x600
TABLE_MEMORY = EP_DRAM + 0x100000
BAR0 = 0xF020_0000


def refused(action: Callable[[], object]) -> int:
    with pytest.raises(KernelError) as failure:
        action()
    return failure.value.errno


def outbound_in_use(board: Board) -> int:
    return sum(window is not None for window in board.epc.iatu.outbound)


def with_msi() -> Board:
    board = Board()
    board.epc.set_msi(16)
    board.enable_msi(MSI_TARGET)
    return board


def with_msix(vectors: int = 16) -> Board:
    """A controller whose host filled the MSI-X table in BAR0 and enabled MSI-X, unmasked."""
    board = Board("rk3588", dram_base=EP_DRAM)
    board.epc.set_msi(16)
    board.epc.set_bar(0, 1 << 20, TABLE_MEMORY)
    board.epc.set_msix(vectors, 0, TABLE)
    board.place(0, BAR0)
    for vector in range(vectors):
        entry(board, vector, MSI_TARGET + 0x1000 * (vector % 2), 0x40 + vector, 0)
    board.write(MSIX_CAP + 2, 1 << 15, 2)
    return board


def entry(board: Board, vector: int, address: int, data: int, control: int) -> None:
    at = TABLE_MEMORY - EP_DRAM + TABLE + 16 * vector
    raw = address.to_bytes(8, "little") + data.to_bytes(4, "little") + control.to_bytes(4, "little")
    board.dram.store("test", at, raw)


@pytest.mark.covers("EDMA 53", "EDMA 59")
def test_msi_is_one_32_bit_write_of_data_and_vector_through_one_window() -> None:
    board = with_msi()
    for number in (1, 3, 16):
        board.epc.raise_irq(IrqKind.MSI, number)

    assert board.sent == [
        ("write", MSI_TARGET, (0x20 | number - 1).to_bytes(4, "little")) for number in (1, 3, 16)
    ]
    assert outbound_in_use(board) == 1


@pytest.mark.covers("EDMA 60")
def test_msi_whose_address_the_host_changed_moves_the_window() -> None:
    board = with_msi()
    board.epc.raise_irq(IrqKind.MSI, 1)
    board.enable_msi(OTHER_TARGET)
    board.epc.raise_irq(IrqKind.MSI, 1)

    assert [bus for _, bus, _ in board.sent] == [MSI_TARGET, OTHER_TARGET]
    assert outbound_in_use(board) == 1


@pytest.mark.covers("EDMA 61")
def test_stop_gives_the_msi_window_back() -> None:
    board = with_msi()
    board.epc.raise_irq(IrqKind.MSI, 1)
    board.epc.stop()

    assert outbound_in_use(board) == 0


@pytest.mark.covers("EDMA 54")
def test_msi_of_a_function_without_the_capability_is_einval() -> None:
    board = Board(msi=False)

    assert refused(lambda: board.epc.set_msi(1)) == errno.EINVAL
    assert refused(lambda: board.epc.raise_irq(IrqKind.MSI, 1)) == errno.EINVAL
    assert board.epc.get_msi() == 0


@pytest.mark.covers("EDMA 55")
def test_intx_is_einval() -> None:
    assert refused(lambda: with_msi().epc.raise_irq(IrqKind.INTX, 1)) == errno.EINVAL


def test_no_free_outbound_window_is_einval() -> None:
    board = with_msi()
    for number in range(16):
        board.epc.map_addr(0xFE10_0000 + 0x1000 * number, 0x8000_0000, 0x1000)

    assert refused(lambda: board.epc.raise_irq(IrqKind.MSI, 1)) == errno.EINVAL
    assert board.sent == []


@pytest.mark.covers("HAZARD 10.29")
def test_what_counts_is_what_the_host_enabled() -> None:
    board = with_msix()
    assert (board.epc.get_msi(), board.epc.get_msix()) == (0, 16)
    board.write(MSIX_CAP + 2, 0, 2)
    assert (board.epc.get_msi(), board.epc.get_msix()) == (0, 0)
    board.enable_msi(MSI_TARGET)

    assert (board.epc.get_msi(), board.epc.get_msix()) == (16, 0)


@pytest.mark.covers("EDMA 57")
def test_msix_writes_reads_back_and_unmaps() -> None:
    board = with_msix()
    board.epc.raise_irq(IrqKind.MSIX, 2)

    assert board.sent == [
        ("write", MSI_TARGET + 0x1000, (0x41).to_bytes(4, "little")),
        ("read", MSI_TARGET + 0x1000, 4),
    ]
    assert outbound_in_use(board) == 0


@pytest.mark.covers("EDMA 56")
def test_masked_msix_vector_is_eperm_and_writes_nothing() -> None:
    board = with_msix()
    entry(board, 4, MSI_TARGET, 0x44, 1)
    assert refused(lambda: board.epc.raise_irq(IrqKind.MSIX, 5)) == errno.EPERM
    board.write(MSIX_CAP + 2, 3 << 14, 2)

    assert refused(lambda: board.epc.raise_irq(IrqKind.MSIX, 1)) == errno.EPERM
    assert board.sent == []


@pytest.mark.covers("EDMA 58")
def test_msix_doorbell_register_takes_function_and_vector() -> None:
    board = with_msix()
    board.epc.irqs.ring_msix_doorbell(2)

    assert board.sent[0] == ("write", MSI_TARGET, (0x42).to_bytes(4, "little"))
    assert refused(lambda: board.epc.irqs.ring_msix_doorbell(1 << 24)) == errno.EINVAL
    assert refused(lambda: board.epc.irqs.ring_msix_doorbell(16)) == errno.EINVAL


@pytest.mark.parametrize("number", [0, 17])
def test_msix_vector_that_was_not_offered_is_einval(number: int) -> None:
    assert refused(lambda: with_msix().epc.raise_irq(IrqKind.MSIX, number)) == errno.EINVAL


def test_msix_with_bus_mastering_off_sends_nothing() -> None:
    board = with_msix()
    board.write(0x04, 2, 2)

    assert refused(lambda: board.epc.raise_irq(IrqKind.MSIX, 1)) == errno.EINVAL
    assert board.sent == []


def test_unaligned_msix_address_is_refused() -> None:
    board = with_msix()
    entry(board, 0, MSI_TARGET + 2, 0, 0)

    assert refused(lambda: board.epc.raise_irq(IrqKind.MSIX, 1)) == errno.EINVAL


def test_table_in_a_bar_without_memory_is_refused() -> None:
    board = with_msix()
    board.epc.unmap_bar(0)

    assert refused(lambda: board.epc.raise_irq(IrqKind.MSIX, 1)) == errno.EINVAL


def test_host_reads_where_table_and_pending_bits_are() -> None:
    board = with_msix(vectors=5)

    assert board.read(MSIX_CAP + 2, 2) & 0x7FF == 4
    assert board.read(MSIX_CAP + 4) == TABLE
    assert board.read(MSIX_CAP + 8) == TABLE + 16 * 5
    assert (table_bytes(5), table_bytes(64), table_bytes(65)) == (88, 1032, 1056)


@pytest.mark.parametrize(
    ("count", "bar", "offset"), [(0, 0, 0), (2049, 0, 0), (4, 6, 0), (4, 0, 4), (4, 0, -8), (4, 0, 1 << 32)]
)
def test_impossible_msix_table_is_refused(count: int, bar: int, offset: int) -> None:
    assert refused(lambda: Board("rk3588").epc.set_msix(count, bar, offset)) == errno.EINVAL


def test_controller_without_msix_refuses_it() -> None:
    assert refused(lambda: Board().epc.set_msix(4, 0, 0)) == errno.EINVAL
