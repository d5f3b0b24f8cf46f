"""Target that reads trace rings, as somebody has damaged them, says what is in them, and exports it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from random import Random

from ntbnet.app.trace_text import as_object, as_text
from ntbnet.config import load_text
from ntbnet.edge.trace_rings import find_rings, merged
from ntbnet.trace_pcapng import PcapngTrace
from ntbnet.trace_perfetto import PerfettoTrace
from ntbnet.trace_places import Places
from ntbnet.trace_records import (
    HEADER_BYTES,
    RECORD_BYTES,
    Kind,
    Record,
    RingHeader,
    pack_header,
    pack_record,
)
from ntbnet.trace_stored import Stored
from ntbnet.trace_whole import whole_events
from tests.fuzz import mutate
from tests.fuzz.target import Target

CAPACITY = 16


class TraceRings(Target):
    """A ring file of any bytes, read, printed and exported."""

    name, share = "trace rings", 1

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="ntbnet-fuzz")
        self._path = Path(self._folder.name, "peer-rc.1.full")
        self._places = Places(load_text("", "fuzz"))

    def make(self, chance: Random) -> bytes:
        header = RingHeader(2, 4, CAPACITY, 1, 1, 10, 20, "run")
        first = chance.randrange(1, 1 << 40)
        slots = {}
        for number in range(first, first + chance.randrange(1, CAPACITY + 1)):
            kind, data = chance.choice([*Kind, *Stored]), chance.randbytes(64)
            fields = {
                "flags": chance.randrange(256),
                "source": chance.randrange(8),
                "result": chance.randrange(256),
                "translated": chance.getrandbits(64),
                "amount": chance.getrandbits(32),
                "tag": chance.getrandbits(32),
            }
            record = Record(chance.randrange(1 << 63), kind, **fields, length=chance.randrange(80), data=data)
            slots[(number - 1) % CAPACITY] = pack_record(record._replace(number=number))
        body = b"".join(slots.get(slot, bytes(RECORD_BYTES)) for slot in range(CAPACITY))
        whole = pack_header(header) + body
        return whole if chance.random() < 0.2 else mutate.octets(chance, whole)

    def read(self, data: bytes) -> None:
        self._path.write_bytes(data)
        rings, _ = find_rings(self._path.parent)
        entries = list(merged(rings))
        for entry in entries:
            assert as_text(entry)
            assert as_object(entry)
        assert all(PcapngTrace("fuzz", self._places, "").blocks(whole_events(entries)))
        assert all(PerfettoTrace(self._places).chunks(whole_events(entries)))
        assert len(data) >= HEADER_BYTES or not rings

    def close(self) -> None:
        self._folder.cleanup()
