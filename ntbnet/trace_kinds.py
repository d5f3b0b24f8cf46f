"""What each kind of record has in its fields, for readers and for documents."""

from __future__ import annotations

from dataclasses import dataclass

from ntbnet.trace_records import Kind, Level


@dataclass(frozen=True, slots=True)
class KindRow:
    """One kind as documented: its level, and which fields it has besides ``mono_ns`` and ``kind``."""

    level: Level
    meaning: str
    fields: dict[str, str]


_ACCESS = {
    "flags": "SENT, DIRECT, TRANSLATED, OUTBOUND, WAKE",
    "source": "the other end; with TRANSLATED the requester",
    "epoch": "",
    "flow": "of the message that carries it",
    "address": "bus or CPU address as the requester gave it",
    "length": "bytes",
}
_TRANSLATED = {
    "translated": "address behind the window",
    "slot": "of the window, 0xFFFF: none",
    "queue": "BAR that the address is in, 0xFFFF: none",
    "amount": "offset in that BAR",
}
_TAG = {"tag": "of the request"}
_DATA = {"data": "first bytes"}
_FRAME = {"epoch": "", "flow": "of the frame", "queue": "", "length": "bytes"}

KINDS: dict[Kind, KindRow] = {
    Kind.START: KindRow(Level.COARSE, "the process began", {"amount": "incarnation", "data": "version"}),
    Kind.STOP: KindRow(Level.COARSE, "the process ends in order", {}),
    Kind.LEVEL: KindRow(Level.COARSE, "the level was switched", {"slot": "the new Level"}),
    Kind.PATH: KindRow(
        Level.COARSE,
        "a path came up or went down",
        {"flags": "UP", "source": "its other end", "address": "session", "data": "reason, text"},
    ),
    Kind.EVENT: KindRow(
        Level.COARSE,
        "an event of the log; a long one in several records, one behind the other",
        {"slot": "which part, from 0", "amount": "parts, 1..4", "data": "event key=value ..., text"},
    ),
    Kind.BEAT: KindRow(
        Level.COARSE,
        "so much happened so far; several times a second",
        {
            "address": "messages received, in the sessions of now",
            "translated": "messages sent, in the sessions of now",
            "flow": "interrupts and stores by wake (no flow)",
            "length": "packets sent to the peer, their low 32 bits",
            "amount": "packets received from it, their low 32 bits",
            "epoch": "",
        },
    ),
    Kind.SLICE: KindRow(
        Level.FULL,
        "a handler ended at mono_ns",
        {
            "slot": "Handler",
            "source": "who it handled",
            "flow": "of what it handled",
            "amount": "ns it took",
            "address": "of AGAIN: interrupt bits, or vector",
            "tag": "of AGAIN: wire.IrqSource",
        },
    ),
    Kind.TUN_READ: KindRow(
        Level.FULL,
        "a packet came from the node's stack",
        {**_FRAME, "data": "begin of the IP packet"},
    ),
    Kind.RING_WRITE: KindRow(
        Level.FULL,
        "its frame is visible in the peer's ring",
        {
            **_FRAME,
            "flags": "DIRECT",
            "address": "where the sender's CPU stored it",
            "slot": "of the frame",
            "amount": "frames in the ring with it",
        },
    ),
    Kind.TRIGGER: KindRow(
        Level.FULL,
        "the peer is told of frames",
        {
            "queue": "",
            "epoch": "",
            "flow": "of the last frame",
            "amount": "frames, of all queues",
            "result": "DROPPED: it looks by itself",
        },
    ),
    Kind.TUN_WRITE: KindRow(
        Level.FULL,
        "a packet went to the node's stack",
        {**_FRAME, "result": "DROPPED: the stack did not take it", "data": "begin of the IP packet"},
    ),
    Kind.RING_FILL: KindRow(
        Level.FULL, "frames in a ring", {"queue": "", "epoch": "", "amount": "frames", "length": "most"}
    ),
    Kind.MEM_WRITE: KindRow(
        Level.FULL, "posted write", {**_ACCESS, **_TRANSLATED, "result": "OK or UR", **_DATA}
    ),
    Kind.MEM_READ: KindRow(
        Level.FULL, "read request", {**_ACCESS, **_TRANSLATED, "result": "OK or UR", **_TAG}
    ),
    Kind.COMPLETION: KindRow(
        Level.FULL, "answer to a request", {**_ACCESS, "address": "", "result": "", **_TAG, **_DATA}
    ),
    Kind.CFG_READ: KindRow(
        Level.FULL, "configuration read", {**_ACCESS, "address": "offset, 0..4095", **_TAG}
    ),
    Kind.CFG_WRITE: KindRow(
        Level.FULL, "configuration write", {**_ACCESS, "address": "offset, 0..4095", **_TAG, **_DATA}
    ),
    Kind.MSI: KindRow(
        Level.FULL,
        "message-signalled interrupt",
        {**_ACCESS, "address": "bus address of the message", "slot": "vector", "data": "message data"},
    ),
    Kind.LINE: KindRow(
        Level.FULL,
        "interrupt lines of the eDMA are high",
        {"flags": "SENT, WAKE", "source": "who is told", "epoch": "", "flow": "", "address": "set of lines"},
    ),
    Kind.IRQ: KindRow(
        Level.FULL,
        "an interrupt on its way to, or at, a CPU",
        {
            "flags": "SENT, WAKE",
            "source": "the other end",
            "epoch": "",
            "flow": "",
            "address": "interrupt bits, or vector",
            "slot": "wire.IrqSource",
        },
    ),
    Kind.REG_READ: KindRow(
        Level.FULL,
        "register read at its owner",
        {
            "source": "requester",
            "epoch": "",
            "flow": "",
            "address": "offset",
            "length": "",
            "slot": "Block",
            **_DATA,
        },
    ),
    Kind.REG_WRITE: KindRow(
        Level.FULL,
        "register write at its owner",
        {
            "source": "requester",
            "epoch": "",
            "flow": "",
            "address": "offset",
            "length": "",
            "slot": "Block",
            **_DATA,
        },
    ),
    Kind.OTHER: KindRow(
        Level.FULL,
        "call, reply or notice between services",
        {
            "flags": "SENT",
            "source": "the other end",
            "epoch": "",
            "flow": "",
            "tag": "",
            "data": "name, text",
        },
    ),
}
