"""The one message schema: what travels between ntbnet's processes, byte by byte.

A message is a fixed 64-byte header and, when the kind has one, a payload. One frame of ZeroMQ holds one
message or several, one behind the other.
All integers are little-endian.

======  ====  ===========  ==========================================================
offset  size  field        content
======  ====  ===========  ==========================================================
0       1     version      ``SCHEMA_VERSION``
1       1     kind         ``Kind``
2       2     flags        0
4       1     src          sending ``Service``
5       1     dst          receiving ``Service``
6       2     reserved     0
8       4     incarnation  start number of the sending process
12      4     session      session of this path (see ``devices/path.py``)
16      4     epoch        link epoch the sender acted under, 0 where none applies
20      4     tag          matches an answer to its request
24      8     sequence     number of this message on its path and session, from 0
32      8     address      bus or CPU address, config offset, interrupt bits
40      4     length       bytes of payload behind the header
44      4     arg          request size, status, errno, interrupt source: by kind
48      8     timestamp    monotonic ns of the sender
56      8     checksum     XXH3-64 of the payload, seeded with the XXH3-64 of bytes 0..55,
                           itself seeded with the key of the run (0: none)
======  ====  ===========  ==========================================================

Control bodies (HELLO, OPEN, CALL, REPLY, NOTICE) are msgpack maps.  This module alone knows the
format; ``decode`` trusts nothing: it checks type, range, length and checksum of every field
and raises WireError naming the field.  Changed bytes mean a new ``SCHEMA_VERSION``.

The key is 64 random bits that all services of one run share (``RunDir.secret``).  It keeps out
who can reach a socket but cannot read the run folder: what he makes up fails the checksum.  It
is no cryptographic MAC: XXH3 is not made to resist whoever has seen messages and their checksums.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from struct import Struct
from typing import Any, NamedTuple, TypeAlias

import msgpack
from xxhash import xxh3_64_intdigest

from ntbnet.errors import WireError

SCHEMA_VERSION = 1
HEADER_BYTES = 64
MAX_PAYLOAD_BYTES = 1 << 20
"""Longest payload, bytes: no posted burst is longer than one whole transport ring of 1 MiB."""
MAX_READ_BYTES = 4096
"""Longest read request, bytes: PCIe's largest Max_Read_Request_Size (spec)."""
MAX_BODY_ITEMS = 1024

_HEAD = Struct("<BBHBBHIIIIQQIIQ")
_FIELDS = Struct("<xB10xIIIQQII")
_ROUTE = Struct("<4xBB6xI8xQ")
_FRONT = Struct("<BBHBBHII")
"""What of a header is the same in each message of one kind and session."""
_FRONT_BYTES = _FRONT.size
_REST = Struct("<IIQQIIQ")
_REST_AND_CHECKSUM = Struct("<IIQQIIQQ")
_SUMMED_BYTES = HEADER_BYTES - 8
_U64 = Struct("<Q")
_new = tuple.__new__
_LENGTH_AT = 40
_VIEW_FROM_BYTES = 1024


class Service(IntEnum):
    """The five processes; the number is the one on the wire."""

    RC_HOST = 1
    EPC = 2
    EDMA = 3
    PEER_RC = 4
    PEER_EP = 5

    @property
    def label(self) -> str:
        """The name people use: ``rc-host``, ``epc``, ``edma``, ``peer-rc``, ``peer-ep``."""
        return self.name.lower().replace("_", "-")


SERVICE_BY_LABEL = {service.label: service for service in Service}
LABELS = {service: service.label for service in Service}


class Kind(IntEnum):
    """What a message is; 1..15 belong to the path itself, 16.. to the devices."""

    HELLO = 1
    OPEN = 2
    ACCEPT = 3
    CLOSE = 4
    BEAT = 5
    MEM_WRITE = 16
    MEM_READ = 17
    COMPLETION = 18
    CFG_READ = 19
    CFG_WRITE = 20
    IRQ = 24
    CALL = 32
    REPLY = 33
    NOTICE = 34


# an attribute of an enum class is looked up by Python code, in Python 3.11: each message would pay for it
_MEM_WRITE, _MEM_READ, _COMPLETION = int(Kind.MEM_WRITE), int(Kind.MEM_READ), int(Kind.COMPLETION)
_CFG_READ, _CFG_WRITE, _IRQ = int(Kind.CFG_READ), int(Kind.CFG_WRITE), int(Kind.IRQ)
_CALL, _REPLY, _NOTICE = int(Kind.CALL), int(Kind.REPLY), int(Kind.NOTICE)
_DEVICE_KINDS = tuple(int(kind) for kind in Kind if kind >= Kind.MEM_WRITE)


class Status(IntEnum):
    """Completion status: the PCIe encoding (spec), and what only a requester can see."""

    OK = 0
    UR = 1
    CA = 4
    TIMEOUT = 0xFF


