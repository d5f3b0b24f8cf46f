from __future__ import annotations

from pathlib import Path

from ntbnet.regs.cfgspace import config_block, msix_table_block
from ntbnet.regs.edma import edma_block
from ntbnet.regs.iatu import window_block
from ntbnet.regs.ntb_ctrl import CLASSIC, RFC1
from ntbnet.regs.transport import FRAME_HEADER

GOLDEN = Path(__file__).parents[2] / "golden" / "registers.txt"


def dump() -> str:
    blocks = (
        CLASSIC,
        RFC1,
        FRAME_HEADER,
        config_block(msi=True, msix=True),
        msix_table_block(16),
        window_block(),
        edma_block(8, 8),
    )
    return "\n".join(block.to_text() for block in blocks)


def test_register_tables_are_those_reviewed() -> None:
    """A changed table is a changed protocol: review the difference, then store dump() in the file."""
    assert dump() == GOLDEN.read_text(encoding="utf-8")
