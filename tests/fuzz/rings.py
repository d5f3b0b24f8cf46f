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
    Flag,
    Kind,
    Record,
    Result,
    RingHeader,
    pack_header,
    pack_record,
)
from ntbnet.trace_stored import Stored
from ntbnet.trace_whole import whole_events
from ntbnet.wire import Service
from tests.fuzz import mutate
from tests.fuzz.target import Target

CAPACITY = 16
_PAIR = ((Service.EDMA, Service.PEER_EP), (Service.PEER_EP, Service.EDMA))


class TraceRings(Target):
    """Ring files of any bytes, of two services that wake each other, read, printed and exported."""

    name, share = "trace rings", 1

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="ntbnet-fuzz")
        self._paths = [Path(self._folder.name, f"{label}.1.full") for label in ("edma", "peer-ep")]
        self._places = Places(load_text("", "fuzz"))

    def make(self, chance: Random) -> bytes:
        """One ring behind the other, half of the records each; the length of the first one in front."""
        edma, ep = (self._ring(chance, int(one), int(other)) for one, other in _PAIR)
        return len(edma).to_bytes(4, "little") + edma + ep

    def _ring(self, chance: Random, service: int, other: int) -> bytes:
        header = RingHeader(2, service, CAPACITY, 1, 1, 10, 20, "run")
        first = chance.randrange(1, 1 << 40)
        slots = {}
        for number in range(first, first + chance.randrange(1, CAPACITY + 1)):
            fields = {
                "kind": chance.choice([*Kind, *Stored]),
                "flags": chance.randrange(256),
                "source": chance.randrange(8),
                "result": chance.randrange(256),
                "translated": chance.getrandbits(64),
                "amount": chance.getrandbits(32),
                "tag": chance.getrandbits(32),
            }
            if chance.random() < 0.5:
                wake = chance.choice([Flag.WAKE, Flag.WAKE | Flag.SENT])
                result = chance.choice([Result.OK, Result.MERGED, Result.DROPPED])
                fields |= {"kind": Kind.LINE, "flags": wake, "source": other, "result": result}
            at, data = chance.randrange(1 << chance.choice((8, 63))), chance.randbytes(64)
            record = Record(at, **fields, address=chance.randrange(2), length=chance.randrange(80), data=data)
            slots[(number - 1) % CAPACITY] = pack_record(record._replace(number=number))
        body = b"".join(slots.get(slot, bytes(RECORD_BYTES)) for slot in range(CAPACITY))
        whole = pack_header(header) + body
        return whole if chance.random() < 0.2 else mutate.octets(chance, whole)

    def read(self, data: bytes) -> None:
        end = 4 + int.from_bytes(data[:4], "little")
        parts = data[4:end], data[end:]
        for path, part in zip(self._paths, parts, strict=True):
            path.write_bytes(part)
        rings, _ = find_rings(self._paths[0].parent)
        entries = list(merged(rings))
        for entry in entries:
            assert as_text(entry)
            assert as_object(entry)
        assert all(PcapngTrace("fuzz", self._places, "").blocks(whole_events(entries)))
        assert all(PerfettoTrace(self._places).chunks(whole_events(entries)))
        assert len(rings) <= sum(len(part) >= HEADER_BYTES for part in parts)

    def close(self) -> None:
        self._folder.cleanup()
