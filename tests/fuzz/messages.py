"""Targets that read messages of other processes: wire, path, wakes, grants, questions, ZAP."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path as FilePath
from random import Random
from select import PIPE_BUF
from struct import Struct
from typing import Any

import msgpack
import zmq
from xxhash import xxh3_64_intdigest

from ntbnet.devices.path import Path, PathState
from ntbnet.devices.root_complex import RootComplex
from ntbnet.edge import wake
from ntbnet.edge.curve import Guard
from ntbnet.edge.driver import Driver
from ntbnet.edge.keys import KeyPair, KeyRing
from ntbnet.errors import PeerError, WireError
from ntbnet.log import Logger
from ntbnet.wire import (
    HEADER_BYTES,
    SCHEMA_VERSION,
    Irq,
    IrqSource,
    Kind,
    MemWrite,
    Message,
    decode_header,
    decode_message,
    encode_control,
    split,
    unpack_body,
)
from tests.frames import encode
from tests.fuzz import mutate
from tests.fuzz.target import Target
from tests.unit.devices.cpu_bus import GRANTS, IDENT, Cpu
from tests.unit.devices.kit import RC_DRAM, config, dram
from tests.unit.test_wire import MESSAGES

KEY = 0x1234_5678_9ABC_DEF0
HEAD = Struct("<BBHBBHIIIIQQIIQ")
BITS = (8, 8, 16, 8, 8, 16, 32, 32, 32, 32, 64, 64, 32, 32, 64)
RC_HOST, EPC = 1, 2
IDENTITY = {"bridge": "x", "schema": SCHEMA_VERSION}
NULL = FilePath(os.devnull)


def seal(fields: list[int], payload: bytes) -> bytes:
    """A message with these header fields and the checksum that belongs to them."""
    head = HEAD.pack(*fields)
    digest = xxh3_64_intdigest(payload, xxh3_64_intdigest(head, KEY))
    return head + digest.to_bytes(8, "little") + payload


class Frames(Target):
    """Frames of the path rc-host to epc, in session 9 of incarnation 7, with fields and bodies changed."""

    BODIES: tuple[dict[str, Any], ...] = (
        IDENTITY,
        {"op": "dma_map", "args": {"addr": 0x8000_0000, "size": 4096}},
        {"name": "epoch", "args": {"epoch": 3, "ranges": GRANTS}},
        {"reason": "EINVAL"},
    )

    def message(self, chance: Random, sequence: int) -> bytes:
        """One message; mostly with a right checksum, so that what lies behind it is reached."""
        if chance.random() < 0.3:
            kind = chance.choice((Kind.HELLO, Kind.OPEN, Kind.ACCEPT, Kind.CLOSE, Kind.BEAT))
            body = IDENTITY if kind in {Kind.HELLO, Kind.OPEN} else None
            header, payload = encode_control(
                kind, RC_HOST, EPC, 7, 9, arg=4, sequence=sequence, body=body, key=KEY
            )
        else:
            message: Message = chance.choice(MESSAGES)
            header, view = encode(message, RC_HOST, EPC, 7, 9, sequence, 13, KEY)
            payload = bytes(view)
        choice = chance.random()
        if choice < 0.2:
            return header + payload
        if choice < 0.3:
            return mutate.octets(chance, header + payload)
        fields = list(HEAD.unpack_from(header))
        if choice < 0.6 and fields[1] in {Kind.HELLO, Kind.OPEN, Kind.CALL, Kind.REPLY, Kind.NOTICE}:
            payload = mutate.packed(chance, chance.choice(self.BODIES))
            fields[12] = len(payload)
        else:
            for _ in range(chance.randint(1, 2)):
                at = chance.randrange(1, len(BITS))
                fields[at] = mutate.integer(chance, BITS[at], fields[at])
            if chance.random() < 0.7:
                fields[2] = fields[5] = 0
                payload = payload[: fields[12]]
                fields[12] = len(payload)
        return seal(fields, payload)

    def make(self, chance: Random) -> bytes:
        frame = b"".join(self.message(chance, number) for number in range(chance.choice((1, 1, 2, 5))))
        return mutate.octets(chance, frame) if chance.random() < 0.05 else frame


class Wire(Frames):
    """Frame, header, message: what comes out can be sent again as it came."""

    name, share = "wire decoder", 360

    def read(self, data: bytes) -> None:
        for header_bytes, payload in split(data):
            try:
                header = decode_header(header_bytes, payload, KEY)
                if header.kind < Kind.MEM_WRITE:
                    unpack_body(payload)
                    continue
                message = decode_message(header, payload)
            except WireError:
                continue
            again, _ = encode(
                message, header.src, header.dst, header.incarnation, header.session, header.sequence, 0, KEY
            )
            assert len(again) == HEADER_BYTES


class Session(Frames):
    """One end of a path that is up: no message is applied outside of a session, none twice."""

    name, share = "path", 200

    def __init__(self) -> None:
        hello = encode_control(Kind.HELLO, RC_HOST, EPC, 7, 0, body=IDENTITY, key=KEY)
        self._start = (hello, encode_control(Kind.OPEN, RC_HOST, EPC, 7, 9, arg=4, body=IDENTITY, key=KEY))

    def read(self, data: bytes) -> None:
        path = Path(
            "epc",
            "rc-host",
            initiator=False,
            incarnation=4,
            allocate_session=lambda: 0,
            heartbeat_ns=10**8,
            liveness_ns=10**9,
            identity=IDENTITY,
            key=KEY,
        )
        for frame in self._start:
            path.receive(*frame, 0)
        assert path.state is PathState.UP
        applied = 0
        for header, payload in split(data):
            if path.receive(header, payload, 1) is not None:
                assert path.state is PathState.UP
                applied += 1
        assert applied <= 5
        path.on_deadline(2 * 10**9)
        assert path.snapshot()["state"] == "down"


class WakeRecords(Target):
    """The FIFO of a process: whole records and pieces, from whoever can write to it."""

    name, share = "wake records", 120
    RECORD = Struct("<BBBBIQQ")

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="ntbnet-fuzz-")
        folder = FilePath(self._folder.name)
        self._wakes = wake.Wakes("epc", lambda name: folder / name, self._on_wake, lambda: None)
        self._fd = wake.open_fifo(folder / "epc")

    def close(self) -> None:
        self._wakes.close()
        os.close(self._fd)
        self._folder.cleanup()

    @staticmethod
    def _on_wake(src: str, message: Irq | MemWrite) -> None:
        assert src in {"rc-host", "epc", "edma", "peer-rc", "peer-ep"}
        assert isinstance(message, Irq) or (len(message.data) == 4 and not message.addr & 3)

    def make(self, chance: Random) -> bytes:
        found = b""
        for _ in range(chance.choice((1, 1, 2, 8))):
            source = chance.choice(list(IrqSource))
            message = chance.choice((Irq(source, 1, 3), MemWrite(0xE65D_5000, b"\x01\0\0\0", 3)))
            fields = list(self.RECORD.unpack(wake.encode(chance.choice((1, 4, 5)), message)))
            if chance.random() < 0.8:
                at = chance.randrange(len(fields))
                fields[at] = mutate.integer(chance, (8, 8, 8, 8, 32, 64, 64)[at], fields[at])
            found += self.RECORD.pack(*fields)
        return (mutate.octets(chance, found) if chance.random() < 0.1 else found)[:PIPE_BUF]

    def read(self, data: bytes) -> None:
        if data:
            os.write(self._fd, data)
        self._wakes._drain()
        try:
            rest = os.read(self._fd, 1)
        except BlockingIOError:
            return
        assert not rest, "records were left unread"


ARGS: dict[str, Any] = {"memory": IDENT, "ranges": GRANTS, "doorbells": [[0, 3], [1, 4]]}


class Grants(Target):
    """Grants of direct stores: whatever they say, no store leaves the far memory."""

    name, share = "grants body", 110

    def __init__(self) -> None:
        self._cpu = Cpu()

    def make(self, chance: Random) -> bytes:
        return mutate.packed(chance, ARGS)

    def read(self, data: bytes) -> None:
        cpu = self._cpu
        try:
            args = unpack_body(data)
        except WireError:
            return
        try:
            cpu.bus.grant(args)
        except PeerError:
            assert cpu.bus.snapshot()["grants"] == 0
        for addr in (0, 0x3010_0000, 0x3010_07FC, (1 << 64) - 4):
            cpu.bus.write(addr, b"data")
        cpu.bus.doorbell(3)
        cpu.effects()
        cpu.sleep(10**9)  # nobody answers the read behind the grants
        cpu.enter(cpu.tasks.epoch % 1000 + 1)


class Questions(Target):
    """The socket that ``ntbnet status`` and others ask: an answer to whatever is asked."""

    name, share = "questions", 90
    ASKED = (b"status", b"move_bar 2", b"move_bar 0", b"stopwatch 100", b"stopwatch 0", b"stopwatch 65537")

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="ntbnet-fuzz-")
        where = (f"ipc://{self._folder.name}/in", f"ipc://{self._folder.name}/out")
        path = Path(
            "rc-host",
            "epc",
            initiator=True,
            incarnation=1,
            allocate_session=lambda: 1,
            heartbeat_ns=10**8,
            liveness_ns=10**9,
            identity={},
        )
        log = Logger(NULL.open("w", encoding="utf-8"), "error", {})
        device = RootComplex(config(), dram(RC_DRAM))
        self._driver = Driver(device, {"epc": path}, {"epc": where}, log)

    def close(self) -> None:
        self._driver.close()
        self._folder.cleanup()

    def make(self, chance: Random) -> bytes:
        word = chance.choice(self.ASKED)
        if chance.random() < 0.5:
            word = word.partition(b" ")[0] + b" %d" % mutate.integer(chance, 64, 2)
        elif chance.random() < 0.1:
            word = word.partition(b" ")[0] + b" " + b"9" * 240
        return (mutate.octets(chance, word) if chance.random() < 0.5 else word)[:256]

    def read(self, data: bytes) -> None:
        answer = self._driver._answer(data, self._driver.snapshot)
        assert isinstance(unpack_body(answer), dict)


class Keys(Target):
    """Requests whether a key may get in: the peer's may, and nothing else, not another allowed one either."""

    name, share = "ZAP requests", 40

    def __init__(self) -> None:
        public, secret = zmq.curve_keypair()
        peer = zmq.curve_keypair()[0].decode()
        third = zmq.curve_keypair()[0].decode()
        ring = KeyRing(KeyPair(public.decode(), secret.decode()), {"lab": peer, "third": third}, peer)
        self._third = bytes(zmq.utils.z85.decode(third))
        self._peer = bytes(zmq.utils.z85.decode(peer))
        log = Logger(NULL.open("w", encoding="utf-8"), "error", {})
        self._guard = Guard(ring, ["epc"], 1000, log)

    def make(self, chance: Random) -> bytes:
        request = [
            b"1.0",
            b"1",
            b"epc",
            b"192.0.2.1",
            b"",
            b"CURVE",
            chance.choice((self._peer, self._third)),
        ]
        if chance.random() < 0.9:
            at = chance.randrange(len(request))
            request[at] = mutate.octets(chance, request[at])
        if chance.random() < 0.1:
            request = request[: chance.randrange(9)] + request[: chance.randrange(3)]
        packed: bytes = msgpack.packb(request)
        return packed

    def read(self, data: bytes) -> None:
        request = msgpack.unpackb(data)
        reply = self._guard._judge(request)
        assert len(reply) == 6
        allowed = [b"1.0", b"epc", b"CURVE", self._peer]
        is_allowed = len(request) == 7 and [request[at] for at in (0, 2, 5, 6)] == allowed
        assert (reply[2] == b"200") == is_allowed
        assert len(self._guard.snapshot()["reasons"]) < 100
