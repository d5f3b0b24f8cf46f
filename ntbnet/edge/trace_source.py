"""The flight recorder of one service, always on and coarse; and where it learns that it is to trace all.

What traces everything is imported, and its ring made, only when the run folder says so: at a start of the
service, or when somebody has it look (``trace look``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ntbnet import __version__
from ntbnet.edge.rundir import RunDir
from ntbnet.edge.trace_ring import Note, TraceRing
from ntbnet.errors import SetupError
from ntbnet.log import Logger
from ntbnet.trace_records import DATA_BYTES, EVENT_PARTS, SERVICES, Flag, Kind, Level

if TYPE_CHECKING:
    from ntbnet.edge.driver import Driver

_U32 = 0xFFFFFFFF
_PATH_IN_THE_LOG = "path.changed"
"""Has a kind of its own."""


class TraceSource:
    """Rings of one process.

    Args:
        run: run folder of the bridge, there.
        service: label of the service.
        incarnation: start number of this process.
        run_id: of the run.
        log: of the service; every event of it goes into the flight recorder.
        records: of the flight recorder; 0: there is none.
        packet_at: first byte of the IP packet in what the TUN gives.
    """

    def __init__(
        self,
        run: RunDir,
        service: str,
        incarnation: int,
        run_id: str,
        log: Logger,
        *,
        records: int,
        packet_at: int,
    ) -> None:
        self._run, self._service, self._incarnation, self._run_id = run, service, incarnation, run_id
        self._log, self._packet_at = log, packet_at
        self._full: TraceRing | None = None
        self._coarse = self._make(Level.COARSE, records) if records else None
        self._note: Note | None = None if self._coarse is None else self._coarse.note
        if self._note is not None:
            self._note(Kind.START, amount=incarnation & _U32, data=__version__.encode())
            log.on_event = self._on_event

    def _make(self, level: Level, records: int) -> TraceRing | None:
        try:
            return TraceRing(
                self._run.trace_folder, self._service, self._incarnation, level, records, self._run_id
            )
        except SetupError as problem:
            self._log.emit("trace.unavailable", reason=str(problem))
            return None

    # the flight recorder

    def _on_event(self, event: str, keys: Mapping[str, Any]) -> None:
        note = self._note
        if note is None or event == _PATH_IN_THE_LOG:
            return
        text = " ".join((event, *(f"{key}={value}" for key, value in keys.items()))).encode(
            "utf-8", "replace"
        )
        parts = [text[at : at + DATA_BYTES] for at in range(0, len(text), DATA_BYTES)][:EVENT_PARTS]
        for number, part in enumerate(parts):
            note(Kind.EVENT, slot=number, amount=len(parts), data=part)

    def path_changed(self, peer: str, *, up: bool, session: int, reason: str) -> None:
        """A path came up in ``session``, or went down."""
        if self._note is not None:
            flags, text = (Flag.UP if up else 0), reason.encode("utf-8", "replace")
            self._note(Kind.PATH, flags, SERVICES.index(peer), address=session, data=text)

    def beat(self, received: int, sent: int, wakes: int, packets: tuple[int, int]) -> None:
        """So many messages and wakes, and packets to and from the other node, since the process began."""
        if self._note is not None:
            self._note(
                Kind.BEAT,
                flow=wakes,
                address=received,
                translated=sent,
                length=packets[0] & _U32,
                amount=packets[1] & _U32,
            )

    def close(self) -> None:
        """The service ends in order."""
        if self._note is not None:
            self._note(Kind.STOP)
        for ring in (self._full, self._coarse):
            if ring is not None:
                ring.close()

    # traces

    def look_first(self, driver: Driver) -> None:
        """Trace what is to be traced from the start of the service on."""
        if self._run.wanted_trace() is not None:
            self.look(driver)

    def look(self, driver: Driver) -> dict[str, Any]:
        """Begin or end a trace, as the run folder says now; the answer to ``trace look``."""
        records = self._run.wanted_trace()
        if records is None:
            self._end(driver)
            return {"ok": True}
        if self._full is None:
            ring = self._make(Level.FULL, records)
            if ring is None:
                return {"error": f"{self._service} has no ring; see its log"}
            self._begin(driver, ring)
        return {"ok": True}

    def _begin(self, driver: Driver, ring: TraceRing) -> None:
        from ntbnet.edge.tracer import Tracer

        self._full = ring
        driver.trace(Tracer(self._service, ring.notes, driver.device, self._packet_at))
        self._switched(Level.FULL)
        self._log.emit("trace.started", records=ring.capacity)

    def _end(self, driver: Driver) -> None:
        ring, self._full = self._full, None
        if ring is not None:
            driver.trace(None)
            ring.close()
            self._switched(Level.COARSE)
            self._log.emit("trace.stopped")

    def _switched(self, level: Level) -> None:
        if self._note is not None:
            self._note(Kind.LEVEL, slot=level)

    def report(self) -> dict[str, Any]:
        """The level, and the ring of a trace; the answer to ``trace``."""
        level = Level.FULL if self._full else Level.COARSE if self._coarse else Level.OFF
        ring = None if self._full is None else self._full.path.name
        return {"level": level.name.lower(), "ring": ring}
