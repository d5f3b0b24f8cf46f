"""What a process of the bridge notes down while it runs: the format of one trace ring, byte by byte.

A ring is a file of a header and a fixed number of records of 128 bytes; the newest record replaces the
oldest. All integers are little-endian. Every process has a ring of its own, which nobody else writes to.

Header, ``HEADER_BYTES`` long, padded with zeros:

======  ====  ============  ==========================================================
offset  size  field         content
======  ====  ============  ==========================================================
0       8     magic         ``NTBTRACE``
8       2     version       ``VERSION``
10      2     record_bytes  ``RECORD_BYTES``
12      1     level         ``Level`` of the records
13      1     service       ``wire.Service``
14      2     reserved      0
16      4     capacity      records there is room for, 1..``MAX_CAPACITY``
20      4     pid           of the process, 1..``MAX_PID``
24      4     incarnation   start number of the process
28      4     reserved      0
32      8     made_mono_ns  monotonic ns when the ring was made
40      8     made_wall_ns  the same moment, ns since 1970
48      16    run_id        of the run, ASCII
64      8     seen_ns       monotonic ns when the ring was closed in order; 0: it was not
======  ====  ============  ==========================================================

Record number n (from 1) lies in slot ``(n - 1) % capacity``:

======  ====  ==========  ==========================================================
offset  size  field       content
======  ====  ==========  ==========================================================
0       8     mono_ns     monotonic ns (one clock for all processes of a machine)
8       1     kind        ``Kind``
9       1     flags       ``Flag`` bits
10      1     source      the other ``wire.Service`` of this record; 0: none
11      1     result      ``Result``
12      4     epoch       link epoch; 0: none
16      8     flow        joins the records of one frame or message (see below); 0: none
24      8     address     where the requester accessed: bus address, or by kind
32      8     translated  where that lies behind the translation; by flag
40      4     length      bytes accessed, or of the packet
44      2     queue       transport queue; of an access its BAR
46      2     slot        translation window, interrupt vector, frame of the ring: by kind
48      4     amount      frames in the ring, duration in ns, offset in the BAR: by kind
52      4     tag         matches a completion to its request
56      64    data        begin of what was stored, read or sent; or text, UTF-8
120     8     number      n; stored last, so a record whose writer was killed is not there
======  ====  ==========  ==========================================================

``trace_kinds`` says what each kind has in these fields. What is not said is 0. Rings have some
records that stand for several (``trace_stored``).

Flows. No id travels: both sides make the same one from what both know.

======  ===========  ==========================================================
bits    of a frame   of a message
======  ===========  ==========================================================
63..60  1            2; a wake of fabric ``local``: 3
59..57  sender node  sending ``wire.Service``
56..54  0            receiving ``wire.Service``
53..49  queue        session, its low 22 bits (53..32); of a wake 0
48..32  epoch        (its low 17 bits)
31..0   ``ver``      number on its path in that session; of a wake its number in time
======  ===========  ==========================================================

A frame's ``ver`` begins at 0 whenever the queue's link comes up, so after a new link in the same epoch, or
after 2^32 frames, an id comes again: of several TUN_READ the last one before a TUN_WRITE is its begin.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from struct import Struct
from typing import NamedTuple

from ntbnet.errors import WireError

MAGIC = b"NTBTRACE"
VERSION = 1
HEADER_BYTES = 256
RECORD = Struct("<QBBBBIQQQIHHII64sQ")
RECORD_BYTES = RECORD.size
DATA_BYTES = 64
NUMBER_AT = 120
SEEN_AT = 64
AMOUNT_MAX = 0xFFFFFFFF
"""Largest ``amount``; of a handler that took longer than its 4.3 s this is told."""
EVENT_PARTS = 4
"""Most records of one event."""
MAX_CAPACITY = 1 << 20
"""Most records of a ring: 128 MiB."""
MAX_PID = (1 << 31) - 1
"""A pid_t is signed; so is what Perfetto's format has for it."""
SERVICES = ("", "rc-host", "epc", "edma", "peer-rc", "peer-ep")
"""Labels by ``wire.Service``; 0 is nobody."""

