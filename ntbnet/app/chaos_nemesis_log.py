"""The nemesis's own log, beside those of the services: what was done to the bridge, on the same clock."""

from __future__ import annotations

from pathlib import Path
from typing import TextIO

from ntbnet.app.chaos_history import FaultRecord
from ntbnet.log import Logger

SERVICE = "nemesis"


class NemesisLog:
    """Writes ``nemesis.jsonl``.

    Args:
        folder: of the services' logs.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / f"{SERVICE}.jsonl"
        self._stream: TextIO = path.open("a", encoding="utf-8", buffering=1)
        bound = {"run_id": "none", "node": "host", "service": SERVICE, "epoch": 1}
        self._log = Logger(self._stream, "info", bound)

    def begin_life(self, run_id: str) -> None:
        """A bridge was started: from now on faults are done to that run."""
        self._log.bind(run_id=run_id)

    def note(self, fault: FaultRecord) -> None:
        """Write one down."""
        self._log.emit(
            "chaos.fault_done",
            injected=True,
            number=fault.number,
            kind=fault.kind,
            services=list(fault.services),
            at_ns=fault.at_ns,
            until_ns=fault.until_ns,
            note=fault.note,
        )

    def close(self) -> None:
        """Close the file."""
        self._stream.close()
