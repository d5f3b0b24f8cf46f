"""Targets that read memory which the other host writes to, and files of people."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

from ntbnet import profile
from ntbnet.config import check_text, load_text
from ntbnet.devices.framing import HEAD_BYTES, EthernetFraming, OffloadFraming
from ntbnet.devices.memory import Window
from ntbnet.devices.ring import ring_geometry
from ntbnet.devices.rx_ring import RxRing, RxStop
from ntbnet.errors import ConfigError, KernelError, PeerError
from ntbnet.regs.ntb_ctrl import LAYOUTS, Command
from tests.fuzz import mutate
from tests.fuzz.target import Target
from tests.unit.devices.test_ntb_epf import Board
from tests.unit.devices.test_vntb import Function

ROOT = Path(__file__).resolve().parents[2]
RING_BYTES, FRAME_BYTES = 4096, 512


class RingNtb:
    """The other host's window, of which only rx_info is written."""

    def peer_mw_write(self, widx: int, offset: int, data: Any, what: str) -> None:
        assert (widx, offset, len(data)) == (0, RING_BYTES - 4, 4)


class RingFrames(Target):
    """Frames in the receive ring, with their headers and the first bytes that say what they carry."""

    name, share = "transport frames", 200
    HEADERS = (b"\x02" + bytes(10) + b"\x02\x08\x00", bytes(14))

    def __init__(self) -> None:
        self._geometry = ring_geometry(0, 1, 1, RING_BYTES, FRAME_BYTES)
        self._memory = bytearray(RING_BYTES)
        self._window = Window(memoryview(self._memory), 0x8000_0000, "ring")
        ring_ntb: Any = RingNtb()
        self._ring = RxRing(ring_ntb, self._geometry, self._on_impossible)
        self._ring.attach(self._window, self._geometry)
        mac = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
        self._framings = (EthernetFraming(*mac), OffloadFraming())

    def make(self, chance: Random) -> bytes:
        """Per frame: count of bytes, 12 bytes of header, the first 64 bytes of the payload."""
        found = b""
        for number in range(chance.randint(1, 7)):
            length = mutate.integer(chance, 32, 98) if chance.random() < 0.4 else 98
            version = mutate.integer(chance, 32, number) if chance.random() < 0.1 else number
            flags = mutate.integer(chance, 32, 1) if chance.random() < 0.1 else 1
            framing = chance.choice(self._framings)
            head = bytearray(framing.fronts[4].ljust(HEAD_BYTES, b"\0")) + b"\x45\0\0\x54" + bytes(60)
            payload = mutate.octets(chance, bytes(head)) if chance.random() < 0.8 else bytes(head)
            header = b"".join(word.to_bytes(4, "little") for word in (length, version, flags))
            found += header + payload[:64].ljust(64, b"\0")
        return found

    def read(self, data: bytes) -> None:
        ring = self._ring
        ring.reset()
        ring.clear_headers()
        while ring.take_pending() is not None:
            pass
        for _ in range(8):
            ring.post(FRAME_BYTES)
        for number in range(len(data) // 76):
            frame = data[76 * number : 76 * (number + 1)]
            start = self._geometry.frame_offset(number)
            self._memory[start : start + 64] = frame[12:]
            end = self._geometry.frame_end(number)
            self._memory[end - 12 : end] = frame[:12]
        stop = ring.run(self._deliver)
        assert stop in RxStop

    @staticmethod
    def _on_impossible(length: int, impossible: bool) -> None:
        assert length > FRAME_BYTES - 12 or not impossible

    def _deliver(self, frame: memoryview | None, length: int) -> None:
        if frame is None or length <= 14:
            return
        assert len(frame) == length <= FRAME_BYTES - 12
        for framing in self._framings:
            framing.refusal(bytes(frame[:14]), frame[14:])


class HostCommands(Target):
    """Control block and doorbells as the host writes them; the endpoint's command worker reads them."""

    name, share = "control block, endpoint", 100

    def __init__(self) -> None:
        self._function = Function()
        block = self._function.block
        self._fields = [(block.offset(one.name), one.width_bytes) for one in block.registers]
        self._size = block.size
        self._fresh = self._function.vntb.ctrl.load(0, self._size)

    def make(self, chance: Random) -> bytes:
        found = bytearray(self._fresh)
        command = chance.choice(list(Command)) if chance.random() < 0.9 else mutate.integer(chance, 32)
        at, width = self._fields[0]
        found[at : at + width] = int(command).to_bytes(width, "little")
        for _ in range(chance.randint(1, 6)):
            at, width = chance.choice(self._fields[1:])
            old = int.from_bytes(found[at : at + width], "little")
            found[at : at + width] = mutate.integer(chance, 8 * width, old).to_bytes(width, "little")
        return bytes(found) + chance.randbytes(8)

    def read(self, data: bytes) -> None:
        function = self._function
        function.vntb.ctrl.store("fuzz", 0, data[: self._size])
        function.vntb.doorbells.store("fuzz", 8, data[self._size :])
        function.poll()
        function.poll()
        function.controller.calls.clear()
        function.vntb.reset("next input")
        function.outbox.take()


class FunctionsBlock(Target):
    """Control block as an endpoint shows it; the host's driver probes it and works with what it found."""

    name, share = "control block, host", 8

    def __init__(self) -> None:
        self._blocks = {name: bytes(Board(name).ctrl[: LAYOUTS[name].size]) for name in LAYOUTS}

    def make(self, chance: Random) -> bytes:
        layout = chance.choice(list(self._blocks))
        found = bytearray(self._blocks[layout])
        registers = LAYOUTS[layout].registers
        for _ in range(chance.randint(1, 4)):
            one = chance.choice(registers)
            at, width = LAYOUTS[layout].offset(one.name), one.width_bytes
            old = int.from_bytes(found[at : at + width], "little")
            found[at : at + width] = mutate.integer(chance, 8 * width, old).to_bytes(width, "little")
        return bytes([list(self._blocks).index(layout)]) + bytes(found)

    def read(self, data: bytes) -> None:
        board = Board(list(self._blocks)[data[0]])
        board.ctrl[: len(data) - 1] = data[1:]
        ntb = board.ntb
        try:
            board.do(ntb.probe())
            for widx in range(ntb.peer_mw_count()):
                _, size = ntb.peer_mw_get_addr(widx)
                ntb.peer_mw_write(widx, max(size - 4, 0), bytes(min(size, 4)))
            ntb.peer_db_set(ntb.db_valid_mask())
            board.do(ntb.link_is_up())
            board.do(ntb.spad_read(ntb.spad_count() - 1))
            board.do(ntb.peer_spad_write(0, 0, 1))
        except (PeerError, KernelError):
            pass
        board.pump()
        # whatever the block says, no store leaves the BARs of the function
        assert all(addr >= 0x3000_0000 and addr + len(raw) <= 0x3020_0100 for addr, raw in board.writes)


class Configuration(Target):
    """Configurations and profiles: accepted, or refused in one line that names the file."""

    name, share = "configuration", 12

    def __init__(self) -> None:
        sample = (ROOT / "deploy" / "ntbnet.toml").read_text(encoding="utf-8")
        lines = [line for line in sample.splitlines() if line and not line.startswith("# ")]
        self._sample = "\n".join(lines)
        self._profiles = [profile.shipped(name) for name in profile.SHIPPED]

    def make(self, chance: Random) -> bytes:
        if chance.random() < 0.2:
            return b"P" + mutate.toml(chance, chance.choice(self._profiles)).encode(errors="replace")
        return b"C" + mutate.toml(chance, self._sample).encode(errors="replace")

    def read(self, data: bytes) -> None:
        text = data[1:].decode(errors="replace")
        try:
            if data[:1] == b"P":
                profile.load_profile(text, "fuzz")
            else:
                check_text(text, "fuzz")
                load_text(text, "fuzz")
        except ConfigError as refusal:
            line = str(refusal)
            assert line.startswith("fuzz"), line
            assert "\n" not in line, line
            assert len(line) < 1000, line