_HEADER = Struct("<8sHHBBHIIIIQQ16sQ")
_U64 = Struct("<Q")


class Level(IntEnum):
    """How much is noted down."""

    OFF = 0
    COARSE = 1
    """Starts, ends, paths, link, epochs, events of the log: always on."""
    FULL = 2
    """Everything, while ``ntbnet trace`` is started; in a ring of its own."""


class Kind(IntEnum):
    """What happened."""

    START = 1
    STOP = 2
    LEVEL = 3
    PATH = 4
    EVENT = 5
    BEAT = 6
    SLICE = 8
    TUN_READ = 16
    RING_WRITE = 17
    TRIGGER = 18
    TUN_WRITE = 19
    RING_FILL = 20
    MEM_WRITE = 32
    MEM_READ = 33
    COMPLETION = 34
    CFG_READ = 35
    CFG_WRITE = 36
    MSI = 40
    LINE = 41
    IRQ = 42
    REG_READ = 48
    REG_WRITE = 49
    OTHER = 56


class Flag(IntFlag):
    """Properties of a record."""

    SENT = 1
    """This process sent it; without: it came here, or happened here."""
    DIRECT = 2
    """Stored in place, past every path (fabric ``local``)."""
    TRANSLATED = 4
    """``translated`` and ``slot`` are valid."""
    OUTBOUND = 8
    """By a window from the endpoint to the host; without: by a BAR, from the host to the endpoint."""
    WAKE = 16
    """By the FIFO of fabric ``local``, past every path."""
    UP = 32
    """Of PATH: it came up."""


class Result(IntEnum):
    """What became of it; the PCIe encoding of completion status, and what only a requester sees."""

    OK = 0
    UR = 1
    CA = 4
    MERGED = 0xFD
    """An interrupt that waits, with those equal to it, for one more run of its handler."""
    DROPPED = 0xFE
    TIMEOUT = 0xFF


class Handler(IntEnum):
    """Which handler a SLICE is of (its ``slot``)."""

    MESSAGE = 1
    WAKE = 2
    TIMER = 3
    TUN = 4
    POLL = 5
    AGAIN = 6
    """Of an interrupt, once for all that came while it was handled, or one that a fault repeats."""


class Block(IntEnum):
    """Whose registers REG_READ and REG_WRITE are of (their ``slot``)."""

    EDMA = 1


class Record(NamedTuple):
    """One record; see the table above."""

    mono_ns: int
    kind: int
    flags: int = 0
    source: int = 0
    result: int = 0
    epoch: int = 0
    flow: int = 0
    address: int = 0
    translated: int = 0
    length: int = 0
    queue: int = 0
    slot: int = 0
    amount: int = 0
    tag: int = 0
    data: bytes = b""
    number: int = 0


class RingHeader(NamedTuple):
    """The header of a ring; see the table above."""

    level: int
    service: int
    capacity: int
    pid: int
    incarnation: int
    made_mono_ns: int
    made_wall_ns: int
    run_id: str
    seen_ns: int = 0

    @property
    def label(self) -> str:
        """The service by name."""
        return SERVICES[self.service]

    @property
    def size_bytes(self) -> int:
        """Length of the file."""
        return HEADER_BYTES + self.capacity * RECORD_BYTES

    def wall_ns(self, mono_ns: int) -> int:
        """Wall time of a moment, ns since 1970, as the clocks stood when the ring was made."""
        return self.made_wall_ns + mono_ns - self.made_mono_ns


class Entry(NamedTuple):
    """A record, and the ring that it is of."""

    ring: RingHeader
    record: Record


_new_record = tuple.__new__


def pack_header(header: RingHeader) -> bytes:
    """The ``HEADER_BYTES`` of a ring."""
    packed = _HEADER.pack(
        MAGIC,
        VERSION,
        RECORD_BYTES,
        header.level,
        header.service,
        0,
        header.capacity,
        header.pid,
        header.incarnation,
        0,
        header.made_mono_ns,
        header.made_wall_ns,
        header.run_id.encode("ascii", "replace"),
        header.seen_ns,
    )
    return packed.ljust(HEADER_BYTES, b"\0")