class IrqSource(IntEnum):
    """Where an interrupt comes from; says what ``Irq.bits`` holds."""

    MSI_VECTOR = 1
    """RC: ``bits`` is the 0-based MSI vector index. EP: the number stored to its MSI controller's page."""
    DOORBELL_SLOTS = 2
    """EP: ``bits`` is the set of doorbell slots the poll found rung."""
    EDMA_LINE = 3
    """EP: ``bits`` is the set of eDMA interrupt lines that are high."""
    PEER_DOORBELL = 4
    """EP to its controller: ``bits`` is the set of doorbell bits to ring on the RC."""


@dataclass(slots=True)
class MemWrite:
    """Posted memory write of ``data`` to ``addr``."""

    addr: int
    data: bytes | memoryview
    epoch: int = 0


@dataclass(slots=True)
class MemRead:
    """Non-posted read of ``size`` bytes (1..4096) from ``addr``."""

    addr: int
    size: int
    tag: int
    epoch: int = 0


@dataclass(slots=True)
class Completion:
    """Answer to the non-posted request ``tag``; ``data`` is empty unless status is OK."""

    tag: int
    status: Status
    data: bytes | memoryview = b""
    epoch: int = 0


@dataclass(slots=True)
class CfgRead:
    """Configuration read of ``size`` bytes (1, 2, 4) at ``offset`` (0..4095, aligned to size)."""

    offset: int
    size: int
    tag: int
    epoch: int = 0


@dataclass(slots=True)
class CfgWrite:
    """Configuration write of 1, 2 or 4 bytes at ``offset`` (0..4095); non-posted."""

    offset: int
    data: bytes | memoryview
    tag: int
    epoch: int = 0


@dataclass(slots=True)
class Irq:
    """An interrupt on its way to a CPU; never overtakes what was sent before it."""

    source: IrqSource
    bits: int
    epoch: int = 0


@dataclass(slots=True)
class Call:
    """A request of a driver to a neighbouring service; answered by Reply with the same tag."""

    op: str
    args: dict[str, Any]
    tag: int
    epoch: int = 0


@dataclass(slots=True)
class Reply:
    """Answer to a Call: ``error`` is 0 or a positive errno, ``body`` holds results or ``reason``."""

    tag: int
    error: int
    body: dict[str, Any]
    epoch: int = 0


@dataclass(slots=True)
class Notice:
    """A change of state the receiver has to know (device added, link event); not answered."""

    name: str
    args: dict[str, Any] = field(default_factory=dict)
    epoch: int = 0


Message: TypeAlias = MemWrite | MemRead | Completion | CfgRead | CfgWrite | Irq | Call | Reply | Notice


class Header(NamedTuple):
    """A decoded header, in wire order; its ranges are checked."""

    version: int
    kind: int
    flags: int
    src: int
    dst: int
    reserved: int
    incarnation: int
    session: int
    epoch: int
    tag: int
    sequence: int
    address: int
    length: int
    arg: int
    timestamp_ns: int


def encode_control(
    kind: Kind,
    src: int,
    dst: int,
    incarnation: int,
    session: int,
    *,
    arg: int = 0,
    sequence: int = 0,
    timestamp_ns: int = 0,
    body: dict[str, Any] | None = None,
    key: int = 0,
) -> tuple[bytes, bytes]:
    """Header and payload of a message of the path itself (HELLO .. BEAT); ``key`` as for ``Encoder``."""
    payload = b"" if body is None else _pack_body(body)
    head = _HEAD.pack(
        SCHEMA_VERSION,
        kind,
        0,
        src,
        dst,
        0,
        incarnation,
        session,
        0,
        0,
        sequence,
        0,
        len(payload),
        arg,
        timestamp_ns,
    )
    return head + _U64.pack(xxh3_64_intdigest(payload, xxh3_64_intdigest(head, key))), payload


