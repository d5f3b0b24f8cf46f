"""Reads the blocks of a pcapng file back: a second witness, written from the format's draft."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field


@dataclass
class Interface:
    link_type: int
    snap_bytes: int
    options: dict[int, bytes]

    @property
    def name(self) -> str:
        return self.options[2].decode()


@dataclass
class Packet:
    interface: int
    wall_ns: int
    data: bytes
    whole_bytes: int
    options: dict[int, bytes]

    @property
    def direction(self) -> int:
        return int.from_bytes(self.options.get(2, b""), "little") & 3

    @property
    def packet_id(self) -> int:
        return int.from_bytes(self.options.get(5, b""), "little")

    @property
    def queue(self) -> int | None:
        return int.from_bytes(self.options[6], "little") if 6 in self.options else None


@dataclass
class Section:
    options: dict[int, bytes] = field(default_factory=dict)
    interfaces: list[Interface] = field(default_factory=list)
    packets: list[Packet] = field(default_factory=list)
    statistics: list[tuple[int, int, dict[int, int]]] = field(default_factory=list)


def read_options(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    at = 0
    while at < len(data):
        code, length = struct.unpack_from("<HH", data, at)
        at += 4
        if code == 0:
            assert length == 0
            assert at == len(data), "options behind the mark of their end"
            return found
        assert code not in found
        found[code] = data[at : at + length]
        assert len(found[code]) == length
        assert not any(data[at + length : at + length + (-length & 3)])
        at += length + (-length & 3)
    assert not data, "options without the mark of their end"
    return found


def read_section(data: bytes) -> Section:
    """The one section of a file; every length and padding is asserted."""
    section = Section()
    at = 0
    while at < len(data):
        kind, length = struct.unpack_from("<II", data, at)
        assert length % 4 == 0
        assert length >= 12
        body = data[at + 8 : at + length - 4]
        assert struct.unpack_from("<I", data, at + length - 4)[0] == length
        if at == 0:
            assert kind == 0x0A0D0D0A
            assert struct.unpack_from("<IHHq", body) == (0x1A2B3C4D, 1, 0, -1)
            section.options = read_options(body[16:])
        elif kind == 1:
            link_type, reserved, snap = struct.unpack_from("<HHI", body)
            assert reserved == 0
            interface = Interface(link_type, snap, read_options(body[8:]))
            assert interface.options[9] == b"\x09"
            section.interfaces.append(interface)
        elif kind == 6:
            number, high, low, kept, whole = struct.unpack_from("<IIIII", body)
            assert number < len(section.interfaces), "packet before its interface"
            end = 20 + kept + (-kept & 3)
            options = read_options(body[end:])
            section.packets.append(Packet(number, high << 32 | low, body[20 : 20 + kept], whole, options))
        elif kind == 5:
            number, high, low = struct.unpack_from("<III", body)
            assert number < len(section.interfaces)
            counts = {
                code: int.from_bytes(value, "little") for code, value in read_options(body[12:]).items()
            }
            section.statistics.append((number, high << 32 | low, counts))
        else:
            raise AssertionError(f"block of type {kind:#x}")
        at += length
    assert at == len(data)
    return section