def decode_header(data: bytes | memoryview) -> RingHeader:
    """The header of a ring, from bytes that nobody vouches for.

    Raises:
        WireError: names the field that is wrong.
    """
    if len(data) < HEADER_BYTES:
        raise WireError(f"trace ring: {len(data)} bytes, the header has {HEADER_BYTES}")
    (
        magic,
        version,
        record_bytes,
        level,
        service,
        _,
        capacity,
        pid,
        incarnation,
        _,
        mono,
        wall,
        run_id,
        seen,
    ) = _HEADER.unpack_from(data)
    if magic != MAGIC:
        raise WireError("trace ring: not one, its first bytes are others")
    if version != VERSION or record_bytes != RECORD_BYTES:
        mine = f"this build reads {VERSION}, {RECORD_BYTES}"
        raise WireError(f"trace ring: version {version}, records of {record_bytes}; {mine}")
    if level not in (Level.COARSE, Level.FULL):
        raise WireError(f"trace ring: level {level}")
    if not 1 <= service < len(SERVICES):
        raise WireError(f"trace ring: service {service}")
    if not 1 <= capacity <= MAX_CAPACITY:
        raise WireError(f"trace ring: capacity {capacity}, allowed 1..{MAX_CAPACITY}")
    if not 1 <= pid <= MAX_PID:
        raise WireError(f"trace ring: pid {pid}, allowed 1..{MAX_PID}")
    text = run_id.rstrip(b"\0").decode("ascii", "replace")
    return RingHeader(level, service, capacity, pid, incarnation, mono, wall, text, seen)


def pack_record(record: Record) -> bytes:
    """The 128 bytes of a record; ``data`` is cut off behind 64 bytes."""
    return RECORD.pack(*record)


def decode_record(data: bytes | memoryview, offset: int = 0) -> Record:
    """The record at ``offset``; its fields are what they are: an unknown kind is no error.

    ``data`` is as long as ``length`` says, 64 bytes at most; text ends before its first zero byte.
    """
    fields = RECORD.unpack_from(data, offset)
    kept = fields[14]
    if fields[1] in _TEXT:
        kept = kept.split(b"\0", 1)[0]
    elif fields[9] < DATA_BYTES:
        kept = kept[: fields[9]]
    return _new_record(Record, (*fields[:14], kept, fields[15]))


_TEXT = {int(Kind.START), int(Kind.LEVEL), int(Kind.PATH), int(Kind.EVENT), int(Kind.OTHER)}


def number_of(data: bytes | memoryview, offset: int = 0) -> int:
    """Number of the record at ``offset``, 0 for none."""
    number: int = _U64.unpack_from(data, offset + NUMBER_AT)[0]
    return number


FRAME_FLOW, MESSAGE_FLOW, WAKE_FLOW = 1, 2, 3
"""What a flow is of: its highest 4 bits."""


def frame_flow(node: int, queue: int, epoch: int, ver: int) -> int:
    """Flow of a frame that node 0 (rc) or 1 (ep) sends."""
    return 1 << 60 | node << 57 | (queue & 31) << 49 | (epoch & 0x1FFFF) << 32 | ver & 0xFFFFFFFF


def message_flow(src: int, dst: int, session: int, sequence: int) -> int:
    """Flow of a message on a path; services are ``wire.Service``."""
    return 2 << 60 | src << 57 | dst << 54 | (session & 0x3FFFFF) << 32 | sequence & 0xFFFFFFFF


def wake_flow(src: int, dst: int, number: int) -> int:
    """Flow of a wake; the reader counts them (``edge.trace_rings``)."""
    return 3 << 60 | src << 57 | dst << 54 | number & 0xFFFFFFFF


def flow_type(flow: int) -> int:
    """``FRAME_FLOW``, ``MESSAGE_FLOW``, ``WAKE_FLOW``; 0: no flow."""
    return flow >> 60