class Encoder:
    """Messages that one end sends in one session: what is the same in each is put together once.

    Args:
        src, dst: service numbers.
        incarnation: start number of the sending process.
        session: of the path.
        key: seeds the checksum, 0..2^64-1: the receiver needs the same.
    """

    __slots__ = ("_fronts", "_key")

    def __init__(self, src: int, dst: int, incarnation: int, session: int, key: int = 0) -> None:
        self._key = key
        self._fronts = {
            kind: _FRONT.pack(SCHEMA_VERSION, kind, 0, src, dst, 0, incarnation, session)
            for kind in _DEVICE_KINDS
        }

    def encode(self, message: Message, sequence: int, timestamp_ns: int) -> tuple[bytes, bytes | memoryview]:
        """Header and payload of ``message``, the session's message ``sequence``."""
        address = arg = tag = 0
        payload: bytes | memoryview = b""
        if isinstance(message, MemWrite):
            kind, address, payload = _MEM_WRITE, message.addr, message.data
        elif isinstance(message, Irq):
            kind, address, arg = _IRQ, message.bits, message.source
        elif isinstance(message, MemRead):
            kind, address, arg, tag = _MEM_READ, message.addr, message.size, message.tag
        elif isinstance(message, Completion):
            kind, arg, tag, payload = _COMPLETION, message.status, message.tag, message.data
        elif isinstance(message, CfgRead):
            kind, address, arg, tag = _CFG_READ, message.offset, message.size, message.tag
        elif isinstance(message, CfgWrite):
            kind, address, tag, payload = _CFG_WRITE, message.offset, message.tag, message.data
        elif isinstance(message, Call):
            kind, tag = _CALL, message.tag
            payload = _pack_body({"op": message.op, "args": message.args})
        elif isinstance(message, Reply):
            kind, tag, arg = _REPLY, message.tag, message.error
            payload = _pack_body(message.body)
        else:
            kind = _NOTICE
            payload = _pack_body({"name": message.name, "args": message.args})
        head = self._fronts[kind] + _REST.pack(
            message.epoch, tag, sequence, address, len(payload), arg, timestamp_ns
        )
        return head + _U64.pack(xxh3_64_intdigest(payload, xxh3_64_intdigest(head, self._key))), payload


class Decoder:
    """The usual messages that one end is sent in one session, posted writes and interrupts, checked as one.

    Args:
        as ``Encoder`` has them, the sender's.
    """

    __slots__ = ("_fronts", "_key")

    def __init__(self, src: int, dst: int, incarnation: int, session: int, key: int = 0) -> None:
        self._key = key
        self._fronts = {
            _FRONT.pack(SCHEMA_VERSION, kind, 0, src, dst, 0, incarnation, session): kind == _MEM_WRITE
            for kind in (_MEM_WRITE, _IRQ)
        }

    def decode_next(self, frame: bytes, payload: bytes | memoryview, sequence: int) -> MemWrite | Irq | None:
        """The message, when it is one of these, the session's message ``sequence``, and right in every field.

        None: whoever wants to know what it is instead asks ``decode_header`` and ``decode_message``, which
        take what this takes.
        """
        is_write = self._fronts.get(frame[:_FRONT_BYTES])
        if is_write is None or len(frame) != HEADER_BYTES:
            return None
        epoch, _, number, address, length, arg, _, checksum = _REST_AND_CHECKSUM.unpack_from(
            frame, _FRONT_BYTES
        )
        if number != sequence or length != len(payload):
            return None
        if checksum != xxh3_64_intdigest(payload, xxh3_64_intdigest(frame[:_SUMMED_BYTES], self._key)):
            return None
        if is_write:
            is_right = 0 < length <= MAX_PAYLOAD_BYTES and address + length <= 1 << 64
            return MemWrite(address, payload, epoch) if is_right else None
        source = _IRQ_SOURCES.get(arg)
        return None if source is None or length else Irq(source, address, epoch)


def split(frame: bytes) -> Iterator[tuple[bytes, bytes | memoryview]]:
    """Headers and payloads of the messages in one frame, as far as the headers' lengths say.

    Nothing is checked here: what is cut short comes out short, for ``decode_header`` to refuse. Long
    payloads are views of the frame.
    """
    at, end = 0, len(frame)
    while True:
        body = at + HEADER_BYTES
        header = frame[at:body]
        at = body + int.from_bytes(header[_LENGTH_AT : _LENGTH_AT + 4], "little")
        yield header, frame[body:at] if at - body < _VIEW_FROM_BYTES else memoryview(frame)[body:at]
        if at >= end:
            return


def decode_header(frame: bytes | memoryview, payload: bytes | memoryview, key: int = 0) -> Header:
    """The header of a message, after version, length and checksum were found right.

    ``key`` is the one the sender gave its ``Encoder``.

    Raises:
        WireError: names the field that is wrong; nothing of the message may be used.
    """
    if len(frame) != HEADER_BYTES:
        raise WireError(f"header: {len(frame)} bytes, expected {HEADER_BYTES}")
    header: Header = _new(Header, _HEAD.unpack_from(frame))
    length = header.length
    if header.version != SCHEMA_VERSION:
        raise WireError(f"version: {header.version}, this build speaks {SCHEMA_VERSION}")
    if length != len(payload):
        raise WireError(f"length: header says {length}, payload has {len(payload)} bytes")
    if length > MAX_PAYLOAD_BYTES:
        raise WireError(f"length: {length} above {MAX_PAYLOAD_BYTES}")
    digest = xxh3_64_intdigest(payload, xxh3_64_intdigest(frame[:_SUMMED_BYTES], key))
    if digest != _U64.unpack_from(frame, _SUMMED_BYTES)[0]:
        raise WireError("checksum: does not match header and payload")
    if header.flags or header.reserved:
        raise WireError(f"flags: {header.flags:#x}/{header.reserved:#x}, expected 0")
    return header


def decode_message(header: Header, payload: bytes | memoryview) -> Message:
    """The device message behind a checked header (kind 16 and above).

    Raises:
        WireError: a field has a value its kind does not allow.
    """
    kind = header.kind
    if kind == _MEM_WRITE:
        address = header.address
        if not header.length or address + header.length > 1 << 64:
            _refuse(not header.length, "length", 0, "1..")
            raise WireError(f"address: {address:#x}, allowed: inside 64 bits")
        return MemWrite(address, payload, header.epoch)
    if kind == _IRQ:
        source = _IRQ_SOURCES.get(header.arg)
        if source is None or header.length:
            _refuse(source is None, "arg", header.arg, "an interrupt source")
            raise WireError(f"length: {header.length:#x}, allowed: 0")
        return Irq(source, header.address, header.epoch)
    if kind == _MEM_READ:
        _refuse(not 1 <= header.arg <= MAX_READ_BYTES, "arg", header.arg, f"1..{MAX_READ_BYTES}")
        _refuse(header.address + header.arg > 1 << 64, "address", header.address, "inside 64 bits")
        _refuse(header.length != 0, "length", header.length, "0")
        return MemRead(header.address, header.arg, header.tag, header.epoch)
    if kind == _COMPLETION:
        _refuse(header.arg not in _STATUSES, "arg", header.arg, "a completion status")
        _refuse(header.length > MAX_READ_BYTES, "length", header.length, f"0..{MAX_READ_BYTES}")
        return Completion(header.tag, _STATUSES[header.arg], payload, header.epoch)
    if kind == _CFG_READ:
        _check_config_access(header.address, header.arg)
        _refuse(header.length != 0, "length", header.length, "0")
        return CfgRead(header.address, header.arg, header.tag, header.epoch)
    if kind == _CFG_WRITE:
        _check_config_access(header.address, header.length)
        return CfgWrite(header.address, payload, header.tag, header.epoch)
    if kind == _CALL:
        body = unpack_body(payload)
        op, args = body.get("op"), body.get("args")
        if not isinstance(op, str) or not isinstance(args, dict) or len(body) != 2:
            raise WireError("body: a call has op (text) and args (map)")
        return Call(op, args, header.tag, header.epoch)
    if kind == _REPLY:
        _refuse(header.arg > 4095, "arg", header.arg, "an errno")
        return Reply(header.tag, header.arg, unpack_body(payload), header.epoch)
    if kind == _NOTICE:
        body = unpack_body(payload)
        name, args = body.get("name"), body.get("args")
        if not isinstance(name, str) or not isinstance(args, dict) or len(body) != 2:
            raise WireError("body: a notice has name (text) and args (map)")
        return Notice(name, args, header.epoch)
    raise WireError(f"kind: {kind} is none of a device's")


def fields_of(header: bytes) -> tuple[int, int, int, int, int, int, int, int]:
    """Kind, session, epoch, tag, sequence, address, length, arg of a header that was made or checked here."""
    return _FIELDS.unpack_from(header)


def route_of(header: bytes) -> tuple[int, int, int, int]:
    """Source, destination, session, sequence of a header that was made or checked here."""
    return _ROUTE.unpack_from(header)


def _check_config_access(offset: int, size: int) -> None:
    _refuse(size not in (1, 2, 4), "size", size, "1, 2 or 4")
    _refuse(offset > 4096 - size or offset % size != 0, "offset", offset, "0..4095, aligned to its size")


def _refuse(wrong: bool, name: str, value: int, allowed: str) -> None:
    if wrong:
        raise WireError(f"{name}: {value:#x}, allowed: {allowed}")


def _pack_body(body: dict[str, Any]) -> bytes:
    packed: bytes = msgpack.packb(body)
    return packed


def unpack_body(payload: bytes | memoryview) -> dict[str, Any]:
    """A msgpack map with text keys; WireError when the payload is anything else."""
    try:
        body = msgpack.unpackb(
            payload, raw=False, strict_map_key=False, max_array_len=MAX_BODY_ITEMS, max_map_len=MAX_BODY_ITEMS
        )
    except Exception as problem:  # noqa: BLE001 - msgpack documents no common base for what bad bytes raise
        raise WireError(f"body: no msgpack ({type(problem).__name__})") from None
    if not isinstance(body, dict) or not all(isinstance(key, str) for key in body):
        raise WireError("body: not a map with text keys")
    return body


_IRQ_SOURCES = {int(source): source for source in IrqSource}
_STATUSES = {int(status): status for status in Status}
